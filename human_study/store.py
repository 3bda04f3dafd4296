"""A study in its database: handing out pairs and taking judgments, by any number of processes at once.

Every public method is one transaction. In SQLite writers take turns; in PostgreSQL a claim locks its annotator and
skips tasks that others are claiming, and a submit locks its assignment and task, in this order.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import Literal, get_args

from sqlalchemy import Connection, Engine, Row, and_, bindparam, func, insert, or_, select, update
from sqlalchemy.orm import aliased

from benchmarks.types import BenchError, Json
from human_study import audit, database, design
from human_study.claims import STREAM, Assignment, Claims, submit_uuid
from human_study.design import Choice, Design, Pair
from human_study.tables import (
    Annotator,
    AssignmentRow,
    ImageRow,
    JudgmentRow,
    PairRow,
    Prompt,
    StudyRow,
    TaskRow,
)

#: An annotator holds the pair on the screen and the next one, whose images the browser fetches ahead.
HELD = 2
#: A vote's time, at most: it must fit into the database's integers.
LONGEST_MS = 2**31 - 1
#: Characters of what a page tells about itself, at most.
LARGEST_PAGE = 2000


class RefusedError(Exception):
    """A request that no honest page makes: another annotator's pair, an unknown one, a vote before the images."""


@dataclass(frozen=True)
class StoredImage:
    """An image file of the study by its digest, with its size in pixels."""

    sha256: str
    width: int
    height: int


@dataclass(frozen=True)
class Vote:
    """What a page sends. Times in milliseconds since both images were loaded."""

    assignment: int
    choice: Choice
    submit_uuid: str
    ms_visible: int
    ms_total: int
    page: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True)
class Undo:
    """The row that takes a vote back."""

    assignment: int
    submit_uuid: str
    choice: Literal["undo"] = "undo"
    ms_visible: int = 0
    ms_total: int = 0
    page: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True)
class Person:
    """Someone enrolled; ``number`` counts from 0 within the role."""

    id: int
    number: int
    name: str
    role: Literal["annotator", "admin"]
    consented: bool


# Built once, see human_study.claims.
_LOCK_ANNOTATOR = (
    select(Annotator)
    .where(Annotator.id == bindparam("me"), Annotator.study_id == bindparam("study"))
    .with_for_update(key_share=True)
)
_LOCK_ASSIGNMENT = (
    select(AssignmentRow)
    .where(
        AssignmentRow.id == bindparam("assignment"),
        AssignmentRow.annotator_id == bindparam("me"),
        AssignmentRow.study_id == bindparam("study"),
    )
    .with_for_update()
)
_LAST_DONE = (
    select(AssignmentRow)
    .join(JudgmentRow, JudgmentRow.assignment_id == AssignmentRow.id)
    .where(
        AssignmentRow.annotator_id == bindparam("me"), AssignmentRow.study_id == bindparam("study"), AssignmentRow.done
    )
    .order_by(JudgmentRow.id.desc())
    .limit(1)
)
_CHAIN = (
    select(JudgmentRow.id, JudgmentRow.choice)
    .where(JudgmentRow.assignment_id == bindparam("assignment"))
    .order_by(JudgmentRow.id)
)
_INSERT_JUDGMENT = insert(JudgmentRow).returning(JudgmentRow)
_SET_DONE = update(AssignmentRow).where(AssignmentRow.id == bindparam("assignment")).values(done=bindparam("now_done"))
_IMAGE = (
    select(ImageRow.sha256)
    .select_from(AssignmentRow)
    .join(
        ImageRow,
        or_(
            and_(AssignmentRow.left_token == bindparam("token"), AssignmentRow.left_image == ImageRow.id),
            and_(AssignmentRow.right_token == bindparam("token"), AssignmentRow.right_image == ImageRow.id),
        ),
    )
    .where(
        AssignmentRow.annotator_id == bindparam("me"),
        or_(AssignmentRow.left_token == bindparam("token"), AssignmentRow.right_token == bindparam("token")),
    )
)
_LOCK_TASK = select(TaskRow).where(TaskRow.id == bindparam("task")).with_for_update()
_SET_TASK = (
    update(TaskRow)
    .where(TaskRow.id == bindparam("task"))
    .values(state=bindparam("new_state"), annotator_id=bindparam("holder"), lease_until=bindparam("lease"))
)


