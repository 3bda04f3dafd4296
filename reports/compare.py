"""Two runs on the same samples: what differs, by how much, and whether that is more than chance.

Differences are second minus first. Which scores a metric is made of: composition.py; estimators: docs/statistics.md.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from benchmarks.store import read_predictions, read_records, read_scores
from benchmarks.types import BenchError, Metric, Prediction, RunRecord, Sample, Score, printable
from reports.composition import Composed, Items, compose, pair
from reports.examples import Example, Picture, choose, example, outcome, picture
from reports.runs import headline, kind
from reports.statistics import holm
from reports.tables import Table, as_text, number, shortened, suite_notes

#: How far a stored value may lie from what its scores give, as a share of full marks: MMMU's is rounded to five
#: decimals (mmmu_aggregate_results, lmms_eval/tasks/mmmu/utils.py).
ROUNDING = 1e-5
#: So many flipped samples of a benchmark are named in the table for a terminal.
NAMED = 4

#: Why a metric has no test where the run stores no score of single samples.
NO_SCORES = "no score per sample is stored of it"


@dataclass(frozen=True)
class MetricDifference:
    """One metric of two runs. ``first`` and ``second`` are the stored values, each over all that its run scored.

    ``difference``, its 95 % interval and the two-sided ``p`` rest on the ``n`` samples that count in both;
    ``missing`` were asked for and do not. ``p_holm`` is corrected for the number of headline metrics, or of the
    others. What is None has its reason in ``note``; ``test`` is then "none".
    """

    benchmark: str
    metric: str
    unit: str
    higher_is_better: bool
    headline: bool
    first: float | None
    second: float | None
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None
    test: str
    n: int
    missing: int
    note: str = ""


@dataclass(frozen=True)
class Flip:
    """A sample that one run has right and the other wrong; graded scores count as right from 0.5 on."""

    first: Score
    second: Score

    @property
    def change(self) -> Literal["better", "worse"]:
        return "better" if outcome(self.second) == "right" else "worse"


@dataclass(frozen=True)
class ComparedRuns:
    """``unlike`` says what differs though it should not; it is empty but for a comparison that was forced."""

    first: Path
    second: Path
    records: tuple[RunRecord, ...]  # of the second run, of the benchmarks that both have
    unlike: tuple[str, ...]
    left_out: tuple[str, ...]  # what one run has alone
    metrics: tuple[MetricDifference, ...]
    flips: Mapping[str, tuple[Flip, ...]]  # by benchmark


def compare(first: Path, second: Path, force: bool = False) -> ComparedRuns:
    """Compare two complete runs, benchmark by benchmark and metric by metric.

    Raises BenchError when a run is not complete, they share no benchmark, or (without ``force``) their records differ
    in more than the model: suite, seed, profile, version, data, judge or settings.
    """
    own, other = ({record.benchmark: record for record in read_records(run)} for run in (first, second))
    shared = {name: (own[name], other[name]) for name in own if name in other}
    if not shared:
        raise BenchError(f"{first} ({', '.join(own)}) and {second} ({', '.join(other)}) share no benchmark")
    differing = unlike(shared.values())
    if differing and not force:
        more = f"; and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise BenchError(
            f"{first} and {second} are not alike: {'; '.join(differing[:3])}{more}; --force compares them all the same"
        )
    metrics: list[MetricDifference] = []
    flips: dict[str, tuple[Flip, ...]] = {}
    left_out = [
        f"{name} is only in {run}"
        for run, a, b in ((first, own, other), (second, other, own))
        for name in a.keys() - b.keys()
    ]
    for name, records in shared.items():
        scores = read_scores(first / name), read_scores(second / name)
        items = pair(*scores)
        metrics += differences(*records, items)
        flips[name] = _flips(*scores, items)
        alone = {m.name for m in records[0].metrics} ^ {m.name for m in records[1].metrics}
        left_out += [f"{name} {metric} is only in one of them" for metric in sorted(alone)]
    return ComparedRuns(
        first,
        second,
        tuple(record for _, record in shared.values()),
        tuple(differing),
        tuple(sorted(left_out)),
        tuple(_corrected(metrics)),
        flips,
    )


def unlike(pairs: Iterable[tuple[RunRecord, RunRecord]], but: Sequence[str] = ()) -> list[str]:
    """What differs between the records of each pair beside the model, and the keys in ``but``: one line per key and
    pair of values, with the benchmarks that it is so for."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for pair_ in pairs:
        first, second = map(_told, pair_)
        for key in dict.fromkeys([*first, *second]):
            values = first.get(key, "not there"), second.get(key, "not there")
            if values[0] != values[1] and key not in but:
                found.setdefault((key, *values), []).append(pair_[0].benchmark)
    return [
        f"{key} is {shortened(one)} and {shortened(another)} ({', '.join(benchmarks)})"
        for (key, one, another), benchmarks in found.items()
    ]


