"""A run on disk: spec.json first, append-only JSONL shards, images, scores.jsonl, and run.json last.

Whatever moment a process dies at, every line that ends in a newline is a record whose image exists, and a
last line without one is not a record. So a run can always be read, and resumed by any number of processes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import time
import uuid
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar
from urllib.parse import quote

from benchmarks.types import BenchError, Json, Metric, Prediction, RunRecord, Score, Verdict

Shardable = TypeVar("Shardable", Prediction, Verdict)
Row = TypeVar("Row", Prediction, Verdict, Score)
Stage = Literal["generate", "judge"]

#: Least seconds between two syncs of a shard, so that small batches do not wait for the disk. A killed process loses
#: nothing by it; a power cut takes rows that neither this nor the system has flushed (Linux does within half a minute).
SYNC_SECONDS = 1.0
#: Bytes of a file of rows that are read at a time.
BLOCK = 1 << 20


@dataclass(frozen=True)
class RunSpec:
    """Everything that determines the numbers of a run. The batch size and the number of processes do not.

    A benchmark has no ``judge`` until a process that judges joins the run.
    """

    suite: str
    seed: int
    limit: int | None
    model: Mapping[str, Json]
    benchmarks: Mapping[str, Json]  # name -> version, profile and what the benchmark says of its data and judge


@dataclass(frozen=True)
class Environment:
    """Where and with what a run was started. Recorded, not compared: another machine may finish the run.

    ``also`` has an entry for each other code, packages or hardware by which a stage of it was done; ``out_of_memory``
    for each batch that a model had no memory for; ``rejudged`` for each time that judges were replaced: when, by which
    code, and the judge of each benchmark before.
    """

    started: str
    code: Mapping[str, Json]
    packages: Mapping[str, str]
    hardware: Mapping[str, Json]
    also: tuple[Mapping[str, Json], ...] = ()
    out_of_memory: tuple[Mapping[str, Json], ...] = ()
    rejudged: tuple[Mapping[str, Json], ...] = ()


def open_run(root: Path, spec: RunSpec, environment: Environment) -> None:
    """Start a run in ``root``, or join the one that is there.

    A benchmark of which ``spec`` names no judge is not going to be judged here; judges that the stored run does not
    have yet are added to it. Raises BenchError when ``root`` holds a run with another spec, naming the first field
    that differs.
    """
    path = root / "spec.json"
    with _disk("read", path):
        started = path.exists()
    if not started:
        _create(path, [_spec_document(spec, environment)])

    def joined(stored: RunSpec, known: Environment) -> tuple[RunSpec, Environment]:
        here = RunSpec(**json.loads(_document(asdict(spec))))
        stored = _with_judges_of(stored, here)
        _check_same(root, stored, _with_judges_of(here, stored))
        return stored, known

    _amend(root, joined)


def note_environment(root: Path, environment: Environment, stage: Stage) -> None:
    """Keep that this stage was done in ``environment``, if it is another than the run was started in."""
    _amend(root, lambda spec, known: (spec, _with(known, environment, stage)))


def note_out_of_memory(root: Path, benchmark: str, samples: int, reason: str) -> None:
    """Keep in the run's environment that a model had no memory for so many samples at once."""
    entry = {"benchmark": benchmark, "samples": samples, "reason": reason}

    def noted(spec: RunSpec, known: Environment) -> tuple[RunSpec, Environment]:
        if entry in known.out_of_memory:
            return spec, known
        return spec, replace(known, out_of_memory=(*known.out_of_memory, entry))

    _amend(root, noted)


def _amend(root: Path, change: Callable[[RunSpec, Environment], tuple[RunSpec, Environment]]) -> None:
    """Write spec.json as ``change`` makes it of the stored one, if that is another. Several processes may at once."""
    stored = read_spec(root)
    if change(*stored) != stored:
        with _exclusive(root / ".lock"):
            _replace(root / "spec.json", [_spec_document(*change(*read_spec(root)))])


def _spec_document(spec: RunSpec, environment: Environment) -> bytes:
    return _document({**asdict(spec), "environment": asdict(environment)})


def _with_judges_of(spec: RunSpec, other: RunSpec) -> RunSpec:
    """``spec`` with the judges of ``other`` where it has none of its own."""
    judges = {name: {"judge": one["judge"]} for name, one in other.benchmarks.items() if "judge" in one}
    return replace(spec, benchmarks={name: {**judges.get(name, {}), **one} for name, one in spec.benchmarks.items()})


