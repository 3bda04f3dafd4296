"""What the toy model is trained on: the benchmarks' own words, and nothing of what is held out."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache

import pytest
from PIL import Image

from benchmarks.shapes import questions, training
from benchmarks.shapes.scene import CELL_NAMES, Object, Scene, Text, render


def pixels(example: training.Example) -> bytes:
    return example.image.tobytes()


DRAWING = (training.generation, training.dense_generation, training.long_captions, training.knowledge)
ASKING = (
    training.understanding,
    training.columns,
    training.sought,
    training.brief,
    training.quick,
    training.alone,
    training.claims,
    training.places,
    training.drill,
    training.choices,
)


@pytest.fixture
def scenes(monkeypatch: pytest.MonkeyPatch) -> list[Scene]:
    """The scenes of the examples that the test draws, in their order."""
    drawn: list[Scene] = []

    def kept(scene: Scene) -> Image.Image:
        drawn.append(scene)
        return render(scene)

    monkeypatch.setattr(training, "render", kept)
    return drawn


@pytest.mark.parametrize("source", [*DRAWING, *ASKING])
def test_an_example_depends_on_seed_and_index_alone(source: Callable[[int, int], training.Example]) -> None:
    first, again, other, later = source(3, 7), source(3, 7), source(4, 7), source(3, 8)
    assert (pixels(first), first.caption, first.turns) == (pixels(again), again.caption, again.turns)
    for different in (other, later):
        assert (pixels(first), first.caption, first.turns) != (pixels(different), different.caption, different.turns)


def test_held_out_objects_are_never_drawn(scenes: list[Scene]) -> None:
    for index in range(300):
        for source in (*DRAWING, *ASKING):
            source(1, index)
    drawn = {(item.shape, item.color) for scene in scenes for item in scene.objects}
    assert drawn.isdisjoint(training.HELD_OUT)
    assert len(drawn) == 6 * 10 - len(training.HELD_OUT)


def test_every_answer_of_a_form_is_right() -> None:
    rng = random.Random(0)
    for _ in range(200):
        item = questions.color(rng)
        answer = item.answer
        assert training.short_answer(item, rng)[1] == answer
        question, letter = training.multiple_choice(item, rng)
        assert f"{letter}. {answer}" in question.splitlines()
        question, reply = training.claim(item, rng)
        assert (reply == "Yes") == (f" {answer}?" in question)


@pytest.mark.parametrize("source", [training.brief, training.quick])
def test_short_claims_are_right_or_wrong_as_the_scene_says(
    source: Callable[[int, int], training.Example], scenes: list[Scene]
) -> None:
    replies: list[str] = []
    for index in range(200):
        turns = source(5, index).turns
        assert len(turns) == 12
        for claim, reply in turns:
            said = set(claim.removesuffix("?").split())
            shown = [{item.color, item.shape, *CELL_NAMES[item.cell].split()} for item in scenes[-1].objects]
            assert (reply == "yes") == any(said <= words for words in shown)
            replies.append(reply)
    assert set(replies) == {"yes", "no"}
    assert 0.47 < replies.count("yes") / len(replies) < 0.53


def test_what_is_sought_is_told_or_none(scenes: list[Scene]) -> None:
    replies: list[str] = []
    kinds = ("place", "color", "shape")
    for index in range(200):
        for question, answer in training.sought(5, index).turns:
            value, _, wanted = question.removesuffix("?").rpartition(" ")
            shown = [(CELL_NAMES[item.cell], item.color, item.shape) for item in scenes[-1].objects]
            found = [thing[kinds.index(wanted)] for thing in shown if value in thing]
            assert [answer] == (found or ["none"])
            replies.append(answer)
    assert 0.4 < replies.count("none") / len(replies) < 0.5  # never a cell where all are taken


def test_what_is_noted_is_so_or_none() -> None:
    """Words by place and color, names, prices, numbers, sides, corners: as the same asked at length is answered."""
    menu = Scene((), (Text("TEA   4", "red", 6, 6), Text("FISH  9", "red", 6, 25)))
    assert [(note.asked, note.answer) for note in training._prices(menu)] == [("tea price", "4"), ("fish price", "9")]
    signs = training._words(Scene((), (Text("BUS", "white", 33, 42),)))
    assert {note.asked: note.answer for note in signs if note.answer != "none"} == {
        "white word": "BUS",
        "bottom right word": "BUS",
    }
    star, ring = Object("star", "red", (0, 0), 2, 2, 26), Object("ring", "blue", (0, 1), 34, 6, 24)
    assert [(note.asked, note.answer) for note in training._sides(Scene((star, ring)))] == [
        ("red corners", "none"),
        ("blue corners", "none"),
        ("red star from blue ring", "left of"),
        ("blue ring from red star", "right of"),
    ]
    assert [note.answer for note in training._numbers(Scene((star, ring)))] == [
        "none",
        "none",
        "none",
        "1",
        "none",
        "1",
    ]
    replies: list[str] = []
    for index in range(200):
        turns = dict(training.noted(5, index).turns)
        for question, answer in turns.items():
            asked = question.removesuffix("?").rpartition(" ")
            if answer in ("yes", "no") and asked[0] + "?" in turns:
                assert (answer == "yes") == (turns[asked[0] + "?"] == asked[2])
            replies.append(answer)
    assert 0.4 < replies.count("yes") / (replies.count("yes") + replies.count("no")) < 0.55


def test_claims_are_to_be_judged_and_chosen() -> None:
    replies = [reply.lower() for index in range(300) for _, reply in training.claims(5, index).turns]
    assert set(replies) == {"yes", "no", "a", "b", "c", "d"}
    # Drawn half and half; but a claim is asked once only, and there are more wrong ones to draw.
    assert 0.35 < replies.count("yes") / (replies.count("yes") + replies.count("no")) < 0.5


def test_labels_tell_what_each_image_token_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen tokens of 16 x 16 pixels: a star, a word in the cell below it, a longer word, bare canvas."""
    star = Object("star", "red", (0, 0), 9, 3, 20)
    scene = Scene((star,), (Text("BUS", "white", 1, 42), Text("OPEN", "blue", 33, 10)))
    monkeypatch.setattr(training, "_known", lambda *_: questions.Item(scene, "?", "!"))
    top = ("top left red star", "top left red star", "top right blue OPEN", "top right blue OPEN")
    bottom = ("bottom left white BUS", "bottom left white BUS", "bottom right nothing", "bottom right nothing")
    assert training.alone(0, 0).labels == top * 2 + bottom * 2