def _told(record: RunRecord) -> dict[str, str]:
    return {"suite": record.suite, "seed": str(record.seed), **dict(kind(record).details)}


def differences(first: RunRecord, second: RunRecord, items: Items) -> list[MetricDifference]:
    """The metrics of one benchmark that both records have, not yet corrected for their number."""
    composed = compose(second, items)
    others = {metric.name: metric for metric in second.metrics}
    heads = {metric.name for metric in headline(first)}
    return [
        _difference(first.benchmark, metric, others[metric.name], composed.get(metric.name), metric.name in heads)
        for metric in first.metrics
        if metric.name in others
    ]


def obstacle(first: Metric, second: Metric, composed: Composed | None) -> str:
    """Why the difference of a metric cannot be tested, or nothing."""
    if composed is None:
        return NO_SCORES
    for metric, score in ((first, composed.score("first")), (second, composed.score("second"))):
        if not _same(metric.value, score, composed.full_marks):
            given = number(score, metric.unit)
            return f"its stored value, {number(metric.value, metric.unit)}, is not what the stored scores give: {given}"
    if composed.paired is None:
        return "no sample counts in both runs, or a stratum has none"
    return ""


def _same(stored: float | None, made: float | None, full_marks: float) -> bool:
    if stored is None or made is None:
        return stored is made
    return abs(stored - made) <= ROUNDING * full_marks


def _difference(
    benchmark: str, first: Metric, second: Metric, composed: Composed | None, is_headline: bool
) -> MetricDifference:
    why_not = obstacle(first, second, composed)
    stored = None if first.value is None or second.value is None else second.value - first.value
    untested = MetricDifference(
        benchmark,
        first.name,
        second.unit,
        second.higher_is_better,
        is_headline,
        first.value,
        second.value,
        difference=stored,
        low=None,
        high=None,
        # Whatever the test would be, a difference of 0 is the least extreme there is.
        p=1.0 if composed is None and stored == 0 else None,
        p_holm=None,
        test="none",
        n=min(first.n, second.n),
        missing=max(first.missing, second.missing),
        note=why_not,
    )
    found = None if composed is None or why_not else composed.difference()
    if found is None:
        return untested
    return replace(
        untested,
        difference=found.estimate.value,
        low=found.estimate.low,
        high=found.estimate.high,
        p=found.p,
        test=found.test,
        n=found.n,
        missing=found.missing,
        note=found.estimate.note,
    )


def _corrected(metrics: Sequence[MetricDifference]) -> list[MetricDifference]:
    """Holm's p over the headline metrics, and over the others: a hundred parts must not drown a whole."""
    corrected = list(metrics)
    for is_headline in (True, False):
        family = [at for at, one in enumerate(metrics) if one.p is not None and one.headline == is_headline]
        if family:
            ps = holm([metrics[at].p or 0.0 for at in family])
            for at, p in zip(family, ps, strict=True):
                corrected[at] = replace(metrics[at], p_holm=p)
    return corrected


def _flips(first: Sequence[Score], second: Sequence[Score], items: Items) -> tuple[Flip, ...]:
    scored = ~np.isnan(items.first) & ~np.isnan(items.second)
    flipped = scored & ((items.first >= 0.5) != (items.second >= 0.5))
    ids = {items.ids[at] for at in np.flatnonzero(flipped)}
    after = {score.id: score for score in second if score.id in ids}
    return tuple(Flip(score, after[score.id]) for score in first if score.id in ids)


# For readers and machines ---------------------------------------------------------------------------------------------


def text(compared: ComparedRuns) -> str:
    """For a terminal: a row per metric, then what flipped."""
    return "\n".join([as_text(difference_table(compared)), *_flip_lines(compared)])


def difference_table(compared: ComparedRuns) -> Table:
    """One row per metric; the notes say what was compared, and what differs beside the model."""
    rows = tuple(
        (
            one.benchmark,
            one.metric if one.higher_is_better else f"{one.metric} (lower is better)",
            number(one.first, one.unit),
            number(one.second, one.unit),
            signed(one.difference, one.unit),
            "-" if one.low is None else f"{signed(one.low, one.unit)} to {signed(one.high, one.unit)}",
            p_value(one.p),
            p_value(one.p_holm),
            str(one.n),
            str(one.missing),
            f"{one.test}: {one.note}" if one.low is None and one.note else one.test,
        )
        for one in compared.metrics
    )
    header = (
        "benchmark",
        "metric",
        "first",
        "second",
        "difference",
        "95 % interval",
        "p",
        "Holm",
        "n",
        "missing",
        "test",
    )
    families = [sum(one.headline == which and one.p is not None for one in compared.metrics) for which in (True, False)]
    notes = (
        *suite_notes(compared.records),
        f"first: {compared.first}   second: {compared.second}   difference: second - first",
        f"Holm: p corrected for {families[0]} headline metrics, and for {families[1]} others",
        *(f"not alike: {line}" for line in compared.unlike),
        *compared.left_out,
    )
    return Table(header, rows, frozenset({2, 3, 4, 6, 7, 8, 9}), notes)


