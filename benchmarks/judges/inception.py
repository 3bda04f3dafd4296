"""Features of images: Inception-v3 as clean-fid computes them, and CLIP's through open_clip.

An image goes through a network alone, so no row depends on what else is looked at. clean-fid takes batches of 32, whose
rows may differ in the last bits.
"""

from __future__ import annotations

import ctypes
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.environment import usable_cores
from benchmarks.images import UNREADABLE, open_image
from benchmarks.judges.color import ColorSpec, create
from benchmarks.judges.resize import resize
from benchmarks.judges.weights import checked_digest
from benchmarks.types import BenchError, Json

#: The name under which clean-fid loads its network (cleanfid/inception_torchscript.py).
INCEPTION_FILE = "inception-2015-12-05.pt"
#: Digest of NVIDIA's file, as k-diffusion's evaluation.py checks it.
INCEPTION_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"

#: Parameters of mallopt, from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

#: RGB, [height, width, 3].
Pixels = NDArray[np.uint8]
Opener = Callable[[], Pixels]


class Extractor(Protocol):
    """A network that makes a row of features of an image."""

    @property
    def name(self) -> str:
        """The key of its rows in verdicts."""

    def describe(self) -> Mapping[str, Json]:
        """Everything that determines the features: they are cached under it."""

    def load(self) -> None:
        """Load the network now, before threads want parts of it. Raises BenchError for wrong weights."""

    def prepare(self, pixels: Pixels) -> Any:
        """The network's input; called by several threads at once."""

    def features(self, prepared: Any) -> NDArray[np.float32]:
        """One row [d]; called by several threads at once."""


@dataclass(frozen=True)
class Inception:
    """The 2048 features of clean-fid's mode "clean" (bicubic, antialiased, not rounded; weights of 2015-12-05).

    ``weights`` is a TorchScript file of that name; ``sha256`` (or its first digits) is checked where given.
    """

    weights: Path
    sha256: str | None = INCEPTION_SHA256
    device: str = "cpu"
    name: str = "inception"

    def describe(self) -> Mapping[str, Json]:
        return {
            "library": "clean-fid",
            "mode": "clean",
            "weights_sha256": self._digest,
            "device": self.device.split(":")[0],
        }

    def load(self) -> None:
        _ = self._network

    def prepare(self, pixels: Pixels) -> NDArray[np.float32]:
        """Float32 [3, 299, 299] from 0 to 255."""
        return resize(pixels)

    def features(self, prepared: NDArray[np.float32]) -> NDArray[np.float32]:
        import torch

        # Without optimisation: TorchScript fuses kernels after the first images, which then give other last bits.
        with torch.no_grad(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            row = self._network(torch.from_numpy(prepared)[None].to(self.device))[0]
        return np.asarray(row.float().cpu().numpy())

    @cached_property
    def _digest(self) -> str:
        return checked_digest(self.weights, self.sha256)

    @cached_property
    def _network(self) -> Any:
        import torchvision_guard

        torchvision_guard.install()
        from cleanfid.inception_torchscript import InceptionV3W

        assert self._digest
        if self.weights.name != INCEPTION_FILE:
            raise BenchError(f"clean-fid loads {INCEPTION_FILE} only: give {self.weights} that name")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`torch.jit.load` is", DeprecationWarning)
            return InceptionV3W(str(self.weights.parent), download=False).to(self.device).eval()


@dataclass(frozen=True)
class Clip:
    """Image embeddings of an open_clip model, not normalised (as clean-fid's model_name="clip_vit_b_32" has them).

    fp32 on every device, where clean-fid's are fp16 on a GPU.
    """

    spec: ColorSpec
    name: str = "clip"

    def describe(self) -> Mapping[str, Json]:
        return {
            "library": "open_clip",
            "model": self.spec.model,
            "weights_sha256": self._digest,
            "device": self.spec.device.split(":")[0],
        }

    def load(self) -> None:
        _ = self._loaded

    def prepare(self, pixels: Pixels) -> Any:
        return self._loaded[1](Image.fromarray(pixels))

    def features(self, prepared: Any) -> NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            row = self._loaded[0].encode_image(prepared[None].to(self.spec.device))[0]
        return np.asarray(row.float().cpu().numpy())

    @cached_property
    def _digest(self) -> str:
        return checked_digest(self.spec.weights, self.spec.sha256)

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        """Model and preprocessing."""
        assert self._digest
        return create(self.spec, self.spec.weights)[:2]


@dataclass(frozen=True)
class Seen:
    """An image as the networks saw it: its ``size`` (width, height) and a row of features by extractor."""

    size: tuple[int, int]
    rows: Mapping[str, NDArray[np.float32]]


def extract(openers: Sequence[Opener], extractors: Sequence[Extractor]) -> Iterator[Seen | Exception]:
    """Features of images, in their order; for one that is unreadable, or whose features are not finite, the error.

    Each of as many threads as there are cores decodes and resizes an image and takes it through the networks: Pillow
    and torch let go of Python's lock. On a CPU a network has one thread of its own, whose sums do not depend on the
    machine's cores; several for each would wait for cores that the other images have.
    """

    def look(opener: Opener) -> Seen | Exception:
        try:
            pixels = opener()
            inputs = [extractor.prepare(pixels) for extractor in extractors]
        except UNREADABLE as error:
            return error
        rows = {e.name: e.features(given) for e, given in zip(extractors, inputs, strict=True)}
        bad = [name for name, row in rows.items() if not np.isfinite(row).all()]
        height, width, _ = pixels.shape
        return ValueError(f"features of {', '.join(bad)} are not finite") if bad else Seen((width, height), rows)

    _keep_freed_memory()
    for extractor in extractors:
        extractor.load()
    with _one_thread_each(), ThreadPoolExecutor(usable_cores()) as pool:
        yield from pool.map(look, openers)


@cache
def _keep_freed_memory() -> None:
    """From now on glibc's malloc keeps what this process frees, for the next image, but for arrays above 32 MB.

    By default it gives arrays of a few MB back to the system, and each of their pages is a fault when it comes anew:
    2,900 for an image of 1024 pixels, which took longer than to decode it.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return
    libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # the highest that glibc takes (mallopt(3))
    libc.mallopt(_M_TRIM_THRESHOLD, 256 << 20)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """torch computes with one thread in each thread that is started meanwhile."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def read_image(path: str | os.PathLike[str]) -> Pixels:
    """As clean-fid opens a file with Pillow: without turning it as EXIF says. Raises one of ``UNREADABLE``."""
    with open_image(path) as image:
        if (image.format, image.mode) == ("JPEG", "RGB") and (pixels := _decode_jpeg(Path(path))) is not None:
            return pixels
        image.load()
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _decode_jpeg(path: Path) -> Pixels | None:
    """Pillow's pixels in two thirds of its time, since both have libjpeg-turbo; None where Pillow is to judge the file.

    That is where OpenCV cannot decode it, and where its end is missing, which OpenCV does not say. Of damaged files
    OpenCV takes a few more than Pillow, with the pixels that Pillow finds in them when it is told to be lenient.
    """
    import cv2

    data = path.read_bytes()
    if not data.endswith(b"\xff\xd9"):  # the marker of the end (ITU-T T.81, table B.1)
        return None
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    return None if decoded is None else decoded.astype(np.uint8, copy=False)
