"""Questions about scenes of the shapes world, each with wrong answers beside the right one.

A maker draws a scene in which its question has exactly one answer, and that answer can be read from the image.
The rows of understanding.py are these questions in each benchmark's own form; they stand for the benchmark's
kinds of question as closely as shapes and words can: a named shape for a celebrity, a map's corner for a landmark.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from benchmarks.shapes.geneval import RELATIONS, plural, position, scene_for
from benchmarks.shapes.scene import (
    CELL,
    CELL_NAMES,
    CELLS,
    COLORS,
    LETTER,
    SHAPES,
    Color,
    Object,
    Scene,
    Shape,
    Text,
    place,
)
from benchmarks.shapes.vqa import described

#: Every word fits into a cell.
WORDS = ("STOP", "EXIT", "OPEN", "TAXI", "BUS", "ZOO", "CAFE", "HOTEL", "TOUR", "SALE", "LIFT", "GATE")
NAMES = ("TOM", "EVA", "LIN", "OTTO", "RUTH", "IGOR")
GOODS = ("TEA", "CAKE", "SOUP", "RICE", "FISH")
#: German words and what they mean.
GERMAN = {"ROT": "red", "HAUS": "house", "HUND": "dog", "BROT": "bread", "ZUG": "train", "TISCH": "table"}
#: Colors that stand out from the grey canvas in lines of one pixel.
INKS: tuple[Color, ...] = ("red", "yellow", "blue", "black", "white")
#: Only of shapes about which there can be no doubt.
CORNERS: dict[Shape, int] = {"circle": 0, "triangle": 3, "square": 4, "cross": 12}
#: What a driver does at a light, and what not.
LIGHTS: dict[Color, tuple[str, tuple[str, ...]]] = {
    "red": ("stop", ("drive on", "speed up", "turn around")),
    "green": ("drive on", ("stop", "wait", "turn around")),
}
#: Rows of pixels from a cell's upper edge to its letters.
MARGIN = (CELL - LETTER[1]) // 2
COMPASS = dict(zip(CELLS, ("north-west", "north-east", "south-west", "south-east"), strict=True))


@dataclass(frozen=True)
class Item:
    """A question about a scene, its answer, and the wrong answers that a guesser may take for it, three or more.

    ``claim`` has a place for an answer and asks whether that one is right. A question that is only asked openly has
    neither.
    """

    scene: Scene
    question: str
    answer: str
    wrong: tuple[str, ...] = ()
    claim: str = ""


Maker = Callable[[random.Random], Item]


def presence(rng: random.Random) -> Item:
    """What is absent shares a shape or a color with what is there, as in VQAv2's questions."""
    scene = unlike(rng.randint(1, 3), rng)
    present = [described(item.color, item.shape) for item in scene.objects]
    shapes, colors = ({getattr(item, kind) for item in scene.objects} for kind in ("shape", "color"))
    like = [described(color, shape) for shape in SHAPES for color in COLORS if (shape in shapes) != (color in colors)]
    answer, absent = rng.choice(present), tuple(rng.sample(like, 5))
    return Item(scene, "Which shape is in the image?", answer, absent, "Is there {} in this image?")


def color(rng: random.Random) -> Item:
    scene = unlike(rng.randint(1, 4), rng)
    item = rng.choice(scene.objects)
    question = f"What color is the {item.shape}?"
    return Item(scene, question, item.color, _without(item.color, COLORS), f"Is the {item.shape} {{}}?")


def shape(rng: random.Random) -> Item:
    scene = unlike(rng.randint(1, 4), rng)
    item = rng.choice(scene.objects)
    question = f"What shape is the {item.color} object?"
    return Item(scene, question, item.shape, _without(item.shape, SHAPES), f"Is the {item.color} object a {{}}?")


