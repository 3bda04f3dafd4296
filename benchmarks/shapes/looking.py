"""What the toy judges see in an image as a list of objects, and answers to DPG-Bench's toy questions from that."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import get_args

import numpy as np
from PIL import Image

from benchmarks.judges.color import ColorClassifier, object_crop
from benchmarks.judges.detector import Detections, Detector
from benchmarks.shapes.dpg import RELATION_WORDS, Size
from benchmarks.shapes.geneval import NUMBERS, RELATIONS, plural
from benchmarks.shapes.judges import WEIGHTS, color_spec, detector_spec
from benchmarks.shapes.scene import (
    CANVAS,
    CELL_NAMES,
    COLORS,
    SHAPES,
    SIZES,
    Color,
    Scene,
    Shape,
    mask,
    random_scene,
    render,
)
from benchmarks.types import Json, JudgeError

#: GenEval's threshold for all that is not counted exactly; the toy detector is as right here as above 0.9.
THRESHOLD = 0.3
#: What ``held_out`` measured, beside the weights.
CARD = "looking.json"


@dataclass(frozen=True)
class Seen:
    """One object in an image.

    ``size`` parts the world's four sizes in the middle, by the area of the mask; ``cell`` (row, column) is that of the
    box's center; ``box`` is left, top, right, bottom in the image's pixels; ``score`` the detector's, in (0.3, 1].
    """

    shape: Shape
    color: Color
    size: Size
    cell: tuple[int, int]
    box: tuple[float, float, float, float]
    score: float


@dataclass(frozen=True)
class Looker:
    """The toy detector and color classifier in ``weights``, as GenEval's toy suite uses them."""

    weights: Path = WEIGHTS
    device: str = "cpu"

    def describe(self) -> Mapping[str, Json]:
        """Both judges, and under ``held_out`` the share of unseen scenes that were seen right in everything."""
        return {
            "detector": self._detector.describe(),
            "color_classifier": self._colors.describe(),
            "held_out": {"scenes": json.loads((self.weights / CARD).read_text())["exact"]},
        }

    def see(self, images: Sequence[Image.Image]) -> list[list[Seen]]:
        """What is in each image, the surest first. Images may be of any size."""
        upright = [image.convert("RGB") for image in images]
        return [self._objects(*pair) for pair in zip(upright, self._detector.detect(upright), strict=True)]

    @cached_property
    def _detector(self) -> Detector:
        return Detector(detector_spec(self.weights, self.device))

    @cached_property
    def _colors(self) -> ColorClassifier:
        return ColorClassifier(color_spec(self.weights, self.device))

    def _objects(self, image: Image.Image, found: Detections) -> list[Seen]:
        sure = np.flatnonzero(found.scores > THRESHOLD)
        return [self._object(image, found, row) for row in sure[np.argsort(-found.scores[sure], kind="stable")]]

    def _object(self, image: Image.Image, found: Detections, row: int) -> Seen:
        assert found.masks is not None
        shape, region = SHAPES[found.labels[row]], found.masks[row]
        crop = object_crop(image, found.boxes[row], region)
        left, top, right, bottom = (float(edge) for edge in found.boxes[row])
        area = int(region.sum()) * CANVAS**2 / (image.width * image.height)
        return Seen(
            shape,
            COLORS[int(self._colors.logits([crop], shape)[0].argmax())],
            "small" if area < _middle_area(shape) else "large",
            (int(top + bottom >= image.height), int(left + right >= image.width)),
            (left, top, right, bottom),
            float(found.scores[row]),
        )


@cache
def _middle_area(shape: Shape) -> float:
    """Pixels that a shape between the second and the third size covers."""
    # The detector's masks are a little wider than half coverage: 0.4 fitted best, on other scenes than the held-out.
    return sum(float((mask(shape, size) >= 0.4).sum()) for size in SIZES[1:3]) / 2


# Questions --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ShapesVqa:
    """A ``VqaJudge`` for the questions of benchmarks.shapes.dpg: it looks once at an image, then answers yes or no."""

    looker: Looker = field(default_factory=Looker)

    def describe(self) -> Mapping[str, Json]:
        return {"kind": "shapes", **self.looker.describe()}

    def answer(self, image: Image.Image, questions: Sequence[str], *, key: str = "") -> list[str | JudgeError]:
        """JudgeError for a question that the grammar does not have."""
        (seen,) = self.looker.see([image])
        return replies_to(questions, seen)


