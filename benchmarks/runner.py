"""Samples -> predictions -> verdicts -> scores, by any number of processes that share only a folder.

A process takes its part of the samples from RANK and WORLD_SIZE and talks to no other one. Whoever finds
that nothing is missing any more writes the merged files; two may do so at once, with the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from benchmarks import environment, judging, predicting, store
from benchmarks.limit import limited
from benchmarks.spec import Environment, RunSpec, open_run, read_spec, replace_judges
from benchmarks.types import BenchError, Benchmark, Json, Metric, Model, Prediction, RunRecord, Sample, Score, Verdict
from benchmarks.work import JUDGE_TIMEOUT, Part, Settings, log


class IncompleteError(BenchError):
    """Samples of a benchmark are not done yet."""


@runtime_checkable
class DescribesJudge(Protocol):
    """A benchmark that needs its judge's weights in order to describe it, and leaves it out of ``describe``."""

    def describe_judge(self) -> Json: ...


def run(
    root: Path, benchmarks: Sequence[Benchmark], model: Model, settings: Settings, part: Part
) -> list[RunRecord] | None:
    """Do this process's part of the run in ``root``, and finish the run if it is the last one.

    In a record, what a benchmark describes under ``judge`` and ``data`` goes there, and the rest to ``settings``.

    Returns the records of the complete run, or None while samples of other processes are missing. What is
    stored without error is not done again. Raises BenchError for a run with other settings, a shard that
    another process writes, and a disk that takes no more.
    """
    spec = RunSpec(
        suite=settings.suite,
        seed=settings.seed,
        limit=settings.limit,
        model=model.describe(),
        benchmarks={benchmark.name: _described(benchmark) for benchmark in benchmarks},
    )
    open_run(root, spec, environment.current())
    return _do(root, spec, benchmarks, model, settings, part)


def generate(root: Path, benchmarks: Sequence[Benchmark], model: Model, settings: Settings, part: Part) -> int:
    """The first stage of ``run`` alone: predictions. No benchmark is asked about its judge.

    Returns how many samples no process has predicted yet. Raises BenchError as ``run`` does.
    """
    described = {benchmark.name: _described(benchmark, judged=False) for benchmark in benchmarks}
    spec = RunSpec(settings.suite, settings.seed, settings.limit, model.describe(), described)
    open_run(root, spec, environment.current())
    missing = 0
    for benchmark in benchmarks:
        samples = _samples(benchmark, settings.limit)
        predicting.predict(root / benchmark.name, benchmark, model, samples[part.rank :: part.world], settings, part)
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
    stored, _ = read_spec(root)
    described = {benchmark.name: _as_stored(stored, benchmark) for benchmark in benchmarks}
    samples = {benchmark.name: _samples(benchmark, stored.limit) for benchmark in benchmarks}
    _check_predicted(root, samples)
    spec = replace(stored, benchmarks={**stored.benchmarks, **described})
    open_run(root, spec, environment.current())
    missing = 0
    for benchmark in benchmarks:
        folder, asked = root / benchmark.name, samples[benchmark.name]
        judging.judge(folder, spec, benchmark, asked[part.rank :: part.world], batch_size, part, timeout)
        missing += len(_unjudged(folder, asked))
        if failed := [error for error in store.read_errors(folder, Verdict).values() if error is not None]:
            log(f"{benchmark.name}: {len(failed)} verdicts are errors, to be tried again by this command: {failed[0]}")
    return missing


def score(root: Path, benchmarks: Sequence[Benchmark]) -> list[RunRecord]:
    """The last stage of ``run`` alone: what ``rescore`` does, of a run under its own rules.

    Raises BenchError with the number of samples that the stages before have left.
    """
    spec, _ = read_spec(root)
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
    ``replace_judges`` does; nothing has changed then.
    """
    stored, _ = read_spec(root)
    described = {benchmark.name: _as_stored(stored, benchmark) for benchmark in benchmarks}
    spec = replace(stored, benchmarks={**{one.name: stored.benchmarks[one.name] for one in kept}, **described})
    _check_predicted(root, {benchmark.name: _samples(benchmark, spec.limit) for benchmark in benchmarks})
    replace_judges(root, spec, environment.current())
    settings = Settings(spec.suite, spec.seed, spec.limit, batch_size, judge_timeout=timeout)
    return _do(root, spec, benchmarks, None, settings, part, kept)


def _do(
    root: Path,
    spec: RunSpec,
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
            predicting.predict(folder, benchmark, model, own, settings, part)
        judging.judge(folder, spec, benchmark, own, settings.batch_size, part, settings.judge_timeout)
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
    spec, _ = read_spec(root)
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
    spec, started_in = read_spec(root)
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
    spec: RunSpec,
    started_in: Environment,
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


def _as_stored(stored: RunSpec, benchmark: Benchmark) -> dict[str, Json]:
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
