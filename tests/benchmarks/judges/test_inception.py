"""Features of images: clean-fid's own path with a stand-in network, CLIP's, and images that have none."""

from __future__ import annotations

import io
import platform
import resource
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image

from benchmarks.bench.fid import stand_in
from benchmarks.images import UNREADABLE
from benchmarks.judges import inception
from benchmarks.judges.inception import Clip, Inception, Opener, Pixels, Seen, extract, read_image
from benchmarks.shapes.judges import color_spec
from benchmarks.types import BenchError, Json


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stand_in(tmp_path_factory.mktemp("weights"))


def write_images(folder: Path, count: int) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = []
    for number in range(count):
        size = (40 + 30 * number, 70)
        pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        paths.append(folder / f"{number}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


def rows_of(results: Iterator[Seen | Exception], name: str) -> NDArray[np.float32]:
    rows = []
    for result in results:
        assert isinstance(result, Seen)
        rows.append(result.rows[name])
    return np.stack(rows)


def test_inception_features_are_clean_fids(tmp_path: Path, weights: Path) -> None:
    """Bit by bit those of its own loop over a folder, given images one at a time."""
    import torch
    from cleanfid.fid import get_folder_features
    from cleanfid.inception_torchscript import InceptionV3W

    paths = write_images(tmp_path, 3)
    ours = rows_of(extract([partial(read_image, path) for path in paths], [Inception(weights, None)]), "inception")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's, about TorchScript
        network = InceptionV3W(str(weights.parent), download=False).eval()
    options = {"num_workers": 0, "batch_size": 1, "device": torch.device("cpu"), "verbose": False}
    theirs = get_folder_features(str(tmp_path), network, **options)
    assert ours.shape == (3, 2048)
    assert ours.dtype == np.float32
    assert ours.std() > 0
    np.testing.assert_array_equal(ours, theirs)


def test_an_alpha_channel_is_dropped_as_clean_fid_drops_it(tmp_path: Path, weights: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 30, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "alpha.png")
    Image.fromarray(pixels[..., :3]).save(tmp_path / "plain.png")
    openers = [partial(read_image, tmp_path / name) for name in ("alpha.png", "plain.png")]
    first, second = rows_of(extract(openers, [Inception(weights, None)]), "inception")
    np.testing.assert_array_equal(first, second)


def test_wrong_absent_or_renamed_weights(tmp_path: Path, weights: Path) -> None:
    with pytest.raises(BenchError, match="have sha256"):
        Inception(weights).load()
    with pytest.raises(BenchError, match="are not there"):
        Inception(tmp_path / weights.name).describe()
    renamed = tmp_path / "inception.pt"
    renamed.write_bytes(weights.read_bytes())
    with pytest.raises(BenchError, match=weights.name):
        Inception(renamed, None).load()


def test_description_tells_the_weights_and_not_the_devices_number(weights: Path) -> None:
    described = Inception(weights, None, device="cuda:1").describe()
    assert described["device"] == "cuda"
    assert len(str(described["weights_sha256"])) == 64


def test_clip_features_are_the_image_embeddings(tmp_path: Path) -> None:
    import torch

    paths = write_images(tmp_path, 2)
    clip = Clip(color_spec())
    rows = rows_of(extract([partial(read_image, path) for path in paths], [clip]), "clip")
    model, preprocess = clip._loaded
    with torch.inference_mode():
        images = [preprocess(Image.fromarray(read_image(path))) for path in paths]
        expected = [model.encode_image(image[None])[0].numpy() for image in images]
    np.testing.assert_array_equal(rows, expected)
    assert clip.describe()["model"] == color_spec().model


def jpeg(**options: object) -> bytes:
    """A photograph-like image of 96 x 64 pixels."""
    field = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(field).resize((96, 64)).save(file, "JPEG", **options)
    return file.getvalue()


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("turned", [False, True])
def test_jpegs_have_pillows_pixels(tmp_path: Path, progressive: bool, subsampling: int, turned: bool) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6 if turned else 1
    path = tmp_path / "image.jpg"
    path.write_bytes(jpeg(quality=80, progressive=progressive, subsampling=subsampling, exif=exif))
    with Image.open(path) as image:
        np.testing.assert_array_equal(read_image(path), np.asarray(image))


@pytest.mark.parametrize("left", [0.3, 0.7, 0.98])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_without_its_end_is_unreadable(tmp_path: Path, left: float, progressive: bool) -> None:
    whole = jpeg(progressive=progressive)
    path = tmp_path / "image.jpg"
    path.write_bytes(whole[: int(left * len(whole))])
    with pytest.raises(UNREADABLE):
        read_image(path)


def test_a_jpeg_with_broken_data_is_unreadable(tmp_path: Path) -> None:
    """Its tables are gone, its end is there."""
    whole = jpeg()
    start = whole.index(b"\xff\xc4")
    path = tmp_path / "image.jpg"
    path.write_bytes(whole[:start] + b"\xff\xc4\x00\x03\x00" + whole[start + 5 :])
    with pytest.raises(UNREADABLE):
        read_image(path)


def test_a_gray_jpeg_is_made_rgb(tmp_path: Path) -> None:
    Image.new("L", (5, 3), 77).save(tmp_path / "gray.jpg")
    np.testing.assert_array_equal(read_image(tmp_path / "gray.jpg"), np.full((3, 5, 3), 77))


@dataclass(frozen=True)
class RedShare:
    """Feature: red over green; not finite where nothing is green."""

    name: str = "red"

    def describe(self) -> Mapping[str, Json]:
        return {}

    def load(self) -> None:
        pass

    def prepare(self, pixels: Pixels) -> NDArray[np.float64]:
        means: NDArray[np.float64] = pixels.reshape(-1, 3).mean(axis=0)
        return means

    def features(self, prepared: NDArray[np.float64]) -> NDArray[np.float32]:
        with np.errstate(divide="ignore"):
            return np.array([prepared[0] / prepared[1]], dtype=np.float32)


def plain(*color: int) -> Pixels:
    return np.full((4, 8, 3), color, np.uint8)


def test_images_without_features_keep_their_place(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n")
    openers: list[Opener] = [
        partial(read_image, tmp_path / "broken.png"),
        partial(plain, 10, 20, 0),
        partial(plain, 10, 0, 0),
        partial(read_image, tmp_path / "absent.png"),
    ]
    broken, seen, infinite, absent = extract(openers, [RedShare()])
    assert isinstance(broken, OSError)
    assert isinstance(seen, Seen)
    assert (seen.size, seen.rows["red"].tolist()) == ((8, 4), [0.5])
    assert str(infinite) == "features of red are not finite"
    assert isinstance(absent, FileNotFoundError)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_memory_of_one_image_serves_the_next(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays that came from the system for every image would be 3,000 page faults each."""
    monkeypatch.setattr(inception, "usable_cores", lambda: 1)
    images = [lambda: np.asarray(Image.effect_noise((1024, 1024), 50).convert("RGB"))] * 4
    network = Inception(weights, None)
    rows_of(extract(images, [network]), "inception")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    rows_of(extract(images, [network]), "inception")
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / len(images) < 1000


class Threads(RedShare):
    """Feature: how many threads torch has for it."""

    def features(self, prepared: NDArray[np.float64]) -> NDArray[np.float32]:
        import torch

        return np.array([torch.get_num_threads()], dtype=np.float32)


def test_each_image_is_computed_by_one_thread() -> None:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        seen = rows_of(extract([partial(plain, 10, 20, 0)] * 3, [Threads()]), "red")
        assert seen.tolist() == [[1], [1], [1]]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
