"""Scores of many runs against training step and date."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.types import BenchError, Metric, RunRecord
from reports.history import Against, figure, html
from tests.reports.stored import HOSTILE, Page, assert_self_contained, record, store_run


def geneval(value: float, limit: int | None = None) -> RunRecord:
    metrics = [Metric("overall", value, value - 0.1, value + 0.1, 2212, 0), Metric("colors", 0.5, None, None, 376, 0)]
    return record("geneval", metrics, suite="paper", limit=limit)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two designs of the paper, three checkpoints each; the later checkpoint was scored on the earlier day."""
    for design, best in (("flow", 0.6), ("mse", 0.4)):
        for index in range(3):
            name = f"{design}/step-{3200 * (index + 1):06d}"
            store_run(tmp_path / name, [geneval(best + 0.1 * index)], day=9 - index, model=name)
    return tmp_path


def points(root: Path, against: Against | None = None) -> list[list[tuple[float, float]]]:
    """What the lines of the first chart join; not their intervals' bars."""
    joined = [line for line in figure(root, against).axes[0].lines if line.get_marker() != "None"]
    return [[(x, y) for x, y in np.asarray(line.get_xydata(), dtype=float).round(6).tolist()] for line in joined]


def test_every_run_with_a_step_stands_at_it(runs: Path) -> None:
    assert points(runs) == [
        [(3200.0, 0.6), (6400.0, 0.7), (9600.0, 0.8)],
        [(3200.0, 0.4), (6400.0, 0.5), (9600.0, 0.6)],
    ]
    (axes,) = figure(runs).axes  # colors is no headline score
    assert axes.get_xlabel() == "training step"


def test_dates_where_they_are_asked_for_or_a_step_is_unknown(runs: Path) -> None:
    by_date = points(runs, "date")
    assert [[y for _, y in series] for series in by_date] == [[0.8, 0.7, 0.6], [0.6, 0.5, 0.4]]
    store_run(runs / "final", [geneval(0.9)], day=10, model="final")
    assert [y for _, y in points(runs)[0]] == [0.8, 0.7, 0.6]
    with pytest.raises(BenchError, match=r"how many steps the model of final was trained"):
        html(runs, "step")


def test_unlike_scores_never_share_a_chart(runs: Path) -> None:
    store_run(runs / "part/step-003200", [geneval(0.9, limit=24)])
    drawn = figure(runs)
    assert len(drawn.axes) == 2
    notes = [axes.texts[0].get_text() for axes in drawn.axes]
    assert notes == ["paper suite, geneval-official, no limit", "paper suite, geneval-official, limit 24"]


def test_a_model_that_says_its_step_needs_no_name_for_it(tmp_path: Path) -> None:
    one = geneval(0.5)
    store_run(tmp_path / "a", [RunRecord(**{**one.__dict__, "model": {"name": "m", "step": 77}})])
    assert points(tmp_path) == [[(77.0, 0.5)]]


def test_the_page_has_a_chart_with_its_numbers(runs: Path) -> None:
    store_run(runs / "flow" / "step-012800", [geneval(0.9)], day=10, model=f"{HOSTILE}/step-012800")
    (runs / "broken").mkdir()
    (runs / "broken" / "spec.json").write_bytes((runs / "flow/step-003200/spec.json").read_bytes())
    source = html(runs)
    assert_self_contained(source)
    page = Page(source)
    assert len(page.all("svg", "chart")) == 1
    assert len(page.all("tr")) == 1 + 7
    assert "flow/step-003200" in page.text
    assert "broken holds no complete run" in page.text
    assert "2026-11-09 12:00" in page.text


def test_a_score_that_is_not_known_is_a_gap(tmp_path: Path) -> None:
    store_run(tmp_path / "step-1", [record("geneval", [Metric("overall", None, None, None, 0, 9)])])
    store_run(tmp_path / "step-2", [record("geneval", [Metric("overall", 0.5, None, None, 9, 0)])])
    assert points(tmp_path) == [[(2.0, 0.5)]]


def test_long_names_and_notes_leave_room_for_the_chart(tmp_path: Path) -> None:
    """Else matplotlib warns that it has none."""
    for name in "ab":
        long = f"{name} model with a very long name " * 5
        store_run(tmp_path / name, [replace(geneval(0.5), model={"name": long}, judge={f"judge {name}": long})])
    assert max(len(line) for axes in figure(tmp_path).axes for line in axes.texts[0].get_text().split("\n")) <= 60
    assert "very long name" in html(tmp_path)


def test_a_score_that_no_run_has_is_said_to_be_unknown(tmp_path: Path) -> None:
    store_run(tmp_path / "a", [record("geneval", [Metric("overall", None, None, None, 0, 9)])])
    (axes,) = figure(tmp_path).axes
    assert "not scored" in [told.get_text() for told in axes.texts]
    assert not len(axes.get_xticks())  # no date is 0.02


def test_names_in_any_script_are_text_of_the_page(tmp_path: Path) -> None:
    for name in ("模型/step-1", "Модель/step-2"):  # what is missing from matplotlib's font would be a warning
        store_run(tmp_path / name, [geneval(0.5)], model=name)
    assert "模型" in html(tmp_path).partition("</svg>")[0]


def test_without_a_run_there_is_no_history(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="holds no complete run"):
        html(tmp_path)
    with pytest.raises(BenchError, match="there is no folder"):
        html(tmp_path / "nowhere")
