"""MMMU (Yue et al. 2024, CVPR, arXiv:2311.16502), validation split, by lmms-eval's task ``mmmu_val``.

Thirty subjects with thirty questions each, most with options. Where no option can be read in a reply, the official
rule draws one; here the draw is seeded by the question's id, so that order and number of processes change nothing.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from benchmarks.harness import HarnessTask
from benchmarks.intervals import Interval, clustered_mean
from benchmarks.types import Json, Metric, Sample
from benchmarks.understanding import Answered, Doc, Understanding


class Mmmu(Understanding):
    """Rows in the schema of lmms-lab-encoder/MMMU."""

    name = "mmmu"
    title = "MMMU"
    task_name = "mmmu_val"
    metric = "mmmu_acc"
    files = "validation-*-of-[0-9]*.parquet"
    columns = ("id", "question", "options", "answer", "question_type", *(f"image_{number}" for number in range(1, 8)))

    def sample(self, doc_id: int, doc: Doc) -> Sample:
        options = ast.literal_eval(doc["options"]) if doc["question_type"] == "multiple-choice" else ()
        sample = self.ask(
            doc_id,
            doc,
            question_id=doc["id"],
            group=doc["id"],
            stratum=subject(doc["id"]),
            answer=doc["answer"],
            # mmmu_doc_to_visual (lmms_eval/tasks/mmmu/utils.py): those that the prompt names, each once.
            images=len(set(re.findall(r"<image \d+>", self.harness.prompt(doc)))),
            choices=len(options) or None,
        )
        return replace(sample, meta={**sample.meta, "options": len(options)})

    def value(self, sample: Sample, result: Mapping[str, Json]) -> float:
        return float(self.harness.aggregate(self.metric, [result[self.metric]]))

    def metrics(self, samples: Sequence[Sample], answered: Sequence[Answered]) -> list[Metric]:
        """``mmmu_acc``; what it would be over all draws of letters (a draw is right once in so many options); and
        the share of replies for which one was drawn."""
        drawn = [replace(one, value=float(one.result["random_fallback"])) for one in answered]
        expected = [
            replace(one, value=1 / one.sample.meta["options"]) if one.result["random_fallback"] else one
            for one in answered
        ]
        return [
            self.score(self.metric, samples, answered),
            self._mean(f"{self.metric}.expected", samples, expected),
            replace(self._mean("random_fallback", samples, drawn), higher_is_better=False, chance=None),
        ]

    def interval(self, answered: Sequence[Answered]) -> Interval:
        """Each subject has its fixed share of the questions."""
        return clustered_mean(
            [one.value for one in answered],
            [one.sample.group for one in answered],
            strata=[one.sample.stratum for one in answered],
        )

    def _mean(self, name: str, samples: Sequence[Sample], answered: Sequence[Answered]) -> Metric:
        interval = self.interval(answered)
        return self.measured(name, interval.value, interval, len(answered), samples)

    def submission(self, answers: Sequence[tuple[Sample, Json]]) -> Json:
        """What the MMMU server takes: question id -> answer as the rule read it."""
        task = HarnessTask(self.task_name, self.rows)  # blip3o-0.3.0 reads alike, but makes no submission
        merged: dict[str, Json] = {}
        for sample, finding in answers:
            merged |= task.results(sample.meta["doc_id"], finding["text"])["submission"]
        return merged


def subject(question_id: str) -> str:
    """The subject in an id such as validation_Art_Theory_7."""
    return question_id.split("_", 1)[1].rsplit("_", 1)[0]
