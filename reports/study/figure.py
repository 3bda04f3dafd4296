"""The shares of votes as bars, as the paper's Figure 6 compares two models, with the net margin and its interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from reports.plots import INK, SOFT, new_figure, style
from reports.study.preference import Comparison
from reports.study.wording import margin_text
from reports.tables import shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Of the first model, ties and the second, with the text on them; the same on light and dark pages.
_COLORS = (("#0072b2", "#ffffff"), ("#c9ced8", "#1d2331"), ("#a84b00", "#ffffff"))

#: Characters of a name, so that two stand under a bar; the tables have all of them.
NAME = 30


def figure(comparisons: Sequence[Comparison]) -> Figure:
    """A bar for two models under a criterion: votes for the first, ties, votes for the second, in percent."""
    with style():
        drawn = new_figure(0.95 * len(comparisons) + 0.5)
        axes = drawn.subplots()
        for row, comparison in enumerate(comparisons):
            _bar(axes, row, comparison)
        axes.set_xlim(0, 100)
        axes.set_ylim(len(comparisons) - 0.45, -0.55)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("percent of votes")
        return drawn


def _bar(axes: Axes, row: int, comparison: Comparison) -> None:
    counts, edge = comparison.counts, 0.0
    for votes, (color, ink) in zip((counts.wins, counts.ties, counts.losses), _COLORS, strict=True):
        share = 100 * votes / counts.total
        axes.barh(row, share, left=edge, height=0.34, color=color)
        if share >= 6:  # else the number is wider than its part
            axes.text(edge + share / 2, row, f"{share:.1f}", ha="center", va="center", color=ink)
        edge += share
    axes.plot([50, 50], [row - 0.2, row + 0.2], color=INK, linewidth=1)
    margin = f"net margin {margin_text(comparison.margin)}"
    for x, y, text, side, look in (
        (0, -0.2, shortened(comparison.criterion, NAME), "left", {"color": INK}),
        (1, -0.2, margin, "right", {"color": SOFT, "fontsize": 8}),
        (0, 0.2, shortened(comparison.first, NAME), "left", {"color": SOFT, "fontsize": 8}),
        (1, 0.2, shortened(comparison.second, NAME), "right", {"color": SOFT, "fontsize": 8}),
    ):
        place = ("axes fraction", "data")
        axes.annotate(text, (x, row + y), xycoords=place, ha=side, va="bottom" if y < 0 else "top", **look)