def count_shape(rng: random.Random) -> Item:
    """One to four of a kind, and perhaps other shapes."""
    number = rng.randint(1, 4)
    kind, *others = rng.sample(SHAPES, 1 + rng.randint(0, 4 - number))
    items = [(name, rng.choice(COLORS)) for name in [kind] * number + others]
    scene = place(items, rng.sample(CELLS, len(items)), rng)
    question = f"How many {plural(kind)} are there?"
    return Item(scene, question, str(number), _without(str(number), "1234"), f"Is the number of {plural(kind)} {{}}?")


def count_all(rng: random.Random) -> Item:
    number = rng.randint(1, 4)
    scene = unlike(number, rng)
    wrong = _without(str(number), "1234")
    return Item(scene, "How many shapes are there?", str(number), wrong, "Is the number of shapes {}?")


def where(rng: random.Random) -> Item:
    scene = unlike(rng.randint(1, 4), rng)
    item = rng.choice(scene.objects)
    answer = CELL_NAMES[item.cell]
    wrong = _without(answer, CELL_NAMES.values())
    return Item(scene, f"Where in the image is the {_name(item)}?", answer, wrong, f"Is the {_name(item)} at the {{}}?")


def relation(rng: random.Random) -> Item:
    answer = rng.choice(tuple(RELATIONS))
    (placed, reference), colors = rng.sample(SHAPES, 2), rng.sample(COLORS, 2)
    asked = position(placed, answer, reference)
    for entry, color in zip(asked["include"], colors, strict=True):
        entry["color"] = color
    scene = scene_for(asked, rng)
    other, thing = map(_name, scene.objects)
    answers = {name: f"{name} the {other}" for name in RELATIONS}
    wrong = _without(answers[answer], answers.values())
    return Item(scene, f"Where is the {thing}?", answers[answer], wrong, f"Is the {thing} {{}}?")


def on_map(rng: random.Random) -> Item:
    scene = unlike(rng.randint(2, 4), rng)
    item = rng.choice(scene.objects)
    corner = COMPASS[item.cell]
    question = f"The image is a map with north at the top. Which shape is in the {corner}?"
    claim = f"The image is a map with north at the top. Is the shape in the {corner} a {{}}?"
    return Item(scene, question, item.shape, _without(item.shape, SHAPES), claim)


def same_color(rng: random.Random) -> Item:
    shapes = rng.sample(SHAPES, 4)
    shared, *others = rng.sample(COLORS, 3)
    scene = place(list(zip(shapes, [shared, shared, *others], strict=True)), rng.sample(CELLS, 4), rng)
    pairs = [f"{a} and {b}" for a in shapes for b in shapes if shapes.index(a) < shapes.index(b)]
    claim = "Do the {} have the same color?"
    return Item(scene, "Which two shapes have the same color?", pairs[0], tuple(pairs[1:]), claim)


def main_color(rng: random.Random) -> Item:
    number = rng.randint(3, 4)
    main, *others = rng.sample(COLORS, 1 + rng.randint(1, number - 2))
    colors = [main] * (number - len(others)) + others
    items = [(rng.choice(SHAPES), painted) for painted in colors]
    scene = place(items, rng.sample(CELLS, number), rng)
    question = "What is the most frequent color in this painting?"
    return Item(scene, question, main, _without(main, COLORS), "Is {} the most frequent color in this painting?")


def arrangement(rng: random.Random) -> Item:
    scene = unlike(2, rng)
    (row, column), (other_row, other_column) = (item.cell for item in scene.objects)
    answers = ("side by side", "one above the other", "diagonally apart", "one inside the other")
    answer = answers[0] if row == other_row else answers[1] if column == other_column else answers[2]
    question = "How are the two shapes in this scene arranged?"
    return Item(scene, question, answer, _without(answer, answers), "Are the two shapes in this scene {}?")


def corners(rng: random.Random) -> Item:
    """The one shape of a color, among others of any shape."""
    number = rng.randint(1, 4)
    asked = rng.choice(sorted(CORNERS))
    colors = rng.sample(COLORS, number)
    shapes = [asked, *rng.choices(SHAPES, k=number - 1)]
    scene = place(list(zip(shapes, colors, strict=True)), rng.sample(CELLS, number), rng)
    answer = str(CORNERS[asked])
    wrong = _without(answer, map(str, CORNERS.values()))
    question = f"How many corners does the {colors[0]} shape have?"
    return Item(scene, question, answer, wrong, f"Does the {colors[0]} shape have {{}} corners?")


