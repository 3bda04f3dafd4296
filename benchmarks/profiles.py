"""What the profile ``blip3o-0.3.0`` changes in lmms-eval 0.7.3.

It is the copy of lmms-eval 0.3.0 that BLIP3-o's authors ran (github.com/JiuhaiChen/BLIP3o, eval/lmms-eval), with their
own model class (models/blip3o.py). MMBench, SEED-Bench, MME, TextVQA and MM-Vet had the prompts and rules of 0.7.3.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.types import Json

if TYPE_CHECKING:
    from PIL import Image

    from benchmarks.harness import TaskName

#: A task's process_results: a doc and its one filtered reply -> metric name -> item.
Rule = Callable[[Mapping[str, Json], Sequence[str]], Mapping[str, Json]]


def blip3o_task(name: TaskName, config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a task as it was, from the one of 0.7.3."""
    match name:
        case "vqav2_val":
            # vqav2_val.yaml put nothing in place of the suffix; vqav2_test.yaml left it as the template has it.
            changes = {
                "lmms_eval_specific_kwargs": {"default": {"pre_prompt": "", "post_prompt": ""}},
                "process_results": _vqav2_rule(config["process_results"], "exact_match"),
            }
        case "vqav2_test":
            changes = {"process_results": _vqav2_rule(config["process_results"], "submission")}
        case "mmmu_val":
            changes = {
                "generation_kwargs": {"max_new_tokens": 16},  # mmmu/_default_template_yaml
                "process_results": _without_submission(config["process_results"]),
            }
        case "realworldqa":
            changes = _realworldqa(config["process_results"].__globals__)
        case _:
            changes = {}
    return {**config, **changes}


def blip3o_stop(stop: Sequence[str]) -> tuple[str, ...]:
    """The model class took the blank line from the stop strings (generate_until)."""
    return tuple(term for term in stop if term != "\n\n")


def blip3o_image(image: Image.Image) -> Image.Image:
    """The model class gave every image to its processor as JPEG, at Pillow's quality of 75 (generate_until)."""
    from PIL import Image

    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=75)
    reopened: Image.Image = Image.open(buffer)
    reopened.load()
    return reopened


def _vqav2_rule(official: Any, metric: str) -> Rule:
    """vqav2/utils.py of 0.3.0: the reply is normalised in full, the answers only where annotators disagree.

    So "mcdonald's" is wrong where all ten say "mcdonald's": the reply has become "mcdonald 's".
    """
    from lmms_eval.tasks._task_utils.vqa_eval_metric import EvalAIAnswerProcessor

    normalise = EvalAIAnswerProcessor()
    official_results = official.__globals__["vqav2_process_results"]

    def process_results(doc: Mapping[str, Json], results: Sequence[str]) -> Mapping[str, Json]:
        reply = normalise(results[0])
        answers = {answer["answer"] for answer in doc["answers"] or ()}
        if len(answers) != 1:
            return {metric: official_results(doc, [reply])[metric]}
        (answer,) = answers
        matches = reply == answer.replace("\n", " ").replace("\t", " ").strip()
        both = {"exact_match": int(matches), "submission": {"question_id": doc["question_id"], "answer": reply}}
        return {metric: both[metric]}

    return process_results


def _without_submission(official: Rule) -> Rule:
    """mmmu/utils.py of 0.3.0 had the rule of 0.7.3 and gave no rows of a submission file."""

    def process_results(doc: Mapping[str, Json], results: Sequence[str]) -> Mapping[str, Json]:
        return {metric: item for metric, item in official(doc, results).items() if metric != "submission"}

    return process_results


def _realworldqa(utils: Mapping[str, Any]) -> dict[str, Any]:
    """realworldqa.yaml up to 0.7.1: two filters, which utils.py still has, and lmms-eval's own exact match."""
    punctuation_aside = {"ignore_case": True, "ignore_punctuation": True}
    choice = {"group_select": 0, **punctuation_aside, "regex_pattern": r"(\([A-Z]\))"}
    filters = [
        {"function": utils["NumberWordsToDigitsFilter"]},
        {"function": utils["MultiChoiceRegexFilter"], **choice},
    ]
    mean = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True, **punctuation_aside}
    return {
        "filter_list": [{"name": "flexible-extract", "filter": filters}],
        "process_results": None,
        "metric_list": [mean],
    }
