"""A stored run as a terminal table, as JSON, and as one self-contained page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.store import read_predictions, read_records, read_scores, read_verdicts
from benchmarks.types import BenchError, Json, Metric, RunRecord, Sample
from reports.examples import Example, choose, example

TOY_NOTE = "suite: toy (the embedded shapes world; not comparable with published scores)"


def load_records(run: Path) -> list[RunRecord]:
    """The records of a complete run. Raises BenchError when there is none in the folder ``run``."""
    if not run.is_dir():
        raise BenchError(f"there is no run folder {run}; give the folder that blip3o-bench run --out wrote")
    return read_records(run)


def to_json(records: Sequence[RunRecord]) -> str:
    """The records in the form of run.json."""
    return json.dumps({"records": [asdict(record) for record in records]}, indent=1, sort_keys=True, allow_nan=False)


def table(records: Sequence[RunRecord]) -> str:
    """One line per metric, for a terminal; a toy run is preceded by its name and followed by its judges' accuracy."""
    rows = [("benchmark", "metric", "score", "95 % interval", "n", "missing", "chance", "profile")]
    for record in records:
        for metric in record.metrics:
            rows.append(
                (
                    record.benchmark,
                    metric.name + _arrow(metric),
                    number(metric.value, metric.unit),
                    interval(metric),
                    str(metric.n),
                    str(metric.missing),
                    number(metric.chance, metric.unit),
                    record.profile,
                )
            )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    right = {2, 4, 5, 6}
    lines = [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    lines[:0] = [TOY_NOTE if suite == "toy" else f"suite: {suite}" for suite in _suites(records)]
    lines += [
        f"judge of {record.benchmark}, held out: {text}" for record in records if (text := judge_accuracy(record))
    ]
    return "\n".join(lines)


def html(run: Path, samples: Mapping[str, Sequence[Sample]] | None = None) -> str:
    """One page that needs no other file: numbers, interval plot, examples with the judge's boxes, provenance.

    ``samples``, by benchmark, give the examples their prompts, gold answers and input images, which a run does
    not store; only images of samples that are shown are opened. Raises BenchError when the run is not complete.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    records = load_records(run)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        name=run.resolve().name,
        suites=_suites(records),
        toy_note=TOY_NOTE,
        sections=[_section(run, record, (samples or {}).get(record.benchmark, ())) for record in records],
    )


def number(value: float | None, unit: str) -> str:
    """Three decimals for fractions, two for other units, a dash for what is not known."""
    if value is None:
        return "-"
    return f"{value:.3f}" if unit == "fraction" else f"{value:.2f}"


def interval(metric: Metric) -> str:
    if metric.low is None or metric.high is None:
        return "-"
    return f"{number(metric.low, metric.unit)} to {number(metric.high, metric.unit)}"


def judge_accuracy(record: RunRecord) -> str:
    """Every number below a key ``held_out`` of the record's judge, named by the keys around it; or ``""``."""
    return ", ".join(
        f"{' '.join(key for key in path if key != 'held_out')} {value:.4g}".strip()
        for path, value in _leaves(record.judge)
        if "held_out" in path and isinstance(value, int | float)
    )


def _leaves(value: Json, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Json]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, key))
    else:
        yield path, value


def _suites(records: Sequence[RunRecord]) -> list[str]:
    return list(dict.fromkeys(record.suite for record in records))


def _arrow(metric: Metric) -> str:
    return "" if metric.higher_is_better else " (lower is better)"


@dataclass(frozen=True)
class Row:
    """A metric as a line of numbers and as a strip of the interval plot; positions are percent of the axis."""

    name: str
    score: str
    interval: str
    n: int
    missing: int
    chance: str
    at: float | None
    low: float | None
    high: float | None
    chance_at: float | None


@dataclass(frozen=True)
class Axis:
    """The metrics of one unit, which share an axis from 0 to ``end``."""

    unit: str
    end: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Section:
    """One benchmark of the page."""

    record: RunRecord
    axes: tuple[Axis, ...]
    judge_accuracy: str
    strata: Mapping[str, Sequence[Example]]
    provenance: Mapping[str, Sequence[tuple[str, str]]]


def _section(run: Path, record: RunRecord, samples: Sequence[Sample]) -> Section:
    folder = run / record.benchmark
    predictions, verdicts = read_predictions(folder), read_verdicts(folder)
    asked = {sample.id: sample for sample in samples}
    strata = {
        stratum: [
            example(score, predictions.get(score.id), verdicts.get(score.id), asked.get(score.id), folder)
            for score in scores
        ]
        for stratum, scores in choose(read_scores(folder), record.seed).items()
    }
    units = dict.fromkeys(metric.unit for metric in record.metrics)
    axes = tuple(_axis(unit, [metric for metric in record.metrics if metric.unit == unit]) for unit in units)
    return Section(record, axes, judge_accuracy(record), strata, _provenance(record))


def _axis(unit: str, metrics: Sequence[Metric]) -> Axis:
    shown = [x for m in metrics for x in (m.value, m.high, m.chance) if x is not None]
    end = 1.0 if unit == "fraction" or not shown else 1.05 * max(shown)

    def at(x: float | None) -> float | None:
        return None if x is None else round(100 * x / end, 3)

    rows = tuple(
        Row(
            name=m.name + _arrow(m),
            score=number(m.value, unit),
            interval=interval(m),
            n=m.n,
            missing=m.missing,
            chance=number(m.chance, unit),
            at=at(m.value),
            low=at(m.low),
            high=at(m.high),
            chance_at=at(m.chance),
        )
        for m in metrics
    )
    return Axis(unit, f"{end:.4g}", rows)


def _provenance(record: RunRecord) -> dict[str, list[tuple[str, str]]]:
    """Everything the record says about how its numbers were made, as (key, value) by part."""
    parts: Mapping[str, Mapping[str, Json]] = {
        "run": {"version": record.version, "profile": record.profile, "suite": record.suite, "seed": record.seed},
        "model": record.model,
        "judge": record.judge,
        "data": record.data,
        "settings": record.settings,
        "code": record.code,
        "packages": record.packages,
        "hardware": record.hardware,
    }
    return {
        part: [
            (".".join(path), value if isinstance(value, str) else json.dumps(value)) for path, value in _leaves(told)
        ]
        for part, told in parts.items()
        if told
    }
