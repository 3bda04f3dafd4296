"""WISE in the shapes world: prompts that name a color, number, shape or place only through a fact of the real world.

Twelve facts stand for each of WISE's six categories. A prompt joins one with a companion: the shape to be drawn, or
the color where the fact gives the shape. Training teaches every fact, in text and in prompts, but two companions of
each fact are held out for the evaluation. So the evaluation asks for what is known, in a combination never seen.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.shapes.geneval import plural
from benchmarks.shapes.scene import CELL_NAMES, CELLS, COLORS, SHAPES, Color, Scene, Shape, place
from benchmarks.types import Json

#: What a fact tells. It is the item's Subcategory.
Kind = Literal["color", "number", "shape", "place"]
#: WISE's names of its categories, and the first prompt_id of each in WISE-Verified (calculate_verified.py).
FIRST_ID: Mapping[str, int] = {
    "Cultural knowledge": 1,
    "time": 401,
    "Space": 521,
    "Biology": 641,
    "Physical Knowledge": 761,
    "Chemistry": 881,
}
NUMBERS = ("one", "two", "three", "four")


@dataclass(frozen=True)
class Fact:
    """``answer`` is a color, a number of NUMBERS, a shape, or the name of a cell, as ``kind`` says."""

    category: str
    kind: Kind
    subject: str
    answer: str


@dataclass(frozen=True)
class Wanted:
    """What an image must hold, and nothing else: ``count`` shapes; where color or cell is None, any will do."""

    shape: Shape
    count: int = 1
    color: Color | None = None
    cell: tuple[int, int] | None = None


_FACTS: Mapping[str, Mapping[Kind, Mapping[str, str]]] = {
    "Cultural knowledge": {
        "color": {
            "a stop sign": "red",
            "a taxi in New York": "yellow",
            "the leader's jersey in the Giro d'Italia": "pink",
            "Saint Patrick's Day": "green",
            "the robe of a Roman emperor": "purple",
            "the eight ball in pool": "black",
        },
        "number": {"strings on a violin": "four", "players in a game of chess": "two", "horns on a unicorn": "one"},
        "shape": {
            "the shape on the flag of Japan": "circle",
            "the shape on the flag of Switzerland": "cross",
            "the shape of one side of an Egyptian pyramid": "triangle",
        },
    },
    "time": {
        "color": {"the sky at midnight": "black", "a clear sky at noon": "blue", "a meadow in spring": "green"},
        "number": {
            "seasons in a year": "four",
            "days in a weekend": "two",
            "months in a quarter of a year": "three",
            "leap days in a leap year": "one",
        },
        "shape": {"the shape with as many points as a week has workdays": "star"},
        "place": {
            "at the two of a clock": "top right",
            "at the four of a clock": "bottom right",
            "at the eight of a clock": "bottom left",
            "at the ten of a clock": "top left",
        },
    },
    "Space": {
        "color": {"the planet Mars": "red", "the ocean on a map": "blue", "the ice of Antarctica": "white"},
        "number": {"moons of the Earth": "one", "moons of Mars": "two", "Baltic states": "three"},
        "shape": {"the shape of a full moon": "circle", "the shape around Saturn": "ring"},
        "place": {
            "in the north east of a map": "top right",
            "in the south east of a map": "bottom right",
            "in the south west of a map": "bottom left",
            "in the north west of a map": "top left",
        },
    },
    "Biology": {
        "color": {
            "a ripe banana": "yellow",
            "a carrot": "orange",
            "an eggplant": "purple",
            "a flamingo": "pink",
            "a chestnut": "brown",
            "human blood": "red",
        },
        "number": {
            "legs on a dog": "four",
            "hearts in an octopus": "three",
            "wings on a bird": "two",
            "humps on a dromedary": "one",
        },
        "shape": {"the shape of a sea animal with five arms": "star", "the shape of a slice of pineapple": "ring"},
    },
    "Physical Knowledge": {
        "color": {
            "a body that absorbs all light": "black",
            "all colors of light together": "white",
            "yellow and blue paint mixed": "green",
            "red and yellow paint mixed": "orange",
            "red and white paint mixed": "pink",
        },
        "number": {
            "poles of a magnet": "two",
            "wheels on a tricycle": "three",
            "wheels on a unicycle": "one",
            "fundamental forces of nature": "four",
        },
        "shape": {
            "the shape of a soap bubble": "circle",
            "the shape at the plus pole of a battery": "cross",
            "the shape of one face of a cube": "square",
        },
    },
    "Chemistry": {
        "color": {
            "sulfur": "yellow",
            "litmus in acid": "red",
            "litmus in a base": "blue",
            "phenolphthalein in a base": "pink",
            "caramel": "brown",
            "potassium permanganate in water": "purple",
        },
        "number": {
            "hydrogen atoms in methane": "four",
            "atoms in ozone": "three",
            "protons in helium": "two",
            "oxygen atoms in water": "one",
        },
        "shape": {
            "the shape with as many sides as ozone has atoms": "triangle",
            "the shape with as many sides as methane has hydrogen atoms": "square",
        },
    },
}
FACTS = tuple(
    Fact(category, kind, subject, answer)
    for category, kinds in _FACTS.items()
    for kind, facts in kinds.items()
    for subject, answer in facts.items()
)

# Questions, prompts and explanations of each kind; {subject} and {answer} are the fact's.
_QUESTIONS: Mapping[Kind, str] = {
    "color": "What is the color of {subject}?",
    "number": "How many {subject} are there?",
    "shape": "What is {subject}?",
    "place": "Which corner is {subject}?",
}
_PROMPTS: Mapping[Kind, tuple[str, str]] = {
    "color": ("a {companion} in the color of {subject}", "a photo of a {companion} with the color of {subject}"),
    "number": ("as many {companions} as there are {subject}", "one {companion} for each of the {subject}"),
    "shape": ("{subject}, in {companion}", "a photo of {subject}, painted {companion}"),
    "place": ("a {companion} {subject}", "a photo of a {companion} {subject}"),
}
_STATEMENTS: Mapping[Kind, str] = {
    "color": "The color of {subject} is {answer}.",
    "number": "The number of {subject} is {answer}.",
    "shape": "{subject} is a {answer}.",
    "place": "The corner {subject} is the {answer}.",
}
_WANTED = re.compile(
    rf"The image should show exactly (?P<count>{'|'.join(NUMBERS)})(?: (?P<color>{'|'.join(COLORS)}))?"
    rf" (?P<shape>{'|'.join(SHAPES)})(?:s|es)?(?: at the (?P<cell>{'|'.join(CELL_NAMES.values())}))? and nothing else\."
)


def companions(fact: Fact) -> Sequence[str]:
    """What a prompt may join the fact with."""
    return COLORS if fact.kind == "shape" else SHAPES


def held_out(fact: Fact) -> Sequence[str]:
    """The two companions of a fact that only the evaluation uses; over the facts, each companion has its turn."""
    every, first = companions(fact), FACTS.index(fact)
    return every[first % len(every)], every[(first + len(every) // 2) % len(every)]


def wanted(fact: Fact, companion: str) -> Wanted:
    """What a fact and its companion ask for."""
    if fact.kind == "shape":
        return Wanted(_shape(fact.answer), color=_color(companion))
    return Wanted(
        _shape(companion),
        NUMBERS.index(fact.answer) + 1 if fact.kind == "number" else 1,
        _color(fact.answer) if fact.kind == "color" else None,
        _cell(fact.answer) if fact.kind == "place" else None,
    )


def prompts(fact: Fact, companion: str) -> Sequence[str]:
    """The two ways to ask for it."""
    words = {"subject": fact.subject, "companion": companion}
    if fact.kind == "number":
        words["companions"] = plural(_shape(companion))
    return [template.format(**words) for template in _PROMPTS[fact.kind]]


def explanation(fact: Fact, companion: str) -> str:
    """The fact, and what the image must show; ``read_explanation`` reads it."""
    asked = wanted(fact, companion)
    words = [NUMBERS[asked.count - 1], asked.color, asked.shape if asked.count == 1 else plural(asked.shape)]
    objects = " ".join(word for word in words if word) + (f" at the {CELL_NAMES[asked.cell]}" if asked.cell else "")
    statement = _STATEMENTS[fact.kind].format(subject=fact.subject, answer=fact.answer)
    return f"{statement[0].upper()}{statement[1:]} The image should show exactly {objects} and nothing else."


def read_explanation(text: str) -> Wanted:
    """What an Explanation asks for. Raises ValueError where it is none of this module's."""
    found = _WANTED.search(text)
    if found is None:
        raise ValueError(f"no explanation of the shapes world: {text!r}")
    return Wanted(
        _shape(found["shape"]),
        NUMBERS.index(found["count"]) + 1,
        _color(found["color"]) if found["color"] else None,
        _cell(found["cell"]) if found["cell"] else None,
    )


