"""Endless training examples of the shapes world. Example ``index`` of a seed is always the same.

Evaluation scenes come from other seeds; a scene of the evaluation is never drawn here but by chance.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from PIL import Image

from benchmarks.shapes.geneval import TAGS, random_metadata, scene_for
from benchmarks.shapes.scene import CELL_NAMES, Scene, random_scene, render
from benchmarks.shapes.vqa import KINDS, ask

#: What lmms-eval puts behind a VQAv2 question (tasks/vqav2/_default_template_vqav2_yaml).
SHORT_ANSWER = "\nAnswer the question using a single word or phrase."
DESCRIBE = "Describe the image."


@dataclass(frozen=True)
class Example:
    """An image with a caption to draw it from, or with a conversation about it: (question, answer) in turn."""

    image: Image.Image
    caption: str
    turns: tuple[tuple[str, str], ...]
    key: str = ""  # endless and drawn in no time: nothing computed from it is worth keeping


def description(scene: Scene) -> str:
    """Every object with its color and cell, in reading order."""
    objects = sorted(scene.objects, key=lambda item: item.cell)
    return ", ".join(f"{CELL_NAMES[item.cell]} {item.color} {item.shape}" for item in objects)


def generation(seed: int, index: int) -> Example:
    """A GenEval prompt of a random tag and a scene that satisfies it."""
    rng = random.Random(f"generation/{seed}/{index}")
    metadata = random_metadata(rng.choice(TAGS), rng)
    scene = scene_for(metadata, rng)
    return Example(render(scene), metadata["prompt"], ())


def dense_generation(seed: int, index: int) -> Example:
    """A random scene and a caption that tells every object's shape, color and cell."""
    rng = random.Random(f"dense/{seed}/{index}")
    scene = random_scene(rng)
    return Example(render(scene), description(scene), ())


def understanding(seed: int, index: int) -> Example:
    """A random scene with two short questions, then its full description.

    The description comes last: in front of a question it would give the answer away.
    """
    rng = random.Random(f"understanding/{seed}/{index}")
    scene = random_scene(rng)
    asked = [ask(scene, kind, rng) for kind in rng.sample(range(len(KINDS)), 2)]
    turns = [(question.text + SHORT_ANSWER, question.answer) for question in asked]
    return Example(render(scene), "", (*turns, (DESCRIBE, description(scene))))
