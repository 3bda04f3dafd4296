"""What goes wrong on the way leaves a clear state, and the same command goes on to the same bytes."""

from __future__ import annotations

import errno
import math
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks import environment, runner, store
from benchmarks.types import BenchError, Model, Sample, Verdict
from benchmarks.work import Part, Settings
from tests.fakes import FakeAnswerer, FakeBenchmark, FakeGenerator

SETTINGS = Settings(suite="toy", batch_size=4)
ALONE = Part()


def pair() -> list[FakeBenchmark]:
    return [FakeBenchmark(), FakeBenchmark(name="other")]


def run(root: Path, model: Model | None = None, settings: Settings = SETTINGS) -> None:
    runner.run(root, pair(), model or FakeGenerator(), settings, ALONE)


def result(root: Path) -> list[bytes]:
    return [(root / name).read_bytes() for name in ("run.json", "fake/scores.jsonl", "other/scores.jsonl")]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The run of one process to which nothing happens."""
    root = tmp_path_factory.mktemp("undisturbed")
    run(root)
    return result(root)


# Memory


class OutOfMemoryError(RuntimeError):
    """As torch has it."""


NO_MEMORY = (
    MemoryError(),
    OutOfMemoryError("Tried to allocate 20.00 GiB"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
)


@dataclass
class Narrow(FakeGenerator):
    """Has memory for ``room`` samples at once, and for none of ``huge``."""

    room: int = 1
    huge: tuple[str, ...] = ()
    error: Exception = NO_MEMORY[0]
    asked: list[int] = field(default_factory=list)

    def generate(self, samples: Sequence[Sample], seeds: Sequence[int]) -> Sequence[Image.Image | Path | Exception]:
        self.asked.append(len(samples))
        if len(samples) > self.room or any(sample.id in self.huge for sample in samples):
            raise self.error
        return super().generate(samples, seeds)


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda error: type(error).__name__)
def test_a_batch_that_does_not_fit_is_halved_and_that_is_recorded(
    tmp_path: Path, expected: list[bytes], error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Narrow(room=2, error=error)
    run(tmp_path, model, Settings(suite="toy", batch_size=8))
    assert model.asked == [8, 4, *[2] * 6] * 2
    assert len(model.drawn) == 24
    assert result(tmp_path)[1:] == expected[1:]
    first, second = store.read_records(tmp_path)
    reason = f"{type(error).__name__}: {error}"
    assert [record.hardware["out_of_memory"] for record in (first, second)] == [
        [{"benchmark": name, "samples": samples, "reason": reason} for samples in (8, 4)] for name in ("fake", "other")
    ]
    assert (first.metrics[0].n, first.metrics[0].missing) == (12, 0)
    assert f"fake: no memory for 8 samples together, on with 4: {reason}" in capsys.readouterr().err


def test_a_sample_that_does_not_fit_alone_is_missing_and_tried_again(tmp_path: Path, expected: list[bytes]) -> None:
    run(tmp_path, Narrow(room=4, huge=("fake/00001/1",)))
    metric = store.read_records(tmp_path)[0].metrics[0]
    assert (metric.n, metric.missing) == (11, 1)
    score = store.read_scores(tmp_path / "fake")[3]
    assert (score.id, score.value, score.reason) == ("fake/00001/1", None, "MemoryError: ")
    again = FakeGenerator()
    run(tmp_path, again)
    assert again.drawn == ["fake/00001/1"]
    assert result(tmp_path)[1:] == expected[1:]


def test_what_a_model_reads_ahead_is_announced_anew_after_a_halved_batch(tmp_path: Path) -> None:
    @dataclass
    class Reader(FakeAnswerer):
        """As model.generate does, it hands out what it prepared in the announced order."""

        left: list[str] = field(default_factory=list)

        @contextmanager
        def ahead(self, samples: Sequence[Sample], workers: int) -> Iterator[None]:
            self.left = [sample.id for sample in samples]
            yield

        def answer(self, samples: Sequence[Sample], seeds: Sequence[int]) -> Sequence[str]:
            for sample in samples:
                assert self.left.pop(0) == sample.id
            if len(samples) > 2:
                raise MemoryError
            return super().answer(samples, seeds)

    records = runner.run(tmp_path, [FakeBenchmark(task="answer")], Reader(), SETTINGS, ALONE)
    assert records is not None
    assert (records[0].metrics[0].n, len(records[0].hardware["out_of_memory"])) == (12, 1)


def test_a_judge_without_memory_for_a_batch_looks_at_each_alone(tmp_path: Path, expected: list[bytes]) -> None:
    class Small(FakeBenchmark):
        def judge(self, samples: Sequence[Sample], *others: Any) -> Sequence[Verdict]:
            if len(samples) > 1:
                raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return super().judge(samples, *others)

    runner.run(tmp_path, [Small(), FakeBenchmark(name="other")], FakeGenerator(), SETTINGS, ALONE)
    assert result(tmp_path) == expected


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), ValueError("out of memory")])
def test_other_failures_of_a_model_are_no_lack_of_memory(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)):
        run(tmp_path, Narrow(room=0, error=error))
    assert len(store.read_predictions(tmp_path / "fake")) == 0


# A judge that hangs


@dataclass
class Hanging(FakeBenchmark):
    """Its judge waits for ever at the samples of ``stuck``, and takes any Exception for a failed question."""

    stuck: tuple[str, ...] = ()

    def judge(self, samples: Sequence[Sample], *others: Any) -> Sequence[Verdict]:
        try:
            while any(sample.id in self.stuck for sample in samples):
                time.sleep(60)
        except Exception as error:
            return [Verdict(sample.id, {"value": 0.0, "error": str(error)}) for sample in samples]
        return super().judge(samples, *others)


def test_what_a_judge_hangs_at_is_missing_and_judged_by_the_next_start(tmp_path: Path, expected: list[bytes]) -> None:
    settings = Settings(suite="toy", batch_size=4, judge_timeout=0.1)
    stuck = Hanging(stuck=("fake/00002/1",))
    start = time.monotonic()
    runner.run(tmp_path, [stuck, FakeBenchmark(name="other")], FakeGenerator(), settings, ALONE)
    assert time.monotonic() - start > 0.5  # the batch of four, then the one
    metric = store.read_records(tmp_path)[0].metrics[0]
    assert (metric.n, metric.missing) == (11, 1)
    score = store.read_scores(tmp_path / "fake")[5]
    assert (score.value, score.reason) == (None, "TimeoutError: the judge took more than 0.1 seconds")
    again = pair()
    runner.run(tmp_path, again, FakeGenerator(), settings, ALONE)
    assert again[0].judged == ["fake/00002/1"]
    assert result(tmp_path) == expected


def test_a_judge_in_time_and_one_without_limit_see_no_alarm(tmp_path: Path, expected: list[bytes]) -> None:
    for timeout in (0.0, 0.2):
        run(tmp_path / str(timeout), settings=Settings(suite="toy", batch_size=4, judge_timeout=timeout))
        time.sleep(0.25)  # an alarm left behind would end this
        assert result(tmp_path / str(timeout)) == expected


# The disk


class FullDisk:
    """Stands in for os.fsync: takes ``room`` syncs and no more."""

    def __init__(self, room: float) -> None:
        self.room = room
        self.asked = 0

    def __call__(self, file: Any) -> None:
        self.asked += 1
        if self.asked > self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_that_is_full_at_any_write_is_one_line_and_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "SYNC_SECONDS", 0.0)

    def attempt(root: Path, disk: FullDisk) -> FakeGenerator:
        monkeypatch.setattr(os, "fsync", disk)
        model = FakeGenerator()
        runner.run(root, [FakeBenchmark(groups=3)], model, SETTINGS, ALONE)
        return model

    large = FullDisk(math.inf)
    attempt(tmp_path / "whole", large)
    assert large.asked == 1 + 6 + 3 + 3 + 2  # spec; images; two batches and the end of predictions, verdicts; results
    for room in range(large.asked):
        root = tmp_path / str(room)
        with pytest.raises(BenchError, match=r"^cannot write .*: No space left on device; .* same command resumes$"):
            attempt(root, FullDisk(room))
        assert not (root / "run.json").exists()
        assert not list(root.rglob("*.tmp"))
        kept = len(store.read_predictions(root / "fake"))
        assert len(attempt(root, large).drawn) == 6 - kept
        for file in ("run.json", "fake/scores.jsonl"):
            assert (root / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


@contextmanager
def as_nobody(folder: Path) -> Iterator[None]:
    """Root may write anything, so tests of permissions drop its rights for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A temporary folder that every user may enter, which pytest's is not."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        yield folder


