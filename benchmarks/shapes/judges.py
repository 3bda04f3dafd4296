"""The toy judges: where their weights are and what they can name. Trained by benchmarks.shapes.train_judges."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.judges.color import ColorSpec
from benchmarks.judges.detector import DetectorSpec
from benchmarks.shapes.scene import SHAPES

_HERE = Path(__file__).parent
DETECTOR_WEIGHTS = "detector.safetensors"
COLOR_WEIGHTS = "color.safetensors"
#: Held-out accuracy of both, written beside the weights.
CARD = "judges.json"
WEIGHTS = _HERE / "weights"


def detector_spec(weights: Path = WEIGHTS, device: str = "cpu") -> DetectorSpec:
    return DetectorSpec(_HERE / "rtmdet_ins_shapes.py", weights / DETECTOR_WEIGHTS, SHAPES, device=device)


def color_spec(weights: Path = WEIGHTS, device: str = "cpu") -> ColorSpec:
    return ColorSpec(
        "open_clip_shapes", weights / COLOR_WEIGHTS, model_config=_HERE / "open_clip_shapes.json", device=device
    )


def held_out_accuracy(weights: Path = WEIGHTS) -> dict[str, float]:
    """The card's accuracies on renders that the judges were not trained on: share of scenes or colors all right."""
    card = json.loads((weights / CARD).read_text())
    return {
        "detector": card["clean_exact_scene_above_0.3"],
        "counting": card["clean_exact_scene_above_0.9"],
        "color": card["clean_color_accuracy"],
    }