def create(
    engine: Engine,
    plan: Design,
    prompts: Mapping[str, str],
    images: Mapping[tuple[str, str, str], StoredImage],
    gold: Sequence[Pair],
) -> str:
    """Write a new study and return its id.

    ``images`` has the image of every (prompt id, model, "") and of every (prompt id, gold's worse image, criterion).
    """
    study_id = secrets.token_hex(8)
    main = design.pairs(list(prompts), plan.models)
    with engine.begin() as connection:
        now = time.time()
        connection.execute(insert(StudyRow).values(id=study_id, created_at=now, design=plan.to_json()))
        prompt_ids = _insert_prompts(connection, study_id, prompts)
        image_ids = _insert_images(connection, prompt_ids, images)

        def insert_pair(pair: Pair) -> int:
            return connection.execute(
                insert(PairRow).returning(PairRow.id),
                {
                    "study_id": study_id,
                    "prompt_id": prompt_ids[pair.prompt],
                    "first_image": image_ids[pair.prompt, pair.first, ""],
                    "second_image": image_ids[pair.prompt, pair.second, pair.criterion or ""],
                    "kind": pair.kind,
                    "criterion": pair.criterion,
                },
            ).scalar_one()

        pair_ids = [insert_pair(pair) for pair in main]
        for pair in gold:
            insert_pair(pair)
        tasks = [
            {
                "study_id": study_id,
                "pair_id": pair_ids[task.pair],
                "criterion": task.criterion,
                "round": task.round,
                "slot": task.slot,
                "swapped": task.swapped,
                "order": task.order,
                "state": "open",
            }
            for task in design.tasks(plan, main)
        ]
        connection.execute(insert(TaskRow), tasks)
        payload = {"design": plan.to_json(), "contents": audit.contents(connection, study_id)}
        audit.append(connection, study_id, now, "study", "created", payload)
    return study_id


def _insert_prompts(connection: Connection, study_id: str, prompts: Mapping[str, str]) -> dict[str, int]:
    rows = [{"study_id": study_id, "key": key, "text": text} for key, text in prompts.items()]
    connection.execute(insert(Prompt), rows)
    stored = connection.execute(select(Prompt.key, Prompt.id).where(Prompt.study_id == study_id))
    return {row.key: row.id for row in stored}


def _insert_images(
    connection: Connection, prompt_ids: Mapping[str, int], images: Mapping[tuple[str, str, str], StoredImage]
) -> dict[tuple[str, str, str], int]:
    keys = {number: key for key, number in prompt_ids.items()}
    rows = [
        {"prompt_id": prompt_ids[prompt], "model": model, "criterion": criterion, **asdict(image)}
        for (prompt, model, criterion), image in images.items()
    ]
    connection.execute(insert(ImageRow), rows)
    stored = connection.execute(
        select(ImageRow.prompt_id, ImageRow.model, ImageRow.criterion, ImageRow.id).where(
            ImageRow.prompt_id.between(min(keys), max(keys))
        )
    )
    return {(keys[row.prompt_id], row.model, row.criterion): row.id for row in stored if row.prompt_id in keys}


