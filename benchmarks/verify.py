"""Is a stored run what it says? Its digests, counts and scores are computed again, and what differs is named.

Nothing is signed: this finds what was damaged or edited, and not what somebody made anew from one end to the other.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import store
from benchmarks.limit import limited
from benchmarks.predicting import seed_for
from benchmarks.runner import IncompleteError, judge_of, record, scored
from benchmarks.spec import Environment, RunSpec, read_spec
from benchmarks.types import BenchError, Benchmark, Json, Prediction, RunRecord, Sample, Score, Verdict, printable

#: Computed again on another machine, a Fréchet distance differs by less than this.
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Difference:
    """What is not as it should be: the file, relative to the run, the sample where it is of one, and how it differs."""

    file: str
    sample: str
    what: str

    def __str__(self) -> str:
        return printable(": ".join(part for part in (self.file, self.sample, self.what) if part))


@dataclass(frozen=True)
class Checked:
    """``differences`` in the order of the files; ``left_out`` says what could not be checked here, and why."""

    samples: int
    differences: tuple[Difference, ...]
    left_out: tuple[str, ...]


def verify(root: Path, benchmarks: Mapping[str, Benchmark | BenchError], weights_sha256: str | None = None) -> Checked:
    """Check the run in ``root``, which is only read.

    ``benchmarks`` has each benchmark of the run, under its stored profile, or why it cannot be loaded: then nothing of
    it is scored again. ``weights_sha256`` is the digest of the model's weights as they are here, None where they are
    not. Raises BenchError where ``root`` holds no run.
    """
    spec, environment = read_spec(root)
    differences: list[Difference] = []
    left_out: list[str] = []
    recorded: dict[str, RunRecord] = {}
    try:
        records = store.read_records(root)
        recorded = {one.benchmark: one for one in records}
        differences += _twice("run.json", [one.benchmark for one in records])
    except BenchError as error:
        differences.append(Difference("run.json", "", str(error)))
    if recorded and recorded.keys() != spec.benchmarks.keys():
        said = f"has {', '.join(recorded)}, and spec.json {', '.join(spec.benchmarks)}"
        differences.append(Difference("run.json", "", said))
    if weights_sha256 is None:
        left_out.append("the model's weights: name their folder with --weights")
    elif weights_sha256 != spec.model.get("sha256"):
        said = f"model.sha256 is {spec.model.get('sha256')}, the weights here have {weights_sha256}"
        differences.append(Difference("spec.json", "", said))
    samples = 0
    for name in spec.benchmarks:
        benchmark, folder = benchmarks[name], root / name
        differences += _altered(root, folder)
        try:
            predictions, verdicts = store.read_predictions(folder), store.read_verdicts(folder)
        except BenchError as error:  # a line that is no row
            differences.append(Difference(name, "", str(error)))
            continue
        samples += len(predictions)
        differences += _artefacts(root, folder, predictions, spec.seed)
        if isinstance(benchmark, BenchError):
            left_out.append(f"scores and data of {name}: {benchmark}")
            if name in recorded:  # what is no score it has from spec.json all the same
                own = recorded[name]
                differences += _record(own, record(name, own.version, own.profile, own.metrics, spec, environment))
            continue
        differences += _inputs(spec.benchmarks[name], benchmark, left_out)
        asked = limited(benchmark.samples(), spec.limit)
        differences += _counts(name, asked, predictions, verdicts)
        differences += _results(folder, benchmark, asked, spec, environment, recorded.get(name), left_out)
    return Checked(samples, tuple(differences), tuple(left_out))


def _results(
    folder: Path,
    benchmark: Benchmark,
    samples: Sequence[Sample],
    spec: RunSpec,
    environment: Environment,
    recorded: RunRecord | None,
    left_out: list[str],
) -> Iterator[Difference]:
    """Scores and record against what the rule makes of the verdicts now."""
    try:
        scores, metrics = scored(folder, benchmark, samples)
    except IncompleteError:  # which _counts has told
        return
    except BenchError as error:
        left_out.append(f"scores of {benchmark.name}: {error}")
        return
    except Exception as error:  # a rule may stumble anywhere over verdicts that no judge has given
        yield Difference(f"{benchmark.name}/verdicts", "", f"the rule cannot read them: {error!r}")
        return
    yield from _scores(folder, scores)
    if recorded is not None:
        expected = record(benchmark.name, benchmark.version, benchmark.profile, metrics, spec, environment)
        yield from _record(recorded, expected)


def _altered(root: Path, folder: Path) -> Iterator[Difference]:
    for kind in (Prediction, Verdict):
        for path, line, sample in store.altered_rows(folder, kind):
            yield Difference(str(path.relative_to(root)), sample, f"line {line} is not as it was written")


def _artefacts(root: Path, folder: Path, predictions: Mapping[str, Prediction], seed: int) -> Iterator[Difference]:
    """Images and texts against their digests, and seeds against the run's."""
    known = set()
    for prediction in predictions.values():
        known.add(prediction.image)
        if prediction.seed != seed_for(seed, prediction.id):
            yield Difference(f"{folder.name}/predictions", prediction.id, f"seed {prediction.seed} is not of this run")
        if prediction.text is not None and prediction.sha256 is not None:
            digest = hashlib.sha256(prediction.text.encode("utf-8", "surrogatepass")).hexdigest()
            if digest != prediction.sha256:
                yield Difference(
                    f"{folder.name}/predictions", prediction.id, "the text has another sha256 than its own"
                )
        if prediction.image is not None:
            found = _digest(folder / prediction.image)
            if found != prediction.sha256:
                said = "is not there" if found is None else f"has sha256 {found}, not {prediction.sha256}"
                yield Difference(f"{folder.name}/{prediction.image}", prediction.id, said)
    for path in sorted((folder / "images").rglob("[!.]*")):  # a hidden one is what a killed process left
        if path.is_file() and path.relative_to(folder).as_posix() not in known:
            yield Difference(str(path.relative_to(root)), "", "belongs to no prediction")


