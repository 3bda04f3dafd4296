"""Training examples from files: every one once per epoch, broken ones named."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import pickle
import tarfile
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model import sources
from model.data import Source, Unreadable
from model.sources import load_mixture, load_source, locate


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLIP3O_BENCH_DATA", str(tmp_path / "cache"))


def picture(red: int, size: tuple[int, int] = (16, 16), kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (red, 0, 0)).save(buffer, kind)
    return buffer.getvalue()


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def write_shards(folder: Path, sizes: tuple[int, ...]) -> Source:
    """Shards whose captions are '<shard>/<row>'."""
    for shard, size in enumerate(sizes):
        rows = [(f"{row:04d}", f"{shard}/{row}".encode()) for row in range(size)]
        write_tar(
            folder / f"{shard}.tar",
            {
                name: content
                for key, text in rows
                for name, content in ((f"{key}.jpg", picture(0)), (f"{key}.txt", text))
            },
        )
    return load_source(f"webdataset:{folder}/*.tar")


# The order of an epoch


@pytest.mark.parametrize("sizes", [(1,), (7,), (3, 1, 4, 1, 5), tuple(range(1, 41))], ids=len)
@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_every_row_comes_once_per_epoch_whatever_the_number_of_processes(sizes: tuple[int, ...], world: int) -> None:
    every = [(shard, row) for shard, size in enumerate(sizes) for row in range(size)]
    shares = [[locate(np.array(sizes), 5, i) for i in range(rank, 3 * len(every), world)] for rank in range(world)]
    drawn = [shares[i % world][i // world] for i in range(3 * len(every))]
    for epoch in range(3):
        assert sorted(drawn[epoch * len(every) : (epoch + 1) * len(every)]) == every


def test_order_changes_with_epoch_and_seed_alone() -> None:
    sizes = np.array([50, 50])
    first, second = ([locate(sizes, 1, i) for i in range(start, start + 100)] for start in (0, 100))
    other = [locate(sizes, 2, i) for i in range(100)]
    assert first != second
    assert first != other
    sources._permutation.cache_clear()
    assert [locate(sizes, 1, i) for i in reversed(range(100))] == first[::-1]


def test_order_is_the_same_in_every_version() -> None:
    """A training run that resumes under another version of this package or of numpy goes on in the same order."""
    assert [locate(np.array([2, 3]), 1, i) for i in range(5)] == [(0, 0), (1, 0), (1, 1), (1, 2), (0, 1)]


def test_rows_are_read_from_few_shards_at_a_time() -> None:
    shards = [locate(np.full(64, 10), 1, i)[0] for i in range(640)]
    windows = [set(shards[start : start + 160]) for start in range(0, 640, 160)]
    assert [len(window) for window in windows] == [16] * 4
    # and within a window from all of them in turn, not one after the other
    assert sum(a != b for a, b in pairwise(shards[:160])) > 120


# Tar shards


def test_tar_shards_give_every_image_with_its_caption(tmp_path: Path) -> None:
    members = {
        "a/one.jpg": picture(10),
        "a/one.json": b"{}",
        "a/one.txt": b"first",
        "b/one.txt": "zweites Bild, größer".encode(),  # the same name in another folder; the caption in front
        "b/one.PNG": picture(20, kind="PNG"),
        "._c.jpg": b"what macOS leaves",
        "three.v2.txt": b"another member of 'three'",
        "three.webp": picture(30, kind="WEBP"),
        "three.txt": b"third\n",
    }
    write_tar(tmp_path / "0.tar", members)
    source = load_source(f"webdataset:{tmp_path}/*.tar")
    examples = sorted((source(1, i) for i in range(3)), key=lambda example: example.caption)

    assert [example.caption for example in examples] == ["first", "third\n", "zweites Bild, größer"]
    files = [members[name] for name in ("a/one.jpg", "three.webp", "b/one.PNG")]
    assert [example.key for example in examples] == [hashlib.sha256(file).hexdigest() for file in files]
    for example, file in zip(examples, files, strict=True):
        assert example.turns == ()
        assert example.image.mode == "RGB"
        assert example.image.tobytes() == Image.open(io.BytesIO(file)).convert("RGB").tobytes()


def test_tar_source_reads_on_in_another_process(tmp_path: Path) -> None:
    source = write_shards(tmp_path, (3, 4))
    copy = pickle.loads(pickle.dumps(source))
    assert [copy(1, i).caption for i in range(14)] == [source(1, i).caption for i in range(14)]
    assert {source(1, i).caption for i in range(7)} == {"0/0", "0/1", "0/2", "1/0", "1/1", "1/2", "1/3"}


def test_index_is_made_once_and_again_for_a_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shards(tmp_path, (3,))
    assert [file.name for file in tmp_path.iterdir() if file.name != "cache"] == ["0.tar"]
    with monkeypatch.context() as patch:
        patch.setattr(tarfile, "open", None)
        load_source(f"webdataset:{tmp_path}/*.tar")
    old = (tmp_path / "0.tar").stat()
    members = {"new.jpg": picture(0), "new.txt": b"new", "more.jpg": picture(0), "more.txt": b"more"}
    write_tar(tmp_path / "0.tar", members)
    os.utime(tmp_path / "0.tar", ns=(old.st_atime_ns, old.st_mtime_ns + 1))
    source = load_source(f"webdataset:{tmp_path}/*.tar")
    assert {source(1, 0).caption, source(1, 1).caption} == {"new", "more"}


@pytest.mark.parametrize(
    ("members", "member", "reason"),
    [
        ({"k.jpg": picture(1, (256, 256))[:-200], "k.txt": b"c"}, "k.jpg", "OSError: image file is truncated"),
        ({"k.jpg": b"<html>", "k.txt": b"c"}, "k.jpg", "not an image"),
        ({"k.jpg": b"", "k.txt": b"c"}, "k.jpg", "not an image"),
        ({"k.jpg": picture(1)}, "k.jpg", "no caption"),
        ({"k.txt": b"c"}, "k.txt", "no image"),
        ({"k.jpg": picture(1), "k.txt": b"\xff"}, "k.txt", "can't decode byte 0xff"),
        ({"k.jpg": picture(1), "k.txt": b" \n"}, "k.txt", "a text is wanted"),
    ],
)
def test_broken_example_of_a_shard_is_named(
    tmp_path: Path, members: dict[str, bytes], member: str, reason: str
) -> None:
    path = write_tar(tmp_path / "0.tar", {"ok.jpg": picture(9), "ok.txt": b"ok"} | members)
    source = load_source(f"webdataset:{path}")
    readable, unreadable = [], []
    for index in range(2):
        try:
            readable.append(source(1, index).caption)
        except Unreadable as error:
            unreadable.append(str(error))
    assert readable == ["ok"]  # its neighbour is neither lost nor given twice
    (message,) = unreadable
    assert message.startswith(f"{path}::{member}: ")
    assert reason in message


@pytest.mark.parametrize("limit", [200, 100])  # Pillow only warns up to twice the limit
def test_decompression_bomb_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    path = write_tar(tmp_path / "0.tar", {"k.jpg": picture(1, (16, 16)), "k.txt": b"c"})
    source = load_source(f"webdataset:{path}")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(Unreadable, match=r"0\.tar::k\.jpg: DecompressionBomb"):
        source(1, 0)


def test_an_image_that_is_all_edge_is_left_out(tmp_path: Path) -> None:
    """Brought to the height that training wants, it would take gigabytes before the middle is cut out."""
    path = write_tar(tmp_path / "0.tar", {"k.jpg": picture(1, (603, 3)), "k.txt": b"c"})
    with pytest.raises(Unreadable, match=r"0\.tar::k\.jpg: .*narrower than 1:200: 603 x 3 pixels"):
        load_source(f"webdataset:{path}")(1, 0)


def test_shards_that_cannot_be_indexed_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no tar file matches '.*/none/\*\.tar'"):
        load_source(f"webdataset:{tmp_path}/none/*.tar")

    path = write_tar(tmp_path / "0.tar", {"a.jpg": picture(0), "a.txt": b"a", "b.jpg": picture(0), "b.txt": b"b"})
    whole = path.read_bytes()
    second = whole.index(b"b.jpg")
    for broken, message in [
        (gzip.compress(whole), "no whole, uncompressed tar"),
        (whole[: second + 600], "no whole, uncompressed tar"),  # ends within a member
        (whole[: second + 100], f"damaged at byte {second}"),  # ends within a header
        (whole[:second] + b"?" * 512 + whole[second + 512 :], f"damaged at byte {second}"),
        (whole[:second] + whole, "twice"),
        (b"\0" * 10240, "no examples"),
    ]:
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=message) as caught:
            load_source(f"webdataset:{path}")
        assert str(path) in str(caught.value)


def test_shard_without_the_empty_blocks_at_its_end_is_whole(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", {"a.jpg": picture(0), "a.txt": b"a"})
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(b"a.txt") + 1024])
    assert load_source(f"webdataset:{path}")(1, 0).caption == "a"


# JSONL


def test_jsonl_gives_captions_and_turns(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(picture(10))
    (tmp_path / "b.png").write_bytes(picture(20, kind="PNG"))
    lines = [
        {"image": "images/a.jpg", "caption": "größer", "id": 7},
        {"image": str(tmp_path / "b.png"), "turns": [["what?", "red"], ["sure?", "yes"]]},
        {"image": "b.png", "caption": "both", "turns": [["q", "a"]]},
    ]
    (tmp_path / "data.jsonl").write_text("\n\n".join(json.dumps(line) for line in lines))  # no newline at the end
    source = load_source(f"jsonl:{tmp_path}/data.jsonl")
    for epoch in range(3):
        examples = sorted((source(1, 3 * epoch + i) for i in range(3)), key=lambda example: example.caption)
        assert [(example.caption, example.turns) for example in examples] == [
            ("", (("what?", "red"), ("sure?", "yes"))),
            ("both", (("q", "a"),)),
            ("größer", ()),
        ]
    assert examples[2].key == hashlib.sha256(picture(10)).hexdigest()
    assert examples[0].key == examples[1].key
    assert examples[0].image.getpixel((0, 0)) == (20, 0, 0)


def test_long_jsonl_is_shuffled_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "LINES", 4)
    (tmp_path / "a.jpg").write_bytes(picture(10))
    lines = [json.dumps({"image": "a.jpg", "caption": str(i)}) for i in range(11)]
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    source = load_source(f"jsonl:{tmp_path}/data.jsonl")
    drawn = [int(source(1, i).caption) for i in range(11)]
    assert sorted(drawn) == list(range(11))
    assert drawn != sorted(drawn)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"image": "a.jpg", "caption"', "delimiter"),
        (b'{"image": "a.jpg", "caption": "\xff"}', "can't decode byte 0xff"),
        (b'{"image": "a.jpg", "caption": "\\ud800"}', "surrogates not allowed"),
        (b'{"image": "a.jpg", "caption": 3}', "in place of 3"),
        (b"[" * 100_000, "recursion"),
        (b'{"image": "a.jpg", "caption": ""}', "in place of ''"),
        (b'{"image": "a.jpg", "turns": "hello"}', '"turns" is not of the form'),
        (b'{"image": "a.jpg", "turns": [["question"]]}', '"turns" is not of the form'),
        (b'{"image": "a.jpg", "turns": [["question", null]]}', "in place of None"),
        (b'{"image": "a.jpg", "captions": "typo"}', 'neither "caption" nor "turns"'),
        (b'{"caption": "c"}', 'no "image"'),
        (b'["a.jpg", "c"]', 'no "image"'),
        (b'{"image": "absent.jpg", "caption": "c"}', "No such file"),
        (b'{"image": ".", "caption": "c"}', "Is a directory"),
        (b'{"image": "text.jpg", "caption": "c"}', "not an image"),
    ],
)
def test_broken_line_is_named(tmp_path: Path, line: bytes, reason: str) -> None:
    (tmp_path / "a.jpg").write_bytes(picture(10))
    (tmp_path / "text.jpg").write_text("no image")
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"\n" + line + b"\n")
    with pytest.raises(Unreadable) as caught:
        load_source(f"jsonl:{path}")(1, 0)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert reason in str(caught.value)


@pytest.mark.parametrize(("content", "message"), [(None, "no file"), (b"", "is empty"), (b"\n \n", "is empty")])
def test_jsonl_without_lines_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "data.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_source(f"jsonl:{path}")


# Sources by name


def test_function_is_a_source() -> None:
    example = load_source("benchmarks.shapes.training:generation")(1, 0)
    assert example.caption
    assert example.key == ""


@pytest.mark.parametrize("name", ["no.such.module:f", "benchmarks.shapes.training:nothing", "words"])
def test_unknown_source_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"no training data source '{name}'"):
        load_source(name)


def test_mixture_takes_turns_and_leaves_nothing_out(tmp_path: Path) -> None:
    write_shards(tmp_path, (6,))
    shards, endless = f"webdataset:{tmp_path}/*.tar", "benchmarks.shapes.training:generation"
    source, mixture = load_source(shards), load_mixture([shards, endless, shards])
    drawn = [mixture(1, i).caption for i in range(18)]
    assert [drawn[i] for i in range(18) if i % 3 != 1] == [source(1, i).caption for i in range(12)]
    assert drawn[1::3] == [load_source(endless)(1, i).caption for i in range(6)]
