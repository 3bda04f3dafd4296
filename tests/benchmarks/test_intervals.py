"""Intervals against closed forms, statsmodels, and the coverage they promise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from benchmarks.intervals import Interval, clustered_mean, macro_mean


def singletons(n: int) -> list[str]:
    return [str(i) for i in range(n)]


def wilson(mean: float, n: float, alpha: float = 0.05) -> tuple[float, float]:
    low, high = proportion_confint(mean * n, n, alpha=alpha, method="wilson")
    return float(low), float(high)


def limits(interval: Interval) -> tuple[float, float]:
    assert interval.low is not None
    assert interval.high is not None
    return interval.low, interval.high


def covers(interval: Interval, truth: float) -> bool:
    low, high = limits(interval)
    return low <= truth <= high


@pytest.mark.parametrize(("right", "n"), [(1, 2), (15, 148), (81, 263), (399, 400)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_independent_binary_values_give_plain_wilson(right: int, n: int, confidence: float) -> None:
    interval = clustered_mean([1.0] * right + [0.0] * (n - right), singletons(n), confidence)
    assert interval.value == right / n
    assert (interval.n, interval.clusters, interval.method) == (n, n, "clustered-wilson")
    assert limits(interval) == pytest.approx(wilson(right / n, n, 1 - confidence), abs=1e-12)


def test_newcombe_1998_table_1() -> None:
    """Newcombe 1998, Stat. Med. 17:857, Table I: 81/263 gives 0.2553 to 0.3662 by Wilson's method."""
    interval = clustered_mean([1.0] * 81 + [0.0] * 182, singletons(263))
    assert limits(interval) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_copies_of_a_value_carry_no_information() -> None:
    """30 clusters of 4 equal values: deff is 4 * (n-1)/n * G/(G-1), and t has 29 degrees of freedom."""
    cluster_values = [1.0] * 21 + [0.0] * 9
    interval = clustered_mean(np.repeat(cluster_values, 4).tolist(), np.repeat(singletons(30), 4).tolist())
    deff = 4 * (119 / 120) * (30 / 29)
    effective = 120 / deff * (stats.t.ppf(0.975, 119) / stats.t.ppf(0.975, 29)) ** 2
    assert interval.clusters == 30
    assert limits(interval) == pytest.approx(wilson(0.7, effective), abs=1e-12)
    low, high = wilson(0.7, 120)
    assert limits(interval)[0] < low
    assert limits(interval)[1] > high


def test_unequal_clusters_use_the_linearised_variance() -> None:
    values, groups = [1.0, 1.0, 1.0, 0.0, 0.0, 1.0], ["a", "a", "a", "b", "b", "c"]
    # residuals 1/3, 1/3, 1/3 | -2/3, -2/3 | 1/3: cluster sums 1, -4/3, 1/3
    variance = 3 / 2 * (1 + 16 / 9 + 1 / 9) / 36
    independent = (2 / 9) / 5
    effective = 6 * independent / variance * (stats.t.ppf(0.975, 5) / stats.t.ppf(0.975, 2)) ** 2
    assert limits(clustered_mean(values, groups)) == pytest.approx(wilson(2 / 3, effective), abs=1e-12)