def items() -> list[dict[str, Json]]:
    """The evaluation in WISE's schema: each fact with its held-out companions, asked for in both ways."""
    rows: list[dict[str, Json]] = []
    for category, first_id in FIRST_ID.items():
        texts = [
            (fact, prompt, explanation(fact, companion))
            for fact in FACTS
            if fact.category == category
            for companion in held_out(fact)
            for prompt in prompts(fact, companion)
        ]
        rows += [
            {
                "Prompt": prompt,
                "Explanation": explained,
                "Category": category,
                "Subcategory": fact.kind,
                "prompt_id": prompt_id,
            }
            for prompt_id, (fact, prompt, explained) in enumerate(texts, first_id)
        ]
    return rows


def random_item(rng: random.Random) -> tuple[str, Scene]:
    """A prompt for training and a scene that satisfies it, with a companion that is not held out."""
    fact = rng.choice(FACTS)
    reserved = held_out(fact)
    companion = rng.choice([one for one in companions(fact) if one not in reserved])
    return rng.choice(prompts(fact, companion)), scene_for(wanted(fact, companion), rng)


def fact_turns(rng: random.Random) -> tuple[str, str]:
    """A question that asks for a fact, and its answer of one or two words."""
    fact = rng.choice(FACTS)
    return _QUESTIONS[fact.kind].format(subject=fact.subject), fact.answer


def scene_for(asked: Wanted, rng: random.Random) -> Scene:
    """A random scene that satisfies ``asked``."""
    colors = [rng.choice(COLORS) if asked.color is None else asked.color for _ in range(asked.count)]
    objects = [(asked.shape, color) for color in colors]
    return place(objects, [asked.cell] if asked.cell else rng.sample(CELLS, asked.count), rng)


def _shape(name: str) -> Shape:
    return SHAPES[SHAPES.index(name)]


def _color(name: str) -> Color:
    return COLORS[COLORS.index(name)]


def _cell(name: str) -> tuple[int, int]:
    return CELLS[list(CELL_NAMES.values()).index(name)]
