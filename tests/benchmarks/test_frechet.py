"""Distances between sets of features: closed forms, clean-fid's own functions, and errors that hold in simulation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks import frechet
from benchmarks.frechet import Moments


def gaussian(mean: Sequence[float], deviations: Sequence[float]) -> Moments:
    """Independent features."""
    return Moments(np.array(mean, dtype=np.float64), np.diag(np.square(deviations)).astype(np.float64))


def drawn(count: int, seed: int, mean: float = 0.0, deviation: float = 1.0, dimension: int = 8) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(mean, deviation, (count, dimension))


def test_distance_of_independent_features_has_a_closed_form() -> None:
    """(m - m')^2 + (s - s')^2 for each feature."""
    found = frechet.frechet_distance(gaussian([0, 1], [1, 2]), gaussian([3, 1], [4, 2.5]))
    assert found == pytest.approx(9 + 9 + 0.25)


def test_distance_between_rotated_gaussians() -> None:
    """Two planes' ellipses at a right angle: tr S + tr S' - 2 tr (S S')^(1/2) = 2 (1 + 9) - 2 * 2 * 3."""
    assert frechet.frechet_distance(gaussian([0, 0], [1, 3]), gaussian([0, 0], [3, 1])) == pytest.approx(8)
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    turned = [
        Moments(g.mean, turn @ g.covariance @ turn.T) for g in (gaussian([0, 0], [1, 3]), gaussian([0, 0], [3, 1]))
    ]
    assert frechet.frechet_distance(*turned) == pytest.approx(8)


def test_one_feature() -> None:
    a, b = frechet.moments(np.array([[0.0], [2.0]])), frechet.moments(np.array([[1.0], [1.0]]))
    assert frechet.frechet_distance(a, b) == pytest.approx(2)  # variance 2 against none, equal means


def test_singular_covariances() -> None:
    a, b = gaussian([0, 0], [1, 0]), gaussian([0, 0], [2, 3])
    assert not frechet.is_positive_definite(a.covariance)
    assert frechet.frechet_distance(a, b) == pytest.approx(1 + 9)
    assert frechet.frechet_distance(b, a) == pytest.approx(1 + 9)
    assert frechet.frechet_distance(a, a) == pytest.approx(0)


def test_too_few_images_are_singular_whatever_rounding_says() -> None:
    """n images span n - 1 dimensions."""
    for seed in range(50):
        assert not frechet.is_positive_definite(frechet.moments(drawn(8, seed)).covariance)
        assert frechet.is_positive_definite(frechet.moments(drawn(10, seed)).covariance)


def test_mean_of_float32_features_stays_float32() -> None:
    features = drawn(50, 0, mean=100).astype(np.float32)
    found = frechet.moments(features)
    assert (found.mean.dtype.name, found.covariance.dtype.name) == ("float32", "float64")
    np.testing.assert_array_equal(found.mean, features.mean(axis=0))


def test_error_is_the_spread_of_the_distance_over_samples() -> None:
    reference = gaussian([0] * 8, [1] * 8)
    samples = [drawn(400, seed, mean=0.3, deviation=1.2) for seed in range(200)]
    spread = np.std([frechet.frechet_distance(frechet.moments(sample), reference) for sample in samples], ddof=1)
    errors = [frechet.frechet_error(sample, reference) for sample in samples]
    # 200 samples give the spread to 5 %.
    assert np.mean([error for error in errors if error is not None]) == pytest.approx(spread, rel=0.15)


def test_what_lies_between_categories_is_no_error() -> None:
    strata = np.repeat([0, 1], 200)
    features = drawn(400, 0) + 10 * strata[:, None]
    reference = frechet.moments(drawn(400, 1) + 10 * strata[:, None])
    ignoring, within = frechet.frechet_error(features, reference), frechet.frechet_error(features, reference, strata)
    assert ignoring is not None
    assert within is not None
    assert within < ignoring
    single = np.array([0] * 399 + [1])
    assert frechet.frechet_error(features, reference, single) == pytest.approx(ignoring)


def test_error_in_blocks_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    features, reference = drawn(100, 0), frechet.moments(drawn(100, 1))
    whole = frechet.frechet_error(features, reference)
    monkeypatch.setattr(frechet, "_ROWS", 7)
    assert frechet.frechet_error(features, reference) == pytest.approx(whole, rel=1e-12)


def test_no_error_for_images_all_alike() -> None:
    alike = np.ones((50, 8))
    reference = frechet.moments(drawn(100, 1))
    assert frechet.frechet_error(alike, reference) is None
    assert frechet.frechet_error(drawn(100, 0), frechet.moments(alike)) is None


def test_limit_takes_away_the_bias_of_few_images() -> None:
    """The true distance is 0: the sample is of the reference's own distribution."""
    reference = gaussian([0] * 8, [1] * 8)
    values, limits = [], []
    for seed in range(20):
        features = drawn(200, seed)
        values.append(frechet.frechet_distance(frechet.moments(features), reference))
        limit = frechet.frechet_limit(features, reference, 0, frechet.frechet_error(features, reference))
        assert limit is not None
        assert limit.error is not None
        limits.append(limit.value)
    assert np.mean(values) > 0.05
    assert abs(np.mean(limits)) < 0.01


def test_limit_depends_on_its_seed_alone() -> None:
    features, reference = drawn(200, 0), gaussian([0] * 8, [1] * 8)
    first = frechet.frechet_limit(features, reference, 1, 0.1)
    assert frechet.frechet_limit(features, reference, 1, 0.1) == first
    assert frechet.frechet_limit(features, reference, 2, 0.1) != first
    assert first is not None
    assert first.error is not None
    assert first.error >= 0.1


def test_no_limit_where_subsets_would_be_singular() -> None:
    reference = gaussian([0] * 8, [1] * 8)
    assert frechet.frechet_limit(drawn(10, 0), reference, 0, None) is None
    found = frechet.frechet_limit(drawn(11, 0), reference, 0, None)
    assert found is not None
    assert found.error is None


def test_kernel_distance_of_whole_sets() -> None:
    """Subsets as large as the sets are the sets: the unbiased squared MMD under (x y / d + 1)^3, pair by pair."""
    a, b = drawn(5, 0, mean=0.3), drawn(5, 1)

    def mean_kernel(x: NDArray[np.float64], y: NDArray[np.float64], distinct: bool) -> float:
        values = [
            (row @ other / 8 + 1) ** 3
            for i, row in enumerate(x)
            for j, other in enumerate(y)
            if not (distinct and i == j)
        ]
        return float(np.mean(values))

    expected = mean_kernel(a, a, True) + mean_kernel(b, b, True) - 2 * mean_kernel(a, b, False)
    assert frechet.kernel_distance(a, b, seed=0, subsets=3) == pytest.approx(expected)


def test_kernel_distance_depends_on_its_seed_alone() -> None:
    a, b = drawn(50, 0), drawn(40, 1)
    first = frechet.kernel_distance(a, b, seed=0, subset_size=10)
    np.random.seed(5)
    assert frechet.kernel_distance(a, b, seed=0, subset_size=10) == first
    assert frechet.kernel_distance(a, b, seed=1, subset_size=10) != first


def test_kernel_error_is_no_less_than_the_spread() -> None:
    pairs = [(drawn(200, seed, mean=0.3), drawn(200, 1000 + seed)) for seed in range(60)]
    spread = np.std([frechet.kernel_distance(a, b, 0, subsets=10, subset_size=200) for a, b in pairs], ddof=1)
    errors = [frechet.kernel_error(a, b) for a, b in pairs]
    ratio = np.mean([error for error in errors if error is not None]) / spread
    assert 0.9 < ratio < 2.5


def test_kernel_error_needs_twenty_rows() -> None:
    assert frechet.kernel_error(drawn(19, 0), drawn(50, 1)) is None
    assert frechet.kernel_error(drawn(20, 0), drawn(50, 1)) is not None
