"""What a chart says: its texts, its colors in a page, and its files."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from benchmarks.types import BenchError, Metric
from reports.plots import INK, SCORE, Panel, Point, bars, beside_published, embed, lines, save
from reports.published import against_published, published
from tests.reports.stored import HOSTILE, record

METRICS = [
    Metric("overall", 0.75, 0.61, 0.85, n=7, missing=1, chance=0.25),
    Metric(HOSTILE, None, None, None, n=0, missing=4),
]


def panel(*points: Point) -> Panel:
    return Panel("geneval overall", "paper suite", "training step", "fraction", {"flow": points, "mse": points[:1]})


def segments(figure: Figure) -> list[tuple[list[float], list[float]]]:
    """The x and the y of every line."""
    drawn = [np.asarray(line.get_xydata(), dtype=float).round(6) for axes in figure.axes for line in axes.lines]
    return [(points[:, 0].tolist(), points[:, 1].tolist()) for points in drawn]


def test_bars_end_at_the_score_and_whiskers_at_the_interval() -> None:
    figure = bars(METRICS)
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [0.75]  # type: ignore[attr-defined]
    assert axes.get_xlim() == (0.0, 1.0)
    assert [x for x, _ in segments(figure)] == [[0.61, 0.85], [0.25, 0.25]]
    assert [text.get_text() for text in axes.texts] == ["overall", "0.750", HOSTILE, "not scored"]


def test_a_scale_without_an_end_holds_the_highest_limit() -> None:
    (axes,) = bars([Metric("fid", 8.0, 7.0, 10.0, 9, 0, higher_is_better=False, unit="FID")]).axes
    assert axes.get_xlim() == (0.0, 10.5)
    (axes,) = bars([Metric("kid", 1.0, -2.0, 4.0, 9, 0, higher_is_better=False, unit="KID x 1000")]).axes
    assert axes.get_xlim() == pytest.approx((-2.1, 4.2))
    (axes,) = bars([Metric("fid", None, None, None, 0, 9, unit="FID")]).axes
    assert axes.get_xlim()[1] > 0


def test_an_embedded_chart_is_escaped_and_takes_the_pages_colors() -> None:
    svg = embed(bars(METRICS), f"scores of {HOSTILE}")
    assert svg.startswith('<svg class="chart"')
    assert svg.endswith("</svg>")
    assert "<script" not in svg
    assert "&lt;script&gt;" in svg
    assert INK not in svg
    assert SCORE not in svg
    assert "var(--score)" in svg
    assert not re.search(r"<metadata|width=\"\d+pt|@import", svg)
    assert svg == embed(bars(METRICS), f"scores of {HOSTILE}")


def test_a_line_joins_the_points_of_a_series_in_all_panels_alike() -> None:
    points = (Point(3200.0, 0.2, 0.1, 0.3), Point(6400.0, 0.4, None, None))
    figure = lines([panel(*points), panel(*points)])
    assert segments(figure)[:3] == [
        ([3200.0, 6400.0], [0.2, 0.4]),
        ([3200.0, 3200.0], [0.1, 0.3]),
        ([3200.0], [0.2]),
    ]
    first, second = ([(line.get_color(), line.get_linestyle()) for line in axes.lines] for axes in figure.axes)
    assert first == second
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["flow", "mse"]


def test_many_series_differ() -> None:
    points = [Point(1.0, 0.5, None, None)]
    figure = lines([Panel("", "", "", "", {str(index): points for index in range(20)})])
    looks = [(line.get_color(), line.get_marker()) for line in figure.axes[0].lines]
    assert len(set(looks)) == 20


@pytest.mark.parametrize("days", [(1,), (1, 2), (1, 28)])
def test_dates_have_few_ticks(days: tuple[int, ...]) -> None:
    figure = lines([panel(*(Point(datetime(2026, 11, day, tzinfo=UTC), 0.2, 0.1, 0.3) for day in days))])
    embed(figure, "")
    assert 1 <= len(figure.axes[0].get_xticks()) <= 7


def test_a_strip_has_every_published_model_and_the_measured_interval() -> None:
    one = record("mmmu", [Metric("mmmu_acc", 0.478, 0.446, 0.511, 900, 0)], suite="paper", profile="blip3o-0.3.0")
    figure = beside_published(against_published([one], "BLIP3-o 4B"), published())
    (axes,) = figure.axes
    background, compared, measured, interval = segments(figure)
    assert len(background[0]) == 14  # MMMU's column of Table 1
    assert (compared[0], measured[0], interval[0]) == ([46.6], [47.8], [44.6, 51.1])
    assert axes.get_title("right") == "highest: BLIP3-o 8B 50.6"


@pytest.mark.parametrize(("name", "start"), [("a.svg", b"<?xml"), ("a.pdf", b"%PDF"), ("b/a.png", b"\x89PNG")])
def test_a_figure_is_saved_as_its_name_says(tmp_path: Path, name: str, start: bytes) -> None:
    save(bars(METRICS), tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(start)


def test_a_figure_that_cannot_be_saved_is_a_users_error(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"a\.docx: a figure's name ends in one of .*\.pdf"):
        save(bars(METRICS), tmp_path / "a.docx")
    (tmp_path / "taken").write_text("")
    with pytest.raises(BenchError, match="cannot write"):
        save(bars(METRICS), tmp_path / "taken" / "a.svg")
