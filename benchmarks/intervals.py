"""Confidence intervals of one run's scores: a mean over clusters (and strata), and an unweighted mean of strata."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy import special

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: How low and high were made; ``none`` where the data cannot give an interval.
Method = Literal["clustered-wilson", "mover", "none"]


@dataclass(frozen=True)
class Interval:
    """A score in [0, 1] with its confidence limits, from ``n`` values in ``clusters`` independent clusters."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    clusters: int
    method: Method


def clustered_mean(
    values: Sequence[float], groups: Sequence[str], confidence: float = 0.95, strata: Sequence[str] | None = None
) -> Interval:
    """The mean of ``values`` (in [0, 1], binary or graded); values of the same group may depend on each other.

    ``strata`` says of each value which stratum it was drawn from, where the number per stratum was fixed (30 questions
    of each of MMMU's subjects): what lies between strata is then no part of the error.

    Wilson's score interval (Wilson 1927, JASA 22:209) at the effective sample size of Korn & Graubard (1998,
    Survey Methodology 24:193): n_eff = p(1-p)/var(p), here in Kish's form n/deff, times (t[n-1] / t[G-1])^2
    because var(p) is estimated from G clusters only; for graded values z takes the place of t[n-1].
    var(p) is linearised and cluster-robust (CR1): G/(G-1) * sum_g (sum_{i in g} (y_i - p))^2 / n^2.
    With H strata residuals are those from each stratum's own mean, the variances of the strata add up, and there are
    G-H degrees of freedom (as Korn & Graubard count them). Where a stratum has one group only, strata are ignored,
    which errs to the wide.
    Binary values in groups of one give the plain Wilson interval. Dean & Pagano (2015, J. Surv. Stat. Methodol.
    3:484) compare this interval with others in clustered surveys.

    No values: the value is None. Fewer than two groups: low and high are None.
    Raises ValueError for values outside [0, 1] or NaN, unlike lengths, a group in two strata, or a confidence
    outside (0, 1).
    """
    strata = [""] * len(values) if strata is None else strata
    if not len(values) == len(groups) == len(strata):
        raise ValueError(f"{len(values)} values but {len(groups)} groups and {len(strata)} strata")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
    y = np.asarray(values, dtype=np.float64)
    if not bool(np.all((y >= 0) & (y <= 1))):  # also true of NaN, which compares false
        raise ValueError("values must lie in [0, 1]")
    if len(y) == 0:
        return Interval(None, None, None, n=0, clusters=0, method="none")

    n, mean = len(y), math.fsum(values) / len(y)
    names, first, group = np.unique(np.asarray(groups), return_index=True, return_inverse=True)
    clusters = len(names)
    if clusters < 2:
        return Interval(mean, None, None, n=n, clusters=clusters, method="none")

    stratum = np.unique(np.asarray(strata), return_inverse=True)[1]
    if bool(np.any(stratum != stratum[first][group])):
        raise ValueError("a group lies in two strata")
    if np.bincount(stratum[first]).min() < 2:
        stratum = np.zeros_like(stratum)
    low, high = _wilson(mean, _effective_size(y, group, stratum, confidence), confidence)
    return Interval(mean, low, high, n=n, clusters=clusters, method="clustered-wilson")


def macro_mean(parts: Sequence[Interval]) -> Interval:
    """The unweighted mean of independent strata (GenEval's overall score is that of its six tasks).

    Limits by MOVER, the method of variance estimates recovery (Zou & Donner 2008, Stat. Med. 27:1693):
    mean -+ sqrt(sum_k (value_k - limit_k)^2) / K. It has the confidence level of the parts.

    The value is None if there are no parts or one of them has no value: a mean of the others is another number.
    Low and high are None if a part has none. ``clusters`` takes no cluster to lie in two strata.
    """
    n, clusters = sum(part.n for part in parts), sum(part.clusters for part in parts)
    values = [part.value for part in parts if part.value is not None]
    if not parts or len(values) < len(parts):
        return Interval(None, None, None, n=n, clusters=clusters, method="none")
    mean = math.fsum(values) / len(values)
    lows = [part.low for part in parts if part.low is not None]
    highs = [part.high for part in parts if part.high is not None]
    if len(lows) < len(parts) or len(highs) < len(parts):
        return Interval(mean, None, None, n=n, clusters=clusters, method="none")
    below, above = math.dist(values, lows) / len(values), math.dist(values, highs) / len(values)
    return Interval(mean, mean - below, mean + above, n=n, clusters=clusters, method="mover")


def _effective_size(
    y: NDArray[np.float64], group: NDArray[np.intp], stratum: NDArray[np.intp], confidence: float
) -> float:
    """How many independent 0/1 draws with this mean would have this mean's variance. Two groups or more per stratum."""
    n, mean, clusters = len(y), float(y.mean()), int(group.max()) + 1
    sizes = np.bincount(stratum)
    residual = y - (np.bincount(stratum, weights=y) / sizes)[stratum]
    if np.abs(residual).max() < 1e-9:
        return clusters  # nothing to estimate a variance from: count a cluster as one draw
    stratum_of_group = np.zeros(clusters, dtype=np.intp)
    stratum_of_group[group] = stratum
    groups = np.bincount(stratum_of_group)
    squares = np.bincount(stratum, weights=residual**2)
    between = np.bincount(stratum_of_group, weights=np.bincount(group, weights=residual) ** 2)
    clustered = float(np.sum(groups / (groups - 1) * between)) / n**2
    independent = float(np.sum(sizes / (sizes - 1) * squares)) / n**2
    # A design effect below 1 is taken as 1: with few clusters it is mostly luck.
    design_effect = max(1.0, clustered / independent)
    # Graded values spread less than binary ones of the same mean, so each is worth more than one draw. Without
    # strata the factor n / (n - 1) is that of `independent`, so that n binary values are worth n draws.
    draws = mean * (1 - mean) / independent * n / (n - 1)
    quantile = (1 + confidence) / 2
    # A proportion fixes its own variance if draws are independent; the spread of graded values is always estimated.
    binary = bool(np.all((y == 0) | (y == 1)))
    known = special.stdtrit(n - 1, quantile) if binary else special.ndtri(quantile)
    estimated = special.stdtrit(clusters - len(sizes), quantile)
    return draws / design_effect * float(known / estimated) ** 2


def _wilson(mean: float, n: float, confidence: float) -> tuple[float, float]:
    """Wilson's score interval of a proportion from ``n`` draws, n not necessarily whole."""
    z2 = float(special.ndtri((1 + confidence) / 2)) ** 2
    center = (mean + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (mean * (1 - mean) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    # The score interval holds the mean and lies in [0, 1]; rounding must not undo that.
    return max(0.0, min(center - half, mean)), min(1.0, max(center + half, mean))
