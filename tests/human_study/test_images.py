from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from benchmarks.types import BenchError
from human_study import images


def noise(size: tuple[int, int] = (40, 30), seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_pixels_stay_and_everything_else_goes(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "made by secret-model, seed 3")
    noise().save(tmp_path / "a.png", pnginfo=info, dpi=(300, 300))
    noise().save(tmp_path / "b.png")
    stored = [images.save(images.load(tmp_path / name, None), tmp_path) for name in ("a.png", "b.png")]
    assert stored[0] == stored[1]  # one file for the same pixels, whatever stood beside them
    written = images.path(tmp_path, stored[0].sha256)
    assert hashlib.sha256(written.read_bytes()).hexdigest() == stored[0].sha256
    assert b"secret" not in written.read_bytes()
    with Image.open(written) as image:
        assert image.format == "PNG"
        assert image.info == {}
        assert np.array_equal(np.asarray(image), np.asarray(noise()))


def test_a_jpeg_keeps_its_decoded_pixels_and_is_put_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to view
    exif[0x010F] = "secret-model"
    noise().save(tmp_path / "a.jpg", exif=exif)
    loaded = images.load(tmp_path / "a.jpg", None)
    with Image.open(tmp_path / "a.jpg") as image:
        assert np.array_equal(np.asarray(loaded), np.rot90(np.asarray(image), -1))
    stored = images.save(loaded, tmp_path)
    assert (stored.width, stored.height) == (30, 40)
    assert b"secret" not in images.path(tmp_path, stored.sha256).read_bytes()


def test_transparency_is_put_on_white_and_palettes_become_colors(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    clear.save(tmp_path / "a.png")
    assert images.load(tmp_path / "a.png", None).getpixel((0, 0)) == (255, 255, 255)
    Image.new("P", (4, 4), 0).save(tmp_path / "b.png")
    assert images.load(tmp_path / "b.png", None).mode == "RGB"


def test_one_size_for_all_models(tmp_path: Path) -> None:
    noise((40, 20)).save(tmp_path / "a.png")
    noise((80, 160)).save(tmp_path / "b.png")
    assert images.load(tmp_path / "a.png", 64).size == (64, 32)
    assert images.load(tmp_path / "b.png", 64).size == (32, 64)


def test_the_first_of_a_grid_is_its_top_left_image(tmp_path: Path) -> None:
    tiles = [noise((40, 30), seed) for seed in range(4)]
    grid = Image.new("RGB", (80, 60))
    for tile, corner in zip(tiles, ((0, 0), (40, 0), (0, 30), (40, 30)), strict=True):
        grid.paste(tile, corner)
    grid.save(tmp_path / "grid.png")
    assert np.array_equal(np.asarray(images.load(tmp_path / "grid.png", None, grid=True)), np.asarray(tiles[0]))
    assert images.load(tmp_path / "grid.png", 20, grid=True).size == (20, 15)
    noise((41, 30)).save(tmp_path / "odd.png")
    with pytest.raises(BenchError, match=r"odd\.png is 41 x 30: no grid of two by two"):
        images.load(tmp_path / "odd.png", None, grid=True)


def test_spoilt_images_have_lost_their_detail_and_are_the_same_for_the_same_seed() -> None:
    image = noise((64, 64)).resize((256, 256), Image.Resampling.NEAREST)
    worse = images.spoilt(image, "seed")
    assert worse.size == image.size
    assert images.spoilt(image, "seed").tobytes() == worse.tobytes()
    assert np.corrcoef(np.asarray(image).ravel(), np.asarray(worse).ravel())[0, 1] < 0.5


def test_images_are_found_by_prompt_in_flat_folders_and_in_genevals_layout(tmp_path: Path) -> None:
    for name in ("p1.png", "p2.JPG", "p3.webp", "p4/samples/00001.png", "p4/samples/00000.png", "p5/0.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "notes.txt").touch()
    found = {key: str(path.relative_to(tmp_path)) for key, path in images.by_prompt(tmp_path).items()}
    assert found == {"p1": "p1.png", "p2": "p2.JPG", "p3": "p3.webp", "p4": "p4/samples/00000.png", "p5": "p5/0.png"}
    with pytest.raises(BenchError, match="not a folder"):
        images.by_prompt(tmp_path / "nothing")


def test_the_grid_beside_genevals_samples_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "00000" / "samples").mkdir(parents=True)
    for name in ("grid.png", "samples/0000.png", "samples/0001.png"):
        (tmp_path / "00000" / name).write_bytes(b"")
    assert images.by_prompt(tmp_path) == {"00000": tmp_path / "00000" / "samples" / "0000.png"}


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_a_file_that_is_no_image_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(BenchError, match=r"not a readable image: .*bad\.png"):
        images.load(tmp_path / "bad.png", None)
