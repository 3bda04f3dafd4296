"""Generation benchmarks against outputs of the official scorers (cases in generation/)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image, ImageColor

from benchmarks import geneval
from benchmarks.geneval import Found, GenEvalOptions
from benchmarks.judges.color import COLORS, PAINT, TEMPLATES, object_crop
from tests.golden.cases import case_file, load_arrays, load_json

# GenEval ----------------------------------------------------------------------------------------------------------


def found(case: Mapping[str, Any], boxes: str) -> dict[str, Found]:
    return {
        name: Found(np.array(rows, np.float32).reshape(-1, 5), np.array(case["color_logits"][name], np.float32))
        for name, rows in case[boxes].items()
    }


def unordered(reason: str) -> str:
    """The official script lists the relations that hold in the order of a set, which differs between runs."""

    def in_order(match: re.Match[str]) -> str:
        return f", found {' and '.join(sorted(match[1].split(' and ')))} target"

    return re.sub(r", found (.*) target", in_order, reason)


def details(outcome: geneval.Outcome) -> dict[str, list[list[float]]]:
    return {name: objects.boxes.tolist() for name, objects in outcome.details.items()}


def test_geneval_decisions_equal_the_official_script() -> None:
    run = load_json("generation/geneval_run.json")
    options = GenEvalOptions(**run["options"])
    assert options == GenEvalOptions()
    assert list(COLORS) == run["colors"]
    correct = 0
    for case in run["cases"]:
        metadata = run["metadata"][str(case["prompt_index"])]
        outcome = geneval.decide(metadata, found(case, "detections"), options)
        expected = case["expected"]
        assert outcome.correct == expected["correct"], case["path"]
        assert unordered(outcome.reason) == unordered(expected["reason"]), case["path"]
        assert details(outcome) == expected["details"], case["path"]
        correct += outcome.correct
    assert correct == run["n_correct"]


def test_geneval_decisions_under_other_options() -> None:
    for case in load_json("generation/geneval_variants.json")["cases"]:
        outcome = geneval.decide(case["metadata"], found(case, "detections"), GenEvalOptions(**case["options"]))
        assert outcome.correct == case["expected"]["correct"], case
        assert unordered(outcome.reason) == unordered(case["expected"]["reason"]), case
        assert details(outcome) == case["expected"]["details"], case


def test_geneval_clauses_of_unusual_metadata() -> None:
    for case in load_json("generation/geneval_evaluate.json")["cases"]:
        outcome = geneval.evaluate(case["metadata"], found(case, "objects"), GenEvalOptions().position_threshold)
        assert outcome.correct == case["expected"]["correct"], case
        assert unordered(outcome.reason) == unordered(case["expected"]["reason"]), case


def test_geneval_relative_positions() -> None:
    for case in load_json("generation/geneval_evaluate.json")["relative_position"]:
        a, b = np.array(case["a"], np.float32), np.array(case["b"], np.float32)
        assert sorted(geneval.relative_position(a, b)) == sorted(case["rel"]), case


def test_geneval_overlap() -> None:
    for case in load_json("generation/geneval_evaluate.json")["compute_iou"]:
        assert geneval.iou(np.array(case["a"], np.float32), np.array(case["b"], np.float32)) == case["iou"], case


def test_geneval_crops() -> None:
    arrays = load_arrays("generation/geneval_crops.npz")
    for case in load_json("generation/geneval_crops.json")["cases"]:
        number, options = case["k"], case["options"]
        background = options.get("bgcolor")
        paint = PAINT if background is None else None if background == "original" else ImageColor.getrgb(background)
        cut = object_crop(
            Image.fromarray(arrays[f"img{number}"]),
            case["box"],
            arrays[f"mask{number}"] if case["has_mask"] else None,
            None if paint is None else (paint[0], paint[1], paint[2]),
            options.get("crop", "1") == "1",
        )
        assert list(cut.size) == case["out_size"], case
        np.testing.assert_array_equal(np.asarray(cut), arrays[f"crop{number}"])


def test_geneval_color_prompts() -> None:
    for prefix, expected in load_json("generation/geneval_run.json")["templates_example"]:
        name = prefix.removeprefix("a photo of a ").strip()
        assert [template.format(color="<color>", name=name) for template in TEMPLATES] == expected


def test_geneval_results_file_to_the_byte() -> None:
    """But for the order of relations in a reason, which the official script leaves to the hash seed."""
    run = load_json("generation/geneval_run.json")
    text = case_file(f"generation/{run['results']}").decode()
    official = [geneval.Result(**json.loads(line)) for line in text.splitlines()]
    by_path = {case["path"]: case for case in run["cases"]}
    ours = []
    for row in official:
        case = by_path[row.filename]
        metadata = run["metadata"][str(case["prompt_index"])]
        outcome = geneval.decide(metadata, found(case, "detections"), GenEvalOptions())
        made = geneval.result(row.filename, metadata, outcome)
        assert unordered(made.reason) == unordered(row.reason)
        ours.append(replace(made, reason=row.reason))
    assert geneval.results_jsonl(ours) == text


def test_geneval_printed_summaries() -> None:
    run = load_json("generation/geneval_run.json")
    for file, printed in (("results", "summary_stdout"), ("results_partial", "summary_partial_stdout")):
        lines = case_file(f"generation/{run[file]}").decode().splitlines()
        assert geneval.summary_text([geneval.Result(**json.loads(line)) for line in lines]) == run[printed]
