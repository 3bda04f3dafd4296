"""Differences of two runs, margins and corrections: against statsmodels and scipy, and where data say nothing."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests

from reports.bench import outcomes
from reports.statistics import (
    benjamini_hochberg,
    clustered_mcnemar,
    equivalence,
    holm,
    mcnemar,
    non_inferiority,
    odds_ratio,
    paired_difference,
    paired_proportions,
    sign_flip,
)
from reports.statistics.binary import tango_z
from reports.statistics.multiple import adjusted

COUNTS = st.integers(0, 30)
P_VALUES = st.lists(st.integers(0, 1000).map(lambda x: x / 1000), min_size=1, max_size=20)


def clustered_runs(seed: int, groups: int = 60, gain: float = 0.0) -> tuple[list[float], list[float], list[int]]:
    rng = np.random.default_rng(seed)
    first, second = (outcomes(rng, groups, 4, 0.3, mean).ravel() for mean in (0.7 + gain, 0.7))
    return first.tolist(), second.tolist(), np.repeat(np.arange(groups), 4).tolist()


@settings(max_examples=60, deadline=None)
@given(COUNTS, COUNTS)
def test_mcnemar_is_statsmodels_where_that_is_right(first: int, second: int) -> None:
    test = mcnemar(first, second)
    assert test.p == pytest.approx(float(statsmodels_mcnemar([[0, first], [second, 0]], exact=True).pvalue))
    if first + second:
        plain = statsmodels_mcnemar([[0, first], [second, 0]], exact=False, correction=False)
        assert (test.chi2, test.p_chi2) == pytest.approx((float(plain.statistic), float(plain.pvalue)))
    else:
        assert (test.p, test.p_mid, test.p_chi2) == (1, 1, None)
    assert test.p_mid <= test.p


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 9), st.integers(0, 9))
def test_exact_sign_flip_is_exact_mcnemar(first: int, second: int) -> None:
    assume(first + second)
    flip = sign_flip([1.0] * first + [-1.0] * second)
    assert flip.exact
    assert flip.p == pytest.approx(mcnemar(first, second).p)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-6, 6), min_size=2, max_size=9))
def test_sign_flip_is_scipys_permutation_test(sums: list[int]) -> None:
    expected = stats.permutation_test(
        (np.array(sums, float),), np.sum, permutation_type="samples", vectorized=False, n_resamples=np.inf
    )
    # scipy doubles the smaller tail; the null distribution is symmetric, so that both are the same.
    assert sign_flip(sums).p == pytest.approx(min(1.0, float(expected.pvalue)))


def test_monte_carlo_sign_flip_nears_the_exact_distribution() -> None:
    sums = np.random.default_rng(3).choice([-2.0, -1.0, 1.0, 1.0, 3.0], 21)
    drawn = sign_flip(sums, resamples=50_000)
    assert not drawn.exact
    ways = {0.0: 1}  # of all 2^21 patterns, how many have each sum
    for size in sums:
        ways = {
            total: ways.get(total - size, 0) + ways.get(total + size, 0)
            for total in {start + sign * size for start in ways for sign in (-1, 1)}
        }
    exact = sum(count for total, count in ways.items() if abs(total) >= abs(sums.sum())) / 2**21
    assert drawn.p == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 50_000))
    assert sign_flip(sums, resamples=50_000) == drawn
    assert sign_flip([5.0] * 40, resamples=999).p == 1 / 1000


@pytest.mark.parametrize("strata", [None, ["a"] * 120 + ["b"] * 120])
def test_a_run_compared_with_itself(strata: list[str] | None) -> None:
    run, _, groups = clustered_runs(0)
    result = paired_difference(run, run, groups, strata)
    assert result.difference.value == 0
    assert result.p == 1
    assert result.difference.low is None
    assert "equal" in result.difference.note
    bounded = paired_difference(run, run, groups, strata, bounds=(-1, 1)).difference
    z2 = stats.norm.ppf(0.975) ** 2
    assert (bounded.low, bounded.high) == pytest.approx((-z2 / (60 + z2), z2 / (60 + z2)))
    independent = paired_difference(run, run, range(len(run)))
    assert (independent.difference.value, independent.p, independent.test) == (0, 1, "exact McNemar")


def test_sides_swapped_and_items_shuffled() -> None:
    first, second, groups = clustered_runs(1)
    one, other = paired_difference(first, second, groups), paired_difference(second, first, groups)
    assert one.difference.value == pytest.approx(np.mean(first) - np.mean(second))
    assert one.p == pytest.approx(other.p)
    assert one.difference.low == pytest.approx(-float(other.difference.high or 0))
    order = np.random.default_rng(2).permutation(len(first))
    mixed = paired_difference(np.array(first)[order], np.array(second)[order], np.array(groups)[order])
    assert mixed.p == pytest.approx(one.p)
    assert mixed.n_groups == 60


def test_missing_items_leave_both_runs() -> None:
    first, second, groups = clustered_runs(2)
    holes = [math.nan if index % 7 == 0 else value for index, value in enumerate(first)]
    kept = [index for index in range(len(first)) if index % 7]
    result = paired_difference(holes, second, groups)
    expected = paired_difference(np.array(first)[kept], np.array(second)[kept], np.array(groups)[kept])
    assert result.difference == expected.difference
    assert (result.n, result.n_missing) == (len(kept), len(first) - len(kept))
    with pytest.raises(ValueError, match="no item"):
        paired_difference([math.nan], [1.0], ["a"])


def test_the_test_fits_the_data() -> None:
    first, second, groups = clustered_runs(3)
    assert paired_difference(first, second, groups).test == "clustered t"
    assert paired_difference(first, second, range(len(first))).test == "exact McNemar"
    few = paired_difference(first[:40], second[:40], groups[:40])
    assert few.test == "exact sign-flip by group"
    sums = np.bincount(groups[:40], weights=np.subtract(first[:40], second[:40]))
    assert few.p == sign_flip(sums).p


def test_macro_difference_weighs_strata_alike() -> None:
    """One stratum of 200 items without a difference, one of 8 with 0.5: micro 0.5 * 8/208, macro 0.25."""
    second = [0.0] * 208
    first = [0.0] * 200 + [0.5] * 8
    result = paired_difference(first, second, range(208), ["a"] * 200 + ["b"] * 8)
    assert result.difference.value == pytest.approx(0.25)
    assert result.p == pytest.approx(2 / 2**8)
    assert paired_difference(first, second, range(208)).difference.value == pytest.approx(4 / 208)


def test_size_of_the_clustered_test() -> None:
    """Two equal runs: rejected at 5 % in 3.2 to 6.8 % of 800 data sets (three standard errors)."""
    rng = np.random.default_rng(5)
    groups = np.repeat(np.arange(60), 4)
    found = []
    for _ in range(800):
        first, second = (outcomes(rng, 60, 4, 0.3, 0.7).ravel() for _ in range(2))
        found.append(paired_difference(first, second, groups).p)
    assert 0.027 <= np.mean([p is not None and p <= 0.05 for p in found]) <= 0.073


@settings(max_examples=60, deadline=None)
@given(st.tuples(COUNTS, COUNTS, COUNTS, COUNTS).filter(any))
def test_paired_intervals_hold_their_value_and_mirror(cells: tuple[int, int, int, int]) -> None:
    a, b, c, d = cells
    for method in ("tango", "newcombe", "bonett-price"):
        one, other = paired_proportions([[a, b], [c, d]], method), paired_proportions([[a, c], [b, d]], method)
        assert one.low is not None
        assert one.high is not None
        assert -1 <= one.low <= one.value + 1e-9
        assert one.value - 1e-9 <= one.high <= 1
        assert one.low == pytest.approx(-float(other.high or 0), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(COUNTS, COUNTS, st.integers(1, 60))
def test_tango_limits_are_where_the_score_test_rejects(first: int, second: int, both: int) -> None:
    n = first + second + both
    interval = paired_proportions([[both, first], [second, 0]])
    z = stats.norm.ppf(0.975)
    assert tango_z(first, second, n, float(interval.low or 0)) == pytest.approx(z, abs=1e-5)
    assert tango_z(first, second, n, float(interval.high or 0)) == pytest.approx(-z, abs=1e-5)


def test_tango_without_discordant_pairs() -> None:
    z2 = stats.norm.ppf(0.975) ** 2
    interval = paired_proportions([[90, 0], [0, 10]])
    assert (interval.low, interval.high) == pytest.approx((-z2 / (100 + z2), z2 / (100 + z2)))
    wald = paired_proportions([[90, 0], [0, 10]], "wald")
    assert (wald.low, wald.high) == (None, None)
    assert wald.note


def test_coverage_of_tango_for_rare_disagreement() -> None:
    rng = np.random.default_rng(6)
    tables = rng.multinomial(200, [0.7, 0.04, 0.02, 0.24], size=600)
    intervals = [paired_proportions(table.reshape(2, 2)) for table in tables]
    held = np.mean([x.low is not None and x.high is not None and x.low <= 0.02 <= x.high for x in intervals])
    assert 0.92 <= held <= 0.985


def test_odds_ratio_that_does_not_exist() -> None:
    assert odds_ratio(0, 4).value == 0
    unbounded = odds_ratio(8, 1, "clopper-pearson", 0.9999)
    assert unbounded.high is not None
    with pytest.raises(ValueError, match="does not exist"):
        odds_ratio(4, 0)


def test_clustered_mcnemar_of_singletons_is_mcnemar() -> None:
    first, second = np.array([1] * 12 + [0] * 28), np.array([0] * 12 + [1] * 5 + [0] * 23)
    test = clustered_mcnemar(first, second, np.ones(40))
    assert test.durkalski == pytest.approx(mcnemar(12, 5).chi2)
    assert test.obuchowski == pytest.approx(39 / 40 * 49 / 17)
    nobody = clustered_mcnemar([1, 1], [1, 1], [2, 2])
    assert nobody.durkalski is None
    assert nobody.note
    with pytest.raises(ValueError, match="more than its pairs"):
        clustered_mcnemar([2, 0], [0, 0], [1, 1])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 100).map(lambda x: x / 100), min_size=1, max_size=6))
def test_holm_is_the_closed_bonferroni_test(p: list[float]) -> None:
    """A hypothesis falls where Bonferroni's test of every set of hypotheses with it in does (Marcus et al. 1976)."""
    sets = [subset for size in range(1, len(p) + 1) for subset in combinations(range(len(p)), size)]
    expected = [
        max(min(1.0, len(subset) * min(p[one] for one in subset)) for subset in sets if index in subset)
        for index in range(len(p))
    ]
    assert holm(p) == pytest.approx(expected)


