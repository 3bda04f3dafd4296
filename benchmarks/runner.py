"""Samples -> predictions -> verdicts -> scores, by any number of processes that share only a folder.

A process takes its part of the samples from RANK and WORLD_SIZE and talks to no other one. Whoever finds
that nothing is missing any more writes the merged files; two may do so at once, with the same bytes.
"""

from __future__ import annotations

import gc
import hashlib
import io
import os
import signal
import sys
import threading
import time
from collections import abc
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
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
    printable,
)

Model = Generator | Answerer

#: Images of a batch that are encoded and flushed to the disk at a time. One of 1024 x 1024 pixels takes 0.06 s.
STORED_TOGETHER = 8

#: Seconds that a judge may take for each sample of a batch. A first one may load weights.
JUDGE_TIMEOUT = 600.0


class IncompleteError(BenchError):
    """Samples of a benchmark are not done yet."""


@runtime_checkable
class LongestFirst(Protocol):
    """A benchmark that knows which of its samples take long, and which are alike, without opening their images."""

    def longest_first(self, samples: Sequence[Sample]) -> list[Sample]: ...


@runtime_checkable
class DescribesJudge(Protocol):
    """A benchmark that needs its judge's weights in order to describe it, and leaves it out of ``describe``."""

    def describe_judge(self) -> Json: ...


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
    """How to run. The batch size and the ``workers``, processes that prepare images for a model, change no number.

    ``judge_timeout`` is in seconds per sample, 0 without limit.
    """

    suite: str
    seed: int = 0
    limit: int | None = None
    batch_size: int = 8
    workers: int = 0
    judge_timeout: float = JUDGE_TIMEOUT


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
    store.open_run(root, spec, environment.current())
    return _do(root, spec, benchmarks, model, settings, part)


def generate(root: Path, benchmarks: Sequence[Benchmark], model: Model, settings: Settings, part: Part) -> int:
    """The first stage of ``run`` alone: predictions. No benchmark is asked about its judge.

    Returns how many samples no process has predicted yet. Raises BenchError as ``run`` does.
    """
    described = {benchmark.name: _described(benchmark, judged=False) for benchmark in benchmarks}
    spec = store.RunSpec(settings.suite, settings.seed, settings.limit, model.describe(), described)
    store.open_run(root, spec, environment.current())
    missing = 0
    for benchmark in benchmarks:
        samples = _samples(benchmark, settings.limit)
        _predict(root / benchmark.name, benchmark, model, samples[part.rank :: part.world], settings, part)
        missing += len(_unpredicted(root / benchmark.name, samples))
    return missing


def judge(
    root: Path, benchmarks: Sequence[Benchmark], batch_size: int, part: Part, timeout: float = JUDGE_TIMEOUT
) -> int:
    """The second stage of ``run`` alone: verdicts on the stored predictions of some benchmarks of the run, without
    its model.

    Returns how many predictions of theirs nobody has judged yet. Raises BenchError where predictions are missing, and
    where the run has other settings or judges.
    """
    stored, _ = store.read_spec(root)
    described = {benchmark.name: _as_stored(stored, benchmark) for benchmark in benchmarks}
    samples = {benchmark.name: _samples(benchmark, stored.limit) for benchmark in benchmarks}
    _check_predicted(root, samples)
    spec = replace(stored, benchmarks={**stored.benchmarks, **described})
    store.open_run(root, spec, environment.current())
    missing = 0
    for benchmark in benchmarks:
        folder, asked = root / benchmark.name, samples[benchmark.name]
        _judge(folder, spec, benchmark, asked[part.rank :: part.world], batch_size, part, timeout)
        missing += len(_unjudged(folder, asked))
        if failed := [error for error in store.read_errors(folder, Verdict).values() if error is not None]:
            log(f"{benchmark.name}: {len(failed)} verdicts are errors, to be tried again by this command: {failed[0]}")
    return missing


