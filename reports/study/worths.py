"""More than two models on one scale: Davidson's model of all votes under a criterion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reports.statistics.estimate import Estimate
from reports.statistics.multiple import holm
from reports.study.votes import contrast, fit, log_estimate

if TYPE_CHECKING:
    import pandas as pd

    from reports.statistics.ratings import Ratings


@dataclass(frozen=True)
class Worth:
    """A model's log worth; those of a scale sum to 0."""

    model: str
    log_worth: Estimate


@dataclass(frozen=True)
class Contrast:
    """The log of the ratio of two models' worths; ``p_holm`` is corrected for all contrasts of the scale."""

    first: str
    second: str
    log_ratio: Estimate
    p: float | None
    p_holm: float | None


@dataclass(frozen=True)
class Scale:
    """Models that compare with each other, the best first; ``nu`` is Davidson's parameter of ties. Without ``worths``
    the note says why."""

    models: tuple[str, ...]
    worths: tuple[Worth, ...]
    contrasts: tuple[Contrast, ...]
    nu: float | None
    note: str = ""


def scales(votes: pd.DataFrame) -> tuple[Scale, ...]:
    """One scale of all models, or several where the votes do not place them on one.

    The models that votes connect both ways share a scale: worths are infinite where of two groups of models one never
    loses to the other and never ties with it (Ford 1957, Am. Math. Mon. 64:28). Where ties alone connect them one way,
    the worths may be infinite all the same; such a scale has a note and no worths. Empty for two models.
    """
    models = sorted({*votes["first"], *votes["second"]})
    if len(models) < 3:
        return ()
    parts = _connected(votes, models)
    if len(parts) == 1:
        return (_scale(votes, parts[0], ""),)
    note = f"{len(parts)} groups of models do not compare: between them one side never loses, or there are no votes"
    return tuple(
        _scale(votes[votes["first"].isin(part) & votes["second"].isin(part)], part, note)
        if len(part) > 1
        else Scale(part, (), (), None, note)
        for part in parts
    )


def _connected(votes: pd.DataFrame, models: list[str]) -> list[tuple[str, ...]]:
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    number = {model: index for index, model in enumerate(models)}
    not_lost = np.zeros((len(models), len(models)))
    first, second = votes["first"].map(number).to_numpy(), votes["second"].map(number).to_numpy()
    vote = votes["vote"].to_numpy()
    np.add.at(not_lost, (first[vote >= 0], second[vote >= 0]), 1)
    np.add.at(not_lost, (second[vote <= 0], first[vote <= 0]), 1)
    count, label = connected_components(csr_array(not_lost), connection="strong")
    return [tuple(model for model in models if label[number[model]] == part) for part in range(count)]


def _scale(votes: pd.DataFrame, models: tuple[str, ...], note: str) -> Scale:
    ratings, reason = fit(votes)
    if ratings is None:
        return Scale(models, (), (), None, "; ".join(filter(None, [note, reason])))
    variances = np.diag(ratings.covariance).tolist()
    found = [
        Worth(name, log_estimate(value, variance))
        for name, value, variance in zip(ratings.names, ratings.log_worth, variances, strict=True)
    ]
    found.sort(key=lambda worth: -worth.log_worth.value)
    return Scale(tuple(one.model for one in found), tuple(found), _contrasts(ratings, found), ratings.tie, note)


def _contrasts(ratings: Ratings, found: list[Worth]) -> tuple[Contrast, ...]:
    """Of every model with every one below it."""
    names = [worth.model for worth in found]
    pairs = [(one, other) for index, one in enumerate(names) for other in names[index + 1 :]]
    tested = [contrast(ratings, one, other) for one, other in pairs]
    adjusted = holm([1.0 if p is None else p for _, p in tested])
    return tuple(
        Contrast(one, other, estimate, p, None if p is None else p_holm)
        for (one, other), (estimate, p), p_holm in zip(pairs, tested, adjusted, strict=True)
    )
