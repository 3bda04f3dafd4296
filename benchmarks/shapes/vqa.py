"""Questions about scenes of the shapes world, and rows in VQAv2's schema (lmms-lab/VQAv2)."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.shapes.geneval import plural
from benchmarks.shapes.scene import COLORS, SHAPES, Scene, random_scene

AnswerType = Literal["yes/no", "number", "other"]


@dataclass(frozen=True)
class Question:
    """``choices`` is the number of answers that a guesser who knows the grammar picks from."""

    text: str
    answer: str
    kind: str
    answer_type: AnswerType
    choices: int


def described(color: str, shape: str) -> str:
    return f"{'an' if color == 'orange' else 'a'} {color} {shape}"


def presence(scene: Scene, rng: random.Random) -> Question:
    """Half of these questions are answered yes; the object of a no shares a shape or a color with the scene."""
    present = {(item.shape, item.color) for item in scene.objects}
    if rng.random() < 0.5:
        shape, color = rng.choice(sorted(present))
        answer = "yes"
    else:
        absent = [
            (s, c)
            for s in SHAPES
            for c in COLORS
            if (s, c) not in present and any(s == ps or c == pc for ps, pc in present)
        ]
        shape, color = rng.choice(absent)
        answer = "no"
    return Question(f"Is there {described(color, shape)} in the image?", answer, "is there", "yes/no", 2)


def count_all(scene: Scene, rng: random.Random) -> Question:
    return Question("How many shapes are there?", str(len(scene.objects)), "how many", "number", 4)


def color_of(scene: Scene, rng: random.Random) -> Question | None:
    """What color is the star? Only of a shape that occurs once."""
    shapes = [item.shape for item in scene.objects]
    unique = [item for item in scene.objects if shapes.count(item.shape) == 1]
    if not unique:
        return None
    item = rng.choice(unique)
    return Question(f"What color is the {item.shape}?", item.color, "what color is the", "other", len(COLORS))


def shape_of(scene: Scene, rng: random.Random) -> Question | None:
    """What shape is the red object? Only of a color that occurs once."""
    colors = [item.color for item in scene.objects]
    unique = [item for item in scene.objects if colors.count(item.color) == 1]
    if not unique:
        return None
    item = rng.choice(unique)
    return Question(f"What shape is the {item.color} object?", item.shape, "what", "other", len(SHAPES))


def count_shape(scene: Scene, rng: random.Random) -> Question:
    shape = rng.choice(sorted({item.shape for item in scene.objects}))
    number = sum(item.shape == shape for item in scene.objects)
    return Question(f"How many {plural(shape)} are there?", str(number), "how many", "number", 4)


KINDS = (presence, color_of, shape_of, count_all, count_shape)


def ask(scene: Scene, kind: int, rng: random.Random) -> Question:
    """A question of the given kind (index into KINDS), or of the first later kind that this scene allows."""
    for offset in range(len(KINDS)):
        question = KINDS[(kind + offset) % len(KINDS)](scene, rng)
        if question is not None:
            return question
    raise AssertionError("presence allows every scene")


def rows(images: int, seed: int = 2017) -> list[tuple[Scene, list[dict[str, Any]]]]:
    """``images`` scenes with five questions each, one of each kind, as rows of VQAv2's validation split.

    Each row has the dataset's columns except ``image``; the ten annotators agree, since a scene is known
    exactly. Two extra keys, ``choices`` and ``kind``, are ours.
    """
    result = []
    for image_id in range(images):
        rng = random.Random(f"{seed}/{image_id}")
        scene = random_scene(rng)
        asked: list[dict[str, Any]] = []
        for kind in range(len(KINDS)):
            question = ask(scene, kind, rng)
            if any(row["question"] == question.text for row in asked):
                continue
            asked.append(
                {
                    "question_type": question.kind,
                    "multiple_choice_answer": question.answer,
                    "answers": [
                        {"answer": question.answer, "answer_confidence": "yes", "answer_id": i} for i in range(1, 11)
                    ],
                    "image_id": image_id,
                    "answer_type": question.answer_type,
                    "question_id": image_id * 1000 + kind,
                    "question": question.text,
                    "choices": question.choices,
                }
            )
        result.append((scene, asked))
    return result
