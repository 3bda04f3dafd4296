"""Where training examples come from.

A source is named in a recipe and read in any order, so that every process takes its own examples and training resumes
in the middle of an epoch for nothing:

    package.module:function     a function (seed, index) -> example
    webdataset:shards/*.tar     uncompressed tar files with KEY.jpg (or .jpeg, .png, .webp) and KEY.txt, the caption
    jsonl:file.jsonl            {"image": path relative to the file, "caption": text, "turns": [[question, answer]]}
                                a line; one of caption and turns may be absent

The last two are finite: they go through their examples in another order every epoch.
"""

from __future__ import annotations

import glob
import hashlib
import importlib
import io
import json
import os
import tarfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from model.data import Example, Source, Unreadable, hash64
from model.tensors import write_atomic

#: An image that is narrower is of no use, and could take gigabytes at the height that training wants.
NARROWEST = 200
#: An epoch shuffles the shards, then the examples of this many shards together: reads stay in a few files at a time.
WINDOW = 16
#: Lines of a JSONL file that are shuffled as if they were a shard.
LINES = 8192

#: What a member of a tar shard is, by its extension, and its column in the shard's index.
COLUMNS = {"jpg": 0, "jpeg": 0, "png": 0, "webp": 0, "txt": 2}


@dataclass(frozen=True)
class FileExample:
    """An example from disk; ``key`` is the SHA-256 of the encoded image."""

    image: Image.Image
    caption: str
    turns: tuple[tuple[str, str], ...]
    key: str
    labels: tuple[str, ...] = ()  # nobody knows them


def load_source(name: str) -> Source:
    """The source of a name as above.

    Raises ValueError when there is none of that name, or when its files cannot be indexed.
    """
    kind, _, rest = name.partition(":")
    if kind == "webdataset":
        return TarSource.open(rest)
    if kind == "jsonl":
        return JsonlSource.open(Path(rest).expanduser())
    try:
        source: Source = getattr(importlib.import_module(kind), rest)
    except (ImportError, AttributeError, TypeError) as error:  # TypeError: a relative name
        raise ValueError(
            f"no training data source {name!r}; name a function as package.module:function, or files as "
            "webdataset:GLOB.tar or jsonl:FILE"
        ) from error
    return source


def load_mixture(names: Sequence[str]) -> Mixture:
    """The sources in turn: example i comes from ``names[i % len(names)]``.

    A name that stands there twice is read twice as fast, never twice the same. Raises as ``load_source``.
    """
    return Mixture(tuple(names), {name: load_source(name) for name in dict.fromkeys(names)})


@dataclass(frozen=True)
class Mixture:
    names: tuple[str, ...]
    sources: dict[str, Source]

    def __call__(self, seed: int, index: int) -> Example:
        turn, slot = divmod(index, len(self.names))
        name = self.names[slot]
        # Each source counts its own examples without a gap, or a finite one would leave some out of its epochs.
        own = turn * Counter(self.names)[name] + self.names[:slot].count(name)
        return self.sources[name](seed, own)

    def sizes(self) -> dict[str, int]:
        """Examples of each finite source: with another number they come in another order."""
        finite = {name: one for name, one in self.sources.items() if isinstance(one, TarSource | JsonlSource)}
        return {name: int(one.sizes.sum()) for name, one in finite.items()}


