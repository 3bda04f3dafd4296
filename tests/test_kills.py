"""kill -9 at any moment: the run that is started again ends in the bytes of one that nobody disturbed."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import environment, runner, store
from benchmarks.types import Metric, Prediction, Sample, Score, Verdict
from benchmarks.work import Part, Settings
from tests.fakes import FakeBenchmark, FakeGenerator

BATCH = 3
SETTINGS = Settings(suite="toy", batch_size=BATCH)
#: Seconds for a sample of the model and of the judge, and for the rule over all of them.
PACE = 0.005
NAMES = ("fake", "other")
FORK = multiprocessing.get_context("fork")  # nothing is imported again


def note(log: Path, word: str, ids: Sequence[str]) -> None:
    """One write, so that a killed process leaves whole lines of all that it had begun."""
    with log.open("ab", buffering=0) as file:
        file.write("".join(f"{word} {sample_id}\n" for sample_id in ids).encode())


@dataclass
class Model(FakeGenerator):
    log: Path = Path()

    def generate(self, samples: Sequence[Sample], seeds: Sequence[int]) -> Sequence[Image.Image | Path | Exception]:
        note(self.log, "generated", [sample.id for sample in samples])
        time.sleep(PACE * len(samples))
        return super().generate(samples, seeds)


@dataclass
class Judged(FakeBenchmark):
    log: Path = Path()

    def judge(self, samples: Sequence[Sample], predictions: Sequence[Prediction], folder: Path) -> Sequence[Verdict]:
        note(self.log, "judged", [sample.id for sample in samples])
        time.sleep(PACE * len(samples))
        return super().judge(samples, predictions, folder)

    def summarize(self, samples: Sequence[Sample], verdicts: Mapping[str, Verdict]) -> tuple[list[Score], list[Metric]]:
        note(self.log, "ruled", [sample.id for sample in samples])
        time.sleep(PACE * len(samples))
        return super().summarize(samples, verdicts)


def work(root: Path, log: Path, part: Part) -> None:
    runner.run(root, [Judged(name=name, log=log) for name in NAMES], Model(log=log), SETTINGS, part)


def started(root: Path, log: Path, world: int) -> Sequence[BaseProcess]:
    processes = [FORK.Process(target=work, args=(root, log, Part(rank, world))) for rank in range(world)]
    for process in processes:
        process.start()
    return processes


def ended(processes: Sequence[BaseProcess]) -> list[int | None]:
    for process in processes:
        process.join(120)
    return [process.exitcode for process in processes]


def result(root: Path) -> list[bytes]:
    return [(root / name).read_bytes() for name in ("run.json", *(f"{name}/scores.jsonl" for name in NAMES))]


def reached(root: Path, rank: int) -> str:
    """How far the process of this rank had come in the run, from what it had stored."""
    own = [sample.id for name in NAMES for sample in FakeBenchmark(name=name).samples()[rank::2]]
    predictions = {row for name in NAMES for row in store.read_predictions(root / name)}
    verdicts = {row for name in NAMES for row in store.read_verdicts(root / name)}
    if (root / "run.json").exists():
        return "complete"
    if not (root / "spec.json").exists():
        return "start"
    first = [sample_id for sample_id in own if sample_id.startswith(NAMES[0])]
    current = first if not verdicts.issuperset(first) else own
    if not predictions.issuperset(current):
        return "generation"
    return "merge" if verdicts.issuperset(own) else "judging"


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody may commit while this runs. Syncs, which count at a power cut only, would take most of the time and so
    most of the kills."""
    here = environment.current()
    monkeypatch.setattr(environment, "current", lambda: here)
    monkeypatch.setattr(environment, "code", lambda: here.code)
    monkeypatch.setattr(os, "fsync", lambda file: None)


def lines_of(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def kill_and_resume(root: Path, lines: int, seconds: float, victim: int, world: int, expected: Sequence[bytes]) -> str:
    """Kill one of two processes so long after the log has so many lines, and start ``world`` others; returns where the
    killed one was."""
    log = root.with_suffix(".log")
    processes = started(root, log, 2)
    while len(lines_of(log)) < lines and any(process.is_alive() for process in processes):
        time.sleep(0.0005)
    time.sleep(seconds)
    processes[victim].kill()
    codes = ended(processes)
    assert codes[1 - victim] == 0
    assert codes[victim] in (0, -signal.SIGKILL)
    where = reached(root, victim) if codes[victim] else "end"
    assert ended(started(root, log, world)) == [0] * world
    assert result(root) == expected
    for word in ("generated", "judged"):
        times = Counter(line for line in lines_of(log) if line.startswith(word))
        assert len(times) == 24
        again = [line for line, count in times.items() if count > 1]
        assert len(again) <= BATCH, (where, again)  # the batch in flight, and nothing else
        assert max(times.values()) <= 2
    return where


def kill_often(folder: Path, moments: int, seed: int) -> Counter[str]:
    assert ended(started(folder / "undisturbed", folder / "log", 2)) == [0, 0]
    expected, length = result(folder / "undisturbed"), len(lines_of(folder / "log"))
    rng = random.Random(seed)
    return Counter(
        kill_and_resume(
            folder / str(n),
            rng.randrange(length),
            rng.uniform(0, 2 * PACE * BATCH),
            rng.randrange(2),
            rng.choice((1, 2, 3)),
            expected,
        )
        for n in range(moments)
    )


@pytest.mark.usefixtures("steady")
def test_kill_9_at_ten_moments(tmp_path: Path) -> None:
    assert kill_often(tmp_path, 10, seed=0).total() == 10


@pytest.mark.slow
@pytest.mark.usefixtures("steady")
def test_kill_9_at_two_hundred_moments(tmp_path: Path) -> None:
    where = kill_often(tmp_path, 200, seed=1)
    print(dict(where))  # how many in which part of the run; -s shows it
    assert where.keys() >= {"generation", "judging", "merge"}
