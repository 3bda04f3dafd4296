"""The cluster bootstrap beside scipy.stats.bootstrap, and how often our intervals cover: ``make bench-statistics``.

One run measures both ways on the same data: as many items and groups as VQAv2's validation split has questions, with
VQAv2's possible scores. The coverage takes about two minutes more.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from reports.statistics import Estimate, cluster_bootstrap, clustered_mean, paired_difference, ratio
from reports.statistics.estimate import Floats

ITEMS, GROUPS, RESAMPLES = 214_354, 80_000, 10_000
DATASETS = 4_000


def data(graded: bool) -> tuple[Floats, Any]:
    """Columns [score, 1] and the group of each item; every group has an item."""
    rng = np.random.default_rng(0)
    groups = np.concatenate([np.arange(GROUPS), rng.integers(0, GROUPS, ITEMS - GROUPS)])
    level = rng.normal(0, 0.3, GROUPS)[groups]
    scores = np.clip(0.7 + level + rng.normal(0, 0.3, ITEMS), 0, 1)
    if not graded:
        steps = np.array([0, 0.3, 0.6, 0.9, 1])
        scores = steps[np.abs(scores[:, None] - steps).argmin(axis=1)]
    return np.stack([scores, np.ones(ITEMS)], axis=1), groups


def ours(columns: Floats, groups: Any) -> Estimate:
    return cluster_bootstrap(ratio, columns, groups, resamples=RESAMPLES)


def theirs(columns: Floats, groups: Any) -> Estimate:
    """The same ratio statistic; groups have unlike sizes, so scipy gets each group's sum and size as a pair."""
    from scipy import stats

    sums, sizes = (np.bincount(groups, weights=column) for column in columns.T)

    def statistic(x: Floats, n: Floats, axis: int) -> Floats:
        result: Floats = x.sum(axis=axis) / n.sum(axis=axis)
        return result

    found = stats.bootstrap(
        (sums, sizes),
        statistic,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=20,  # the fastest of 5, 10, 20, 50, 100 and 200; without it the indices alone take 6 GB
        method="percentile",
        rng=np.random.default_rng(0),
    )
    interval = found.confidence_interval
    return Estimate(float(sums.sum() / sizes.sum()), float(interval.low), float(interval.high))


def timed(way: Callable[[Floats, Any], Estimate], columns: Floats, groups: Any) -> tuple[float, Estimate]:
    started = time.perf_counter()
    estimate = way(columns, groups)
    return time.perf_counter() - started, estimate


def speed() -> None:
    print(f"{RESAMPLES:,} resamples of {ITEMS:,} items in {GROUPS:,} groups, 95 % percentile interval of the mean")
    for name, graded in (("VQAv2's scores", False), ("continuous scores", True)):
        columns, groups = data(graded)
        mine, estimate = timed(ours, columns, groups)
        print(f"  {name:17}  ours   {mine:7.2f} s   {estimate.low:.5f} to {estimate.high:.5f}", flush=True)
        other, estimate = timed(theirs, columns, groups)
        print(
            f"  {name:17}  scipy  {other:7.2f} s   {estimate.low:.5f} to {estimate.high:.5f}   {other / mine:.1f} x",
            flush=True,
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"  peak memory of this process {peak:,.0f} MB")


def votes(rng: np.random.Generator, groups: int, size: int, icc: float) -> Floats:
    """Votes 1, 0 and -1 with probabilities 0.45, 0.15 and 0.4 and this intra-group correlation."""
    share = np.array([0.45, 0.15, 0.4])
    rates = rng.dirichlet(share * (1 - icc) / icc, size=groups) if icc else np.tile(share, (groups, 1))
    drawn = (rng.random((groups, size, 1)) > rates.cumsum(axis=1)[:, None]).sum(axis=2)
    result: Floats = 1.0 - np.minimum(drawn, 2)
    return result


def outcomes(rng: np.random.Generator, groups: int, size: int, icc: float, mean: float) -> Floats:
    """0/1 outcomes with this intra-group correlation (beta-binomial)."""
    rates = rng.beta(mean * (1 - icc) / icc, (1 - mean) * (1 - icc) / icc, (groups, 1)) if icc else mean
    return (rng.random((groups, size)) < rates).astype(float)


def coverage() -> None:
    """Of 95 % intervals. By chance alone a figure strays by 0.35 points (one standard error)."""
    print(f"share of {DATASETS:,} data sets whose 95 % interval holds the truth, in %")
    print("  groups x size   ICC   margin of votes   mean of 0/1 at 0.8   paired difference 0.8 - 0.75")
    for groups, size in ((30, 4), (100, 4), (553, 4), (1000, 3)):
        for icc in (0.0, 0.2, 0.45):
            rng = np.random.default_rng(1)
            label = np.repeat(np.arange(groups), size)
            held = np.zeros(3)
            for _ in range(DATASETS):
                first, second = (outcomes(rng, groups, size, icc, mean) for mean in (0.8, 0.75))
                held += [
                    holds(clustered_mean(votes(rng, groups, size, icc).ravel(), label, bounds=(-1, 1)), 0.05),
                    holds(clustered_mean(first.ravel(), label, bounds=(0, 1)), 0.8),
                    holds(paired_difference(first.ravel(), second.ravel(), label).difference, 0.05),
                ]
            shares = 100 * held / DATASETS
            print(f"  {groups:6} x {size}     {icc:4.2f}   {shares[0]:15.1f}   {shares[1]:18.1f}   {shares[2]:28.1f}")


def holds(estimate: Estimate, truth: float) -> bool:
    return estimate.low is not None and estimate.high is not None and estimate.low <= truth <= estimate.high


if __name__ == "__main__":
    speed()
    coverage()
