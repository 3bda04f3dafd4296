"""Rows of the understanding columns in the shapes world: official columns, the oracle's score and a guesser's."""

from __future__ import annotations

import ast
import math
from collections import Counter, defaultdict
from functools import cache
from typing import Any, get_args

import pytest
from datasets import Dataset

from benchmarks import harness
from benchmarks.harness import HarnessTask, Profile
from benchmarks.judges.chat import Question
from benchmarks.shapes import training
from benchmarks.shapes.chat import WordJudge
from benchmarks.shapes.understanding import COLUMNS, oracle_answer
from benchmarks.types import Json

#: Columns of the data sets on the hub and their types; a list of them is marked [].
OFFICIAL = {
    "vqav2": "question_type:string multiple_choice_answer:string answers:{}[] image_id:int64 answer_type:string "
    "question_id:int64 question:string image:Image",
    "mmbench": "index:int64 question:string hint:string answer:string A:string B:string C:string D:string "
    "category:string image:Image source:string L2-category:string comment:string split:string",
    "seedbench": "answer:string choice_a:string choice_b:string choice_c:string choice_d:string data_id:string "
    "data_type:string question:string question_id:string question_type_id:int16 image:Image[] segment:int64[]",
    "mmvet": "question_id:string image:Image question:string answer:string image_source:string capability:string",
    "mme": "question_id:string image:Image question:string answer:string category:string",
    "mmmu": "id:string question:string options:string explanation:string image_1:Image image_2:Image image_3:Image "
    "image_4:Image image_5:Image image_6:Image image_7:Image img_type:string answer:string topic_difficulty:string "
    "question_type:string subfield:string",
    "realworldqa": "image:Image image_path:string question:string answer:string",
    "textvqa": "image_id:string question_id:int32 question:string question_tokens:string[] image:Image "
    "image_width:int32 image_height:int32 flickr_original_url:string flickr_300k_url:string answers:string[] "
    "image_classes:string[] set_name:string ocr_tokens:string[]",
}
FULL_MARKS = {
    "vqav2": {"exact_match": 1.0},
    "mmbench": {"gpt_eval_score": 100.0},
    "seedbench": {"seed_image": 1.0, "seed_all": 1.0},
    "mmvet": {"gpt_eval_score": 100.0},
    "mme": {"mme_perception_score": 2000.0, "mme_cognition_score": 800.0},
    "mmmu": {"mmmu_acc": 1.0},
    "realworldqa": {"exact_match": 1.0},
    "textvqa": {"exact_match": 1.0},
}


@cache
def rows(column: str) -> Dataset:
    return COLUMNS[column][1]()


def scored(column: str, replies: list[str], profile: Profile, metrics: list[str]) -> dict[str, float]:
    """lmms-eval's aggregates; MM-Vet's judge looks for words."""
    task = HarnessTask(COLUMNS[column][0], rows(column), profile)
    items: dict[str, list[Json]] = defaultdict(list)
    for doc_id, (doc, reply) in enumerate(zip(task.docs, replies, strict=True)):
        judged = None
        if column == "mmvet":
            prompt = harness.mmvet_judge_prompt(doc, reply)
            judged = WordJudge().ask(Question(prompt, 0.0, 128, "")).text
        for metric, item in task.results(doc_id, reply, judged).items():
            items[metric].append(item)
    return {metric: task.aggregate(metric, items[metric]) for metric in metrics}


def written(feature: Any) -> str:
    """Its type as in OFFICIAL."""
    inner = getattr(feature, "feature", None)
    if inner is not None:
        return f"{written(inner)}[]"
    return "{}" if isinstance(feature, dict) else str(feature.dtype).removeprefix("PIL.Image.")


@pytest.mark.parametrize("column", COLUMNS)
def test_official_columns_and_types(column: str) -> None:
    features = {name: written(feature) for name, feature in rows(column).features.items()}
    assert features.pop("choices", "int64") == "int64"
    assert features == dict(entry.split(":") for entry in OFFICIAL[column].split())
    assert 200 <= len(rows(column)) <= 300


@pytest.mark.parametrize("column", COLUMNS)
def test_the_rows_are_the_same_each_time(column: str) -> None:
    for one, other in zip(rows(column), COLUMNS[column][1](), strict=True):
        assert one == other


@pytest.mark.parametrize("profile", get_args(Profile))
@pytest.mark.parametrize("column", COLUMNS)
def test_the_oracle_gets_full_marks(column: str, profile: Profile) -> None:
    task, _ = COLUMNS[column]
    replies = [oracle_answer(task, doc) for doc in rows(column)]
    assert scored(column, replies, profile, list(FULL_MARKS[column])) == FULL_MARKS[column]


