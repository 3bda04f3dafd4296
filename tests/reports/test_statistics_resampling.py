"""Bootstrap and jackknife, power, sequential tests, distances of features: scipy, closed forms, simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from reports.bench import votes
from reports.statistics import (
    cluster_bootstrap,
    clustered_mean,
    jackknife,
    minimal_detectable_effect,
    needed_n,
    ratio,
    standard_error,
)
from reports.statistics.estimate import Floats
from reports.statistics.frechet import disjoint_splits, fid, fid_infinity, frechet_distance, kid, split_mean
from reports.statistics.power import (
    margin_standard_error,
    paired_binary_standard_error,
    questions_needed,
    sign_test_n,
    sign_test_power,
    t_test_n,
    t_test_power,
)
from reports.statistics.proportions import binomial_p
from reports.statistics.sequential import (
    always_valid_p,
    best_rho,
    log_e_value,
    msprt,
    normal_mixture_bound,
    normal_mixture_log_e,
    win_rate_sequence,
)


def clustered(seed: int = 0, groups: int = 80) -> tuple[Floats, list[int]]:
    values = votes(np.random.default_rng(seed), groups, 3, 0.3).ravel()
    return np.stack([values, np.ones_like(values)], axis=1), np.repeat(np.arange(groups), 3).tolist()


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_bootstrap_is_scipys_on_group_means(method: str) -> None:
    """Groups of equal size: resampling their means is the same. Limits agree within the noise of 20,000 resamples."""
    columns, groups = clustered()
    mine = cluster_bootstrap(ratio, columns, groups, method=method, resamples=20_000)  # type: ignore[arg-type]
    means = columns[:, 0].reshape(-1, 3).mean(axis=1)
    name = {"percentile": "percentile", "bca": "BCa"}[method]
    rng = np.random.default_rng(1)
    theirs = stats.bootstrap((means,), np.mean, n_resamples=20_000, method=name, rng=rng).confidence_interval
    assert (mine.low, mine.high) == pytest.approx((theirs.low, theirs.high), abs=0.006)


def test_drawing_kinds_of_groups_is_drawing_groups() -> None:
    """Few kinds of group sums take the multinomial way, distinct sums the other: both have the CR0 standard error."""
    columns, groups = clustered(1, 400)
    jittered = columns + np.array([1e-6, 0]) * np.random.default_rng(0).normal(size=(len(columns), 1))
    one, other = (cluster_bootstrap(ratio, data, groups, resamples=20_000) for data in (columns, jittered))
    assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=0.005)
    se = standard_error(columns[:, 0], groups, "cr0")
    for estimate in (one, other):
        assert (float(estimate.high or 0) - float(estimate.low or 0)) / (2 * 1.96) == pytest.approx(se, rel=0.03)


def test_bootstrap_repeats_by_its_seed() -> None:
    columns, groups = clustered()
    first = cluster_bootstrap(ratio, columns, groups, resamples=500, seed=3)
    assert first == cluster_bootstrap(ratio, columns, groups, resamples=500, seed=3)
    assert first != cluster_bootstrap(ratio, columns, groups, resamples=500, seed=4)


def test_bootstrap_of_degenerate_data() -> None:
    flat = cluster_bootstrap(ratio, np.ones((8, 2)), range(8), method="bca", resamples=50)
    assert (flat.value, flat.low, flat.high) == (1, 1, 1)
    assert "no width" in flat.note
    with pytest.raises(ValueError, match="two groups"):
        cluster_bootstrap(ratio, np.ones((3, 2)), ["a", "a", "a"])
    with pytest.raises(ValueError, match="finite"):
        cluster_bootstrap(ratio, [[1.0, math.nan]], ["a"])
    with pytest.raises(ValueError, match="too few groups"), np.errstate(all="ignore"):
        cluster_bootstrap(ratio, [[1.0, 1.0], [1.0, 0.0], [1.0, 0.0]], range(3))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-9, 9), min_size=3, max_size=20).filter(lambda x: len(set(x)) > 1))
def test_jackknife_of_the_mean_is_the_textbook_error(values: list[int]) -> None:
    columns = np.stack([np.array(values, float), np.ones(len(values))], axis=1)
    found = jackknife(ratio, columns, range(len(values)))
    assert found.se == pytest.approx(standard_error(values))
    skewness = np.sum((np.array(values) - np.mean(values)) ** 3) / (6 * (np.var(values) * len(values)) ** 1.5)
    assert found.acceleration == pytest.approx(float(skewness), abs=1e-9)


def test_minimal_detectable_effect_is_found_with_the_power_it_promises() -> None:
    rng = np.random.default_rng(2)
    groups, size, icc = 150, 4, 0.3
    label = np.repeat(np.arange(groups), size)
    pilot = standard_error(votes(rng, 3000, size, icc).ravel(), np.repeat(np.arange(3000), size))
    effect = minimal_detectable_effect(pilot * math.sqrt(3000 / groups))
    found = 0
    for _ in range(500):
        shifted = clustered_mean(votes(rng, groups, size, icc).ravel() - 0.05 + effect, label)
        found += shifted.low is not None and shifted.low > 0
    assert found / 500 == pytest.approx(0.8, abs=0.06)
    assert needed_n(effect, pilot * math.sqrt(3000 / groups), groups) == groups
    assert needed_n(effect / 2, pilot * math.sqrt(3000 / groups), groups) == 4 * groups


def test_published_sizes_of_studies() -> None:
    """Net margin of 5 points: 2,920 judgments with 7 % ties, 4,672 at a design effect of 1.6. GenEval's 553 prompts and
    20 % of them decided differently: 5.3 points."""
    for n, deff in ((2920, 1.0), (4672, 1.6)):
        assert minimal_detectable_effect(margin_standard_error(n, 0.07, deff)) == pytest.approx(0.05, rel=1e-3)
    assert minimal_detectable_effect(paired_binary_standard_error(553, 0.2)) == pytest.approx(0.053, abs=5e-4)
    assert minimal_detectable_effect(1.0, sides=1) < minimal_detectable_effect(1.0)
    assert questions_needed(0.03, 1 / 9) == pytest.approx(969, abs=0.5)


@settings(max_examples=8, deadline=None)
@given(st.integers(6, 60), st.integers(50, 90))
def test_power_of_the_sign_test_by_enumeration(n: int, percent: int) -> None:
    rate = percent / 100
    found = sign_test_power(n, rate)
    rejected = [wins for wins in range(n + 1) if binomial_p(wins, n) <= 0.05]
    assert found.critical_wins == min(wins for wins in rejected if 2 * wins > n)
    assert found.power == pytest.approx(float(stats.binom.pmf(rejected, n, rate).sum()))


def test_power_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="no result of 5"):
        sign_test_power(5, 0.9)
    with pytest.raises(ValueError, match=r"0\.5"):
        sign_test_n(0.5)
    with pytest.raises(ValueError, match="no power"):
        minimal_detectable_effect(0.0)
    with pytest.raises(ValueError, match="effect other than 0"):
        needed_n(0.0, 0.1, 10)
    with pytest.raises(ValueError, match="tie rate"):
        margin_standard_error(100, 1.0)
    assert t_test_power(0.5, math.ceil(t_test_n(0.5))) >= 0.8


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 40), st.integers(0, 40))
def test_e_value_is_a_likelihood_ratio(wins: int, losses: int) -> None:
    """With a uniform mixture the marginal probability of a sequence is 1 / ((n+1) C(n, w))."""
    n = wins + losses
    expected = n * math.log(2) - math.log(n + 1) - math.log(math.comb(n, wins))
    assert log_e_value(wins, losses) == pytest.approx(expected, abs=1e-9)
    assert log_e_value(wins, losses) == pytest.approx(log_e_value(losses, wins), abs=1e-9)


def test_always_valid_p_only_falls_and_rarely_errs() -> None:
    rng = np.random.default_rng(11)
    fair = rng.integers(0, 2, (400, 200))
    ends = [always_valid_p(game)[-1] for game in fair]
    assert np.mean(np.array(ends) <= 0.05) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)
    falling = always_valid_p(rng.random(300) < 0.7)
    assert all(later <= before for before, later in itertools.pairwise(falling))
    assert falling[-1] < 0.001
    with pytest.raises(ValueError, match="ties"):
        always_valid_p([1, 0.5])


def test_anytime_interval_is_where_the_e_value_rejects() -> None:
    interval = win_rate_sequence(60, 40)
    for limit in (interval.low, interval.high):
        assert log_e_value(60, 40, rate=float(limit or 0)) == pytest.approx(math.log(20), abs=1e-6)
    assert win_rate_sequence(5, 0).high == 1
    assert win_rate_sequence(0, 5).low == 0
    with pytest.raises(ValueError, match="0 trials"):
        win_rate_sequence(0, 0)


def test_msprt_and_normal_mixture_are_one_test() -> None:
    """rho = sigma^4 / tau^2, Howard et al. (2021)."""
    log = normal_mixture_log_e(0.08 * 3000, 3000 * 0.93, 0.93**2 / 0.01)
    assert math.log(msprt(0.08, 3000, 0.93, 0.01)) == pytest.approx(log)
    bound = normal_mixture_bound(100, 20)
    assert normal_mixture_log_e(bound, 100, 20) == pytest.approx(math.log(20))
    best = best_rho(100)
    assert all(normal_mixture_bound(100, best) <= normal_mixture_bound(100, best * f) + 0.01 for f in (0.8, 1.25))
    with pytest.raises(ValueError, match="positive"):
        best_rho(0)


def features(seed: int, n: int, shift: float = 0.0) -> Floats:
    rng = np.random.default_rng(seed)
    return np.asarray(rng.normal(size=(n, 8)) @ np.diag(np.linspace(0.5, 2, 8)) + shift)


def test_frechet_distance_is_scipys_square_root() -> None:
    from scipy import linalg

    one, other = np.cov(features(0, 50), rowvar=False), np.cov(features(1, 40) @ np.tri(8), rowvar=False)
    root = linalg.sqrtm(one @ other)
    expected = float(np.trace(one + other - 2 * np.real(root)))
    assert frechet_distance(np.zeros(8), one, np.zeros(8), other) == pytest.approx(expected)
    assert frechet_distance(np.zeros(8), one, np.ones(8), one) == pytest.approx(8)
    singular = np.diag([1.0, 0, 0])
    assert frechet_distance(np.zeros(3), singular, np.zeros(3), 4 * singular) == pytest.approx(1)


def test_bad_features_are_refused() -> None:
    with pytest.raises(ValueError, match="positive semi-definite"):
        frechet_distance([0, 0], np.diag([1, -1]), [0, 0], np.eye(2))
    with pytest.raises(ValueError, match="symmetric"):
        frechet_distance([0, 0], [[1.0, 0.5], [0.0, 1.0]], [0, 0], np.eye(2))
    with pytest.raises(ValueError, match="2 x 2"):
        frechet_distance([0, 0], np.eye(3), [0, 0], np.eye(3))
    with pytest.raises(ValueError, match="finite"):
        kid([[1.0, math.nan], [0.0, 1.0]], np.eye(2))
    with pytest.raises(ValueError, match="two splits"):
        disjoint_splits(10, 6)


def test_kid_of_disjoint_splits_is_unbiased_and_fid_is_not() -> None:
    one, other = features(3, 2000), features(4, 2000, 0.1)
    whole_kid, whole_fid = kid(one, other), fid(one, other)
    splits = disjoint_splits(2000, 20)
    assert sorted(index for split in splits for index in split) == list(range(2000))
    kids = split_mean([kid(one[split], other[split]) for split in splits])
    assert kids.low is not None
    assert kids.low <= whole_kid <= float(kids.high or 0)
    fids = split_mean([fid(one[split], other[split]) for split in splits])
    assert fids.low is not None
    assert fids.low > whole_fid
    sizes = [100, 200, 400, 800, 1600]
    distances = [fid(one[:n], other[:n]) for n in sizes]
    extrapolated = fid_infinity(sizes, distances)
    assert extrapolated.intercept.value < whole_fid
    assert extrapolated.slope > 0


def test_uncertainty_that_does_not_exist() -> None:
    single, equal = split_mean([3.0]), split_mean([3.0, 3.0])
    assert (single.low, equal.low) == (None, None)
    assert single.note
    assert equal.note
    with pytest.raises(ValueError, match="three positive sizes"):
        fid_infinity([100, 200], [3.0, 2.0])


def test_statistics_need_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, reports.bench; print(sorted({'torch', 'scipy', 'statsmodels', 'pandas'} & set(sys.modules)))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
