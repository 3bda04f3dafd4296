"""What the study of designs (docs/design_study.md) trains and scores on: GenEval's tags of one kind of object.

Relations and bound colors take a generator of this size hours; these it begins to learn in minutes.
"""

from __future__ import annotations

import random

from benchmarks.dpg import DpgBench
from benchmarks.geneval import GenEval
from benchmarks.mjhq import Mjhq
from benchmarks.shapes.geneval import prompts, random_metadata, scene_for
from benchmarks.shapes.scene import render
from benchmarks.shapes.training import HELD_OUT, Example
from benchmarks.types import Benchmark

TAGS = ("single_object", "counting", "colors")


def drawing(seed: int, index: int) -> Example:
    """A GenEval prompt of one of ``TAGS`` and a scene that satisfies it, without an object of ``HELD_OUT``."""
    rng = random.Random(f"design study/{seed}/{index}")
    while True:
        metadata = random_metadata(rng.choice(TAGS), rng)
        scene = scene_for(metadata, rng)
        if HELD_OUT.isdisjoint((item.shape, item.color) for item in scene.objects):
            return Example(render(scene), metadata["prompt"], ())


def benchmarks(
    prompts_per_tag: int = 8, images_per_prompt: int = 2, captions: int = 16, pairs: int = 20
) -> list[Benchmark]:
    """GenEval's prompts of ``TAGS``, DPG-Bench's first captions, and the FID of ``pairs`` scenes per category."""
    geneval = GenEval.toy(images_per_prompt=images_per_prompt)
    geneval.metadata = tuple(entry for entry in prompts(prompts_per_tag) if entry["tag"] in TAGS)
    geneval.data = {"prompts": "shapes", "tags": list(TAGS), "prompts_per_tag": prompts_per_tag}
    return [geneval, DpgBench.toy(captions, images_per_prompt=1), Mjhq.toy(pairs)]
