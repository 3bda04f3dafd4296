"""TextVQA (Singh et al. 2019, CVPR, arXiv:1904.08920), validation split, by lmms-eval's task ``textvqa_val``.

A reply is compared with ten annotators' answers as in VQAv2, after VQA's full normalisation of both.
"""

from __future__ import annotations

import statistics

from benchmarks.types import Sample
from benchmarks.understanding import Doc, Understanding


class TextVqa(Understanding):
    """Rows in the schema of lmms-lab-encoder/textvqa."""

    name = "textvqa"
    title = "TextVQA"
    task_name = "textvqa_val"
    metric = "exact_match"
    files = "validation-*-of-[0-9]*.parquet"
    columns = ("question_id", "question", "answers", "image_id", "image")

    def sample(self, doc_id: int, doc: Doc) -> Sample:
        most_frequent = statistics.mode(doc["answers"])
        return self.ask(doc_id, doc, question_id=doc["question_id"], group=doc["image_id"], answer=most_frequent)
