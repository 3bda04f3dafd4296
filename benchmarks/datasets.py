"""Where each benchmark's data comes from: pinned revision, size, sha256, licence; and fetching it.

Files lie under ``data_dir()`` in one folder per data set. ``locate`` is what benchmarks call; ``fetch`` is
the only function of the suite that reaches for the network on its own.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from benchmarks.types import BenchError

_CHUNK = 1 << 20  # bytes read at once
_TIMEOUT = 60.0  # seconds without a byte
_SPARE = 64 << 20  # bytes left free on the disk beside the file itself


@dataclass(frozen=True)
class RemoteFile:
    """One file. ``size`` in bytes, None where the publisher does not tell; ``sha256`` in hex, or its first digits."""

    name: str
    url: str
    size: int | None
    sha256: str


@dataclass(frozen=True)
class Dataset:
    """The files of one folder under the data directory, as one revision of their publisher has them."""

    name: str
    revision: str
    licence: str
    files: tuple[RemoteFile, ...]


_GENEVAL_COMMIT = "af4902f24d3ca90ebbb446dd9891a59e0f82725f"
_GENEVAL = f"https://raw.githubusercontent.com/djghosh13/geneval/{_GENEVAL_COMMIT}"

_GENEVAL_PROMPTS = Dataset(
    name="geneval",
    revision=_GENEVAL_COMMIT,
    licence="MIT",
    files=(
        RemoteFile(
            name="evaluation_metadata.jsonl",
            url=f"{_GENEVAL}/prompts/evaluation_metadata.jsonl",
            size=85209,
            sha256="5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13",
        ),
        RemoteFile(
            name="object_names.txt",
            url=f"{_GENEVAL}/evaluation/object_names.txt",
            size=642,
            sha256="608f6a0e5c8ca1c7a92b818430141fe268c85b7930b50f4160f1d65893b5bacd",
        ),
    ),
)

# GenEval's own detector config, as mmdetection 3.x publishes it.
_MASK2FORMER = "mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco"
_MASK2FORMER_SWIN_S = Dataset(
    name="mask2former-swin-s",
    revision="20220504_001756",
    licence="Apache-2.0",
    files=(
        RemoteFile(
            name=f"{_MASK2FORMER}_20220504_001756-c9d0c4f2.pth",
            url=(
                f"https://download.openmmlab.com/mmdetection/v3.0/mask2former/{_MASK2FORMER}/"
                f"{_MASK2FORMER}_20220504_001756-c9d0c4f2.pth"
            ),
            size=None,
            # OpenMMLab names a checkpoint by the first eight digits of its sha256
            # (mmdetection, tools/model_converters/publish_model.py) and publishes no more of it.
            sha256="c9d0c4f2",
        ),
    ),
)

# The file that open_clip calls ViT-L-14, pretrained "openai"; its address holds its sha256 (open_clip/pretrained.py).
_CLIP_SHA256 = "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836"
_CLIP_VIT_L_14 = Dataset(
    name="clip-vit-l-14",
    revision="openai",
    licence="MIT",
    files=(
        RemoteFile(
            name="ViT-L-14.pt",
            url=f"https://openaipublic.azureedge.net/clip/models/{_CLIP_SHA256}/ViT-L-14.pt",
            size=None,
            sha256=_CLIP_SHA256,
        ),
    ),
)

DATASETS: Mapping[str, Dataset] = {
    "geneval": _GENEVAL_PROMPTS,
    "mask2former-swin-s": _MASK2FORMER_SWIN_S,
    "clip-vit-l-14": _CLIP_VIT_L_14,
}


def data_dir() -> Path:
    """The folder of all data sets: ``$BLIP3O_BENCH_DATA``, else ``~/.cache/blip3o-bench``."""
    return Path(os.environ.get("BLIP3O_BENCH_DATA") or "~/.cache/blip3o-bench").expanduser()


def locate(name: str, root: Path | None = None) -> Path:
    """The folder that holds a fetched data set; ``root`` stands for ``data_dir()``.

    Looks at presence and size, which is quick; ``verify`` reads the content.
    Raises BenchError with the command that fetches it when a file is absent or of another size.
    """
    dataset, folder = _find(name, root)
    for file in dataset.files:
        path = folder / file.name
        if not path.is_file():
            raise BenchError(f"{path} is not there: run `{_fetch_command(name, root)}`")
        size = path.stat().st_size
        if file.size is not None and size != file.size:
            raise BenchError(
                f"{path} has {size} bytes instead of {file.size}: run `{_fetch_command(name, root)}` to replace it"
            )
    return folder


def verify(name: str, root: Path | None = None) -> dict[str, str]:
    """Read every file of a data set: file name -> sha256 in hex. Raises BenchError at a file that is not as pinned."""
    dataset, _ = _find(name, root)
    folder = locate(name, root)
    digests = {file.name: _sha256(folder / file.name) for file in dataset.files}
    for file in dataset.files:
        if not digests[file.name].startswith(file.sha256):
            raise BenchError(
                f"{folder / file.name} has sha256 {digests[file.name]}, expected {file.sha256}: "
                f"run `{_fetch_command(name, root)}` to replace it"
            )
    return digests


def fetch(name: str, root: Path | None = None) -> Path:
    """Download what is not there yet, say on stderr what and how large, and return the folder.

    An interrupted download goes on where it stopped. A file takes its place only after its digest was checked.
    Raises BenchError when the host cannot be reached, the disk is too small or the content is not as pinned.
    """
    dataset, folder = _find(name, root)
    folder.mkdir(parents=True, exist_ok=True)
    for file in dataset.files:
        path = folder / file.name
        if path.is_file() and _sha256(path).startswith(file.sha256):
            print(f"{path}: there already", file=sys.stderr)
        else:
            _download(file, path)
    return folder


def _find(name: str, root: Path | None) -> tuple[Dataset, Path]:
    if name not in DATASETS:
        raise BenchError(f"unknown data set {name!r}: choose among {', '.join(DATASETS)}")
    return DATASETS[name], (root or data_dir()) / name


def _fetch_command(name: str, root: Path | None) -> str:
    return f"blip3o-bench data fetch {name}" + (f" --data-dir {root}" if root else "")


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _download(file: RemoteFile, path: Path) -> None:
    part = path.with_name(path.name + ".part")
    try:
        _complete(file, part)
    except urllib.error.HTTPError as error:
        raise BenchError(f"{file.url}: the server answered {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise BenchError(
            f"{file.url} cannot be reached ({error.reason}): try again with a network, "
            f"or fetch it elsewhere and put it at {path}"
        ) from error
    except (http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise BenchError(f"{file.url}: the connection broke ({error}); run the command again to go on") from error
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise BenchError(f"the disk of {part} is full: make room and run the command again to go on") from error
    digest = _sha256(part)
    if not digest.startswith(file.sha256):
        part.unlink()
        raise BenchError(f"{file.url} has sha256 {digest}, expected {file.sha256}: what came was not kept")
    os.replace(part, path)


def _complete(file: RemoteFile, part: Path) -> None:
    """Append to ``part`` what is missing of it."""
    done = part.stat().st_size if part.exists() else 0
    if file.size is not None and done >= file.size:
        return
    request = urllib.request.Request(file.url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        # RFC 9110, 15.5.17: nothing beyond `done`, so the part is whole (or of another file: its digest will tell).
        if done and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return
        raise
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:  # a server may ignore Range and send all
            done = 0
        length = response.headers["Content-Length"]
        total = done + int(length) if length is not None else file.size
        _say_and_check_room(file, part, total, done)
        with (
            part.open("ab" if done else "wb") as stream,
            tqdm(total=total, initial=done, unit="B", unit_scale=True, desc=file.name, disable=None) as bar,
        ):
            while chunk := response.read(_CHUNK):
                bar.update(stream.write(chunk))
    # http.client's read(n) ends quietly when the connection does.
    if total is not None and part.stat().st_size < total:
        raise http.client.IncompleteRead(b"", total - part.stat().st_size)


def _say_and_check_room(file: RemoteFile, part: Path, total: int | None, done: int) -> None:
    size = "unknown size" if total is None else _human(total)
    rest = f", {_human(done)} of it here" if done else ""
    print(f"{file.url}: {size}{rest}", file=sys.stderr)
    free = shutil.disk_usage(part.parent).free
    if total is not None and free < total - done + _SPARE:
        raise BenchError(
            f"{part.parent} has {_human(free)} free, {_human(total - done + _SPARE)} needed: "
            "make room, or choose another disk with --data-dir or BLIP3O_BENCH_DATA"
        )


def _human(size: int) -> str:
    return str(tqdm.format_sizeof(size, suffix="B"))
