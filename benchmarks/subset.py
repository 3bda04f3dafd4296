"""A fixed, stratified part of a benchmark: the suite ``ci`` runs the same samples, every time and everywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from benchmarks.types import Benchmark, Json, Sample
from benchmarks.wrapped import Wrapped


def shares(sizes: Sequence[int], total: int) -> list[int]:
    """``total`` seats among strata of these sizes by the largest remainder (Hamilton's method), in whole numbers.

    Each stratum gets its quota total * size / sum(sizes) rounded down; seats that are left go to the largest
    remainders, of equal ones to the earlier stratum. Raises ValueError for more seats than there are to fill.
    """
    everything = sum(sizes)
    if not 0 <= total <= everything:
        raise ValueError(f"{total} of {everything} cannot be chosen")
    if total == everything:
        return list(sizes)
    quotas = [divmod(total * size, everything) for size in sizes]
    left = total - sum(quota for quota, _ in quotas)
    rounded_up = sorted(range(len(sizes)), key=lambda i: (-quotas[i][1], i))[:left]
    return [quota + (i in rounded_up) for i, (quota, _) in enumerate(quotas)]


def stratified(samples: Sequence[Sample], groups: int) -> list[Sample]:
    """So many whole groups of ``samples`` (all of them where there are fewer), from each stratum in proportion.

    Strata share the groups as ``shares`` does. Within a stratum those come whose name has the smallest sha256, a
    drawing that depends on nothing but the names. A group counts to the stratum of its first sample; samples stay in
    order.
    """
    strata: dict[str, list[str]] = {}
    for group, stratum in {sample.group: sample.stratum for sample in reversed(samples)}.items():
        strata.setdefault(stratum, []).append(group)
    names = sorted(strata)
    seats = shares([len(strata[name]) for name in names], min(groups, sum(map(len, strata.values()))))
    chosen = {
        group for name, seat in zip(names, seats, strict=True) for group in sorted(strata[name], key=drawn)[:seat]
    }
    return [sample for sample in samples if sample.group in chosen]


def drawn(name: str) -> str:
    """What a name is drawn by."""
    return hashlib.sha256(name.encode()).hexdigest()


class Subset(Wrapped):
    """A benchmark of which ``stratified`` takes a part. Which one is in the record."""

    def __init__(self, benchmark: Benchmark, groups: int) -> None:
        super().__init__(benchmark)
        self._samples = stratified(benchmark.samples(), groups)

    def describe(self) -> Mapping[str, Json]:
        ids = "\n".join(sample.id for sample in self._samples)
        groups = len({sample.group for sample in self._samples})
        subset = {"groups": groups, "samples": len(self._samples), "ids_sha256": drawn(ids)}
        return {**super().describe(), "subset": subset}

    def samples(self) -> Sequence[Sample]:
        return self._samples
