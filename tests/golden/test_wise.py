"""WISE against outputs of its official scripts (cases in generation/)."""

from __future__ import annotations

from pathlib import Path

from benchmarks import wise
from tests.golden.cases import load_json

EDITIONS = {"legacy": wise.LEGACY, "verified": wise.VERIFIED}


def test_scores_files_give_what_the_calculate_scripts_give(tmp_path: Path) -> None:
    for case in load_json("generation/wise_scores.json")["cases"]:
        name = f"{case['kind']}_{case['k']}"
        files = [tmp_path / f"{name}_{number}.jsonl" for number in range(len(case["files"]))]
        for path, text in zip(files, case["files"], strict=True):
            path.write_text(text, encoding="utf-8")
        ours, expected = wise.calculate(EDITIONS[case["kind"]], files, case["category"]), case["expected"]
        assert ours.overall == expected["overall"], name
        assert {key.upper(): value for key, value in ours.averages.items()} == (expected["averages"] or {}), name
        assert {key.upper(): value for key, value in ours.counts.items()} == (expected["counts"] or {}), name
        # The script warns of each line that it skips, and lists what is missing before it stops.
        assert len(ours.skipped) == expected["stdout"].count("Warning: "), name
        assert bool(ours.absent) == (expected["counts"] is None), name
        if ours.absent:
            assert str(list(ours.absent)) in expected["stdout"], name


def test_replies_are_read_as_the_official_scripts_read_them() -> None:
    for case in load_json("generation/wise_parse.json")["cases"]:
        assert wise.read_legacy(case["reply"]) == case["legacy"], case
        assert wise.read_verified(case["reply"]) == case["verified"], case


def test_wiscore_of_three_labels() -> None:
    for case in load_json("generation/wise_parse.json")["wiscore"]:
        labels = {"consistency": case["c"], "realism": case["r"], "aesthetic_quality": case["a"]}
        assert wise.LEGACY.wiscore(labels) == case["value"], case
