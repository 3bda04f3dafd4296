"""VQAv2 (Goyal et al. 2017, CVPR, arXiv:1612.00837), validation split, by lmms-eval's task ``vqav2_val``.

A reply is compared with ten annotators' answers after VQA's text normalisation; for each annotator in turn it
scores min(1, matches among the other nine / 3), and the question's score is the mean: 0, 0.3, 0.6, 0.9 or 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

from benchmarks.harness import TaskName
from benchmarks.types import BenchError, Json, Metric, Sample, Score, Verdict
from benchmarks.understanding import Answered, Doc, Options, Understanding, of_stratum

ANSWER_TYPES = ("yes/no", "number", "other")


class Vqav2(Understanding):
    """Rows in the schema of lmms-lab-encoder/VQAv2."""

    name = "vqav2"
    title = "VQAv2"
    task_name: TaskName = "vqav2_val"
    metric = "exact_match"
    files = "validation-*-of-[0-9]*.parquet"
    columns = ("question_id", "question", "answers", "multiple_choice_answer", "answer_type", "image_id", "image")

    @classmethod
    def toy(cls, options: Options | None = None, images: int = 60) -> Self:
        """Up to five questions about each of ``images`` scenes of the shapes world."""
        from benchmarks.shapes.understanding import vqav2

        return cls.shapes(vqav2(images), options)

    def sample(self, doc_id: int, doc: Doc) -> Sample:
        return self.ask(
            doc_id,
            doc,
            question_id=doc["question_id"],
            group=doc["image_id"],
            stratum=doc["answer_type"] or "",  # null in the test split
            answer=doc["multiple_choice_answer"],  # the annotators' most frequent one
        )

    def metrics(self, samples: Sequence[Sample], answered: Sequence[Answered]) -> list[Metric]:
        """Of all questions and of each answer type."""
        metrics = [self.score(self.metric, samples, answered)]
        for answer_type in ANSWER_TYPES:
            asked, scored = of_stratum(answer_type, samples, answered)
            if asked:
                metrics.append(self.score(f"{self.metric}.{answer_type}", asked, scored))
        return metrics


class Vqav2Test(Vqav2):
    """The test split, whose answers are not public: a run of it gives a file to submit and no score."""

    name = "vqav2_test"
    title = "VQAv2 test"
    task_name = "vqav2_test"
    files = "test-*-of-[0-9]*.parquet"

    def summarize(self, samples: Sequence[Sample], verdicts: Mapping[str, Verdict]) -> tuple[list[Score], list[Metric]]:
        reason = "the answers of the test split are not public"
        scores = [Score(sample.id, sample.group, sample.stratum, None, reason) for sample in samples]
        return scores, [Metric(self.metric, None, None, None, n=0, missing=len(samples))]

    def submission(self, answers: Sequence[tuple[Sample, Json]]) -> Json:
        """lmms-eval's rows for the server, one for each question of the split.

        Raises BenchError where a question has no answer, since the server refuses such a file.
        """
        if len(answers) != len(self.rows):
            raise BenchError(
                f"{len(answers)} of the {len(self.rows)} questions of {self.title} are answered, and the server takes "
                "all or nothing: run it without --limit, and again to repeat what failed"
            )
        return [
            self.harness.results(sample.meta["doc_id"], finding["text"])["submission"] for sample, finding in answers
        ]
