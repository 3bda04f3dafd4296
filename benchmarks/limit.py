"""``--limit``: a part of a benchmark's samples in which every stratum has its share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.types import BenchError, Sample


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
