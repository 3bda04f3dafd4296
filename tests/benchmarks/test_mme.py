"""MME: points by hand, whole pairs only, and intervals that promise what they say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from benchmarks.intervals import macro_mean
from benchmarks.mme import PERCEPTION, Mme, pairs_mean
from benchmarks.types import Sample
from benchmarks.understanding import Answered
from tests.benchmarks.answering import golden_answer, judged, scored, summarized


def pairs(categories: Mapping[str, int]) -> Mme:
    """So many images of each category, each with a question to be answered yes and one no."""
    rows = [
        {
            "question_id": f"{category}/{number}.png",
            "image": Image.new("RGB", (2, 2)),
            "question": f"Is it {answer}? Please answer yes or no.",
            "answer": answer,
            "category": category,
        }
        for category, images in categories.items()
        for number in range(images)
        for answer in ("Yes", "No")
    ]
    return Mme(Dataset.from_list(rows), {"name": "pairs"})


def test_samples() -> None:
    samples = pairs({"color": 1, "code_reasoning": 1}).samples()
    assert [sample.id for sample in samples[:2]] == ["mme/color/0.png/0", "mme/color/0.png/1"]
    assert [sample.group for sample in samples[:2]] == ["mme/color/0.png"] * 2
    assert samples[0].prompt == "Is it Yes?\nAnswer the question using a single word or phrase."
    assert [sample.stratum for sample in samples] == ["color", "color", "code_reasoning", "code_reasoning"]


def test_points_by_hand() -> None:
    """Color: one image with both right and one with one right: 75 + 50. Code: nothing right of one image."""
    column = pairs({"color": 2, "code_reasoning": 1})
    replies = {"mme/color/1.png/1": "Yes", "mme/code_reasoning/0.png/0": "No", "mme/code_reasoning/0.png/1": "maybe"}
    metrics = scored(column, lambda sample: replies.get(sample.id, golden_answer(sample)))
    assert {name: metric.value for name, metric in metrics.items()} == {
        "mme_perception_score": 125,
        "mme_cognition_score": 0,
        "mme_perception_score.color": 125,
        "mme_cognition_score.code_reasoning": 0,
    }
    assert {metric.unit for metric in metrics.values()} == {"points"}
    assert {metric.chance for metric in metrics.values()} == {75}


def test_all_categories_right_give_2000_and_chance_is_750() -> None:
    metrics = scored(pairs(dict.fromkeys(PERCEPTION, 2)), golden_answer)
    perception = metrics["mme_perception_score"]
    assert (perception.value, perception.chance) == (2000, 750)
    assert perception.low is not None
    assert perception.low < 2000
    assert perception.high == pytest.approx(2000)
    assert "mme_cognition_score" not in metrics


def test_half_a_pair_is_missing() -> None:
    """lmms-eval raises AssertionError here."""
    column = pairs({"color": 2})
    samples = column.samples()
    scores, metrics = summarized(column, samples, judged(column, samples[1:], "No"))
    assert [score.value for score in scores] == [None, 1.0, 0.0, 1.0]
    metric = metrics["mme_perception_score"]
    assert (metric.value, metric.n, metric.missing) == (50, 2, 2)


def test_a_category_without_a_whole_pair_leaves_no_sum() -> None:
    column = pairs({"color": 2, "count": 2})
    samples = column.samples()
    _, metrics = summarized(column, samples, judged(column, samples[:4], "No"))
    assert metrics["mme_perception_score"].value is None
    assert metrics["mme_perception_score.count"].value is None
    assert metrics["mme_perception_score.color"].value == 50


def test_export_is_what_the_authors_script_reads(tmp_path: Path) -> None:
    column = pairs({"color": 1})
    samples = column.samples()
    verdicts = {verdict.id: verdict for verdict in judged(column, samples, "Yes,\tit\nis ")}
    column.export(samples, {}, verdicts, tmp_path, tmp_path)
    assert (tmp_path / "color.txt").read_text().splitlines() == [
        "0.png\tIs it Yes? Please answer yes or no.\tYes\tYes, it is",
        "0.png\tIs it No? Please answer yes or no.\tNo\tYes, it is",
    ]


def test_coverage_of_a_sum_over_categories() -> None:
    """Ten categories of 30 images, some near the ceiling; the answers about an image depend on each other."""
    rng = np.random.default_rng(30)
    rates = np.array([0.97, 0.95, 0.93, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6])
    draws = rng.beta(rates[None, :, None] * 4, (1 - rates[None, :, None]) * 4, size=(200_000, 10, 1))
    right = (rng.random((200_000, 10, 2)) < draws).sum(axis=2)
    truth = np.choose(right, (0.0, 0.25, 1.0)).mean()
    hits = 0
    for start in range(0, 500 * 30, 30):
        parts = [
            pairs_mean(
                [answer(image, float(number)) for image, number in enumerate(right[start : start + 30, category])]
            )
            for category in range(10)
        ]
        mean = macro_mean(parts)
        assert mean.low is not None
        assert mean.high is not None
        hits += mean.low <= truth <= mean.high
    assert 0.93 <= hits / 500 <= 0.98


def answer(image: int, value: float) -> Answered:
    return Answered(Sample(str(image), "", str(image)), {}, value)
