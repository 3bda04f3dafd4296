"""Random numbers that stay with their example, and pixels as the published model takes them."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize, ToTensor

from model.data import Draws, pixels


def test_draws_depend_on_seed_and_index_alone() -> None:
    together = Draws(3, [10, 11, 12])
    alone = Draws(3, np.arange(11, 12).tolist())
    for _ in range(2):
        normal, uniform = together.normal((4, 5)), together.uniform()
        assert (normal.shape, uniform.shape) == ((3, 4, 5), (3,))
        assert torch.equal(alone.normal((4, 5)), normal[1:2])
        assert torch.equal(alone.uniform(), uniform[1:2])
    # neighbours in seed and index, and the same digits split otherwise
    many = [Draws(seed, [index]).normal((8,)) for seed, index in ((1, 12), (11, 2), (1, 13), (2, 12), (2, 11))]
    assert len({tuple(draw.flatten().tolist()) for draw in many}) == 5


def test_draws_follow_their_distributions_across_examples() -> None:
    draws = Draws(0, range(4000))
    normal, uniform = draws.normal(()), draws.uniform()
    assert abs(normal.mean()) < 0.06  # 4 standard errors: 4 / sqrt(4000)
    assert abs(normal.std() - 1) < 0.05
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert torch.histc(uniform, bins=10, min=0, max=1).min() > 320  # 400 expected, 4 standard errors


@pytest.mark.parametrize(
    "size", [(448, 448), (47, 48), (448, 449), (449, 448), (31, 100), (101, 33), (640, 427), (33, 97), (50, 448)]
)
def test_pixels_equal_torchvision(size: tuple[int, int]) -> None:
    """The published model's preprocessing, down to the rounding of the long side and of the crop."""
    rng = np.random.default_rng(1)
    image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    for side in (48, 65):
        steps = [Resize(side, InterpolationMode.BICUBIC), CenterCrop(side), ToTensor()]
        assert torch.equal(pixels([image], side)[0], Compose(steps)(image))
