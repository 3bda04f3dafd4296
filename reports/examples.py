"""Examples of a benchmark's right and wrong predictions, with what the judge saw, ready to be drawn."""

from __future__ import annotations

import base64
import hashlib
import io
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from benchmarks.types import Json, Prediction, Sample, Score, Verdict

if TYPE_CHECKING:
    from PIL import Image

Outcome = Literal["right", "wrong", "not scored"]

#: How many examples of each outcome a category shows at most, failures first, and how many a benchmark's categories
#: share: a page must open on a phone. Every category shows one of each outcome that it has.
PER_CATEGORY: Mapping[Outcome, int] = {"wrong": 6, "not scored": 2, "right": 2}
PER_BENCHMARK: Mapping[Outcome, int] = {"wrong": 36, "not scored": 12, "right": 12}
#: Longest side of an embedded image in pixels; a page of 1024-pixel PNGs would not open on a phone.
LONGEST_SIDE = 512


@dataclass(frozen=True)
class Mask:
    """The pixels of a detection: white where it is, from the pixel (``x``, ``y``) on. ``id`` is of this mask alone."""

    id: str
    uri: str
    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class Box:
    """A detection in pixels of the original image; ``kind`` numbers the image's classes."""

    x: float
    y: float
    width: float
    height: float
    label: str
    kind: int
    mask: Mask | None = None


@dataclass(frozen=True)
class Picture:
    """An image as a data URI, with the size of the original, in whose pixels the boxes are."""

    uri: str
    width: int
    height: int
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class Example:
    """One prediction as it is shown. What is not known is None.

    ``questions`` are those that the judge was asked about the prediction, each with its replies; ``judged`` is what a
    judge wrote about it.
    """

    id: str
    category: str
    outcome: Outcome
    value: float | None
    reason: str
    prompt: str | None
    reply: str | None
    gold: str | None
    error: str | None
    questions: tuple[tuple[str, str], ...]
    judged: str | None
    pictures: tuple[Picture, ...]


def outcome(score: Score) -> Outcome:
    """Graded scores count as right from 0.5 on: here it only sorts examples."""
    if score.value is None:
        return "not scored"
    return "right" if score.value >= 0.5 else "wrong"


def choose(scores: Sequence[Score], seed: int) -> list[Score]:
    """Some scores of every category, of distinct groups within an outcome; the same for the same scores and seed."""
    categories: dict[str, list[Score]] = {}
    for score in scores:
        categories.setdefault(score.stratum, []).append(score)
    chosen: list[Score] = []
    for category, members in categories.items():
        rng = random.Random(f"{seed}/{category}")
        for kind, most in PER_CATEGORY.items():
            candidates = [score for score in members if outcome(score) == kind]
            distinct = {score.group: score for score in rng.sample(candidates, len(candidates))}
            count = max(1, min(most, PER_BENCHMARK[kind] // len(categories)))
            chosen.extend(list(distinct.values())[:count])
    return chosen


def example(
    score: Score, prediction: Prediction | None, verdict: Verdict | None, sample: Sample | None, folder: Path
) -> Example:
    """Put together what is known of one sample. ``folder`` is the benchmark's. An image that is lost or damaged is
    named in ``error``: runs are often copied without their images."""
    finding = verdict.finding if verdict else None
    pictures = [picture(image(), ()) for image in sample.images] if sample else []
    errors = [row.error for row in (prediction, verdict) if row and row.error]
    if prediction and prediction.image:
        drawn = _opened(folder / prediction.image)
        if isinstance(drawn, str):
            errors.append(f"the image {prediction.image} {drawn}")
        else:
            pictures.append(picture(drawn, boxes(finding)))
    gold = sample.meta.get("answer") if sample else None
    return Example(
        id=score.id,
        category=score.stratum,
        outcome=outcome(score),
        value=score.value,
        reason=score.reason,
        prompt=sample.prompt if sample else None,
        reply=prediction.text if prediction else None,
        gold=None if gold is None else str(gold),
        error="; ".join(errors) or None,
        questions=questions(finding),
        judged=judged(finding),
        pictures=tuple(pictures),
    )


def boxes(finding: Json) -> tuple[Box, ...]:
    """The boxes of any finding of the form ``{"boxes": {class: [[x1, y1, x2, y2, score], ...]}}``.

    ``masks`` beside them, of some classes or none, holds one-bit PNGs in base64 in the same order, each of the pixels
    that its box touches.
    """
    if not isinstance(finding, dict) or "boxes" not in finding:
        return ()
    masks = finding.get("masks", {})
    return tuple(
        Box(left, top, right - left, bottom - top, f"{name} {score:.2f}", kind, png and _mask(png, left, top))
        for kind, (name, found) in enumerate(finding["boxes"].items())
        for (left, top, right, bottom, score), png in zip(found, masks.get(name, [None] * len(found)), strict=True)
    )


def _mask(png: str, left: float, top: float) -> Mask:
    from PIL import Image

    x, y = max(0, math.floor(left)), max(0, math.floor(top))
    width, height = Image.open(io.BytesIO(base64.b64decode(png))).size
    name = hashlib.sha256(f"{x} {y} {png}".encode()).hexdigest()[:16]
    return Mask(f"mask-{name}", f"data:image/png;base64,{png}", x, y, width, height)


def questions(finding: Json) -> tuple[tuple[str, str], ...]:
    """The questions of any finding of the form ``{"crops": [{question: reply, ...}, ...]}``, each with its replies."""
    if not isinstance(finding, dict) or "crops" not in finding:
        return ()
    replies: dict[str, list[str]] = {}
    for crop in finding["crops"]:
        for question, reply in crop.items():
            replies.setdefault(question, []).append(str(reply))
    return tuple((question, ", ".join(told)) for question, told in replies.items())


def judged(finding: Json) -> str | None:
    """What a judge wrote about one prediction: ``reply``, or ``judge``'s replies one below the other."""
    if not isinstance(finding, dict):
        return None
    told = finding.get("reply", finding.get("judge"))
    return "\n".join(map(str, told)) if isinstance(told, list) else told


def picture(image: Image.Image, found: tuple[Box, ...]) -> Picture:
    """Embed an image: small ones without loss, others scaled down as JPEG."""
    width, height = image.size
    rgb = image.convert("RGB")
    buffer = io.BytesIO()
    if max(width, height) <= 128:
        rgb.save(buffer, "PNG", optimize=True)
        kind = "png"
    else:
        rgb.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        rgb.save(buffer, "JPEG", quality=85)
        kind = "jpeg"
    uri = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    return Picture(uri, width, height, found)


def _opened(path: Path) -> Image.Image | str:
    """The image, or why there is none."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            # Detectors see images turned as EXIF says (mmcv.imread), so their boxes are in those pixels.
            return ImageOps.exif_transpose(image)
    except FileNotFoundError:
        return "is not there"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return "cannot be read"
