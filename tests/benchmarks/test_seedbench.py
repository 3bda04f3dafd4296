"""SEED-Bench: images and videos apart, and the first character of a reply."""

from __future__ import annotations

from typing import Any

import pytest
from datasets import Dataset
from PIL import Image

from benchmarks.seedbench import SeedBench
from tests.benchmarks.answering import scored


def row(number: int, answer: str, frames: int = 1) -> dict[str, Any]:
    return {
        "answer": answer,
        **{f"choice_{letter}": f"{letter} thing" for letter in "abcd"},
        "data_id": f"scene{number // 2}",
        "data_type": "image" if frames == 1 else "video",
        "question": "What is it?",
        "question_id": str(number),
        "question_type_id": 1,
        "image": [Image.new("RGB", (2, 2), (number, frame, 0)) for frame in range(frames)],
    }


@pytest.fixture(scope="module")
def column() -> SeedBench:
    rows = [row(0, "A"), row(1, "B"), row(2, "A"), row(3, "A", frames=3)]
    return SeedBench(Dataset.from_list(rows), {"name": "rows"})


def test_samples(column: SeedBench) -> None:
    samples = column.samples()
    assert samples[0].prompt == (
        "What is it?\nA. a thing\nB. b thing\nC. c thing\nD. d thing\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert [sample.group for sample in samples] == [f"seedbench/scene{number}" for number in (0, 0, 1, 1)]
    assert [sample.stratum for sample in samples] == ["image", "image", "image", "video"]
    assert samples[0].decoding.max_new_tokens == 128  # the task names none


def test_a_video_has_its_frames(column: SeedBench) -> None:
    video = column.samples()[3]
    assert [open_image().getpixel((0, 0)) for open_image in video.images] == [(3, frame, 0) for frame in range(3)]


def test_metrics(column: SeedBench) -> None:
    metrics = scored(column, "A")
    assert {name: metric.value for name, metric in metrics.items()} == {
        "seed_image": 2 / 3,
        "seed_video": 1,
        "seed_all": 0.75,
    }
    assert {metric.chance for metric in metrics.values()} == {0.25}


@pytest.mark.parametrize(
    ("reply", "value"), [("a.", 0.75), ("(A)", 0.0), ("The answer is A", 0.0), ("apple", 0.75), ("", 0.0)]
)
def test_only_the_first_character_counts(column: SeedBench, reply: str, value: float) -> None:
    assert scored(column, reply)["seed_all"].value == value
