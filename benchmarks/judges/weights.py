"""Weight files of judges: there, and the right ones."""

from __future__ import annotations

import hashlib
from pathlib import Path

from benchmarks.types import BenchError


class WrongDigest(BenchError):
    """The file is there, but is another one."""


def checked_digest(path: Path, expected: str | None) -> str:
    """The file's sha256 as hexadecimal digits.

    ``expected`` may be the first digits only: OpenMMLab puts eight of them into the file's name.
    Raises BenchError when the file is absent, WrongDigest when it is another one.
    """
    if not path.is_file():
        raise BenchError(f"judge weights {path} are not there: see blip3o-bench data list, or give their path")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if expected is not None and not digest.startswith(expected):
        raise WrongDigest(f"judge weights {path} have sha256 {digest[:16]}..., not {expected}: fetch them again")
    return digest
