"""The study of designs: what is read from its runs, and what the page concludes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.types import BenchError, Metric
from reports import design_study
from reports.design_study import CURVES, DIVERSITY, Measured, Study, Trained
from reports.statistics import Estimate
from tests.reports.stored import record, store_run

ROOT = Path(__file__).parents[2]
GENEVAL = CURVES[0]


def measured(arm: str, seed: int, value: float, step: int | None = 10, score: tuple[str, str] = GENEVAL) -> Measured:
    return Measured(arm, seed, step, *score, "fraction", score != CURVES[2], value)


def estimate(low: float | None, high: float | None) -> Estimate:
    return Estimate(0.0 if low is None or high is None else (low + high) / 2, low, high)


def test_scores_images_and_sizes_are_collected(tmp_path: Path) -> None:
    folder = tmp_path / "vae_flow" / "seed2"
    metrics = [Metric("overall", 0.25, None, None, 4, 0), Metric("colors", None, None, None, 0, 4)]
    store_run(folder / "drawn-000080", [record("geneval", metrics)])
    (folder / "one-prompt").mkdir()
    for name, level in (("00", 10), ("01", 13)):
        Image.new("RGB", (4, 4), (level,) * 3).save(folder / "one-prompt" / f"{name}.png")
    (folder / "trained.json").write_text(json.dumps({"parameters": 7, "steps": 80, "batch_size": 32}))
    study = design_study.collect(tmp_path)
    assert study == Study(
        (
            Measured("vae_flow", 2, 80, *GENEVAL, "fraction", True, 0.25),
            Measured("vae_flow", 2, None, *DIVERSITY, "levels of 255", True, 3.0),
        ),
        {"vae_flow": Trained(7, 80, 32)},
    )
    design_study.write(study, tmp_path / "results.json")
    assert design_study.read(tmp_path / "results.json") == study
    sheet = design_study.one_prompt(tmp_path)
    assert sheet is not None
    assert (10, 10, 10) in [color for _, color in sheet.getcolors() or []]


def test_an_empty_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="make study-design"):
        design_study.collect(tmp_path)


def test_diversity_is_the_root_mean_square_over_pairs() -> None:
    levels = [np.full((2, 2, 3), level, dtype=np.uint8) for level in (0, 255, 255)]
    assert design_study.diversity(levels) == pytest.approx(255 * 2 / 3)
    assert design_study.diversity(levels[1:]) == 0


def test_intervals_are_students_over_seeds() -> None:
    """Mean 2, standard deviation 1, n = 3: the half width is t[0.975, 2] / sqrt(3) = 4.302653 / 1.732051."""
    found = design_study.over_seeds([1, 2, 3])
    assert found.value == 2
    assert found.low == pytest.approx(2 - 2.484138, abs=1e-6)
    assert found.high == pytest.approx(2 + 2.484138, abs=1e-6)
    assert design_study.over_seeds([1]).low is None


def test_differences_pair_the_seeds_that_both_arms_have() -> None:
    values = [("clip_mse", 1, 0.1), ("clip_mse", 2, 0.4), ("clip_flow", 1, 0.3), ("clip_flow", 2, 0.5)]
    study = Study((*(measured(*one) for one in values), measured("clip_flow", 3, 0.9)), {})
    found = design_study.difference(study, "clip_mse", "clip_flow", GENEVAL, 10)
    assert found is not None
    assert found.value == pytest.approx(0.15)
    assert design_study.difference(study, "clip_mse", "clip_flow", GENEVAL, 20) is None


def test_scores_of_0_and_1_are_no_answers() -> None:
    """Equal differences leave no spread: no interval, where McNemar's would give one."""
    values = [(arm, seed, float(arm == "clip_flow")) for arm in ("clip_mse", "clip_flow") for seed in (1, 2, 3)]
    found = design_study.difference(
        Study(tuple(measured(*one) for one in values), {}), "clip_mse", "clip_flow", GENEVAL, 10
    )
    assert found is not None
    assert (found.value, found.low, found.high) == (1.0, None, None)


@pytest.mark.parametrize(
    ("found", "answer"),
    [
        ([(estimate(0.1, 0.2), True), (estimate(-3, -1), False)], "holds"),
        ([(estimate(-0.2, -0.1), True), (estimate(1, 3), False)], "does not hold: the opposite does"),
        ([(estimate(0.1, 0.2), True), (estimate(-3, 1), False)], "cannot be told"),
        ([(estimate(0.1, 0.2), True), (estimate(1, 3), False)], "cannot be told"),
        ([(estimate(None, None), True)], "cannot be told"),
        ([(None, True)], "cannot be told"),
    ],
)
def test_a_finding_needs_every_interval_on_its_side(
    found: list[tuple[Estimate | None, bool]], answer: design_study.Answer
) -> None:
    assert design_study.answer(found) == answer


def test_the_page_says_what_was_not_run() -> None:
    study = Study(tuple(measured("clip_flow", seed, 0.5 + seed / 100) for seed in (1, 2, 3)), {})
    text = design_study.page(study)
    assert "| geneval overall | not run | 0.520 (0.495 to 0.545), 3 seeds | not run | - | - |" in text
    assert "Joint training was not run." in text
    assert text.count("**cannot be told** here") == 2


def test_the_committed_page_is_that_of_the_committed_results() -> None:
    study = design_study.read(ROOT / "docs" / "design_study" / "results.json")
    assert (ROOT / "docs" / "design_study.md").read_text() == design_study.page(study)
