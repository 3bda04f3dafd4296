"""What the columns of questions about images share: rows of an official schema, asked and scored by lmms-eval.

A column names its task, the unit of resampling and its metrics; prompt, images, decoding, rule and aggregation are
the task's own, through ``harness``.
"""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

from benchmarks import datasets
from benchmarks.harness import PROFILE, VERSION, HarnessTask, Profile, TaskName
from benchmarks.intervals import Interval, clustered_mean
from benchmarks.types import BenchError, Decoding, Json, JudgeError, Metric, Prediction, Sample, Score, Verdict

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL import Image

    from benchmarks.judges.chat import Chat

Doc = Mapping[str, Json]


@dataclass(frozen=True)
class Options:
    """How a column is asked and scored. ``judge`` is for MMBench and MM-Vet, ``judge_runs`` (>= 1) for MM-Vet."""

    profile: Profile = PROFILE
    judge: Chat | None = None
    judge_runs: int = 1


@dataclass(frozen=True)
class Answered:
    """A sample with a reply: what the task made of it, and the question's score in [0, 1]."""

    sample: Sample
    result: Mapping[str, Json]
    value: float


@dataclass(frozen=True)
class ToJudge:
    """A question to a judge. ``key`` names it; ``read`` makes of a reply what the rule needs, None of garbage."""

    key: str
    prompt: str
    read: Callable[[str], object]


