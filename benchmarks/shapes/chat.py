"""MM-Vet's judge in the shapes world: it knows no language, only which words of the truth a reply holds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.judges.chat import ChatReply
from benchmarks.types import Json


@dataclass(frozen=True)
class WordJudge:
    """A ``Chat`` that completes MM-Vet's table.

    It gives the share of the truth's <AND> elements that occur in the prediction as whole words, of <OR> any one,
    to one decimal as the prompt asks. A reply that names every possible answer gets full marks.
    """

    concurrency: int = 1

    def describe(self) -> Mapping[str, Json]:
        return {"kind": "words", "version": "1"}

    def ask(self, prompt: str, *, temperature: float, max_tokens: int, key: str) -> ChatReply:
        # lmms-eval's MM_VET_PROMPT (tasks/mmvet/utils.py) is a table; a blank line and the row to complete follow it.
        _, row = prompt.split("\n\n", 1)
        _, truth, prediction = row.split(" | ", 2)
        elements = truth.split("<AND>")
        held = sum(any(_holds(prediction, one) for one in element.split("<OR>")) for element in elements)
        return ChatReply(f"{held / len(elements):.1f}", prompt_tokens=0, completion_tokens=0, cost=None)


def _holds(prediction: str, words: str) -> bool:
    return re.search(rf"\b{re.escape(words.strip())}\b", prediction, re.IGNORECASE) is not None
