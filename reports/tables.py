"""Scores and comparisons as tables: for a terminal, in Markdown, LaTeX and CSV, and as JSON."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from benchmarks.types import Json, Metric, RunRecord, printable
from reports.published import Comparison, Published

TOY_NOTE = "suite: toy (the embedded shapes world; not comparable with published scores)"


@dataclass(frozen=True)
class Table:
    """Rows of text under a header. ``right`` are the columns of figures; ``notes`` stand before the table."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: frozenset[int]
    notes: tuple[str, ...] = ()


def score_table(records: Sequence[RunRecord]) -> Table:
    """One row per metric."""
    rows = tuple(
        (
            record.benchmark,
            label(metric),
            number(metric.value, metric.unit),
            interval(metric),
            str(metric.n),
            str(metric.missing),
            number(metric.chance, metric.unit),
            record.profile,
        )
        for record in records
        for metric in record.metrics
    )
    header = ("benchmark", "metric", "score", "95 % interval", "n", "missing", "chance", "profile")
    return Table(header, rows, frozenset({2, 4, 5, 6}), suite_notes(records))


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """One row per published number: measured, published, difference, interval and verdict, in the published unit."""
    rows = tuple(
        (
            one.published.column.title,
            one.published.model,
            as_published(one.measured, one.published),
            one.published.printed,
            as_published(one.difference, one.published, signed=True),
            f"{as_published(one.low, one.published)} to {as_published(one.high, one.published)}"
            if one.low is not None
            else "-",
            f"{one.outcome}: {one.reason}" if one.reason else one.outcome,
            one.published.source,
        )
        for one in comparisons
    )
    header = ("column", "model", "measured", "published", "difference", "95 % interval", "verdict", "source")
    return Table(header, rows, frozenset({2, 3, 4}))


def table(records: Sequence[RunRecord]) -> str:
    """The scores for a terminal, followed by what is known of the judges' accuracy."""
    accuracies = [(record.benchmark, judge_accuracy(record)) for record in records]
    told = [f"judge of {benchmark}, held out: {accuracy}" for benchmark, accuracy in accuracies if accuracy]
    return "\n".join([as_text(score_table(records)), *map(printable, told)])


def suite_notes(records: Sequence[RunRecord]) -> tuple[str, ...]:
    """One line per suite of the records."""
    suites = dict.fromkeys(record.suite for record in records)
    return tuple(suite_note(suite) or f"suite: {suite}" for suite in suites)


def suite_note(suite: str) -> str:
    """What the scores of the toy suite are not; nothing for others."""
    return TOY_NOTE if suite == "toy" else ""


