"""Ceiling and floor of the shapes world: a model that is always right, and one that does not look."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from PIL import Image

from benchmarks.shapes.geneval import scene_for
from benchmarks.shapes.scene import Scene, render
from benchmarks.shapes.understanding import spoken
from benchmarks.types import Json, Sample


class Oracle:
    """Draws a scene that satisfies the prompt's metadata, and answers what the row has as its answer."""

    def describe(self) -> Mapping[str, Json]:
        return {"name": "oracle"}

    def generate(self, samples: Sequence[Sample], seeds: Sequence[int]) -> Sequence[Image.Image]:
        """One 64 x 64 RGB image per sample, from the GenEval metadata in its meta."""
        return [
            render(scene_for(sample.meta, random.Random(seed))) for sample, seed in zip(samples, seeds, strict=True)
        ]

    def answer(self, samples: Sequence[Sample], seeds: Sequence[int]) -> Sequence[str]:
        """What the column shows beside a reply as the row's answer."""
        return [spoken(sample.meta["answer"]) for sample in samples]


class Blank:
    """Draws the empty canvas, and answers A where a letter is asked for and yes elsewhere."""

    def describe(self) -> Mapping[str, Json]:
        return {"name": "blank"}

    def generate(self, samples: Sequence[Sample], seeds: Sequence[int]) -> Sequence[Image.Image]:
        """One empty 64 x 64 RGB image per sample."""
        return [render(Scene(())) for _ in samples]

    def answer(self, samples: Sequence[Sample], seeds: Sequence[int]) -> Sequence[str]:
        return ["A" if "letter" in sample.prompt else "yes" for sample in samples]
