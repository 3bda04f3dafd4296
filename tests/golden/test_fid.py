"""Distances and resizes against clean-fid's own output (generation/fid.json, fid_arrays.npz)."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks import frechet
from benchmarks.judges.inception import Inception
from tests.golden.cases import load_arrays, load_json

#: "same features, float32 mean kept" and, for singular covariances, what rounding leaves of the root.
FULL_RANK, SINGULAR = 1e-8, 1e-6


@pytest.fixture(scope="module")
def cases() -> Mapping[str, Any]:
    found: Mapping[str, Any] = load_json("generation/fid.json")
    return found


@pytest.fixture(scope="module")
def arrays() -> Mapping[str, NDArray[Any]]:
    return load_arrays("generation/fid_arrays.npz")


def test_frechet_distance_of_features(cases: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    for case in cases["features"]:
        a, b = (frechet.moments(arrays[f"{side}{case['k']}"].astype(case["dtype"])) for side in "ab")
        assert (a.mean.dtype.name, a.covariance.dtype.name) == (case["mu_dtype"], case["sigma_dtype"]), case
        tolerance = FULL_RANK if case["full_rank"] else SINGULAR
        assert frechet.frechet_distance(a, b) == pytest.approx(case["fid"], abs=tolerance), case
        assert frechet.frechet_distance(a, a) == pytest.approx(case["fid_self"], abs=tolerance), case


def test_frechet_distance_of_gaussians(cases: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    for case in cases["gaussians"]:
        a, b = (frechet.Moments(arrays[f"g{case['k']}_mu{side}"], arrays[f"g{case['k']}_s{side}"]) for side in (1, 2))
        tolerance = FULL_RANK if case["rank1"] == case["d"] else SINGULAR
        assert frechet.frechet_distance(a, b) == pytest.approx(case["fid"], abs=tolerance), case


def test_kernel_distance(cases: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    for case in cases["kid"]:
        a, b = (arrays[f"k{case['k']}_{side}"].astype(case["dtype"]) for side in "ab")
        found = frechet.kernel_distance(a, b, case["np_random_seed"], case["num_subsets"], case["max_subset_size"])
        # float32 sums in another order (another BLAS) may differ in the last digits.
        assert found == pytest.approx(case["kid"], abs=1e-6 if case["dtype"] == "float32" else 1e-12), case


def test_resizes_are_identical_to_the_bit(
    cases: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], tmp_path: Any
) -> None:
    from cleanfid.resize import build_resizer

    for case in cases["resize"]:
        name = f"r{case['k']}"
        pixels = arrays[f"{name}_img"] if case["image"] == "stored" else _formula(case["image"], case["shape"])
        if case["mode"] == "clean":
            prepared = Inception(tmp_path / "not loaded").prepare(pixels)
            resized = np.ascontiguousarray(prepared.transpose(1, 2, 0))
        else:
            with warnings.catch_warnings():  # its legacy resizer switches all warnings off for good
                resized = build_resizer(case["mode"])(pixels)
        assert hashlib.sha256(np.ascontiguousarray(resized).tobytes()).hexdigest() == case["sha256"], case
        rows = arrays[f"{name}_{case['mode']}_rows"]
        np.testing.assert_array_equal(resized[[0, 1, 149, 298]], rows)


def _formula(text: str, shape: list[int]) -> NDArray[np.uint8]:
    """The image that a case gives as "formula: R=..., G=..., B=..." in x and y."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    channels = [part.split("=")[1] for part in text.removeprefix("formula: ").split(",")]
    values = [eval(channel, {"__builtins__": {}}, {"x": x, "y": y}) for channel in channels]
    return np.stack(values, axis=-1).astype(np.uint8)
