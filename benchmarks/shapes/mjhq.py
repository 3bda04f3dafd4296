"""MJHQ-30K in the shapes world: prompts in three categories, reference scenes of other seeds, and features for them.

Inception cannot be had without a network, and has more features than the toy set has images. The backbone of the toy
detector looks instead, whose features change with blur and with what is drawn; the color classifier's hardly do with
blur.
"""

from __future__ import annotations

import hashlib
import json
import random
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.judges.detector import DetectorSpec, build, load_weights, read_state_dict
from benchmarks.judges.inception import Opener, Pixels
from benchmarks.judges.weights import checked_digest
from benchmarks.mjhq import Prompt
from benchmarks.shapes.geneval import random_metadata, scene_for
from benchmarks.shapes.judges import detector_spec
from benchmarks.shapes.scene import CANVAS, render
from benchmarks.types import Json

#: MJHQ-30K's category -> the GenEval tag whose scenes it has here.
CATEGORIES = {"counts": "counting", "pairs": "color_attr", "singles": "colors"}
SIZE = (CANVAS, CANVAS)
#: Side of the detector's input in pixels (its config doubles the canvas).
_INPUT = 2 * CANVAS
#: catch_warnings is not safe in threads.
_ALONE = threading.Lock()


def prompts(per_category: int) -> list[Prompt]:
    """So many prompts of each category, with GenEval's metadata as ``meta``; as in MJHQ-30K they may recur."""
    return [_prompt(category, tag, number) for category, tag in CATEGORIES.items() for number in range(per_category)]


def _prompt(category: str, tag: str, number: int) -> Prompt:
    metadata = random_metadata(tag, random.Random(f"mjhq/{category}/{number}"))
    return Prompt(f"{number:04}", category, metadata["prompt"], metadata)


def references(of: Sequence[Prompt], seed: int = 0) -> dict[str, Opener]:
    """A scene of each prompt, by "category/id"; other than the oracle's, whose seeds are a run's."""
    return {prompt.file: partial(_scene, prompt, seed) for prompt in of}


def _scene(prompt: Prompt, seed: int) -> Pixels:
    return np.asarray(render(scene_for(prompt.meta, random.Random(f"mjhq reference/{seed}/{prompt.file}"))))


def digest(of: Sequence[Prompt]) -> str:
    """sha256 over what the references are drawn from."""
    return hashlib.sha256(json.dumps([asdict(prompt) for prompt in of], sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class ShapesFeatures:
    """The largest value of each of the 48 channels at a third of the detector's depth, anywhere in the image."""

    spec: DetectorSpec = field(default_factory=detector_spec)

    @property
    def name(self) -> str:
        return "shapes"

    def describe(self) -> Mapping[str, Json]:
        return {
            "library": "mmdet",
            "config": self.spec.config.name,
            "features": "maximum over the backbone's first output",
            "weights_sha256": self._digest,
        }

    def load(self) -> None:
        _ = self._model

    def prepare(self, pixels: Pixels) -> NDArray[np.uint8]:
        """BGR [3, 128, 128], the detector's input."""
        import cv2

        large = cv2.resize(pixels[..., ::-1], (_INPUT, _INPUT), interpolation=cv2.INTER_LINEAR)
        return np.ascontiguousarray(large.transpose(2, 0, 1), dtype=np.uint8)

    def features(self, prepared: NDArray[np.uint8]) -> NDArray[np.float32]:
        import torch

        with _ALONE, torch.inference_mode(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`torch.cuda.amp.autocast", FutureWarning)  # mmdet's own call
            inputs = self._model.data_preprocessor({"inputs": [torch.from_numpy(prepared)]}, False)["inputs"]
            channels = self._model.backbone(inputs)[0][0]  # [48, 16, 16]
        return np.asarray(channels.amax(dim=(1, 2)).numpy())

    @cached_property
    def _digest(self) -> str:
        return checked_digest(self.spec.checkpoint, self.spec.sha256)

    @cached_property
    def _model(self) -> Any:
        model = build(self.spec.config, "cpu")
        load_weights(model, read_state_dict(self.spec.checkpoint), self.spec.checkpoint)
        return model.eval()