def _flip_lines(compared: ComparedRuns) -> list[str]:
    lines = []
    for benchmark, flips in compared.flips.items():
        count = Counter(flip.change for flip in flips)
        if flips:
            named = ", ".join(printable(flip.first.id) for flip in flips[:NAMED])
            dots = ", ..." if len(flips) > NAMED else ""
            lines.append(
                f"{benchmark}: {count['better']} samples flipped to right, {count['worse']} to wrong: {named}{dots}"
            )
    return lines


def signed(value: float | None, unit: str) -> str:
    """A difference as its metric is printed, with its sign."""
    if value is None:
        return "-"
    printed = number(value, unit)
    return f"+{printed}" if value > 0 else printed


def p_value(p: float | None) -> str:
    """Four decimals, or that it is less."""
    if p is None:
        return "-"
    return "<0.0001" if p < 0.0001 else f"{p:.4f}"


def to_json(compared: ComparedRuns) -> str:
    """Every metric with every digit, and all flipped samples with both scores."""
    return json.dumps(
        {
            "first": str(compared.first),
            "second": str(compared.second),
            "unlike": compared.unlike,
            "left_out": compared.left_out,
            "metrics": [asdict(one) for one in compared.metrics],
            "flips": {
                benchmark: [
                    {"id": flip.first.id, "first": flip.first.value, "second": flip.second.value} for flip in flips
                ]
                for benchmark, flips in compared.flips.items()
            },
        },
        indent=1,
        allow_nan=False,
    )


@dataclass(frozen=True)
class FlipExample:
    """A flipped sample with what both runs made of it. ``inputs`` are the images that were asked about."""

    change: Literal["better", "worse"]
    prompt: str | None
    gold: str | None
    inputs: tuple[Picture, ...]
    first: Example
    second: Example


@dataclass(frozen=True)
class Section:
    """One benchmark of the page; ``counts`` are the flips that are shown and that there are, by change."""

    benchmark: str
    examples: tuple[FlipExample, ...]
    counts: Mapping[str, tuple[int, int]]
    categories: tuple[str, ...]


def html(compared: ComparedRuns, samples: Mapping[str, Sequence[Sample]] | None = None) -> str:
    """One self-contained page: the table, and flipped samples with both answers or images side by side.

    ``samples``, by benchmark, give prompts, gold answers and input images, which a run does not store.
    """
    from reports.page import page

    sections = [
        _section(compared, record, flips, (samples or {}).get(record.benchmark, ()))
        for record in compared.records
        if (flips := compared.flips[record.benchmark])
    ]
    names = compared.first.resolve().name, compared.second.resolve().name
    if names[0] == names[1]:  # old/run and new/run
        names = str(compared.first), str(compared.second)
    return page(
        "compare.html.j2",
        {"first": names[0], "second": names[1], "table": difference_table(compared), "sections": sections},
    )


def _section(compared: ComparedRuns, record: RunRecord, flips: Sequence[Flip], samples: Sequence[Sample]) -> Section:
    by_id = {flip.first.id: flip for flip in flips}
    chosen = [by_id[score.id] for score in choose([flip.second for flip in flips], record.seed)]
    folders = compared.first / record.benchmark, compared.second / record.benchmark
    ids = {flip.first.id for flip in chosen}
    before, after = (_predictions(folder, ids) for folder in folders)
    asked = {sample.id: sample for sample in samples if sample.id in ids}
    examples = []
    for flip in chosen:
        sample = asked.get(flip.first.id)
        gold = sample.meta.get("answer") if sample else None
        examples.append(
            FlipExample(
                flip.change,
                sample.prompt if sample else None,
                None if gold is None else str(gold),
                tuple(picture(image(), ()) for image in sample.images) if sample else (),
                example(flip.first, before.get(flip.first.id), None, None, folders[0]),
                example(flip.second, after.get(flip.first.id), None, None, folders[1]),
            )
        )
    shown, total = Counter(flip.change for flip in chosen), Counter(flip.change for flip in flips)
    return Section(
        record.benchmark,
        tuple(examples),
        {change: (shown[change], total[change]) for change in ("worse", "better") if total[change]},
        tuple(dict.fromkeys(flip.second.stratum for flip in chosen)),
    )


def _predictions(folder: Path, ids: set[str]) -> dict[str, Prediction]:
    """Those of a few samples; the others are let go before the other run's are read."""
    return {id_: prediction for id_, prediction in read_predictions(folder).items() if id_ in ids}
