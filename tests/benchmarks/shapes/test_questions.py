"""Questions of the shapes world: each is answered again here, from the scene alone."""

from __future__ import annotations

import contextlib
import io
import random
import re
from collections import Counter
from collections.abc import Callable

import pytest

from benchmarks.shapes import questions
from benchmarks.shapes.questions import Item, Maker
from benchmarks.shapes.scene import Object, Scene, Text

MAKERS: tuple[Maker, ...] = (
    questions.presence,
    questions.color,
    questions.shape,
    questions.count_shape,
    questions.count_all,
    questions.where,
    questions.relation,
    questions.on_map,
    questions.same_color,
    questions.main_color,
    questions.arrangement,
    questions.corners,
    questions.traffic_light,
    questions.word,
    questions.colored_word,
    questions.sign,
    questions.title,
    questions.name,
    questions.price,
    questions.total,
    questions.calculation,
    questions.code,
    questions.translation,
)
GERMAN = {"ROT": "red", "HAUS": "house", "HUND": "dog", "BROT": "bread", "ZUG": "train", "TISCH": "table"}


def middle(thing: Object | Text) -> tuple[float, float]:
    left, top, right, bottom = thing.box
    return (left + right) / 2, (top + bottom) / 2


def corner(thing: Object | Text) -> str:
    x, y = middle(thing)
    return f"{'top' if y < 32 else 'bottom'} {'left' if x < 32 else 'right'}"


def of_shape(scene: Scene, shape: str) -> Object:
    (only,) = (item for item in scene.objects if item.shape == shape)
    return only


def of_color(scene: Scene, color: str) -> Object:
    (only,) = (item for item in scene.objects if item.color == color)
    return only


def in_corner(scene: Scene, compass: str) -> Object:
    wanted = compass.replace("north-", "top ").replace("south-", "bottom ").replace("west", "left")
    (only,) = (item for item in scene.objects if corner(item) == wanted.replace("east", "right"))
    return only


def named(scene: Scene, color: str, shape: str) -> Object:
    """The only one of its color, which has that shape."""
    only = of_color(scene, color)
    assert only.shape == shape
    return only


def relations(scene: Scene, color: str, shape: str) -> set[str]:
    thing = named(scene, color, shape)
    (other,) = (item for item in scene.objects if item != thing)
    (x, y), (other_x, other_y) = middle(thing), middle(other)
    name = f"{other.color} {other.shape}"
    if corner(thing).split()[0] == corner(other).split()[0]:
        return {f"{'left' if x < other_x else 'right'} of the {name}"}
    return {f"{'above' if y < other_y else 'below'} the {name}"}


def same_color(scene: Scene) -> set[str]:
    alike = [item for item in scene.objects if sum(item.color == other.color for other in scene.objects) == 2]
    (one, other) = (item.shape for item in alike)
    return {f"{one} and {other}", f"{other} and {one}"}


def arrangement(scene: Scene) -> set[str]:
    (row, column), (other_row, other_column) = (corner(item).split() for item in scene.objects)
    if row == other_row:
        return {"side by side"}
    return {"one above the other"} if column == other_column else {"diagonally apart"}


def light(scene: Scene) -> set[str]:
    return {"red": {"stop", "wait"}, "green": {"drive on", "speed up"}}[of_shape(scene, "circle").color]


def below(scene: Scene, color: str, shape: str) -> set[str]:
    x, _ = middle(named(scene, color, shape))
    return {min(scene.texts, key=lambda line: abs(middle(line)[0] - x)).text}


def menu(scene: Scene) -> dict[str, int]:
    return {good.lower(): int(cost) for good, cost in (line.text.split() for line in scene.texts)}


def calculated(scene: Scene) -> set[str]:
    left, right = scene.texts[0].text.removesuffix("=").split("+")
    return {str(int(left) + int(right))}


def printed(scene: Scene) -> set[str]:
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec("\n".join(line.text for line in scene.texts), {})
    return {output.getvalue().strip()}