def traffic_light(rng: random.Random) -> Item:
    light: Color = rng.choice(("red", "green"))
    answer, wrong = LIGHTS[light]
    others = rng.sample([shape for shape in SHAPES if shape != "circle"], rng.randint(0, 3))
    items: list[tuple[Shape, Color]] = [("circle", light), *((other, rng.choice(COLORS)) for other in others)]
    scene = place(items, rng.sample(CELLS, len(items)), rng)
    question = "The circle is a traffic light. What should a driver do?"
    return Item(scene, question, answer, wrong, "The circle is a traffic light. Should a driver {}?")


def word(rng: random.Random) -> Item:
    """A word among shapes."""
    scene = _with_words([rng.choice(WORDS)], rng)
    (written,) = (line.text for line in scene.texts)
    question = "What word is written in the image?"
    return Item(scene, question, written, _without(written, WORDS), 'Is the word in the image "{}"?')


def signs(rng: random.Random) -> tuple[Item, Item]:
    """Two words of unlike color among shapes, one asked for by its color, the other by its place."""
    scene = _with_words(rng.sample(WORDS, 2), rng)
    first, second = scene.texts
    cell = CELL_NAMES[second.y // CELL, second.x // CELL]
    return (
        Item(
            scene,
            f"What is the word in {first.color}?",
            first.text,
            _without(first.text, WORDS),
            f'Is the word in {first.color} "{{}}"?',
        ),
        Item(
            scene,
            f"What does the sign at the {cell} say?",
            second.text,
            _without(second.text, WORDS),
            f'Does the sign at the {cell} say "{{}}"?',
        ),
    )


def colored_word(rng: random.Random) -> Item:
    return signs(rng)[0]


def sign(rng: random.Random) -> Item:
    return signs(rng)[1]


def title(rng: random.Random) -> Item:
    """A poster: its title, a shape below it, and another word at the foot."""
    top, foot = rng.sample(WORDS, 2)
    picture = unlike(1, rng, [(1, rng.randint(0, 1))])
    free = 1 - picture.objects[0].cell[1]
    scene = Scene(picture.objects, (_line(top, 0, rng), _in_cell(foot, rng.choice(INKS), (1, free))))
    question = "What is the title at the top of this poster?"
    return Item(scene, question, top, _without(top, WORDS), 'Is the title at the top of this poster "{}"?')


def name(rng: random.Random) -> Item:
    """Two shapes with their names below them."""
    shapes = unlike(2, rng, [(0, 0), (0, 1)])
    names = rng.sample(NAMES, 2)
    tags = [_in_cell(tag, rng.choice(INKS), (1, column)) for column, tag in enumerate(names)]
    column = rng.randint(0, 1)
    asked = _name(shapes.objects[column])
    question = f"What is the name below the {asked}?"
    claim = f"The name of a shape is below it. Is the {asked} called {{}}?"
    return Item(Scene(shapes.objects, tuple(tags)), question, names[column], _without(names[column], NAMES), claim)


def price(rng: random.Random) -> Item:
    scene, prices = _menu(rng)
    asked = rng.choice(sorted(prices))
    answer = str(prices[asked])
    wrong = _without(answer, "123456789")
    return Item(scene, f"What is the price of {asked}?", answer, wrong, f"Is the price of {asked} {{}}?")


def total(rng: random.Random) -> Item:
    scene, prices = _menu(rng)
    one, other = rng.sample(sorted(prices), 2)
    answer = prices[one] + prices[other]
    question = f"What do {one} and {other} cost together?"
    return Item(
        scene,
        question,
        str(answer),
        _without(str(answer), _numbers(3, 17)),
        f"Do {one} and {other} cost {{}} together?",
    )


def calculation(rng: random.Random) -> Item:
    left, right = rng.randint(10, 60), rng.randint(2, 39)
    scene = Scene((), (_line(f"{left}+{right}=", 1, rng),))
    question = "What is the result of the calculation in the image?"
    claim = "Is the answer to the arithmetic question in the image {}?"
    answer = str(left + right)
    return Item(scene, question, answer, _without(answer, _numbers(12, 99)), claim)


def code(rng: random.Random) -> Item:
    start, step = rng.randint(2, 9), rng.randint(2, 9)
    scene = Scene((), (_line(f"x={start}", 0, rng), _line(f"print(x+{step})", 1, rng)))
    answer = str(start + step)
    claim = 'The image shows a python code. Is the output of the code "{}"?'
    return Item(scene, "What does this Python code print?", answer, _without(answer, _numbers(4, 18)), claim)


def translation(rng: random.Random) -> Item:
    scene = _with_words([rng.choice(sorted(GERMAN))], rng)
    answer = GERMAN[scene.texts[0].text]
    question = "What does the German word in the image mean in English?"
    claim = 'Is it appropriate to translate the German word in the image into English "{}"?'
    return Item(scene, question, answer, _without(answer, GERMAN.values()), claim)


def description(rng: random.Random) -> Item:
    """Everything in the image, in the form in which MM-Vet lists elements."""
    scene = word(rng).scene
    things = [f"{item.color} {item.shape} at the {CELL_NAMES[item.cell]}" for item in scene.objects]
    things += [f"the word {line.text}" for line in scene.texts]
    question = "Describe the image: every shape with its color and place, and the word."
    return Item(scene, question, "<AND>".join(things))


def any_shape(rng: random.Random) -> Item:
    """Any of the answers is right, in the form in which MM-Vet writes that."""
    scene = presence(rng).scene
    return Item(scene, "Name one shape in the image.", "<OR>".join(item.shape for item in scene.objects))


def _name(item: Object) -> str:
    """By its color too: the toy model finds a thing by that, and by shape alone it does not."""
    return f"{item.color} {item.shape}"


def _without(answer: str, answers: Iterable[str]) -> tuple[str, ...]:
    return tuple(other for other in answers if other != answer)


def _numbers(low: int, high: int) -> list[str]:
    return [str(number) for number in range(low, high + 1)]


def unlike(number: int, rng: random.Random, cells: Sequence[tuple[int, int]] | None = None) -> Scene:
    """Objects of which no two share a shape or a color, in the given cells or any."""
    items = list(zip(rng.sample(SHAPES, number), rng.sample(COLORS, number), strict=True))
    return place(items, cells or rng.sample(CELLS, number), rng)


def _with_words(words: Sequence[str], rng: random.Random) -> Scene:
    """The words, of unlike colors and each in its cell, and shapes in some of the other cells."""
    cells = rng.sample(CELLS, len(CELLS))
    written = zip(words, rng.sample(INKS, len(words)), cells, strict=False)
    free = cells[len(words) :]
    shapes = unlike(number := rng.randint(0, len(free)), rng, free[:number])
    return Scene(shapes.objects, tuple(_in_cell(text, ink, cell) for text, ink, cell in written))


def _menu(rng: random.Random) -> tuple[Scene, dict[str, int]]:
    """Three goods, one to a line, and their prices, all unlike."""
    prices = dict(zip(rng.sample(GOODS, 3), rng.sample(range(1, 10), 3), strict=True))
    ink = rng.choice(INKS)
    lines = [Text(f"{good:<6}{cost}", ink, 6, 6 + 19 * row) for row, (good, cost) in enumerate(prices.items())]
    return Scene((), tuple(lines)), {good.lower(): cost for good, cost in prices.items()}


def _in_cell(text: str, ink: Color, cell: tuple[int, int]) -> Text:
    """Always at the same place of a cell: a small model learns to read letters of one pixel's width only there."""
    row, column = cell
    return Text(text, ink, column * CELL + 1, row * CELL + MARGIN)


def _line(text: str, row: int, rng: random.Random) -> Text:
    """Across both cells of a row."""
    return Text(text, rng.choice(INKS), 2, row * CELL + MARGIN)
