"""A run on disk: spec.json first, append-only JSONL shards, images, scores.jsonl, and run.json last.

Whatever moment a process dies at, every line that ends in a newline is a record whose image exists, and a
last line without one is not a record. So a run can always be read, and resumed by any number of processes.
"""

from __future__ import annotations

import fcntl
import json
import os
import uuid
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import quote

from benchmarks.types import BenchError, Json, Metric, Prediction, RunRecord, Score, Verdict

Shardable = TypeVar("Shardable", Prediction, Verdict)
Row = TypeVar("Row", Prediction, Verdict, Score)


@dataclass(frozen=True)
class RunSpec:
    """Everything that determines the numbers of a run. The batch size and the number of processes do not."""

    suite: str
    seed: int
    limit: int | None
    model: Mapping[str, Json]
    benchmarks: Mapping[str, Json]  # name -> version, profile and what the benchmark says of its data and judge


@dataclass(frozen=True)
class Environment:
    """Where and with what a run was started. Recorded, not compared: another machine may finish the run.

    ``rejudged`` has an entry for each time that judges were replaced: when, by which code, and the judge of each
    benchmark before.
    """

    started: str
    code: Mapping[str, Json]
    packages: Mapping[str, str]
    hardware: Mapping[str, Json]
    rejudged: tuple[Mapping[str, Json], ...] = ()


def open_run(root: Path, spec: RunSpec, environment: Environment) -> Environment:
    """Start a run in ``root``, or join the one that is there; returns the environment it was started in.

    Raises BenchError when ``root`` holds a run with another spec, naming the first field that differs.
    """
    path = root / "spec.json"
    with _disk("read", path):
        started = path.exists()
    if not started:
        _create(path, _document({**asdict(spec), "environment": asdict(environment)}))
    stored, started_in = read_spec(root)
    _check_same(root, stored, spec)
    return started_in


def rejudge(root: Path, spec: RunSpec, environment: Environment) -> Environment:
    """Put the judges of ``spec`` in place of those that the run in ``root`` has; returns its environment.

    Predictions stay. Where a benchmark's judge is another one, its verdicts are kept aside under ``verdicts-N``, and
    the run is not complete until the new judge has seen everything. Several processes may do this at once. Raises
    BenchError when more than the judges differs, and while a process that knows the old judge writes.
    """
    with _exclusive(root / ".lock"):
        stored, started_in = read_spec(root)
        _check_same(root, _without_judges(stored), _without_judges(spec))
        before = {
            name: stored.benchmarks[name].get("judge")
            for name, described in json.loads(_document(spec.benchmarks)).items()
            if described.get("judge") != stored.benchmarks[name].get("judge")
        }
        if not before:
            return started_in
        for path in sorted(root.glob("*/*/rank*.jsonl")):
            Shard(path).close()  # nobody else has it open
        # In this order a run that is stopped in between is one under the old judge without verdicts.
        with _disk("write", root / "run.json"):
            (root / "run.json").unlink(missing_ok=True)
        for name in before:
            _set_aside(_shards(root / name, Verdict))
        entry = {"started": environment.started, "code": environment.code, "judges_before": before}
        started_in = replace(started_in, rejudged=(*started_in.rejudged, entry))
        _replace(root / "spec.json", _document({**asdict(spec), "environment": asdict(started_in)}))
        return started_in


def _without_judges(spec: RunSpec) -> RunSpec:
    return replace(
        spec,
        benchmarks={
            name: {key: value for key, value in described.items() if key != "judge"}
            for name, described in spec.benchmarks.items()
        },
    )


def _set_aside(folder: Path) -> None:
    number = 1
    while (aside := folder.with_name(f"{folder.name}-{number}")).exists():
        number += 1
    with _disk("write", folder), suppress(FileNotFoundError):  # no verdicts yet
        folder.rename(aside)


def _check_same(root: Path, stored: RunSpec, spec: RunSpec) -> None:
    difference = _difference(asdict(stored), json.loads(_document(asdict(spec))))
    if difference is not None:
        field, there, here = difference
        raise BenchError(
            f"{root} holds another run: {field} is {_brief(there)} there and {_brief(here)} here; "
            "give the same options or another --out"
        )


