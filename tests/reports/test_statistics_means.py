"""Standard errors and intervals of clustered and stratified means: closed forms, statsmodels, coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from reports.bench import holds, outcomes, votes
from reports.statistics import (
    Estimate,
    clustered_mean,
    intraclass_correlation,
    proportion_interval,
    standard_error,
    stratified_mean,
    two_way_standard_error,
)
from reports.statistics.means import spread, t_test
from reports.statistics.scores import all_right, pair_marks

#: Values with their groups, two groups at least.
CLUSTERED = st.lists(
    st.tuples(st.integers(-20, 20).map(lambda x: x / 4), st.integers(0, 5)), min_size=3, max_size=40
).filter(lambda rows: len({group for _, group in rows}) > 1)


def approx(estimate: Estimate) -> tuple[float, float | None, float | None]:
    return estimate.value, estimate.low, estimate.high


@settings(max_examples=60, deadline=None)
@given(CLUSTERED)
def test_cr1_is_statsmodels_cluster_covariance(rows: list[tuple[float, int]]) -> None:
    import statsmodels.api as sm

    values, groups = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    fit = sm.OLS(values, np.ones(len(values))).fit(cov_type="cluster", cov_kwds={"groups": groups})
    # statsmodels multiplies by (n - 1) / (n - k) too, which is 1 for a constant.
    assert standard_error(values, groups.tolist()) == pytest.approx(float(fit.bse[0]), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=2, max_size=30).filter(lambda x: np.ptp(x) > 1e-3))
def test_groups_of_one_give_students_interval(values: list[float]) -> None:
    estimate = clustered_mean(values, range(len(values)))
    expected = stats.ttest_1samp(values, 0).confidence_interval()
    assert approx(estimate) == pytest.approx((np.mean(values), expected.low, expected.high), abs=1e-9)
    test = t_test(values)
    assert test.p == pytest.approx(float(stats.ttest_1samp(values, 0).pvalue), abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(CLUSTERED)
def test_one_stratum_is_no_stratum_and_names_do_not_matter(rows: list[tuple[float, int]]) -> None:
    values, groups = [row[0] for row in rows], [row[1] for row in rows]
    assert approx(stratified_mean(values, groups, ["all"] * len(rows))) == approx(clustered_mean(values, groups))
    bounded = clustered_mean(values, groups, bounds=(-5, 5))
    renamed = clustered_mean(values, [f"image {9 - group}" for group in groups], bounds=(-5, 5))
    assert approx(renamed) == pytest.approx(approx(bounded), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(CLUSTERED, st.sampled_from([0.8, 0.95, 0.99]))
def test_limits_within_bounds_are_where_the_score_statistic_is_students_quantile(
    rows: list[tuple[float, int]], confidence: float
) -> None:
    values, groups = np.array([row[0] for row in rows]), [row[1] for row in rows]
    found = clustered_mean(values, groups, confidence, bounds=(-5, 5))
    assert found.low is not None
    assert found.high is not None
    assert -5 <= found.low <= found.value <= found.high <= 5
    plain = spread(values, groups)
    if not plain.se:  # equal values: another rule
        return
    quantile = stats.t.ppf((1 + confidence) / 2, plain.df)
    for limit in (found.low, found.high):
        variance = plain.se**2 * (limit + 5) * (5 - limit) / ((found.value + 5) * (5 - found.value))
        assert abs(found.value - limit) == pytest.approx(quantile * math.sqrt(variance), rel=1e-6, abs=1e-9)


def test_independent_outcomes_within_bounds_give_wilsons_interval() -> None:
    """Of n - 1 outcomes, since the variance of 148 is estimated, and with t[147] in place of z."""
    found = clustered_mean([1.0] * 15 + [0.0] * 133, range(148), bounds=(0, 1))
    alpha = 2 * stats.norm.sf(stats.t.ppf(0.975, 147))
    assert (found.low, found.high) == pytest.approx(proportion_confint(147 * 15 / 148, 147, alpha, "wilson"), abs=1e-12)
    scaled = clustered_mean([3.0] * 15 + [1.0] * 133, range(148), bounds=(1, 3))
    assert approx(scaled) == pytest.approx(tuple(1 + 2 * limit for limit in approx(found) if limit is not None))


def test_macro_average_by_hand() -> None:
    """Two strata of three independent values: variances 1/3 and 1/12 of the mean, each weighing 1/4."""
    values, strata = [0.0, 1.0, 2.0, 5.0, 5.5, 6.0], ["a"] * 3 + ["b"] * 3
    found = spread(np.array(values), range(6), strata)
    assert found.mean == pytest.approx(3.25)
    assert found.se == pytest.approx(math.sqrt((1 / 3 + 1 / 12) / 4))
    welch = (1 / 3 + 1 / 12) ** 2 / ((1 / 3) ** 2 / 2 + (1 / 12) ** 2 / 2)
    assert found.df == pytest.approx(welch)
    weighted = spread(np.array(values), range(6), strata, {"a": 3, "b": 1})
    assert weighted.mean == pytest.approx(0.75 * 1 + 0.25 * 5.5)
    assert weighted.se == pytest.approx(math.sqrt(9 / 16 / 3 + 1 / 16 / 12))


def test_what_lies_between_strata_is_no_error() -> None:
    values, strata = [0.1, 0.2, 0.9, 1.0], ["a", "a", "b", "b"]
    narrow, wide = stratified_mean(values, range(4), strata), clustered_mean(values, range(4))
    assert narrow.value == wide.value
    assert narrow.low is not None
    assert wide.low is not None
    assert narrow.low > wide.low


@pytest.mark.parametrize("groups", [10, 400])
def test_equal_values_at_a_bound_give_wilsons_interval(groups: int) -> None:
    for value in (0.0, 1.0):
        estimate = clustered_mean([value] * groups * 4, np.repeat(np.arange(groups), 4), bounds=(0, 1))
        wilson = proportion_interval(int(value) * groups, groups)
        assert (estimate.low, estimate.high) == pytest.approx(wilson, abs=1e-12)
        assert "equal" in estimate.note


def test_equal_values_of_a_macro_average_count_small_strata_for_what_they_are() -> None:
    """A mean of two strata of 6 and 150 groups varies as that of 1 / (1/4/6 + 1/4/150) = 23 groups would."""
    strata = ["few"] * 6 + ["many"] * 150
    found = stratified_mean([1.0] * 156, range(156), strata, bounds=(0, 1))
    groups = 1 / (0.25 / 6 + 0.25 / 150)
    z2 = 1.959964**2
    assert found.low == pytest.approx(groups / (groups + z2), abs=1e-6)
    proportional = stratified_mean([1.0] * 156, range(156), strata, {"few": 6, "many": 150}, bounds=(0, 1))
    assert proportional.low == pytest.approx(156 / (156 + z2), abs=1e-6)


def test_degenerate_data_say_so_instead_of_being_certain() -> None:
    equal = clustered_mean([0.3] * 6, range(6))
    assert equal.value == pytest.approx(0.3)
    assert (equal.low, equal.high) == (None, None)
    assert "equal" in equal.note
    lonely = clustered_mean([0.0, 1.0], ["a", "a"])
    assert (lonely.low, lonely.high) == (None, None)
    assert "one group" in lonely.note
    stratum = stratified_mean([0.0, 1.0, 1.0], [0, 1, 2], ["a", "a", "b"])
    assert (stratum.value, stratum.low) == (0.75, None)
    assert "'b'" in stratum.note
    partly = stratified_mean([0.0, 1.0, 1.0, 1.0], range(4), ["a", "a", "b", "b"])
    assert partly.low is not None
    assert "no spread in b" in partly.note
    # Each group holds one 1 and one 0: the clustered variance is 0, that of independent values is not.
    cancelled = clustered_mean([1.0, 0.0] * 10, np.repeat(np.arange(10), 2))
    assert cancelled.low is not None
    assert cancelled.low < 0.4
    assert "cancel" in cancelled.note


def test_t_of_equal_values() -> None:
    assert t_test([0.0, 0.0, 0.0]).p == 1
    moved = t_test([1.0, 1.0, 1.0])
    assert (moved.t, moved.p) == (None, None)
    assert moved.note


@pytest.mark.parametrize(
    ("values", "groups", "message"),
    [
        ([], [], "at least one"),
        ([1.0, math.nan], [0, 1], "position 1"),
        ([1.0, math.inf], [0, 1], "finite"),
        ([1.0, 2.0], [0], "2 values but 1 groups"),
        ([1.0, 2.0], [0, 1], "bounds"),
    ],
)
def test_bad_input_is_refused(values: list[float], groups: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        clustered_mean(values, groups, bounds=(0, 1))


def test_bad_strata_weights_and_confidence_are_refused() -> None:
    with pytest.raises(ValueError, match="two strata"):
        stratified_mean([0.0, 1.0, 1.0], ["g", "g", "h"], ["a", "b", "a"])
    with pytest.raises(ValueError, match="weights are for"):
        stratified_mean([0.0, 1.0], ["g", "h"], ["a", "a"], {"b": 1})
    with pytest.raises(ValueError, match="positive"):
        stratified_mean([0.0, 1.0], ["g", "h"], ["a", "a"], {"a": 0})
    with pytest.raises(ValueError, match="confidence"):
        clustered_mean([0.0, 1.0], ["g", "h"], confidence=95)
    with pytest.raises(ValueError, match="two groups"):
        standard_error([0.0, 1.0], ["g", "g"])


def test_two_way_error_is_one_way_where_the_other_label_is_the_item() -> None:
    rng = np.random.default_rng(0)
    values, prompts = rng.normal(size=40), np.repeat(np.arange(10), 4)
    assert two_way_standard_error(values, prompts, np.arange(40)) == pytest.approx(
        standard_error(values, prompts, "cr0")
    )


def test_intraclass_correlation() -> None:
    """Identical values in a group give 1; one 1 and one 0 in every group gives its least value, -1/(m-1)."""
    assert intraclass_correlation([0, 0, 1, 1, 0, 0], [0, 0, 1, 1, 2, 2]) == pytest.approx(1)
    assert intraclass_correlation([0, 1] * 5, np.repeat(np.arange(5), 2)) == pytest.approx(-1)
    drawn = outcomes(np.random.default_rng(1), 4000, 4, 0.3, 0.6)
    assert intraclass_correlation(drawn.ravel(), np.repeat(np.arange(4000), 4)) == pytest.approx(0.3, abs=0.03)
    with pytest.raises(ValueError, match="equal"):
        intraclass_correlation([1, 1, 1], [0, 0, 1])


@pytest.mark.parametrize("icc", [0.0, 0.2, 0.45])
def test_coverage_of_clustered_means(icc: float) -> None:
    """800 data sets: three standard errors are 2.3 points. ``reports.bench`` simulates more of them."""
    rng = np.random.default_rng(7)
    groups = np.repeat(np.arange(150), 4)
    held = sum(holds(clustered_mean(votes(rng, 150, 4, icc).ravel(), groups, bounds=(-1, 1)), 0.05) for _ in range(800))
    assert 0.927 <= held / 800 <= 0.973


def test_coverage_of_few_groups_near_a_bound() -> None:
    """Student's limits hold in 89.9 % here, as many too few as the promise of 95 % allows no chance for."""
    rng = np.random.default_rng(11)
    groups = np.repeat(np.arange(30), 4)
    drawn = [outcomes(rng, 30, 4, 0.2, 0.95).ravel() for _ in range(800)]
    held = {
        bounds: sum(holds(clustered_mean(values, groups, bounds=bounds), 0.95) for values in drawn) / 800
        for bounds in (None, (0.0, 1.0))
    }
    assert 0.917 <= held[0.0, 1.0] <= 0.963
    assert held[None] < 0.917