def score(root: Path, benchmarks: Sequence[Benchmark]) -> list[RunRecord]:
    """The last stage of ``run`` alone: what ``rescore`` does, of a run under its own rules.

    Raises BenchError with the number of samples that the stages before have left.
    """
    spec, _ = store.read_spec(root)
    for benchmark in benchmarks:
        stored = spec.benchmarks[benchmark.name]
        if (benchmark.version, benchmark.profile) != (stored["version"], stored["profile"]):
            raise BenchError(
                f"{root} was run with {benchmark.name} {stored['version']}, profile {stored['profile']}, not "
                f"{benchmark.version}, {benchmark.profile}: to score it by these rules is --rescore"
            )
    samples = {benchmark.name: _samples(benchmark, spec.limit) for benchmark in benchmarks}
    _check_predicted(root, samples)
    unjudged = {name: _unjudged(root / name, asked) for name, asked in samples.items()}
    _refuse(root, unjudged, "are not judged yet", "judge")
    return rescore(root, benchmarks)


def _check_predicted(root: Path, samples: Mapping[str, Sequence[Sample]]) -> None:
    missing = {name: _unpredicted(root / name, asked) for name, asked in samples.items()}
    _refuse(root, missing, "have no prediction yet", "generate")


def _refuse(root: Path, missing: Mapping[str, Sequence[str]], what: str, stage: str) -> None:
    """Raise BenchError if there are any ``missing`` samples: ids by benchmark."""
    counts = ", ".join(f"{len(ids)} of {name}" for name, ids in missing.items() if ids)
    if counts:
        first = next(ids[0] for ids in missing.values() if ids)
        raise IncompleteError(f"{root}: samples {what} ({counts}), such as {first}: finish --stage {stage} first")


def _unpredicted(folder: Path, samples: Sequence[Sample]) -> list[str]:
    predicted = store.read_errors(folder, Prediction)
    return [sample.id for sample in samples if sample.id not in predicted]


def _unjudged(folder: Path, samples: Sequence[Sample]) -> list[str]:
    """Samples that have a prediction without error and no verdict."""
    predicted, verdicts = store.read_errors(folder, Prediction), store.read_errors(folder, Verdict)
    return [
        sample.id
        for sample in samples
        if sample.id in predicted and predicted[sample.id] is None and sample.id not in verdicts
    ]


def rejudge(
    root: Path,
    benchmarks: Sequence[Benchmark],
    batch_size: int,
    part: Part,
    timeout: float = JUDGE_TIMEOUT,
    kept: Sequence[Benchmark] = (),
) -> list[RunRecord] | None:
    """Judge the stored predictions of the run in ``root`` again, where the judge of a benchmark is another one.

    ``benchmarks`` have the judges that they shall have; ``kept`` are all others of the run, whose judges and verdicts
    stay. Records as of ``run``; they say what was replaced. Raises BenchError when a prediction is missing, and as
    ``store.rejudge`` does; nothing has changed then.
    """
    stored, _ = store.read_spec(root)
    described = {benchmark.name: _as_stored(stored, benchmark) for benchmark in benchmarks}
    spec = replace(stored, benchmarks={**{one.name: stored.benchmarks[one.name] for one in kept}, **described})
    _check_predicted(root, {benchmark.name: _samples(benchmark, spec.limit) for benchmark in benchmarks})
    store.rejudge(root, spec, environment.current())
    settings = Settings(spec.suite, spec.seed, spec.limit, batch_size, judge_timeout=timeout)
    return _do(root, spec, benchmarks, None, settings, part, kept)


def _do(
    root: Path,
    spec: store.RunSpec,
    benchmarks: Sequence[Benchmark],
    model: Model | None,
    settings: Settings,
    part: Part,
    kept: Sequence[Benchmark] = (),
) -> list[RunRecord] | None:
    """What ``run`` does once the run is opened with ``spec``. Without a model all predictions are stored; ``kept`` are
    benchmarks that are only merged."""
    everything = [*benchmarks, *kept]
    samples = {benchmark.name: _samples(benchmark, settings.limit) for benchmark in everything}
    metrics: dict[str, list[Metric]] = {}
    for benchmark in benchmarks:
        folder, own = root / benchmark.name, samples[benchmark.name][part.rank :: part.world]
        if model is not None:
            _predict(folder, benchmark, model, own, settings, part)
        _judge(folder, spec, benchmark, own, settings.batch_size, part, settings.judge_timeout)
        with suppress(IncompleteError):
            metrics[benchmark.name] = merge(folder, benchmark, samples[benchmark.name])
    incomplete: list[str] = []
    for benchmark in everything:
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
    return _finish(root, everything, metrics)


