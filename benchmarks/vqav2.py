"""VQAv2 (Goyal et al. 2017, CVPR, arXiv:1612.00837), validation split, by lmms-eval's task ``vqav2_val``.

A reply is compared with ten annotators' answers after VQA's text normalisation; for each annotator in turn it
scores min(1, matches among the other nine / 3), and the question's score is the mean: 0, 0.3, 0.6, 0.9 or 1.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import PROFILE, VERSION, HarnessTask, TaskName
from benchmarks.intervals import clustered_mean
from benchmarks.types import BenchError, Json, JudgeError, Metric, Prediction, Sample, Score, Verdict

if TYPE_CHECKING:
    from datasets import Dataset, Features
    from PIL import Image

TASK: TaskName = "vqav2_val"
METRIC = "exact_match"
ANSWER_TYPES = ("yes/no", "number", "other")


class Vqav2:
    """Rows in the schema of lmms-lab-encoder/VQAv2. A column ``choices`` (how many answers a guesser picks from)
    is only in the shapes world; it gives the chance level and nothing else."""

    name = "vqav2"
    version = "1"
    profile = PROFILE
    task = "answer"

    def __init__(self, rows: Dataset, source: Mapping[str, Json]) -> None:
        """``source`` says where the rows are from, for the record."""
        self.rows = rows
        self._source = source

    @classmethod
    def toy(cls, images: int = 60) -> Vqav2:
        """Up to five questions about each of ``images`` scenes of the shapes world."""
        from datasets import Dataset, Value

        from benchmarks.shapes import vqa
        from benchmarks.shapes.scene import render

        rows: list[dict[str, Any]] = []
        pixels = hashlib.sha256()
        for scene, asked in vqa.rows(images):
            image = render(scene)
            pixels.update(image.tobytes())
            rows.extend({**row, "image": image} for row in asked)
        features = _features()
        features["choices"] = Value("int64")
        return cls(Dataset.from_list(rows, features=features), {"name": "shapes", "pixels_sha256": pixels.hexdigest()})

    @classmethod
    def paper(cls, data_dir: Path) -> Vqav2:
        """The real validation split: the files validation-*.parquet of lmms-lab-encoder/VQAv2 under ``data_dir``.

        Raises BenchError when files are absent, not parquet, or of another schema. datasets keeps an Arrow copy
        of them (34 GB) in its cache (HF_DATASETS_CACHE).
        """
        from datasets import Dataset
        from datasets.exceptions import DatasetGenerationError
        from pyarrow import ArrowInvalid

        files = _validation_files(data_dir)
        try:
            rows = Dataset.from_parquet([str(file) for file in files])
        except (DatasetGenerationError, ArrowInvalid) as error:
            raise BenchError(f"a parquet file in {files[0].parent} is damaged ({error}): download it again") from error
        if absent := _features().keys() - rows.features.keys():
            raise BenchError(f"{files[0].parent} lacks the columns {', '.join(sorted(absent))}: is this VQAv2?")
        return cls(rows, {"name": "VQAv2 validation", "bytes": {file.name: file.stat().st_size for file in files}})

    def describe(self) -> Mapping[str, Json]:
        return {
            "data": {**self._source, "rows": len(self.rows), "sha256": self._digest},
            "judge": {"name": "lmms-eval", "version": VERSION, "task": TASK},
        }

    def samples(self) -> Sequence[Sample]:
        decoding = self.harness.decoding
        return [
            Sample(
                id=f"{self.name}/{doc['question_id']}",
                prompt=self.harness.prompt(doc),
                group=f"{self.name}/{doc['image_id']}",
                stratum=doc["answer_type"],
                images=(partial(self._image, doc_id),),
                decoding=decoding,
                meta={
                    "doc_id": doc_id,
                    "question_id": doc["question_id"],
                    "multiple_choice_answer": doc["multiple_choice_answer"],
                    "choices": doc.get("choices"),
                },
            )
            for doc_id, doc in enumerate(self.harness.docs)
        ]

    def judge(self, samples: Sequence[Sample], predictions: Sequence[Prediction], folder: Path) -> Sequence[Verdict]:
        """There is nothing to look at: the reply itself, raw, is the finding."""
        for prediction in predictions:
            if prediction.text is None:
                raise JudgeError(f"{prediction.id}: VQAv2 needs a text")
        return [Verdict(prediction.id, {"text": prediction.text}) for prediction in predictions]

    def summarize(self, samples: Sequence[Sample], verdicts: Mapping[str, Verdict]) -> tuple[list[Score], list[Metric]]:
        scores = [self._score(sample, verdicts.get(sample.id)) for sample in samples]
        pairs = list(zip(samples, scores, strict=True))
        metrics = [self._metric(METRIC, pairs)]
        for answer_type in ANSWER_TYPES:
            if of_type := [(sample, score) for sample, score in pairs if sample.stratum == answer_type]:
                metrics.append(self._metric(f"{METRIC}.{answer_type}", of_type))
        return scores, metrics

    def export(
        self,
        samples: Sequence[Sample],
        predictions: Mapping[str, Prediction],
        verdicts: Mapping[str, Verdict],
        folder: Path,
        out: Path,
    ) -> None:
        """``submission.json`` as the VQA server takes it: question_id and raw answer, as lmms-eval 0.5.0+ writes it."""
        answers = [
            {"question_id": sample.meta["question_id"], "answer": verdicts[sample.id].finding["text"].strip()}
            for sample in samples
            if sample.id in verdicts and verdicts[sample.id].error is None
        ]
        out.mkdir(parents=True, exist_ok=True)
        (out / "submission.json").write_text(json.dumps(answers), encoding="utf-8")

    @cached_property
    def harness(self) -> HarnessTask:
        return HarnessTask(TASK, self.rows)

    @cached_property
    def _digest(self) -> str:
        """sha256 of all columns but the image, whose 34 GB take too long to read at every start."""
        digest = hashlib.sha256()
        for doc in self.rows.remove_columns("image"):
            digest.update(json.dumps(doc, sort_keys=True).encode())
        return digest.hexdigest()

    def _image(self, doc_id: int) -> Image.Image:
        (image,) = self.harness.images(doc_id)
        return image

    def _score(self, sample: Sample, verdict: Verdict | None) -> Score:
        value = None
        if verdict is not None:
            value = float(self.harness.results(sample.meta["doc_id"], verdict.finding["text"])[METRIC])
        return Score(sample.id, sample.group, sample.stratum, value)

    def _metric(self, name: str, pairs: Sequence[tuple[Sample, Score]]) -> Metric:
        """The task's own aggregate; its interval takes questions about one image to depend on each other."""
        scored = [(score.value, score.group) for _, score in pairs if score.value is not None]
        values = [value for value, _ in scored]
        interval = clustered_mean(values, [group for _, group in scored])
        return Metric(
            name=name,
            value=self.harness.aggregate(METRIC, values) if values else None,
            low=interval.low,
            high=interval.high,
            n=len(values),
            missing=len(pairs) - len(values),
            chance=_chance([sample for sample, _ in pairs]),
        )


