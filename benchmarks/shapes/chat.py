"""The shapes world's judges of replies and of images. They know no language beyond the world's own sentences."""

from __future__ import annotations

import io
import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from PIL import Image

from benchmarks.judges.chat import ChatReply, Question
from benchmarks.shapes.judges import WEIGHTS
from benchmarks.shapes.looking import Looker, Seen
from benchmarks.shapes.scene import CELLS, COLORS, SHAPES, render
from benchmarks.shapes.wise import FACTS, Wanted, companions, explanation, read_explanation, scene_for, wanted
from benchmarks.types import Json, JudgeError

Option = TypeVar("Option")

#: What ``held_out`` measured, beside the weights.
CARD = "scene_judge.json"


@dataclass(frozen=True)
class WordJudge:
    """MM-Vet's judge, a ``Chat`` that completes the table of its prompt.

    It gives the share of the truth's <AND> elements that occur in the prediction as whole words, of <OR> any one,
    to one decimal as the prompt asks. A reply that names every possible answer gets full marks.
    """

    concurrency: int = 1

    def describe(self) -> Mapping[str, Json]:
        return {"kind": "words", "version": "1"}

    def ask(self, question: Question) -> ChatReply:
        # lmms-eval's MM_VET_PROMPT (tasks/mmvet/utils.py) is a table; a blank line and the row to complete follow it.
        _, row = question.prompt.split("\n\n", 1)
        _, truth, prediction = row.split(" | ", 2)
        elements = truth.split("<AND>")
        held = sum(any(_holds(prediction, one) for one in element.split("<OR>")) for element in elements)
        return ChatReply(f"{held / len(elements):.1f}", prompt_tokens=0, completion_tokens=0, cost=None)


def _holds(prediction: str, words: str) -> bool:
    return re.search(rf"\b{re.escape(words.strip())}\b", prediction, re.IGNORECASE) is not None


@dataclass(frozen=True)
class SceneJudge:
    """WISE's judge, a ``Chat`` that replies in the words of WISE-Verified's.

    It looks for what the explanation in its prompt asks for: ``Score: 1`` where the image holds that and nothing else.
    """

    looker: Looker = field(default_factory=Looker)
    concurrency: int = field(default=1, init=False)

    def describe(self) -> Mapping[str, Json]:
        return {"kind": "scene", "version": "1", **self.looker.describe()}

    def ask(self, question: Question) -> ChatReply:
        """Raises JudgeError for a prompt without an explanation of the shapes world."""
        (image,) = question.images
        try:
            asked = read_explanation(question.prompt)
        except ValueError as error:
            raise JudgeError(str(error)) from error
        with Image.open(io.BytesIO(image)) as opened:
            (seen,) = self.looker.see([opened])
        score = int(len(seen) == asked.count and all(_is_one(item, asked) for item in seen))
        return ChatReply(f"Score: {score}", prompt_tokens=0, completion_tokens=0, cost=None)


def _is_one(item: Seen, asked: Wanted) -> bool:
    return (
        item.shape == asked.shape
        and (asked.color is None or item.color == asked.color)
        and (asked.cell is None or item.cell == asked.cell)
    )


# Held-out accuracy ------------------------------------------------------------------------------------------------


def held_out(judge: SceneJudge, scenes: int) -> float:
    """The share of so many scenes that ``judge`` is right about. Every second one is a near miss of what is asked."""
    right = 0
    for index in range(scenes):
        rng = random.Random(f"scene-judge/held-out/{index}")
        fact = rng.choice(FACTS)
        companion = rng.choice(companions(fact))
        asked = wanted(fact, companion)
        file = io.BytesIO()
        render(scene_for(near_miss(asked, rng) if index % 2 else asked, rng)).save(file, "PNG")
        reply = judge.ask(Question(explanation(fact, companion), 0.0, 0, str(index), (file.getvalue(),)))
        right += reply.text == f"Score: {1 - index % 2}"
    return right / scenes


def near_miss(asked: Wanted, rng: random.Random) -> Wanted:
    """The same but for one thing: the shape, or the color, number or place that is asked for."""

    def other(options: Sequence[Option], than: Option) -> Option:
        return rng.choice([option for option in options if option != than])

    misses = [replace(asked, shape=other(SHAPES, asked.shape))]
    if asked.color is not None:
        misses.append(replace(asked, color=other(COLORS, asked.color)))
    if asked.cell is None:
        misses.append(replace(asked, count=other(range(1, 5), asked.count)))
    else:
        misses.append(replace(asked, cell=other(CELLS, asked.cell)))
    return rng.choice(misses)


def held_out_accuracy() -> dict[str, float]:
    """What the card says: the share of scenes that the judge was right about."""
    return {"verdicts": json.loads((WEIGHTS / CARD).read_text())["right"]}
