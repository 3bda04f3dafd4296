"""Two runs on the same items: the difference of their means, its interval and its tests."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from reports.statistics.binary import mcnemar, paired_proportions, tango_z
from reports.statistics.estimate import Codes, Estimate, Floats, Labels, array, check_share, coded, t_p
from reports.statistics.means import shares, spread, stratified_mean

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

#: Up to so many groups that differ, all 2^m ways to flip them are counted.
EXACT_GROUPS = 20

PairedTest = Literal["exact McNemar", "exact sign-flip by group", "clustered t", "none"]
Weights = Mapping[Any, float]


@dataclass(frozen=True)
class PairedResult:
    """First minus second over the ``n`` items that both have, in ``n_groups`` groups; ``n_missing`` lack one or both.

    ``p`` is two-sided, by ``test``; None, with the reason in ``difference.note``, where the data cannot give one.
    """

    difference: Estimate
    p: float | None
    test: PairedTest
    n: int
    n_groups: int
    n_missing: int


@dataclass(frozen=True)
class MarginTest:
    """``difference`` has the interval of confidence 1 - 2 alpha, whose limits decide. ``passed`` and ``p`` are None,
    with the reason in ``difference.note``, where the data cannot tell."""

    difference: Estimate
    margin: float
    p: float | None
    passed: bool | None
    n: int
    n_groups: int
    n_missing: int


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    groups: Labels,
    strata: Labels | None = None,
    weights: Weights | None = None,
    confidence: float = 0.95,
    bounds: tuple[float, float] | None = None,
) -> PairedResult:
    """Mean of ``a`` minus mean of ``b`` on the same items; NaN in either is missing and drops the item from both.

    With ``strata`` the difference of the macro averages (``stratified_mean``, with its ``weights``).
    The test, in the order of preference: exact McNemar for 0/1 outcomes in groups of one without strata (with Tango's
    interval); all sign patterns of the groups where at most 20 groups differ; the t-test of the interval otherwise.
    No group differs: p is 1. ``bounds`` are the least and greatest difference possible, see ``clustered_mean``.
    Raises ValueError for unlike lengths or when no item is in both.
    """
    check_share(confidence, "confidence")
    pairs = _pairs(a, b, groups, strata)
    p, test = _test(pairs, weights)
    return PairedResult(
        _interval(pairs, weights, confidence, bounds), p, test, len(pairs.first), pairs.n_groups, pairs.n_missing
    )


def non_inferiority(
    a: ArrayLike,
    b: ArrayLike,
    groups: Labels,
    margin: float,
    alpha: float = 0.05,
    strata: Labels | None = None,
    weights: Weights | None = None,
    bounds: tuple[float, float] | None = None,
) -> MarginTest:
    """Whether ``a`` is worse than ``b`` by less than ``margin`` (both higher is better): H0 says a - b <= -margin.

    Passes where the lower one-sided 1 - alpha bound lies above -margin. Tango's score test for 0/1 outcomes in groups
    of one without strata, else the clustered t. Items, strata, bounds and errors as in ``paired_difference``; raises
    ValueError too for a margin that is not positive.
    """
    pairs = _pairs(a, b, groups, strata)
    p = _margin_p(pairs, _margin(margin), weights, bounds)
    return _margin_test(pairs, margin, p, alpha, weights, bounds)


def equivalence(
    a: ArrayLike,
    b: ArrayLike,
    groups: Labels,
    margin: float,
    alpha: float = 0.05,
    strata: Labels | None = None,
    weights: Weights | None = None,
    bounds: tuple[float, float] | None = None,
) -> MarginTest:
    """Whether ``a`` and ``b`` differ by less than ``margin``: two one-sided tests (Schuirmann 1987, J. Pharmacokinet.
    Biopharm. 15:657), each as in ``non_inferiority``; p is the larger of the two."""
    pairs, swapped = _pairs(a, b, groups, strata), _pairs(b, a, groups, strata)
    opposite = None if bounds is None else (-bounds[1], -bounds[0])
    below = _margin_p(pairs, _margin(margin), weights, bounds)
    above = _margin_p(swapped, margin, weights, opposite)
    p = None if below is None or above is None else max(below, above)
    return _margin_test(pairs, margin, p, alpha, weights, bounds)


@dataclass(frozen=True)
class SignFlip:
    """``extreme`` of ``flips`` sign patterns give a sum as far out as the data's; ``p`` is their share when all 2^m
    patterns were counted (``exact``), else (1 + extreme) / (1 + flips)."""

    p: float
    extreme: int
    flips: int
    exact: bool


def sign_flip(
    sums: ArrayLike,
    alternative: Literal["two-sided", "greater", "less"] = "two-sided",
    resamples: int = 9_999,
    seed: int = 0,
) -> SignFlip:
    """Permutation test that independent groups favour neither side: each group's sum may as well have the other sign.

    ``sums`` holds one difference per group (its sum, or its share of the statistic). Exact with up to 20 groups that
    are not 0 (Fisher 1935, The Design of Experiments, section 21); else Monte Carlo, with the data's own pattern
    counted (Phipson & Smyth 2010, Stat. Appl. Genet. Mol. Biol. 9:39). Raises ValueError for no or non-finite sums,
    or fewer than one resample.
    """
    values = array(sums, "sums")
    if resamples < 1:
        raise ValueError(f"at least one resample is needed, not {resamples}")
    values = -values if alternative == "less" else values
    observed = math.fsum(values)
    # Sums of floats in another order differ by rounding; such patterns are as extreme as the data's.
    slack = 1e-9 * float(np.abs(values).sum())
    exact = int(np.count_nonzero(values)) <= EXACT_GROUPS
    flipped = _all_flips(values) if exact else _random_flips(values, resamples, seed)
    if alternative == "two-sided":
        flipped, observed = np.abs(flipped), abs(observed)
    extreme = int(np.count_nonzero(flipped >= observed - slack))
    p = extreme / len(flipped) if exact else (1 + extreme) / (1 + resamples)
    return SignFlip(p, extreme, len(flipped), exact)


def _all_flips(values: Floats) -> Floats:
    totals = np.zeros(1)
    for value in values[values != 0]:
        totals = np.concatenate([totals + value, totals - value])
    return totals


def _random_flips(values: Floats, resamples: int, seed: int) -> Floats:
    """Groups with the same size of sum are drawn together: how many of them are positive is binomial."""
    rng = np.random.default_rng(seed)
    sizes, counts = np.unique(np.abs(values[values != 0]), return_counts=True)
    totals = np.empty(resamples)
    chunk = max(1, 2_000_000 // len(sizes))  # 16 MB of draws at a time
    for start in range(0, resamples, chunk):
        rows = slice(start, min(start + chunk, resamples))
        positive = rng.binomial(counts, 0.5, size=(rows.stop - start, len(sizes)))
        totals[rows] = (2 * positive - counts) @ sizes
    return totals


@dataclass(frozen=True)
class _Pairs:
    """The items that both runs have."""

    first: Floats
    second: Floats
    group: Codes
    stratum: Labels | None
    n_groups: int
    n_missing: int

    @property
    def difference(self) -> Floats:
        return self.first - self.second

    @property
    def table(self) -> Floats | None:
        """The 2 x 2 table of independent 0/1 outcomes; None for any other data."""
        independent = self.stratum is None and self.n_groups == len(self.first)
        if not independent or not all(bool(np.all((x == 0) | (x == 1))) for x in (self.first, self.second)):
            return None
        cell = np.bincount((2 * (1 - self.first) + (1 - self.second)).astype(int), minlength=4)
        return cell.reshape(2, 2).astype(float)


def _pairs(a: ArrayLike, b: ArrayLike, groups: Labels, strata: Labels | None) -> _Pairs:
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"unlike lengths: {first.shape} and {second.shape}")
    group, _ = coded(groups, len(first), "groups")
    stratum = None if strata is None else coded(strata, len(first), "strata")
    both = ~(np.isnan(first) | np.isnan(second))
    if not bool(both.any()):
        raise ValueError("no item was scored in both")
    kept, n_missing = group[both], int(np.count_nonzero(~both))
    names = None if stratum is None else np.asarray(stratum[1])[stratum[0][both]]
    return _Pairs(array(first[both], "a"), array(second[both], "b"), kept, names, len(np.unique(kept)), n_missing)


def _interval(
    pairs: _Pairs, weights: Weights | None, confidence: float, bounds: tuple[float, float] | None
) -> Estimate:
    if pairs.table is not None:
        return paired_proportions(pairs.table, "tango", confidence)
    strata = np.zeros(len(pairs.first), int) if pairs.stratum is None else pairs.stratum
    return stratified_mean(pairs.difference, pairs.group, strata, weights, confidence, bounds)


def _test(pairs: _Pairs, weights: Weights | None) -> tuple[float | None, PairedTest]:
    if pairs.table is not None:
        return mcnemar(int(pairs.table[0, 1]), int(pairs.table[1, 0])).p, "exact McNemar"
    sums = np.bincount(pairs.group, weights=pairs.difference * _item_weights(pairs, weights))
    sums[np.abs(sums) < 1e-12 * np.abs(sums).max()] = 0  # what rounding leaves of differences that cancel
    if np.count_nonzero(sums) <= EXACT_GROUPS:
        return sign_flip(sums).p, "exact sign-flip by group"
    found = spread(pairs.difference, pairs.group, pairs.stratum, weights)
    if not found.se:
        return None, "none"
    return t_p(found.mean / found.se, found.df), "clustered t"


def _item_weights(pairs: _Pairs, weights: Weights | None) -> Floats:
    """What each item counts in the difference of means."""
    if pairs.stratum is None:
        return np.full(len(pairs.first), 1 / len(pairs.first))
    code, names = coded(pairs.stratum, len(pairs.first), "strata")
    result: Floats = (shares(names, weights) / np.bincount(code))[code]
    return result


def _margin(margin: float) -> float:
    if not 0 < margin < math.inf:
        raise ValueError(f"a margin must be positive, not {margin}")
    return margin


def _margin_p(
    pairs: _Pairs, margin: float, weights: Weights | None, bounds: tuple[float, float] | None
) -> float | None:
    """One-sided p-value of first - second <= -margin."""
    from scipy import special

    if pairs.table is not None and margin < 1:
        only_first, only_second = float(pairs.table[0, 1]), float(pairs.table[1, 0])
        return float(special.ndtr(-tango_z(only_first, only_second, len(pairs.first), -margin)))
    found = spread(pairs.difference, pairs.group, pairs.stratum, weights)
    if found.se is None:
        return None
    if found.se > 0:
        return float(special.stdtr(found.df, -(found.mean + margin) / found.se))
    if bounds is None:
        return None
    # The alpha at which the lower limit of ``without_spread`` falls on -margin.
    above, room = found.mean + margin, found.mean - bounds[0]
    if above <= 0:
        return 1.0
    if above >= room:  # no difference that is possible lies so low
        return 0.0
    share = above / room
    return float(special.ndtr(-math.sqrt(found.groups * share / (1 - share))))


def _margin_test(
    pairs: _Pairs,
    margin: float,
    p: float | None,
    alpha: float,
    weights: Weights | None,
    bounds: tuple[float, float] | None,
) -> MarginTest:
    check_share(2 * alpha, "twice alpha")
    difference = _interval(pairs, weights, 1 - 2 * alpha, bounds)
    passed = None if p is None else p < alpha
    return MarginTest(difference, margin, p, passed, len(pairs.first), pairs.n_groups, pairs.n_missing)
