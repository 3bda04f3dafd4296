"""How a study goes, without saying which model leads."""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from sqlalchemy import Connection, bindparam, exists, func, select
from sqlalchemy.orm import aliased

from human_study.claims import STREAM, gold_answers, standing
from human_study.store import Person, Store
from human_study.tables import AssignmentRow, ImageRow, JudgmentRow, PairRow, TaskRow

#: The time left is told from the judgments of the last so many seconds.
RECENT = 600.0
#: An annotator whose median time is under this share of the median annotator's is marked as fast.
FAST = 0.5


@dataclass(frozen=True)
class Progress:
    """``seconds_left`` is None while there are too few judgments to tell."""

    own: int  # votes and skips of the annotator that stand
    can_undo: bool
    done: int
    total: int
    seconds_left: float | None


@dataclass(frozen=True)
class AnnotatorReport:
    """One annotator. Shares and medians are None where there is nothing to divide."""

    person: Person
    judgments: int  # main ones that stand, without skips
    skips: int
    gold_right: int
    gold_asked: int  # without skips: an image may not have loaded
    repeats_same: int
    repeats: int
    left_share: float | None  # of choices that are not ties
    tie_share: float | None
    median_seconds: float | None
    fast: bool
    last_at: float | None


# Built once, see human_study.claims.
_TASKS = select(func.count().filter(TaskRow.state == "done"), func.count()).where(
    TaskRow.study_id == bindparam("study")
)
_OWN = select(func.count()).where(AssignmentRow.annotator_id == bindparam("me"), AssignmentRow.done)
_LAST_KIND = (
    select(AssignmentRow.kind)
    .where(AssignmentRow.annotator_id == bindparam("me"), AssignmentRow.done)
    .order_by(AssignmentRow.position.desc())
    .limit(1)
)
_RECENT = (
    select(func.count(), func.min(JudgmentRow.created_at))
    .join(AssignmentRow, JudgmentRow.assignment_id == AssignmentRow.id)
    .where(AssignmentRow.study_id == bindparam("study"), JudgmentRow.created_at > bindparam("after"))
)


def progress(store: Store, annotator: int) -> Progress:
    """How far the study and one annotator are."""
    now = time.time()
    with store.reading() as connection:
        done, total = _tasks(connection, store)
        own = connection.execute(_OWN, {"me": annotator}).scalar_one()
        last = connection.execute(_LAST_KIND, {"me": annotator}).scalar_one_or_none()
        recent, since = connection.execute(_RECENT, {"study": store.id, "after": now - RECENT}).one()
    left = (total - done) * (now - since) / recent if recent >= 5 else None
    return Progress(own, last in STREAM, done, total, left)


def tasks(store: Store) -> tuple[int, int]:
    """How many main judgments the study has, and wants."""
    with store.reading() as connection:
        return _tasks(connection, store)


def _tasks(connection: Connection, store: Store) -> tuple[int, int]:
    done, total = connection.execute(_TASKS, {"study": store.id}).one()
    return done, total


def waiting(store: Store, annotator: int) -> bool:
    """Whether others hold pairs that may yet come to this annotator, who has nothing to do."""
    mine = aliased(AssignmentRow)
    had = exists().where(
        mine.annotator_id == annotator,
        mine.pair_id == TaskRow.pair_id,
        mine.criterion == TaskRow.criterion,
        mine.round == TaskRow.round,
        mine.kind == "main",
        mine.done,
    )
    with store.reading() as connection:
        return bool(
            connection.execute(
                select(exists().where(TaskRow.study_id == store.id, TaskRow.state == "leased", ~had))
            ).scalar_one()
        )


def disqualified(store: Store, annotator: int) -> bool:
    """Whether the annotator has failed the qualification of some criterion for good."""
    allowed = store.design.qualification - store.design.qualification_passes
    with store.reading() as connection:
        for criterion in store.design.criteria:
            found = gold_answers(connection, annotator, criterion.key, "qualification")
            if found.answered - found.right > allowed:
                return True
    return False


@dataclass(frozen=True)
class _Shown:
    """A standing judgment of any kind, with its choice told by image: first, second, tie or skip."""

    annotator: int
    pair: int
    criterion: str
    round: int
    kind: str
    surplus: bool
    choice: str
    image: str
    ms: int
    at: float


def _standing(store: Store) -> list[_Shown]:
    with store.reading() as connection:
        rows = connection.execute(
            select(
                AssignmentRow.annotator_id,
                AssignmentRow.pair_id,
                AssignmentRow.criterion,
                AssignmentRow.round,
                AssignmentRow.kind,
                JudgmentRow.surplus,
                JudgmentRow.choice,
                JudgmentRow.ms_total,
                JudgmentRow.created_at,
                (AssignmentRow.left_image == PairRow.first_image).label("first_left"),
            )
            .join(AssignmentRow, JudgmentRow.assignment_id == AssignmentRow.id)
            .join(PairRow, AssignmentRow.pair_id == PairRow.id)
            .where(AssignmentRow.study_id == store.id, AssignmentRow.done, standing())
            .order_by(JudgmentRow.id)
        ).all()
    return [
        _Shown(
            annotator=row.annotator_id,
            pair=row.pair_id,
            criterion=row.criterion,
            round=row.round,
            kind=row.kind,
            surplus=row.surplus,
            choice=row.choice,
            image=_image(row.choice, row.first_left),
            ms=row.ms_total,
            at=row.created_at,
        )
        for row in rows
    ]


def _image(choice: str, first_left: bool) -> str:
    if choice not in ("left", "right"):
        return choice
    return "first" if (choice == "left") == first_left else "second"


