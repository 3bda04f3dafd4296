"""Predictions -> verdicts: what a judge makes of each, in the time that it has."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, runtime_checkable

from benchmarks import environment, store
from benchmarks.spec import RunSpec, check_judge, note_environment
from benchmarks.types import Benchmark, JudgeError, Prediction, Sample, Verdict
from benchmarks.work import Part, batches, is_out_of_memory, message, progress


@runtime_checkable
class JudgesMany(Protocol):
    """A benchmark whose judge looks at so many samples at once, where ``--batch-size`` is smaller."""

    @property
    def judged_together(self) -> int: ...


def judge(
    folder: Path,
    spec: RunSpec,
    benchmark: Benchmark,
    own: Sequence[Sample],
    batch_size: int,
    part: Part,
    timeout: float,
) -> None:
    """Store a verdict on each prediction without error of the process's ``own`` samples, in its shard of ``folder``.

    A judge has ``timeout`` seconds for each sample. Raises BenchError where another judge has judged there meanwhile,
    for a shard that another process writes, and a full disk.
    """
    with store.Shard(store.shard_path(folder, Verdict, part.rank)) as shard:
        check_judge(folder, spec)
        predictions, stored = store.read_predictions(folder), store.read_errors(folder, Verdict)
        usable = [sample for sample in own if sample.id not in predictions.errors]
        pending = [sample for sample in usable if sample.id not in stored or stored[sample.id] is not None]
        if pending:
            note_environment(folder.parent, environment.current(), "judge")
        if isinstance(benchmark, JudgesMany):
            batch_size = max(batch_size, benchmark.judged_together)
        with progress(f"{benchmark.name}: judge", len(usable), len(pending), part) as advance:
            for batch in batches(pending, batch_size):
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
        stopped_by = message(error)
    except _TimeUp:
        stopped_by = f"TimeoutError: the judge took more than {timeout:g} seconds"
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        stopped_by = message(error)
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
