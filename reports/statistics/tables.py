"""Contingency tables of more than two categories, several runs or several strata, and rank tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from reports.statistics.estimate import Floats, array, chi2_p, table

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


@dataclass(frozen=True)
class ChiSquared:
    """A statistic with ``df`` degrees of freedom and its p-value."""

    statistic: float
    df: int
    p: float
    note: str = ""


def bowker(counts: ArrayLike) -> ChiSquared:
    """Bowker's (1948, JASA 43:572) test that a square table is symmetric; McNemar's for 2 x 2.

    Pairs of categories that never occur add nothing to the statistic, and stay in df = K(K-1)/2, which errs to the
    large p (statsmodels' shift_zeros=True changes the statistic instead). Nothing off the diagonal: p is 1.
    """
    cells = _square(counts)
    above, below = cells[np.triu_indices(len(cells), 1)], cells.T[np.triu_indices(len(cells), 1)]
    total = above + below
    statistic = float(np.sum((above - below)[total > 0] ** 2 / total[total > 0]))
    empty = int(np.count_nonzero(total == 0))
    note = f"{empty} pairs of categories never occur; they count in df" if empty else ""
    return ChiSquared(statistic, len(total), chi2_p(statistic, len(total)), note)


def marginal_homogeneity(
    counts: ArrayLike, method: Literal["stuart_maxwell", "bhapkar"] = "stuart_maxwell"
) -> ChiSquared:
    """Whether rows and columns of a square table have the same marginal distribution.

    Stuart (1955, Biometrika 42:412) and Maxwell (1970), or Bhapkar (1966, JASA 61:228). Categories that never occur
    off the diagonal are dropped. Nothing off the diagonal: p is 1. Raises ValueError where the statistic is undefined.
    """
    from statsmodels.stats.contingency_tables import SquareTable

    cells = _square(counts)
    off = cells - np.diag(np.diag(cells))
    used = (off.sum(axis=0) + off.sum(axis=1)) > 0
    if not bool(used.any()):
        return ChiSquared(0.0, len(cells) - 1, 1.0, "nothing off the diagonal")
    result = SquareTable(cells[np.ix_(used, used)], shift_zeros=False).homogeneity(method=method)
    if not np.isfinite(result.statistic):
        raise ValueError("the test is undefined: the differences of the margins have a singular covariance")
    dropped = int(np.count_nonzero(~used))
    note = f"{dropped} categories never occur off the diagonal" if dropped else ""
    return ChiSquared(float(result.statistic), int(result.df), float(result.pvalue), note)


def cochran_q(outcomes: ArrayLike) -> ChiSquared:
    """Cochran's (1950, Biometrika 37:256) Q: do several runs (columns) have the same share of 1 on the same items
    (rows)? Outcomes are 0 or 1. All items alike under all runs: p is 1."""
    x = np.asarray(outcomes, dtype=np.float64)
    if x.ndim != 2 or x.shape[1] < 2 or not bool(np.all((x == 0) | (x == 1))):
        raise ValueError("outcomes must be 0 or 1, one row per item and one column per run, two at least")
    items, runs = x.sum(axis=1), x.sum(axis=0)
    k = x.shape[1]
    below = k * items.sum() - float(items @ items)
    if below == 0:
        return ChiSquared(0.0, k - 1, 1.0, "every item has the same outcome under all runs")
    statistic = float((k - 1) * (k * float(runs @ runs) - runs.sum() ** 2) / below)
    return ChiSquared(statistic, k - 1, chi2_p(statistic, k - 1))


def friedman(values: ArrayLike) -> ChiSquared:
    """Friedman's (1937, JASA 32:675) rank test, corrected for ties: rows are items, columns three runs or more."""
    from scipy import stats

    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 2 or x.shape[1] < 3 or not bool(np.isfinite(x).all()):
        raise ValueError("values must be finite, one row per item and one column per run, three at least")
    if bool(np.all(x == x[:, :1])):
        return ChiSquared(0.0, x.shape[1] - 1, 1.0, "every item has the same value under all runs")
    result = stats.friedmanchisquare(*x.T)
    return ChiSquared(float(result.statistic), x.shape[1] - 1, float(result.pvalue))


@dataclass(frozen=True)
class SignedRank:
    """``positive`` is the sum of the ranks of positive differences, R's V."""

    positive: float
    p: float
    p_greater: float
    note: str = ""


def wilcoxon(differences: ArrayLike, zeros: Literal["wilcox", "pratt"] = "wilcox") -> SignedRank:
    """Wilcoxon's signed-rank test of one difference per independent group.

    ``wilcox`` drops zeros before ranking, ``pratt`` (1959, JASA 54:655) after. Exact where scipy can (no ties, up to
    50 differences). All differences 0: p is 1.
    """
    from scipy import stats

    d = array(differences, "differences")
    if not bool(d.any()):
        return SignedRank(0.0, 1.0, 1.0, "all differences are 0")
    two_sided = stats.wilcoxon(d, zero_method=zeros)
    greater = stats.wilcoxon(d, zero_method=zeros, alternative="greater")
    return SignedRank(float(greater.statistic), float(two_sided.pvalue), float(greater.pvalue))


@dataclass(frozen=True)
class Homogeneity:
    """Pearson's chi-squared, the counts expected if all rows were alike, and Cramer's V in [0, 1]."""

    test: ChiSquared
    expected: Floats
    cramers_v: float


def homogeneity(counts: ArrayLike) -> Homogeneity:
    """Whether the rows of a table (rounds) have the same distribution over its columns (win, tie, loss).

    Columns and rows without counts are left out. Raises ValueError with fewer than two rows or columns left.
    """
    from scipy import stats

    cells = table(counts)
    cells = cells[cells.sum(axis=1) > 0][:, cells.sum(axis=0) > 0]
    if min(cells.shape) < 2:
        raise ValueError("homogeneity needs at least two rows and two columns with counts")
    result = stats.chi2_contingency(cells, correction=False)
    smallest = float(result.expected_freq.min())
    note = f"smallest expected count {smallest:.1f}: the p-value is rough" if smallest < 5 else ""
    v = float(np.sqrt(result.statistic / (cells.sum() * (min(cells.shape) - 1))))
    test = ChiSquared(float(result.statistic), int(result.dof), float(result.pvalue), note)
    return Homogeneity(test, result.expected_freq, v)


@dataclass(frozen=True)
class MantelHaenszel:
    """Pooled odds ratio with Robins, Breslow & Greenland's 95 % limits; the test that it is 1; the tests that it is
    the same in all strata (Breslow & Day, and with Tarone's correction)."""

    odds_ratio: float
    low: float
    high: float
    association: ChiSquared
    equal_odds: ChiSquared
    equal_odds_tarone: ChiSquared


def mantel_haenszel(tables: ArrayLike) -> MantelHaenszel:
    """2 x 2 tables of several strata (rounds, categories), shape (strata, 2, 2), by statsmodels' StratifiedTable.

    The test of association has no continuity correction. Raises ValueError where the pooled ratio is 0 or infinite.
    """
    from statsmodels.stats.contingency_tables import StratifiedTable

    cells = np.asarray(tables, dtype=np.float64)
    if cells.ndim != 3 or cells.shape[1:] != (2, 2) or not bool((cells >= 0).all()):
        raise ValueError("tables must be counts of the shape (strata, 2, 2)")
    totals = cells.sum(axis=(1, 2))
    cells, totals = cells[totals > 1], totals[totals > 1]
    concordant = float(np.sum(cells[:, 0, 0] * cells[:, 1, 1] / totals))
    discordant = float(np.sum(cells[:, 0, 1] * cells[:, 1, 0] / totals))
    if not concordant or not discordant:
        raise ValueError("the pooled odds ratio is 0, infinite or undefined")
    pooled = StratifiedTable(list(cells))
    low, high = pooled.oddsratio_pooled_confint()
    association, equal = pooled.test_null_odds(correction=False), pooled.test_equal_odds()
    tarone = pooled.test_equal_odds(adjust=True)
    return MantelHaenszel(
        float(pooled.oddsratio_pooled),
        float(low),
        float(high),
        ChiSquared(float(association.statistic), 1, float(association.pvalue)),
        ChiSquared(float(equal.statistic), len(cells) - 1, float(equal.pvalue)),
        ChiSquared(float(tarone.statistic), len(cells) - 1, float(tarone.pvalue)),
    )


def _square(counts: ArrayLike) -> Floats:
    cells = table(counts)
    if cells.shape[0] != cells.shape[1] or len(cells) < 2:
        raise ValueError(f"the table must be square, of two categories or more, not of shape {cells.shape}")
    return cells
