from __future__ import annotations

import csv
import json
import shutil
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet
import pytest
from sqlalchemy import Engine, text

from benchmarks.types import BenchError
from human_study import database, export, folder
from human_study.store import Store
from reports.study.judgments import clean
from reports.study.judgments import read as read_judgments
from tests.human_study.studies import PLAIN, create, judge_all, study_with_images, vote

PAGE = {"zooms": 1, "natural": [[64, 64], [64, 64]]}


def judged(engine: Engine) -> Store:
    study = create(engine)
    ann, bob = study.enrol("Ann Surname").id, study.enrol("bob").id
    judge_all(study, ann)
    study.undo(ann, None)
    study.submit(bob, replace(vote(study.work(bob)[0], "tie"), page=PAGE))
    return study


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_an_export_has_every_row_ever_made_and_no_names(engine: Engine, tmp_path: Path) -> None:
    study = judged(engine)
    assert export.write(study, tmp_path / "out" / "judgments.csv") == 14
    rows = read(tmp_path / "out" / "judgments.csv")
    assert list(rows[0]) == list(export.COLUMNS)
    assert Counter(row["choice"] for row in rows) == {"left": 12, "undo": 1, "tie": 1}
    assert [row["stands"] for row in rows].count("False") == 1
    assert Counter(row["annotator"] for row in rows) == {"0": 13, "1": 1}
    assert {frozenset((row["left_model"], row["right_model"])) for row in rows} == {frozenset(PLAIN.models)}
    assert rows[12]["supersedes"] == rows[11]["judgment"]
    assert [json.loads(row["page"]) for row in rows] == [{}] * 13 + [PAGE]
    assert "Surname" not in (tmp_path / "out" / "judgments.csv").read_text()


def test_a_prompt_is_no_formula_of_a_spreadsheet(engine: Engine, tmp_path: Path) -> None:
    study = create(engine)
    formula = '=HYPERLINK("http://example.org")'
    with engine.begin() as connection:
        connection.execute(text("UPDATE prompt SET text = :formula"), {"formula": formula})
    judge_all(study, study.enrol("ann").id)
    for name in ("judgments.csv", "judgments.parquet"):
        export.write(study, tmp_path / name)
    assert {row["prompt"] for row in read(tmp_path / "judgments.csv")} == {f"'{formula}"}
    assert set(pyarrow.parquet.read_table(tmp_path / "judgments.parquet")["prompt"].to_pylist()) == {formula}


def test_parquet_has_the_same_rows_with_types(engine: Engine, tmp_path: Path) -> None:
    study = judged(engine)
    export.write(study, tmp_path / "judgments.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "judgments.parquet")
    assert table.to_pylist() == list(export.rows(study))
    assert str(table.schema.field("ms_total").type) == "int64"
    assert str(table.schema.field("stands").type) == "bool"


def test_an_export_of_nothing_has_its_columns(engine: Engine, tmp_path: Path) -> None:
    study = create(engine)
    for name in ("empty.csv", "empty.parquet"):
        assert export.write(study, tmp_path / name) == 0
    assert (tmp_path / "empty.csv").read_text().strip() == ",".join(export.COLUMNS)
    assert pyarrow.parquet.read_table(tmp_path / "empty.parquet").column_names == list(export.COLUMNS)


def test_exporting_and_backing_up_while_votes_come_in(tmp_path: Path) -> None:
    engine = database.connect(f"sqlite:///{tmp_path}/study.db")
    database.upgrade(engine)
    study = create(engine, prompts=15)
    ann = study.enrol("ann").id
    voting = threading.Thread(target=judge_all, args=(study, ann))
    voting.start()
    counts: list[int] = []
    while voting.is_alive():
        counts.append(export.write(study, tmp_path / f"{len(counts)}.csv"))
        export.backup(study, tmp_path / f"{len(counts)}.db")
    voting.join()
    assert counts == sorted(counts)
    for number in range(1, len(counts) + 1):
        copy = Store(database.connect(f"sqlite:///{tmp_path}/{number}.db"), study.id)
        with copy.engine.connect() as connection:
            assert connection.execute(text("PRAGMA integrity_check")).scalar_one() == "ok"
        assert sum(1 for _ in export.rows(copy)) >= counts[number - 1]
    assert sum(1 for _ in export.rows(study)) == 30


def test_files_that_cannot_be_written_are_users_errors(engine: Engine, tmp_path: Path) -> None:
    study = create(engine)
    with pytest.raises(BenchError, match=r"ends in \.csv or \.parquet"):
        export.write(study, tmp_path / "judgments.xlsx")
    (tmp_path / "file").touch()
    with pytest.raises(BenchError, match="cannot write"):
        export.write(study, tmp_path / "file" / "judgments.csv")
    if engine.dialect.name == "sqlite":
        with pytest.raises(BenchError, match="there already"):
            export.backup(study, tmp_path / "file")
    else:
        with pytest.raises(BenchError, match="pg_dump"):
            export.backup(study, tmp_path / "copy.db")


def test_a_study_that_was_changed_from_outside_is_found_out(tmp_path: Path) -> None:
    study = study_with_images(tmp_path)
    ann = study.store.enrol("ann").id
    judge_all(study.store, ann)
    export.verify(study)
    shutil.copytree(study.folder, tmp_path / "votes")
    votes = folder.open_study(tmp_path / "votes")
    with votes.store.engine.begin() as connection:
        connection.execute(text("UPDATE judgment SET choice = 'right' WHERE id = 2"))
    with pytest.raises(BenchError, match="changed from outside: judgment 2 is not what the audit log says"):
        export.verify(votes)
    image = next((study.folder / "images").iterdir())
    image.write_bytes(image.read_bytes() + b"x")
    with pytest.raises(BenchError, match="has other bytes"):
        export.verify(study)
    image.unlink()
    with pytest.raises(BenchError, match="is gone"):
        export.verify(study)


def test_the_analysis_reads_an_export_as_it_is(engine: Engine, tmp_path: Path) -> None:
    plan = replace(PLAIN, gold=2, gold_every=3, qualification=2, qualification_passes=0, repeat_every=4)
    study = create(engine, plan, prompts=16)
    ann = study.enrol("ann").id
    judge_all(study, ann)
    study.undo(ann, None)
    study.submit(ann, vote(study.work(ann)[0], "skip"))
    for name in ("judgments.csv", "judgments.parquet"):
        written = export.write(study, tmp_path / name)
        cleaned = clean(read_judgments(tmp_path / name), lead="beta")
        assert len(cleaned) == written - 2  # neither the vote that was taken back nor the row that did so
        assert set(cleaned["kind"]) == {"main", "gold", "repeat", "qualification"}
        main = cleaned[cleaned["kind"] == "main"]
        assert len(main) == 32
        assert main["vote"].isna().sum() == 1
        assert main["vote"].sum() == (main["first_left"] * 2 - 1)[main["vote"].notna()].sum()  # always the left one
