"""All results of a study from its judgments alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.types import BenchError
from reports.statistics.multiple import holm
from reports.study.automatic import AutomaticScores, check_matched
from reports.study.judgments import clean
from reports.study.preference import Comparison, compare, permutation
from reports.study.raters import (
    Annotator,
    KnownAnswers,
    Position,
    RaterAgreement,
    Repeats,
    annotators,
    known_answers,
    position,
    rater_agreement,
    repeats,
)
from reports.study.worths import Scale, scales

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Criterion:
    """Everything under one criterion. ``judgments`` are votes of the kind main, without ``skips``; ``planned`` is None
    where it is not known. ``seconds`` is the median of a judgment."""

    name: str
    judgments: int
    planned: int | None
    skips: int
    surplus: int
    prompts: int
    annotators: int
    seconds: float | None
    comparisons: tuple[Comparison, ...]
    scales: tuple[Scale, ...]
    position: Position
    agreement: RaterAgreement
    repeats: Repeats
    gold: KnownAnswers


@dataclass(frozen=True)
class Results:
    """``unjudged`` criteria have no vote of the kind main yet. ``distrusted`` annotators passed less than
    ``trusted_from`` of the gold pairs; their votes count all the same, except in the variant that says so."""

    models: tuple[str, ...]
    criteria: tuple[Criterion, ...]
    unjudged: tuple[str, ...]
    annotators: tuple[Annotator, ...]
    rows: int  # of the table that was given, undone judgments and all kinds included
    trusted_from: float | None
    distrusted: tuple[str, ...]
    seed: int

    @property
    def comparisons(self) -> list[Comparison]:
        """Of all criteria."""
        return [one for criterion in self.criteria for one in criterion.comparisons]

    def to_json(self) -> str:
        """Every number with all its digits; what is not known is null."""
        return json.dumps(asdict(self), indent=1, sort_keys=True, allow_nan=False)


def analyse(
    judgments: pd.DataFrame,
    lead: str | None = None,
    trusted_from: float | None = None,
    planned: Mapping[str, int] | None = None,
    scores: Sequence[AutomaticScores] = (),
    seed: int = 0,
) -> Results:
    """The results of ``judgments``, a table with the columns of ``reports.study.judgments``.

    ``lead`` is the model that is named first in its pairs, so that a positive margin is in its favour.
    ``trusted_from`` is a share in [0, 1] of gold pairs, to be fixed before the judgments are seen. ``planned`` are the
    judgments that each criterion should have; ``scores`` the automatic ones of the same prompts.
    Raises BenchError for a table that is not as documented, has no vote, or shares no prompt with the scores, and for a
    ``lead`` or ``trusted_from`` that cannot be.
    """
    if trusted_from is not None and not 0 <= trusted_from <= 1:
        raise BenchError(f"the share of gold pairs to pass must lie between 0 and 1, not {trusted_from}")
    rows = clean(judgments, lead)
    main = rows[rows["kind"] == "main"]
    votes = main[main["vote"].notna()]
    check_matched(votes["prompt"].unique().tolist(), scores)
    everyone = annotators(rows)
    distrusted = tuple(one.name for one in everyone if _fails(one, trusted_from))
    parts = [part for _, part in votes.groupby(["criterion", "first", "second"])]
    tests = [permutation(part, seed) for part in parts]
    adjusted = holm([test.p for test in tests])
    comparisons = [
        compare(part, test, p_holm, distrusted, trusted_from, scores)
        for part, test, p_holm in zip(parts, tests, adjusted, strict=True)
    ]
    by_criterion = {name: [one for one in comparisons if one.criterion == name] for name in rows["criterion"].unique()}
    return Results(
        models=tuple(sorted({*votes["first"], *votes["second"]}, key=lambda name: (name != lead, name))),
        criteria=tuple(
            _criterion(rows[rows["criterion"] == name], of_name, (planned or {}).get(name))
            for name, of_name in by_criterion.items()
            if of_name
        ),
        unjudged=tuple(name for name, of_name in by_criterion.items() if not of_name),
        annotators=everyone,
        rows=len(judgments),
        trusted_from=trusted_from,
        distrusted=distrusted,
        seed=seed,
    )


def _fails(annotator: Annotator, trusted_from: float | None) -> bool:
    rate = annotator.gold.rate
    return trusted_from is not None and rate is not None and rate.value < trusted_from


def _criterion(rows: pd.DataFrame, comparisons: Sequence[Comparison], planned: int | None) -> Criterion:
    main = rows[rows["kind"] == "main"]
    votes = main[main["vote"].notna()]
    seconds = main["seconds"].median()
    return Criterion(
        name=comparisons[0].criterion,
        judgments=len(votes),
        planned=planned,
        skips=len(main) - len(votes),
        surplus=int(main["surplus"].sum()),
        prompts=votes["prompt"].nunique(),
        annotators=len(set(votes["annotator"]) - {""}),
        seconds=None if np.isnan(seconds) else float(seconds),
        comparisons=tuple(comparisons),
        scales=scales(votes),
        position=position(votes),
        agreement=rater_agreement(votes),
        repeats=repeats(rows),
        gold=known_answers(rows),
    )