@pytest.mark.slow
@pytest.mark.parametrize("icc", [0.0, 0.2, 0.45])
@pytest.mark.parametrize(("groups", "size"), [(30, 4), (100, 4), (553, 4), (1000, 3)])
def test_coverage_promised(icc: float, groups: int, size: int) -> None:
    rng = np.random.default_rng(8)
    label = np.repeat(np.arange(groups), size)
    margin = score = 0
    for _ in range(6000):
        margin += holds(clustered_mean(votes(rng, groups, size, icc).ravel(), label, bounds=(-1, 1)), 0.05)
        score += holds(clustered_mean(outcomes(rng, groups, size, icc, 0.8).ravel(), label, bounds=(0, 1)), 0.8)
    assert 0.935 <= margin / 6000 <= 0.965
    assert 0.935 <= score / 6000 <= 0.965


def test_coverage_of_macro_averages() -> None:
    """Six strata of 40 prompts with 4 images, rates as far apart as GenEval's tasks; 600 data sets."""
    rng = np.random.default_rng(9)
    rates = np.array([0.99, 0.92, 0.63, 0.91, 0.79, 0.67])
    strata, groups = np.repeat(np.arange(6), 160), np.repeat(np.arange(240), 4)
    held = 0
    for _ in range(600):
        values = np.concatenate([outcomes(rng, 40, 4, 0.3, rate).ravel() for rate in rates])
        held += holds(stratified_mean(values, groups, strata), float(rates.mean()))
    assert 0.92 <= held / 600 <= 0.975


def test_mme_marks_are_accuracy_plus_paired_accuracy() -> None:
    """Four images: both, one, none right, and one with an unscored question. (3 of 6 right) + (1 of 3 pairs)."""
    right = [1, 1, 1, 0, 0, 0, 1, math.nan]
    marks, names = pair_marks(right, ["a", "a", "b", "b", "c", "c", "d", "d"])
    assert names == ["a", "b", "c", "d"]
    assert marks[:3].tolist() == [200, 50, 0]
    assert math.isnan(marks[3])
    assert marks[:3].mean() == pytest.approx(50 + 100 / 3)
    scaled = stratified_mean(marks[:3], range(3), ["x"] * 3, bounds=(0, 200)).scaled(10)
    assert scaled.value == pytest.approx(500 + 1000 / 3)


def test_circular_hits_need_every_rotation() -> None:
    right = [1, 1, 1, 0, 1, math.nan, 0, math.nan]
    hits, names = all_right(right, [1, 1, 2, 2, 3, 3, 4, 4])
    assert names == [1, 2, 3, 4]
    assert hits.tolist()[:2] == [1, 0]
    assert math.isnan(hits[2])
    assert hits[3] == 0
    with pytest.raises(ValueError, match="NaN"):
        all_right([0.5], [1])
