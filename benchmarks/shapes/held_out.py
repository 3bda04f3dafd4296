"""Held-out accuracy of the toy judges, and the best that the toy model's decoder can do: what the model card says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from benchmarks.judges import mmcv_ops
from benchmarks.judges.color import COLORS, ColorClassifier
from benchmarks.judges.detector import Detections, Detector, library_warnings_off
from benchmarks.shapes import chat, looking
from benchmarks.shapes.judges import WEIGHTS, color_spec, detector_spec
from benchmarks.shapes.reference import Oracle
from benchmarks.shapes.scene import SHAPES
from benchmarks.shapes.train_judges import Drawing, clean, color_crops, scene_of
from benchmarks.types import Json, Sample


def judges(weights: Path = WEIGHTS, scenes: int = 500) -> dict[str, tuple[float, int]]:
    """Scores of the judges in ``weights`` on renders of scenes that they were not trained on, each with its n.

    Beside the detector's mean average precision the shares of the objects' colors that are named right, of scenes
    that both judges see right in everything (DPG-Bench's judge), and of WISE's verdicts that are right.
    """
    detector, classifier = Detector(detector_spec(weights)), ColorClassifier(color_spec(weights))
    drawings = [clean(scene_of("held-out", index)) for index in range(scenes)]
    found = detector.detect([Image.fromarray(drawing.pixels) for drawing in drawings])
    rng = np.random.default_rng([4])
    crops = [crop for drawing in drawings for crop in color_crops(drawing, rng)]
    right = sum(COLORS[classifier.logits([crop], item.shape)[0].argmax()] == item.color for crop, item in crops)
    looker = looking.Looker(weights)
    return {
        "detector mAP@0.5": (map_50(drawings, found), scenes),
        "colors": (right / len(crops), len(crops)),
        "scenes seen right": (looking.held_out(looker, scenes), scenes),
        "WISE verdicts": (chat.held_out(chat.SceneJudge(looker), scenes), scenes),
    }


def map_50(drawings: Sequence[Drawing], found: Sequence[Detections]) -> float:
    """Mean over the shapes of the average precision at an IoU of 0.5, by mmdet's own evaluation."""
    mmcv_ops.install()
    with library_warnings_off():
        from mmdet.evaluation.functional import eval_map

    detected = [
        [np.column_stack([one.boxes, one.scores])[one.labels == label] for label in range(len(SHAPES))] for one in found
    ]
    annotations = [
        {
            "bboxes": np.array([o.box for o in drawing.objects], dtype=np.float32).reshape(-1, 4),
            "labels": np.array([SHAPES.index(o.shape) for o in drawing.objects], dtype=np.int64),
        }
        for drawing in drawings
    ]
    mean, _ = eval_map(detected, annotations, iou_thr=0.5, logger="silent", nproc=1)
    return float(mean)


class Decodes(Protocol):
    """A model that draws images again from their own target features."""

    def decode_images(self, images: Sequence[Image.Image], seeds: Sequence[int]) -> Sequence[Image.Image]: ...


class ThroughFeatures(Oracle):
    """The oracle, whose drawings go through a model's encoder and decoder: no generator on it can be better."""

    def __init__(self, model: Decodes) -> None:
        self.model = model

    def describe(self) -> Mapping[str, Json]:
        return {"name": "oracle through features"}

    def generate(self, samples: Sequence[Sample], seeds: Sequence[int]) -> Sequence[Image.Image]:
        return self.model.decode_images(super().generate(samples, seeds), seeds)
