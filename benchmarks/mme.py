"""MME (Fu et al. 2023, arXiv:2306.13394), by lmms-eval's task ``mme``: two yes/no questions about each image.

A category scores the percentage of questions right plus the percentage of images with both right, 200 at most;
perception is the sum over ten categories (2000 at most), cognition that over four (800).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

from benchmarks.intervals import Interval, clustered_mean, macro_mean
from benchmarks.paths import within
from benchmarks.types import Json, Metric, Prediction, Sample, Verdict
from benchmarks.understanding import Answered, Doc, Understanding, findings, of_stratum

#: eval_type_dict of lmms_eval/tasks/mme/utils.py; whatever is not in it counts as cognition.
PERCEPTION = (
    "existence",
    "count",
    "position",
    "color",
    "posters",
    "celebrity",
    "scene",
    "landmark",
    "artwork",
    "OCR",
)
#: The highest score of a category, and that of a guesser: 50 for its questions and 25 for its images (section 2.2).
FULL_MARKS, CHANCE = 200.0, 75.0

ScoreName = Literal["mme_perception_score", "mme_cognition_score"]


class Mme(Understanding):
    """Rows in the schema of lmms-lab-encoder/MME, where the two questions about an image share a question_id."""

    name = "mme"
    title = "MME"
    task_name = "mme"
    unit = "points"
    files = "test-*-of-[0-9]*.parquet"
    columns = ("question_id", "question", "answer", "category", "image")

    def sample(self, doc_id: int, doc: Doc) -> Sample:
        return self.ask(
            doc_id,
            doc,
            question_id=f"{doc['question_id']}/{self._numbers[doc_id]}",
            group=doc["question_id"],
            stratum=doc["category"],
            answer=doc["answer"],
        )

    def value(self, sample: Sample, result: Mapping[str, Json]) -> float:
        return float(result[score_name(sample.stratum)]["score"])

    def metrics(self, samples: Sequence[Sample], answered: Sequence[Answered]) -> list[Metric]:
        """Perception and cognition, then every category. An image with an unanswered question is missing."""
        asked_about = Counter(sample.group for sample in samples)
        answered_about = Counter(one.sample.group for one in answered)
        whole = [one for one in answered if answered_about[one.sample.group] == asked_about[one.sample.group]]
        totals: list[Metric] = []
        categories: list[Metric] = []
        for name in ("mme_perception_score", "mme_cognition_score"):
            asked = [sample for sample in samples if score_name(sample.stratum) == name]
            scored = [one for one in whole if score_name(one.sample.stratum) == name]
            strata = list(dict.fromkeys(sample.stratum for sample in asked))
            parts = []
            for stratum in strata:
                of_category = of_stratum(stratum, asked, scored)
                parts.append(pairs_mean(of_category[1]))
                categories.append(self._metric(f"{name}.{stratum}", *of_category, parts[-1], 1))
            if asked:
                totals.append(self._metric(name, asked, scored, macro_mean(parts), len(parts)))
        return totals + categories

    def _metric(
        self, name: str, samples: Sequence[Sample], answered: Sequence[Answered], mean: Interval, categories: int
    ) -> Metric:
        """A sum over so many categories, from the interval of their mean share of full marks."""
        key = score_name(samples[0].stratum)
        marks = FULL_MARKS * categories
        return Metric(
            name=name,
            # Where a category has no whole pair, a sum over the others would be another number.
            value=None if mean.value is None else self.aggregate(key, answered),
            low=None if mean.low is None else mean.low * marks,
            high=None if mean.high is None else mean.high * marks,
            n=len(answered),
            missing=len(samples) - len(answered),
            unit=self.unit,
            chance=CHANCE * categories,
        )

    def export(
        self,
        samples: Sequence[Sample],
        predictions: Mapping[str, Prediction],
        verdicts: Mapping[str, Verdict],
        folder: Path,
        out: Path,
    ) -> None:
        """``CATEGORY.txt`` as the authors' eval_tool/calculation.py reads it: image, question, answer, reply."""
        lines: dict[str, list[str]] = {}
        for sample, finding in findings(samples, verdicts):
            doc = self.harness.docs[sample.meta["doc_id"]]
            cells = (doc["question_id"].rsplit("/", 1)[-1], doc["question"], doc["answer"], finding["text"])
            lines.setdefault(sample.stratum, []).append("\t".join(" ".join(cell.split()) for cell in cells) + "\n")
        out.mkdir(parents=True, exist_ok=True)
        for category, rows in lines.items():
            within(out, f"{category}.txt").write_text("".join(rows), encoding="utf-8")

    @cached_property
    def _numbers(self) -> list[int]:
        """Of each row, how many rows about the same image come before it."""
        seen: Counter[str] = Counter()
        numbers = []
        for question_id in self.harness.docs["question_id"]:
            numbers.append(seen[question_id])
            seen[question_id] += 1
        return numbers


def score_name(category: str) -> ScoreName:
    return "mme_perception_score" if category in PERCEPTION else "mme_cognition_score"


def pairs_mean(answered: Sequence[Answered]) -> Interval:
    """The mean over images of their share of full marks: 0, 1/4 with one question right, 1 with both."""
    right: Counter[str] = Counter()
    for one in answered:
        right[one.sample.group] += int(one.value)
    return clustered_mean([(0.0, 0.25, 1.0)[number] for number in right.values()], list(right))
