"""Images of another program in place of a model. GenEval's layout is tested with GenEval."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from benchmarks.folder import FolderImages
from benchmarks.types import BenchError, Sample


def samples(*places: str) -> list[Sample]:
    return [Sample(f"some/{place}", "a prompt", place, meta={"file": place}) for place in places]


def put(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)


def test_images_of_any_kind_are_found_where_the_benchmark_says(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("partiprompts87.png", "17.JPG", "animals/ab.c1.jpeg", "401.webp")]
    put(*files)
    asked = samples("partiprompts87", "17", "animals/ab.c1", "401")
    images = FolderImages(tmp_path)
    assert images.generate(asked, [0] * 4) == files
    assert images.check(asked) == []


def test_missing_and_extra_images_are_told_at_the_start(tmp_path: Path) -> None:
    put(tmp_path / "1.png", tmp_path / "2.png", tmp_path / "grids" / "1.png")
    (tmp_path / "notes.txt").write_text("")
    images = FolderImages(tmp_path)
    missing, extra = images.check(samples("1", "3", "4"))
    assert missing.startswith(f"2 of 3 samples will be counted as missing: {tmp_path / '3'} (.png, ")
    assert extra == f"2 images in {tmp_path} belong to no sample and are not scored, such as {tmp_path / '2.png'}"
    first, *absent = images.generate(samples("1", "3", "4"), [0] * 3)
    assert first == tmp_path / "1.png"
    assert [type(error) for error in absent] == [FileNotFoundError] * 2


def test_two_files_for_one_sample_are_not_guessed_between(tmp_path: Path) -> None:
    put(tmp_path / "1.png", tmp_path / "1.jpg")
    (error,) = FolderImages(tmp_path).generate(samples("1"), [0])
    assert isinstance(error, ValueError)
    assert "1.jpg and 1.png are both there" in str(error)


@pytest.mark.parametrize(("create", "message"), [(False, "is not a folder"), (True, "holds no image")])
def test_a_folder_without_images_is_refused(tmp_path: Path, create: bool, message: str) -> None:
    root = tmp_path / "images"
    if create:
        root.mkdir()
        (root / "1.txt").write_text("")
    with pytest.raises(BenchError, match=message):
        FolderImages(root)


def test_a_benchmark_that_does_not_name_its_files_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "1.png")
    with pytest.raises(BenchError, match="vqav2 does not say where its images lie"):
        FolderImages(tmp_path).generate([Sample("vqav2/1", "a prompt", "1")], [0])


def test_the_description_changes_with_the_images(tmp_path: Path) -> None:
    put(tmp_path / "1.png", tmp_path / "2.png")
    described = FolderImages(tmp_path).describe()
    assert (described["name"], described["images"]) == ("folder", 2)
    Image.new("RGB", (4, 4), "red").save(tmp_path / "2.png")
    changed = FolderImages(tmp_path).describe()
    (tmp_path / "2.png").rename(tmp_path / "3.png")
    assert len({described["sha256"], changed["sha256"], FolderImages(tmp_path).describe()["sha256"]}) == 3