@dataclass(frozen=True, eq=False)
class TarSource:
    """Examples of tar shards, read where they lie: nothing is unpacked, no shard is read whole.

    The index takes 16 bytes per example on disk (432 MB for 27 million); of it, what is in use is in memory.
    """

    shards: tuple[Path, ...]
    indices: tuple[Path, ...]  # one file per shard
    sizes: NDArray[np.int64]  # examples per shard

    @classmethod
    def open(cls, pattern: str) -> TarSource:
        """The shards of a glob pattern, each indexed unless it was before. Raises ValueError."""
        shards = tuple(Path(path) for path in sorted(glob.glob(os.path.expanduser(pattern), recursive=True)))
        if not shards:
            raise ValueError(f"no tar file matches {pattern!r}")
        progress = tqdm(shards, "index tar files", unit="file", disable=None, leave=False)
        indices = tuple(index_file(shard, tar_index) for shard in progress)
        return cls(shards, indices, np.array([len(_rows(index)) for index in indices]))

    def __call__(self, seed: int, index: int) -> FileExample:
        """Raises OSError when the shard is gone: that is no fault of one example, and training should stop."""
        shard, row = locate(self.sizes, seed, index)
        path = self.shards[shard]
        image_at, image_size, caption_at, caption_size = (int(value) for value in _rows(self.indices[shard])[row])
        with path.open("rb") as file:
            if not image_at or not caption_at:
                absent = "caption" if image_at else "image"
                raise Unreadable(f"{path}::{_member_name(file, image_at or caption_at)}: no {absent} of the same name")
            data = _member(file, image_at, image_size)
            try:
                image = decode(data)
            except ValueError as error:
                raise Unreadable(f"{path}::{_member_name(file, image_at)}: {error}") from error
            try:
                caption = _text(_member(file, caption_at, caption_size).decode())
            except ValueError as error:
                raise Unreadable(f"{path}::{_member_name(file, caption_at)}: {error}") from error
        return FileExample(image, caption, (), hashlib.sha256(data).hexdigest())


def _member(file: BinaryIO, block: int, size: int) -> bytes:
    file.seek(block * tarfile.BLOCKSIZE)
    return file.read(size)


def _member_name(file: BinaryIO, block: int) -> str:
    """The name in the header in front of a member's first block."""
    header = _member(file, block - 1, tarfile.BLOCKSIZE)
    return tarfile.TarInfo.frombuf(header, "utf-8", "replace").name


@dataclass(frozen=True, eq=False)
class JsonlSource:
    """Examples of a JSONL file; images are files of their own. The index takes 16 bytes per line."""

    path: Path
    index: Path
    sizes: NDArray[np.int64]  # lines per run of LINES

    @classmethod
    def open(cls, path: Path) -> JsonlSource:
        """Index the file unless it was before. Raises ValueError."""
        if not path.is_file():
            raise ValueError(f"no file {path}")
        index = index_file(path, line_index)
        lines = len(_rows(index))
        return cls(path, index, np.diff(np.append(np.arange(0, lines, LINES), lines)))

    def __call__(self, seed: int, index: int) -> FileExample:
        run, row = locate(self.sizes, seed, index)
        start, number = (int(value) for value in _rows(self.index)[run * LINES + row])
        with self.path.open("rb") as file:
            file.seek(start)
            line = file.readline()
        try:
            name, caption, turns = parse(json.loads(line.decode()))
            data = (self.path.parent / name).read_bytes()
            image = decode(data)
        except (OSError, ValueError, RecursionError) as error:
            raise Unreadable(f"{self.path}:{number}: {error}") from error
        return FileExample(image, caption, turns, hashlib.sha256(data).hexdigest())


def parse(record: Any) -> tuple[str, str, tuple[tuple[str, str], ...]]:
    """The content of a line -> (path of the image, caption, turns). Raises ValueError."""
    if not isinstance(record, dict) or not isinstance(record.get("image"), str):
        raise ValueError('no "image": path')
    turns = record.get("turns", [])
    if not isinstance(turns, list) or not all(isinstance(turn, list) and len(turn) == 2 for turn in turns):
        raise ValueError('"turns" is not of the form [[question, answer], ...]')
    if not turns and "caption" not in record:
        raise ValueError('neither "caption" nor "turns"')
    caption = _text(record["caption"]) if "caption" in record else ""
    return record["image"], caption, tuple((_text(question), _text(answer)) for question, answer in turns)


def _text(value: Any) -> str:
    """``value`` if there is something for a tokenizer in it, else ValueError."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"a text is wanted in place of {value!r:.40}")
    value.encode()  # half of a surrogate pair, which JSON can hold
    return value


def decode(data: bytes) -> Image.Image:
    """An encoded image -> RGB, decoded to its last row. Raises ValueError.

    The size is looked at first: what Pillow takes for a decompression bomb is not decoded.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
            if max(image.size) > NARROWEST * min(image.size):
                raise ValueError(f"narrower than 1:{NARROWEST}: {image.width} x {image.height} pixels")
            return image.convert("RGB")
    except UnidentifiedImageError:  # its message is the address of the buffer
        raise ValueError("not an image that Pillow knows") from None
    except Exception as error:  # Pillow's decoders raise whatever they stumble over
        raise ValueError(f"{type(error).__name__}: {error}") from error


