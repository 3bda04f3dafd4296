"""Scores and metrics of the columns of questions about images against outputs of lmms-eval's own functions.

test_understanding.py has the bridge beneath them. Here the official docs and replies go through a whole column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
from datasets import Dataset
from PIL import Image

from benchmarks.harness import Profile, TaskName, mmvet_judge_prompt
from benchmarks.judges.chat import ChatReply, Question
from benchmarks.mmbench import MmBench
from benchmarks.mme import Mme
from benchmarks.mmmu import Mmmu
from benchmarks.mmvet import MmVet
from benchmarks.realworldqa import RealWorldQa
from benchmarks.seedbench import SeedBench
from benchmarks.textvqa import TextVqa
from benchmarks.types import Json, Metric, Prediction, Score
from benchmarks.understanding import Options, Understanding
from benchmarks.vqav2 import Vqav2
from tests.golden.cases import ROOT, load_json

COLUMNS: Mapping[TaskName, type[Understanding]] = {
    "vqav2_val": Vqav2,
    "mmbench_en_dev": MmBench,
    "seedbench": SeedBench,
    "mmvet": MmVet,
    "mme": Mme,
    "mmmu_val": Mmmu,
    "realworldqa": RealWorldQa,
    "textvqa_val": TextVqa,
}
CASES: list[tuple[Profile, TaskName]] = [
    (profile, name)
    for profile in get_args(Profile)
    for name in COLUMNS
    if list((ROOT / "understanding" / profile).glob(f"{name}.json*"))
]


def of_task(name: TaskName) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("profile", [profile for profile, task in CASES if task == name])


@dataclass(frozen=True)
class Canned:
    """The replies of a case's judge by its prompts."""

    replies: Mapping[str, str]
    concurrency: int = 1

    def describe(self) -> Mapping[str, Json]:
        return {"kind": "canned"}

    def ask(self, question: Question) -> ChatReply:
        return ChatReply(self.replies[question.prompt], 0, 0, None)


@cache
def load(profile: Profile, name: TaskName) -> Mapping[str, Any]:
    case: Mapping[str, Any] = load_json(f"understanding/{profile}/{name}.json")
    return case


def rows(name: TaskName, samples: Sequence[Mapping[str, Any]]) -> Dataset:
    """The docs of a case, which have no images, with blank ones in all places a task may look for them."""
    blank = Image.new("RGB", (1, 1))
    images = {"image": [blank] if name == "seedbench" else blank}
    if name == "mmmu_val":
        images = {f"image_{k}": blank for k in range(1, 8)}
    return Dataset.from_list([{**sample["doc"], **images} for sample in samples])


@cache
def scored(profile: Profile, name: TaskName) -> tuple[list[Score], dict[str, Metric]]:
    samples = load(profile, name)["samples"]
    judge = None
    if name == "mmvet":
        judge = Canned({mmvet_judge_prompt(one["doc"], one["prediction"]): one["judge_reply"] for one in samples})
    column = COLUMNS[name](rows(name, samples), {"name": "golden"}, Options(profile, judge))
    asked = column.samples()
    assert [sample.prompt for sample in asked] == [official["prompt"] for official in samples]
    predictions = [
        Prediction(sample.id, 0, 0.0, text=official["prediction"])
        for sample, official in zip(asked, samples, strict=True)
    ]
    verdicts = {verdict.id: verdict for verdict in column.judge(asked, predictions, Path()) if verdict.error is None}
    scores, metrics = column.summarize(asked, verdicts)
    return scores, {metric.name: metric for metric in metrics}


def test_there_are_cases() -> None:
    """A renamed folder or task must not leave nothing to compare."""
    assert CASES


@pytest.mark.parametrize(
    ("profile", "name"), [case for case in CASES if case[1] not in ("mmbench_en_dev", "mmmu_val", "mmvet")]
)
def test_aggregates(profile: Profile, name: TaskName) -> None:
    _, metrics = scored(profile, name)
    for metric, expected in load(profile, name)["aggregate"].items():
        assert (metrics[metric].value, metrics[metric].missing) == (expected, 0)


@pytest.mark.parametrize("name", ["vqav2_val", "textvqa_val", "realworldqa"])
@pytest.mark.parametrize("profile", get_args(Profile))
def test_scores(profile: Profile, name: TaskName) -> None:
    scores, _ = scored(profile, name)
    official = [sample["process_results"]["exact_match"] for sample in load(profile, name)["samples"]]
    assert [score.value for score in scores] == official


@of_task("mme")
def test_mme_categories(profile: Profile) -> None:
    _, metrics = scored(profile, "mme")
    categories = {name.split(".")[1]: metric.value for name, metric in metrics.items() if "." in name}
    assert categories == load(profile, "mme")["per_category"]


@of_task("mmmu_val")
def test_mmmu_where_no_letter_is_drawn(profile: Profile) -> None:
    """The official draws are of one global generator, ours of one per question."""
    case = load(profile, "mmmu_val")
    scores, metrics = scored(profile, "mmmu_val")
    for score, official in zip(scores, case["samples"], strict=True):
        if not official["random_fallback"]:
            assert score.value == (official["judged"] == "Correct")
    assert metrics["random_fallback"].value == case["n_random_fallback"] / case["n"]


@of_task("mmbench_en_dev")
def test_mmbench_without_a_judge(profile: Profile) -> None:
    """In the static mode the official number; where the profile has none, questions are scored as far as they are
    decided, and the official number (which draws letters for the others) lies between their extremes."""
    case = load(profile, "mmbench_en_dev")
    overall = scored(profile, "mmbench_en_dev")[1]["gpt_eval_score"]
    if case["aggregate"]["static"] is not None:
        assert (overall.value, overall.missing) == (100 * case["aggregate"]["static"]["overall_acc"], 0)
        return
    official = case["aggregate"]["openai_no_key_random_fallback"]["overall_acc"]
    scores, _ = scored(profile, "mmbench_en_dev")
    rotations: dict[str, list[float | None]] = {}
    for score in scores:
        rotations.setdefault(score.group, []).append(score.value)
    right = sum(set(values) == {1.0} for values in rotations.values())
    undecided = sum(None in values and 0.0 not in values for values in rotations.values())
    assert right <= official * case["n_questions"] <= right + undecided


@of_task("mmvet")
def test_mmvet_where_the_judge_can_be_read(profile: Profile) -> None:
    """lmms-eval scores 0 what it cannot read; here that is missing."""
    scores, metrics = scored(profile, "mmvet")
    missing = 0
    for score, sample in zip(scores, load(profile, "mmvet")["samples"], strict=True):
        official = sample["process_results"]["gpt_eval_score"]["score"]
        assert score.value == official or (score.value is None and official == 0)
        missing += score.value is None
    assert metrics["gpt_eval_score"].missing == missing