def _with(known: Environment, here: Environment, stage: Stage) -> Environment:
    """``known`` with that of this process, if it is another one."""
    own = {"code": here.code, "packages": here.packages, "hardware": here.hardware}
    started_in = {"code": known.code, "packages": known.packages, "hardware": known.hardware}
    if _same_place(started_in, own) or any(one["stage"] == stage and _same_place(one, own) for one in known.also):
        return known
    return replace(known, also=(*known.also, {"stage": stage, **own}))


def _same_place(there: Mapping[str, Json], here: Mapping[str, Json]) -> bool:
    """What only one of them says of its hardware makes no difference: nothing is imported in order to say more."""
    return (
        there["code"] == here["code"]
        and there["packages"] == here["packages"]
        and _agree(there["hardware"], here["hardware"])
    )


def _agree(there: Json, here: Json) -> bool:
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        return all(_agree(there[key], here[key]) for key in there.keys() & here.keys())
    return bool(there == here)


def rejudge(root: Path, spec: RunSpec, environment: Environment) -> None:
    """Put the judges of ``spec`` in place of those that the run in ``root`` has.

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
            return
        for path in sorted(root.glob("*/*/rank*.jsonl")):
            Shard(path).close()  # nobody else has it open
        # In this order a run that is stopped in between is one under the old judge without verdicts.
        with _disk("write", root / "run.json"):
            (root / "run.json").unlink(missing_ok=True)
        for name in before:
            _set_aside(_shards(root / name, Verdict))
        entry = {"started": environment.started, "code": environment.code, "judges_before": before}
        started_in = replace(started_in, rejudged=(*started_in.rejudged, entry))
        _replace(root / "spec.json", [_spec_document(spec, started_in)])


def check_judge(folder: Path, spec: RunSpec) -> None:
    """Raise BenchError unless the judge of the benchmark in ``folder`` is still that of ``spec``.

    For a process that has its shard of verdicts open: from then on ``rejudge`` refuses.
    """
    root = folder.parent
    if (root / ".lock").exists():  # one that has not seen the shard is let through to its end
        with _exclusive(root / ".lock"):
            pass
    here = json.loads(_document(spec.benchmarks[folder.name].get("judge")))
    if read_spec(root)[0].benchmarks[folder.name].get("judge") != here:
        raise BenchError(f"another process has replaced the judge of {folder.name} in {root}: start again with that")


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
    if stored.benchmarks.keys() != spec.benchmarks.keys():
        raise BenchError(
            f"{root} is a run of {', '.join(stored.benchmarks)}, not of {', '.join(spec.benchmarks)}; "
            "name the same benchmarks or another --out"
        )
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
    if not path.exists():
        raise BenchError(f"cannot read {path}: give the folder of a run, which blip3o-bench run --out wrote")
    with _disk("read", path):
        data = path.read_bytes()
    try:
        content = json.loads(data)
        stored = content.pop("environment")
        lists = {name: tuple(stored.get(name, ())) for name in ("also", "out_of_memory", "rejudged")}
        spec = RunSpec(**content)
        _check_types(spec)
        return spec, Environment(**{**stored, **lists})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise BenchError(f"{path} is not the spec of a run ({error}); use another --out") from error


def _check_types(spec: RunSpec) -> None:
    """Raise ValueError for what no run is started with, such as a benchmark whose folder would lie elsewhere."""
    if type(spec.seed) is not int or type(spec.limit) not in (int, type(None)):
        raise ValueError("seed and limit are whole numbers")
    for name, described in spec.benchmarks.items():
        if name in ("", "..") or Path(name).name != name or not isinstance(described, dict):
            raise ValueError(f"{name!r} is no benchmark")
        if lacking := [field for field in ("version", "profile") if not isinstance(described.get(field), str)]:
            raise ValueError(f"{name} has no {lacking[0]}")


def _loaded(data: bytes) -> Any:
    """Parsed JSON. ValueError also for NaN and Infinity, which Python's reader takes though JSON has none."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no number of JSON")

    return json.loads(data, parse_constant=refuse)


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
        shard.abandon()


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
        self._synced = time.monotonic()
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
        with _disk("write", self.path), self.path.open("rb") as file:
            self._file.truncate(sum(len(line) for line in file if line.endswith(b"\n")))

    def append(self, rows: Sequence[Prediction] | Sequence[Verdict]) -> None:
        """Add one line per row, which is stored though this process is killed, and flushed to the disk when the last
        flush is ``SYNC_SECONDS`` old. Raises BenchError when the disk takes no more; complete lines stay."""
        data = memoryview(b"".join(_with_check(_line(row)) for row in rows))
        try:
            with _disk("write", self.path):
                while data:
                    data = data[self._file.write(data) :]
                if time.monotonic() - self._synced >= SYNC_SECONDS:
                    os.fsync(self._file)
                    self._synced = time.monotonic()
        except BenchError:
            self._file.close()  # what follows a torn line would be lost with it, so nothing may follow
            raise

    def close(self) -> None:
        """Flush to the disk and unlock. Raises BenchError when the disk takes no more."""
        if self._file.closed:
            return
        try:
            with _disk("write", self.path):
                os.fsync(self._file)
        finally:
            self._file.close()

    def abandon(self) -> None:
        """Close without a flush."""
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