def rescore(root: Path, benchmarks: Sequence[Benchmark]) -> list[RunRecord]:
    """Apply the rules of ``benchmarks`` to the stored verdicts, without model or judge.

    The records name the version and profile of the rules; the rest of them is the stored run's.
    Raises BenchError when ``root`` holds no run, or a sample of it is missing.
    """
    spec, _ = store.read_spec(root)
    metrics = {
        benchmark.name: merge(root / benchmark.name, benchmark, _samples(benchmark, spec.limit))
        for benchmark in benchmarks
    }
    return _finish(root, benchmarks, metrics)


def merge(folder: Path, benchmark: Benchmark, samples: Sequence[Sample]) -> list[Metric]:
    """Write scores.jsonl of one benchmark from its shards; returns the metrics. Raises IncompleteError."""
    scores, metrics = scored(folder, benchmark, samples)
    store.write_scores(folder, scores)
    return metrics


def scored(folder: Path, benchmark: Benchmark, samples: Sequence[Sample]) -> tuple[list[Score], list[Metric]]:
    """What the rule makes of one benchmark's shards: scores in sample order, and the metrics.

    The rule sees verdicts without error only; a score without value takes over the stored error as its reason.
    Raises IncompleteError naming a sample that has not been predicted and judged.
    """
    predicted, verdicts = store.read_errors(folder, Prediction), store.read_verdicts(folder)
    failed: dict[str, str] = {}
    missing = []
    for sample in samples:
        error = predicted.get(sample.id)
        if sample.id not in predicted or (error is None and sample.id not in verdicts):
            missing.append(sample.id)
            continue
        error = verdicts.errors.get(sample.id) if error is None else error
        if error is not None:
            failed[sample.id] = error
    if missing:
        raise IncompleteError(
            f"{folder} is not complete: {len(missing)} of {len(samples)} samples are missing, such as {missing[0]}; "
            "wait for the other processes, or start the command again"
        )
    if failed:
        log(f"{benchmark.name}: {len(failed)} of {len(samples)} samples could not be scored")
        log("{}: {}".format(*next(iter(failed.items()))))
    del predicted  # with a million samples each of these counts
    verdicts = verdicts.only(sample.id for sample in samples if sample.id not in failed)
    scores, metrics = benchmark.summarize(samples, verdicts)
    if [score.id for score in scores] != [sample.id for sample in samples]:
        raise ValueError(f"{benchmark.name}.summarize must return one score per sample, in their order")
    return [_with_reason(score, failed.get(score.id)) for score in scores], metrics


def _with_reason(score: Score, error: str | None) -> Score:
    return replace(score, reason=error) if error is not None and score.value is None else score


def _finish(
    root: Path,
    benchmarks: Sequence[Benchmark],
    metrics: Mapping[str, Sequence[Metric]],
) -> list[RunRecord]:
    # As it is now: other processes may have added to it.
    spec, started_in = store.read_spec(root)
    records = [
        record(benchmark.name, benchmark.version, benchmark.profile, metrics[benchmark.name], spec, started_in)
        for benchmark in benchmarks
    ]
    store.write_records(root, records)
    return records


def record(
    name: str,
    version: str,
    profile: str,
    metrics: Sequence[Metric],
    spec: store.RunSpec,
    started_in: store.Environment,
) -> RunRecord:
    """What is known about one benchmark of the run, with these metrics by rules of that version and profile."""
    # Not benchmark.describe(): rescoring needs no judge, and what saw the predictions is what the spec says.
    described = dict(spec.benchmarks[name])
    del described["version"], described["profile"]
    also = {"also": list(started_in.also)} if started_in.also else {}
    rejudged = {"rejudged": list(started_in.rejudged)} if started_in.rejudged else {}
    too_large = [entry for entry in started_in.out_of_memory if entry["benchmark"] == name]
    return RunRecord(
        benchmark=name,
        version=version,
        suite=spec.suite,
        profile=profile,
        model=spec.model,
        judge=described.pop("judge", None) or {},
        data=described.pop("data", {}),
        seed=spec.seed,
        settings={**described, "limit": spec.limit},
        code={**started_in.code, "scored_by": environment.code(), **also, **rejudged},
        packages=started_in.packages,
        hardware={**started_in.hardware, **({"out_of_memory": too_large} if too_large else {})},
        metrics=tuple(metrics),
    )