def locate(sizes: NDArray[np.int64], seed: int, index: int) -> tuple[int, int]:
    """Example ``index`` of an endless shuffled reading -> (shard, row in it); ``sizes`` are the shards' rows, all > 0.

    Every row comes once per epoch. An epoch shuffles the shards, then the rows of WINDOW of them together, so that
    any index is found at once and the memory used is one window's.
    """
    epoch, position = divmod(index, int(sizes.sum()))
    order = _permutation(len(sizes), seed, epoch)
    starts = np.append(0, np.cumsum(sizes[order]))
    window = int(np.searchsorted(starts, position, side="right") - 1) // WINDOW
    first, end = starts[window * WINDOW], starts[min((window + 1) * WINDOW, len(sizes))]
    position = first + _permutation(int(end - first), seed, epoch, window)[position - first]
    shard = int(np.searchsorted(starts, position, side="right")) - 1
    return int(order[shard]), int(position - starts[shard])


@lru_cache(maxsize=16)  # two are in use per source
def _permutation(count: int, *seeds: int) -> NDArray[np.int64]:
    # Raw bits, sorted: numpy keeps these from version to version, but not what Generator.permutation makes of them.
    return np.argsort(np.random.PCG64(hash64("order", *seeds)).random_raw(count), kind="stable")


def index_file(path: Path, build: Callable[[Path], NDArray[Any]]) -> Path:
    """The file that keeps ``build(path)``, written now unless it is there for this path, size and time.

    It lies in the cache folder: ``$BLIP3O_BENCH_DATA``, else ``~/.cache/blip3o-bench``. Raises what ``build`` raises.
    """
    cache = Path(os.environ.get("BLIP3O_BENCH_DATA") or "~/.cache/blip3o-bench").expanduser() / "index"
    stat = path.stat()
    name = hashlib.sha256(f"{build.__name__} {path.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()
    file = cache / name[:2] / f"{name}.npy"
    if not file.is_file():
        buffer = io.BytesIO()
        np.save(buffer, build(path))
        write_atomic(file, buffer.getvalue())
    return file


@lru_cache(maxsize=64)
def _rows(index: Path) -> NDArray[Any]:
    try:
        return np.load(index, mmap_mode="r")
    except (EOFError, ValueError) as error:
        raise ValueError(f"{index} is damaged ({error}); delete it") from error


def tar_index(path: Path) -> NDArray[np.uint32]:
    """Where a shard's examples lie: [examples, (image block, image bytes, caption block, caption bytes)].

    A block is 512 bytes; block 0 means that there is no such member. Members belong together by their path up to the
    first dot of the file name, as in WebDataset. Raises ValueError for what is no whole, uncompressed tar file.
    """
    examples: dict[str, list[int]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                folder, name = os.path.split(member.name)
                key, _, extension = name.partition(".")
                column = COLUMNS.get(extension.lower())
                if column is None or not key or not member.isfile():
                    continue
                row = examples.setdefault(os.path.join(folder, key), [0, 0, 0, 0])
                if row[column]:
                    raise ValueError(f"{path} holds {member.name} twice, or two images of that name")
                row[column : column + 2] = member.offset_data // tarfile.BLOCKSIZE, member.size
            end = tar.offset
    except tarfile.ReadError as error:
        raise ValueError(f"{path} is no whole, uncompressed tar file ({error}); fetch or unpack it again") from error
    with path.open("rb") as file:  # tarfile takes a header that it cannot read for the end
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise ValueError(f"{path} is damaged at byte {end}; fetch it again")
    if not examples:
        raise ValueError(f"{path} holds no examples: no KEY.jpg and KEY.txt")
    return np.array(list(examples.values()), dtype=np.uint32)


def line_index(path: Path) -> NDArray[np.int64]:
    """Where a file's lines begin, but blank ones: [lines, (byte, line number)]. Raises ValueError if there is none."""

    def positions() -> Iterator[int]:
        start = 0
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield start
                    yield number
                start += len(line)

    rows = np.fromiter(positions(), np.int64).reshape(-1, 2)
    if not len(rows):
        raise ValueError(f"{path} is empty")
    return rows