def read_spec(root: Path) -> tuple[RunSpec, Environment]:
    """What ``root`` was started with. Raises BenchError when it holds no run."""
    path = root / "spec.json"
    with _disk("read", path):
        data = path.read_bytes()
    try:
        content = json.loads(data)
        stored = content.pop("environment")
        environment = Environment(**{**stored, "rejudged": tuple(stored.get("rejudged", ()))})
        return RunSpec(**content), environment
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BenchError(f"{path} is not the spec of a run ({error}); use another --out") from error


def _difference(there: Json, here: Json, field: str = "") -> tuple[str, Json, Json] | None:
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted(there.keys() | here.keys()):
            found = _difference(there.get(key), here.get(key), f"{field}.{key}" if field else key)
            if found is not None:
                return found
        return None
    return None if there == here else (field, there, here)


def _brief(value: Json) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 80 else text[:77] + "..."


#: The open shards of this process.
_OPEN: weakref.WeakSet[Shard] = weakref.WeakSet()


def _close_in_child() -> None:
    """A lock lives as long as any copy of its file is open, and a forked worker may outlive a killed process."""
    for shard in _OPEN:
        shard.close()


os.register_at_fork(after_in_child=_close_in_child)


class Shard:
    """The one writer of one append-only JSONL file.

    Opening it locks it, against a second process of the same rank, and truncates a torn last line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _disk("write", path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)
        try:
            self._lock()
            self._truncate_torn_line()
        except BenchError:
            self._file.close()
            raise
        _OPEN.add(self)

    def _lock(self) -> None:
        try:
            # flock, not lockf: a POSIX lock is lost when this process closes the shard after reading it.
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BenchError(
                f"{self.path} is being written by another process; wait for it to end, "
                "or give each process its own RANK and the same WORLD_SIZE"
            ) from error
        except OSError as error:
            raise BenchError(f"cannot lock {self.path}: {error.strerror}; put the run on another disk") from error

    def _truncate_torn_line(self) -> None:
        with _disk("write", self.path):
            self._file.truncate(self.path.read_bytes().rfind(b"\n") + 1)

    def append(self, rows: Sequence[Prediction] | Sequence[Verdict]) -> None:
        """Add one line per row and sync once. Raises BenchError when the disk takes no more; complete lines stay."""
        data = memoryview(b"".join(_line(asdict(row)) for row in rows))
        try:
            with _disk("write", self.path):
                while data:
                    data = data[self._file.write(data) :]
                os.fsync(self._file)
        except BenchError:
            self._file.close()  # what follows a torn line would be lost with it, so nothing may follow
            raise

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def shard_path(folder: Path, kind: type[Prediction] | type[Verdict], rank: int) -> Path:
    """The file that the process of this rank writes; ``folder`` is the benchmark's."""
    return _shards(folder, kind) / f"rank{rank:05d}.jsonl"


def _shards(folder: Path, kind: type[Prediction] | type[Verdict]) -> Path:
    return folder / ("predictions" if kind is Prediction else "verdicts")


def read_predictions(folder: Path) -> dict[str, Prediction]:
    """All predictions under the benchmark's folder, by sample id; see ``_latest`` for ids with several rows."""
    return _latest(_shard_rows(folder, Prediction))


def read_verdicts(folder: Path) -> dict[str, Verdict]:
    """All verdicts under the benchmark's folder, by sample id; see ``_latest`` for ids with several rows."""
    return _latest(_shard_rows(folder, Verdict))


def read_scores(folder: Path) -> list[Score]:
    """The scores of one benchmark in sample order."""
    return list(_rows(folder / "scores.jsonl", Score))


def _shard_rows(folder: Path, kind: type[Shardable]) -> Iterator[Shardable]:
    for path in sorted(_shards(folder, kind).glob("rank*.jsonl")):
        yield from _rows(path, kind)