def _described(benchmark: Benchmark, judged: bool = True) -> dict[str, Json]:
    described = {**benchmark.describe(), "version": benchmark.version, "profile": benchmark.profile}
    if judged:
        return {**described, "judge": judge_of(benchmark)}
    return {key: value for key, value in described.items() if key != "judge"}


def _as_stored(stored: store.RunSpec, benchmark: Benchmark) -> dict[str, Json]:
    """``_described``; of rewritten prompts, which only the model sees, what the stored run says."""
    there = stored.benchmarks.get(benchmark.name, {})
    return {**({"rewrite": there["rewrite"]} if "rewrite" in there else {}), **_described(benchmark)}


def judge_of(benchmark: Benchmark) -> Json:
    """What a benchmark says of its judge. Raises BenchError where its weights are not there."""
    return benchmark.describe_judge() if isinstance(benchmark, DescribesJudge) else benchmark.describe().get("judge")


def _samples(benchmark: Benchmark, limit: int | None) -> list[Sample]:
    samples = limited(benchmark.samples(), limit)
    if len({sample.id for sample in samples}) != len(samples):
        raise ValueError(f"{benchmark.name} has two samples with one id")
    return samples


def _predict(
    folder: Path, benchmark: Benchmark, model: Model, own: Sequence[Sample], settings: Settings, part: Part
) -> None:
    with store.Shard(store.shard_path(folder, Prediction, part.rank)) as shard:
        stored = store.read_errors(folder, Prediction)
        pending = [sample for sample in own if sample.id not in stored or stored[sample.id] is not None]
        if isinstance(benchmark, LongestFirst):
            pending = benchmark.longest_first(pending)
        if pending:
            store.note_environment(folder.parent, environment.current(), "generate")
        done, size = 0, settings.batch_size
        with _progress(f"{benchmark.name}: predict", len(own), len(pending), part) as advance:
            while done < len(pending):
                with closing(_in_batches(folder, benchmark, model, pending[done:], size, settings)) as batches:
                    for rows in batches:
                        if isinstance(rows, str):
                            size = _halved(folder, benchmark, min(size, len(pending) - done), rows)
                        else:
                            shard.append(rows)
                            advance(len(rows))
                            done += len(rows)


def _in_batches(
    folder: Path, benchmark: Benchmark, model: Model, samples: Sequence[Sample], size: int, settings: Settings
) -> abc.Generator[list[Prediction] | str, None, None]:
    """What ``_predictions`` returns for one batch after another, up to the first that is too large: what a model has
    read ahead is of no use from there on."""
    with _ahead(benchmark, model, samples, settings.workers):
        for batch in _batches(samples, size):
            rows = _predictions(folder, benchmark, model, batch, settings.seed)
            yield rows
            if isinstance(rows, str):
                return


def _halved(folder: Path, benchmark: Benchmark, samples: int, said: str) -> int:
    """The size to go on with after a batch of so many ``samples`` that the memory did not hold, which is recorded."""
    store.note_out_of_memory(folder.parent, benchmark.name, samples, said)
    log(f"{benchmark.name}: no memory for {samples} samples together, on with {samples // 2}: {said}")
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
    return samples // 2


def _ahead(benchmark: Benchmark, model: Model, samples: Sequence[Sample], workers: int) -> AbstractContextManager[None]:
    if benchmark.task == "answer" and samples and isinstance(model, ReadsAhead):
        return model.ahead(samples, workers)
    return nullcontext()