class Understanding(ABC):
    """Rows in an official schema. A column ``choices`` (how many answers a guesser picks from) is only in the shapes
    world; it gives the chance level and nothing else."""

    name: str
    title: str  # as its authors write it
    #: lmms-eval's names of the task and of its score.
    task_name: TaskName
    metric: str
    unit: str = "fraction"
    #: What the metric gives for all questions right.
    full_marks: float = 1.0
    #: The parquet files of the scored split, anywhere under the data set's folder, and those of their columns that
    #: the task or the column reads.
    files: str
    columns: tuple[str, ...]
    version: str = "1"
    task: str = "answer"

    def __init__(self, rows: Dataset, source: Mapping[str, Json], options: Options | None = None) -> None:
        """``source`` says where the rows are from, for the record."""
        self.rows = rows
        self.options = options or Options()
        self.profile: str = self.options.profile
        self._source = source
        self._decoded: tuple[int, list[Image.Image]] = (-1, [])

    @classmethod
    def toy(cls, options: Options | None = None) -> Self:
        """Questions about scenes of the shapes world."""
        from benchmarks.shapes.understanding import COLUMNS

        _, rows = COLUMNS[cls.name]
        return cls.shapes(rows(), options)

    @classmethod
    def shapes(cls, rows: Dataset, options: Options | None = None) -> Self:
        """The shapes world's rows; they are few, so the record has a digest of their pixels too."""
        return cls(rows, {"name": "shapes", "pixels_sha256": _pixels_digest(rows)}, options)

    @classmethod
    def paper(cls, folder: Path, options: Options | None = None) -> Self:
        """The real split: the publisher's parquet files anywhere under ``folder``.

        Raises BenchError when files are absent, not parquet, or of another schema. datasets keeps an Arrow copy of
        them in its cache (HF_DATASETS_CACHE).
        """
        files = _shards(folder, cls)
        source: dict[str, Json] = {"name": cls.title, "bytes": {file.name: file.stat().st_size for file in files}}
        if (folder / "revision.json").is_file():  # fetched by this suite, so the size of each file is known
            datasets.locate(cls.name, folder.parent)
            source["revision"] = datasets.revision(cls.name, folder.parent)
        return cls(_read(files, cls, _fetch_command(folder, cls)), source, options)

    # What a column says ---------------------------------------------------------------------------------------------

    @abstractmethod
    def sample(self, doc_id: int, doc: Doc) -> Sample:
        """One row as a question, made by ``ask``."""

    def value(self, sample: Sample, result: Mapping[str, Json]) -> float:
        """The score of one question in [0, 1], from what the task made of the reply."""
        return float(result[self.metric])

    def metrics(self, samples: Sequence[Sample], answered: Sequence[Answered]) -> list[Metric]:
        return [self.score(self.metric, samples, answered)]

    # What all columns do --------------------------------------------------------------------------------------------

    def describe(self) -> Mapping[str, Json]:
        return {
            "data": {**self._source, "rows": len(self.rows), "sha256": self._digest},
            "judge": {"name": "lmms-eval", "version": VERSION, "task": self.task_name},
        }

    def samples(self) -> Sequence[Sample]:
        return [self.sample(doc_id, doc) for doc_id, doc in enumerate(self.harness.docs)]

    def ask(
        self,
        doc_id: int,
        doc: Doc,
        *,
        question_id: str | int,
        group: str | int,
        answer: Json,
        stratum: str = "",
        images: int = 1,
        choices: int | None = None,
    ) -> Sample:
        """``group`` and ``question_id`` as the data set writes them; ``answer`` is shown beside a reply."""
        return Sample(
            id=f"{self.name}/{question_id}",
            prompt=self.harness.prompt(doc),
            group=f"{self.name}/{group}",
            stratum=stratum,
            images=tuple(partial(self._image, doc_id, index) for index in range(images)),
            decoding=self._decoding,
            meta={
                "doc_id": doc_id,
                "question_id": question_id,
                "answer": answer,
                "choices": doc.get("choices", choices),
            },
        )

    def judge(self, samples: Sequence[Sample], predictions: Sequence[Prediction], folder: Path) -> Sequence[Verdict]:
        """There is nothing to look at: the reply itself, raw, is the finding."""
        return [Verdict(prediction.id, {"text": self.reply(prediction)}) for prediction in predictions]

    @property
    def judged_together(self) -> int:
        """Enough to keep a chat judge busy to the end of a batch; else so many that storing them costs nothing."""
        judge = self.options.judge
        return 1024 if judge is None else 4 * judge.concurrency

    def longest_first(self, samples: Sequence[Sample]) -> list[Sample]:
        """Samples by the pixels of their images, then by the length of their prompts; like sizes are neighbours."""

        def key(sample: Sample) -> tuple[object, ...]:
            sizes = self.harness.image_sizes(sample.meta["doc_id"])
            return -sum(width * height for width, height in sizes), sizes, -len(sample.prompt)

        return sorted(samples, key=key)

    def reply(self, prediction: Prediction) -> str:
        if prediction.text is None:
            raise JudgeError(f"{prediction.id}: {self.title} needs a text")
        return prediction.text

    def summarize(self, samples: Sequence[Sample], verdicts: Mapping[str, Verdict]) -> tuple[list[Score], list[Metric]]:
        answered = {
            sample.id: self._answered(sample, verdicts[sample.id]) for sample in samples if sample.id in verdicts
        }
        scores = [
            Score(sample.id, sample.group, sample.stratum, answered[sample.id].value if sample.id in answered else None)
            for sample in samples
        ]
        return scores, self.metrics(samples, list(answered.values()))

    def result(self, sample: Sample, finding: Json) -> Mapping[str, Json]:
        """What the task makes of one finding: its metric's name -> item to aggregate."""
        return self.harness.results(sample.meta["doc_id"], finding["text"])

    def score(self, name: str, samples: Sequence[Sample], answered: Sequence[Answered], key: str = "") -> Metric:
        """The task's own aggregate of ``key`` (default: the column's metric), with our interval."""
        value = self.aggregate(key or self.metric, answered) if answered else None
        return self.measured(name, value, self.interval(answered), len(answered), samples)

    def measured(self, name: str, value: float | None, interval: Interval, n: int, samples: Sequence[Sample]) -> Metric:
        """``value`` in the column's unit, with the interval of a mean in [0, 1]; ``samples`` are all that were
        asked."""
        chance = self.chance(samples)
        return Metric(
            name=name,
            value=value,
            low=None if interval.low is None else interval.low * self.full_marks,
            high=None if interval.high is None else interval.high * self.full_marks,
            n=n,
            missing=len(samples) - n,
            unit=self.unit,
            chance=None if chance is None else chance * self.full_marks,
        )

    def aggregate(self, key: str, answered: Sequence[Answered]) -> float:
        """lmms-eval's number for at least one question, in the column's unit."""
        return float(self.harness.aggregate(key, [one.result[key] for one in answered]))

    def interval(self, answered: Sequence[Answered]) -> Interval:
        """That of the mean score in [0, 1]; questions of one group depend on each other."""
        return clustered_mean([one.value for one in answered], [one.sample.group for one in answered])

    def chance(self, samples: Sequence[Sample]) -> float | None:
        """A guesser's mean score in [0, 1]; None where the number of answers is not known."""
        choices = [sample.meta["choices"] for sample in samples]
        return None if None in choices else sum(1 / number for number in choices) / len(choices)

    def submission(self, answers: Sequence[tuple[Sample, Json]]) -> Json:
        """What the benchmark's own scripts read, from samples with their findings."""
        return [
            {"question_id": sample.meta["question_id"], "answer": finding["text"].strip()}
            for sample, finding in answers
        ]

    def export(
        self,
        samples: Sequence[Sample],
        predictions: Mapping[str, Prediction],
        verdicts: Mapping[str, Verdict],
        folder: Path,
        out: Path,
    ) -> None:
        """``submission.json``."""
        out.mkdir(parents=True, exist_ok=True)
        content = json.dumps(self.submission(findings(samples, verdicts)))
        (out / "submission.json").write_text(content, encoding="utf-8")

    @cached_property
    def harness(self) -> HarnessTask:
        return HarnessTask(self.task_name, self.rows, self.options.profile)

    @cached_property
    def _decoding(self) -> Decoding:
        return self.harness.decoding

    @cached_property
    def _digest(self) -> str:
        """sha256 of all columns but the images, which take too long to read at every start (VQAv2's are 34 GB)."""
        digest = hashlib.sha256()
        for doc in self.harness.docs:
            digest.update(json.dumps(doc, sort_keys=True).encode())
        return digest.hexdigest()

    def _image(self, doc_id: int, index: int) -> Image.Image:
        """The task decodes all images of a row at once, so those of the last row are kept: SEED-Bench has 8 frames."""
        decoded = self._decoded
        if decoded[0] != doc_id:
            decoded = self._decoded = (doc_id, self.harness.images(doc_id))
        return decoded[1][index]

    def _answered(self, sample: Sample, verdict: Verdict) -> Answered:
        result = self.result(sample, verdict.finding)
        return Answered(sample, result, self.value(sample, result))