@settings(max_examples=60, deadline=None)
@given(P_VALUES)
def test_benjamini_hochberg_is_statsmodels_and_scipys(p: list[float]) -> None:
    assert benjamini_hochberg(p) == pytest.approx(multipletests(p, method="fdr_bh")[1].tolist())
    assert benjamini_hochberg(p) == pytest.approx(stats.false_discovery_control(p).tolist())
    assert all(raw <= corrected <= 1 for raw, corrected in zip(p, holm(p), strict=True))


def test_p_values_must_be_ones() -> None:
    for correct in (holm, benjamini_hochberg):
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            correct([0.5, 1.5])
        with pytest.raises(ValueError, match="finite"):
            correct([math.nan])
    assert adjusted([0.01, 0.04], "bonferroni") == [0.02, 0.08]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-8, 8).map(lambda x: x / 8), min_size=4, max_size=30).filter(lambda x: np.ptp(x) > 0))
def test_margins_are_statsmodels(differences: list[float]) -> None:
    from statsmodels.stats.weightstats import DescrStatsW

    assume(any(value not in (-1, 0, 1) for value in differences))
    second = np.zeros(len(differences))
    result = non_inferiority(differences, second, range(len(second)), 0.1)
    _, expected, _ = DescrStatsW(np.array(differences)).ttest_mean(-0.1, "larger")
    assert result.p == pytest.approx(float(expected), abs=1e-9)
    assert result.difference.low is not None
    assert result.passed == (result.difference.low > -0.1)
    both = DescrStatsW(np.array(differences)).ttost_mean(-0.1, 0.1)[0]
    assert equivalence(differences, second, range(len(second)), 0.1).p == pytest.approx(float(both), abs=1e-9)


