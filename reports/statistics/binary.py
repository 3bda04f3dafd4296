"""Matched yes/no outcomes: McNemar's tests, intervals of a paired difference, pairs in clusters.

A 2 x 2 table is [[both right, only the first right], [only the second right, both wrong]]; differences are first
minus second.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from reports.statistics.estimate import Estimate, chi2_p, table, z_two_sided
from reports.statistics.proportions import binomial_p, mid_p, proportion_interval

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

PairedMethod = Literal["tango", "newcombe", "bonett-price", "wald"]


@dataclass(frozen=True)
class McNemar:
    """``p`` is the exact conditional one, ``p_mid`` its mid-p; ``chi2_corrected`` has Edwards' correction.

    Without discordant pairs the exact p-values are 1 and the asymptotic tests, undefined there, are None.
    """

    p: float
    p_mid: float
    chi2: float | None
    p_chi2: float | None
    chi2_corrected: float | None
    p_corrected: float | None
    note: str = ""


def mcnemar(only_first: int, only_second: int) -> McNemar:
    """McNemar's tests (1947, Psychometrika 12:153) from the two counts of discordant pairs.

    The exact p equals that of the exact sign-flip permutation test; mid-p as Fagerland, Lydersen & Laake (2013, BMC
    Med. Res. Methodol. 13:91) recommend. Raises ValueError for negative counts.
    """
    if min(only_first, only_second) < 0:
        raise ValueError(f"negative counts of pairs: {only_first} and {only_second}")
    n = only_first + only_second
    if n == 0:
        return McNemar(1.0, 1.0, None, None, None, None, "no discordant pairs")
    distance = abs(only_first - only_second)
    chi2, corrected = distance**2 / n, max(0, distance - 1) ** 2 / n
    p, p_mid = binomial_p(only_first, n), mid_p(only_first, n)
    return McNemar(p, p_mid, chi2, chi2_p(chi2, 1), corrected, chi2_p(corrected, 1))


def paired_proportions(counts: ArrayLike, method: PairedMethod = "tango", confidence: float = 0.95) -> Estimate:
    """The difference of two proportions over the same independent items, with its interval, from a 2 x 2 table.

    ``tango``: the inverted score test (Tango 1998, Stat. Med. 17:891).
    ``newcombe``: square-and-add of the two Wilson intervals (Newcombe 1998, Stat. Med. 17:2635, method 10).
    ``bonett-price``: Wald's after adding one pair to each discordant cell (2012, J. Educ. Behav. Stat. 37:479).
    ``wald``: the textbook one, too short for small n; no interval where the pairs have no spread.
    Raises ValueError unless the table is 2 x 2, of counts, not all 0.
    """
    cells = _two_by_two(counts)
    only_first, only_second, n = float(cells[0, 1]), float(cells[1, 0]), float(cells.sum())
    difference = (only_first - only_second) / n
    z = z_two_sided(confidence)
    if method == "tango":
        return Estimate(difference, *_tango_limits(only_first, only_second, n, z))
    if method == "newcombe":
        return Estimate(difference, *_newcombe_limits(cells, confidence))
    if method == "bonett-price":
        first, second = (only_first + 1) / (n + 2), (only_second + 1) / (n + 2)
        half = z * math.sqrt((first + second - (first - second) ** 2) / (n + 2))
        return Estimate(difference, max(-1.0, first - second - half), min(1.0, first - second + half))
    variance = (only_first + only_second) / n - difference**2
    if variance <= 0:
        return Estimate(difference, None, None, "no spread between pairs: Wald's interval does not exist")
    half = z * math.sqrt(variance / n)
    return Estimate(difference, difference - half, difference + half)


def tango_z(only_first: float, only_second: float, n: float, difference: float) -> float:
    """Score statistic of Tango (1998) for the hypothesis that first minus second is ``difference``, in (-1, 1).

    The discordant probability is estimated under the hypothesis. Where even that leaves no variance (a difference of 0
    without discordant pairs), there is nothing against the hypothesis: 0.
    """
    a = 2 * n
    b = (2 * n - only_first + only_second) * difference - only_first - only_second
    c = -only_second * difference * (1 - difference)
    q = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
    variance = n * (2 * q + difference * (1 - difference))
    return (only_first - only_second - n * difference) / math.sqrt(variance) if variance > 0 else 0.0


def odds_ratio(
    only_first: int,
    only_second: int,
    method: Literal["clopper-pearson", "wilson"] = "clopper-pearson",
    confidence: float = 0.95,
) -> Estimate:
    """Conditional odds ratio of discordant pairs; the limits are those of the proportion p, as p/(1-p) (Fagerland,
    Lydersen & Laake 2017, Statistical Analysis of Contingency Tables, chapter 8).

    ``high`` is None where it is infinite. Raises ValueError where only_second is 0: the ratio does not exist.
    """
    if only_second <= 0 or only_first < 0:
        raise ValueError("the odds ratio does not exist without pairs that only the second has right")
    low, high = proportion_interval(only_first, only_first + only_second, method, confidence)
    if high >= 1:
        return Estimate(only_first / only_second, low / (1 - low), None, "the upper limit is infinite")
    return Estimate(only_first / only_second, low / (1 - low), high / (1 - high))


@dataclass(frozen=True)
class ClusteredMcNemar:
    """Chi-squared statistics with one degree of freedom. None, with ``note``, where no cluster favours either."""

    durkalski: float | None
    obuchowski: float | None
    yang: float | None
    p_durkalski: float | None
    p_obuchowski: float | None
    p_yang: float | None
    note: str = ""


def clustered_mcnemar(only_first: ArrayLike, only_second: ArrayLike, sizes: ArrayLike) -> ClusteredMcNemar:
    """McNemar's test for pairs in clusters, from each cluster's discordant counts and its number of pairs.

    With d_k = only_first - only_second of cluster k, n_k its size and K clusters:
    Durkalski et al. (2003, Stat. Med. 22:2417) (sum d/n)^2 / sum (d/n)^2, all clusters weighing the same;
    Obuchowski (1998, Stat. Med. 17:1495) (K-1)/K (sum d)^2 / sum d^2, as simplified by Yang, Sun & Hardin;
    Yang, Sun & Hardin (2010, Biometrical J. 52:638) the same over the mean of sum d^2 and the sum of squares about
    the expected d. Raises ValueError for unlike lengths, fewer than two clusters, or counts that do not fit.
    """
    first, second, n = (np.asarray(column, dtype=np.float64) for column in (only_first, only_second, sizes))
    if not first.shape == second.shape == n.shape or first.ndim != 1 or first.size < 2:
        raise ValueError("give the counts of at least two clusters, three numbers each")
    if bool((np.minimum(first, second) < 0).any()) or bool((first + second > n).any()) or bool((n < 1).any()):
        raise ValueError("a cluster's discordant counts are negative or more than its pairs")
    d, clusters = first - second, len(n)
    if not bool(d.any()):
        return ClusteredMcNemar(None, None, None, None, None, None, "no cluster favours either side")
    durkalski = float((d / n).sum() ** 2 / ((d / n) ** 2).sum())
    shrunk = (clusters - 1) / clusters * float(d.sum()) ** 2
    about_expected = d - n * d.sum() / n.sum()
    obuchowski = shrunk / float(d @ d)
    yang = shrunk / (float(d @ d + about_expected @ about_expected) / 2)
    return ClusteredMcNemar(durkalski, obuchowski, yang, chi2_p(durkalski, 1), chi2_p(obuchowski, 1), chi2_p(yang, 1))


def _two_by_two(counts: ArrayLike) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    cells = table(counts)
    if cells.shape != (2, 2):
        raise ValueError(f"the table must be 2 x 2, not {cells.shape[0]} x {cells.shape[1]}")
    return cells


def _tango_limits(only_first: float, only_second: float, n: float, z: float) -> tuple[float, float]:
    """Where the score statistic, which falls as the difference grows, crosses z and -z."""
    from scipy import optimize

    at = (only_first - only_second) / n

    def root(level: float, edge: float) -> float:
        if abs(at - edge) < 1e-12:
            return edge
        return float(
            optimize.brentq(
                lambda x: tango_z(only_first, only_second, n, x) - level, *sorted((at, edge * (1 - 1e-12))), xtol=1e-14
            )
        )

    return root(z, -1.0), root(-z, 1.0)


def _newcombe_limits(
    cells: np.ndarray[tuple[int, ...], np.dtype[np.float64]], confidence: float
) -> tuple[float, float]:
    """Square-and-add; the correlation has a continuity correction where it is positive."""
    n = float(cells.sum())
    rows, columns = cells.sum(axis=1), cells.sum(axis=0)
    product = float(cells[0, 0] * cells[1, 1] - cells[0, 1] * cells[1, 0])
    margins = math.sqrt(float(rows.prod() * columns.prod()))
    correlation = (max(product - n / 2, 0.0) if product > 0 else product) / margins if margins > 0 else 0.0
    first, second = float(rows[0]) / n, float(columns[0]) / n
    low_1, high_1 = proportion_interval(int(rows[0]), int(n), "wilson", confidence)
    low_2, high_2 = proportion_interval(int(columns[0]), int(n), "wilson", confidence)

    def distance(one: float, other: float) -> float:
        return math.sqrt(max(0.0, one**2 - 2 * correlation * one * other + other**2))

    difference = first - second
    return difference - distance(first - low_1, high_2 - second), difference + distance(high_1 - first, second - low_2)
