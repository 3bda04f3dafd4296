"""Does a detector work at all? Checked on images whose content is known, before it may score others.

A detector can be broken without a word: operators compiled for another GPU, a checkpoint of another version (geneval
issues 6, 8, 15 and 21). Then nothing is found, and every score is near 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from benchmarks.judges.detector import ObjectDetector
from benchmarks.types import BenchError

_PHOTOGRAPHS = Path(__file__).parent / "photographs"
#: GenEval's own threshold for everything but counting.
THRESHOLD = 0.3
#: Loose, since a saucer may be taken for a part of its cup.
OVERLAP = 0.4

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Known:
    """An image that shows one object of the class ``name`` in ``box`` (left, top, right, bottom in pixels)."""

    open: Callable[[], Image.Image]
    name: str
    box: Box


def photographs() -> tuple[Known, ...]:
    """Bundled photographs of COCO classes, all of which GenEval's detector knows by these names."""
    return (
        Known(partial(Image.open, _PHOTOGRAPHS / "cat.jpg"), "cat", (0, 0, 400, 300)),
        Known(partial(Image.open, _PHOTOGRAPHS / "cup.jpg"), "cup", (173, 17, 410, 310)),
        Known(partial(Image.open, _PHOTOGRAPHS / "person.jpg"), "person", (20, 15, 365, 512)),
    )


def check_detector(detector: ObjectDetector, known: Sequence[Known]) -> None:
    """Raises BenchError unless each object is found by its name, at its place and with a score above THRESHOLD."""
    for image, found in zip(known, detector.detect([one.open() for one in known], THRESHOLD), strict=True):
        pairs = zip(found.labels, found.boxes, strict=True)
        if not any(
            detector.classes[label] == image.name and overlap(image.box, box.tolist()) >= OVERLAP
            for label, box in pairs
        ):
            seen = ", ".join(sorted({detector.classes[label] for label in found.labels})) or "nothing"
            raise BenchError(
                f"the detector is broken: where an image shows one {image.name} it sees {seen}, so nothing is scored; "
                "check that its checkpoint belongs to its config, and that mmcv was compiled for this GPU (or install "
                "mmcv-lite, which needs no compiler)"
            )


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if union > 0 else 0.0