def _latest(rows: Iterable[Shardable]) -> dict[str, Shardable]:
    """The last row without error of each id; the last row of all where every one has an error."""
    latest: dict[str, Shardable] = {}
    for row in rows:
        earlier = latest.get(row.id)
        if row.error is None or earlier is None or earlier.error is not None:
            latest[row.id] = row
    return latest


def _rows(path: Path, kind: type[Row]) -> Iterator[Row]:
    with _disk("read", path):
        data = path.read_bytes()
    # What follows the last newline is torn, or still being written by another process.
    lines = data.split(b"\n")[:-1]
    try:
        rows = json.loads(b"[" + b",".join(lines) + b"]")  # a third faster than line by line
    except ValueError:
        rows = None
    for number, line in enumerate(lines, start=1):
        try:
            yield kind(**(rows[number - 1] if rows is not None and len(rows) == len(lines) else json.loads(line)))
        except (ValueError, TypeError) as error:
            raise BenchError(
                f"{path}, line {number} is damaged; delete that line, and the same command does its sample again"
            ) from error


def image_path(sample_id: str, suffix: str) -> str:
    """Where a sample's image lies, relative to the benchmark's folder.

    The id's slashes make folders. Every other character outside [A-Za-z0-9_~-] is percent-encoded, dots and
    empty parts too, so that no id leaves the folder and no two ids share a file.
    """
    parts = [quote(part, safe="").replace(".", "%2E") or "%" for part in sample_id.split("/")]
    return "images/" + "/".join(parts) + suffix


def write_image(folder: Path, sample_id: str, data: bytes, suffix: str) -> str:
    """Store an image file's bytes for a sample; returns its path relative to the benchmark's folder."""
    relative = image_path(sample_id, suffix)
    _replace(folder / relative, data)
    return relative


def write_scores(folder: Path, scores: Sequence[Score]) -> None:
    """Write scores.jsonl; the same scores give the same bytes."""
    _replace(folder / "scores.jsonl", b"".join(_line(asdict(score)) for score in scores))


def write_records(root: Path, records: Sequence[RunRecord]) -> None:
    """Write run.json, which says that the run is complete; the same records give the same bytes."""
    _replace(root / "run.json", _document({"records": [asdict(record) for record in records]}))


def read_records(root: Path) -> list[RunRecord]:
    """The records of a complete run, one per benchmark. Raises BenchError when the run is not complete."""
    path = root / "run.json"
    if not path.exists():
        raise BenchError(f"{root} holds no complete run (no run.json); start or resume it with blip3o-bench run")
    with _disk("read", path):
        data = path.read_bytes()
    try:
        return [
            RunRecord(**{**record, "metrics": tuple(Metric(**metric) for metric in record["metrics"])})
            for record in json.loads(data)["records"]
        ]
    except (ValueError, TypeError, KeyError) as error:
        raise BenchError(f"{path} is damaged; blip3o-bench run --rescore --out {root} writes it again") from error


def _line(value: Json) -> bytes:
    """One row. ASCII, so that no reply, not even one with a lone surrogate, can break a line or its encoding."""
    return json.dumps(value, sort_keys=True, allow_nan=False).encode("ascii") + b"\n"


def _document(value: Json) -> bytes:
    return json.dumps(value, sort_keys=True, allow_nan=False, indent=1).encode("ascii") + b"\n"


def _replace(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    with _disk("write", path), _temporary(path, data) as temporary:
        os.replace(temporary, path)


def _create(path: Path, data: bytes) -> None:
    """As ``_replace``, but the first process wins: a file that is there already stays."""
    with _disk("write", path), _temporary(path, data) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """No other process is in here with the same ``path``."""
    with _disk("write", path):
        file = path.open("ab")
    with file:
        with _disk("lock", path):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _temporary(path: Path, data: bytes) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _disk(action: str, path: Path) -> Iterator[None]:
    """Turn what the disk refuses (full, read-only, no permission, no such file) into a user's error."""
    try:
        yield
    except OSError as error:
        hint = "; what is stored is kept, and the same command resumes" if action == "write" else ""
        raise BenchError(f"cannot {action} {path}: {error.strerror or error}{hint}") from error
