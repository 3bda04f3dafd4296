"""Samples -> predictions -> verdicts -> scores, by any number of processes that share only a folder.

A process takes its part of the samples from RANK and WORLD_SIZE and talks to no other one. Whoever finds
that nothing is missing any more writes the merged files; two may do so at once, with the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

from tqdm import tqdm

from benchmarks import environment, store
from benchmarks.types import (
    Answerer,
    BenchError,
    Benchmark,
    Generator,
    Json,
    JudgeError,
    Metric,
    Prediction,
    RunRecord,
    Sample,
    Score,
    Verdict,
)

Model = Generator | Answerer


class IncompleteError(BenchError):
    """Samples of a benchmark are not done yet."""


@runtime_checkable
class LongestFirst(Protocol):
    """A benchmark that knows which of its samples take long, and which are alike, without opening their images."""

    def longest_first(self, samples: Sequence[Sample]) -> list[Sample]: ...


@runtime_checkable
class JudgesMany(Protocol):
    """A benchmark whose judge looks at so many samples at once, where ``--batch-size`` is smaller."""

    @property
    def judged_together(self) -> int: ...


@runtime_checkable
class ReadsAhead(Protocol):
    """A model that prepares samples while it answers others."""

    def ahead(self, samples: Sequence[Sample], workers: int) -> AbstractContextManager[None]:
        """Within it, ``answer`` is called with ``samples`` in their order; ``workers`` processes prepare them."""


@dataclass(frozen=True)
class Part:
    """The samples of one process: ``samples[rank::world]``."""

    rank: int = 0
    world: int = 1

    @staticmethod
    def from_environment(variables: Mapping[str, str] = os.environ) -> Part:
        """RANK and WORLD_SIZE as torchrun sets them; one process without them. Raises BenchError on nonsense."""
        rank, world = variables.get("RANK", "0"), variables.get("WORLD_SIZE", "1")
        if not (rank.isdecimal() and world.isdecimal() and int(rank) < int(world)):
            raise BenchError(f"RANK={rank} and WORLD_SIZE={world} do not fit; RANK must be one of 0 ... WORLD_SIZE - 1")
        return Part(int(rank), int(world))


@dataclass(frozen=True)
class Settings:
    """How to run. The batch size and the ``workers``, processes that prepare images for a model, change no number."""

    suite: str
    seed: int = 0
    limit: int | None = None
    batch_size: int = 8
    workers: int = 0


def seed_for(base_seed: int, sample_id: str) -> int:
    """The seed of a sample in [0, 2**63): a hash of the base seed and the id, and of nothing else."""
    digest = hashlib.sha256(f"{base_seed}/{sample_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def limited(samples: Sequence[Sample], limit: int | None) -> list[Sample]:
    """About the first ``limit`` samples: whole groups, taken in turn from each stratum until there are enough.

    In turn, because benchmark files are sorted by stratum: the first 24 samples of GenEval are all of one tag.
    A group counts to the stratum of its first sample. Samples stay in order, and a smaller limit takes a subset.
    """
    if limit is None:
        return list(samples)
    if limit < 1:
        raise BenchError(f"--limit must be at least 1, not {limit}")
    sizes: dict[str, int] = {}
    strata: dict[str, list[str]] = {}
    for sample in samples:
        if sample.group not in sizes:
            strata.setdefault(sample.stratum, []).append(sample.group)
        sizes[sample.group] = sizes.get(sample.group, 0) + 1
    chosen: set[str] = set()
    total = 0
    for group in _in_turn(list(strata.values())):
        if total >= limit:
            break
        chosen.add(group)
        total += sizes[group]
    return [sample for sample in samples if sample.group in chosen]


def _in_turn(queues: Sequence[Sequence[str]]) -> Iterator[str]:
    for position in range(max(map(len, queues), default=0)):
        yield from (queue[position] for queue in queues if position < len(queue))


def run(
    root: Path, benchmarks: Sequence[Benchmark], model: Model, settings: Settings, part: Part
) -> list[RunRecord] | None:
    """Do this process's part of the run in ``root``, and finish the run if it is the last one.

    In a record, what a benchmark describes under ``judge`` and ``data`` goes there, and the rest to ``settings``.

    Returns the records of the complete run, or None while samples of other processes are missing. What is
    stored without error is not done again. Raises BenchError for a run with other settings, a shard that
    another process writes, and a disk that takes no more.
    """
    spec = store.RunSpec(
        suite=settings.suite,
        seed=settings.seed,
        limit=settings.limit,
        model=model.describe(),
        benchmarks={benchmark.name: _described(benchmark) for benchmark in benchmarks},
    )
    started_in = store.open_run(root, spec, environment.current())
    return _do(root, benchmarks, model, settings, part, spec, started_in)


def rejudge(root: Path, benchmarks: Sequence[Benchmark], batch_size: int, part: Part) -> list[RunRecord] | None:
    """Judge the stored predictions of the run in ``root`` again, where the judge of a benchmark is another one.

    ``benchmarks`` are all of the run, with the judges that they shall have. Records as of ``run``; they say what was
    replaced. Raises BenchError when a prediction is missing, and as ``store.rejudge`` does; nothing has changed then.
    """
    stored, _ = store.read_spec(root)
    spec = replace(stored, benchmarks={benchmark.name: _described(benchmark) for benchmark in benchmarks})
    for benchmark in benchmarks:
        predictions = store.read_predictions(root / benchmark.name)
        missing = [sample.id for sample in _samples(benchmark, spec.limit) if sample.id not in predictions]
        if missing:
            raise BenchError(f"{root / benchmark.name} lacks predictions, such as {missing[0]}: finish the run first")
    started_in = store.rejudge(root, spec, environment.current())
    settings = Settings(spec.suite, spec.seed, spec.limit, batch_size)
    return _do(root, benchmarks, None, settings, part, spec, started_in)


def _do(
    root: Path,
    benchmarks: Sequence[Benchmark],
    model: Model | None,
    settings: Settings,
    part: Part,
    spec: store.RunSpec,
    started_in: store.Environment,
) -> list[RunRecord] | None:
    """What ``run`` does once the run is opened. Without a model all predictions are stored."""
    samples = {benchmark.name: _samples(benchmark, settings.limit) for benchmark in benchmarks}
    metrics: dict[str, list[Metric]] = {}
    for benchmark in benchmarks:
        folder, own = root / benchmark.name, samples[benchmark.name][part.rank :: part.world]
        if model is not None:
            _predict(folder, benchmark, model, own, settings, part)
        _judge(folder, benchmark, own, settings.batch_size, part)
        with suppress(IncompleteError):
            metrics[benchmark.name] = merge(folder, benchmark, samples[benchmark.name])
    incomplete: list[str] = []
    for benchmark in benchmarks:
        # Another process may have ended a benchmark after this one had left it.
        if benchmark.name not in metrics:
            try:
                metrics[benchmark.name] = merge(root / benchmark.name, benchmark, samples[benchmark.name])
            except IncompleteError as error:
                incomplete.append(str(error))
    if incomplete:
        others = f" ({len(incomplete) - 1} more benchmarks likewise)" if len(incomplete) > 1 else ""
        log(f"{incomplete[0]}{others}")
        return None
    return _finish(root, benchmarks, metrics, spec, started_in)


def rescore(root: Path, benchmarks: Sequence[Benchmark]) -> list[RunRecord]:
    """Apply the rules of ``benchmarks`` to the stored verdicts, without model or judge.

    The records name the version and profile of the rules; the rest of them is the stored run's.
    Raises BenchError when ``root`` holds no run, or a sample of it is missing.
    """
    spec, started_in = store.read_spec(root)
    metrics = {
        benchmark.name: merge(root / benchmark.name, benchmark, _samples(benchmark, spec.limit))
        for benchmark in benchmarks
    }
    return _finish(root, benchmarks, metrics, spec, started_in)


def merge(folder: Path, benchmark: Benchmark, samples: Sequence[Sample]) -> list[Metric]:
    """Write scores.jsonl of one benchmark from its shards, in sample order; returns the metrics.

    The rule sees verdicts without error only; a score without value takes over the stored error as its reason.
    Raises IncompleteError naming a sample that has not been predicted and judged.
    """
    predictions, verdicts = store.read_predictions(folder), store.read_verdicts(folder)
    errors: dict[str, str | None] = {}
    missing = []
    for sample in samples:
        prediction, verdict = predictions.get(sample.id), verdicts.get(sample.id)
        if prediction is not None and prediction.error is not None:
            errors[sample.id] = prediction.error
        elif prediction is not None and verdict is not None:
            errors[sample.id] = verdict.error
        else:
            missing.append(sample.id)
    if missing:
        raise IncompleteError(
            f"{folder} is not complete: {len(missing)} of {len(samples)} samples are missing, such as {missing[0]}; "
            "wait for the other processes, or start the command again"
        )
    failed = [sample_id for sample_id, error in errors.items() if error is not None]
    if failed:
        log(f"{benchmark.name}: {len(failed)} of {len(samples)} samples could not be scored")
        log(f"{failed[0]}: {errors[failed[0]]}")
    usable = {sample.id: verdicts[sample.id] for sample in samples if errors[sample.id] is None}
    scores, metrics = benchmark.summarize(samples, usable)
    if [score.id for score in scores] != [sample.id for sample in samples]:
        raise ValueError(f"{benchmark.name}.summarize must return one score per sample, in their order")
    store.write_scores(folder, [_with_reason(score, errors[score.id]) for score in scores])
    return metrics


def _with_reason(score: Score, error: str | None) -> Score:
    return replace(score, reason=error) if error is not None and score.value is None else score


def _finish(
    root: Path,
    benchmarks: Sequence[Benchmark],
    metrics: Mapping[str, Sequence[Metric]],
    spec: store.RunSpec,
    started_in: store.Environment,
) -> list[RunRecord]:
    records = [_record(benchmark, metrics[benchmark.name], spec, started_in) for benchmark in benchmarks]
    store.write_records(root, records)
    return records


def _record(
    benchmark: Benchmark, metrics: Sequence[Metric], spec: store.RunSpec, started_in: store.Environment
) -> RunRecord:
    # Not benchmark.describe(): rescoring needs no judge, and what saw the predictions is what the spec says.
    described = dict(spec.benchmarks[benchmark.name])
    del described["version"], described["profile"]
    rejudged = {"rejudged": list(started_in.rejudged)} if started_in.rejudged else {}
    return RunRecord(
        benchmark=benchmark.name,
        version=benchmark.version,
        suite=spec.suite,
        profile=benchmark.profile,
        model=spec.model,
        judge=described.pop("judge", {}),
        data=described.pop("data", {}),
        seed=spec.seed,
        settings={**described, "limit": spec.limit},
        code={**started_in.code, "scored_by": environment.code(), **rejudged},
        packages=started_in.packages,
        hardware=started_in.hardware,
        metrics=tuple(metrics),
    )


def _described(benchmark: Benchmark) -> dict[str, Json]:
    return {**benchmark.describe(), "version": benchmark.version, "profile": benchmark.profile}


def _samples(benchmark: Benchmark, limit: int | None) -> list[Sample]:
    samples = limited(benchmark.samples(), limit)
    if len({sample.id for sample in samples}) != len(samples):
        raise ValueError(f"{benchmark.name} has two samples with one id")
    return samples


def _predict(
    folder: Path, benchmark: Benchmark, model: Model, own: Sequence[Sample], settings: Settings, part: Part
) -> None:
    with store.Shard(store.shard_path(folder, Prediction, part.rank)) as shard:
        stored = store.read_predictions(folder)
        pending = [sample for sample in own if sample.id not in stored or stored[sample.id].error is not None]
        if isinstance(benchmark, LongestFirst):
            pending = benchmark.longest_first(pending)
        with (
            _ahead(benchmark, model, pending, settings.workers),
            _progress(f"{benchmark.name}: predict", len(own), len(pending), part) as advance,
        ):
            for batch in _batches(pending, settings.batch_size):
                shard.append(_predictions(folder, benchmark, model, batch, settings.seed))
                advance(len(batch))


def _ahead(benchmark: Benchmark, model: Model, samples: Sequence[Sample], workers: int) -> AbstractContextManager[None]:
    if benchmark.task == "answer" and samples and isinstance(model, ReadsAhead):
        return model.ahead(samples, workers)
    return nullcontext()


def _predictions(
    folder: Path, benchmark: Benchmark, model: Model, batch: Sequence[Sample], seed: int
) -> list[Prediction]:
    seeds = [seed_for(seed, sample.id) for sample in batch]
    start = time.perf_counter()
    if benchmark.task == "generate":
        results: Sequence[object] = cast(Generator, model).generate(batch, seeds)
    else:
        results = cast(Answerer, model).answer(batch, seeds)
    seconds = (time.perf_counter() - start) / len(batch)
    return [
        _prediction(folder, Prediction(sample.id, own_seed, seconds), result)
        for sample, own_seed, result in zip(batch, seeds, results, strict=True)
    ]


def _prediction(folder: Path, blank: Prediction, result: object) -> Prediction:
    """Store what the model returned for one sample: the artefact now, so that its record may follow."""
    if isinstance(result, Exception):
        return replace(blank, error=_message(result))
    if isinstance(result, str):
        return replace(blank, text=result, sha256=hashlib.sha256(result.encode("utf-8", "surrogatepass")).hexdigest())
    if isinstance(result, Path):
        try:
            data, suffix = _checked_file(result)
        except Exception as error:  # a decoder may raise anything on somebody else's damaged file
            return replace(blank, error=f"{result} is not a readable image: {_message(error)}")
    else:
        data, suffix = _png(result), ".png"
    image = store.write_image(folder, blank.id, data, suffix)
    return replace(blank, image=image, sha256=hashlib.sha256(data).hexdigest())


def _checked_file(path: Path) -> tuple[bytes, str]:
    """The bytes of an image file that decodes to its last pixel, and the suffix of its format."""
    from PIL import Image

    data = path.read_bytes()
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return data, f".{(image.format or path.suffix.lstrip('.')).lower()}"


def _png(result: object) -> bytes:
    from PIL import Image

    if not isinstance(result, Image.Image):
        raise TypeError(f"a model returned {type(result).__name__}; it must be an image, a path, a text or an error")
    buffer = io.BytesIO()
    result.save(buffer, "PNG")
    return buffer.getvalue()


def _judge(folder: Path, benchmark: Benchmark, own: Sequence[Sample], batch_size: int, part: Part) -> None:
    with store.Shard(store.shard_path(folder, Verdict, part.rank)) as shard:
        predictions, stored = store.read_predictions(folder), store.read_verdicts(folder)
        usable = [sample for sample in own if predictions[sample.id].error is None]
        pending = [sample for sample in usable if sample.id not in stored or stored[sample.id].error is not None]
        if isinstance(benchmark, JudgesMany):
            batch_size = max(batch_size, benchmark.judged_together)
        with _progress(f"{benchmark.name}: judge", len(usable), len(pending), part) as advance:
            for batch in _batches(pending, batch_size):
                shard.append(_verdicts(benchmark, batch, [predictions[sample.id] for sample in batch], folder))
                advance(len(batch))


def _verdicts(
    benchmark: Benchmark, samples: Sequence[Sample], predictions: Sequence[Prediction], folder: Path
) -> list[Verdict]:
    try:
        verdicts = list(benchmark.judge(samples, predictions, folder))
    except JudgeError as error:
        if len(samples) == 1:
            return [Verdict(samples[0].id, error=_message(error))]
        # One of the batch stopped the judge: look at each alone, so that the others keep their verdicts.
        return [
            verdict
            for sample, prediction in zip(samples, predictions, strict=True)
            for verdict in _verdicts(benchmark, [sample], [prediction], folder)
        ]
    if [verdict.id for verdict in verdicts] != [sample.id for sample in samples]:
        raise ValueError(f"{benchmark.name}.judge must return one verdict per sample, in their order")
    return verdicts


def _message(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _batches(samples: Sequence[Sample], size: int) -> Iterator[list[Sample]]:
    iterator = iter(samples)
    while batch := list(islice(iterator, size)):
        yield batch


@contextmanager
def _progress(phase: str, total: int, pending: int, part: Part) -> Iterator[Callable[[int], object]]:
    """A bar with rate and time left on a terminal; one line per phase in CI, in a log file and on ranks above 0."""
    if os.environ.get("CI") or not sys.stderr.isatty() or part.rank > 0:
        share = f" (rank {part.rank} of {part.world})" if part.world > 1 else ""
        log(f"{phase} {pending} of {total} samples{share}")
        yield lambda done: None
        return
    with tqdm(desc=phase, total=total, initial=total - pending, unit="sample", file=sys.stderr) as bar:
        yield bar.update


def log(line: str) -> None:
    """Standard output is for results; everything else goes to standard error."""
    print(line, file=sys.stderr)
