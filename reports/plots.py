"""Charts by matplotlib: as figures, as files, and as SVG inside a page.

Figures are narrow and their text is large, so that a phone shows them without zooming. Pages are light or dark:
``embed`` turns the colors named here into the page's own.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from html import escape
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Literal

from benchmarks.types import BenchError, Metric
from reports.published import Comparison, Published
from reports.tables import label, number, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

#: Colors in a file, and the CSS that replaces them in a page. Near black and near gray, and used for nothing else.
INK, SOFT, RULE, SCORE, BAD = "#010203", "#5b6475", "#dde1e9", "#1f5fbe", "#b3261f"
_CSS = {INK: "currentColor", SOFT: "var(--soft)", RULE: "var(--rule)", SCORE: "var(--score)", BAD: "var(--bad)"}

#: Series differ in color, marker and dash, so that they do in gray and to the color-blind (Okabe & Ito's palette).
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_DASHES: tuple[Literal["-", "--", "-.", ":"], ...] = ("-", "--", "-.", ":")
Look = tuple[str, str, Literal["-", "--", "-.", ":"]]  # color, marker, dash
#: matplotlib knows more, some of which need TeX.
FORMATS = ("eps", "jpg", "pdf", "png", "svg", "tif", "webp")
WIDTH = 4.6  # inches; 331 pt, about the width of a phone
NOTE = 60  # characters of 8 pt in a line of that width, beside the axis

#: Where the scale of a unit ends, if it does.
_ENDS = {"fraction": 1.0, "percent": 100.0}


@dataclass(frozen=True)
class Point:
    """A score at a training step or a date, with its interval where there is one."""

    x: float | datetime
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Panel:
    """One score of several runs, a line per series; ``note`` says under the title what all its points share."""

    title: str
    note: str
    x_label: str
    unit: str
    series: Mapping[str, Sequence[Point]]


def bars(metrics: Sequence[Metric]) -> Figure:
    """Metrics of one unit as bars with 95 % intervals. A dashed line: what a model scores that does not look."""
    unit = metrics[0].unit
    shown = [x for m in metrics for x in (m.value, m.low, m.high, m.chance) if x is not None]
    with style():
        figure = new_figure(0.42 * len(metrics) + 0.5)
        axes = figure.subplots()
        for row, metric in enumerate(metrics):
            _bar(axes, row, metric)
        # KID's interval may reach below 0.
        axes.set_xlim(1.05 * min([0.0, *shown]), _ENDS.get(unit) or 1.05 * max(shown, default=0.0) or 1.0)
        axes.set_ylim(len(metrics) - 0.6, -0.95)
        axes.set_yticks([])
        axes.grid(axis="x", color=RULE, linewidth=0.8)
        axes.set_xlabel(unit)
        return figure


def _bar(axes: Axes, row: int, metric: Metric) -> None:
    text = number(metric.value, metric.unit) if metric.value is not None else "not scored"
    place = ("axes fraction", "data")
    axes.annotate(shortened(label(metric), 50), (0, row - 0.3), xycoords=place, ha="left", va="bottom", color=INK)
    axes.annotate(text, (1, row - 0.3), xycoords=place, ha="right", va="bottom", color=INK)
    if metric.value is not None:
        axes.barh(row, metric.value, height=0.34, color=SCORE, alpha=0.35)
    if metric.low is not None and metric.high is not None:
        axes.plot([metric.low, metric.high], [row, row], color=SCORE, linewidth=2, solid_capstyle="butt")
    if metric.chance is not None:
        ends = [row - 0.24, row + 0.24]
        axes.plot([metric.chance] * 2, ends, color=BAD, linewidth=1.4, linestyle=(0, (2, 1)))


def lines(panels: Sequence[Panel]) -> Figure:
    """Score against training step or date, one panel under the other (the paper's Figure 4 has three).

    A series looks the same in all panels. Points of a series are joined in their order.
    """
    names = list(dict.fromkeys(name for panel in panels for name in panel.series))
    looks = {name: _look(index) for index, name in enumerate(names)}
    with style():
        figure = new_figure(2.7 * len(panels) + 0.2 * len(names))
        for axes, panel in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
            _lines(axes, panel, looks)
        if len(names) > 1:
            figure.legend(handles=_legend(looks), loc="outside lower left", frameon=False, labelcolor=INK)
        return figure


def _look(index: int) -> Look:
    shifted = index + index // len(_COLORS)  # the seventh has the first one's color and another marker
    return _COLORS[index % len(_COLORS)], _MARKERS[shifted % len(_MARKERS)], _DASHES[shifted % len(_DASHES)]


def _lines(axes: Axes, panel: Panel, looks: Mapping[str, Look]) -> None:
    for name, points in panel.series.items():
        color, marker, dash = looks[name]
        x = [_position(point.x) for point in points]
        axes.plot(x, [point.value for point in points], color=color, linestyle=dash, marker=marker, ms=4.5)
        for at, point in zip(x, points, strict=True):
            if point.low is not None and point.high is not None:
                axes.plot([at, at], [point.low, point.high], color=color, linewidth=1, alpha=0.6)
    note = wrap(panel.note, NOTE) or [""]
    axes.set_title(panel.title, loc="left", fontsize=10, color=INK, pad=8 + 10 * len(note))
    axes.annotate("\n".join(note), (0, 1), (0, 5), "axes fraction", "offset points", color=SOFT, fontsize=8)
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.unit)
    axes.grid(color=RULE, linewidth=0.8)
    axes.margins(x=0.06)
    shown = [point.x for points in panel.series.values() for point in points]
    if not shown:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "not scored", ha="center", transform=axes.transAxes)
    if any(isinstance(x, datetime) for x in shown):
        _dates(axes)
    if len(set(shown)) == 1:  # one run: a day, or a step, to either side
        axes.set_xlim(_position(shown[0]) - 1, _position(shown[0]) + 1)


def _legend(looks: Mapping[str, Look]) -> list[Line2D]:
    from matplotlib.lines import Line2D

    return [
        Line2D([], [], color=color, linestyle=dash, marker=marker, ms=4.5, label=shortened(name))
        for name, (color, marker, dash) in looks.items()
    ]


def _position(x: float | datetime) -> float:
    from matplotlib.dates import date2num

    return float(date2num(x)) if isinstance(x, datetime) else x  # type: ignore[no-untyped-call]


def _dates(axes: Axes) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(minticks=2, maxticks=6)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]


def beside_published(comparisons: Sequence[Comparison], published: Sequence[Published]) -> Figure:
    """A strip per column that has a comparison: every published model, the compared one, and the measured interval.

    ``published`` are the numbers that may stand in the background, of any columns.
    """
    columns = list(dict.fromkeys(one.published.column for one in comparisons))
    with style():
        figure = new_figure(0.75 * len(columns) + 0.3)
        for axes, column in zip(figure.subplots(len(columns), squeeze=False)[:, 0], columns, strict=True):
            shown = [one for one in comparisons if one.published.column == column]
            _strip(axes, shown, [value for value in published if value.column == column])
            axes.set_title(column.title, loc="left", fontsize=9, color=INK, pad=2)
        return figure


def _strip(axes: Axes, shown: Sequence[Comparison], published: Sequence[Published]) -> None:
    axes.plot([value.value for value in published], [0] * len(published), "o", color=SOFT, ms=4.5, alpha=0.5)
    for one in shown:
        axes.plot(one.published.value, 0, "D", color=INK, ms=6, fillstyle="none")
        if one.measured is not None:
            axes.plot(one.measured, 0, "|", color=SCORE, ms=15, mew=2)
        if one.low is not None and one.high is not None:
            axes.plot([one.low, one.high], [0, 0], color=SCORE, linewidth=4, alpha=0.5, solid_capstyle="butt")
    if published:
        best = max(published, key=lambda value: value.value)
        axes.set_title(f"highest: {best.model} {best.printed}", loc="right", fontsize=8, color=SOFT, pad=2)
    axes.set_yticks([])
    axes.set_ylim(-1, 1)
    axes.margins(x=0.05)
    axes.grid(axis="x", color=RULE, linewidth=0.8)


def embed(figure: Figure, description: str) -> str:
    """The figure as an ``<svg>`` element that takes its colors from the page; ``description`` is read aloud."""
    buffer = io.StringIO()
    with style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # the reader's fonts draw the text, not ours
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = re.sub(r"<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.DOTALL)
    svg = re.sub(r' id="[a-zA-Z]+[a-zA-Z0-9.]*_\d+"', "", svg)  # figure_1 would be there once per chart of the page
    for color, css in _CSS.items():
        svg = svg.replace(color, css)
    # In place of matplotlib's own opening, which has a size in points and comes after an XML prolog.
    _, head, content = re.split(r"<svg([^>]*)>", svg, maxsplit=1)
    attributes = " ".join(re.findall(r'(?:viewBox|xmlns(?::xlink)?)="[^"]*"', head))
    return f'<svg class="chart" role="img" aria-label="{escape(description)}" {attributes}>{content.rstrip()}'


def save(figure: Figure, path: Path) -> None:
    """Write the figure in the format that the file's name ends in. Raises BenchError for others and for a full disk."""
    kind = path.suffix.removeprefix(".").lower()
    if kind not in FORMATS:
        raise BenchError(f"{path}: a figure's name ends in one of {', '.join('.' + name for name in FORMATS)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with style():
            figure.savefig(path, format=kind, dpi=200)
    except OSError as error:
        raise BenchError(f"cannot write {path}: {error.strerror}") from error


def new_figure(height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), layout="constrained")


@contextmanager
def style() -> Iterator[None]:
    """Text stays text (searchable, scalable), names are never formulas, and ids are the same every time."""
    from matplotlib import rc_context

    with rc_context(
        {
            "font.family": "sans-serif",
            "font.sans-serif": ["DejaVu Sans"],
            "font.size": 9,
            "text.color": INK,
            "text.parse_math": False,
            "axes.edgecolor": RULE,
            "axes.labelcolor": SOFT,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.axisbelow": True,
            "xtick.color": SOFT,
            "ytick.color": SOFT,
            "svg.fonttype": "none",
            "svg.hashsalt": "blip3o-bench",
        }
    ):
        yield
