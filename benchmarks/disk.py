"""Files that are there whole or not at all, by several processes; what the disk refuses is a user's error."""

from __future__ import annotations

import fcntl
import json
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.types import BenchError, Json


def replace_file(path: Path, data: Iterable[bytes]) -> None:
    """Write a file so that it is there whole or not at all."""
    with disk_errors("write", path), _temporary(path, data) as temporary:
        os.replace(temporary, path)


def create_file(path: Path, data: Iterable[bytes]) -> None:
    """As ``replace_file``, but the first process wins: a file that is there already stays."""
    with disk_errors("write", path), _temporary(path, data) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """No other process is in here with the same ``path``."""
    with disk_errors("write", path):
        file = path.open("ab")
    with file:
        with disk_errors("lock", path):
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
def disk_errors(action: str, path: Path) -> Iterator[None]:
    """Turn what the disk refuses (full, read-only, no permission, no such file) into a user's error."""
    try:
        yield
    except OSError as error:
        hint = "; what is stored is kept, and the same command resumes" if action == "write" else ""
        raise BenchError(f"cannot {action} {path}: {error.strerror or error}{hint}") from error


def json_document(value: Json) -> bytes:
    """Indented JSON with sorted keys: the same value gives the same bytes. Raises ValueError for NaN and Infinity."""
    return json.dumps(value, sort_keys=True, allow_nan=False, indent=1).encode("ascii") + b"\n"


def strict_json(data: bytes) -> Any:
    """Parsed JSON. ValueError also for NaN and Infinity, which Python's reader takes though JSON has none."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no number of JSON")

    return json.loads(data, parse_constant=refuse)
