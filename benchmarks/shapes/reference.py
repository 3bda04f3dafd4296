"""Ceiling and floor of the shapes world: a model that is always right, and one that does not look."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from PIL import Image

from benchmarks.shapes import dpg, wise
from benchmarks.shapes.geneval import scene_for
from benchmarks.shapes.scene import Scene, render
from benchmarks.shapes.understanding import spoken
from benchmarks.types import Json, Sample


class Oracle:
    """Draws a scene that satisfies the prompt's metadata, and answers what the row has as its answer."""

    def describe(self) -> Mapping[str, Json]:
        return {"name": "oracle"}

    def generate(self, samples: Sequence[Sample], seeds: Sequence[int]) -> Sequence[Image.Image]:
        """One 64 x 64 RGB image per sample, from what its meta says is to be seen."""
        return [render(_scene(sample.meta, random.Random(seed))) for sample, seed in zip(samples, seeds, strict=True)]

    def answer(self, samples: Sequence[Sample], seeds: Sequence[int]) -> Sequence[str]:
        """What the column shows beside a reply as the row's answer."""
        return [spoken(sample.meta["answer"]) for sample in samples]


def _scene(meta: Mapping[str, Json], rng: random.Random) -> Scene:
    """GenEval's metadata (which MJHQ's toy prompts have too), an item of DPG-Bench, or an explanation of WISE."""
    if "Explanation" in meta:
        return wise.scene_for(wise.read_explanation(meta["Explanation"]), rng)
    return dpg.scene_for(meta["item_id"]) if "item_id" in meta else scene_for(meta, rng)


class Blank:
    """Draws the empty canvas, and answers A where a letter is asked for and yes elsewhere."""

    def describe(self) -> Mapping[str, Json]:
        return {"name": "blank"}

    def generate(self, samples: Sequence[Sample], seeds: Sequence[int]) -> Sequence[Image.Image]:
        """One empty 64 x 64 RGB image per sample."""
        return [render(Scene(())) for _ in samples]

    def answer(self, samples: Sequence[Sample], seeds: Sequence[int]) -> Sequence[str]:
        return ["A" if "letter" in sample.prompt else "yes" for sample in samples]