def _chance(samples: Sequence[Sample]) -> float | None:
    choices = [sample.meta["choices"] for sample in samples]
    return None if None in choices else sum(1 / number for number in choices) / len(choices)


def _features() -> Features:
    """The columns of lmms-lab-encoder/VQAv2."""
    from datasets import Features, Image, List, Value

    answer = {"answer": Value("string"), "answer_confidence": Value("string"), "answer_id": Value("int64")}
    return Features(
        {
            "question_type": Value("string"),
            "multiple_choice_answer": Value("string"),
            "answers": List(answer),
            "image_id": Value("int64"),
            "answer_type": Value("string"),
            "question_id": Value("int64"),
            "question": Value("string"),
            "image": Image(),
        }
    )


def _validation_files(data_dir: Path) -> list[Path]:
    """Every shard of the validation split; the publisher writes their number into each name."""
    files = sorted(data_dir.rglob("validation-*-of-[0-9]*.parquet"))
    if not files:
        raise BenchError(
            f"no VQAv2 in {data_dir}: run `hf download lmms-lab-encoder/VQAv2 --repo-type dataset "
            f"--include 'data/validation-*' --local-dir {data_dir}` (34 GB)"
        )
    expected = int(re.split("[-.]", files[0].name)[-2])
    if len(files) != expected:
        raise BenchError(f"{len(files)} shards of VQAv2 in {files[0].parent}, {expected} expected: download it again")
    return files