class Rows(Mapping[str, Shardable]):
    """Rows by sample id, held as the lines of their files, a third of the memory, and parsed at each access.

    ``errors`` are those of the rows that have one.
    """

    def __init__(self, kind: type[Shardable], lines: Mapping[str, bytes], errors: Mapping[str, str]) -> None:
        self._kind: type[Shardable] = kind
        self._lines = lines
        self.errors = errors

    def __getitem__(self, sample_id: str) -> Shardable:
        return _row(self._kind, json.loads(self._lines[sample_id]))

    def __contains__(self, sample_id: object) -> bool:
        return sample_id in self._lines

    def __iter__(self) -> Iterator[str]:
        return iter(self._lines)

    def __len__(self) -> int:
        return len(self._lines)

    def only(self, ids: Iterable[str]) -> Rows[Shardable]:
        """The rows of these ids, in their order. Raises KeyError where there is none."""
        lines = {sample_id: self._lines[sample_id] for sample_id in ids}
        return Rows(self._kind, lines, {key: error for key, error in self.errors.items() if key in lines})


def read_predictions(folder: Path) -> Rows[Prediction]:
    """All predictions under the benchmark's folder, by sample id; see ``_latest`` for ids with several rows."""
    return _read(folder, Prediction)


def read_verdicts(folder: Path) -> Rows[Verdict]:
    """All verdicts under the benchmark's folder, by sample id; see ``_latest`` for ids with several rows."""
    return _read(folder, Verdict)


def _read(folder: Path, kind: type[Shardable]) -> Rows[Shardable]:
    lines: dict[str, bytes] = {}
    errors: dict[str, str] = {}
    for row, line in _latest(folder, kind):
        lines[row.id] = line
        if row.error is not None:
            errors[row.id] = row.error
        else:
            errors.pop(row.id, None)
    return Rows(kind, lines, errors)


def read_errors(folder: Path, kind: type[Shardable]) -> dict[str, str | None]:
    """The errors of ``read_predictions`` or ``read_verdicts`` by sample id, None for a row without one."""
    return {row.id: row.error for row, _ in _latest(folder, kind)}


def read_scores(folder: Path) -> list[Score]:
    """The scores of one benchmark in sample order."""
    return [row for row, _ in _rows(folder / "scores.jsonl", Score)]


def altered_rows(folder: Path, kind: type[Prediction] | type[Verdict]) -> Iterator[tuple[Path, int, str]]:
    """Shard, line and sample id of each row that is not as it was written.

    Rows of older versions have no check; behind a row that has one, such a row is altered too.
    """
    for path in sorted(_shards(folder, kind).glob("rank*.jsonl")):
        checked = False
        with _disk("read", path), path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                found = _CHECKED.fullmatch(line)
                checked = checked or found is not None
                if (checked and line.endswith(b"\n") and found is None) or (found and not _fits(found)):
                    yield path, number, _id_in(line)


def _fits(checked: re.Match[bytes]) -> bool:
    return checked[1] == _check(b"{" + checked[2])


def _id_in(line: bytes) -> str:
    """Of the sample that the row is of, or "" where that cannot be read."""
    try:
        return str(json.loads(line)["id"])
    except (ValueError, LookupError, TypeError):
        return ""


