"""Means whose values depend on each other within groups: standard errors, intervals, intra-group correlation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from reports.statistics.estimate import (
    Codes,
    Estimate,
    Floats,
    Labels,
    array,
    check_share,
    coded,
    t_p,
    t_quantile,
    z_quantile,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

#: cr0: Liang & Zeger (1986, Biometrika 73:13). cr1: cr0 times G/(G-1), as statsmodels' OLS on a constant and
#: inspect_ai. miller: Miller (2024, arXiv:2411.00640) eq. 4 with s^2 over n-1, as lmms-eval's clustered_stderr.
Estimator = Literal["cr0", "cr1", "miller"]


def standard_error(values: ArrayLike, groups: Labels | None = None, estimator: Estimator = "cr1") -> float:
    """Standard error of the mean of ``values``, dependent within ``groups``; without groups they are independent.

    ``cr1`` without groups is the textbook s / sqrt(n). Raises ValueError with fewer than two groups.
    """
    y = array(values)
    group, names = coded(range(len(y)) if groups is None else groups, len(y), "groups")
    if len(names) < 2:
        raise ValueError("a standard error needs at least two groups")
    residual = y - y.mean()
    between = float(np.sum(np.bincount(group, weights=residual) ** 2)) / len(y) ** 2
    if estimator == "cr1":
        between *= len(names) / (len(names) - 1)
    elif estimator == "miller":
        between += float(residual @ residual) * (1 / (len(y) - 1) - 1 / len(y)) / len(y)
    return math.sqrt(max(0.0, between))


def two_way_standard_error(values: ArrayLike, first: Labels, second: Labels) -> float:
    """Standard error where values share a ``first`` (prompt) or a ``second`` (annotator) label.

    V = V_first + V_second - V_both, each cr0 (Cameron, Gelbach & Miller 2011, J. Bus. Econ. Stat. 29:238). With fewer
    than about ten of either it is unreliable and may even be smaller than the one-way error: report the larger.
    Raises ValueError with fewer than two of either, or where V is not positive.
    """
    y = array(values)
    one, two = coded(first, len(y), "first labels")[0], coded(second, len(y), "second labels")[0]
    both = one * (int(two.max()) + 1) + two
    variance = sum(sign * standard_error(y, labels, "cr0") ** 2 for sign, labels in ((1, one), (1, two), (-1, both)))
    if variance <= 0:
        raise ValueError("the two-way variance is not positive: too few labels to estimate it")
    return math.sqrt(variance)


@dataclass(frozen=True)
class Spread:
    """A weighted mean of strata, its standard error (CR1 within each stratum) and degrees of freedom."""

    mean: float
    se: float | None  # None: a stratum has one group only
    df: float
    groups: float  # so many in one stratum would tell as much: 1 / sum(weight^2 / groups of the stratum)
    note: str = ""


def spread(
    values: Floats, groups: Labels, strata: Labels | None = None, weights: Mapping[Any, float] | None = None
) -> Spread:
    """Sum over strata of weight times mean; variances add, degrees of freedom are Welch-Satterthwaite's.

    V_k = G_k/(G_k-1) sum_g (sum_{i in g} (y_i - mean_k))^2 / n_k^2 over the groups of stratum k;
    df = (sum w^2 V)^2 / sum((w^2 V)^2 / (G_k - 1)) (Satterthwaite 1946, Biometrics Bull. 2:110).
    Where the sums of all groups cancel although their values differ, V_k would claim certainty: the variance of
    independent values takes its place. Raises ValueError for a group in two strata, or weights that are not
    positive or name other strata.
    """
    group, group_names = coded(groups, len(values), "groups")
    stratum, names = coded(np.zeros(len(values), int) if strata is None else strata, len(values), "strata")
    home = _home(group, stratum, len(group_names))
    share = shares(names, weights)
    sizes = np.bincount(stratum)
    means = np.bincount(stratum, weights=values) / sizes
    # A mean of equal values may miss them by a rounding error, which is no spread.
    residual = values - means[stratum]
    residual[np.abs(residual) < 1e-12 * np.abs(values).max(initial=0)] = 0
    count = np.bincount(home, minlength=len(names))
    mean = float(share @ means)
    groups_worth = 1 / float(np.sum(share**2 / count))
    if count.min() < 2:
        alone = names[int(np.argmin(count))]
        where = "one group only" if len(names) == 1 else f"stratum {alone!r} has one group only"
        return Spread(mean, None, 0.0, groups_worth, f"{where}: no interval")
    sums = np.bincount(group, weights=residual)
    variance = np.bincount(home, weights=sums**2) * count / (count - 1) / sizes**2
    squares = np.bincount(stratum, weights=residual**2)
    cancelled = (variance <= 1e-24 * squares) & (squares > 0)
    independent = squares / sizes / np.maximum(sizes - 1, 1)
    parts = share**2 * np.where(cancelled, independent, variance)
    total = float(parts.sum())
    df = total**2 / float(np.sum(parts**2 / (count - 1))) if total > 0 else float(np.sum(count - 1))
    notes = ["groups cancel: variance of independent values"] if bool(cancelled.any()) else []
    still = [str(name) for name, part in zip(names, parts, strict=True) if part == 0]
    if total > 0 and still:
        notes.append(f"no spread in {', '.join(still)}, which add nothing to the error")
    return Spread(mean, math.sqrt(total), df, groups_worth, "; ".join(notes))


@dataclass(frozen=True)
class TTest:
    """``t`` and the two-sided ``p``; None, with the reason in ``note``, where there is no spread to test against."""

    t: float | None
    df: float
    p: float | None
    note: str = ""


def t_test(values: ArrayLike, groups: Labels | None = None, against: float = 0.0) -> TTest:
    """Student's t of the mean of ``values`` over its CR1 standard error, G-1 degrees of freedom.

    Differences of pairs without groups give the paired t-test. Values that all equal ``against`` have p 1. Raises
    ValueError with fewer than two groups.
    """
    y = array(values)
    found = spread(y, range(len(y)) if groups is None else groups)
    if found.se is None:
        raise ValueError("a t-test needs at least two groups")
    if found.se > 0:
        t = (found.mean - against) / found.se
        return TTest(t, found.df, t_p(t, found.df), found.note)
    same = math.isclose(found.mean, against, rel_tol=1e-12, abs_tol=1e-12)  # but for the rounding of the mean
    return TTest(None, found.df, 1.0 if same else None, "all values equal: no spread to test against")


def clustered_mean(
    values: ArrayLike, groups: Labels, confidence: float = 0.95, bounds: tuple[float, float] | None = None
) -> Estimate:
    """The mean of ``values``, dependent within ``groups``, with limits from t[G-1] and the CR1 standard error.

    Without ``bounds``, the least and greatest value possible, the limits are mean +- t * error: for differences and
    other values without a natural bound. With them they are the score interval of ``_score``, which stays within
    the bounds and holds near them, where few groups make the mean skewed and t falls short.

    Where all values are equal there is no spread to estimate from: then at most the share u = z^2/(G + z^2) of groups,
    Wilson's upper limit of 0 of G, is taken to lie elsewhere, as far as the bounds allow. Without bounds such data
    give no interval.
    Raises ValueError for no, non-finite or out-of-bounds values, and unlike lengths.
    """
    found = _spread_within(bounds, array(values), groups, None, None, confidence)
    return _score(found, confidence, bounds) if bounds and found.se else _student(found, confidence, bounds)


def stratified_mean(
    values: ArrayLike,
    groups: Labels,
    strata: Labels,
    weights: Mapping[Any, float] | None = None,
    confidence: float = 0.95,
    bounds: tuple[float, float] | None = None,
) -> Estimate:
    """The mean of the strata's means (macro average), or their sum under ``weights`` (scaled to sum to 1).

    GenEval's overall score is the unweighted mean over its six tasks. The limits are mean +- t * error, standard error
    and degrees of freedom those of ``spread``. ``bounds`` matter only where all values are equal, see
    ``clustered_mean``: a mean of unlike strata has no variance that its own value would give.
    """
    found = _spread_within(bounds, array(values), groups, strata, weights, confidence)
    return _student(found, confidence, bounds)


def _spread_within(
    bounds: tuple[float, float] | None,
    values: Floats,
    groups: Labels,
    strata: Labels | None,
    weights: Mapping[Any, float] | None,
    confidence: float,
) -> Spread:
    check_share(confidence, "confidence")
    found = spread(values, groups, strata, weights)
    if bounds is not None and not bounds[0] <= values.min() <= values.max() <= bounds[1]:
        raise ValueError(f"values lie outside their bounds {bounds}")
    return found


def _student(found: Spread, confidence: float, bounds: tuple[float, float] | None) -> Estimate:
    if found.se is None:
        return Estimate(found.mean, None, None, found.note)
    if found.se > 0:
        half = t_quantile((1 + confidence) / 2, found.df) * found.se
        return Estimate(found.mean, found.mean - half, found.mean + half, found.note)
    return without_spread(found.mean, found.groups, confidence, bounds)


def _score(found: Spread, confidence: float, bounds: tuple[float, float]) -> Estimate:
    """Wilson's interval (1927, JASA 22:209) at the effective sample size p (1-p) / V, with t in place of z.

    p is the mean and V its variance on the scale where the bounds are 0 and 1. The limits L solve
    (p - L)^2 = t^2 V L (1-L) / (p (1-p)): the error is taken at the limit, as for a proportion. Effective size and t
    are Korn & Graubard's (1998, Survey Methodology 24:193); Franco et al. (2019, J. Surv. Stat. Methodol. 7:334)
    compare this interval with others in clustered samples.
    """
    assert found.se
    low, width = bounds[0], bounds[1] - bounds[0]
    p, se = (found.mean - low) / width, found.se / width
    shrink = (t_quantile((1 + confidence) / 2, found.df) * se) ** 2 / (p * (1 - p))  # t^2 over the effective size
    center = (p + shrink / 2) / (1 + shrink)
    half = math.sqrt(shrink * (p * (1 - p) + shrink / 4)) / (1 + shrink)
    limits = max(0.0, center - half), min(1.0, center + half)  # rounding must not leave the bounds
    return Estimate(found.mean, low + width * limits[0], low + width * limits[1], found.note)


def without_spread(mean: float, groups: float, confidence: float, bounds: tuple[float, float] | None) -> Estimate:
    """The interval of equal values from so many groups, see ``clustered_mean``."""
    if bounds is None:
        return Estimate(mean, None, None, "all values equal: no spread to make an interval from")
    z2 = z_quantile((1 + confidence) / 2) ** 2
    share = z2 / (groups + z2)
    low, high = mean - share * (mean - bounds[0]), mean + share * (bounds[1] - mean)
    return Estimate(mean, low, high, f"all values equal: limits as of 0 deviations in {groups:.4g} groups (Wilson)")


def intraclass_correlation(values: ArrayLike, groups: Labels) -> float:
    """ICC(1) by one-way analysis of variance, groups of any size; may be negative.

    (MSB - MSW) / (MSB + (n0 - 1) MSW) with n0 = (N - sum n_g^2 / N) / (G - 1) (Donner 1986, Int. Stat. Rev. 54:67).
    Raises ValueError with fewer than two groups, no group of two, or equal values.
    """
    y = array(values)
    group, names = coded(groups, len(y), "groups")
    sizes = np.bincount(group)
    if len(names) < 2 or len(names) == len(y):
        raise ValueError("an intra-class correlation needs two groups, and a group of two values")
    means = np.bincount(group, weights=y) / sizes
    between = float(sizes @ (means - y.mean()) ** 2) / (len(names) - 1)
    within = float(np.sum((y - means[group]) ** 2)) / (len(y) - len(names))
    typical = (len(y) - float(sizes @ sizes) / len(y)) / (len(names) - 1)
    if between + within == 0:
        raise ValueError("all values are equal: the intra-class correlation is undefined")
    return (between - within) / (between + (typical - 1) * within)


def design_effect(size: float, icc: float) -> float:
    """How many times the variance of a mean grows in groups of ``size`` (Kish 1965): 1 + (size - 1) icc."""
    return 1 + (size - 1) * icc


def _home(group: Codes, stratum: Codes, groups: int) -> Codes:
    """The stratum of each group."""
    home = np.zeros(groups, dtype=np.intp)
    home[group] = stratum
    if bool(np.any(home[group] != stratum)):
        raise ValueError("a group lies in two strata")
    return home


def shares(names: Sequence[Any], weights: Mapping[Any, float] | None) -> Floats:
    """The weight of each stratum, in the order of ``names``: equal, or those given, scaled to sum to 1."""
    if weights is None:
        return np.full(len(names), 1 / len(names))
    if set(weights) != set(names):
        raise ValueError(f"weights are for {sorted(map(str, weights))}, strata are {sorted(map(str, names))}")
    share = array([weights[name] for name in names], "weights")
    if share.min() <= 0:
        raise ValueError("weights must be positive")
    total: Floats = share / share.sum()
    return total