def annotators(store: Store) -> list[AnnotatorReport]:
    """A report of every annotator, in order of enrolment."""
    by_annotator: dict[int, list[_Shown]] = defaultdict(list)
    for shown in _standing(store):
        by_annotator[shown.annotator].append(shown)
    people = [person for person in store.people() if person.role == "annotator"]
    times = {person.id: [one.ms for one in by_annotator[person.id] if one.choice != "skip"] for person in people}
    medians = {person: median(of_person) / 1000 for person, of_person in times.items() if of_person}
    return [_report(person, by_annotator[person.id], medians) for person in people]


def _report(person: Person, shown: Sequence[_Shown], medians: dict[int, float]) -> AnnotatorReport:
    choices, voted = Counter(one.choice for one in shown), [one for one in shown if one.choice != "skip"]
    main = {(one.pair, one.criterion, one.round): one.image for one in voted if one.kind == "main"}
    repeats = [
        one.image == main[one.pair, one.criterion, one.round]
        for one in voted
        if one.kind == "repeat" and (one.pair, one.criterion, one.round) in main
    ]
    answered = [one for one in voted if one.kind in ("gold", "qualification")]
    sided = choices["left"] + choices["right"]
    others = [seconds for other, seconds in medians.items() if other != person.id]
    own = medians.get(person.id)
    return AnnotatorReport(
        person=person,
        judgments=sum(one.kind == "main" for one in voted),
        skips=choices["skip"],
        gold_right=sum(one.image == "first" for one in answered),
        gold_asked=len(answered),
        repeats_same=sum(repeats),
        repeats=len(repeats),
        left_share=choices["left"] / sided if sided else None,
        tie_share=choices["tie"] / len(voted) if voted else None,
        median_seconds=own,
        fast=bool(others) and own is not None and own < FAST * median(others),
        last_at=max((one.at for one in shown), default=None),
    )


@dataclass(frozen=True)
class Criterion:
    """Agreement under one criterion; the coefficients are None where they are undefined."""

    title: str
    pairs: int  # with two votes or more
    equal: float | None  # share of pairs of votes on the same pair of images that are equal
    ac1: float | None
    alpha: float | None  # Krippendorff's, nominal


def agreement(store: Store) -> list[Criterion]:
    """How far annotators agree on which of two images is better. Says nothing about whose images they are."""
    from reports.statistics.agreement import agreement, krippendorff_alpha

    reports = []
    for criterion in store.design.criteria:
        votes: dict[tuple[int, int], Counter[str]] = defaultdict(Counter)
        for one in _standing(store):
            if one.kind == "main" and one.criterion == criterion.key and one.choice != "skip":
                votes[one.pair, one.round][one.image] += 1
        # As in the results, a category that never occurs is none: it would change AC1's notion of chance.
        used = [image for image in ("first", "second", "tie") if any(of_pair[image] for of_pair in votes.values())]
        counts = [[of_pair[image] for image in used] for of_pair in votes.values()]
        several = sum(sum(of_pair) > 1 for of_pair in counts)
        if not several:
            reports.append(Criterion(criterion.title, 0, None, None, None))
            continue
        found = agreement(counts)
        alpha = krippendorff_alpha(counts)
        reports.append(Criterion(criterion.title, several, found.observed, found.ac1.value, alpha.value))
    return reports


@dataclass(frozen=True)
class Evidence:
    """Of a study set to sequential monitoring: on how many prompts each of two models leads, and the e-value."""

    criterion: str
    first: str
    second: str
    first_leads: int
    second_leads: int
    e_value: float


def evidence(store: Store) -> list[Evidence]:
    """Which model leads, by prompts: judgments of one prompt depend on each other, and e-values need independence.

    A prompt counts once all its judgments under the criterion are there: a sign that later votes may turn would make
    the e-value exceed 20 more often than once in 20 studies of equal models.

    Raises PermissionError unless the study was created for sequential monitoring: who peeks at a study of fixed size
    and stops when it looks good finds differences that are not there.
    """
    from reports.statistics.sequential import log_e_value

    if store.design.monitoring != "sequential":
        raise PermissionError("this study is not set to sequential monitoring")
    names, unfinished = _models(store), _unfinished(store)
    margins: dict[tuple[str, str, str], Counter[int]] = defaultdict(Counter)
    for one in _standing(store):
        if one.kind == "main" and not one.surplus and (one.pair, one.criterion) not in unfinished:
            prompt, first, second = names[one.pair]
            margins[one.criterion, first, second][prompt] += {"first": 1, "second": -1}.get(one.image, 0)
    found = []
    for (criterion, first, second), of_prompts in sorted(margins.items()):
        leads = sum(margin > 0 for margin in of_prompts.values())
        trails = sum(margin < 0 for margin in of_prompts.values())
        e_value = math.exp(min(log_e_value(leads, trails), 700.0))
        found.append(Evidence(criterion, first, second, leads, trails, e_value))
    return found


def _unfinished(store: Store) -> set[tuple[int, str]]:
    """Pair and criterion of which judgments are still to come."""
    with store.reading() as connection:
        return {
            (row.pair_id, row.criterion)
            for row in connection.execute(
                select(TaskRow.pair_id, TaskRow.criterion).where(TaskRow.study_id == store.id, TaskRow.state != "done")
            )
        }


def _models(store: Store) -> dict[int, tuple[int, str, str]]:
    """Prompt, first and second model of every main pair."""
    first, second = aliased(ImageRow), aliased(ImageRow)
    with store.reading() as connection:
        rows = connection.execute(
            select(PairRow.id, PairRow.prompt_id, first.model.label("first"), second.model.label("second"))
            .join(first, PairRow.first_image == first.id)
            .join(second, PairRow.second_image == second.id)
            .where(PairRow.study_id == store.id, PairRow.kind == "main")
        ).all()
    return {row.id: (row.prompt_id, row.first, row.second) for row in rows}
