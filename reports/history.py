"""The scores of many runs against training step or date."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

from markupsafe import Markup

from benchmarks.types import BenchError, Metric, RunRecord
from reports import plots
from reports.page import page
from reports.plots import Panel, Point
from reports.runs import STEP, Kind, StoredRun, find_runs, headline, kind, kind_names, training_step
from reports.tables import interval, label, number, suite_notes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Against = Literal["step", "date"]


@dataclass(frozen=True)
class Entry:
    """One score of one run."""

    run: StoredRun
    record: RunRecord
    metric: Metric
    step: int | None


def html(root: Path, against: Against | None = None) -> str:
    """The page of all complete runs below ``root``: per headline score a chart and the numbers behind it.

    ``against`` None takes the training step where every run has one, and the date otherwise. A line joins runs of one
    folder, or of one model's name but for its step. Unlike scores (see ``reports.runs.Kind``) never share a chart.
    Raises BenchError when there is no complete run, or no training step where one is asked for.
    """
    runs, left_out = find_runs(root)
    charts = [
        (Markup(plots.embed(plots.lines([panel]), f"{panel.title}, {panel.note}")), [_row(entry) for entry in entries])
        for panel, entries in _panels(runs, against)
    ]
    notes = suite_notes([record for run in runs for record in run.records])
    return page(
        "history.html.j2", {"name": root.resolve().name, "notes": notes, "charts": charts, "left_out": left_out}
    )


def figure(root: Path, against: Against | None = None) -> Figure:
    """The charts of the page as one figure (``reports.plots.save`` writes it)."""
    runs, _ = find_runs(root)
    return plots.lines([panel for panel, _ in _panels(runs, against)])


def _panels(runs: Sequence[StoredRun], against: Against | None) -> Iterator[tuple[Panel, list[Entry]]]:
    """A panel per kind of record and headline score, with its entries in the order of steps and dates."""
    names = kind_names(kind(record) for run in runs for record in run.records)
    scores: dict[tuple[Kind, str], list[Entry]] = {}
    for run in runs:
        for record in run.records:
            for metric in headline(record):
                entry = Entry(run, record, metric, training_step(run, record))
                scores.setdefault((kind(record), metric.name), []).append(entry)
    for (own, _), entries in scores.items():
        entries.sort(key=lambda entry: (entry.step or 0, entry.run.started))
        by_step = _by_step(entries, against)
        yield (
            Panel(
                title=f"{own.benchmark} {label(entries[0].metric)}",
                note=f"{own.suite} suite, {names[own]}",
                x_label="training step" if by_step else "date",
                unit=entries[0].metric.unit,
                series=_points(entries, by_step),
            ),
            entries,
        )


def _by_step(entries: Sequence[Entry], against: Against | None) -> bool:
    without = [entry.run.name for entry in entries if entry.step is None]
    if against == "step" and without:
        raise BenchError(
            f"nothing says how many steps the model of {without[0]} was trained; "
            "name its folder or checkpoint step-NNNNNN, or draw against the date"
        )
    return against != "date" and not without


def _points(entries: Sequence[Entry], by_step: bool) -> dict[str, list[Point]]:
    series: dict[str, list[Point]] = {}
    for entry in entries if by_step else sorted(entries, key=lambda entry: entry.run.started):
        if entry.metric.value is not None:
            x = float(entry.step) if by_step and entry.step is not None else entry.run.started
            point = Point(x, entry.metric.value, entry.metric.low, entry.metric.high)
            series.setdefault(_series(entry), []).append(point)
    return series


def _series(entry: Entry) -> str:
    """The folder that holds the run beside others, or else the model's name without its step."""
    parent = str(PurePosixPath(entry.run.name).parent)
    name = str(entry.record.model.get("name", "unnamed"))
    return parent if parent != "." else re.sub(rf"[-_/]?{STEP}", "", name) or name


def _row(entry: Entry) -> tuple[str, ...]:
    metric = entry.metric
    return (
        _series(entry),
        entry.run.name,
        entry.run.started.strftime("%Y-%m-%d %H:%M"),
        "-" if entry.step is None else str(entry.step),
        number(metric.value, metric.unit),
        interval(metric),
        str(metric.n),
        str(metric.missing),
    )