def protect(root: Path, mode: int) -> None:
    for path in (root, *(path for path in root.rglob("*") if path.is_dir())):
        path.chmod(mode)


def test_a_read_only_run_is_one_line_changes_nothing_and_is_still_read(
    open_folder: Path, expected: list[bytes]
) -> None:
    root = open_folder / "run"
    with as_nobody(open_folder), pytest.raises(KeyboardInterrupt):
        run(root, FakeGenerator(crash_after=6))
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    protect(root, 0o555)
    for path in before:
        path.chmod(0o444)
    with as_nobody(open_folder), pytest.raises(BenchError, match=r"cannot write .*rank00000\.jsonl: Permission denied"):
        run(root)
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    protect(root, 0o777)
    for path in before:
        path.chmod(0o666)
    again = FakeGenerator()
    run(root, again)
    assert len(again.drawn) == 24 - 4
    assert result(root) == expected
    protect(root, 0o555)
    with as_nobody(open_folder):
        assert len(store.read_records(root)) == 2
        assert len(store.read_predictions(root / "fake")) == 12
    protect(root, 0o777)


def test_a_place_where_no_run_can_be_made_is_one_line(open_folder: Path) -> None:
    open_folder.chmod(0o555)
    with as_nobody(open_folder), pytest.raises(BenchError, match=r"cannot write .*spec\.json: Permission denied"):
        run(open_folder / "run")


# The clock


class Jumping(datetime):
    """A clock that was set back by a day at every look."""

    looks = 0

    @classmethod
    def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
        cls.looks += 1
        return datetime(2020, 1, 1, tzinfo=UTC) - timedelta(days=cls.looks)


@pytest.mark.parametrize("step", [-86400.0, 86400.0])
def test_a_clock_that_jumps_changes_nothing(
    tmp_path: Path, expected: list[bytes], monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    now = [1.6e9]

    def jumping() -> float:
        now[0] += step
        return now[0]

    monkeypatch.setattr(time, "time", jumping)
    monkeypatch.setattr("tqdm.std.time", jumping)
    monkeypatch.setattr(environment, "datetime", Jumping)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)  # with a bar, which measures time
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, FakeGenerator(crash_after=6))
    run(tmp_path, settings=Settings(suite="toy", batch_size=4, judge_timeout=5.0))
    assert result(tmp_path) == expected
    assert all(one.seconds >= 0 for one in store.read_predictions(tmp_path / "fake").values())
