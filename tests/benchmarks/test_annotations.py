"""GenEval's human annotations: the figures of the real files, and the arithmetic on made-up ones."""

from __future__ import annotations

import csv
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import geneval, store
from benchmarks.annotations import Confusion, all_there, cohen_kappa, read_annotations, table, validate
from benchmarks.geneval import TAGS, Metadata
from benchmarks.spec import Environment, RunSpec, open_run
from benchmarks.types import BenchError, Score

ONE: Metadata = {"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "a photo of a dog"}
TWO: Metadata = {
    "tag": "counting",
    "include": [{"class": "dog", "count": 2}],
    "exclude": [{"class": "dog", "count": 3}],
    "prompt": "a photo of two dogs",
}
LEFT: Metadata = {
    "tag": "position",
    "include": [{"class": "dog", "count": 1}, {"class": "cat", "count": 1, "position": ["left of", 0]}],
    "prompt": "a photo of a cat left of a dog",
}
RED: Metadata = {
    "tag": "colors",
    "include": [{"class": "dog", "count": 1, "color": "red"}],
    "prompt": "a photo of a red dog",
}
COLUMNS = (
    "Input.prompt_id",
    "Input.image_id",
    "Input.caption",
    *(f"Answer.task-{what}-{k}" for what in ("count", "color") for k in (0, 1)),
    "Answer.task-position-x",
    "Answer.task-position-y",
    "Answer.task-objects",
)


def answer(count: str = "1", other: str = "", color: str = "", x: str = "", y: str = "") -> dict[str, str]:
    return {
        "Answer.task-count-0": count,
        "Answer.task-count-1": other,
        "Answer.task-color-0": color,
        "Answer.task-color-1": "",
        "Answer.task-position-x": x,
        "Answer.task-position-y": y,
    }


@pytest.mark.parametrize(
    ("metadata", "given", "there"),
    [
        (ONE, answer("1"), True),
        (ONE, answer("5"), True),  # more than asked hurts in counting only
        (ONE, answer("0"), False),
        (TWO, answer("2"), True),
        (TWO, answer("3"), False),
        (TWO, answer("1"), False),
        (RED, answer(color="brown|red"), True),
        (RED, answer(color="brown"), False),
        (RED, answer("0", color="red"), False),
        (LEFT, answer("1", "1.0", x="left", y="above"), True),
        (LEFT, answer("1", "1.0", x="neither_x", y="above"), False),
        (LEFT, answer("1", "", x="left"), False),
    ],
)
def test_what_one_annotator_says(metadata: Metadata, given: Mapping[str, str], there: bool) -> None:
    assert all_there(metadata, given) is there


def written(
    path: Path, votes: Mapping[tuple[int, int], Sequence[Mapping[str, str]]], prompts: Sequence[Metadata]
) -> Path:
    with path.open("w", newline="") as file:
        out = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        out.writeheader()
        for (prompt, image), answers in votes.items():
            for given in answers:
                row = {"Input.prompt_id": prompt, "Input.image_id": image, "Input.caption": prompts[prompt]["prompt"]}
                out.writerow({**row, **given, "Answer.task-objects": "a\rdog"})
    return path


def yes_and_no(yes: int) -> list[dict[str, str]]:
    return [answer("1")] * yes + [answer("0")] * (5 - yes)


def small(tmp_path: Path) -> Path:
    """Two prompts with two images each; people find three of four correct."""
    votes = {(0, 0): yes_and_no(5), (0, 1): yes_and_no(3), (1, 0): yes_and_no(4), (1, 1): yes_and_no(1)}
    return written(tmp_path / "annotations_small.csv", votes, [ONE, ONE])


def test_the_majority_decides_and_a_carriage_return_ends_no_row(tmp_path: Path) -> None:
    images = read_annotations(small(tmp_path), [ONE, ONE])
    assert [(one.image, one.correct, sum(one.votes), len(one.votes)) for one in images] == [
        ((0, 0), True, 5, 5),
        ((0, 1), True, 3, 5),
        ((1, 0), True, 4, 5),
        ((1, 1), False, 1, 5),
    ]
    assert [one.agreement for one in images] == [1.0, 0.4, 0.6, 0.6]  # of ten pairs: 10, 3 + 1, 6, 6


def results(path: Path, correct: Mapping[tuple[int, int], bool], prompts: Sequence[Metadata]) -> Path:
    rows = [
        geneval.result(f"/images/{p:05}/samples/{i:05}.png", prompts[p], geneval.Outcome(value, ""))
        for (p, i), value in correct.items()
    ]
    path.write_text(geneval.results_jsonl(rows))
    return path


def test_results_whose_metadata_is_any_text_are_read(tmp_path: Path) -> None:
    row = geneval.Result("00000/samples/0000.png", "single_object", "a dog", True, "", "prompt 0", "")
    (tmp_path / "results.jsonl").write_text(geneval.results_jsonl([row]))
    judge = validate(small(tmp_path), [ONE, ONE], tmp_path / "results.jsonl").rows[0].judge
    assert judge is not None
    assert (judge.confusion.yes_yes, judge.missing) == (1, 3)


def test_a_judge_beside_people(tmp_path: Path) -> None:
    judged = results(tmp_path / "results.jsonl", {(0, 0): True, (0, 1): False, (1, 1): False, (7, 0): True}, [ONE] * 8)
    validation = validate(small(tmp_path), [ONE] * 8, judged)
    assert validation.annotations == "small"
    rows = {row.tag: row for row in validation.rows}
    assert list(rows) == [*TAGS, "all images"]
    one = rows["single_object"]
    assert (one.images, one.human.value) == (4, 0.75)
    assert one.between_people.value == pytest.approx(0.65)
    assert one.human.clusters == 2
    assert one.judge is not None
    assert one.judge.confusion == Confusion(yes_yes=1, yes_no=1, no_yes=0, no_no=1)
    assert one.judge.missing == 1
    assert one.judge.share.value == pytest.approx(2 / 3)
    # Observed 2/3; by chance 2/3 * 1/3 + 1/3 * 2/3 = 4/9.
    assert one.judge.kappa.value == pytest.approx((2 / 3 - 4 / 9) / (1 - 4 / 9))
    assert rows["colors"].human.value is None
    text = table([validation])
    assert "single_object       4  0.750" in text
    assert "y/n: correct for people, not for the judge" in text


def started(run: Path, suite: str) -> None:
    spec = RunSpec(suite, seed=0, limit=None, model={"name": "model"}, benchmarks={})
    open_run(run, spec, Environment("2026-01-01T00:00:00+00:00", {}, {}, {}))


def test_a_run_is_a_judge_too(tmp_path: Path) -> None:
    scores = [
        Score(f"geneval/0000{p}/{i}", f"geneval/0000{p}", "single_object", value)
        for (p, i), value in {(0, 0): 1.0, (0, 1): 1.0, (1, 0): None, (1, 1): 0.0}.items()
    ]
    started(tmp_path / "run", "paper")
    store.write_scores(tmp_path / "run" / "geneval", scores)
    row = validate(small(tmp_path), [ONE, ONE], tmp_path / "run").rows[0]
    assert row.judge is not None
    assert (row.judge.share.value, row.judge.kappa.value, row.judge.missing) == (1.0, 1.0, 1)


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    path = small(tmp_path)
    with pytest.raises(BenchError, match="row 1 is of another prompt than number 0"):
        validate(path, [TWO, ONE])
    with pytest.raises(BenchError, match=r"row 11 is no annotation"):
        validate(path, [ONE])
    other = results(tmp_path / "results.jsonl", {(0, 0): True}, [RED])
    with pytest.raises(BenchError, match="prompt 0 as colors, the annotations as single_object"):
        validate(path, [ONE, ONE], other)
    cat = {**ONE, "include": [{"class": "cat", "count": 1}]}
    with pytest.raises(BenchError, match="other objects in prompt 0 than the annotations"):
        validate(path, [ONE, ONE], results(tmp_path / "results.jsonl", {(0, 0): True}, [cat]))
    started(tmp_path / "toy", "toy")
    with pytest.raises(BenchError, match="is a run of the toy suite"):
        validate(path, [ONE, ONE], tmp_path / "toy")
    (tmp_path / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n\x00")
    with pytest.raises(BenchError, match=r"image.png row 1 is no annotation"):
        read_annotations(tmp_path / "image.png", [ONE, ONE])
    elsewhere = results(tmp_path / "results.jsonl", {(7, 0): True}, [ONE] * 8)
    with pytest.raises(BenchError, match="no verdict of an annotated image"):
        validate(path, [ONE, ONE], elsewhere)
    flat = tmp_path / "results.jsonl"
    flat.write_text(geneval.results_jsonl([geneval.result("0.png", ONE, geneval.Outcome(True, ""))]))
    with pytest.raises(BenchError, match=r"0\.png is not in GenEval's layout"):
        validate(path, [ONE, ONE], flat)
    with pytest.raises(BenchError, match="is not there"):
        validate(tmp_path / "none.csv", [ONE])
    cut = tmp_path / "annotations_cut.csv"
    cut.write_bytes(path.read_bytes().rsplit(b",", 2)[0])
    with pytest.raises(BenchError, match=r"row 20 is no annotation of GenEval's prompts: .*cut off"):
        read_annotations(cut, [ONE, ONE])
    single = written(tmp_path / "annotations_cut.csv", {(0, 0): [answer()]}, [ONE])
    with pytest.raises(BenchError, match="one annotator"):
        validate(single, [ONE])


# Kappa


def test_kappa_and_its_error_equal_the_published_formula() -> None:
    """Fleiss, Cohen & Everitt's variance as statsmodels has it, for independent values."""
    from statsmodels.stats.inter_rater import cohens_kappa

    rng = np.random.default_rng(5)
    a = rng.random(400) < 0.6
    b = np.where(rng.random(400) < 0.75, a, rng.random(400) < 0.4)
    counts = [[np.sum((a == i) & (b == j)) for j in (True, False)] for i in (True, False)]
    expected = cohens_kappa(np.array(counts))
    ours = cohen_kappa(a.tolist(), b.tolist(), [str(i) for i in range(400)])
    assert ours.value == pytest.approx(expected.kappa)
    assert ours.low is not None
    assert ours.high is not None
    from scipy import stats

    error = (ours.high - ours.low) / 2 / stats.t.ppf(0.975, 399)
    assert error == pytest.approx(expected.std_kappa * np.sqrt(400 / 399))


def test_copies_of_an_image_add_nothing_to_kappa() -> None:
    rng = np.random.default_rng(6)
    a, b = rng.random(60) < 0.5, rng.random(60) < 0.5
    groups = [str(i) for i in range(60)]
    once = cohen_kappa(a.tolist(), b.tolist(), groups)
    fourfold = cohen_kappa(a.tolist() * 4, b.tolist() * 4, groups * 4)
    assert fourfold.low == pytest.approx(once.low)
    assert fourfold.high == pytest.approx(once.high)


@pytest.mark.parametrize(
    ("a", "b", "value"),
    [
        ([], [], None),
        ([True] * 3, [True] * 3, None),
        ([True, False] * 2, [True, False] * 2, 1.0),
        ([True] * 3, [False] * 3, 0.0),
    ],
)
def test_kappa_of_too_little(a: list[bool], b: list[bool], value: float | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kappa = cohen_kappa(a, b, [str(i) for i in range(len(a))])
    assert (kappa.value, kappa.low, kappa.high) == (value, None, None)


# The published files


@pytest.fixture
def official(bench_data: Path) -> tuple[Path, list[Metadata]]:
    return bench_data / "geneval" / "annotations", geneval.read_metadata(
        bench_data / "geneval" / "evaluation_metadata.jsonl"
    )


@pytest.mark.parametrize(
    ("model", "shares", "pairs"),
    [
        ("clip", (0.98, 0.24, 0.46, 0.74, 0.08, 0.00), 0.89),
        ("sdv2", (1.0, 0.61, 0.54, 0.88, 0.15, 0.29), 0.84),
        ("if-xl", (1.0, 0.85, 0.76, 0.86, 0.30, 0.63), 0.88),
    ],
)
def test_human_scores_of_the_published_annotations(
    official: tuple[Path, list[Metadata]], model: str, shares: Sequence[float], pairs: float
) -> None:
    """Two digits of each, counted once with pandas; images per tag as in the files."""
    folder, metadata = official
    images = read_annotations(folder / f"annotations_{model}.csv", metadata)
    assert (len(images), sum(len(one.votes) for one in images)) == (400, 2000)
    *tags, overall = validate(folder / f"annotations_{model}.csv", metadata).rows
    assert [row.images for row in tags] == [52, 72, 68, 76, 80, 52]
    assert [row.human.value for row in tags] == [pytest.approx(share, abs=0.0051) for share in shares]
    assert overall.between_people.value == pytest.approx(pairs, abs=0.0051)
    assert overall.human.clusters == 100


def test_a_judge_that_says_what_people_say(official: tuple[Path, list[Metadata]], tmp_path: Path) -> None:
    folder, metadata = official
    path = folder / "annotations_sdv2.csv"
    said: dict[Any, bool] = {one.image: one.correct for one in read_annotations(path, metadata)}
    lines = [
        geneval.result(f"{p:05}/samples/{i:05}.png", metadata[p], geneval.Outcome(value, ""))
        for (p, i), value in said.items()
    ]
    (tmp_path / "results.jsonl").write_text(geneval.results_jsonl(lines))
    *_, overall = validate(path, metadata, tmp_path / "results.jsonl").rows
    assert overall.judge is not None
    assert (overall.judge.share.value, overall.judge.kappa.value, overall.judge.missing) == (1.0, 1.0, 0)
    assert json.loads((tmp_path / "results.jsonl").read_text().splitlines()[0])["correct"] in (True, False)
