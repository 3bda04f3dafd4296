"""What the toy judges see, and what they answer from it."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from PIL import Image

from benchmarks.shapes.dpg import Size
from benchmarks.shapes.looking import Looker, Seen, ShapesVqa, exact, held_out, replies_to
from benchmarks.shapes.scene import CELLS, Color, Object, Scene, Shape, random_scene, render
from benchmarks.types import JudgeError


def seen_exactly(scene: Scene) -> list[Seen]:
    """What a judge without fault sees."""
    found = []
    for item in scene.objects:
        left, top, right, bottom = item.box
        size: Size = "small" if item.size <= 22 else "large"
        found.append(Seen(item.shape, item.color, size, item.cell, (left, top, right, bottom), 1.0))
    return found


def seen(*objects: tuple[Shape, Color, int, int]) -> list[Seen]:
    """Shape, color, size and cell (in reading order) of each."""
    return seen_exactly(Scene(tuple(Object(s, c, CELLS[cell], 0, 0, size) for s, c, size, cell in objects)))


SCENE = seen(("circle", "red", 20, 0), ("star", "blue", 26, 1), ("star", "red", 22, 3))


@pytest.mark.parametrize(
    ("question", "reply"),
    [
        ("Is there a star?", "yes"),
        ("Is there a ring?", "no"),
        ("Is there a red star?", "yes"),
        ("Is there a blue circle?", "no"),
        ("Is there an orange object?", "no"),
        ("Is there a blue object?", "yes"),
        ("Is the red object a star?", "yes"),
        ("Is the blue object a circle?", "no"),
        ("Are there three shapes?", "yes"),
        ("Are there two shapes?", "no"),
        ("Is there one shape?", "no"),
        ("Are there two red stars?", "no"),
        ("Are there two red crosses?", "no"),
        ("Is the red circle small?", "yes"),
        ("Is the red star small?", "yes"),
        ("Is the blue star small?", "no"),
        ("Is the red circle in the top left?", "yes"),
        ("Is the red star in the top left?", "no"),
        ("Is the red circle to the left of the blue star?", "yes"),
        ("Is the red circle to the right of the blue star?", "no"),
        ("Is the red star below the blue star?", "yes"),
        ("Is the red star above the blue star?", "no"),
        ("Is the red star below the red circle?", "no"),  # a diagonal is neither
        ("Is everything red?", "no"),
    ],
)
def test_questions_about_a_known_scene(question: str, reply: str) -> None:
    assert replies_to([question], SCENE) == [reply]


def test_two_of_a_kind() -> None:
    pair = seen(("cross", "pink", 26, 0), ("cross", "pink", 20, 2))
    asked = ["Are there two pink crosses?", "Is the pink cross large?", "Is everything pink?", "Are there two shapes?"]
    assert replies_to(asked, pair) == ["yes"] * 4


@pytest.mark.parametrize("question", ["Is the dog red?", "Is there a red circle", "Is the star happy?", ""])
def test_a_question_of_another_world_gets_no_reply(question: str) -> None:
    (reply,) = replies_to([question], SCENE)
    assert isinstance(reply, JudgeError)
    assert "no question of the shapes world" in str(reply)


@pytest.fixture(scope="module")
def looker() -> Looker:
    return Looker()


def scenes(number: int) -> list[Scene]:
    return [random_scene(random.Random(f"test looking/{index}")) for index in range(number)]


def test_the_card_says_how_much_is_seen_right(looker: Looker) -> None:
    recorded = looker.describe()["held_out"]["scenes"]
    assert recorded >= 0.97
    assert held_out(looker, 40) >= 0.95  # two in forty may be wrong


def sketch(scene: Sequence[Seen]) -> list[tuple[object, ...]]:
    return sorted((one.shape, one.color, one.size, one.cell) for one in scene)


def test_boxes_are_in_the_images_own_pixels(looker: Looker) -> None:
    for scene in scenes(3):
        image = render(scene)
        large = image.resize((192, 192), Image.Resampling.NEAREST)
        (small_seen,), (large_seen,) = looker.see([image]), looker.see([large])
        assert exact(scene, small_seen)
        assert sketch(large_seen) == sketch(small_seen)
        for item in scene.objects:
            (own,) = [one for one in large_seen if one.cell == item.cell]
            assert own.box == pytest.approx([3 * edge for edge in item.box], abs=9)
            assert 0.3 < own.score <= 1


def test_an_empty_canvas_holds_nothing(looker: Looker) -> None:
    assert looker.see([render(Scene(()))]) == [[]]
    assert looker.see([]) == []


def test_exact_wants_every_object_and_no_other() -> None:
    (scene,) = scenes(1)
    right = seen_exactly(scene)
    assert exact(scene, right)
    assert not exact(scene, right[1:])
    assert not exact(scene, [*right, right[0]])


def test_the_judge_looks_once_at_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []

    def see(self: Looker, images: Sequence[Image.Image]) -> list[list[Seen]]:
        looks.append(len(images))
        return [SCENE for _ in images]

    monkeypatch.setattr(Looker, "see", see)
    replies = ShapesVqa().answer(render(Scene(())), ["Is there a star?", "Is there a ring?"], key="a/0")
    assert (replies, looks) == (["yes", "no"], [1])
