"""What an annotator is given next: leases on the study's tasks, and gold and repeated pairs among them."""

from __future__ import annotations

import secrets
import uuid
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    and_,
    bindparam,
    case,
    exists,
    func,
    insert,
    join,
    or_,
    select,
    update,
)
from sqlalchemy.orm import aliased

from human_study import design
from human_study.design import Block, Design, Kind
from human_study.tables import Annotator, AssignmentRow, JudgmentRow, PairRow, Prompt, TaskRow

#: Kinds among which a block's positions are counted.
STREAM: tuple[Kind, ...] = ("main", "gold", "repeat")


@dataclass(frozen=True)
class Assignment:
    """A pair for one annotator's page, without anything that tells the models."""

    id: int
    kind: Kind
    criterion: str
    round: int
    prompt: str
    left_token: str
    right_token: str
    submit_uuid: str  # of the next vote: the same until there is one, so that sending it twice is one vote


def standing() -> ColumnElement[bool]:
    """Of judgments: those that no other supersedes."""
    later = aliased(JudgmentRow)
    return ~exists().where(later.supersedes == JudgmentRow.id)


def submit_uuid(study_id: str, assignment: int, attempts: int) -> str:
    """The key of the vote, or undo, that comes after so many others on an assignment."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{study_id}/{assignment}/{attempts}"))


# The statements are built once: building one costs ten times as much as running it, and every click runs a dozen.

ME: ColumnElement[int] = bindparam("me", type_=AssignmentRow.annotator_id.type)
_MINE = AssignmentRow.annotator_id == ME
_IN_BLOCK = and_(
    _MINE, AssignmentRow.criterion == bindparam("its_criterion"), AssignmentRow.round == bindparam("its_round")
)
_LEASED_TO_ME = and_(TaskRow.state == "leased", TaskRow.annotator_id == ME)
_LEASE = {"state": "leased", "annotator_id": ME, "lease_until": bindparam("lease")}

_RENEW = (
    update(TaskRow)
    .where(
        TaskRow.id.in_(
            select(AssignmentRow.task_id).where(
                _MINE, AssignmentRow.done.is_(False), AssignmentRow.task_id.is_not(None)
            )
        ),
        or_(TaskRow.state == "open", _LEASED_TO_ME),
    )
    .values(_LEASE)
)
_RELEASE_EXPIRED = (
    update(TaskRow)
    .where(
        TaskRow.id.in_(
            select(TaskRow.id)
            .where(
                TaskRow.study_id == bindparam("study"),
                TaskRow.state == "leased",
                TaskRow.lease_until < bindparam("now"),
            )
            .with_for_update(skip_locked=True)
        )
    )
    .values(state="open", annotator_id=None, lease_until=None)
)
_HELD = (
    select(
        AssignmentRow.id,
        AssignmentRow.kind,
        AssignmentRow.criterion,
        AssignmentRow.round,
        AssignmentRow.left_token,
        AssignmentRow.right_token,
        Prompt.text,
        select(func.count())
        .where(JudgmentRow.assignment_id == AssignmentRow.id)
        .correlate(AssignmentRow)
        .scalar_subquery()
        .label("attempts"),
    )
    .join(PairRow, AssignmentRow.pair_id == PairRow.id)
    .join(Prompt, PairRow.prompt_id == Prompt.id)
    .outerjoin(TaskRow, AssignmentRow.task_id == TaskRow.id)
    .where(_MINE, AssignmentRow.done.is_(False), or_(AssignmentRow.task_id.is_(None), _LEASED_TO_ME))
    .order_by(AssignmentRow.position)
)
_COUNTS = select(
    func.count().filter(AssignmentRow.kind.in_(STREAM)).label("stream"),
    func.count().filter(AssignmentRow.kind == "main").label("main"),
).where(_IN_BLOCK)
_its_task = aliased(TaskRow)
# A pair whose lease was lost before it was judged is as good as new.
_HAS_OR_HAD = (
    exists()
    .select_from(join(AssignmentRow, _its_task, AssignmentRow.task_id == _its_task.id))
    .where(
        _IN_BLOCK,
        AssignmentRow.pair_id == TaskRow.pair_id,
        AssignmentRow.kind == "main",
        or_(AssignmentRow.done, and_(_its_task.state == "leased", _its_task.annotator_id == ME)),
    )
)
_NEXT_TASK = (
    select(TaskRow)
    .where(
        TaskRow.study_id == bindparam("study"),
        TaskRow.criterion == bindparam("its_criterion"),
        TaskRow.round == bindparam("its_round"),
        TaskRow.state == "open",
        TaskRow.swapped == bindparam("swapped", type_=TaskRow.swapped.type),
        ~_HAS_OR_HAD,
    )
    .order_by(TaskRow.order)
    .limit(1)
    .with_for_update(skip_locked=True)
)
_TAKE = update(TaskRow).where(TaskRow.id == bindparam("task")).values(_LEASE)
_TAKE_AGAIN = (
    update(AssignmentRow)
    .where(_IN_BLOCK, AssignmentRow.pair_id == bindparam("pair"), AssignmentRow.kind == "main")
    .values(task_id=bindparam("task"))
)
_NEXT_GOLD = (
    select(PairRow.id)
    .where(
        PairRow.study_id == bindparam("study"),
        PairRow.kind == bindparam("its_kind"),
        PairRow.criterion == bindparam("its_criterion"),
        ~exists().where(_MINE, AssignmentRow.pair_id == PairRow.id),
    )
    .order_by(PairRow.id)
    .limit(1)
)
_again = aliased(AssignmentRow)
_REPEATABLE = (
    select(AssignmentRow.pair_id, (AssignmentRow.left_image == PairRow.second_image).label("swapped"))
    .join(PairRow, AssignmentRow.pair_id == PairRow.id)
    .where(
        _IN_BLOCK,
        AssignmentRow.kind == "main",
        AssignmentRow.done,
        ~exists().where(
            _again.annotator_id == ME,
            _again.pair_id == AssignmentRow.pair_id,
            _again.criterion == AssignmentRow.criterion,
            _again.round == AssignmentRow.round,
            _again.kind == "repeat",
        ),
    )
    .order_by(AssignmentRow.position)
)
_SHOWN = select(func.count()).where(_MINE)
_IMAGES = select(PairRow.first_image, PairRow.second_image).where(PairRow.id == bindparam("pair"))
_GOLD_ANSWERS = (
    select(
        func.count(AssignmentRow.id).filter(or_(JudgmentRow.id.is_(None), JudgmentRow.choice != "skip")),
        func.count(JudgmentRow.id).filter(JudgmentRow.choice.in_(("left", "right", "tie"))),
        func.count(JudgmentRow.id).filter(
            JudgmentRow.choice == case((AssignmentRow.left_image == PairRow.first_image, "left"), else_="right")
        ),
    )
    .select_from(AssignmentRow)
    .join(PairRow, AssignmentRow.pair_id == PairRow.id)
    .outerjoin(JudgmentRow, and_(JudgmentRow.assignment_id == AssignmentRow.id, standing()))
    .where(_MINE, AssignmentRow.criterion == bindparam("its_criterion"), AssignmentRow.kind == bindparam("its_kind"))
)


@dataclass(frozen=True)
class GoldAnswers:
    """How an annotator did on gold pairs of one criterion; the choice that stands counts, and a skip is none."""

    asked: int
    answered: int
    right: int


def gold_answers(
    connection: Connection, annotator: int, criterion: str, kind: Literal["gold", "qualification"]
) -> GoldAnswers:
    """How the annotator did on one kind of gold pairs."""
    row = connection.execute(_GOLD_ANSWERS, {"me": annotator, "its_criterion": criterion, "its_kind": kind}).one()
    return GoldAnswers(*row)


@dataclass(frozen=True)
class Claims:
    """One annotator's claims in one transaction, which holds the lock on the annotator's row."""

    connection: Connection
    study_id: str
    design: Design
    person: Row[Annotator]
    now: float

    def renew(self) -> None:
        """Renew the annotator's leases, and take back those that ran out but were given to nobody."""
        self.connection.execute(_RENEW, {"me": self.person.id, "lease": self._lease})

    def release_expired(self) -> None:
        """Open the tasks whose leases ran out, whoever's they were."""
        self.connection.execute(_RELEASE_EXPIRED, {"study": self.study_id, "now": self.now})

    def held(self) -> list[Assignment]:
        """The pairs to judge that are the annotator's, in order."""
        return [
            Assignment(
                id=row.id,
                kind=row.kind,
                criterion=row.criterion,
                round=row.round,
                prompt=row.text,
                left_token=row.left_token,
                right_token=row.right_token,
                submit_uuid=submit_uuid(self.study_id, row.id, row.attempts),
            )
            for row in self.connection.execute(_HELD, {"me": self.person.id})
        ]

    def claim(self) -> bool:
        """Put one more pair before the annotator; False when there is none, or none before those at hand are done."""
        for block in design.blocks(self.design, self.person.number):
            if self.design.qualification:
                found = gold_answers(self.connection, self.person.id, block.criterion, "qualification")
                if found.asked < self.design.qualification and self._assign_gold(block, "qualification"):
                    return True
                if found.right < self.design.qualification_passes:
                    return False  # either the last ones are not answered yet, or the annotator has failed
            stream, main = self.connection.execute(_COUNTS, self._block(block)).one()
            task = self._next_task(block, main)
            if task is None:
                continue
            kind = design.kind_at(self.design, self.person.number, block, stream)
            if kind == "repeat" and self._assign_repeat(block):
                return True
            if kind == "gold" and self._assign_gold(block, "gold"):
                return True
            self.connection.execute(_TAKE, {"task": task.id, "me": self.person.id, "lease": self._lease})
            again = self.connection.execute(_TAKE_AGAIN, {**self._block(block), "pair": task.pair_id, "task": task.id})
            if not again.rowcount:
                self._assign(block, "main", task.pair_id, task.swapped, task.id)
            return True
        return False

    @property
    def _lease(self) -> float:
        return self.now + 60 * self.design.lease_minutes

    def _block(self, block: Block) -> dict[str, int | str]:
        return {"me": self.person.id, "its_criterion": block.criterion, "its_round": block.round}

    def _next_gold(self, block: Block, kind: Literal["gold", "qualification"]) -> int | None:
        """The first gold pair that the annotator has not had; one of the gold follows on skipped qualification."""
        values = {"study": self.study_id, "its_criterion": block.criterion, "me": self.person.id}
        for of_kind in dict.fromkeys((kind, "gold")):
            pair: int | None = self.connection.execute(_NEXT_GOLD, {**values, "its_kind": of_kind}).scalar_one_or_none()
            if pair is not None:
                return pair
        return None

    def _next_task(self, block: Block, main: int) -> Row[TaskRow] | None:
        """The first open task on a pair that is new to the annotator, on the side that is due if there is one."""
        due = design.side_at(main, self.design.seed, "annotator", self.person.number, block)
        for swapped in (due, not due):
            values = {**self._block(block), "study": self.study_id, "swapped": swapped}
            found = self.connection.execute(_NEXT_TASK, values).one_or_none()
            if found is not None:
                return found
        return None

    def _assign_gold(self, block: Block, kind: Literal["gold", "qualification"]) -> bool:
        """Show another gold pair; False when there is none left."""
        pair = self._next_gold(block, kind)
        if pair is None:
            return False
        self._assign(block, kind, pair, design.side_at(pair, self.design.seed, kind, self.person.number))
        return True

    def _assign_repeat(self, block: Block) -> bool:
        """Show a pair of this block again, its sides swapped; False when none was judged long enough ago."""
        judged = self.connection.execute(_REPEATABLE, self._block(block)).all()
        candidates = judged[: -design.REPEAT_GAP]
        if not candidates:
            return False
        number = design.draw(len(candidates), self.design.seed, "repeat", self.person.number, block, len(judged))
        self._assign(block, "repeat", candidates[number].pair_id, not candidates[number].swapped)
        return True

    def _assign(self, block: Block, kind: Kind, pair: int, swapped: bool, task: int | None = None) -> None:
        first, second = self.connection.execute(_IMAGES, {"pair": pair}).one()
        self.connection.execute(
            insert(AssignmentRow),
            {
                "study_id": self.study_id,
                "annotator_id": self.person.id,
                "task_id": task,
                "pair_id": pair,
                "criterion": block.criterion,
                "round": block.round,
                "kind": kind,
                "position": self.connection.execute(_SHOWN, {"me": self.person.id}).scalar_one(),
                "left_image": second if swapped else first,
                "right_image": first if swapped else second,
                "left_token": secrets.token_urlsafe(16),
                "right_token": secrets.token_urlsafe(16),
                "created_at": self.now,
                "done": False,
            },
        )