def test_places_are_those_of_the_scene(scenes: list[Scene]) -> None:
    for index in range(50):
        turns = training.places(1, index).turns
        assert len(turns) == 4
        for question, answer in turns:
            name = question.lower().split(" is the ")[1].split("?")[0].split()
            (thing,) = (item for item in scenes[-1].objects if item.shape in name or item.color in name)
            assert CELL_NAMES[thing.cell] == answer


@pytest.mark.parametrize("column", ["vqav2", "mmbench", "seedbench", "mmvet", "mme", "mmmu", "realworldqa", "textvqa"])
def test_the_columns_ask_in_words_that_were_trained(column: str) -> None:
    """Whatever lmms-eval puts around a question of the toy suite is around the same kind of question in training."""
    from benchmarks.catalog import BENCHMARKS, Data

    asked = [sample.prompt for sample in BENCHMARKS["toy", column](Data()).samples()]
    assert {_frame(prompt) for prompt in asked} <= trained_frames()


@cache
def trained_frames() -> set[str]:
    return {_frame(question) for i in range(300) for source in ASKING for question, _ in source(1, i).turns}


def _frame(question: str) -> str:
    """What is around a question and its options."""
    lines = question.replace("<image 1> <image 2> Look at the second image.", "<image 1>").split("\n")
    kept: list[str] = []
    for line in lines:
        if line[:3] in ("A. ", "B. ", "C. ", "D. "):
            kept += ["OPTION"] * (kept[-1] != "OPTION")
        else:
            for ending in (training.DIRECTLY, " There are several options:"):
                if line.endswith(ending):
                    kept.append("QUESTION" + ending)
                    break
            else:
                asks = "?" in line or (line.endswith(".") and "answer" not in line.lower())
                kept.append("QUESTION" if asks else line)
    return "\n".join(kept)


def test_choices_ask_for_the_same_answer_among_other_options() -> None:
    said = 0
    for index in range(50):
        turns = training.choices(1, index).turns
        options = [
            line[3:].lower() for q, letter in turns[-5:] for line in q.split("\n") if line.startswith(f"{letter}. ")
        ]
        assert len(options) == 5
        assert len(set(options)) == 1
        if len(turns) == 6:
            assert turns[0][1].lower() == options[0]
            said += 1
    assert 15 < said < 35
