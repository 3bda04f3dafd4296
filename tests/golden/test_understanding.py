"""Understanding benchmarks against outputs of lmms-eval's own functions (cases in understanding/PROFILE/TASK.json)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import pytest
from datasets import Dataset

from benchmarks.harness import PROFILE, HarnessTask, TaskName
from benchmarks.types import Prediction, Verdict
from benchmarks.vqav2 import Vqav2
from tests.golden.cases import ROOT, load_json

FOLDER = ROOT / "understanding" / PROFILE
#: Every case of the profile whose task the bridge knows.
TASKS = [name for name in get_args(TaskName) if list(FOLDER.glob(f"{name}.json*"))]


def load(name: str) -> Mapping[str, Any]:
    case: Mapping[str, Any] = load_json(f"understanding/{PROFILE}/{name}.json")
    return case


def rows(cases: Sequence[Mapping[str, Any]]) -> Dataset:
    return Dataset.from_list([case["doc"] for case in cases])


def test_there_are_cases() -> None:
    """A renamed folder or task must not leave nothing to compare."""
    assert TASKS


@pytest.mark.parametrize("name", TASKS)
def test_prompts_results_and_aggregates_are_the_official_ones(name: TaskName) -> None:
    case = load(name)
    task = HarnessTask(name, rows(case["samples"]))
    assert [task.prompt(doc) for doc in task.docs] == [sample["prompt"] for sample in case["samples"]]
    results = [task.results(doc_id, sample["prediction"]) for doc_id, sample in enumerate(case["samples"])]
    assert results == [sample["process_results"] for sample in case["samples"]]
    for metric, expected in case["aggregate"].items():
        assert task.aggregate(metric, [result[metric] for result in results]) == expected


@pytest.mark.parametrize("name", TASKS)
def test_decoding_is_the_official_one(name: TaskName) -> None:
    case = load(name)
    options = case["config"]["generation_kwargs"]
    decoding = HarnessTask(name, rows(case["samples"])).decoding
    assert decoding.max_new_tokens == options["max_new_tokens"]
    assert decoding.temperature == options.get("temperature", 0)
    assert decoding.stop == tuple(options.get("until", ["\n\n"]))


def test_vqav2_scores_are_the_official_ones(tmp_path: Any) -> None:
    """The same through the benchmark: judged replies, one score per question and the metric of all of them."""
    case = load("vqav2_val")
    benchmark = Vqav2(rows(case["samples"]), {"name": "golden"})
    samples = benchmark.samples()
    predictions = [
        Prediction(sample.id, seed=0, seconds=0.0, text=official["prediction"])
        for sample, official in zip(samples, case["samples"], strict=True)
    ]
    verdicts: dict[str, Verdict] = {verdict.id: verdict for verdict in benchmark.judge(samples, predictions, tmp_path)}
    scores, metrics = benchmark.summarize(samples, verdicts)
    assert [score.value for score in scores] == [
        official["process_results"]["exact_match"] for official in case["samples"]
    ]
    assert (metrics[0].name, metrics[0].value) == ("exact_match", case["aggregate"]["exact_match"])
    assert (metrics[0].n, metrics[0].missing) == (case["n"], 0)


def test_vqav2_test_split_answers_are_submitted_as_they_are() -> None:
    """Rows of the test split have no answers; the task gives a row of the submission file for each."""
    cases = load("vqav2_val")["testdev_submission"]
    task = HarnessTask("vqav2_test", rows(cases))
    for doc_id, case in enumerate(cases):
        assert task.results(doc_id, case["prediction"]) == case["process_results"]
