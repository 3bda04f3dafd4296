"""Held-out accuracy of the judges, and the oracle's drawings through a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from benchmarks.judges.detector import Detections
from benchmarks.shapes import chat, held_out, looking, train_judges
from benchmarks.shapes.geneval import colors
from benchmarks.shapes.judges import CARD, COLOR_WEIGHTS, DETECTOR_WEIGHTS, WEIGHTS
from benchmarks.shapes.reference import Oracle
from benchmarks.shapes.scene import SHAPES, Object, Scene
from benchmarks.shapes.train_judges import clean
from benchmarks.types import Sample

STAR, RING = Object("star", "red", (0, 0), 2, 2, 26), Object("ring", "blue", (1, 1), 34, 36, 24)


def detections(*objects: tuple[Object, float]) -> Detections:
    """Every object by its box at its score."""
    boxes = np.array([clean(Scene((one,))).objects[0].box for one, _ in objects], dtype=np.float32).reshape(-1, 4)
    scores = np.array([score for _, score in objects], dtype=np.float32)
    return Detections(boxes, scores, np.array([SHAPES.index(one.shape) for one, _ in objects], dtype=np.int64), None)


def test_mean_average_precision_of_known_detections() -> None:
    """A ring missed in one of two images: of the two classes that are there, one has precision 1, one 1/2."""
    drawings = [clean(Scene((STAR, RING)))] * 2
    everything = detections((STAR, 0.9), (RING, 0.8))
    assert held_out.map_50(drawings, [everything] * 2) == pytest.approx(1.0)
    assert held_out.map_50(drawings, [everything, detections((STAR, 0.7))]) == pytest.approx(0.75)


def test_the_judges_are_right_about_renders() -> None:
    scores = held_out.judges(scenes=4)
    assert scores["detector mAP@0.5"][0] >= 0.95
    assert scores["colors"][0] >= 0.98
    assert set(scores) == {"detector mAP@0.5", "colors", "scenes seen right", "WISE verdicts"}


def test_the_cards_lie_beside_the_weights_that_they_are_of(tmp_path: Path) -> None:
    for name in (DETECTOR_WEIGHTS, COLOR_WEIGHTS):
        (tmp_path / name).symlink_to(WEIGHTS / name)
    train_judges.main(["--only", "card", "--held-out", "3", "--out", str(tmp_path)])
    assert json.loads((tmp_path / CARD).read_text())["held_out_scenes"] == 3
    assert json.loads((tmp_path / looking.CARD).read_text()) == {"scenes": 3, "exact": 1.0}
    assert json.loads((tmp_path / chat.CARD).read_text()) == {"scenes": 3, "right": 1.0}


class Negative:
    def decode_images(self, images: Sequence[Image.Image], seeds: Sequence[int]) -> Sequence[Image.Image]:
        return [ImageOps.invert(image) for image in images]


def test_the_oracle_draws_through_the_model() -> None:
    sample = Sample("a", "", group="a", meta=colors("star", "red"))
    (plain,), (through,) = (model.generate([sample], [3]) for model in (Oracle(), held_out.ThroughFeatures(Negative())))
    assert ImageOps.invert(through).tobytes() == plain.tobytes()