def as_text(table: Table) -> str:
    """For a terminal."""
    rows = [tuple(map(printable, row)) for row in (table.header, *table.rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.header))]
    lines = [
        "  ".join(
            cell.rjust(width) if column in table.right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([*map(printable, table.notes), *lines])


def as_markdown(table: Table) -> str:
    """GitHub's Markdown. Cells are text: what would be markup in them is escaped."""
    rules = tuple("---:" if column in table.right else "---" for column in range(len(table.header)))
    rows = [tuple(map(_markdown, row)) for row in (table.header, *table.rows)]
    lines = ["| " + " | ".join(row) + " |" for row in (rows[0], rules, *rows[1:])]
    notes = [line for note in table.notes for line in (_markdown(note), "")]
    return "\n".join([*notes, *lines])


def as_latex(table: Table) -> str:
    """A ``tabular`` with the rules of the package booktabs."""
    columns = "".join("r" if column in table.right else "l" for column in range(len(table.header)))
    header, *rows = (" & ".join(map(_latex, row)) + r" \\" for row in (table.header, *table.rows))
    notes = [f"% {' '.join(note.split())}" for note in table.notes]
    body = [header, r"\midrule", *rows]
    return "\n".join([*notes, rf"\begin{{tabular}}{{{columns}}}", r"\toprule", *body, r"\bottomrule", r"\end{tabular}"])


def scores_csv(records: Sequence[RunRecord]) -> str:
    """One line per metric, with every digit; what is not known is empty."""
    return _csv(
        [
            {
                "model": record.model.get("name"),
                "suite": record.suite,
                "benchmark": record.benchmark,
                "version": record.version,
                "profile": record.profile,
                "seed": record.seed,
                "metric": metric.name,
                **{key: value for key, value in asdict(metric).items() if key != "name"},
            }
            for record in records
            for metric in record.metrics
        ]
    )


def comparisons_csv(comparisons: Sequence[Comparison]) -> str:
    """One line per published number, with every digit; what is not known is empty."""
    return _csv([_flat(one) for one in comparisons])


def to_json(records: Sequence[RunRecord]) -> str:
    """The records in the form of run.json."""
    return _json({"records": [asdict(record) for record in records]})


def comparisons_json(comparisons: Sequence[Comparison]) -> str:
    """``{"comparisons": [...]}`` with the columns of the CSV."""
    return _json({"comparisons": [_flat(one) for one in comparisons]})


def judge_accuracy(record: RunRecord) -> str:
    """Every number below a key ``held_out`` of the record's judge, named by the keys around it; or ``""``."""
    return ", ".join(
        f"{' '.join(key for key in path if key != 'held_out')} {value:.4g}".strip()
        for path, value in leaves(record.judge)
        if "held_out" in path and isinstance(value, int | float)
    )


def leaves(value: Json, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Json]]:
    """Every value in nested mappings that is no mapping itself, with the keys that lead to it."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    else:
        yield path, value


def number(value: float | None, unit: str) -> str:
    """Three decimals for fractions, two for other units, a dash for what is not known."""
    if value is None:
        return "-"
    return f"{value:.3f}" if unit == "fraction" else f"{value:.2f}"


def interval(metric: Metric) -> str:
    """``low to high``, or a dash."""
    if metric.low is None or metric.high is None:
        return "-"
    return f"{number(metric.low, metric.unit)} to {number(metric.high, metric.unit)}"


def label(metric: Metric) -> str:
    """The metric's name, and that less is better where it is."""
    return metric.name if metric.higher_is_better else f"{metric.name} (lower is better)"


def shortened(text: str, most: int = 40) -> str:
    """So many characters at most, for a label or the middle of a sentence."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def straight(text: str) -> str:
    """``text`` with its bidirectional controls as their escapes: a name must not turn round the sentence it is in."""
    return re.sub("[\u202a-\u202e\u2066-\u2069]", lambda found: printable(found[0]), text)


def as_published(value: float | None, published: Published, signed: bool = False) -> str:
    """A number with one decimal more than the published one was printed with, or a dash."""
    decimals = len(published.printed.partition(".")[2]) + 1
    return "-" if value is None else f"{value:{'+' if signed else ''}.{decimals}f}"


def _flat(one: Comparison) -> dict[str, Json]:
    value = one.published
    return {
        "column": value.column.title,
        "benchmark": value.column.benchmark,
        "metric": value.column.metric,
        "unit": value.column.unit,
        "model": value.model,
        "published": value.value,
        "measured": one.measured,
        "difference": one.difference,
        "low": one.low,
        "high": one.high,
        "verdict": one.outcome,
        "reason": one.reason,
        "published_profile": value.profile,
        "profile": one.profile,
        "source": value.source,
    }


def _csv(rows: Sequence[Mapping[str, Json]]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: csv_cell(value) for key, value in row.items()} for row in rows)
    return buffer.getvalue().rstrip("\n")


def csv_cell(value: Json) -> Json:
    """A text that a spreadsheet would take for a formula begins with an apostrophe instead (OWASP, CSV injection)."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _json(value: Json) -> str:
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False)


_MARKDOWN = str.maketrans({character: f"\\{character}" for character in "\\`*_{}[]<>#|~&"} | {"\n": " ", "\r": " "})
_LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\n": " ", "\r": " "}
    # After the end of a row, a bracket would begin its options.
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "[": "{[}", "*": "{*}"}
)


def _markdown(text: str) -> str:
    return straight(text).translate(_MARKDOWN)


def _latex(text: str) -> str:
    return text.translate(_LATEX)
