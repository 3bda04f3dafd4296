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
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import quote

from benchmarks.disk import disk_errors, json_document, replace_file, strict_json
from benchmarks.types import BenchError, Json, Metric, Prediction, RunRecord, Score, Verdict

Shardable = TypeVar("Shardable", Prediction, Verdict)
Row = TypeVar("Row", Prediction, Verdict, Score)

#: Least seconds between two syncs of a shard, so that small batches do not wait for the disk. A killed process loses
#: nothing by it; a power cut takes rows that neither this nor the system has flushed (Linux does within half a minute).
SYNC_SECONDS = 1.0
#: Bytes of a file of rows that are read at a time.
BLOCK = 1 << 20


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
        with disk_errors("write", path):
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
        with disk_errors("write", self.path), self.path.open("rb") as file:
            self._file.truncate(sum(len(line) for line in file if line.endswith(b"\n")))

    def append(self, rows: Sequence[Prediction] | Sequence[Verdict]) -> None:
        """Add one line per row, which is stored though this process is killed, and flushed to the disk when the last
        flush is ``SYNC_SECONDS`` old. Raises BenchError when the disk takes no more; complete lines stay."""
        data = memoryview(b"".join(_with_check(_line(row)) for row in rows))
        try:
            with disk_errors("write", self.path):
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
            with disk_errors("write", self.path):
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
    return shards(folder, kind) / f"rank{rank:05d}.jsonl"


def shards(folder: Path, kind: type[Prediction] | type[Verdict]) -> Path:
    """The folder of all processes' files of this kind; ``folder`` is the benchmark's."""
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
    for path in sorted(shards(folder, kind).glob("rank*.jsonl")):
        checked = False
        with disk_errors("read", path), path.open("rb") as file:
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
    for path in sorted(shards(folder, kind).glob("rank*.jsonl")):
        for row, line in _rows(path, kind):
            if row.error is None:
                done.add(row.id)
            elif row.id in done:
                continue
            yield row, line


def _rows(path: Path, kind: type[Row]) -> Iterator[tuple[Row, bytes]]:
    """The rows of one file, each with its line."""
    read = 0
    with disk_errors("read", path), path.open("rb") as file:
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
        rows = strict_json(b"[" + b",".join(lines) + b"]")  # a third faster than line by line
    except (ValueError, RecursionError):
        rows = None
    for number, line in enumerate(lines):
        try:
            values = rows[number] if rows is not None and len(rows) == len(lines) else strict_json(line)
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
    replace_file(folder / relative, [data])
    return relative


def write_scores(folder: Path, scores: Iterable[Score]) -> None:
    """Write scores.jsonl; the same scores give the same bytes."""
    replace_file(folder / "scores.jsonl", map(_line, scores))


def write_records(root: Path, records: Sequence[RunRecord]) -> None:
    """Write run.json, which says that the run is complete; the same records give the same bytes."""
    replace_file(root / "run.json", [json_document({"records": [asdict(record) for record in records]})])


def read_records(root: Path) -> list[RunRecord]:
    """The records of a complete run, one per benchmark. Raises BenchError when the run is not complete."""
    path = root / "run.json"
    if not path.exists():
        raise BenchError(f"{root} holds no complete run (no run.json); start or resume it with blip3o-bench run")
    with disk_errors("read", path):
        data = path.read_bytes()
    try:
        return [
            RunRecord(**{**record, "metrics": tuple(Metric(**metric) for metric in record["metrics"])})
            for record in strict_json(data)["records"]
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
