"""RealWorldQA: letters, words and numbers, under both profiles."""

from __future__ import annotations

import pytest
from datasets import Dataset
from PIL import Image

from benchmarks.harness import Profile
from benchmarks.realworldqa import RealWorldQa
from benchmarks.understanding import Options
from tests.benchmarks.answering import scored

LETTER = "Is it steep?\n\nA. No\nB. Yes\nPlease answer directly with only the letter of the correct option."
NUMBER = " How many cars are there? Please answer directly with a single word or number. "


def column(question: str, answer: str, profile: Profile) -> RealWorldQa:
    row = {"image": Image.new("RGB", (2, 2)), "image_path": "0.webp", "question": question, "answer": answer}
    return RealWorldQa(Dataset.from_list([row]), {"name": "rows"}, Options(profile))


def test_samples() -> None:
    (sample,) = column(NUMBER, "3", "lmms-0.7.3").samples()
    assert (sample.id, sample.group, sample.prompt) == ("realworldqa/0", "realworldqa/0.webp", NUMBER.strip())


@pytest.mark.parametrize(
    ("question", "answer", "reply", "ours", "authors"),
    [
        (LETTER, "B", "B", 1, 1),
        (LETTER, "B", "(B)", 1, 1),
        (LETTER, "A", "The answer is A", 1, 0),
        (LETTER, "A", "The answer is No.", 0, 1),
        (NUMBER, "3", "3.", 1, 1),
        (NUMBER, "3", "three", 0, 1),
    ],
)
def test_replies(question: str, answer: str, reply: str, ours: int, authors: int) -> None:
    assert scored(column(question, answer, "lmms-0.7.3"), reply)["exact_match"].value == ours
    assert scored(column(question, answer, "blip3o-0.3.0"), reply)["exact_match"].value == authors