#: A question and what is true of a scene.
TRUTHS: dict[str, Callable[..., set[str]]] = {
    r"Which shape is in the image\?": lambda scene: {
        f"{'an' if item.color == 'orange' else 'a'} {item.color} {item.shape}" for item in scene.objects
    },
    r"What color is the (\w+)\?": lambda scene, shape: {of_shape(scene, shape).color},
    r"What shape is the (\w+) object\?": lambda scene, color: {of_color(scene, color).shape},
    r"How many shapes are there\?": lambda scene: {str(len(scene.objects))},
    r"How many (\w+?)(?:es|s)? are there\?": lambda scene, shape: {
        str(sum(item.shape in (shape, f"{shape}e") for item in scene.objects))
    },
    r"Where in the image is the (\w+) (\w+)\?": lambda scene, color, shape: {corner(named(scene, color, shape))},
    r"Where is the (\w+) (\w+)\?": relations,
    r"The image is a map with north at the top\. Which shape is in the (\S+)\?": lambda scene, compass: {
        in_corner(scene, compass).shape
    },
    r"Which two shapes have the same color\?": same_color,
    r"What is the most frequent color in this painting\?": lambda scene: {
        Counter(item.color for item in scene.objects).most_common(1)[0][0]
    },
    r"How are the two shapes in this scene arranged\?": arrangement,
    r"How many corners does the (\w+) shape have\?": lambda scene, color: {
        {"circle": "0", "triangle": "3", "square": "4", "cross": "12"}[of_color(scene, color).shape]
    },
    r"The circle is a traffic light\. What should a driver do\?": light,
    r"What word is written in the image\?": lambda scene: {line.text for line in scene.texts},
    r"What is the word in (\w+)\?": lambda scene, color: {line.text for line in scene.texts if line.color == color},
    r"What does the sign at the (\w+ \w+) say\?": lambda scene, place: {
        line.text for line in scene.texts if corner(line) == place
    },
    r"What is the title at the top of this poster\?": lambda scene: {
        line.text for line in scene.texts if middle(line)[1] < 32
    },
    r"What is the name below the (\w+) (\w+)\?": below,
    r"What is the price of (\w+)\?": lambda scene, good: {str(menu(scene)[good])},
    r"What do (\w+) and (\w+) cost together\?": lambda scene, one, other: {str(menu(scene)[one] + menu(scene)[other])},
    r"What is the result of the calculation in the image\?": calculated,
    r"What does this Python code print\?": printed,
    r"What does the German word in the image mean in English\?": lambda scene: {GERMAN[scene.texts[0].text]},
}


def drawn(maker: Maker, number: int = 150) -> list[Item]:
    return [maker(random.Random(f"{maker.__name__}/{seed}")) for seed in range(number)]


def truths(item: Item) -> set[str]:
    for pattern, answers in TRUTHS.items():
        if match := re.fullmatch(pattern, item.question):
            return answers(item.scene, *match.groups())
    raise AssertionError(f"no one knows: {item.question}")


@pytest.mark.parametrize("maker", MAKERS)
def test_the_answer_and_no_wrong_answer_is_true_of_the_scene(maker: Maker) -> None:
    for item in drawn(maker):
        true = truths(item)
        assert item.answer in true
        assert not true & set(item.wrong)
        assert len({item.answer, *item.wrong}) == 1 + len(item.wrong) >= 4
        assert item.claim.format(item.answer) != item.claim.format(item.wrong[0])


@pytest.mark.parametrize("maker", MAKERS)
def test_a_maker_gives_many_answers_and_the_seed_decides(maker: Maker) -> None:
    items = drawn(maker)
    assert items == drawn(maker)
    assert max(Counter(item.answer for item in items).values()) < 0.65 * len(items)


@pytest.mark.parametrize("maker", MAKERS)
def test_shapes_and_words_lie_on_the_canvas_and_apart(maker: Maker) -> None:
    for item in drawn(maker):
        boxes = [thing.box for thing in item.scene.objects]
        boxes += [(left - 1, top, right, bottom) for left, top, right, bottom in (t.box for t in item.scene.texts)]
        for i, (left, top, right, bottom) in enumerate(boxes):
            assert min(left, top) >= 0
            assert max(right, bottom) <= 64
            assert all(
                left >= right_ or right <= left_ or top >= bottom_ or bottom <= top_
                for left_, top_, right_, bottom_ in boxes[:i]
            )


def test_elements_and_alternatives_of_an_open_answer() -> None:
    for item in drawn(questions.description, 20):
        things = {f"{thing.color} {thing.shape} at the {corner(thing)}" for thing in item.scene.objects}
        assert set(item.answer.split("<AND>")) == things | {f"the word {line.text}" for line in item.scene.texts}
    for item in drawn(questions.any_shape, 20):
        assert set(item.answer.split("<OR>")) == {thing.shape for thing in item.scene.objects}


def test_what_is_absent_shares_a_shape_or_a_color_with_what_is_there() -> None:
    for item in drawn(questions.presence):
        here = {(thing.color, thing.shape) for thing in item.scene.objects}
        for absent in item.wrong:
            color, shape = absent.split()[1:]
            assert (color, shape) not in here
            assert any((color == c) != (shape == s) for c, s in here)
