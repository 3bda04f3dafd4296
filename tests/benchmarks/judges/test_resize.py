"""Our resize beside clean-fid's own, which lets Pillow do it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from cleanfid.resize import build_resizer
from numpy.typing import NDArray

from benchmarks.judges.resize import SIDE, resize

#: Height and width: smaller, larger, as wanted, longer on one side, one pixel, MJHQ-30K's, and a tall one.
SIZES = [
    (64, 64),
    (600, 800),
    (SIDE, SIDE),
    (SIDE, SIDE + 1),
    (37, 1500),
    (1500, 37),
    (1, 700),
    (1, 1),
    (1024, 1024),
    (708, 500),
]


def noise(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def extremes(height: int, width: int) -> NDArray[np.uint8]:
    """Black and white by chance: the filter leaves 0 ... 255 on both sides and is clipped."""
    return (noise(height, width) // 128 * 255).astype(np.uint8)


@pytest.mark.parametrize("draw", [noise, extremes])
@pytest.mark.parametrize("size", SIZES)
def test_resize_is_clean_fids_to_the_bit(size: tuple[int, int], draw: Callable[[int, int], NDArray[np.uint8]]) -> None:
    pixels = draw(*size)
    theirs = np.ascontiguousarray(build_resizer("clean")(pixels).transpose(2, 0, 1))
    ours = resize(pixels)
    assert ours.shape == (3, SIDE, SIDE)
    assert ours.dtype == np.float32
    # As integers, which tell 0 from -0.
    np.testing.assert_array_equal(ours.view(np.uint32), theirs.view(np.uint32))


def test_resized_pixels_stay_within_a_bytes_range() -> None:
    resized = resize(extremes(600, 800))
    assert (resized.min(), resized.max()) == (0, 255)
    assert np.any(resized != resized.round())


def test_one_color_stays_as_it_is() -> None:
    """The weights of a pixel add up to one, to float32's precision."""
    color = np.array([0, 128, 255], np.uint8)
    resized = resize(np.broadcast_to(color, (1024, 777, 3)))
    np.testing.assert_allclose(resized, np.broadcast_to(color[:, None, None], resized.shape), rtol=1e-6)
