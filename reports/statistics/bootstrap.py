"""The cluster bootstrap and jackknife, for any statistic that is a function of sums over groups."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from reports.statistics.estimate import Codes, Estimate, Floats, Labels, check_share, coded

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

#: Takes sums of the columns, shape (..., columns), and gives the statistic of each, shape (...). A mean of clustered
#: values, for columns [value, 1], is ``lambda sums: sums[..., 0] / sums[..., 1]``.
Statistic = Callable[[Floats], Floats]


def ratio(sums: Floats) -> Floats:
    """First column over second: the mean of clustered values whose columns are [value, 1]."""
    result: Floats = sums[..., 0] / sums[..., 1]
    return result


def cluster_bootstrap(
    statistic: Statistic,
    columns: ArrayLike,
    groups: Labels,
    confidence: float = 0.95,
    method: Literal["percentile", "bca"] = "percentile",
    resamples: int = 10_000,
    seed: int = 0,
) -> Estimate:
    """Interval of ``statistic`` by resampling whole groups with replacement.

    ``columns`` has one row per item (values, squares, products, 1 for counting: what the statistic is made of), shape
    (n, columns) or (n,). ``bca`` is bias-corrected and accelerated (Efron 1987, JASA 82:171) with the jackknife over
    groups. A statistic that is the same in every resample gives an interval of no width, and a note.
    Raises ValueError for unlike lengths, non-finite columns, fewer than two groups or resamples, or a statistic that
    is not finite in some resample.
    """
    check_share(confidence, "confidence")
    if resamples < 2:
        raise ValueError(f"at least two resamples are needed, not {resamples}")
    sums = _group_sums(columns, groups)
    value = float(_finite(statistic(sums.sum(axis=0)))[()])
    replicates = np.sort(_finite(statistic(_resampled(sums, resamples, seed))))
    if replicates[0] == replicates[-1]:
        return Estimate(value, value, value, "every resample gives the same value: the interval has no width")
    tails = np.array([1 - confidence, 1 + confidence]) / 2
    note = ""
    if method == "bca":
        tails, note = _bca_tails(tails, replicates, value, _acceleration(statistic, sums))
    low, high = np.quantile(replicates, tails)
    return Estimate(value, float(low), float(high), note)


@dataclass(frozen=True)
class Jackknife:
    """Standard error, and BCa's acceleration (None where no group matters)."""

    se: float
    acceleration: float | None


def jackknife(statistic: Statistic, columns: ArrayLike, groups: Labels) -> Jackknife:
    """Leaves out one group at a time (Efron & Tibshirani 1993, An Introduction to the Bootstrap, eq. 11.5, 14.15)."""
    sums = _group_sums(columns, groups)
    left = _finite(statistic(sums.sum(axis=0) - sums))
    spread = left.mean() - left
    squares = float(spread @ spread)
    acceleration = float(np.sum(spread**3)) / (6 * squares**1.5) if squares > 0 else None
    return Jackknife(math.sqrt((len(left) - 1) / len(left) * squares), acceleration)


def _group_sums(columns: ArrayLike, groups: Labels) -> Floats:
    rows = np.asarray(columns, dtype=np.float64)
    rows = rows[:, None] if rows.ndim == 1 else rows
    if rows.ndim != 2 or not bool(np.isfinite(rows).all()):
        raise ValueError("columns must be finite numbers, one row per item")
    group, names = coded(groups, len(rows), "groups")
    if len(names) < 2:
        raise ValueError("resampling needs at least two groups")
    return np.stack([np.bincount(group, weights=column) for column in rows.T], axis=1)


def _resampled(sums: Floats, resamples: int, seed: int) -> Floats:
    """Sums of the columns over as many groups as there are, drawn with replacement, once per resample.

    Groups with the same sums are drawn together: how often each kind comes up is multinomial, the same distribution
    for less work. Benchmarks have few kinds (80,000 groups with VQAv2's scores some hundreds).
    """
    rng = np.random.Generator(np.random.SFC64(seed))  # twice as fast as numpy's default where indices are drawn
    kinds, counts = _kinds(sums)
    total = np.empty((resamples, sums.shape[1]))
    if len(kinds) * 8 < len(sums):
        chunk = max(1, 250_000 // len(kinds))  # 2 MB of counts at a time, which a cache holds
        for start in range(0, resamples, chunk):
            rows = slice(start, min(start + chunk, resamples))
            drawn = rng.multinomial(len(sums), counts / len(sums), size=rows.stop - start)
            total[rows] = drawn.astype(np.float64) @ kinds
        return total
    for row in range(resamples):
        drawn = rng.integers(0, len(sums), size=len(sums))
        total[row] = np.bincount(drawn, minlength=len(sums)) @ sums
    return total


def _kinds(sums: Floats) -> tuple[Floats, Codes]:
    """The different rows, and how many groups have each. Sums in another order may differ in their last digits."""
    kind = np.zeros(len(sums), dtype=np.intp)
    for column in sums.T:
        quantum = 1e-12 * float(np.abs(column).max()) or 1.0
        codes = np.unique(np.rint(column / quantum), return_inverse=True)[1]
        kind = np.unique(kind * (int(codes.max()) + 1) + codes, return_inverse=True)[1]
    _, first, counts = np.unique(kind, return_index=True, return_counts=True)
    return sums[first], counts


def _acceleration(statistic: Statistic, sums: Floats) -> float:
    return jackknife(statistic, sums, np.arange(len(sums))).acceleration or 0.0


def _bca_tails(tails: Floats, replicates: Floats, value: float, acceleration: float) -> tuple[Floats, str]:
    from scipy import special

    below = float(np.mean(replicates < value) + np.mean(replicates == value) / 2)
    if not 0 < below < 1:
        return tails, "the value lies outside all resamples: percentile limits"
    bias = float(special.ndtri(below))
    z = bias + special.ndtri(tails)
    adjusted: Floats = special.ndtr(bias + z / (1 - acceleration * z))
    return adjusted, ""


def _finite(values: Floats) -> Floats:
    values = np.asarray(values, dtype=np.float64)
    if not bool(np.isfinite(values).all()):
        raise ValueError("the statistic is not finite for some resample: too few groups for it")
    return values
