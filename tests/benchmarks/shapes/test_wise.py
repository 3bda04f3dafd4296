"""WISE's items in the shapes world, and their judge."""

from __future__ import annotations

import io
import random

import pytest

from benchmarks import wise
from benchmarks.judges.chat import Chat, Question
from benchmarks.shapes.chat import SceneJudge, held_out, held_out_accuracy, near_miss
from benchmarks.shapes.scene import COLORS, Color, Scene, Shape, place, render
from benchmarks.shapes.wise import (
    FACTS,
    Wanted,
    companions,
    explanation,
    fact_turns,
    items,
    prompts,
    random_item,
    read_explanation,
    scene_for,
    wanted,
)
from benchmarks.shapes.wise import (
    held_out as held_out_companions,
)
from benchmarks.types import JudgeError


def satisfies(scene: Scene, asked: Wanted) -> bool:
    """Written a second time, from the scene itself."""
    return len(scene.objects) == asked.count and all(
        item.shape == asked.shape and asked.color in (None, item.color) and asked.cell in (None, item.cell)
        for item in scene.objects
    )


@pytest.fixture(scope="module")
def judge() -> Chat:
    return SceneJudge()


def png(scene: Scene) -> bytes:
    file = io.BytesIO()
    render(scene).save(file, "PNG")
    return file.getvalue()


# Items ------------------------------------------------------------------------------------------------------------


def test_items_have_wises_schema_and_lie_in_the_ranges_of_its_categories() -> None:
    rows = items()
    assert len(rows) >= 200
    assert len({row["Prompt"] for row in rows}) == len({row["prompt_id"] for row in rows}) == len(rows)
    for row in rows:
        assert tuple(sorted(row)) == tuple(sorted(wise.FIELDS))
        assert wise.VERIFIED.category(row["prompt_id"]) == wise.NAMES[row["Category"]]
        assert 5 <= len(row["Prompt"].split()) <= 20
    counts = {category: sum(row["Category"] == category for row in rows) for category in wise.NAMES}
    assert counts.pop("Ecology") == 0  # the data's second name for biology
    assert min(counts.values()) >= 30


@pytest.mark.parametrize(
    ("subject", "companion", "prompt", "asked"),
    [
        ("a ripe banana", "star", "a star in the color of a ripe banana", Wanted("star", color="yellow")),
        ("seasons in a year", "cross", "as many crosses as there are seasons in a year", Wanted("cross", 4)),
        (
            "the shape of a soap bubble",
            "pink",
            "the shape of a soap bubble, in pink",
            Wanted("circle", color="pink"),
        ),
        (
            "in the south west of a map",
            "ring",
            "a ring in the south west of a map",
            Wanted("ring", cell=(1, 0)),
        ),
    ],
)
def test_one_fact_of_each_kind(subject: str, companion: str, prompt: str, asked: Wanted) -> None:
    (fact,) = [fact for fact in FACTS if fact.subject == subject]
    assert prompts(fact, companion)[0] == prompt
    assert wanted(fact, companion) == asked


def test_a_prompt_does_not_name_what_its_fact_tells() -> None:
    for fact in FACTS:
        assert fact.answer not in fact.subject.split(), fact


def test_explanations_say_what_is_wanted() -> None:
    for fact in FACTS:
        for companion in companions(fact):
            assert read_explanation(explanation(fact, companion)) == wanted(fact, companion)
    with pytest.raises(ValueError, match="no explanation of the shapes world"):
        read_explanation("This refers to mooncakes")


def test_scenes_satisfy_what_is_wanted() -> None:
    rng = random.Random(5)
    for fact in FACTS:
        for companion in companions(fact):
            asked = wanted(fact, companion)
            assert satisfies(scene_for(asked, rng), asked)


def test_training_has_every_fact_and_no_pair_of_the_evaluation() -> None:
    rng = random.Random(6)
    drawn = {random_item(rng)[0] for _ in range(20_000)}
    assert not drawn & {row["Prompt"] for row in items()}
    trained = {
        prompt
        for fact in FACTS
        for companion in companions(fact)
        if companion not in held_out_companions(fact)
        for prompt in prompts(fact, companion)
    }
    assert drawn == trained
    answers = dict(fact_turns(rng) for _ in range(5_000))
    assert len(answers) == len(FACTS)
    assert answers["What is the color of a ripe banana?"] == "yellow"
    assert answers["How many strings on a violin are there?"] == "four"
    assert answers["What is the shape around Saturn?"] == "ring"
    assert answers["Which corner is at the four of a clock?"] == "bottom right"


def test_the_prompt_of_a_random_item_belongs_to_its_scene() -> None:
    rng = random.Random(7)
    pairs = {prompt: wanted(fact, one) for fact in FACTS for one in companions(fact) for prompt in prompts(fact, one)}
    for _ in range(200):
        prompt, scene = random_item(rng)
        assert satisfies(scene, pairs[prompt])


# The judge --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("objects", "score"),
    [
        ([("circle", "red"), ("circle", "blue")], 1),
        ([("circle", "red")], 0),
        ([("circle", "red"), ("circle", "blue"), ("circle", "blue")], 0),
        ([("circle", "red"), ("star", "blue")], 0),
        ([("circle", "red"), ("circle", "blue"), ("star", "blue")], 0),
        ([], 0),
    ],
)
def test_two_circles_and_nothing_else(judge: Chat, objects: list[tuple[Shape, Color]], score: int) -> None:
    scene = place(objects, [(0, 0), (1, 1), (0, 1)][: len(objects)], random.Random(8))
    told = "Meaning: There are two. The image should show exactly two circles and nothing else.\n\nGive 1 only if"
    reply = judge.ask(Question(told, 0.0, 500, "any", (png(scene),)))
    assert wise.read_verified(reply.text) == {"score": score}


def test_an_explanation_of_another_world_is_a_judge_error(judge: Chat) -> None:
    with pytest.raises(JudgeError, match="no explanation of the shapes world"):
        judge.ask(Question("mooncakes", 0.0, 500, "any", (png(Scene(())),)))


def test_near_misses_differ_in_one_thing_that_counts() -> None:
    rng = random.Random(9)
    for asked in (Wanted("star", 3), Wanted("star", color="red"), Wanted("star", cell=(1, 1))):
        for _ in range(50):
            assert not satisfies(scene_for(near_miss(asked, rng), rng), asked)


def test_the_judge_is_right_on_unseen_scenes_as_its_card_says() -> None:
    assert held_out_accuracy()["verdicts"] >= 0.97
    assert held_out(SceneJudge(), 40) >= 0.95


def test_every_color_can_be_asked_for() -> None:
    asked = {read_explanation(row["Explanation"]).color for row in items()}
    assert asked == {*COLORS, None}
