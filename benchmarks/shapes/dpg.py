"""DPG-Bench in the shapes world: dense captions of scenes, with questions in the nine columns of dpg_bench.csv.

Questions depend on each other as in DPG-Bench: an attribute or a relation on the entities that it is about. They are
meant existentially: "Is the red circle small?" asks for one red circle that is.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Literal, TypeAlias

from benchmarks.shapes.geneval import NUMBERS, RELATIONS, plural
from benchmarks.shapes.scene import CELL_NAMES, CELLS, COLORS, SHAPES, SIZES, Color, Object, Scene, Shape, place

#: The columns of dpg_bench.csv, in its order.
COLUMNS = (
    "item_id",
    "text",
    "keywords",
    "proposition_id",
    "dependency",
    "category_broad",
    "category_detailed",
    "tuple",
    "question_natural_language",
)
#: One question: a value for each of COLUMNS.
Row: TypeAlias = dict[str, str]
Broad = Literal["entity", "attribute", "relation", "other", "global"]
Size = Literal["small", "large"]
#: A caption tells the size of the smallest and the largest objects only, so that a pixel more or less decides nothing.
SIZE_WORDS: dict[int, Size] = {SIZES[0]: "small", SIZES[-1]: "large"}
#: Words for the directions of RELATIONS.
RELATION_WORDS = {"left of": "to the left of", "right of": "to the right of", "above": "above", "below": "below"}
WORDS = (8, 40)  # fewest and most words of a caption
SEED = 77
_ID = "shapes"


@dataclass(frozen=True)
class _Group:
    """The objects of one shape and color, and what the caption says of them."""

    objects: tuple[Object, ...]
    size: Size | None = None
    cell: tuple[int, int] | None = None
    relation: str = ""
    other: Object | None = None  # what it is ``relation`` to

    @property
    def first(self) -> Object:
        return self.objects[0]


def random_item(rng: random.Random) -> tuple[str, Scene, list[Row]]:
    """A caption of 8 to 40 words, the scene that it describes, and its questions, all answered by yes.

    The rows' ``item_id`` is empty.
    """
    while True:
        scene = _scene(rng)
        groups = _groups(scene, rng)
        number = len(scene.objects) if rng.random() < 0.5 else None
        color = _common_color(scene)
        text = _caption(groups, number, color)
        if WORDS[0] <= len(text.split()) <= WORDS[1]:
            return text, scene, _questions(text, groups, number, color, rng)


def rows(prompts: int = 200) -> list[Row]:
    """The evaluation set: the questions of ``prompts`` distinct captions, one block for each."""
    table: list[Row] = []
    seen: set[str] = set()
    for number in count():
        if len(seen) == prompts:
            return table
        text, _, questions = _item(number)
        if text not in seen:
            seen.add(text)
            table += [{**row, "item_id": f"{_ID}{number:04}"} for row in questions]
    raise AssertionError("count() does not end")


def scene_for(item_id: str) -> Scene:
    """The scene that the caption of an item of ``rows`` describes."""
    return _item(int(item_id.removeprefix(_ID)))[1]


def _item(number: int) -> tuple[str, Scene, list[Row]]:
    return random_item(random.Random(f"dpg/{SEED}/{number}"))


def _scene(rng: random.Random) -> Scene:
    """One to four objects; now and then two of a kind, or all of one color, which chance alone hardly makes."""
    number = rng.choice((1, 2, 2, 3, 3, 3, 4, 4))
    items: list[tuple[Shape, Color]] = [(rng.choice(SHAPES), rng.choice(COLORS)) for _ in range(number)]
    if number > 1 and rng.random() < 0.3:
        items[1] = items[0]
    if number > 1 and rng.random() < 0.2:
        items = [(shape, items[0][1]) for shape, _ in items]
    return place(items, rng.sample(CELLS, number), rng)


def _common_color(scene: Scene) -> Color | None:
    colors = {item.color for item in scene.objects}
    return colors.pop() if len(colors) == 1 and len(scene.objects) > 1 else None


def _groups(scene: Scene, rng: random.Random) -> list[_Group]:
    kinds: dict[tuple[Shape, Color], list[Object]] = {}
    for item in scene.objects:
        kinds.setdefault((item.shape, item.color), []).append(item)
    groups: list[_Group] = []
    for objects in kinds.values():
        alone = len(objects) == 1
        size = SIZE_WORDS.get(objects[0].size) if alone else None
        neighbors = [(r, g.first) for g in groups if len(g.objects) == 1 for r in _relations(objects[0], g.first)]
        if alone and neighbors and rng.random() < 0.6:
            relation, other = rng.choice(neighbors)
            groups.append(_Group(tuple(objects), size, None, relation, other))
        elif alone and (len(kinds) == 1 or rng.random() < 0.75):
            groups.append(_Group(tuple(objects), size, objects[0].cell))
        else:
            groups.append(_Group(tuple(objects), size))
    return groups


def _relations(placed: Object, reference: Object) -> list[str]:
    """How an object lies to another one in the next cell: one relation or none."""
    step = placed.cell[0] - reference.cell[0], placed.cell[1] - reference.cell[1]
    return [RELATION_WORDS[relation] for relation, direction in RELATIONS.items() if direction == step]


def _caption(groups: Sequence[_Group], number: int | None, color: Color | None) -> str:
    opening = "a photo of " if number is None else f"a photo of {_shapes(number)}: "
    *most, last = [_phrase(group) for group in groups]
    listed = f"{', '.join(most)} and {last}" if most else last
    return opening + listed + (f". everything is {color}" if color else "")


def _phrase(group: _Group) -> str:
    if len(group.objects) > 1:
        return _many(group)
    described = with_article(f"{group.size or ''} {_name(group.first)}".strip())
    if group.cell is not None:
        return f"{described} in the {CELL_NAMES[group.cell]}"
    if group.other is not None:
        return f"{described} {group.relation} the {_name(group.other)}"
    return described


def _name(item: Object) -> str:
    return f"{item.color} {item.shape}"


def _many(group: _Group) -> str:
    return f"{NUMBERS[len(group.objects)]} {group.first.color} {plural(group.first.shape)}"


def _shapes(number: int) -> str:
    return "one shape" if number == 1 else f"{NUMBERS[number]} shapes"


def with_article(words: str) -> str:
    """ "a" or "an" before ``words``."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


