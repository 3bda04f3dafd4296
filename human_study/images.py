"""Image files of a study: one format, no metadata, one display for all models.

All images become PNG files named by their digest. PNG keeps every pixel, and with one format for all neither the file
type nor what a program wrote into it (names, dates, prompts) tells the model. They are served as they are.
"""

from __future__ import annotations

import hashlib
import io
import os
import random
from pathlib import Path

from PIL import Image, ImageFilter, ImageOps

from benchmarks.types import BenchError
from human_study.store import StoredImage

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def by_prompt(folder: Path) -> dict[str, Path]:
    """The image of each prompt id in a model's folder: ``ID.png`` (or jpg, webp), or the first image, by name, in
    ``ID/samples/`` (GenEval's layout) or ``ID/``. Raises BenchError when there is no folder.
    """
    if not folder.is_dir():
        raise BenchError(f"{folder} is not a folder with images")
    found = {}
    for entry in sorted(folder.iterdir()):
        if entry.is_dir():
            # In this order: GenEval's scripts put a grid of the samples beside their folder.
            inside = _images(entry / "samples") or _images(entry)
            if inside:
                found[entry.name] = inside[0]
        elif entry.suffix.lower() in SUFFIXES:
            found[entry.stem] = entry
    return found


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)


def load(path: Path, pixels: int | None, grid: bool = False) -> Image.Image:
    """The pixels of a file, upright, in RGB; resampled (Lanczos) to ``pixels`` on the longer side if that is given.

    Transparent images are put on white. Of a ``grid`` of two by two images it is the first, top left. Raises BenchError
    naming a file that is not an image, or cannot be such a grid.
    """
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if "A" in image.getbands() or "transparency" in image.info:
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
            image = image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # all of them Pillow's
        raise BenchError(f"not a readable image: {path} ({error})") from error
    if grid:
        image = _first_of_grid(image, path)
    if pixels is not None:
        scale = pixels / max(image.size)
        size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        image = image.resize(size, Image.Resampling.LANCZOS)
    return image


def _first_of_grid(image: Image.Image, path: Path) -> Image.Image:
    if image.width % 2 or image.height % 2:
        raise BenchError(f"{path} is {image.width} x {image.height}: no grid of two by two images of one size")
    return image.crop((0, 0, image.width // 2, image.height // 2))


def spoilt(image: Image.Image, seed: str) -> Image.Image:
    """A version that is worse to every eye: blurred over a tenth of its side and covered with noise."""
    noise = Image.frombytes("RGB", image.size, random.Random(seed).randbytes(3 * image.width * image.height))
    return Image.blend(image.filter(ImageFilter.GaussianBlur(max(image.size) / 20)), noise, 0.25)


def save(image: Image.Image, folder: Path) -> StoredImage:
    """Write ``folder/images/SHA256.png`` unless it is there. Raises BenchError where the disk does not take it."""
    buffer = io.BytesIO()
    # A new image: one that was opened keeps what its file said about it, and would write it again.
    clean = Image.frombytes("RGB", image.size, image.tobytes())
    clean.save(buffer, "PNG", compress_level=1)  # 6 is five times slower, for a tenth of the size
    stored = StoredImage(hashlib.sha256(buffer.getvalue()).hexdigest(), *image.size)
    target = path(folder, stored.sha256)
    if not target.exists():
        temporary = target.with_suffix(f".{os.getpid()}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(buffer.getvalue())
            temporary.replace(target)
        except OSError as error:
            raise BenchError(f"cannot write {target}: {error.strerror}") from error
    return stored


def path(folder: Path, sha256: str) -> Path:
    """Where a study keeps the image of a digest."""
    return folder / "images" / f"{sha256}.png"
