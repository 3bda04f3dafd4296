"""DPG-Bench's official rule against outputs of the official script (generation/dpg.json)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from benchmarks import dpg
from benchmarks.dpg import DpgBench, Outcome
from benchmarks.types import Json, JudgeError, Metric, Verdict
from tests.golden.cases import load_json

Suite = Mapping[str, Any]


def suites() -> Iterator[Suite]:
    yield from load_json("generation/dpg.json")["suites"]


class NoJudge:
    def describe(self) -> Mapping[str, Json]:
        return {}

    def answer(self, image: object, questions: Sequence[str], *, key: str) -> list[str | JudgeError]:
        raise AssertionError("replies are given")


def rows(suite: Suite) -> list[dpg.Question]:
    return dpg.questions(csv.DictReader(io.StringIO(suite["csv"])), suite["name"])


def replies(suite: Suite) -> dict[tuple[str, int], dict[str, str]]:
    """By item and crop."""
    given: dict[tuple[str, int], dict[str, str]] = {}
    for item, crop, question, reply in suite["answers"]:
        given.setdefault((item, crop), {})[question] = reply
    return given


def outcomes(suite: Suite) -> dict[str, Outcome | None]:
    """Each file's outcome, None for those that the official script drops."""
    prompts, given = dpg.official_prompts(rows(suite)), replies(suite)
    found: dict[str, Outcome | None] = {}
    for file in [*suite["files"], *suite["extra_files"]]:
        item = file.split(".")[0]  # officially the name up to the first dot is the item
        found[file] = None
        if item in prompts:
            crops = [given.get((item, crop), {}) for crop in range(suite["pic_num"])]
            try:
                found[file] = dpg.official_outcome(prompts[item], crops)
            except dpg.DroppedError:
                continue
    return found


def test_every_image_scores_as_officially() -> None:
    for suite in suites():
        expected, found = suite["expected"], outcomes(suite)
        assert sorted(file for file, one in found.items() if one is None) == sorted(expected["failed"]), suite["name"]
        lines = []
        for file, one in found.items():
            if one is not None:
                assert one.value == expected["per_image"][file]["score"], file
                answers = {str(question.number): answer for question, answer in one.answers}
                assert answers == expected["per_image"][file]["category_scores"], file
                lines.append(", ".join(map(str, (file, *one.crops, one.value))))
        if expected["result_lines"] is not None:  # of several processes the official script loses some
            assert sorted(lines) == sorted(expected["result_lines"])


def test_prompts_are_read_as_officially() -> None:
    for suite in suites():
        if suite["question_dict"] is None:
            continue
        found = {
            item: {
                "tuple": {str(n): q.about for n, q in own.items()},
                "dependency": {str(n): list(q.parents) for n, q in own.items()},
                "question": {str(n): q.text for n, q in own.items()},
            }
            for item, own in dpg.official_prompts(rows(suite)).items()
        }
        assert found == suite["question_dict"]


def metrics(suite: Suite) -> dict[str, Metric]:
    """Those of the whole benchmark, each crop a sample of its own."""
    bench = DpgBench(rows(suite), NoJudge(), {}, images_per_prompt=suite["pic_num"])
    given, items = replies(suite), {file.split(".")[0] for file in suite["files"]}
    samples = [sample for sample in bench.samples() if sample.meta["item_id"] in items]
    verdicts = {}
    for sample in samples:
        crop = given[sample.meta["item_id"], int(sample.id.rsplit("/", 1)[1])]
        verdicts[sample.id] = Verdict(sample.id, {"crops": [crop]})
    return {metric.name: metric for metric in bench.summarize(samples, verdicts)[1]}


def test_the_benchmarks_metrics_are_the_official_ones() -> None:
    for suite in suites():
        found, expected = metrics(suite), suite["expected"]
        own = {name: one.value for name, one in found.items() if not name.startswith("dpg-corrected.")}
        official = {"overall": expected["dpg"], **expected["l1"], **expected["l2"]}
        assert {name: value for name, value in own.items() if value is not None} == pytest.approx(official, rel=1e-13)
        # Of files that are in no row the benchmark knows nothing.
        dropped = [file for file in expected["failed"] if file not in suite["extra_files"]]
        assert found["overall"].missing == suite["pic_num"] * len(dropped)
