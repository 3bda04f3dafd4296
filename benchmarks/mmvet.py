"""MM-Vet (Yu et al. 2024, ICML, arXiv:2308.02490), by lmms-eval's task ``mmvet``.

A chat judge compares each free reply with the reference answer and gives 0.0 to 1.0. It may be asked several times
(the authors average five runs): the score is the mean, and how far apart the runs lie is reported.
"""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from benchmarks.harness import mmvet_judge_prompt, mmvet_read
from benchmarks.types import Json, JudgeError, Metric, Prediction, Sample, Verdict
from benchmarks.understanding import Answered, Doc, ToJudge, Understanding, judged

CAPABILITIES = ("rec", "ocr", "know", "gen", "spat", "math")
#: mmvet_process_results (lmms_eval/tasks/mmvet/utils.py) goes on to the next temperature where a reply is no number,
#: and scores 0 after the last one.
TEMPERATURES, MAX_TOKENS = (0.0, 0.5, 1.0, 1.5), 128


class MmVet(Understanding):
    """Rows in the schema of lmms-lab-encoder/MMVet. Some images have several questions."""

    name = "mmvet"
    title = "MM-Vet"
    task_name = "mmvet"
    metric = "gpt_eval_score"
    unit = "points"
    full_marks = 100.0
    files = "test-*-of-[0-9]*.parquet"
    columns = ("question_id", "question", "answer", "capability", "image")

    def describe(self) -> Mapping[str, Json]:
        described = dict(super().describe())
        chat = None if self.options.judge is None else self.options.judge.describe()
        described["judge"] = {**described["judge"], "chat": chat, "runs": self.options.judge_runs}
        return described

    def sample(self, doc_id: int, doc: Doc) -> Sample:
        return self.ask(
            doc_id,
            doc,
            question_id=doc["question_id"],
            group=self._images[doc_id],
            stratum=doc["capability"],
            answer=doc["answer"],
        )

    def judge(self, samples: Sequence[Sample], predictions: Sequence[Prediction], folder: Path) -> Sequence[Verdict]:
        """The reply, and the judge's readable replies to it, one per run. One run without makes the sample missing."""
        texts = [self.reply(prediction) for prediction in predictions]
        if self.options.judge is None:
            return [Verdict(sample.id, error="MM-Vet needs a judge: name one with --judge") for sample in samples]
        runs = range(self.options.judge_runs)
        asked = [
            ToJudge(f"{sample.id}/{run}", self._prompt(sample, text), mmvet_read)
            for sample, text in zip(samples, texts, strict=True)
            for run in runs
        ]
        replies = iter(judged(self.options.judge, asked, TEMPERATURES, MAX_TOKENS))
        return [
            self._verdict(sample, text, [next(replies) for _ in runs])
            for sample, text in zip(samples, texts, strict=True)
        ]

    def _prompt(self, sample: Sample, reply: str) -> str:
        return mmvet_judge_prompt(self.harness.docs[sample.meta["doc_id"]], reply)

    @staticmethod
    def _verdict(sample: Sample, text: str, replies: Sequence[str | JudgeError]) -> Verdict:
        for reply in replies:
            if isinstance(reply, JudgeError):
                return Verdict(sample.id, error=f"JudgeError: {reply}")
        return Verdict(sample.id, {"text": text, "judge": list(replies)})

    def result(self, sample: Sample, finding: Json) -> Mapping[str, Json]:
        """The task's items, one per run of the judge."""
        doc_id = sample.meta["doc_id"]
        runs = [self.harness.results(doc_id, finding["text"], reply) for reply in finding["judge"]]
        return {self.metric: [run[self.metric] for run in runs]}

    def value(self, sample: Sample, result: Mapping[str, Json]) -> float:
        return statistics.fmean(item["score"] for item in result[self.metric])

    def metrics(self, samples: Sequence[Sample], answered: Sequence[Answered]) -> list[Metric]:
        """Of all questions and of each capability; and with several runs ``judge_noise``, the standard deviation of
        the score between runs."""
        overall = self.score(self.metric, samples, answered)
        metrics = [overall]
        if answered and len(answered[0].result[self.metric]) > 1:
            noise = statistics.stdev(self._runs(self.metric, answered))
            metrics.append(
                replace(overall, name="judge_noise", value=noise, low=None, high=None, higher_is_better=False)
            )
        for capability in CAPABILITIES:
            # By substring, as mmvet_aggregate_results does.
            asked = [sample for sample in samples if capability in sample.stratum]
            scored = [one for one in answered if capability in one.sample.stratum]
            if asked:
                metrics.append(self.score(f"{self.metric}.{capability}", asked, scored))
        return metrics

    def aggregate(self, key: str, answered: Sequence[Answered]) -> float:
        return statistics.fmean(self._runs(key, answered))

    def _runs(self, key: str, answered: Sequence[Answered]) -> list[float]:
        """lmms-eval's score of each run of the judge."""
        runs = zip(*(one.result[key] for one in answered), strict=True)
        return [float(self.harness.aggregate(key, list(items))) for items in runs]

    def submission(self, answers: Sequence[tuple[Sample, Json]]) -> Json:
        """What the authors' evaluator (mm-vet_evaluator.py) takes: question id -> reply."""
        return {sample.meta["question_id"]: finding["text"] for sample, finding in answers}

    @cached_property
    def _images(self) -> Sequence[str]:
        """What tells the rows' images apart: the rows themselves do not say which show the same one."""
        from datasets import Image

        encoded = self.rows.select_columns(["image"]).cast_column("image", Image(decode=False))
        return [hashlib.sha256(row["image"]["bytes"]).hexdigest()[:16] for row in encoded]