@dataclass
class _Questions:
    """The rows of one item as they grow. ``entities`` is the proposition that asks for an object."""

    text: str
    rows: list[Row] = field(default_factory=list)
    entities: dict[Object, int] = field(default_factory=dict)

    def add(self, parents: Sequence[int], broad: Broad, detailed: str, about: str, question: str) -> int:
        """The new row's proposition id."""
        number = len(self.rows) + 1
        kind = f"{broad} - {detailed}".strip()
        dependency = ",".join(map(str, parents or (0,)))
        values = ("", self.text, "", str(number), dependency, broad, detailed, f"{kind} ({about})", question)
        self.rows.append(dict(zip(COLUMNS, values, strict=True)))
        return number

    def add_group(self, group: _Group, shape_first: bool) -> None:
        """Of shape and color one is the thing, the other its attribute."""
        item, name = group.first, _name(group.first)
        if shape_first:
            entity = self.add((), "entity", "whole", item.shape, f"Is there {with_article(item.shape)}?")
            about = f"{item.shape}, {item.color}"
            self.add([entity], "attribute", "color", about, f"Is there {with_article(name)}?")
        else:
            thing = f"{item.color} object"
            entity = self.add((), "entity", "whole", thing, f"Is there {with_article(thing)}?")
            about = f"{thing}, {item.shape}"
            self.add([entity], "attribute", "shape", about, f"Is the {thing} {with_article(item.shape)}?")
        self.entities[item] = entity
        if len(group.objects) > 1:
            self.add([entity], "other", "count", f"{name}, =={len(group.objects)}", f"Are there {_many(group)}?")
        if group.size is not None:
            self.add([entity], "attribute", "size", f"{name}, {group.size}", f"Is the {name} {group.size}?")
        if group.cell is not None:
            cell = CELL_NAMES[group.cell]
            self.add([entity], "relation", "spatial", f"{name}, {cell}", f"Is the {name} in the {cell}?")
        if group.other is not None:
            other, parents = _name(group.other), [entity, self.entities[group.other]]
            about = f"{name}, {other}, {group.relation}"
            self.add(parents, "relation", "spatial", about, f"Is the {name} {group.relation} the {other}?")


def _questions(
    text: str, groups: Sequence[_Group], number: int | None, color: Color | None, rng: random.Random
) -> list[Row]:
    questions = _Questions(text)
    if number is not None:
        verb = "Is" if number == 1 else "Are"
        questions.add((), "other", "count", f"shapes, =={number}", f"{verb} there {_shapes(number)}?")
    for group in groups:
        questions.add_group(group, shape_first=rng.random() < 0.7)
    if color is not None:
        questions.add((), "global", "", f"everything, {color}", f"Is everything {color}?")
    return questions.rows
