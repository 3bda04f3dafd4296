"""One process's share of a run: which samples, how they are taken, and what it says meanwhile."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

from benchmarks.types import BenchError, Sample, printable

#: Seconds that a judge may take for each sample of a batch. A first one may load weights.
JUDGE_TIMEOUT = 600.0


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


def batches(samples: Sequence[Sample], size: int) -> Iterator[list[Sample]]:
    """``samples`` in their order, ``size`` at a time; the last batch may be smaller."""
    iterator = iter(samples)
    while batch := list(islice(iterator, size)):
        yield batch


@contextmanager
def progress(phase: str, total: int, pending: int, part: Part) -> Iterator[Callable[[int], object]]:
    """A bar with rate and time left on a terminal; one line per phase in CI, in a log file and on ranks above 0."""
    if os.environ.get("CI") or not sys.stderr.isatty() or part.rank > 0:
        share = f" (rank {part.rank} of {part.world})" if part.world > 1 else ""
        log(f"{phase} {pending} of {total} samples{share}")
        yield lambda done: None
        return
    from tqdm import tqdm

    with tqdm(desc=phase, total=total, initial=total - pending, unit="sample", file=sys.stderr) as bar:
        yield bar.update


def log(line: str) -> None:
    """Standard output is for results; everything else goes to standard error."""
    print(printable(line), file=sys.stderr)


def message(error: Exception) -> str:
    """How an error is stored with a sample: its kind and what it says."""
    return f"{type(error).__name__}: {error}"


def is_out_of_memory(error: MemoryError | RuntimeError) -> bool:
    """torch.OutOfMemoryError is a RuntimeError; torch's CPU allocator, CUDA and cuBLAS raise a plain one."""
    said = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or any(text in str(error) for text in said)
    )
