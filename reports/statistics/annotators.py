"""How good each annotator is, and what the labels are without trusting all alike: Dawid & Skene's model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from reports.statistics.estimate import Floats, Labels, coded


@dataclass(frozen=True)
class DawidSkene:
    """``prior`` of each true class; ``posterior`` of each item's, shape (items, classes); ``confusion`` of each rater,
    shape (raters, true class, label given), rows summing to 1 (NaN where a rater met no item of that class)."""

    items: list[Any]
    raters: list[Any]
    classes: list[Any]
    prior: Floats
    posterior: Floats
    confusion: Floats
    iterations: int
    converged: bool


def dawid_skene(
    items: Labels, raters: Labels, labels: Labels, iterations: int = 1000, tolerance: float = 1e-9
) -> DawidSkene:
    """Maximum likelihood by EM from the shares of votes (Dawid & Skene 1979, Appl. Stat. 28:20).

    One entry per rating; a rater may rate an item several times. EM stops where no posterior moves by more than
    ``tolerance``, and finds a local maximum: use it beside the plain analysis. Its likelihood is as sure of itself as
    if ratings of an item were independent. Raises ValueError for unlike lengths or no rating.
    """
    n = len(items)
    if n == 0:
        raise ValueError("there are no ratings")
    item, item_names = coded(items, n, "items")
    rater, rater_names = coded(raters, n, "raters")
    label, class_names = coded(labels, n, "labels")
    given = np.zeros((len(item_names), len(rater_names), len(class_names)))
    np.add.at(given, (item, rater, label), 1)
    posterior = given.sum(axis=1) / given.sum(axis=(1, 2))[:, None]
    prior, confusion = _maximise(given, posterior)
    converged, done = False, 0
    while done < iterations and not converged:
        updated = _posterior(_log_joint(given, prior, confusion))
        prior, confusion = _maximise(given, updated)
        converged, done = bool(np.abs(updated - posterior).max() <= tolerance), done + 1
        posterior = updated
    return DawidSkene(item_names, rater_names, class_names, prior, posterior, confusion, done, converged)


def _maximise(given: Floats, posterior: Floats) -> tuple[Floats, Floats]:
    counts = np.einsum("irl,it->rtl", given, posterior, optimize=True)  # by BLAS
    totals = counts.sum(axis=2, keepdims=True)
    confusion = np.divide(counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)
    return posterior.mean(axis=0), confusion


def _log_joint(given: Floats, prior: Floats, confusion: Floats) -> Floats:
    """Of each item's ratings with each true class. A label that a rater never gave is all but impossible, not
    infinitely so: two such classes must still compare. A class that a rater never met says nothing."""
    log = np.log(np.clip(np.nan_to_num(confusion, nan=1.0), 1e-300, None))
    joint: Floats = np.log(np.clip(prior, 1e-300, None)) + np.einsum("irl,rtl->it", given, log, optimize=True)
    return joint


def _posterior(log_joint: Floats) -> Floats:
    likelihood = np.exp(log_joint - log_joint.max(axis=1, keepdims=True))
    result: Floats = likelihood / likelihood.sum(axis=1, keepdims=True)
    return result
