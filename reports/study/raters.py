"""How the annotators judged: agreement with each other, with themselves and with what is known; sides; time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from reports.statistics.agreement import Agreement, Coefficient, agreement, cohen_kappa, krippendorff_alpha
from reports.statistics.estimate import Estimate, Floats
from reports.statistics.proportions import binomial_p, proportion_interval
from reports.statistics.tables import ChiSquared, bowker, homogeneity
from reports.study.judgments import PAIR, natural
from reports.study.votes import fit, log_estimate

if TYPE_CHECKING:
    import pandas as pd

#: A kappa of two annotators is told from so many pairs of images that both judged.
SHARED = 20


@dataclass(frozen=True)
class Kappa:
    """Cohen's kappa of two annotators on the pairs of images that both judged."""

    one: str
    other: str
    shared: int
    kappa: Coefficient


@dataclass(frozen=True)
class RaterAgreement:
    """Of votes on the same two images, in the same round. Categories are the two models and, where it occurs, a tie;
    in the ordinal alpha the tie lies between. ``pairs`` of images have two votes or more."""

    pairs: int
    several: Agreement | None
    alpha_nominal: Coefficient | None
    alpha_ordinal: Coefficient | None
    kappas: tuple[Kappa, ...]
    note: str = ""


@dataclass(frozen=True)
class Position:
    """Whether the left image is chosen more often; of decisive votes.

    ``order_effect`` is the log of the left side's advantage in Davidson's model, clustered by prompt: it holds also
    where one model stood left more often. ``alike`` tests whether annotators choose left equally often.
    """

    left: int
    decisive: int
    rate: Estimate | None  # Wilson
    p: float | None  # exact, against 1/2
    order_effect: Estimate | None
    alike: ChiSquared | None
    first_left: tuple[tuple[str, str, int, int], ...]  # models, times that the first stood left, of so many
    note: str


