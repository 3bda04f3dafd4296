"""Taking a study's data out: judgments as a table, a copy of the database, and the check that all is as stored."""

from __future__ import annotations

import csv
import hashlib
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, String, case, cast, literal, select
from sqlalchemy.orm import aliased

from benchmarks.types import BenchError, Json
from human_study import audit
from human_study.claims import standing
from human_study.folder import Study
from human_study.store import Store
from human_study.tables import Annotator, AssignmentRow, ImageRow, JudgmentRow, PairRow, Prompt, TaskRow
from reports.tables import csv_cell

#: Columns of an export, with their types in Parquet. One row per judgment ever made, undone ones too.
COLUMNS = {
    "study": "string",
    "judgment": "int64",
    "criterion": "string",
    "round": "int64",
    "kind": "string",  # main, gold, repeat or qualification
    "prompt_id": "string",
    "prompt": "string",
    "annotator": "int64",  # a number; names stay in the database
    "position": "int64",  # among all pairs that the annotator was shown
    "slot": "int64",  # null unless kind is main
    "left_model": "string",
    "right_model": "string",
    "choice": "string",  # left, right, tie, skip or undo
    "better": "string",  # gold and qualification: the side that is known to be better
    "stands": "bool",  # no later row supersedes it
    "surplus": "bool",  # made after the lease ran out, and another annotator had filled the slot
    "ms_visible": "int64",
    "ms_total": "int64",
    "created_at": "string",  # ISO 8601, UTC
    "assignment": "int64",
    "supersedes": "int64",
    "submit_uuid": "string",
    "left_sha256": "string",
    "right_sha256": "string",
    "page": "string",  # JSON: natural and shown sizes, zooms
}


def rows(store: Store) -> Iterator[dict[str, Json]]:
    """Every judgment in the order they were made, by the names of ``COLUMNS``; one state of the database."""
    left, right = aliased(ImageRow), aliased(ImageRow)
    better = case((AssignmentRow.left_image == PairRow.first_image, "left"), else_="right")
    columns = {
        "study": literal(store.id),
        "judgment": JudgmentRow.id,
        "criterion": AssignmentRow.criterion,
        "round": AssignmentRow.round,
        "kind": AssignmentRow.kind,
        "prompt_id": Prompt.key,
        "prompt": Prompt.text,
        "annotator": Annotator.number,
        "position": AssignmentRow.position,
        "slot": TaskRow.slot,
        "left_model": left.model,
        "right_model": right.model,
        "choice": JudgmentRow.choice,
        "better": case((AssignmentRow.kind.in_(("gold", "qualification")), better)),
        "stands": standing(),
        "surplus": JudgmentRow.surplus,
        "ms_visible": JudgmentRow.ms_visible,
        "ms_total": JudgmentRow.ms_total,
        "created_at": JudgmentRow.created_at,
        "assignment": JudgmentRow.assignment_id,
        "supersedes": JudgmentRow.supersedes,
        "submit_uuid": JudgmentRow.submit_uuid,
        "left_sha256": left.sha256,
        "right_sha256": right.sha256,
        "page": cast(JudgmentRow.page, String),  # as it is stored: reading it only to write it again takes time
    }
    labelled: list[Any] = [column.label(name) for name, column in columns.items()]
    statement = (
        select(*labelled)
        .select_from(JudgmentRow)
        .join(AssignmentRow, JudgmentRow.assignment_id == AssignmentRow.id)
        .join(PairRow, AssignmentRow.pair_id == PairRow.id)
        .join(Prompt, PairRow.prompt_id == Prompt.id)
        .join(Annotator, AssignmentRow.annotator_id == Annotator.id)
        .join(left, AssignmentRow.left_image == left.id)
        .join(right, AssignmentRow.right_image == right.id)
        .outerjoin(TaskRow, AssignmentRow.task_id == TaskRow.id)
        .where(AssignmentRow.study_id == store.id)
        .order_by(JudgmentRow.id)
    )
    with store.reading() as connection:
        for row in connection.execute(statement):
            values = dict(zip(columns, row, strict=True))
            made = datetime.fromtimestamp(values["created_at"], UTC)
            values["created_at"] = made.isoformat(timespec="milliseconds")
            yield values


def write(store: Store, out: Path) -> int:
    """Write ``rows`` to a CSV or Parquet file, by its suffix; returns their number. Raises BenchError."""
    if out.suffix not in (".csv", ".parquet"):
        raise BenchError(f"{out}: name a file that ends in .csv or .parquet")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        return _write_csv(store, out) if out.suffix == ".csv" else _write_parquet(store, out)
    except OSError as error:
        raise BenchError(f"cannot write {out}: {error.strerror or error}") from error


def _write_csv(store: Store, out: Path) -> int:
    written = 0
    with out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for row in rows(store):
            # Not ids and models: an analysis looks them up elsewhere. Parquet has every prompt as it is.
            writer.writerow({**row, "prompt": csv_cell(row["prompt"])})
            written += 1
    return written


def _write_parquet(store: Store, out: Path) -> int:
    import pyarrow
    from pyarrow import parquet

    types = {"string": pyarrow.string(), "int64": pyarrow.int64(), "bool": pyarrow.bool_()}
    schema = pyarrow.schema([(name, types[kind]) for name, kind in COLUMNS.items()])
    table = pyarrow.Table.from_pylist(list(rows(store)), schema)
    parquet.write_table(table, out)
    return int(table.num_rows)


def backup(store: Store, out: Path) -> None:
    """Copy an SQLite database into a new file, by SQLite's own online backup: writers go on meanwhile.

    Raises BenchError for PostgreSQL, whose own tool is pg_dump, and when ``out`` is there.
    """
    source = store.engine.url.database
    if store.engine.dialect.name != "sqlite" or source is None:
        raise BenchError("this study is in PostgreSQL: back it up with pg_dump")
    if out.exists():
        raise BenchError(f"{out} is there already; name a new file")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with sqlite3.connect(source) as original, sqlite3.connect(out) as copy:
            original.backup(copy)
    except (OSError, sqlite3.Error) as error:
        raise BenchError(f"cannot write {out}: {error}") from error


def verify(study: Study) -> None:
    """Raises BenchError naming the first thing that is not as it was stored."""
    with study.store.reading() as connection:
        found = audit.fault(connection, study.store.id)
        digests = _digests(connection, study.store.id)
    if found is None:
        found = next((fault for digest in digests if (fault := _image_fault(study, digest))), None)
    if found is not None:
        raise BenchError(f"the study in {study.folder} was changed from outside: {found}")


def _digests(connection: Connection, study_id: str) -> list[str]:
    statement = select(ImageRow.sha256).join(Prompt, ImageRow.prompt_id == Prompt.id).where(Prompt.study_id == study_id)
    return list(connection.execute(statement.distinct()).scalars())


def _image_fault(study: Study, digest: str) -> str | None:
    path = study.image(digest)
    if not path.exists():
        return f"image {path.name} is gone"
    return None if hashlib.sha256(path.read_bytes()).hexdigest() == digest else f"image {path.name} has other bytes"