class Store:
    """One study of a database whose tables are up to date. Raises BenchError when it is not there."""

    def __init__(self, engine: Engine, study_id: str) -> None:
        database.check_version(engine)
        self.engine = engine
        self.id = study_id
        with self.reading() as connection:
            found = connection.execute(select(StudyRow.design).where(StudyRow.id == study_id)).scalar_one_or_none()
        if found is None:
            raise BenchError(f"the database holds no study {study_id}; is it the right one?")
        self.design = Design.from_json(found)

    def reading(self) -> AbstractContextManager[Connection]:
        """A transaction that sees one state of the database and changes nothing."""
        return database.reading(self.engine)

    # People

    def enrol(self, name: str, role: Literal["annotator", "admin"] = "annotator") -> Person:
        """Add an annotator, or return the one of this name. Raises BenchError for a name of no use."""
        if not name.strip() or len(name) > 200 or not name.isprintable():
            raise BenchError("an annotator's name has 1 to 200 printable characters")
        with self.engine.begin() as connection:
            connection.execute(select(StudyRow.id).where(StudyRow.id == self.id).with_for_update(key_share=True))
            found = connection.execute(
                select(Annotator).where(Annotator.study_id == self.id, Annotator.name == name)
            ).one_or_none()
            if found is None:
                number = connection.execute(
                    select(func.count()).where(Annotator.study_id == self.id, Annotator.role == role)
                ).scalar_one()
                values = {"study_id": self.id, "number": number, "name": name, "role": role, "created_at": time.time()}
                found = connection.execute(insert(Annotator).values(values).returning(Annotator)).one()
                payload = {"annotator": found.id, "role": role}
                audit.append(connection, self.id, time.time(), f"annotator {found.id}", "enrolled", payload)
        if found.role != role:
            raise BenchError(f"{name} is enrolled as {found.role} already; use another name")
        return person_of(found)

    def people(self) -> list[Person]:
        """Everyone enrolled, in order of enrolment."""
        with self.reading() as connection:
            rows = connection.execute(
                select(Annotator).where(Annotator.study_id == self.id).order_by(Annotator.id)
            ).all()
        return [person_of(row) for row in rows]

    def consent(self, annotator: int) -> None:
        """Note that the annotator has read the consent text and goes on."""
        with self.engine.begin() as connection:
            changed = connection.execute(
                update(Annotator)
                .where(Annotator.id == annotator, Annotator.study_id == self.id, Annotator.consented_at.is_(None))
                .values(consented_at=time.time())
            )
            if changed.rowcount:
                audit.append(connection, self.id, time.time(), f"annotator {annotator}", "consented", {})

    # Claiming

    def work(self, annotator: int) -> list[Assignment]:
        """The pair to judge now and the one after it; fewer, or none, when there are no more for this annotator.

        Renews the annotator's leases, takes back those that ran out but were given to nobody, and claims tasks.
        """
        with self.engine.begin() as connection:
            claims = self._claims(connection, annotator)
            claims.renew()
            held = claims.held()
            if len(held) < HELD:
                claims.release_expired()
                while len(held) < HELD and claims.claim():
                    held = claims.held()
        return held

    def _claims(self, connection: Connection, annotator: int) -> Claims:
        person = connection.execute(_LOCK_ANNOTATOR, {"me": annotator, "study": self.id}).one()
        return Claims(connection, self.id, self.design, person, time.time())

    # Judging

    def submit(self, annotator: int, vote: Vote) -> bool:
        """Store a vote; False when the assignment has one already, which then stands.

        A vote on a pair whose lease ran out counts if nobody else has filled the slot, and is stored as surplus if
        somebody has. Raises RefusedError for what no honest page sends.
        """
        self._check(vote)
        with self.engine.begin() as connection:
            assignment = self._locked(connection, annotator, vote.assignment)
            chain = self._chain(connection, assignment.id)
            if chain and chain[-1].choice != "undo":
                return False
            if vote.submit_uuid != submit_uuid(self.id, assignment.id, len(chain)):
                raise RefusedError("the vote is not for the page that was sent last")
            surplus = self._close_task(connection, annotator, assignment.task_id, skipped=vote.choice == "skip")
            self._insert(connection, assignment, "judgment", vote, chain[-1].id if chain else None, surplus)
            connection.execute(_SET_DONE, {"assignment": assignment.id, "now_done": True})
        return True

    def undo(self, annotator: int, shown: int | None) -> bool:
        """Take back the annotator's last vote, so that its pair comes again before ``shown``, the pair on the page
        (None: the page at the end).

        False when there is nothing to take back: no vote, one of the qualification, or one whose slot is no longer
        the annotator's; and when ``shown`` is not what comes next, as at the second of two clicks.
        """
        with self.engine.begin() as connection:
            held = self._claims(connection, annotator).held()
            last = connection.execute(_LAST_DONE, {"me": annotator, "study": self.id}).one_or_none()
            if shown != (held[0].id if held else None) or last is None or last.kind not in STREAM:
                return False
            if last.task_id is not None and not self._reopen_task(connection, annotator, last.task_id):
                return False
            chain = self._chain(connection, last.id)
            undo = Undo(last.id, submit_uuid(self.id, last.id, len(chain)))
            self._insert(connection, last, "undo", undo, chain[-1].id, surplus=False)
            connection.execute(_SET_DONE, {"assignment": last.id, "now_done": False})
        return True

    def _check(self, vote: Vote) -> None:
        choices = get_args(Choice) if self.design.ties else ("left", "right", "skip")
        if vote.choice not in choices:
            raise RefusedError("no such choice in this study")
        if not 0 <= vote.ms_visible <= vote.ms_total <= LONGEST_MS:
            raise RefusedError("no such time")
        if vote.choice != "skip" and vote.ms_total < self.design.minimum_view_ms:
            raise RefusedError("the images were not looked at for the time that the study asks")
        try:
            told = json.dumps(vote.page, allow_nan=False)
        except ValueError as error:  # NaN is no JSON: PostgreSQL would not take it, nor would readers of an export
            raise RefusedError("no such page") from error
        if len(told) > LARGEST_PAGE:
            raise RefusedError("more about the page than any page sends")

    def _locked(self, connection: Connection, annotator: int, assignment: int) -> Row[AssignmentRow]:
        values = {"assignment": assignment, "me": annotator, "study": self.id}
        found = connection.execute(_LOCK_ASSIGNMENT, values).one_or_none()
        if found is None:
            raise RefusedError("not a pair of this annotator")
        return found

    def _chain(self, connection: Connection, assignment: int) -> Sequence[Row[int, str]]:
        """Id and choice of every vote and undo on an assignment; the last stands."""
        return connection.execute(_CHAIN, {"assignment": assignment}).all()

    def _close_task(self, connection: Connection, annotator: int, task_id: int | None, skipped: bool) -> bool:
        """Close an assignment's task, or open it to others after a skip; returns whether the vote is surplus."""
        if task_id is None:
            return False
        task = connection.execute(_LOCK_TASK, {"task": task_id}).one()
        if task.state == "done":
            return not skipped
        if not skipped:
            self._set_task(connection, task_id, "done", annotator, None)
        elif task.annotator_id == annotator:
            self._set_task(connection, task_id, "open", None, None)
        return False

    def _reopen_task(self, connection: Connection, annotator: int, task_id: int) -> bool:
        """Lease a task again to the annotator who had done or skipped it; False when another has it by now."""
        task = connection.execute(_LOCK_TASK, {"task": task_id}).one()
        if task.state != "open" and task.annotator_id != annotator:
            return False
        self._set_task(connection, task_id, "leased", annotator, time.time() + 60 * self.design.lease_minutes)
        return True

    def _set_task(
        self,
        connection: Connection,
        task_id: int,
        state: Literal["open", "leased", "done"],
        annotator: int | None,
        lease_until: float | None,
    ) -> None:
        values = {"task": task_id, "new_state": state, "holder": annotator, "lease": lease_until}
        connection.execute(_SET_TASK, values)

    def _insert(
        self,
        connection: Connection,
        assignment: Row[AssignmentRow],
        event: Literal["judgment", "undo"],
        row: Vote | Undo,
        supersedes: int | None,
        surplus: bool,
    ) -> None:
        stored = connection.execute(
            _INSERT_JUDGMENT,
            {
                "assignment_id": row.assignment,
                "choice": row.choice,
                "ms_visible": row.ms_visible,
                "ms_total": row.ms_total,
                "created_at": time.time(),
                "submit_uuid": row.submit_uuid,
                "supersedes": supersedes,
                "surplus": surplus,
                "page": dict(row.page),
            },
        ).one()
        payload = audit.judgment_payload(stored, assignment)
        audit.append(connection, self.id, stored.created_at, f"annotator {assignment.annotator_id}", event, payload)

    # Images

    def example(self, criterion: str) -> tuple[str, str, str] | None:
        """Prompt and the digests of the better and the worse image of a criterion's example, if it has one."""
        better, worse = aliased(ImageRow), aliased(ImageRow)
        with self.reading() as connection:
            found = connection.execute(
                select(Prompt.text, better.sha256, worse.sha256)
                .select_from(PairRow)
                .join(Prompt, PairRow.prompt_id == Prompt.id)
                .join(better, PairRow.first_image == better.id)
                .join(worse, PairRow.second_image == worse.id)
                .where(PairRow.study_id == self.id, PairRow.kind == "example", PairRow.criterion == criterion)
            ).one_or_none()
        return None if found is None else (found[0], found[1], found[2])

    def image(self, annotator: int, token: str) -> str | None:
        """The digest of the image behind a token, if it is one of the annotator's pairs."""
        with self.reading() as connection:
            return connection.execute(_IMAGE, {"me": annotator, "token": token}).scalar_one_or_none()


def person_of(row: Row[Annotator]) -> Person:
    """A row of the table as the rest of the program sees it."""
    return Person(row.id, row.number, row.name, row.role, row.consented_at is not None)
