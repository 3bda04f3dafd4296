"""File names that come from elsewhere: they must not leave the folder they are meant for."""

from __future__ import annotations

import os
import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from benchmarks.types import BenchError

#: How many times its own size an archive of images may unpack to. They are compressed already; a zip bomb's ratio is
#: a thousand and more (Fifield 2019, USENIX WOOT, "A better zip bomb").
LARGEST_RATIO = 4


def within(folder: Path, name: str) -> Path:
    """``folder / name``. Raises BenchError for a name that is absolute, empty or has a part ``..``."""
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name:
        raise BenchError(f"the name {name!r} would leave {folder}: the data that it comes from was tampered with")
    return folder / path


def unpack(archive: Path, target: Path) -> None:
    """Unpack a zip file of images to the folder ``target``, which appears whole or not at all.

    A single top folder of the same name as ``target`` is left out. Refused, with a BenchError and before anything is
    written: names that leave the folder, links and other special files, encryption, and more than LARGEST_RATIO times
    the archive's size. Declared sizes bind: zipfile reads no more of a file than its header says.
    """
    try:
        with zipfile.ZipFile(archive) as zipped:
            members = [_checked(info, archive, target) for info in zipped.infolist()]
            total = sum(info.file_size for info, _ in members)
            if total > LARGEST_RATIO * archive.stat().st_size:
                raise BenchError(f"{archive} would unpack to {total:,} bytes: images do not shrink so much")
            if total > shutil.disk_usage(archive.parent).free:
                raise BenchError(f"{archive} needs {total:,} bytes: make room on the disk of {target.parent}")
            if all(path.parts[0] == target.name for _, path in members):
                members = [(info, path.relative_to(target.name)) for info, path in members]
            _write(zipped, members, target)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise BenchError(f"{archive} is damaged ({error}): delete it and fetch it again") from error


def _checked(info: zipfile.ZipInfo, archive: Path, target: Path) -> tuple[zipfile.ZipInfo, PurePosixPath]:
    # zipfile itself would strip leading slashes and "..", and write a link's target as a file. Such an archive is not
    # the one that was meant.
    within(target, info.filename)
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or info.flag_bits & 1:
        raise BenchError(
            f"{archive} holds {info.filename!r}, which is a link, encrypted or no file: it was not unpacked"
        )
    return info, PurePosixPath(info.filename)


def _write(zipped: zipfile.ZipFile, members: list[tuple[zipfile.ZipInfo, PurePosixPath]], target: Path) -> None:
    part = target.with_name(f"{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of one that was killed
    try:
        for info, path in members:
            if not info.is_dir():
                file = part / path
                file.parent.mkdir(parents=True, exist_ok=True)
                with zipped.open(info) as source, file.open("xb") as sink:
                    shutil.copyfileobj(source, sink)
        os.replace(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
