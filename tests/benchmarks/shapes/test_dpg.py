"""The toy's dense captions: in DPG-Bench's schema, true of their scenes, and all questions answered by yes."""

from __future__ import annotations

import random
from itertools import groupby

from benchmarks.shapes import dpg
from benchmarks.shapes.looking import ShapesVqa, replies_to
from benchmarks.shapes.scene import CELL_NAMES, SIZES, Scene, render
from tests.benchmarks.shapes.test_looking import seen_exactly


def test_the_evaluation_set_is_in_the_official_schema() -> None:
    table = dpg.rows()
    assert all(tuple(row) == dpg.COLUMNS for row in table)
    blocks = [(item, list(rows)) for item, rows in groupby(table, key=lambda row: row["item_id"])]
    assert len(blocks) == len({item for item, _ in blocks}) == 200
    assert len({row["text"] for row in table}) == 200
    for _, rows in blocks:
        assert 8 <= len(rows[0]["text"].split()) <= 40
        assert {row["text"] for row in rows} == {rows[0]["text"]}
        assert [row["proposition_id"] for row in rows] == [str(n) for n in range(1, len(rows) + 1)]
        for row in rows:
            detail = f"{row['category_broad']} - {row['category_detailed']}".strip()
            assert row["tuple"].startswith(f"{detail} (")
            parents = [int(parent) for parent in row["dependency"].split(",")]
            assert parents == [0] or all(0 < parent < int(row["proposition_id"]) for parent in parents)
            entity = row["category_broad"] in ("attribute", "relation")
            assert (parents != [0]) or not entity
    kinds = {(row["category_broad"], row["category_detailed"]) for row in table}
    assert kinds == {
        ("entity", "whole"),
        ("attribute", "color"),
        ("attribute", "shape"),
        ("attribute", "size"),
        ("relation", "spatial"),
        ("other", "count"),
        ("global", ""),
    }


def test_the_evaluation_set_is_always_the_same_and_a_smaller_one_its_beginning() -> None:
    table = dpg.rows(30)
    assert dpg.rows(200)[: len(table)] == table
    assert table[0]["item_id"] == "shapes0000"


def test_a_scene_seen_as_it_is_answers_every_question_by_yes_and_an_empty_one_by_no() -> None:
    for row in dpg.rows():
        seen = seen_exactly(dpg.scene_for(row["item_id"]))
        assert replies_to([row["question_natural_language"]], seen) == ["yes"], row
        assert replies_to([row["question_natural_language"]], []) == ["no"], row


def test_captions_say_what_the_scene_holds() -> None:
    rng = random.Random(5)
    texts = []
    for _ in range(300):
        text, scene, _ = dpg.random_item(rng)
        texts.append(text)
        for item in scene.objects:
            assert f"{item.color} {item.shape}" in text
        assert ("small" in text) <= any(item.size == SIZES[0] for item in scene.objects)
        assert ("large" in text) <= any(item.size == SIZES[-1] for item in scene.objects)
        cells = {CELL_NAMES[item.cell] for item in scene.objects}
        assert {name for name in CELL_NAMES.values() if name in text} <= cells
        assert ("everything is" in text) == (len({o.color for o in scene.objects}) == 1 and len(scene.objects) > 1)
    words = {word.strip(".,:") for text in texts for word in text.split()}
    assert len(words) < 60


def test_items_come_from_the_given_generator_alone() -> None:
    first, again = dpg.random_item(random.Random(3)), dpg.random_item(random.Random(3))
    assert first == again
    assert isinstance(first[1], Scene)


def test_the_judge_sees_the_oracles_drawings_so_too() -> None:
    judge = ShapesVqa()
    for item, rows in groupby(dpg.rows(10), key=lambda row: row["item_id"]):
        asked = [row["question_natural_language"] for row in rows]
        assert judge.answer(render(dpg.scene_for(item)), asked) == ["yes"] * len(asked)