def test_margin_and_interval_decide_alike_without_spread() -> None:
    """All equal: p falls below alpha just where the limit passes the margin, -z^2/(G + z^2)."""
    run, _, groups = clustered_runs(4)
    z2 = stats.norm.ppf(0.95) ** 2
    edge = z2 / (60 + z2)
    above = non_inferiority(run, run, groups, edge * 1.001, bounds=(-1, 1))
    below = non_inferiority(run, run, groups, edge * 0.999, bounds=(-1, 1))
    assert (above.passed, below.passed) == (True, False)
    assert above.p == pytest.approx(0.05, abs=1e-3)
    assert equivalence(run, run, groups, edge * 1.001, bounds=(-1, 1)).passed
    independent = non_inferiority([1.0] * 60, [1.0] * 60, range(60), edge * 1.001)
    assert independent.p == pytest.approx(above.p)


def test_a_margin_test_that_cannot_tell() -> None:
    run, _, groups = clustered_runs(4)
    unknown = non_inferiority(run, run, groups, 0.02)
    assert (unknown.p, unknown.passed) == (None, None)
    assert unknown.difference.note
    single = non_inferiority([0.5, 0.6], [0.5, 0.5], ["a", "a"], 0.02)
    assert (single.p, single.passed) == (None, None)
    assert "one group" in single.difference.note
    lost = non_inferiority([0.25] * 30, [0.75] * 30, range(30), 0.1, bounds=(-1, 1))
    assert (lost.p, lost.passed) == (1.0, False)