@dataclass(frozen=True)
class Repeats:
    """The same two images put to the same annotator again. ``table``: votes for the first model, ties and votes for the
    second; rows at first, columns when repeated."""

    pairs: int
    same: Estimate | None  # Wilson
    kappa: Coefficient | None
    symmetry: ChiSquared | None
    table: tuple[tuple[int, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class KnownAnswers:
    """Pairs of which one image is known to be better; a tie is not the right answer."""

    right: int
    asked: int
    rate: Estimate | None  # Wilson
    note: str = ""


@dataclass(frozen=True)
class Annotator:
    """One annotator under all criteria. ``seconds`` is the median; shares are None where there is nothing to divide."""

    name: str
    judgments: int
    skips: int
    gold: KnownAnswers
    repeats: int
    same: int
    left_share: float | None
    tie_share: float | None
    seconds: float | None


def rater_agreement(votes: pd.DataFrame) -> RaterAgreement:
    """``votes`` of the kind main under one criterion."""
    unit = votes.groupby([name for name in PAIR if name != "criterion"], sort=False).ngroup().to_numpy()
    code = votes["vote"].to_numpy(dtype=int) + 1
    counts = np.zeros((int(unit.max()) + 1, 3))
    np.add.at(counts, (unit, code), 1)
    pairs = int(np.count_nonzero(counts.sum(axis=1) > 1))
    if not pairs:
        return RaterAgreement(0, None, None, None, (), "no two images were judged by two annotators in one round")
    # A category that never occurs, as ties under forced choice, would change AC1's notion of chance.
    used = counts[:, counts.any(axis=0)]
    kappas, note = _kappas(unit, code, votes["annotator"].to_numpy(dtype=str))
    return RaterAgreement(
        pairs, agreement(used), krippendorff_alpha(used), krippendorff_alpha(used, scale="ordinal"), kappas, note
    )


def _kappas(unit: Sequence[int], code: Sequence[int], annotator: Sequence[str]) -> tuple[tuple[Kappa, ...], str]:
    given: dict[str, dict[int, int]] = {}
    for one_unit, one_code, name in zip(unit, code, annotator, strict=True):
        given.setdefault(name, {})[one_unit] = one_code
    if list(given) == [""]:
        return (), "no kappas of two annotators: the judgments do not say whose they are"
    found = []
    for one, other in combinations(sorted(given, key=natural), 2):
        shared = given[one].keys() & given[other].keys()
        if len(shared) >= SHARED:
            table = _table([given[one][key] for key in shared], [given[other][key] for key in shared])
            found.append(Kappa(one, other, len(shared), cohen_kappa(table)))
    return tuple(found), "" if found else f"no two annotators judged {SHARED} pairs of images in common"


def position(votes: pd.DataFrame) -> Position:
    """``votes`` of the kind main under one criterion."""
    decisive = votes[votes["vote"] != 0]
    chose_left = ((decisive["vote"] == 1) == decisive["first_left"]).to_numpy()
    left, n = int(chose_left.sum()), len(chose_left)
    sides = tuple(
        (first, second, int(part["first_left"].sum()), len(part))
        for (first, second), part in votes.groupby(["first", "second"])
    )
    one_sided = [f"{first} and {second}" for first, second, times, of in sides if times in (0, of)]
    if one_sided:
        note = f"{', '.join(one_sided)} never changed sides: a preference for a side is not told from one for a model"
        return Position(left, n, None, None, None, None, sides, note)
    ratings, note = fit(votes, order_effect=True)
    effect = None
    if ratings is not None and ratings.order is not None and ratings.order_standard_error is not None:
        effect = log_estimate(ratings.order, ratings.order_standard_error**2)
    return Position(
        left,
        n,
        Estimate(left / n, *proportion_interval(left, n)) if n else None,
        binomial_p(left, n) if n else None,
        effect,
        _alike(decisive["annotator"].to_numpy(dtype=str), chose_left),
        sides,
        note,
    )


def _alike(annotator: np.ndarray[tuple[int], np.dtype[np.str_]], chose_left: Floats) -> ChiSquared | None:
    rows = [
        [np.count_nonzero(chose_left[annotator == name]), np.count_nonzero(~chose_left[annotator == name])]
        for name in sorted(set(annotator))
    ]
    try:
        return homogeneity(rows).test if len(rows) > 1 else None
    except ValueError:  # all chose one side
        return None


def repeats(judgments: pd.DataFrame) -> Repeats:
    """``judgments`` of all kinds under one criterion."""
    both = _repeated(judgments)
    if not len(both):
        again = bool((judgments["kind"] == "repeat").any())
        return Repeats(0, None, None, None, (), "no repeat of a vote was found" if again else "no pair was repeated")
    table = _table(*(1 - both[name].to_numpy(dtype=int) for name in ("vote", "vote_again")))
    same, n = int(np.trace(table)), int(table.sum())
    used = np.flatnonzero(table.sum(axis=0) + table.sum(axis=1))
    symmetry = bowker(table[np.ix_(used, used)]) if len(used) > 1 else None
    rate = Estimate(same / n, *proportion_interval(same, n))
    return Repeats(n, rate, cohen_kappa(table), symmetry, tuple(tuple(map(int, row)) for row in table))


def _repeated(judgments: pd.DataFrame) -> pd.DataFrame:
    """Votes of known annotators that were repeated, with ``vote_again``."""
    voted = judgments[judgments["vote"].notna() & (judgments["annotator"] != "")]
    key = [*PAIR, "annotator"]
    main, again = (voted.loc[voted["kind"] == kind, [*key, "vote"]] for kind in ("main", "repeat"))
    return main.merge(again, on=key, suffixes=("", "_again"))


def known_answers(judgments: pd.DataFrame) -> KnownAnswers:
    """Gold pairs of ``judgments``; those of the qualification, whose failures do not go on, do not count."""
    right = judgments.loc[judgments["kind"] == "gold", "right"].dropna()
    n, k = len(right), int(right.sum())
    if not n:
        return KnownAnswers(0, 0, None, "no pair has a known answer")
    return KnownAnswers(k, n, Estimate(k / n, *proportion_interval(k, n)))


def annotators(judgments: pd.DataFrame) -> tuple[Annotator, ...]:
    """Everyone who made a judgment of the kind main, of ``judgments`` under all criteria; none where unnamed."""
    main = judgments[judgments["kind"] == "main"]
    names = sorted(set(main["annotator"]) - {""}, key=natural)
    repeated = _repeated(judgments)
    return tuple(
        _annotator(
            name,
            judgments[judgments["annotator"] == name],
            main[main["annotator"] == name],
            repeated[repeated["annotator"] == name],
        )
        for name in names
    )


def _annotator(name: str, judgments: pd.DataFrame, main: pd.DataFrame, repeated: pd.DataFrame) -> Annotator:
    votes = main[main["vote"].notna()]
    decisive = votes[votes["vote"] != 0]
    left = (decisive["vote"] == 1) == decisive["first_left"]
    seconds = main["seconds"].median()
    return Annotator(
        name=name,
        judgments=len(votes),
        skips=len(main) - len(votes),
        gold=known_answers(judgments),
        repeats=len(repeated),
        same=int((repeated["vote"] == repeated["vote_again"]).sum()),
        left_share=float(left.mean()) if len(left) else None,
        tie_share=1 - len(decisive) / len(votes) if len(votes) else None,
        seconds=None if np.isnan(seconds) else float(seconds),
    )


def _table(rows: Sequence[int], columns: Sequence[int]) -> Floats:
    """How often each of the categories 0, 1, 2 fell together with each."""
    table = np.zeros((3, 3))
    np.add.at(table, (np.asarray(rows), np.asarray(columns)), 1)
    return table
