"""Corrections for many tests at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from reports.statistics.estimate import Floats, array

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def holm(p: ArrayLike) -> list[float]:
    """Holm's (1979, Scand. J. Stat. 6:65) adjusted p-values, in the order given: no false alarm among all tests."""
    values = _p_values(p)
    order = np.argsort(values, kind="stable")
    steps = np.arange(len(values), 0, -1) * values[order]
    return _restored(np.minimum(1, np.maximum.accumulate(steps)), order)


def benjamini_hochberg(p: ArrayLike) -> list[float]:
    """Benjamini & Hochberg's (1995, JRSS B 57:289) adjusted p-values: the share of false alarms among alarms."""
    values = _p_values(p)
    order = np.argsort(values, kind="stable")
    steps = len(values) / np.arange(1, len(values) + 1) * values[order]
    return _restored(np.minimum(1, np.minimum.accumulate(steps[::-1])[::-1]), order)


def adjusted(p: ArrayLike, method: Literal["bonferroni", "hommel", "fdr_by"]) -> list[float]:
    """Less used corrections, by statsmodels' names."""
    from statsmodels.stats.multitest import multipletests

    return [float(value) for value in multipletests(_p_values(p), method=method)[1]]


def _p_values(p: ArrayLike) -> Floats:
    values = array(p, "p-values")
    if values.min() < 0 or values.max() > 1:
        raise ValueError("p-values must lie in [0, 1]")
    return values


def _restored(values: Floats, order: np.ndarray[tuple[int, ...], np.dtype[np.intp]]) -> list[float]:
    restored = np.empty_like(values)
    restored[order] = values
    return [float(value) for value in restored]