def replies_to(questions: Sequence[str], seen: Sequence[Seen]) -> list[str | JudgeError]:
    """What an image with these objects answers."""
    return [_reply(question, seen) for question in questions]


def _reply(question: str, seen: Sequence[Seen]) -> str | JudgeError:
    for pattern, holds in _KINDS:
        match = pattern.fullmatch(question)
        if match:
            return "yes" if holds(seen, **match.groupdict()) else "no"
    return JudgeError(f"{question!r} is no question of the shapes world")


def _thing(seen: Sequence[Seen], words: str) -> list[Seen]:
    """The objects of a name such as ``circle``, ``red object`` or ``red circle``, also in the plural."""
    *color, shape = words.split()
    return [
        item
        for item in seen
        if (not color or item.color == color[0]) and (shape == "object" or shape in (item.shape, plural(item.shape)))
    ]


def _there_is(seen: Sequence[Seen], thing: str) -> bool:
    return bool(_thing(seen, thing))


def _number_is(seen: Sequence[Seen], number: str, thing: str) -> bool:
    found = seen if thing in ("shape", "shapes") else _thing(seen, thing)
    return len(found) == _NUMBERS[number]


def _shape_is(seen: Sequence[Seen], thing: str, shape: str) -> bool:
    return any(item.shape == shape for item in _thing(seen, thing))


def _size_is(seen: Sequence[Seen], thing: str, size: str) -> bool:
    return any(item.size == size for item in _thing(seen, thing))


def _cell_is(seen: Sequence[Seen], thing: str, cell: str) -> bool:
    return any(CELL_NAMES[item.cell] == cell for item in _thing(seen, thing))


def _lies(seen: Sequence[Seen], thing: str, relation: str, other: str) -> bool:
    """Whether one of each lie in neighboring cells so."""
    step = _STEPS[relation]
    cells = {item.cell for item in _thing(seen, other)}
    return any((item.cell[0] - step[0], item.cell[1] - step[1]) in cells for item in _thing(seen, thing))


def _all_are(seen: Sequence[Seen], color: str) -> bool:
    return bool(seen) and all(item.color == color for item in seen)


_NUMBERS = {"one": 1, **{word: number for number, word in NUMBERS.items()}}
_STEPS = {words: RELATIONS[relation] for relation, words in RELATION_WORDS.items()}
_THING = r"(?P<thing>[a-z]+(?: [a-z]+)?)"
_KINDS: tuple[tuple[re.Pattern[str], Callable[..., bool]], ...] = tuple(
    (re.compile(pattern), holds)
    for pattern, holds in (
        (rf"(?:Is|Are) there (?P<number>{'|'.join(_NUMBERS)}) {_THING}\?", _number_is),
        (rf"Is there an? {_THING}\?", _there_is),
        (rf"Is the {_THING} an? (?P<shape>{'|'.join(SHAPES)})\?", _shape_is),
        (rf"Is the {_THING} (?P<size>{'|'.join(get_args(Size))})\?", _size_is),
        (rf"Is the {_THING} in the (?P<cell>{'|'.join(CELL_NAMES.values())})\?", _cell_is),
        (rf"Is the {_THING} (?P<relation>{'|'.join(_STEPS)}) the (?P<other>[a-z]+ [a-z]+)\?", _lies),
        (rf"Is everything (?P<color>{'|'.join(COLORS)})\?", _all_are),
    )
)


# Held-out accuracy ------------------------------------------------------------------------------------------------


def exact(scene: Scene, seen: Sequence[Seen]) -> bool:
    """Whether an image of ``scene`` was seen right: every object with its shape, color, cell and size, and no other."""
    there = sorted((o.shape, o.color, o.cell, "small" if o.size <= SIZES[1] else "large") for o in scene.objects)
    return there == sorted((o.shape, o.color, o.cell, o.size) for o in seen)


def held_out(looker: Looker, scenes: int) -> float:
    """The share of so many random scenes, which the judges were not trained on, that were seen right."""
    drawn = [random_scene(random.Random(f"looking/held-out/{index}")) for index in range(scenes)]
    right = [exact(scene, seen) for scene, seen in zip(drawn, looker.see([render(s) for s in drawn]), strict=True)]
    return sum(right) / scenes
