"""GenEval in the shapes world: prompts with metadata in GenEval's own schema, and scenes that satisfy them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.shapes.scene import CELLS, COLORS, SHAPES, Color, Scene, Shape, place

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
#: Direction from the reference object to the placed one, as (rows, columns).
RELATIONS = {"left of": (0, -1), "right of": (0, 1), "above": (-1, 0), "below": (1, 0)}
NUMBERS = {2: "two", 3: "three", 4: "four"}

Metadata = dict[str, Any]


def plural(shape: Shape) -> str:
    """GenEval's generator adds s, or es after s (create_prompts.py)."""
    return shape + ("es" if shape.endswith("s") else "s")


def single_object(shape: Shape) -> Metadata:
    return {
        "tag": "single_object",
        "include": [{"class": shape, "count": 1}],
        "prompt": f"a photo of a {shape}",
    }


def two_object(first: Shape, second: Shape) -> Metadata:
    return {
        "tag": "two_object",
        "include": [{"class": first, "count": 1}, {"class": second, "count": 1}],
        "prompt": f"a photo of a {first} and a {second}",
    }


def counting(shape: Shape, count: int) -> Metadata:
    return {
        "tag": "counting",
        "include": [{"class": shape, "count": count}],
        "exclude": [{"class": shape, "count": count + 1}],
        "prompt": f"a photo of {NUMBERS[count]} {plural(shape)}",
    }


def colors(shape: Shape, color: Color) -> Metadata:
    article = "an" if color == "orange" else "a"
    return {
        "tag": "colors",
        "include": [{"class": shape, "count": 1, "color": color}],
        "prompt": f"a photo of {article} {color} {shape}",
    }


def position(placed: Shape, relation: str, reference: Shape) -> Metadata:
    """The reference object comes first, the placed one carries the relation (specs of GenEval's metadata)."""
    return {
        "tag": "position",
        "include": [
            {"class": reference, "count": 1},
            {"class": placed, "count": 1, "position": [relation, 0]},
        ],
        "prompt": f"a photo of a {placed} {relation} a {reference}",
    }


def color_attr(first: tuple[Shape, Color], second: tuple[Shape, Color]) -> Metadata:
    described = [f"{'an' if color == 'orange' else 'a'} {color} {shape}" for shape, color in (first, second)]
    return {
        "tag": "color_attr",
        "include": [{"class": shape, "count": 1, "color": color} for shape, color in (first, second)],
        "prompt": f"a photo of {described[0]} and {described[1]}",
    }


def random_metadata(tag: str, rng: random.Random) -> Metadata:
    """One prompt of a tag. Classes of a prompt differ, as in GenEval."""
    first, second = rng.sample(SHAPES, 2)
    if tag == "single_object":
        return single_object(first)
    if tag == "two_object":
        return two_object(first, second)
    if tag == "counting":
        return counting(first, rng.choice(tuple(NUMBERS)))
    if tag == "colors":
        return colors(first, rng.choice(COLORS))
    if tag == "position":
        return position(first, rng.choice(tuple(RELATIONS)), second)
    if tag == "color_attr":
        one, two = rng.sample(COLORS, 2)
        return color_attr((first, one), (second, two))
    raise ValueError(f"unknown tag {tag!r}; one of {', '.join(TAGS)}")


def prompts(per_tag: int, seed: int = 43) -> list[Metadata]:
    """Up to ``per_tag`` distinct prompts of each tag, tags in GenEval's order; fewer where the world has no more.

    The seed is that of GenEval's own generator.
    """
    chosen: list[Metadata] = []
    for tag in TAGS:
        rng = random.Random(f"{seed}/{tag}")
        distinct: dict[str, Metadata] = {}
        for _ in range(200 * per_tag):
            metadata = random_metadata(tag, rng)
            distinct.setdefault(metadata["prompt"], metadata)
            if len(distinct) == per_tag:
                break
        chosen.extend(distinct.values())
    return chosen


def scene_for(metadata: Mapping[str, Any], rng: random.Random) -> Scene:
    """A random scene that satisfies the metadata and holds nothing else; colors that are not asked for are free."""
    include: Sequence[Mapping[str, Any]] = metadata["include"]
    items = [
        (entry["class"], entry.get("color") or rng.choice(COLORS)) for entry in include for _ in range(entry["count"])
    ]
    placed = next((entry for entry in include if "position" in entry), None)
    if placed is None:
        return place(items, rng.sample(CELLS, len(items)), rng)
    rows, columns = RELATIONS[placed["position"][0]]
    pairs = [((r, c), (r + rows, c + columns)) for r, c in CELLS if (r + rows, c + columns) in CELLS]
    return place(items, rng.choice(pairs), rng)