def findings(samples: Sequence[Sample], verdicts: Mapping[str, Verdict]) -> list[tuple[Sample, Json]]:
    """The samples that have a verdict without error, each with its finding."""
    return [
        (sample, verdicts[sample.id].finding)
        for sample in samples
        if sample.id in verdicts and verdicts[sample.id].error is None
    ]


def of_stratum(
    stratum: str, samples: Sequence[Sample], answered: Sequence[Answered]
) -> tuple[list[Sample], list[Answered]]:
    return (
        [sample for sample in samples if sample.stratum == stratum],
        [one for one in answered if one.sample.stratum == stratum],
    )


def judged(
    judge: Chat, questions: Sequence[ToJudge], temperatures: Sequence[float], max_tokens: int
) -> list[str | JudgeError]:
    """One reply each that can be read, from one try at each temperature in turn; or why there is none.

    The judge is asked under ``KEY/TRY``, with tries counted from 0.
    """
    from benchmarks.judges.chat import Question, ask_many

    replies: dict[str, str | JudgeError] = {}
    pending = questions
    for attempt, temperature in enumerate(temperatures):
        asked = [Question(one.prompt, temperature, max_tokens, f"{one.key}/{attempt}") for one in pending]
        unread = []
        for one, reply in zip(pending, ask_many(judge, asked), strict=True):
            if isinstance(reply, JudgeError):
                replies[one.key] = reply
            elif one.read(reply.text) is not None:
                replies[one.key] = reply.text
            else:
                replies[one.key] = JudgeError(f"the judge's reply cannot be read: {reply.text[:80]!r}")
                unread.append(one)
        pending = unread
    return [replies[one.key] for one in questions]


def _pixels_digest(rows: Dataset) -> str:
    """sha256 over all images of the rows, in their order."""
    digest = hashlib.sha256()
    for row in rows:
        for value in row.values():
            for image in value if isinstance(value, list) else [value]:
                if hasattr(image, "tobytes"):  # a PIL image
                    digest.update(image.tobytes())
    return digest.hexdigest()


def _fetch_command(folder: Path, column: type[Understanding]) -> str:
    root = None if folder.parent == datasets.data_dir() else folder.parent
    return f"run `{datasets.fetch_command(column.name, root)}`"


def _shards(folder: Path, column: type[Understanding]) -> list[Path]:
    """Every file of the scored split; the publisher writes their number into each name: test-00000-of-00002.parquet,
    or test-00000-of-00002-a25dbe3b44c4fda6.parquet of older ones."""
    files = sorted(folder.rglob(column.files))
    if not files:
        raise BenchError(f"no {column.title} in {folder}: {_fetch_command(folder, column)}")
    expected = int(re.findall(r"-of-(\d+)", files[0].name)[-1])
    if len(files) != expected:
        raise BenchError(
            f"{len(files)} shards of {column.title} in {files[0].parent}, {expected} expected: "
            f"{_fetch_command(folder, column)}"
        )
    return files


def _refused_by_disk(error: BaseException | None) -> OSError | None:
    """The full, read-only or absent disk behind an error; those of a damaged file have no number."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error
        error = error.__cause__ or error.__context__
    return None


def _read(files: Sequence[Path], column: type[Understanding], fetch: str) -> Dataset:
    from datasets import Dataset
    from datasets.exceptions import DatasetGenerationError
    from pyarrow import ArrowInvalid

    try:
        rows = Dataset.from_parquet([str(file) for file in files])
    except (DatasetGenerationError, ArrowInvalid, OSError) as error:
        if refused := _refused_by_disk(error):
            raise BenchError(
                f"datasets cannot keep {column.title} in its cache ({refused}): set HF_DATASETS_CACHE to another folder"
            ) from error
        raise BenchError(f"a parquet file in {files[0].parent} is damaged ({error}): delete it and {fetch}") from error
    if absent := set(column.columns) - set(rows.column_names):
        raise BenchError(
            f"{files[0].parent} lacks the columns {', '.join(sorted(absent))}: is this {column.title}? "
            f"If not, delete it and {fetch}"
        )
    return rows