def _digest(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _inputs(stored: Mapping[str, Json], benchmark: Benchmark, left_out: list[str]) -> Iterator[Difference]:
    """Digests of data and of judges' weights against those of what is here.

    What only one side names is passed over: a judge that the user named, or what an older version did not record.
    """
    try:
        field = f"benchmarks.{benchmark.name}"
        yield from _digests(f"{field}.data", stored.get("data"), benchmark.describe().get("data"))
        yield from _digests(f"{field}.judge", stored.get("judge"), judge_of(benchmark))
    except BenchError as error:
        left_out.append(f"data and judge of {benchmark.name}: {error}")


def _digests(field: str, there: Json, here: Json) -> Iterator[Difference]:
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for key in sorted(there.keys() & here.keys()):
            yield from _digests(f"{field}.{key}", there[key], here[key])
    elif field.endswith("sha256") and there != here:
        yield Difference("spec.json", "", f"{field} is {there}, what is here has {here}")


def _counts(
    name: str, samples: Sequence[Sample], predictions: Mapping[str, Prediction], verdicts: Mapping[str, Verdict]
) -> Iterator[Difference]:
    asked = {sample.id for sample in samples}
    for kind, rows in (("predictions", predictions), ("verdicts", verdicts)):
        for sample_id in sorted(rows.keys() - asked):
            yield Difference(f"{name}/{kind}", sample_id, "no such sample belongs to the run")
    for sample in samples:
        prediction = predictions.get(sample.id)
        if prediction is None:
            yield Difference(f"{name}/predictions", sample.id, "has no prediction")
        elif prediction.error is None and sample.id not in verdicts:
            yield Difference(f"{name}/verdicts", sample.id, "has no verdict")


def _scores(folder: Path, expected: Sequence[Score]) -> Iterator[Difference]:
    file = f"{folder.name}/scores.jsonl"
    try:
        rows = store.read_scores(folder)
    except BenchError as error:
        yield Difference(file, "", str(error))
        return
    ids, asked = [score.id for score in rows], [score.id for score in expected]
    yield from _twice(file, ids)
    if ids != asked and Counter(ids) == Counter(asked):
        yield Difference(file, "", "the scores are in another order than the samples")
    stored = {score.id: score for score in rows}
    for score in expected:
        found = stored.pop(score.id, None)
        if found is None:
            yield Difference(file, score.id, "has no score")
            continue
        # Older versions had no parts.
        for field in ("group", "stratum", "value", "reason", *(["parts"] if found.parts else [])):
            there, here = getattr(found, field), getattr(score, field)
            if not _same(there, here):
                yield Difference(file, score.id, f"{field} is {there!r}, its verdict gives {here!r}")
    for sample_id in stored:
        yield Difference(file, sample_id, "no such sample belongs to the run")


def _twice(file: str, names: Sequence[str]) -> Iterator[Difference]:
    for name, number in Counter(names).items():
        if number > 1:
            yield Difference(file, name, f"is there {number} times")


def _record(stored: RunRecord, expected: RunRecord) -> Iterator[Difference]:
    """run.json against what spec.json and the verdicts give.

    Which code scored it is its own affair, and other environments may have joined since, to try again what is missing.
    """
    yield from _twice("run.json", [f"{stored.benchmark}.metrics.{metric.name}" for metric in stored.metrics])
    there, here = asdict(stored), asdict(expected)
    for one in (there, here):
        one["code"] = {key: value for key, value in one["code"].items() if key not in ("scored_by", "also")}
        one["metrics"] = {metric["name"]: metric for metric in one["metrics"]}
    yield from _fields(stored.benchmark, there, here)


def _fields(field: str, there: Json, here: Json) -> Iterator[Difference]:
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for key in sorted(there.keys() | here.keys()):
            yield from _fields(f"{field}.{key}", there.get(key), here.get(key))
    elif not _same(there, here):
        yield Difference("run.json", "", f"{field} is {there!r}, the run gives {here!r}")


def _same(there: Json, here: Json) -> bool:
    if isinstance(there, float) and isinstance(here, float):
        return math.isclose(there, here, rel_tol=TOLERANCE, abs_tol=1e-12)
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        return there.keys() == here.keys() and all(_same(there[key], here[key]) for key in there)
    if isinstance(there, list | tuple) and isinstance(here, list | tuple):
        return len(there) == len(here) and all(map(_same, there, here))
    return bool(there == here)
