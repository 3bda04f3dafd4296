"""TextVQA: prompt, groups and the score of partial agreement."""

from __future__ import annotations

from typing import Any

import pytest
from datasets import Dataset
from PIL import Image

from benchmarks.textvqa import TextVqa
from tests.benchmarks.answering import scored


def row(number: int, answers: list[str]) -> dict[str, Any]:
    image = Image.new("RGB", (2, 2))
    return {
        "question_id": number,
        "question": "what does the SIGN say?",
        "answers": answers,
        "image_id": "0a",
        "image": image,
    }


def column(*answers: list[str]) -> TextVqa:
    return TextVqa(Dataset.from_list([row(number, given) for number, given in enumerate(answers)]), {"name": "rows"})


def test_samples() -> None:
    (one, two) = column(["stop"] * 6 + ["halt"] * 4, ["halt"] * 10).samples()
    assert one.prompt == "What does the sign say?\nAnswer the question using a single word or phrase."
    assert (one.id, one.group, one.meta["answer"]) == ("textvqa/0", "textvqa/0a", "stop")
    assert two.group == one.group


@pytest.mark.parametrize(("matches", "expected"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1)])
def test_score(matches: int, expected: float) -> None:
    metric = scored(column(["stop"] * matches + [f"no{i}" for i in range(10 - matches)]), "The STOP.")["exact_match"]
    assert metric.value == pytest.approx(expected)
    assert (metric.low, metric.high) == (None, None)  # one image says nothing about another