def test_margin_bounds() -> None:
    with pytest.raises(ValueError, match="positive"):
        non_inferiority([1.0], [1.0], ["a"], 0)
    with pytest.raises(ValueError, match="twice alpha"):
        non_inferiority([1.0, 0.5], [1.0, 0.0], ["a", "b"], 0.1, alpha=0.5)


def test_non_inferiority_finds_a_loss_and_passes_a_gain() -> None:
    worse = non_inferiority(*clustered_runs(5, 500, -0.08), margin=0.02)
    better = non_inferiority(*clustered_runs(5, 500, 0.05), margin=0.02)
    assert (worse.passed, better.passed) == (False, True)


def test_a_total_loss_without_spread_passes_nothing() -> None:
    """All answers wrong that the baseline has right: the least difference that is possible."""
    worst, best, pairs = np.zeros(40), np.ones(40), np.repeat(range(20), 2)
    lost = non_inferiority(worst, best, pairs, 0.02, bounds=(-1, 1))
    assert (lost.p, lost.passed) == (1.0, False)
    assert equivalence(worst, best, pairs, 0.02, bounds=(-1, 1)).passed is False
    won = non_inferiority(best, worst, pairs, 0.02, bounds=(-1, 1))
    assert won.passed is True
    # A margin as wide as the scale: nothing that is possible is worse by more.
    assert non_inferiority(worst, best, pairs, 1.5, bounds=(-1, 1)).p == 0.0
