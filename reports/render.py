"""A stored run as one self-contained page."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from benchmarks.store import read_predictions, read_records, read_scores, read_verdicts
from benchmarks.types import BenchError, Json, Metric, RunRecord, Sample
from reports import plots
from reports.examples import PER_CATEGORY, Example, Outcome, choose, example, outcome
from reports.page import page
from reports.published import GENERATION, PAPER, UNDERSTANDING, Comparison, published
from reports.runs import headline
from reports.tables import comparison_table, interval, judge_accuracy, label, leaves, number, suite_notes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: (key, value) by part, everything that a record says about how its numbers were made.
Provenance = Mapping[str, Sequence[tuple[str, str]]]


def load_records(run: Path) -> list[RunRecord]:
    """The records of a complete run. Raises BenchError when there is none in the folder ``run``."""
    if not run.is_dir():
        raise BenchError(f"there is no run folder {run}; give the folder that blip3o-bench run --out wrote")
    return read_records(run)


def html(
    run: Path, samples: Mapping[str, Sequence[Sample]] | None = None, comparisons: Sequence[Comparison] = ()
) -> str:
    """One page that needs no other file: numbers, charts, examples with what the judge saw, provenance.

    ``samples``, by benchmark, give the examples their prompts, gold answers and input images, which a run does
    not store; only images of samples that are shown are opened. ``comparisons`` put published numbers beside the
    measured ones. Raises BenchError when the run is not complete.
    """
    records = load_records(run)
    strips = published_figure(comparisons)
    return page(
        "report.html.j2",
        {
            "name": run.resolve().name,
            "notes": suite_notes(records),
            "comparisons": comparison_table(comparisons),
            "strips": Markup(plots.embed(strips, "measured scores beside published ones")) if strips else None,
            "sections": [_section(run, record, (samples or {}).get(record.benchmark, ())) for record in records],
            "environment": _environment(records),
        },
    )


def published_figure(comparisons: Sequence[Comparison]) -> Figure | None:
    """The paper's columns with every model of its tables, where something measured stands beside them; else None."""
    shown = [
        one for one in comparisons if one.measured is not None and one.published.column in (*UNDERSTANDING, *GENERATION)
    ]
    if not shown:
        return None
    return plots.beside_published(shown, [value for value in published() if value.source.startswith(PAPER)])


@dataclass(frozen=True)
class Row:
    """A metric as it is printed."""

    name: str
    score: str
    interval: str
    n: int
    missing: int
    chance: str
    unit: str


@dataclass(frozen=True)
class Section:
    """One benchmark of the page; ``counts`` are the examples that are shown and that there are, by outcome."""

    record: RunRecord
    headline: tuple[Row, ...]
    rows: tuple[Row, ...]
    charts: tuple[Markup, ...]
    judge_accuracy: str
    examples: tuple[Example, ...]
    counts: Mapping[Outcome, tuple[int, int]]
    categories: tuple[str, ...]
    provenance: Provenance


def _section(run: Path, record: RunRecord, samples: Sequence[Sample]) -> Section:
    folder = run / record.benchmark
    predictions, verdicts, scores = read_predictions(folder), read_verdicts(folder), read_scores(folder)
    asked = {sample.id: sample for sample in samples}
    chosen = choose(scores, record.seed)
    shown, total = Counter(map(outcome, chosen)), Counter(map(outcome, scores))
    return Section(
        record=record,
        headline=tuple(map(_row, headline(record))),
        rows=tuple(map(_row, record.metrics)),
        charts=tuple(
            Markup(plots.embed(plots.bars(metrics), f"scores and intervals of {record.benchmark}, {name}"))
            for name, metrics in _charts(record).items()
        ),
        judge_accuracy=judge_accuracy(record),
        examples=tuple(
            example(score, predictions.get(score.id), verdicts.get(score.id), asked.get(score.id), folder)
            for score in chosen
        ),
        counts={kind: (shown[kind], total[kind]) for kind in PER_CATEGORY if total[kind]},
        categories=tuple(dict.fromkeys(score.stratum for score in chosen)),
        provenance=_told(
            {
                "run": {
                    "version": record.version,
                    "profile": record.profile,
                    "suite": record.suite,
                    "seed": record.seed,
                },
                "judge": record.judge,
                "data": record.data,
                "settings": record.settings,
            }
        ),
    )


def _row(metric: Metric) -> Row:
    return Row(
        name=label(metric),
        score=number(metric.value, metric.unit),
        interval=interval(metric),
        n=metric.n,
        missing=metric.missing,
        chance=number(metric.chance, metric.unit),
        unit=metric.unit,
    )


def _charts(record: RunRecord) -> dict[str, list[Metric]]:
    """The metrics by chart: those of one unit share an axis, but parts (``name.part``) have one beside their whole.

    MME's categories go to 200 points and their sum to 2000; DPG-Bench's other profile is such a part.
    """
    charts: dict[str, list[Metric]] = {}
    for metric in record.metrics:
        whole, _, part = metric.name.partition(".")
        charts.setdefault(f"parts of {whole}" if part else metric.unit, []).append(metric)
    return charts


def _environment(records: Sequence[RunRecord]) -> Provenance:
    """What all records of a run share."""
    first = records[0]
    return _told({"model": first.model, "code": first.code, "packages": first.packages, "hardware": first.hardware})


def _told(parts: Mapping[str, Mapping[str, Json]]) -> Provenance:
    return {
        part: [(".".join(path), value if isinstance(value, str) else json.dumps(value)) for path, value in leaves(told)]
        for part, told in parts.items()
        if told
    }
