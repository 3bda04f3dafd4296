"""RealWorldQA (xAI 2024, https://x.ai/news/grok-1.5v), by lmms-eval's task ``realworldqa``.

Photographs from vehicles and elsewhere; the question itself says whether a letter, a word or a number is wanted.
"""

from __future__ import annotations

from benchmarks.types import Sample
from benchmarks.understanding import Doc, Understanding


class RealWorldQa(Understanding):
    """Rows in the schema of lmms-lab-encoder/RealWorldQA, which have no id: their position is theirs."""

    name = "realworldqa"
    title = "RealWorldQA"
    task_name = "realworldqa"
    metric = "exact_match"
    files = "test-*-of-[0-9]*.parquet"
    columns = ("image", "image_path", "question", "answer")

    def sample(self, doc_id: int, doc: Doc) -> Sample:
        return self.ask(doc_id, doc, question_id=doc_id, group=doc["image_path"], answer=doc["answer"])
