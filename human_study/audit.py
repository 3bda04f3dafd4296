"""An append-only log in which each row's hash covers the row before it, so that a change made later shows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from sqlalchemy import Connection, Row, bindparam, insert, select

from benchmarks.types import Json
from human_study.tables import AssignmentRow, AuditRow, ImageRow, JudgmentRow, PairRow, Prompt, StudyRow

_START = "0" * 64
# Built once, see human_study.claims.
_LOCK_STUDY = select(StudyRow.id).where(StudyRow.id == bindparam("study")).with_for_update(key_share=True)
_LAST = (
    select(AuditRow.sequence, AuditRow.hash)
    .where(AuditRow.study_id == bindparam("study"))
    .order_by(AuditRow.sequence.desc())
    .limit(1)
)


def append(
    connection: Connection, study_id: str, at: float, actor: str, event: str, payload: Mapping[str, Json]
) -> None:
    """Add one row in the caller's transaction."""
    # One writer at a time has the end of the chain. (SQLite has one writer anyway.)
    connection.execute(_LOCK_STUDY, {"study": study_id})
    last = connection.execute(_LAST, {"study": study_id}).one_or_none()
    sequence, previous = (last.sequence + 1, last.hash) if last else (0, _START)
    text = json.dumps(payload, sort_keys=True)
    connection.execute(
        insert(AuditRow),
        {
            "study_id": study_id,
            "sequence": sequence,
            "at": at,
            "actor": actor,
            "event": event,
            "payload": text,
            "previous": previous,
            "hash": _hash(previous, study_id, sequence, at, actor, event, text),
        },
    )


def fault(connection: Connection, study_id: str) -> str | None:
    """What is wrong with the log, or with the judgments that it tells of; None when both are as they were written."""
    previous, told = _START, {}
    rows = connection.execute(select(AuditRow).where(AuditRow.study_id == study_id).order_by(AuditRow.sequence))
    for expected, row in enumerate(rows):
        if row.sequence != expected or row.previous != previous:
            return f"row {expected} of the audit log is missing or out of place"
        if row.hash != _hash(previous, study_id, row.sequence, row.at, row.actor, row.event, row.payload):
            return f"row {row.sequence} of the audit log was changed"
        previous = row.hash
        payload = json.loads(row.payload)
        if row.event in ("judgment", "undo"):
            told[payload["judgment"]] = payload
        if "contents" in payload and payload["contents"] != contents(connection, study_id):
            return "the design, prompts, images or pairs are not those that the study was made with"
    return _judgment_fault(connection, study_id, told)


def _judgment_fault(connection: Connection, study_id: str, told: dict[int, dict[str, Json]]) -> str | None:
    shown = select(AssignmentRow).where(AssignmentRow.study_id == study_id)
    assignments = {row.id: row for row in connection.execute(shown)}
    judged = select(JudgmentRow).join(AssignmentRow).where(AssignmentRow.study_id == study_id)
    for judgment in connection.execute(judged).all():
        # A log of version 0.1.0 does not tell of the assignment.
        logged = told.pop(judgment.id, {"judgment": None})
        if not logged.items() <= judgment_payload(judgment, assignments[judgment.assignment_id]).items():
            return f"judgment {judgment.id} is not what the audit log says"
    return f"judgment {next(iter(told))} is gone" if told else None


def judgment_payload(row: Row[JudgmentRow], assignment: Row[AssignmentRow]) -> dict[str, Json]:
    """What the log keeps of a judgment: all that goes into a result, of its row and of the pair as it was shown."""
    names = ("assignment_id", "choice", "ms_visible", "ms_total", "created_at", "submit_uuid", "supersedes", "surplus")
    shown = ("annotator_id", "pair_id", "criterion", "round", "kind", "left_image", "right_image")
    return {
        "judgment": row.id,
        **{name: getattr(row, name) for name in names},
        **{name: getattr(assignment, name) for name in shown},
    }


def contents(connection: Connection, study_id: str) -> str:
    """Digest of what a study is made of, which never changes: design, prompts, images with their models, pairs."""
    digest = hashlib.sha256()
    for statement in (
        select(StudyRow.design).where(StudyRow.id == study_id),
        select(Prompt).where(Prompt.study_id == study_id).order_by(Prompt.id),
        select(ImageRow).join(Prompt).where(Prompt.study_id == study_id).order_by(ImageRow.id),
        select(PairRow).where(PairRow.study_id == study_id).order_by(PairRow.id),
    ):
        for row in connection.execute(statement):
            digest.update(json.dumps(list(row), sort_keys=True).encode())
    return digest.hexdigest()


def _hash(previous: str, *row: str | float) -> str:
    return hashlib.sha256((previous + json.dumps(row)).encode()).hexdigest()
