"""MMBench (Liu et al. 2024, ECCV, arXiv:2307.06281), English dev split, by lmms-eval's task ``mmbench_en_dev``.

A question is asked once for each rotation of its options, and is right only if all of its rotations are. Where the
rule reads no letter in a reply, a chat judge says which option was meant; without a judge the rule of
``mmbench_en_dev_static`` looks for a letter more patiently.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness import (
    TaskName,
    mmbench_extracted,
    mmbench_inferred,
    mmbench_judge_prompt,
    mmbench_read,
)
from benchmarks.intervals import clustered_mean
from benchmarks.types import BenchError, Json, JudgeError, Metric, Prediction, Sample, Verdict
from benchmarks.understanding import (
    Answered,
    Doc,
    Options,
    ToJudge,
    Understanding,
    findings,
    judged,
    of_stratum,
)

if TYPE_CHECKING:
    from datasets import Dataset

#: Rotations of question q have the indices q + 1,000,000 r (eval_result, lmms_eval/tasks/mmbench/mmbench_evals.py).
ROTATION = 1_000_000
#: extract_answer_from_item tries three times, get_chat_response at temperature 0 and with 256 tokens.
TEMPERATURES, MAX_TOKENS = (0.0, 0.0, 0.0), 256


class MmBench(Understanding):
    """Rows in the schema of lmms-lab-encoder/MMBench (en)."""

    name = "mmbench"
    title = "MMBench"
    metric = "gpt_eval_score"
    unit = "percent"
    full_marks = 100.0
    files = "en/dev-*-of-[0-9]*.parquet"
    columns = ("index", "question", "hint", "answer", "A", "B", "C", "D", "category", "L2-category", "image")

    def __init__(self, rows: Dataset, source: Mapping[str, Json], options: Options | None = None) -> None:
        super().__init__(rows, source, options)
        # blip3o-0.3.0 has no static mode: without a judge, what it would have been asked is missing.
        self._static = self.options.judge is None and self.options.profile == "lmms-0.7.3"
        self.task_name: TaskName = "mmbench_en_dev_static" if self._static else "mmbench_en_dev"

    def describe(self) -> Mapping[str, Json]:
        described = dict(super().describe())
        if self.options.judge is not None:
            described["judge"] = {**described["judge"], "chat": self.options.judge.describe()}
        return described

    def sample(self, doc_id: int, doc: Doc) -> Sample:
        options = [doc[letter] for letter in "ABCD"]
        index = int(doc["index"])  # a text in an early upload
        return self.ask(
            doc_id,
            doc,
            question_id=index,
            group=index % ROTATION,
            stratum=doc["L2-category"],
            answer=doc["answer"],
            choices=sum(option not in (None, "", "nan") for option in options),
        )

    def judge(self, samples: Sequence[Sample], predictions: Sequence[Prediction], folder: Path) -> Sequence[Verdict]:
        """In the static mode the reply is the finding; else, beside it, the judge's reply, or None where the rule
        reads a letter without asking."""
        if self._static:
            return super().judge(samples, predictions, folder)
        texts = {prediction.id: self.reply(prediction) for prediction in predictions}
        asked = [question for sample in samples for question in self._to_judge(sample, texts[sample.id])]
        replies: dict[str, str | JudgeError | None] = dict.fromkeys(texts)
        if self.options.judge is None:
            replies |= {one.key: JudgeError("no letter in the reply: name a judge with --judge") for one in asked}
        else:
            keys = [one.key for one in asked]
            replies |= dict(zip(keys, judged(self.options.judge, asked, TEMPERATURES, MAX_TOKENS), strict=True))
        return [
            Verdict(key, error=f"JudgeError: {reply}")
            if isinstance(reply, JudgeError)
            else Verdict(key, {"text": texts[key], "judge": reply})
            for key, reply in replies.items()
        ]

    def _to_judge(self, sample: Sample, reply: str) -> list[ToJudge]:
        doc = self.harness.docs[sample.meta["doc_id"]]
        if mmbench_inferred(doc, reply) is not None:
            return []
        return [ToJudge(sample.id, mmbench_judge_prompt(doc, reply), partial(mmbench_read, doc))]

    def result(self, sample: Sample, finding: Json) -> Mapping[str, Json]:
        """``letter``, that was read in the reply or None. What the finding holds decides between the modes, so that a
        stored run is scored again without a judge."""
        doc, reply = self.harness.docs[sample.meta["doc_id"]], finding["text"]
        letter = mmbench_inferred(doc, reply)
        if letter is None and "judge" in finding:
            letter = mmbench_read(doc, finding["judge"])
        elif letter is None and not self._static:
            raise BenchError(f"{sample.id} was run in MMBench's static mode: run it again to ask a judge")
        elif letter is None:
            letter = mmbench_extracted(doc, reply)
        return {"letter": letter}

    def value(self, sample: Sample, result: Mapping[str, Json]) -> float:
        return float(result["letter"] == sample.meta["answer"])

    def metrics(self, samples: Sequence[Sample], answered: Sequence[Answered]) -> list[Metric]:
        """Of all questions and of each L2 category."""
        metrics = [self._circular(self.metric, samples, answered)]
        for category in sorted({sample.stratum for sample in samples}):
            of_category = of_stratum(category, samples, answered)
            metrics.append(self._circular(f"{self.metric}.{category}", *of_category))
        return metrics

    def _circular(self, name: str, samples: Sequence[Sample], answered: Sequence[Answered]) -> Metric:
        """100 for a question with all rotations right, 0 with one wrong (eval_sub_data); it is missing where that
        hangs on a rotation that was not scored."""
        values = {one.sample.id: one.value for one in answered}
        rotations: dict[str, list[float | None]] = {}
        for sample in samples:
            rotations.setdefault(sample.group, []).append(values.get(sample.id))
        hits = {
            question: float(all(scored))
            for question, scored in rotations.items()
            if None not in scored or 0.0 in scored
        }
        interval = clustered_mean(list(hits.values()), list(hits))
        value = None if interval.value is None else interval.value * self.full_marks
        return self.measured(name, value, interval, sum(len(rotations[question]) for question in hits), samples)

    def chance(self, samples: Sequence[Sample]) -> float | None:
        """A guesser must be lucky in every rotation."""
        rotations: dict[str, list[int]] = {}
        for sample in samples:
            rotations.setdefault(sample.group, []).append(sample.meta["choices"])
        return math.fsum(1 / math.prod(choices) for choices in rotations.values()) / len(rotations)

    def export(
        self,
        samples: Sequence[Sample],
        predictions: Mapping[str, Prediction],
        verdicts: Mapping[str, Verdict],
        folder: Path,
        out: Path,
    ) -> None:
        """``submission.xlsx`` as the OpenCompass server takes it and lmms-eval writes it."""
        import pandas as pd

        answers = findings(samples, verdicts)
        items = [self.harness.results(sample.meta["doc_id"], finding["text"]) for sample, finding in answers]
        out.mkdir(parents=True, exist_ok=True)
        pd.DataFrame([item["submission"] for item in items]).to_excel(out / "submission.xlsx", index=False)
