"""Ceiling and floor in the shapes world."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from benchmarks.shapes.geneval import prompts
from benchmarks.shapes.reference import Blank, Oracle
from benchmarks.shapes.scene import BACKGROUND
from benchmarks.types import Answerer, Generator, Metric, Prediction, Sample
from benchmarks.vqav2 import Vqav2


@pytest.fixture(scope="module")
def vqav2() -> Vqav2:
    return Vqav2.toy(images=20)


def scored(benchmark: Vqav2, model: Answerer, folder: Any) -> Metric:
    samples = benchmark.samples()
    seeds = list(range(len(samples)))
    replies = zip(samples, seeds, model.answer(samples, seeds), strict=True)
    predictions = [Prediction(sample.id, seed, 0.0, text=str(reply)) for sample, seed, reply in replies]
    verdicts = {verdict.id: verdict for verdict in benchmark.judge(samples, predictions, folder)}
    return benchmark.summarize(samples, verdicts)[1][0]


def test_oracle_answers_every_vqav2_question(vqav2: Vqav2, tmp_path: Any) -> None:
    metric = scored(vqav2, Oracle(), tmp_path)
    assert (metric.value, metric.missing) == (1.0, 0)


def test_blank_is_not_above_chance_on_vqav2(vqav2: Vqav2, tmp_path: Any) -> None:
    metric = scored(vqav2, Blank(), tmp_path)
    assert metric.value is not None
    assert metric.chance is not None
    assert 0 < metric.value <= metric.chance  # above 0: some questions are answered yes


def test_oracle_says_one_of_alternatives_and_all_elements() -> None:
    answers = {"B": "B", "ring<OR>star": "ring", "red star<AND>blue ring": "red star, blue ring"}
    samples = [Sample("", "prompt", "group", meta={"answer": answer}) for answer in answers]
    assert Oracle().answer(samples, [0] * len(samples)) == list(answers.values())


def test_blank_takes_the_first_option_where_a_letter_is_asked_for() -> None:
    asked = ("Answer with the option's letter from the given choices directly.", "Is it red?")
    assert Blank().answer([Sample("", prompt, "") for prompt in asked], [0, 0]) == ["A", "yes"]


def geneval_samples(per_tag: int = 4) -> list[Sample]:
    return [Sample(str(i), meta["prompt"], str(i), meta=meta) for i, meta in enumerate(prompts(per_tag))]


def test_oracle_draws_what_is_asked_and_the_seed_decides_how() -> None:
    samples = geneval_samples()
    oracle: Generator = Oracle()
    seeds = [random.Random(sample.id).getrandbits(63) for sample in samples]
    images = oracle.generate(samples, seeds)
    again, others = oracle.generate(samples, seeds), oracle.generate(samples, [seed + 1 for seed in seeds])
    for sample, image, same, other in zip(samples, images, again, others, strict=True):
        count = sum(entry["count"] for entry in sample.meta["include"])
        assert number_of_occupied_cells(image) == count, sample.prompt
        assert np.array_equal(np.asarray(image), np.asarray(same))
        assert not np.array_equal(np.asarray(image), np.asarray(other))


def number_of_occupied_cells(image: Any) -> int:
    drawn = (np.asarray(image) != BACKGROUND).any(axis=-1)
    return sum(bool(drawn[y : y + 32, x : x + 32].any()) for y in (0, 32) for x in (0, 32))


def test_blank_draws_nothing() -> None:
    samples = geneval_samples(1)
    for image in Blank().generate(samples, [0] * len(samples)):
        assert number_of_occupied_cells(image) == 0
