"""A folder of runs as one page with sortable tables, in which unlike scores never share a column."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from benchmarks.types import Metric
from reports.page import page
from reports.runs import Kind, StoredRun, find_runs, headline, kind, kind_names
from reports.tables import interval, label, number, suite_note


@dataclass(frozen=True)
class Head:
    """A column; ``first`` is the order that puts the best on top."""

    benchmark: str
    metric: str
    kind: str
    first: Literal["ascending", "descending"]


@dataclass(frozen=True)
class Cell:
    """A score as it is printed, and the value to sort by, empty where there is none."""

    value: str
    score: str
    interval: str
    missing: int


@dataclass(frozen=True)
class Line:
    """A run; ``report`` is the path of its page below the folder, where there is one."""

    run: str
    report: str | None
    model: str
    seed: int
    date: str
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True)
class Board:
    """One table; ``details`` says what all its scores share."""

    title: str
    note: str
    heads: tuple[Head, ...]
    lines: tuple[Line, ...]
    details: tuple[tuple[str, str], ...] = ()


#: A column: a kind of record and the name of a metric.
Key = tuple[Kind, str]


def html(root: Path) -> str:
    """The page of all complete runs below ``root``: per suite a table of the headline scores, then one per benchmark.

    Scores share a column only if suite, benchmark, version, profile, data, judge and settings are the same.
    Raises BenchError when there is no complete run.
    """
    runs, left_out = find_runs(root)
    names = kind_names(kind(record) for run in runs for record in run.records)
    boards = []
    for suite in dict.fromkeys(one.suite for one in names):
        kinds = [one for one in names if one.suite == suite]
        boards.append(_board(f"Suite {suite}", suite_note(suite), runs, kinds, names, headlines_only=True))
        boards += [
            _board(f"{one.benchmark}, {names[one]}", suite_note(suite), runs, [one], names, headlines_only=False)
            for one in kinds
        ]
    return page("leaderboard.html.j2", {"name": root.resolve().name, "boards": boards, "left_out": left_out})


def _board(
    title: str,
    note: str,
    runs: Sequence[StoredRun],
    kinds: Sequence[Kind],
    names: dict[Kind, str],
    headlines_only: bool,
) -> Board:
    scores: dict[str, dict[Key, Metric]] = {}
    columns: dict[Key, Metric] = {}
    for run in runs:
        for record in run.records:
            if (own := kind(record)) in kinds:
                shown = headline(record) if headlines_only else record.metrics
                metrics = {(own, metric.name): metric for metric in shown}
                scores.setdefault(run.name, {}).update(metrics)
                columns = {**metrics, **columns}
    keys = sorted(columns, key=lambda key: kinds.index(key[0]))
    lines = [_line(run, [scores[run.name].get(key) for key in keys]) for run in runs if run.name in scores]
    return Board(
        title,
        note,
        tuple(_head(key, columns[key], names) for key in keys),
        tuple(_best_first(lines, columns[keys[0]])),
        () if headlines_only else kinds[0].details,
    )


def _head(key: Key, metric: Metric, names: dict[Kind, str]) -> Head:
    return Head(
        key[0].benchmark, label(metric), names[key[0]], "descending" if metric.higher_is_better else "ascending"
    )


def _line(run: StoredRun, metrics: Iterable[Metric | None]) -> Line:
    first = run.records[0]
    report = "/".join(quote(part) for part in (*Path(run.name).parts, "report.html"))
    return Line(
        run=run.name,
        report=report if (run.folder / "report.html").exists() else None,
        model=str(first.model.get("name", "unnamed")),
        seed=first.seed,
        date=run.started.date().isoformat(),
        cells=tuple(_cell(metric) if metric else None for metric in metrics),
    )


def _cell(metric: Metric) -> Cell:
    value = "" if metric.value is None else repr(metric.value)
    return Cell(value, number(metric.value, metric.unit), interval(metric), metric.missing)


def _best_first(lines: Sequence[Line], metric: Metric) -> list[Line]:
    """By the first column, of which ``metric`` is one; what it does not know comes last."""
    sign = -1 if metric.higher_is_better else 1

    def key(line: Line) -> tuple[bool, float]:
        cell = line.cells[0]
        return (cell is None or not cell.value, sign * float(cell.value) if cell and cell.value else 0.0)

    return sorted(lines, key=key)
