"""MMMU: subjects as strata, letters drawn per question, and their share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from benchmarks.intervals import clustered_mean
from benchmarks.mmmu import Mmmu
from tests.benchmarks.answering import golden_answer, judged, scored, summarized


def row(subject: str, number: int, answer: str, options: int = 4, images: int = 1) -> dict[str, Any]:
    shown = {f"image_{k}": Image.new("RGB", (2, 2), (k, 0, 0)) for k in range(1, images + 1)}
    return {
        "id": f"validation_{subject}_{number}",
        "question": "".join(f"<image {k}> " for k in range(1, images + 1)) + "Look at <image 1>. Which?",
        "options": repr([f"thing {i}" for i in range(options)]),
        "answer": answer,
        "question_type": "multiple-choice" if options else "open",
        **{f"image_{k}": None for k in range(1, 8)},
        **shown,
    }


def column(*rows: dict[str, Any]) -> Mmmu:
    texts = ("id", "question", "options", "answer", "question_type")
    features = {**{name: Value("string") for name in texts}, **{f"image_{k}": ImageFeature() for k in range(1, 8)}}
    return Mmmu(Dataset.from_list(list(rows), features=Features(features)), {"name": "rows"})


@pytest.fixture(scope="module")
def two_subjects() -> Mmmu:
    return column(
        *(row(subject, number, "ABCD"[number % 4]) for subject in ("Art_Theory", "Math") for number in range(8))
    )


def test_samples() -> None:
    one, other = column(row("Art_Theory", 3, "B", images=2), row("Math", 1, "7", options=0)).samples()
    assert (one.id, one.group, one.stratum) == ("mmmu/validation_Art_Theory_3",) * 2 + ("Art_Theory",)
    assert [open_image().getpixel((0, 0)) for open_image in one.images] == [(1, 0, 0), (2, 0, 0)]
    assert (one.meta["choices"], other.meta["choices"]) == (4, None)
    assert other.prompt.endswith("Answer the question using a single word or phrase.")


def test_accuracy_has_the_interval_of_a_stratified_mean(two_subjects: Mmmu) -> None:
    """B is right in 2 of 8 questions of each subject."""
    metric = scored(two_subjects, "B")["mmmu_acc"]
    values = ([0.0, 1.0, 0.0, 0.0] * 2) * 2
    expected = clustered_mean(values, [str(i) for i in range(16)], strata=["a"] * 8 + ["b"] * 8)
    assert (metric.value, metric.low, metric.high) == (0.25, expected.low, expected.high)
    assert metric.chance == 0.25


def test_an_unreadable_reply_is_a_draw_that_is_counted(two_subjects: Mmmu) -> None:
    metrics = scored(two_subjects, "no idea")
    assert metrics["random_fallback"].value == 1
    assert not metrics["random_fallback"].higher_is_better
    assert metrics["mmmu_acc.expected"].value == 0.25
    assert scored(two_subjects, "B")["random_fallback"].value == 0


def test_draws_depend_on_neither_order_nor_company(two_subjects: Mmmu) -> None:
    """lmms-eval draws from one generator, so that two processes give another score than one."""
    samples = two_subjects.samples()
    together, _ = summarized(two_subjects, samples, judged(two_subjects, samples, "no idea"))
    backwards = samples[::-1]
    apart, _ = summarized(two_subjects, backwards, judged(two_subjects, backwards, "no idea"))
    assert [score.value for score in together] == [score.value for score in apart[::-1]]
    alone = summarized(two_subjects, samples[5:6], judged(two_subjects, samples[5:6], "no idea"))[0]
    assert alone[0].value == together[5].value


def test_the_submission_has_what_was_read(tmp_path: Path) -> None:
    mmmu = column(row("Math", 1, "B"), row("Math", 2, "7", options=0))
    samples = mmmu.samples()
    verdicts = {
        verdict.id: verdict
        for sample, reply in zip(samples, ("The answer is (B).", golden_answer(samples[1])), strict=True)
        for verdict in judged(mmmu, [sample], reply)
    }
    mmmu.export(samples, {}, verdicts, tmp_path, tmp_path)
    assert json.loads((tmp_path / "submission.json").read_text()) == {
        "validation_Math_1": "B",
        "validation_Math_2": "7.0",
    }
