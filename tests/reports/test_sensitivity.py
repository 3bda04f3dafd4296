"""Which damages the gate notices, as the page tells it."""

from __future__ import annotations

from pathlib import Path

from benchmarks.types import Metric
from reports.sensitivity import CONTROL, Try, examine, page
from tests.reports import pairs
from tests.reports.stored import record


def tried(damage: str, limit: int | None, tmp_path: Path, right: int) -> Try:
    """100 questions, all right before and ``right`` of them after the damage."""
    before = pairs.simple(tmp_path / f"{damage}-{limit}-before", [1.0] * 100)
    after = pairs.simple(tmp_path / f"{damage}-{limit}-after", [1.0] * right + [0.0] * (100 - right))
    return examine(damage, limit, after, before)


def test_a_significant_loss_is_detected_and_none_is_not(tmp_path: Path) -> None:
    assert tried("large", 100, tmp_path, 60).detected
    assert not tried("none", 100, tmp_path, 100).detected


def test_the_page_tells_the_smallest_size_that_showed_a_damage(tmp_path: Path) -> None:
    tries = [
        tried("found late", 32, tmp_path, 99),
        tried("found late", None, tmp_path, 60),
        tried("not found", 32, tmp_path, 99),
        tried("not found", 100, tmp_path, 98),
        tried(CONTROL, 32, tmp_path, 60),
    ]
    rows = [line.replace("\\_", "_") for line in page(tries).splitlines() if line.startswith("|")]
    assert rows[2].startswith("| found late | yes | all: realworldqa 100 | realworldqa exact_match | ")
    assert "-0.400" in rows[2]
    assert rows[3].startswith("| not found | no | --limit 100: realworldqa 100 | cannot tell | ")
    assert len(rows) == 5
    assert "1 of 2 damages were detected" in page(tries)  # the control is none


def drawn(root: Path, value: float, low: float, high: float) -> Path:
    """A run of MJHQ-30K with this distance."""
    own = pairs.scores("mjhq", [("1", "", None)])
    fid = Metric("fid", value, low, high, 90, 0, higher_is_better=False, unit="FID")
    return pairs.store(root, [(record("mjhq", [fid]), own)])


def test_a_distance_is_held_against_the_undamaged_interval(tmp_path: Path) -> None:
    before = drawn(tmp_path / "before", 4, 2, 6)
    worse = examine("steps", None, drawn(tmp_path / "worse", 9, 7, 11), before)
    assert worse.detected
    assert not examine("steps", None, drawn(tmp_path / "alike", 5, 3, 7), before).detected
    assert "mjhq fid +5.00 (no interval)" in page([worse])


def test_a_benchmark_that_was_not_run_with_the_damage_is_not_judged(tmp_path: Path) -> None:
    own = pairs.scores("realworldqa", [("1", "", 1.0), ("2", "", 0.0)])
    asked = (record("realworldqa", pairs.metrics({"exact_match": 0.5}, own)), own)
    fid = Metric("fid", 4, 2, 6, 90, 0, higher_is_better=False, unit="FID")
    before = pairs.store(tmp_path / "b", [asked, (record("mjhq", [fid]), pairs.scores("mjhq", [("1", "", None)]))])
    found = examine("weights", None, pairs.store(tmp_path / "a", [asked]), before)
    assert {one.benchmark for one in found.gated.metrics} == {"realworldqa"}


def test_a_control_may_have_another_seed(tmp_path: Path) -> None:
    before = pairs.simple(tmp_path / "before", [1.0, 0.0] * 20)
    after = pairs.simple(tmp_path / "after", [1.0, 0.0] * 20, seed=1)
    assert not examine(CONTROL, 40, after, before).detected
