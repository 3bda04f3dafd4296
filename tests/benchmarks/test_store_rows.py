"""Rows are read in blocks and held small, so that a million of them fit."""

from __future__ import annotations

import os
import re
import time
import tracemalloc
from pathlib import Path

import pytest

from benchmarks import runner, store
from benchmarks.bench.runner import Stub, StubModel, rows_per_second
from benchmarks.predicting import seed_for
from benchmarks.types import BenchError, Prediction, Verdict
from benchmarks.work import Part, Settings

ROWS = [Verdict(f"fake/{number}", {"value": number}) for number in range(50)]


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    with store.Shard(store.shard_path(tmp_path, Verdict, 0)) as shard:
        shard.append(ROWS)
    return tmp_path


@pytest.mark.parametrize("block", [1, 100, 1 << 20])
def test_blocks_change_nothing(stored: Path, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "BLOCK", block)
    assert list(store.read_verdicts(stored).values()) == ROWS
    assert store.read_errors(stored, Verdict) == {row.id: None for row in ROWS}
    shard = store.shard_path(stored, Verdict, 0)
    lines = shard.read_bytes().splitlines(keepends=True)

    shard.write_bytes(b"".join(lines[:30]) + lines[30][:-1])
    assert list(store.read_verdicts(stored)) == [row.id for row in ROWS[:30]]
    shard.write_bytes(b"".join([*lines[:40], b"{damaged}\n", *lines[40:]]))
    with pytest.raises(BenchError, match=re.escape(f"{shard}, line 41 is damaged")):
        store.read_verdicts(stored)


def test_rows_are_a_mapping(stored: Path) -> None:
    rows = store.read_verdicts(stored)
    assert rows == {row.id: row for row in ROWS}
    assert len(rows) == 50
    assert "fake/50" not in rows
    assert rows.get("fake/50") is None
    some = rows.only(["fake/7", "fake/3"])
    assert list(some.values()) == [ROWS[7], ROWS[3]]
    with pytest.raises(KeyError):
        rows.only(["fake/50"])


def test_errors_are_those_that_a_later_row_has_not_mended(tmp_path: Path) -> None:
    with store.Shard(store.shard_path(tmp_path, Verdict, 0)) as shard:
        shard.append([Verdict(str(number), error=f"early {number}") for number in range(4)])
        shard.append([Verdict("0", 1), Verdict("1", error="late")])
        shard.append([Verdict("0", error="after it was done")])
    rows = store.read_verdicts(tmp_path)
    assert rows.errors == {"1": "late", "2": "early 2", "3": "early 3"}
    assert {row.id: row.error for row in rows.values() if row.error is not None} == rows.errors
    assert rows.only(["0", "1"]).errors == {"1": "late"}
    assert store.read_errors(tmp_path, Verdict) == {"0": None, **rows.errors}


def test_the_disk_is_flushed_at_intervals_and_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    now = [100.0]
    monkeypatch.setattr(os, "fsync", lambda file: flushed.append(1))
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with store.Shard(store.shard_path(tmp_path, Verdict, 0)) as shard:
        counts = []
        for row in ROWS[:6]:
            now[0] += 0.4
            shard.append([row])
            counts.append(len(flushed))
            # Flushed or not, it is in the file that any other process sees.
            assert row.id in store.read_verdicts(tmp_path)
    assert counts == [0, 0, 1, 1, 1, 2]
    assert len(flushed) == 3


def test_a_disk_that_is_full_at_the_last_flush_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: object) -> None:
        raise OSError(28, "No space left on device")

    path = store.shard_path(tmp_path, Verdict, 0)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BenchError, match=re.escape(f"cannot write {path}: No space left on device")), store.Shard(path):
        pass
    monkeypatch.undo()
    with store.Shard(path):  # not locked any more
        pass


def test_merging_takes_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Less than 1,000 MB for a million samples, which take 480 themselves, is less than 520 bytes for each."""
    monkeypatch.setattr(store, "BLOCK", 1 << 16)  # what a block takes counts for nothing in a million
    size = 5000
    benchmark = Stub(size)
    runner.run(tmp_path, [benchmark], StubModel(), Settings("stub", batch_size=100), Part())
    samples = benchmark.samples()
    tracemalloc.start()
    (metric,) = runner.merge(tmp_path / "stub", benchmark, samples)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 520 * size
    replies = [round(seed_for(0, sample.id) % 1000 / 1000, 3) for sample in samples]
    assert metric.value == pytest.approx(sum(replies) / size)
    assert metric.n == size


def test_every_measured_row_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    appended: list[Prediction] = []
    append = store.Shard.append

    def counting(self: store.Shard, rows: list[Prediction]) -> None:
        append(self, rows)
        appended.extend(store.read_predictions(self.path.parents[1]).values())

    monkeypatch.setattr(store.Shard, "append", counting)
    assert rows_per_second(8) > 0
    assert len(appended) == 8
