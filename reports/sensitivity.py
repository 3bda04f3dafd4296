"""Which deliberate damages the gate notices, with how few samples: the page docs/sensitivity.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.store import read_records
from reports.compare import ComparedRuns, MetricDifference, compare, signed
from reports.gate import Gate, Gated, Policy, gate
from reports.tables import Table, as_markdown

#: The undamaged model with another seed.
CONTROL = "nothing"


@dataclass(frozen=True)
class Try:
    """A damage at one size: ``limit`` samples of each benchmark, or all of them."""

    damage: str
    limit: int | None
    gated: Gated
    compared: ComparedRuns

    @property
    def detected(self) -> bool:
        return self.gated.verdict == "fail"


def examine(damage: str, limit: int | None, damaged: Path, undamaged: Path) -> Try:
    """Gate and compare two complete runs; of the undamaged one, only what the damaged one has too."""
    has = {record.benchmark for record in read_records(damaged)}
    records = read_records(undamaged)
    benchmarks = {record.benchmark: Gate(rule="none") for record in records if record.benchmark not in has}
    # A distance has no scores of single samples: the undamaged run's upper limit is its ceiling.
    ceilings = {
        metric.name: Gate(rule="absolute-floor", floor=metric.high)
        for record in records
        for metric in record.metrics
        if record.benchmark == "mjhq" and "mjhq" in has and metric.name == "fid" and metric.high is not None
    }
    policy = Policy(benchmarks=benchmarks, metrics={"mjhq": ceilings} if ceilings else {})
    # Forced: a control run differs in its seed.
    return Try(damage, limit, gate(damaged, undamaged, policy), compare(undamaged, damaged, force=True))


def page(tries: Sequence[Try]) -> str:
    """docs/sensitivity.md: damages in their order, each at its smallest size that showed it, or at its largest."""
    shown: dict[str, Try] = {}
    for one in tries:
        if one.damage not in shown or not shown[one.damage].detected:
            shown[one.damage] = one
    header = ("damage", "detected", "samples", "by the gate", "largest losses, with 95 % interval")
    rows = tuple(
        (one.damage, "yes" if one.detected else "no", _samples(one), _by(one), _losses(one)) for one in shown.values()
    )
    damages = [one for one in shown.values() if one.damage != CONTROL]
    detected = sum(one.detected for one in damages)
    return _PAGE.format(table=as_markdown(Table(header, rows, frozenset())), detected=detected, all=len(damages))


def _samples(one: Try) -> str:
    size = "all" if one.limit is None else f"--limit {one.limit}"
    counts = {record.benchmark: record.metrics[0].n for record in one.compared.records}
    return f"{size}: " + ", ".join(f"{name} {count}" for name, count in counts.items())


def _by(one: Try) -> str:
    failed = [f"{judged.benchmark} {judged.metric}" for judged in one.gated.metrics if judged.verdict == "fail"]
    return ", ".join(failed) or one.gated.verdict


def _losses(one: Try, at_most: int = 2) -> str:
    """The headline scores that fell most for their intervals, then those that fell and have none."""
    worse = [m for m in one.compared.metrics if m.headline and _loss(m) > 0]
    worse.sort(key=_weight, reverse=True)
    return "; ".join(map(_told, worse[:at_most])) or "none"


def _loss(metric: MetricDifference) -> float:
    change = metric.difference or 0.0
    return -change if metric.higher_is_better else change


def _weight(metric: MetricDifference) -> float:
    """A loss over the half width of its interval: beyond 1 it is significant on its own."""
    if metric.low is None or metric.high is None or metric.high == metric.low:
        return 0.0
    return 2 * _loss(metric) / (metric.high - metric.low)


def _told(metric: MetricDifference) -> str:
    limits = f"{signed(metric.low, metric.unit)} to {signed(metric.high, metric.unit)}"
    shown = "no interval" if metric.low is None else limits
    return f"{metric.benchmark} {metric.metric} {signed(metric.difference, metric.unit)} ({shown})"


_PAGE = """\
# What the toy suite notices

Written by `make sensitivity`. A deliberate damage is done to the toy model; the benchmarks that it can touch are run as
without it, with the same seeds, and `blip3o-bench gate` judges the pair. First with 32 samples of each benchmark, then,
where nothing was noticed, with 100, then with all. Scores are the toy suite's. GenEval, DPG-Bench and FID are drawn,
VQAv2 and MME asked; those alone, to keep the time short.

{table}

{detected} of {all} damages were detected. *Detected* means that the gate fails: after Holm's correction over all
tested scores, a loss is significant at 5 %; or the whole interval of the FID lies above the undamaged run's. *cannot
tell* is the gate's verdict on too few samples to rule a loss out: it does not pass such a run either. The row "nothing"
is a control: the same model with another seed, which the gate may fail in one of twenty runs.

* *guidance 1*: no guidance. *5 steps* of sampling. *shuffled queries*: the latent queries in another order.
* *8-bit weights*: every weight matrix rounded to 255 levels per row. *template*: the markers of the chat template are
  missing from the prompts of drawing.
* *half the training*: the weights of an earlier step, where a checkpoint of it was given.
"""