@pytest.mark.parametrize(
    ("column", "reply", "expected"),
    [
        ("seedbench", "A", {"seed_image": 1 / 4}),
        ("realworldqa", "A", {"exact_match": 1 / 2 / 3}),  # half of the questions have three options
        ("realworldqa", "yes", {"exact_match": 1 / 6 / 2}),  # a sixth is answered yes or no
        ("mmmu", "A", {"mmmu_acc": 5 / 6 / 4}),  # five in six have four options
        ("mmmu", "yes", {"mmmu_acc": 5 / 6 / 4}),  # unreadable: lmms-eval draws a letter
    ],
)
def test_a_reply_without_looking_scores_as_by_chance(column: str, reply: str, expected: dict[str, float]) -> None:
    """Within three standard errors of a binomial."""
    got = scored(column, [reply] * len(rows(column)), "lmms-0.7.3", list(expected))
    for metric, chance in expected.items():
        assert abs(got[metric] - chance) < 3 * math.sqrt(chance * (1 - chance) / len(rows(column)))


@pytest.mark.parametrize(
    ("column", "reply", "expected"),
    [
        # Each image has one question with yes: 50 of 100 for the questions, 0 of 100 for the pairs.
        ("mme", "yes", {"mme_perception_score": 500.0, "mme_cognition_score": 200.0}),
        ("mmbench", "A", {"gpt_eval_score": 0.0}),  # some rotation has its answer elsewhere
        ("mmvet", "yes", {"gpt_eval_score": 0.0}),
        ("textvqa", "yes", {"exact_match": 0.0}),
    ],
)
def test_a_reply_without_looking_scores_exactly(column: str, reply: str, expected: dict[str, float]) -> None:
    assert scored(column, [reply] * len(rows(column)), "lmms-0.7.3", list(expected)) == expected


@pytest.mark.parametrize("column", COLUMNS)
def test_prompts_ask_what_the_row_asks_about_images_that_decode(column: str) -> None:
    task = HarnessTask(COLUMNS[column][0], rows(column))
    for doc_id, doc in enumerate(task.docs):
        assert doc["question"].removesuffix(" Please answer yes or no.").lower() in task.prompt(doc).lower()
        assert {image.size for image in task.images(doc_id)} == {(64, 64)}


def test_mmbench_rotates_every_question_through_all_its_options() -> None:
    letters = "ABCD"
    by_question: dict[int, dict[int, Json]] = defaultdict(dict)
    for row in rows("mmbench"):
        by_question[row["index"] % 1_000_000][row["index"] // 1_000_000] = row
    for rotations in by_question.values():
        first = rotations[0]
        options = [first[letter] for letter in letters if first[letter] != "nan"]
        assert list(rotations) == list(range(len(options)))
        answers = [row["answer"] for row in rotations.values()]
        assert sorted(answers) == list(letters[: len(options)])
        for rotation, row in rotations.items():
            expected = options[rotation:] + options[:rotation] + ["nan"] * (4 - len(options))
            assert [row[letter] for letter in letters] == expected
            assert row[row["answer"]] == first[first["answer"]]
            assert (row["question"], row["hint"], row["image"]) == (first["question"], first["hint"], first["image"])
    assert {len(rotations) for rotations in by_question.values()} == {2, 3, 4}


def test_mme_asks_yes_and_no_of_each_image_in_all_fourteen_categories() -> None:
    pairs: dict[tuple[str, str], list[Json]] = defaultdict(list)
    for row in rows("mme"):
        pairs[row["category"], row["question_id"]].append(row)
    assert all(sorted(row["answer"] for row in pair) == ["No", "Yes"] for pair in pairs.values())
    assert all(pair[0]["image"] == pair[1]["image"] for pair in pairs.values())
    perception = "existence count position color posters celebrity scene landmark artwork OCR"
    cognition = "commonsense_reasoning numerical_calculation text_translation code_reasoning"
    assert {category for category, _ in pairs} == set(f"{perception} {cognition}".split())


def test_mmmu_options_are_a_list_literal_and_images_are_named_in_the_question() -> None:
    for row in rows("mmmu"):
        options = ast.literal_eval(row["options"])
        assert len(set(options)) == (4 if row["question_type"] == "multiple-choice" else 0)
        named = [k for k in range(1, 8) if f"<image {k}>" in row["question"]]
        assert named == [k for k in range(1, 8) if row[f"image_{k}"] is not None]
    kinds = Counter(row["question_type"] for row in rows("mmmu"))
    assert kinds == {"multiple-choice": 175, "open": 35}


def test_textvqa_asks_for_a_word_that_is_written_in_the_image() -> None:
    for row in rows("textvqa"):
        assert len(row["answers"]) == 10
        assert row["answers"][0].upper() in row["ocr_tokens"]


def test_no_image_is_one_that_training_draws() -> None:
    """Some may be by chance, but none is among the first examples of the recipe's seed."""
    seen = {training.understanding(14, index).image.tobytes() for index in range(300)}
    for column, (task_name, _) in COLUMNS.items():
        task = HarnessTask(task_name, rows(column))
        for doc_id in range(0, len(rows(column)), 7):
            assert not seen & {image.tobytes() for image in task.images(doc_id)}