def _predictions(
    folder: Path, benchmark: Benchmark, model: Model, batch: Sequence[Sample], seed: int
) -> list[Prediction] | str:
    """One per sample; or, of several samples that the memory does not hold together, what the model said."""
    seeds = [seed_for(seed, sample.id) for sample in batch]
    start = time.perf_counter()
    results = _results(benchmark, model, batch, seeds)
    seconds = (time.perf_counter() - start) / len(batch)
    if isinstance(results, str):
        return results if len(batch) > 1 else [Prediction(batch[0].id, seeds[0], seconds, error=results)]
    made = [
        (Prediction(sample.id, own_seed, seconds), result)
        for sample, own_seed, result in zip(batch, seeds, results, strict=True)
    ]
    if benchmark.task == "answer":
        return [_prediction(folder, blank, result) for blank, result in made]
    with ThreadPoolExecutor(STORED_TOGETHER) as threads:
        return list(threads.map(lambda one: _prediction(folder, *one), made))


def _results(
    benchmark: Benchmark, model: Model, batch: Sequence[Sample], seeds: Sequence[int]
) -> Sequence[object] | str:
    """What the model returns, or what it says where it has not the memory."""
    try:
        if benchmark.task == "generate":
            return cast(Generator, model).generate(batch, seeds)
        return cast(Answerer, model).answer(batch, seeds)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        return _message(error)


def _is_out_of_memory(error: MemoryError | RuntimeError) -> bool:
    """torch.OutOfMemoryError is a RuntimeError; torch's CPU allocator, CUDA and cuBLAS raise a plain one."""
    said = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or any(text in str(error) for text in said)
    )


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
    from benchmarks.images import open_image

    data = path.read_bytes()
    with open_image(io.BytesIO(data)) as image:
        image.load()
        return data, f".{(image.format or path.suffix.lstrip('.')).lower()}"


def _png(result: object) -> bytes:
    from PIL import Image

    if not isinstance(result, Image.Image):
        raise TypeError(f"a model returned {type(result).__name__}; it must be an image, a path, a text or an error")
    buffer = io.BytesIO()
    # zlib's default, 6, takes four times as long, and saves a fifth of the bytes at most.
    result.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _judge(
    folder: Path,
    spec: store.RunSpec,
    benchmark: Benchmark,
    own: Sequence[Sample],
    batch_size: int,
    part: Part,
    timeout: float,
) -> None:
    with store.Shard(store.shard_path(folder, Verdict, part.rank)) as shard:
        store.check_judge(folder, spec)
        predictions, stored = store.read_predictions(folder), store.read_errors(folder, Verdict)
        usable = [sample for sample in own if sample.id not in predictions.errors]
        pending = [sample for sample in usable if sample.id not in stored or stored[sample.id] is not None]
        if pending:
            store.note_environment(folder.parent, environment.current(), "judge")
        if isinstance(benchmark, JudgesMany):
            batch_size = max(batch_size, benchmark.judged_together)
        with _progress(f"{benchmark.name}: judge", len(usable), len(pending), part) as advance:
            for batch in _batches(pending, batch_size):
                shard.append(_verdicts(benchmark, batch, [predictions[sample.id] for sample in batch], folder, timeout))
                advance(len(batch))


def _verdicts(
    benchmark: Benchmark,
    samples: Sequence[Sample],
    predictions: Sequence[Prediction],
    folder: Path,
    timeout: float,
) -> list[Verdict]:
    try:
        with _time_limit(timeout * len(samples)):
            verdicts = list(benchmark.judge(samples, predictions, folder))
    except JudgeError as error:
        stopped_by = _message(error)
    except _TimeUp:
        stopped_by = f"TimeoutError: the judge took more than {timeout:g} seconds"
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        stopped_by = _message(error)
    else:
        if [verdict.id for verdict in verdicts] != [sample.id for sample in samples]:
            raise ValueError(f"{benchmark.name}.judge must return one verdict per sample, in their order")
        return verdicts
    if len(samples) == 1:
        return [Verdict(samples[0].id, error=stopped_by)]
    # One of the batch stopped the judge: look at each alone, so that the others keep their verdicts.
    return [
        verdict
        for sample, prediction in zip(samples, predictions, strict=True)
        for verdict in _verdicts(benchmark, [sample], [prediction], folder, timeout)
    ]


class _TimeUp(BaseException):
    """No Exception, so that no judge takes it for the failure of one question."""


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise _TimeUp in what takes longer; 0 is no limit, nor is there one outside the main thread."""
    if not seconds or threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: object) -> None:
        raise _TimeUp

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


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
    print(printable(line), file=sys.stderr)
