"""Understanding benchmarks against outputs of lmms-eval's own functions (cases in understanding/PROFILE/TASK.json)."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
from datasets import Dataset

from benchmarks.harness import (
    HarnessTask,
    Profile,
    TaskName,
    mmbench_accuracy,
    mmbench_inferred,
    mmbench_judge_prompt,
    mmvet_judge_prompt,
    mmvet_read,
)
from benchmarks.types import Prediction
from benchmarks.understanding import Options
from benchmarks.vqav2 import Vqav2
from tests.golden.cases import ROOT, load_json

FOLDER = ROOT / "understanding"
#: Every case there is, by profile and task.
CASES: list[tuple[Profile, TaskName]] = [
    (profile, name)
    for profile in get_args(Profile)
    for name in get_args(TaskName)
    if list((FOLDER / profile).glob(f"{name}.json*"))
]
Case = Mapping[str, Any]
Items = Sequence[Mapping[str, Any]]


def of_task(name: TaskName) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("profile", [profile for profile, task in CASES if task == name])


@cache
def load(profile: Profile, name: TaskName) -> Case:
    case: Case = load_json(f"understanding/{profile}/{name}.json")
    return case


def task_of(profile: Profile, name: TaskName, samples: Sequence[Case], **options: Any) -> HarnessTask:
    return HarnessTask(name, Dataset.from_list([sample["doc"] for sample in samples]), profile, **options)


@cache
def answered(profile: Profile, name: TaskName, seed: int = 0) -> tuple[HarnessTask, Items]:
    """The task on the case's docs, and its results for the case's replies; MMMU draws letters as lmms-eval does."""
    samples = load(profile, name)["samples"]
    task = task_of(profile, name, samples, fallback="official")
    random.seed(seed)  # simple_evaluate does, with 0
    return task, [
        task.results(doc_id, sample["prediction"], sample.get("judge_reply")) for doc_id, sample in enumerate(samples)
    ]


def comparable(name: TaskName, results: Mapping[str, Any]) -> Mapping[str, Any]:
    """What does not depend on the process that made the case.

    MMMU's open answers come out of a set (parse_open_response, tasks/mmmu/utils.py), so their order follows
    PYTHONHASHSEED and with it the one that is submitted. MM-Vet's items name the judge, which is a stub in the case.
    """
    results = dict(results)
    if name == "mmvet":
        results["gpt_eval_score"] = {**results["gpt_eval_score"], "eval_model": ""}
    if name == "mmmu_val" and results["mmmu_acc"]["question_type"] == "open":
        for metric in ("mmmu_acc", "mmmu_acc_pass_at_k"):
            (candidates,) = results[metric]["parsed_pred"]
            results[metric] = {**results[metric], "parsed_pred": sorted(map(repr, candidates))}
        if "submission" in results:
            results["submission"] = list(results["submission"])
    return results


def test_every_case_is_read() -> None:
    """A renamed folder or task must not leave nothing to compare."""
    files = {(path.parent.name, path.name.split(".")[0]) for path in FOLDER.glob("*/*.json*")}
    assert files
    assert files == set(CASES)


@pytest.mark.parametrize(("profile", "name"), CASES)
def test_prompts_and_decoding(profile: Profile, name: TaskName) -> None:
    case = load(profile, name)
    task, _ = answered(profile, name)
    assert [task.prompt(doc) for doc in task.docs] == [sample["prompt"] for sample in case["samples"]]
    options = case["config"]["generation_kwargs"]
    stop = options.get("until", ["\n\n"])
    if profile == "blip3o-0.3.0":  # its model class removes this one
        stop = [term for term in stop if term != "\n\n"]
    assert (task.decoding.max_new_tokens, task.decoding.temperature, list(task.decoding.stop)) == (
        options.get("max_new_tokens", 128),
        options.get("temperature", 0),
        stop,
    )


@pytest.mark.parametrize(("profile", "name"), CASES)
def test_results(profile: Profile, name: TaskName) -> None:
    _, results = answered(profile, name)
    for result, sample in zip(results, load(profile, name)["samples"], strict=True):
        result = dict(result)
        assert result.pop("random_fallback", None) == sample.get("random_fallback")
        assert comparable(name, result) == comparable(name, sample["process_results"])


@pytest.mark.parametrize(("profile", "name"), [case for case in CASES if case[1] != "mmbench_en_dev"])
def test_aggregates(profile: Profile, name: TaskName) -> None:
    task, results = answered(profile, name)
    aggregates = load(profile, name)["aggregate"]
    assert aggregates
    for metric, expected in aggregates.items():
        assert task.aggregate(metric, [result[metric] for result in results if metric in result]) == expected


@of_task("mmbench_en_dev")
def test_mmbench_under_no_judge_a_judge_and_the_static_rule(profile: Profile) -> None:
    case = load(profile, "mmbench_en_dev")
    expected = case["aggregate"]
    replies = dict(case["canned_judge_calls"])
    task, results = answered(profile, "mmbench_en_dev")
    items = [result["gpt_eval_score"] for result in results]
    assert mmbench_accuracy(items, {}) == expected["openai_no_key_random_fallback"]
    assert mmbench_accuracy(items, replies) == expected["openai_canned_judge"]
    official = "mmbench_aggregate_dev_results_eval(canned)"
    assert task.aggregate("gpt_eval_score", items, replies) == expected[official]
    if expected["static"] is not None:  # the profile has it
        assert mmbench_accuracy(items, {}, static=True) == expected["static"]
        static = task_of(profile, "mmbench_en_dev_static", case["samples"])
        assert static.aggregate("gpt_eval_score", items) == 100 * expected["static"]["overall_acc"]


@of_task("mmbench_en_dev")
def test_mmbench_letters_and_questions_to_the_judge(profile: Profile) -> None:
    samples = load(profile, "mmbench_en_dev")["samples"]
    for sample in samples:
        doc, reply = sample["doc"], sample["prediction"]
        assert mmbench_inferred(doc, reply) == (sample["prefetch"] or None)
        if not sample["prefetch"]:
            assert mmbench_judge_prompt(doc, reply) == sample["judge_prompt"]


@of_task("mmvet")
def test_mmvet_questions_to_the_judge_and_scores(profile: Profile) -> None:
    for sample in load(profile, "mmvet")["samples"]:
        prompt = mmvet_judge_prompt(sample["doc"], sample["prediction"])
        assert hashlib.sha256(prompt.encode()).hexdigest() == sample["judge_prompt_sha256"]
        score = mmvet_read(sample["judge_reply"])
        official = sample["process_results"]["gpt_eval_score"]["score"]
        assert official == (0 if score is None else score)  # lmms-eval scores 0 what it cannot read


@of_task("mme")
def test_mme_replies(profile: Profile) -> None:
    case = load(profile, "mme")
    questions = {sample["doc"]["answer"]: sample for sample in case["samples"]}
    task = task_of(profile, "mme", list(questions.values()))
    for reply, label in case["parse_table"]:
        for doc_id, answer in enumerate(questions):
            (item,) = task.results(doc_id, reply).values()
            assert item["score"] == (label == answer.lower()), reply


@of_task("mme")
def test_mme_refuses_half_a_pair(profile: Profile) -> None:
    kind, message = load(profile, "mme")["odd_number_of_questions"].split(": ")
    task, results = answered(profile, "mme")
    metric = "mme_perception_score"
    with pytest.raises(Exception, match=message) as error:
        task.aggregate(metric, [next(result[metric] for result in results if metric in result)])
    assert error.typename == kind


@of_task("mmmu_val")
def test_mmmu_questions_subjects_and_seeds(profile: Profile) -> None:
    case = load(profile, "mmmu_val")
    task, results = answered(profile, "mmmu_val", case["random_seed_before_loop"])
    items = [result["mmmu_acc"] for result in results]
    judged = ["Correct" if task.aggregate("mmmu_acc", [item]) else "Wrong" for item in items]
    assert judged == [sample["judged"] for sample in case["samples"]]
    assert sum(result["random_fallback"] for result in results) == case["n_random_fallback"]
    for subject, expected in case["per_subject"].items():
        of_subject = [item for item in items if item["subdomain"] == subject]
        assert task.aggregate("mmmu_acc", of_subject) == round(expected, 5)
    for seed, expected in case["score_under_other_seeds"].items():
        _, others = answered(profile, "mmmu_val", int(seed))
        assert task.aggregate("mmmu_acc", [result["mmmu_acc"] for result in others]) == expected


@of_task("vqav2_val")
def test_vqav2_scores_are_the_official_ones(profile: Profile, tmp_path: Path) -> None:
    """The same through the benchmark: judged replies, one score per question and the metric of all of them."""
    case = load(profile, "vqav2_val")
    rows = Dataset.from_list([sample["doc"] for sample in case["samples"]])
    benchmark = Vqav2(rows, {"name": "golden"}, Options(profile))
    samples = benchmark.samples()
    predictions = [
        Prediction(sample.id, seed=0, seconds=0.0, text=official["prediction"])
        for sample, official in zip(samples, case["samples"], strict=True)
    ]
    verdicts = {verdict.id: verdict for verdict in benchmark.judge(samples, predictions, tmp_path)}
    scores, (metric, *_) = benchmark.summarize(samples, verdicts)
    assert [score.value for score in scores] == [
        official["process_results"]["exact_match"] for official in case["samples"]
    ]
    assert (metric.name, metric.value, metric.n, metric.missing) == (
        "exact_match",
        case["aggregate"]["exact_match"],
        case["n"],
        0,
    )


@of_task("vqav2_val")
def test_vqav2_submissions(profile: Profile) -> None:
    """Of questions with answers, and of those of the test split, whose answers are null."""
    case = load(profile, "vqav2_val")
    with_answers = [{**sample, "process_results": {"submission": sample["submission"]}} for sample in case["samples"]]
    for samples in (with_answers, case["testdev_submission"]):
        task = task_of(profile, "vqav2_test", samples)
        for doc_id, sample in enumerate(samples):
            assert task.results(doc_id, sample["prediction"]) == sample["process_results"]