def _latest(folder: Path, kind: type[Shardable]) -> Iterator[tuple[Shardable, bytes]]:
    """The rows of all shards, less those with an error where one without came before. So the last of each id is its
    last row without error, or, where every one has an error, the last of all."""
    done: set[str] = set()
    for path in sorted(_shards(folder, kind).glob("rank*.jsonl")):
        for row, line in _rows(path, kind):
            if row.error is None:
                done.add(row.id)
            elif row.id in done:
                continue
            yield row, line


def _rows(path: Path, kind: type[Row]) -> Iterator[tuple[Row, bytes]]:
    """The rows of one file, each with its line."""
    read = 0
    with _disk("read", path), path.open("rb") as file:
        while lines := file.readlines(BLOCK):
            # What follows the last newline is torn, or still being written by another process.
            torn = not lines[-1].endswith(b"\n")
            yield from _parsed(path, kind, lines[:-1] if torn else lines, read)
            if torn:
                return
            read += len(lines)


def _parsed(path: Path, kind: type[Row], lines: Sequence[bytes], read: int) -> Iterator[tuple[Row, bytes]]:
    """The rows of ``lines``, before which ``read`` others were read."""
    try:
        rows = _loaded(b"[" + b",".join(lines) + b"]")  # a third faster than line by line
    except (ValueError, RecursionError):
        rows = None
    for number, line in enumerate(lines):
        try:
            values = rows[number] if rows is not None and len(rows) == len(lines) else _loaded(line)
            row = _row(kind, values)
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise BenchError(
                f"{path}, line {read + number + 1} is damaged; delete that line, "
                "and the same command does its sample again"
            ) from error
        yield row, line


def _row(kind: type[Row], values: Json) -> Row:
    """Raises ValueError, TypeError or AttributeError for what is no such row."""
    values.pop("check", None)
    row = kind(**values)
    if isinstance(row, Prediction) and row.image and (row.image.startswith("/") or ".." in row.image):
        raise ValueError("the image lies outside the run")  # ``image_path`` makes no such name
    return row


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
    _replace(folder / relative, [data])
    return relative


def write_scores(folder: Path, scores: Iterable[Score]) -> None:
    """Write scores.jsonl; the same scores give the same bytes."""
    _replace(folder / "scores.jsonl", map(_line, scores))


def write_records(root: Path, records: Sequence[RunRecord]) -> None:
    """Write run.json, which says that the run is complete; the same records give the same bytes."""
    _replace(root / "run.json", [_document({"records": [asdict(record) for record in records]})])


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
            for record in _loaded(data)["records"]
        ]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise BenchError(f"{path} is damaged; blip3o-bench run --rescore --out {root} writes it again") from error


_ENCODER = json.JSONEncoder(sort_keys=True, allow_nan=False)


def _line(row: Prediction | Verdict | Score) -> bytes:
    """One row. ASCII, so that no reply, not even one with a lone surrogate, can break a line or its encoding."""
    fields = vars(row)  # asdict would copy every finding first
    if isinstance(row, Score) and not row.parts:  # as of most benchmarks
        fields = {name: value for name, value in fields.items() if name != "parts"}
    return _ENCODER.encode(fields).encode("ascii") + b"\n"


#: A row of a shard begins with a check over the rest of it.
_CHECKED = re.compile(rb'\{"check": "([0-9a-f]{16})", (.*\n)', re.DOTALL)


def _with_check(line: bytes) -> bytes:
    return b'{"check": "%s", %s' % (_check(line), line[1:])


def _check(line: bytes) -> bytes:
    """The first digits of a sha256: enough to find what was altered by accident or by hand, not what was by a program
    that knows this."""
    return hashlib.sha256(line).hexdigest()[:16].encode("ascii")


def _document(value: Json) -> bytes:
    return json.dumps(value, sort_keys=True, allow_nan=False, indent=1).encode("ascii") + b"\n"


def _replace(path: Path, data: Iterable[bytes]) -> None:
    """Write a file so that it is there whole or not at all."""
    with _disk("write", path), _temporary(path, data) as temporary:
        os.replace(temporary, path)


def _create(path: Path, data: Iterable[bytes]) -> None:
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
def _temporary(path: Path, data: Iterable[bytes]) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            file.writelines(data)
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
