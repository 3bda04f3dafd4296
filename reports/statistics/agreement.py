"""Agreement between raters, and of a rater with himself. What is undefined is None, with the reason in ``note``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from reports.statistics.estimate import Floats, table

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Scale = Literal["nominal", "ordinal", "interval", "ratio"]


@dataclass(frozen=True)
class Coefficient:
    """1 is perfect agreement and 0 that of chance; ``standard_error`` is None where there is no formula."""

    value: float | None
    standard_error: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Agreement:
    """Coefficients (a - e) / (1 - e) that differ in e, their notion of chance; ``observed`` is a, the share of pairs of
    ratings of an item that agree."""

    observed: float | None
    fleiss: Coefficient
    ac1: Coefficient
    brennan_prediger: Coefficient
    unanimous: int
    items: int


def rating_counts(ratings: ArrayLike, categories: Sequence[float] | None = None) -> tuple[Floats, list[float]]:
    """How many raters put each unit into each category, shape (units, categories), and the categories.

    ``ratings`` has one row per rater and one column per unit, NaN where a rater skipped the unit. Categories are those
    that occur, in order, unless given. Raises ValueError for a rating that is none of them, or no rating at all.
    """
    values = np.asarray(ratings, dtype=np.float64)
    if values.ndim != 2 or bool(np.isnan(values).all()):
        raise ValueError("ratings must have one row per rater and one column per unit, and hold at least one rating")
    given = ~np.isnan(values)
    names = sorted(set(values[given].tolist())) if categories is None else list(categories)
    if not set(values[given].tolist()) <= set(names):
        raise ValueError(f"ratings outside the categories {names}")
    return np.stack([np.sum(values == name, axis=0) for name in names], axis=1).astype(float), names


def pair_counts(counts: ArrayLike) -> Floats:
    """The same as ``rating_counts`` for two raters, from their table (rows first rater, columns second)."""
    cells = _square(counts)
    size = len(cells)
    units = [
        np.eye(size)[row] + np.eye(size)[column]
        for row in range(size)
        for column in range(size)
        for _ in range(int(cells[row, column]))
    ]
    return np.stack(units)


def agreement(counts: ArrayLike) -> Agreement:
    """Agreement of any number of raters from ``rating_counts``; units may have unlike numbers of ratings.

    Fleiss' kappa (1971, Psychol. Bull. 76:378; Scott's pi for two raters), Gwet's AC1 (2008, Br. J. Math. Stat.
    Psychol. 61:29) and Brennan & Prediger's (1981, Educ. Psychol. Meas. 41:687), with missing ratings as Gwet (2014,
    Handbook of Inter-Rater Reliability, chapter 5): observed agreement from units with two ratings or more, the
    categories' shares from all.
    """
    cells = table(counts, "counts")
    cells = cells[cells.sum(axis=1) > 0]
    size = cells.sum(axis=1)
    paired = size > 1
    unanimous = int(np.count_nonzero(cells[paired].max(axis=1) == size[paired]))
    if not bool(paired.any()):
        nothing = Coefficient(None, note="no unit has two ratings")
        return Agreement(None, nothing, nothing, nothing, 0, len(cells))
    n = size[paired]
    observed = float(np.mean((np.sum(cells[paired] ** 2, axis=1) - n) / (n * (n - 1))))
    shares = np.mean(cells / size[:, None], axis=0)
    categories = len(shares)
    used = np.count_nonzero(shares)
    if categories < 2 or used < 2:
        nothing = Coefficient(None, note="all ratings are in one category: chance agreement is undefined")
        return Agreement(observed, nothing, nothing, nothing, unanimous, len(cells))
    return Agreement(
        observed,
        Coefficient(_over_chance(observed, float(shares @ shares))),
        Coefficient(_over_chance(observed, float(shares @ (1 - shares)) / (categories - 1))),
        Coefficient(_over_chance(observed, 1 / categories)),
        unanimous,
        len(cells),
    )


def krippendorff_alpha(
    counts: ArrayLike, categories: Sequence[float] | None = None, scale: Scale = "nominal"
) -> Coefficient:
    """Krippendorff's alpha (2011, Computing Krippendorff's Alpha-Reliability) from ``rating_counts``.

    ``categories`` are the values of the columns, in increasing order, which interval and ratio scales need. Undefined
    where no unit has two ratings, or those that can be paired are all in one category (the package raises there).
    """
    import krippendorff

    cells = table(counts, "counts")
    paired = cells[cells.sum(axis=1) > 1]
    if not len(paired):
        return Coefficient(None, note="no unit has two ratings")
    if np.count_nonzero(paired.sum(axis=0)) < 2:
        return Coefficient(None, note="all ratings that can be paired are in one category")
    names = np.arange(cells.shape[1], dtype=np.float64) if categories is None else np.asarray(categories, np.float64)
    if len(names) != cells.shape[1] or not bool(np.all(np.diff(names) > 0)):
        raise ValueError(f"{cells.shape[1]} categories in increasing order are needed, not {names.tolist()}")
    value = krippendorff.alpha(value_counts=cells, value_domain=names, level_of_measurement=scale)
    return Coefficient(float(value))


def cohen_kappa(counts: ArrayLike, weights: Literal["linear", "quadratic"] | None = None) -> Coefficient:
    """Cohen's kappa (1960, Educ. Psychol. Meas. 20:37) of two raters from their table, weighted on request (Cohen 1968,
    Psychol. Bull. 70:213), with the standard error of Fleiss, Cohen & Everitt (1969), by statsmodels. A rater who uses
    one category only makes it 0, without an error."""
    from statsmodels.stats.inter_rater import cohens_kappa

    cells = _square(counts)
    rows, columns = cells.sum(axis=1) / cells.sum(), cells.sum(axis=0) / cells.sum()
    if float(rows @ columns) == 1:
        return Coefficient(None, note="both raters use one category only: chance agreement is undefined")
    if 1 in (np.count_nonzero(rows), np.count_nonzero(columns)):  # statsmodels' error is rounding, or NaN
        return Coefficient(0.0, note="one rater uses one category only: whatever the other does, kappa is 0")
    result = cohens_kappa(cells, wt=weights)
    return Coefficient(float(result.kappa), float(result.std_kappa))


@dataclass(frozen=True)
class IntraclassCorrelations:
    """Shrout & Fleiss' (1979, Psychol. Bull. 86:420) six forms: one-way, two-way random, two-way mixed; of a single
    rater and of the mean of all."""

    icc11: float
    icc21: float
    icc31: float
    icc1k: float
    icc2k: float
    icc3k: float


def intraclass_correlations(ratings: ArrayLike) -> IntraclassCorrelations:
    """From a complete matrix, rows units and columns raters. Raises ValueError with fewer than two of either, a missing
    rating, or units that do not differ on any form."""
    x = np.asarray(ratings, dtype=np.float64)
    if x.ndim != 2 or min(x.shape) < 2 or not bool(np.isfinite(x).all()):
        raise ValueError("ratings must be complete, of two units and two raters at least")
    n, k = x.shape
    grand = x.mean()
    units = k * float(np.sum((x.mean(axis=1) - grand) ** 2))
    raters = n * float(np.sum((x.mean(axis=0) - grand) ** 2))
    total = float(np.sum((x - grand) ** 2))
    between, among = units / (n - 1), raters / (k - 1)
    within, residual = (total - units) / (n * (k - 1)), (total - units - raters) / ((n - 1) * (k - 1))
    if between <= 1e-12 * total or total == 0:
        raise ValueError("the units do not differ: the intra-class correlation is undefined")
    return IntraclassCorrelations(
        (between - within) / (between + (k - 1) * within),
        (between - residual) / (between + (k - 1) * residual + k * (among - residual) / n),
        (between - residual) / (between + (k - 1) * residual),
        (between - within) / between,
        (between - residual) / (between + (among - residual) / n),
        (between - residual) / between,
    )


def _over_chance(observed: float, chance: float) -> float:
    return (observed - chance) / (1 - chance)


def _square(counts: ArrayLike) -> Floats:
    cells = table(counts)
    if cells.shape[0] != cells.shape[1] or not bool(np.all(cells == np.floor(cells))):
        raise ValueError("the table must be square, of whole numbers")
    return cells
