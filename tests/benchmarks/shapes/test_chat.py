"""The judge of the shapes world, on the prompts that lmms-eval makes."""

from __future__ import annotations

import pytest

from benchmarks.harness import mmvet_judge_prompt, mmvet_read
from benchmarks.judges.chat import Chat, Question
from benchmarks.shapes.chat import WordJudge


@pytest.mark.parametrize(
    ("answer", "reply", "score"),
    [
        ("red star", "There is a Red Star.", 1.0),
        ("red star", "a star, and it is red", 0.0),
        ("bus", "business", 0.0),
        ("circle<OR>ring", "It is a ring", 1.0),
        ("red star<AND>blue ring<AND>BUS", "a blue ring | and a\n\nred star", 0.7),
        ("12", "", 0.0),
    ],
)
def test_mmvet_is_the_share_of_elements_that_the_reply_holds(answer: str, reply: str, score: float) -> None:
    doc = {"question_id": "v1_0", "question": "What is it?", "answer": answer, "capability": "rec"}
    judge: Chat = WordJudge()
    said = judge.ask(Question(mmvet_judge_prompt(doc, reply), 0.0, 128, "any")).text
    assert mmvet_read(said) == score