def test_opposite_values_in_a_cluster_earn_no_credit() -> None:
    """Every cluster holds one 1 and one 0: the variance between clusters is 0, deff is taken as 1."""
    interval = clustered_mean([1.0, 0.0] * 20, np.repeat(singletons(20), 2).tolist())
    effective = 40 * (stats.t.ppf(0.975, 39) / stats.t.ppf(0.975, 19)) ** 2
    assert limits(interval) == pytest.approx(wilson(0.5, effective), abs=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_equal_values_count_a_cluster_as_one_draw(value: float) -> None:
    interval = clustered_mean([value] * 40, np.repeat(singletons(10), 4).tolist())
    assert interval.value == pytest.approx(value)
    assert limits(interval) == pytest.approx(wilson(value, 10), abs=1e-12)
    assert covers(interval, value)


def test_neither_order_nor_names_of_groups_matter() -> None:
    rng = np.random.default_rng(5)
    values, groups = rng.random(60).round(1), rng.integers(0, 20, 60)
    order = rng.permutation(60)
    one = clustered_mean(values.tolist(), [f"a{g}" for g in groups])
    other = clustered_mean(values[order].tolist(), [f"z{99 - g}" for g in groups[order]])
    assert one.value == other.value
    assert limits(one) == pytest.approx(limits(other), abs=1e-12)


def test_too_little_data() -> None:
    assert clustered_mean([], []) == Interval(None, None, None, n=0, clusters=0, method="none")
    assert clustered_mean([1.0, 0.0], ["a", "a"]) == Interval(0.5, None, None, n=2, clusters=1, method="none")


@pytest.mark.parametrize(
    ("values", "groups", "message"),
    [
        ([0.5, math.nan], ["a", "b"], r"\[0, 1\]"),
        ([0.5, 1.01], ["a", "b"], r"\[0, 1\]"),
        ([-0.01, 1.0], ["a", "b"], r"\[0, 1\]"),
        ([0.5], ["a", "b"], "1 values but 2 groups"),
    ],
)
def test_bad_values_are_refused(values: Sequence[float], groups: Sequence[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        clustered_mean(values, groups)


def test_confidence_must_be_a_fraction() -> None:
    with pytest.raises(ValueError, match="95"):
        clustered_mean([0.0, 1.0], ["a", "b"], confidence=95)


@pytest.mark.parametrize(
    ("mean", "clusters", "size", "graded"),
    [(0.8, 60, 4, False), (0.95, 60, 4, False), (0.5, 12, 4, False), (0.8, 60, 4, True), (0.8, 10, 1, True)],
)
def test_coverage(mean: float, clusters: int, size: int, graded: bool) -> None:
    """Beta-binomial clusters with an intra-cluster correlation of 0.3 (graded: the mean of two beta draws)."""
    rng = np.random.default_rng(20)
    shape = (mean * (1 - 0.3) / 0.3, (1 - mean) * (1 - 0.3) / 0.3)
    groups = np.repeat(singletons(clusters), size).tolist()
    hits = 0
    for _ in range(1000):
        rate = rng.beta(*shape, size=(clusters, 1))
        draw = (rate + rng.beta(*shape, size=(clusters, size))) / 2 if graded else rng.random((clusters, size)) < rate
        hits += covers(clustered_mean(draw.astype(float).ravel().tolist(), groups), mean)
    assert 920 <= hits <= 980


def test_macro_mean_of_one_part_is_that_part() -> None:
    part = clustered_mean([1.0] * 8 + [0.0] * 2, singletons(10))
    macro = macro_mean([part])
    assert macro.value == part.value
    assert limits(macro) == pytest.approx(limits(part))
    assert macro.method == "mover"


def test_macro_mean_by_hand() -> None:
    parts = [
        Interval(0.9, 0.6, 0.95, n=40, clusters=10, method="clustered-wilson"),
        Interval(0.5, 0.1, 0.62, n=80, clusters=20, method="clustered-wilson"),
    ]
    # 0.7 - sqrt(0.3^2 + 0.4^2) / 2 and 0.7 + sqrt(0.05^2 + 0.12^2) / 2
    macro = macro_mean(parts)
    assert macro.value == pytest.approx(0.7)
    assert limits(macro) == pytest.approx((0.45, 0.765))
    assert (macro.n, macro.clusters) == (120, 30)


def test_macro_mean_needs_every_part() -> None:
    whole = clustered_mean([1.0, 0.0, 1.0], singletons(3))
    empty, single = clustered_mean([], []), clustered_mean([1.0], ["a"])
    assert macro_mean([]).value is None
    assert macro_mean([whole, empty]).value is None
    macro = macro_mean([whole, single])
    assert macro.value == pytest.approx((2 / 3 + 1) / 2)
    assert macro.low is None
    assert macro.high is None


def test_macro_mean_coverage() -> None:
    """Six strata of 20 prompts with 4 images, rates as far apart as GenEval's tasks."""
    rng = np.random.default_rng(21)
    rates = np.array([0.99, 0.92, 0.63, 0.91, 0.79, 0.67])
    groups = np.repeat(singletons(20), 4).tolist()
    hits = 0
    for _ in range(600):
        parts = []
        for rate in rates:
            prompts = rng.beta(rate * 2, (1 - rate) * 2, size=(20, 1))
            parts.append(clustered_mean((rng.random((20, 4)) < prompts).astype(float).ravel().tolist(), groups))
        hits += covers(macro_mean(parts), float(rates.mean()))
    assert 552 <= hits <= 588


def test_strata_take_what_lies_between_them_out_of_the_error() -> None:
    """By hand: strata of 4 and 6 independent values with means 1/4 and 5/6."""
    values, strata = [1.0, 0.0, 0.0, 0.0] + [1.0] * 5 + [0.0], ["a"] * 4 + ["b"] * 6
    variance = (4 / 3 * 3 / 4 + 6 / 5 * 5 / 6) / 100  # n_h / (n_h - 1) times the squares of each, over n^2
    effective = 0.6 * 0.4 / variance * 10 / 9 * (stats.t.ppf(0.975, 9) / stats.t.ppf(0.975, 8)) ** 2
    interval = clustered_mean(values, singletons(10), strata=strata)
    assert limits(interval) == pytest.approx(wilson(0.6, effective), abs=1e-12)
    assert limits(interval)[0] > limits(clustered_mean(values, singletons(10)))[0]


def test_clusters_in_strata() -> None:
    """Two strata of two clusters: only the differences within a stratum count."""
    values, groups = [1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0], np.repeat(singletons(4), 2).tolist()
    strata = ["a"] * 4 + ["b"] * 4
    # residuals a: 1/4, 1/4 | -3/4, 1/4, b: -1/4, -1/4 | -1/4, 3/4: cluster sums +-1/2 in both
    clustered = 2 * (2 / 1 * (1 / 4 + 1 / 4)) / 64
    independent = 2 * (4 / 3 * 3 / 4) / 64
    effective = 0.25 / independent * 8 / 7 / max(1, clustered / independent)
    effective *= (stats.t.ppf(0.975, 7) / stats.t.ppf(0.975, 2)) ** 2
    interval = clustered_mean(values, groups, strata=strata)
    assert limits(interval) == pytest.approx(wilson(0.5, effective), abs=1e-12)


def test_one_stratum_is_none_and_a_stratum_of_one_group_switches_them_off() -> None:
    rng = np.random.default_rng(6)
    values, groups = (rng.random(20) < 0.6).astype(float).tolist(), np.repeat(singletons(10), 2).tolist()
    plain = clustered_mean(values, groups)
    assert clustered_mean(values, groups, strata=["all"] * 20) == plain
    assert clustered_mean(values, groups, strata=["one"] * 2 + ["rest"] * 18) == plain


def test_bad_strata_are_refused() -> None:
    with pytest.raises(ValueError, match="a group lies in two strata"):
        clustered_mean([0.0, 1.0, 1.0], ["g", "g", "h"], strata=["a", "b", "a"])
    with pytest.raises(ValueError, match="1 strata"):
        clustered_mean([0.0, 1.0], ["g", "h"], strata=["a"])


def test_stratified_coverage() -> None:
    """Thirty strata of 30 questions, rates as far apart as MMMU's subjects."""
    rng = np.random.default_rng(22)
    rates = np.linspace(0.25, 0.8, 30)
    strata, groups = np.repeat(singletons(30), 30).tolist(), singletons(900)
    hits = widths = 0.0
    for _ in range(400):
        values = (rng.random((30, 30)) < rates[:, None]).astype(float).ravel().tolist()
        interval = clustered_mean(values, groups, strata=strata)
        hits += covers(interval, float(rates.mean()))
        widths += np.diff(limits(interval))[0] / np.diff(limits(clustered_mean(values, groups)))[0]
    assert 0.93 <= hits / 400 <= 0.97
    assert widths / 400 < 0.96  # narrower than without strata, which would cover more than it promises
