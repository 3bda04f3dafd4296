"""Many processes at once, and processes killed at any moment: nothing lost, nothing twice."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections import Counter
from dataclasses import replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
from sqlalchemy import Engine, select, text

from human_study import audit
from human_study.store import Store
from human_study.tables import AssignmentRow, JudgmentRow, TaskRow
from tests.human_study import worker
from tests.human_study.studies import PLAIN, choice_for, create

# Children of one process that has imported everything: starting one takes no time, and no thread is forked.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.human_study.worker"])


def start(url: str, study: Store, annotator: int, told: Path) -> ForkServerProcess:
    told.touch()
    process = PROCESSES.Process(target=worker.judge, args=(url, study.id, annotator, told))
    process.start()
    return process


def acknowledged(told: Path) -> dict[int, str]:
    lines = told.read_text().splitlines()
    return {int(assignment): choice for assignment, choice in (line.split() for line in lines)}


def check(study: Store, votes: dict[int, str]) -> None:
    """The database is whole, every acknowledged vote is in it as it was sent, and no slot was filled twice."""
    with study.engine.connect() as connection:
        if study.engine.dialect.name == "sqlite":
            assert connection.execute(text("PRAGMA integrity_check")).scalar_one() == "ok"
            assert connection.execute(text("PRAGMA foreign_key_check")).all() == []
        assert audit.fault(connection, study.id) is None
        rows = connection.execute(
            select(JudgmentRow.assignment_id, JudgmentRow.choice, JudgmentRow.surplus, AssignmentRow.task_id).join(
                AssignmentRow, JudgmentRow.assignment_id == AssignmentRow.id
            )
        ).all()
        done = set(connection.execute(select(TaskRow.id).where(TaskRow.state == "done")).scalars())
    stored = {row.assignment_id: row.choice for row in rows}
    assert len(stored) == len(rows)  # one vote each
    assert votes.items() <= stored.items()
    assert all(choice == choice_for(assignment) for assignment, choice in stored.items())
    filled = Counter(row.task_id for row in rows if not row.surplus)
    assert set(filled.values()) <= {1}
    assert set(filled) == done


def judge_with(processes: int, prompts: int, url: str, engine: Engine, tmp_path: Path) -> float:
    """Have so many processes do a study of 2 criteria x 2 slots per prompt; returns judgments per second."""
    study = create(engine, replace(PLAIN, judgments_per_pair=2), prompts)
    told = [tmp_path / f"told{number}" for number in range(processes)]
    begun = time.perf_counter()
    running = [start(url, study, study.enrol(f"p{number}").id, path) for number, path in enumerate(told)]
    for process in running:
        process.join()
    assert [process.exitcode for process in running] == [0] * processes
    rate = 4 * prompts / (time.perf_counter() - begun)
    votes: dict[int, str] = {}
    for path in told:
        own = acknowledged(path)
        assert not votes.keys() & own.keys()
        votes |= own
    check(study, votes)
    assert len(votes) == 4 * prompts  # every slot is filled, and no more than that
    return rate


def test_300_judgments_by_four_processes(url: str, engine: Engine, tmp_path: Path) -> None:
    judge_with(4, 75, url, engine, tmp_path)


@pytest.mark.slow
def test_10000_judgments_by_eight_processes(url: str, engine: Engine, tmp_path: Path) -> None:
    rate = judge_with(8, 2500, url, engine, tmp_path)
    print(f"{engine.dialect.name}: {rate:.0f} judgments per second")


def kill_while_judging(times: int, url: str, engine: Engine, tmp_path: Path) -> None:
    study = create(engine, replace(PLAIN, judgments_per_pair=1), prompts=1000)
    annotator = study.enrol("killed").id
    told = tmp_path / "told"
    rng = random.Random(0)
    for number in range(times):
        process = start(url, study, annotator, told)
        before = told.stat().st_size
        while told.stat().st_size == before:  # until it has begun to judge
            assert process.is_alive()
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.join()
        votes = acknowledged(told)
        assert len(votes) > number
        check(study, votes)
    assert len(study.work(annotator)) == 2  # and it goes on


def test_killed_three_times_while_judging(url: str, engine: Engine, tmp_path: Path) -> None:
    kill_while_judging(3, url, engine, tmp_path)


@pytest.mark.slow
def test_killed_fifty_times_while_judging(url: str, engine: Engine, tmp_path: Path) -> None:
    kill_while_judging(50, url, engine, tmp_path)
