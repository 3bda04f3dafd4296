"""SEED-Bench (Li et al. 2023, arXiv:2307.16125), by lmms-eval's task ``seedbench``.

The first character of the reply is the chosen letter, whatever it is: "The answer is A" is a T, and wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

from benchmarks.types import Json, Metric, Sample
from benchmarks.understanding import Answered, Doc, Understanding, of_stratum


class SeedBench(Understanding):
    """Rows in the schema of lmms-lab-encoder/SEED-Bench. The paper's column is almost surely ``seed_image``."""

    name = "seedbench"
    title = "SEED-Bench"
    task_name = "seedbench"
    metric = "seed_all"
    files = "test-*-of-[0-9]*.parquet"
    columns = (
        "question_id",
        "question",
        "choice_a",
        "choice_b",
        "choice_c",
        "choice_d",
        "answer",
        "data_id",
        "data_type",
        "image",
    )

    def sample(self, doc_id: int, doc: Doc) -> Sample:
        return self.ask(
            doc_id,
            doc,
            question_id=doc["question_id"],
            group=doc["data_id"],
            stratum=doc["data_type"],
            answer=doc["answer"],
            images=self._frames[doc_id],
            choices=4,
        )

    def value(self, sample: Sample, result: Mapping[str, Json]) -> float:
        return float(self.harness.aggregate(self.metric, [result[self.metric]]))

    def metrics(self, samples: Sequence[Sample], answered: Sequence[Answered]) -> list[Metric]:
        """``seed_image``, ``seed_video`` and ``seed_all``, as far as there are such questions."""
        metrics = []
        for data_type in ("image", "video"):
            asked, scored = of_stratum(data_type, samples, answered)
            if asked:
                metrics.append(self.score(f"seed_{data_type}", asked, scored, key=f"seed_{data_type}"))
        return [*metrics, self.score(self.metric, samples, answered)]

    @cached_property
    def _frames(self) -> Sequence[int]:
        """How many images each row has: one, or the frames of a video. Nothing is decoded for it."""
        import pyarrow.compute

        lengths = pyarrow.compute.list_value_length(self.rows.with_format("arrow")["image"])
        return [int(length) for length in lengths.to_pylist()]
