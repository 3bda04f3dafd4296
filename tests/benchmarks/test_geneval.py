"""GenEval's rule, its files and its bookkeeping. The judges themselves are in test_judges.py."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import geneval
from benchmarks.geneval import FolderImages, Found, GenEval, GenEvalOptions
from benchmarks.judges.color import COLORS
from benchmarks.types import BenchError, Sample, Score, Verdict

ONE_DOG = {"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "a photo of a dog"}
TWO_DOGS = {
    "tag": "counting",
    "include": [{"class": "dog", "count": 2}],
    "exclude": [{"class": "dog", "count": 3}],
    "prompt": "a photo of two dogs",
}
CAT_LEFT_OF_DOG = {
    "tag": "position",
    "include": [{"class": "dog", "count": 1}, {"class": "cat", "count": 1, "position": ["left of", 0]}],
    "prompt": "a photo of a cat left of a dog",
}
RED_DOG = {
    "tag": "colors",
    "include": [{"class": "dog", "count": 1, "color": "red"}],
    "prompt": "a photo of a red dog",
}


def boxes(*rows: Sequence[float]) -> Found:
    return Found(np.array(rows, dtype=np.float32).reshape(-1, 5))


def colored(color_rows: Sequence[Sequence[str]], *rows: Sequence[float]) -> Found:
    """``color_rows``: for each box the colors that share the highest logit."""
    logits = [[float(color in best) for color in COLORS] for best in color_rows]
    return Found(boxes(*rows).boxes, np.array(logits, dtype=np.float32))


def dog(score: float, left: float = 0) -> list[float]:
    return [left, 0, left + 10, 10, score]


# The rule


@pytest.mark.parametrize(
    ("score", "correct"), [(0.3, False), (float(np.nextafter(np.float32(0.3), np.float32(1))), True)]
)
def test_a_score_at_the_threshold_is_rejected_in_float32(score: float, correct: bool) -> None:
    assert geneval.decide(ONE_DOG, {"dog": boxes(dog(score))}, GenEvalOptions()).correct is correct


def test_more_objects_than_asked_hurt_in_counting_only() -> None:
    three = {"dog": boxes(dog(0.95), dog(0.96, 20), dog(0.97, 40))}
    assert geneval.decide(ONE_DOG, three, GenEvalOptions()).correct
    outcome = geneval.decide(TWO_DOGS, three, GenEvalOptions())
    assert (outcome.correct, outcome.reason) == (False, "expected dog<3, found 3")


def test_counting_asks_for_scores_above_its_own_threshold() -> None:
    found = {"dog": boxes(dog(0.95), dog(0.96, 20), dog(0.8, 40))}
    assert geneval.decide(TWO_DOGS, found, GenEvalOptions()).correct
    assert not geneval.decide(TWO_DOGS, found, GenEvalOptions(counting_threshold=0.3)).correct


def test_overlap_is_ignored_unless_asked_for() -> None:
    twice = {"dog": boxes(dog(0.95), dog(0.96))}
    assert geneval.decide(TWO_DOGS, twice, GenEvalOptions()).correct
    assert not geneval.decide(TWO_DOGS, twice, GenEvalOptions(max_overlap=0.5)).correct


def test_colors_look_at_the_most_confident_object_only() -> None:
    found = {"dog": colored([["red"], ["blue"]], dog(0.5), dog(0.9, 20))}
    outcome = geneval.decide(RED_DOG, found, GenEvalOptions())
    assert outcome.reason == "expected red dog>=1, found 0 red; and 1 blue"


def test_on_a_tie_of_logits_the_earlier_color_wins() -> None:
    found = {"dog": colored([["red", "white"]], dog(0.9))}
    assert geneval.decide(RED_DOG, found, GenEvalOptions()).correct


def test_without_colors_the_rule_refuses() -> None:
    with pytest.raises(BenchError, match="no colors of 'dog'"):
        geneval.decide(RED_DOG, {"dog": boxes(dog(0.9))}, GenEvalOptions())


def test_position_needs_its_target() -> None:
    outcome = geneval.decide(CAT_LEFT_OF_DOG, {"cat": boxes([0, 0, 10, 10, 0.9])}, GenEvalOptions())
    assert outcome.reason == "expected dog>=1, found 0\nno target for cat to be left of"


@pytest.mark.parametrize(
    ("other", "relations"),
    [
        ([40, 0, 50, 10, 1], ("left of",)),
        ([0, 40, 10, 50, 1], ("above",)),
        ([40, 40, 50, 50, 1], ("left of", "above")),  # a diagonal is both
        ([1.9, 0, 11.9, 10, 1], ()),  # 0.1 * (10 + 10) = 2 pixels are not enough
    ],
)
def test_relative_position(other: list[float], relations: tuple[str, ...]) -> None:
    box = np.array([0, 0, 10, 10, 1], dtype=np.float32)
    assert geneval.relative_position(box, np.array(other, dtype=np.float32)) == relations


def test_overlap_counts_the_last_pixel() -> None:
    a, b = np.array([0, 0, 9, 9], np.float32), np.array([5, 0, 14, 9], np.float32)
    assert geneval.iou(a, b) == pytest.approx(50 / 150)


# Samples, scores and metrics


def test_toy_samples_are_four_images_of_each_prompt() -> None:
    samples = GenEval.toy(prompts_per_tag=3).samples()
    assert [s.id for s in samples[:5]] == [f"geneval/00000/{k}" for k in range(4)] + ["geneval/00001/0"]
    assert len(samples) == 6 * 3 * 4
    assert list(dict.fromkeys(s.stratum for s in samples)) == list(geneval.TAGS)
    assert len({s.group for s in samples}) == 18


def finding(rows: list[list[float]], floor: float = 0.3) -> dict[str, Any]:
    return {"floor": floor, "boxes": {"dog": rows}, "color_logits": {}}


def dogs(threshold: float = 0.3) -> GenEval:
    toy = GenEval.toy(1)
    return GenEval([ONE_DOG, TWO_DOGS], toy.detector, toy.colors, {}, 2, GenEvalOptions(threshold=threshold))


def test_scores_are_one_zero_or_missing() -> None:
    bench = dogs()
    samples = bench.samples()
    verdicts = {
        "geneval/00000/0": Verdict("geneval/00000/0", finding([dog(0.9)])),
        "geneval/00000/1": Verdict("geneval/00000/1", finding([])),
        "geneval/00001/0": Verdict("geneval/00001/0", error="the detector ran out of memory"),
    }
    scores, metrics = bench.summarize(samples, verdicts)
    assert [(s.value, s.reason) for s in scores] == [
        (1.0, ""),
        (0.0, "expected dog>=1, found 0"),
        (None, "the detector ran out of memory"),
        (None, "not judged"),
    ]
    assert [(m.name, m.value, m.n, m.missing) for m in metrics] == [
        ("overall", 0.5, 2, 2),
        ("single_object", 0.5, 2, 0),
        ("counting", None, 0, 2),
    ]


def test_overall_is_the_unweighted_mean_of_the_tags() -> None:
    rows = [("a", 1.0)] * 8 + [("b", 0.0)] * 2
    scores = [Score(f"geneval/{i:05}/0", f"geneval/{i:05}", tag, value) for i, (tag, value) in enumerate(rows)]
    overall, *tags = geneval.metrics(scores)
    assert overall.value == 0.5
    assert [(m.name, m.value) for m in tags] == [("a", 1.0), ("b", 0.0)]
    assert overall.low is not None
    assert overall.high is not None
    assert 0 < overall.low < 0.5 < overall.high < 1


def test_verdicts_under_a_higher_threshold_are_not_scored_again() -> None:
    bench = dogs(threshold=0.1)
    sample = bench.samples()[0]
    with pytest.raises(BenchError, match="judge the images again"):
        bench.outcome(sample, Verdict(sample.id, finding([dog(0.9)], floor=0.3)))


# Official files


def test_official_prompts(bench_data: Path) -> None:
    metadata = geneval.read_metadata(bench_data / "geneval" / "evaluation_metadata.jsonl")
    names = geneval.read_object_names(bench_data / "geneval" / "object_names.txt")
    toy = GenEval.toy(1)
    samples = GenEval(metadata, toy.detector, toy.colors, {}).samples()
    assert len(samples) == 2212
    counts = {tag: sum(entry["tag"] == tag for entry in metadata) for tag in geneval.TAGS}
    assert list(counts.values()) == [80, 99, 80, 94, 100, 100]
    assert len(names) == 80
    assert {clause["class"] for entry in metadata for clause in entry["include"]} <= set(names)
    assert {clause.get("color", "red") for entry in metadata for clause in entry["include"]} == set(COLORS)


def test_bad_metadata_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "metadata.jsonl"
    path.write_text(json.dumps(ONE_DOG) + '\n{"tag": "colors"}\n')
    with pytest.raises(BenchError, match="line 2"):
        geneval.read_metadata(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two prompts with two images each, written in the official layout."""
    samples, images = dogs().samples(), []
    for number, _ in enumerate(samples):
        images.append(tmp_path / f"{number}.png")
        Image.new("RGB", (8, 8), (number, 0, 0)).save(images[-1])
    geneval.write_layout(tmp_path / "out", samples, images)
    return tmp_path / "out"


def generate(folder: Path) -> list[Path | Exception]:
    samples = dogs().samples()
    return FolderImages(folder).generate(samples, [0] * len(samples))


def test_layout_is_read_as_it_was_written(folder: Path) -> None:
    drawn = generate(folder)
    assert drawn == [folder / f"0000{p}" / "samples" / f"0000{i}.png" for p in (0, 1) for i in (0, 1)]
    assert json.loads((folder / "00001" / "metadata.jsonl").read_text()) == TWO_DOGS


def test_a_missing_and_a_broken_image_are_errors_of_their_samples(folder: Path) -> None:
    (folder / "00000" / "samples" / "00001.png").unlink()
    broken = folder / "00001" / "samples" / "00000.png"
    broken.write_bytes(broken.read_bytes()[:50])
    first, absent, truncated, last = generate(folder)
    assert isinstance(first, Path)
    assert isinstance(absent, FileNotFoundError)
    assert str(folder / "00000" / "samples") in str(absent)
    assert isinstance(truncated, ValueError)
    assert str(broken) in str(truncated)
    assert isinstance(last, Path)


def test_other_files_are_passed_over_as_officially(folder: Path) -> None:
    for name in ("00002.jpg", "00003.PNG", "grid.png"):
        (folder / "00000" / "samples" / name).write_bytes(b"")
    assert [path.name for path in generate(folder)[:2] if isinstance(path, Path)] == ["00000.png", "00001.png"]


def test_a_folder_of_another_prompt_is_refused(folder: Path) -> None:
    (folder / "00001" / "metadata.jsonl").write_text(json.dumps(ONE_DOG))
    with pytest.raises(BenchError, match="00001 is for another prompt"):
        generate(folder)


def test_a_rewritten_prompt_is_the_same_prompt(folder: Path) -> None:
    (folder / "00000" / "metadata.jsonl").write_text(json.dumps({**ONE_DOG, "prompt": "a friendly dog on grass"}))
    assert all(isinstance(path, Path) for path in generate(folder))


def test_prompts_without_a_folder_are_named(folder: Path) -> None:
    (folder / "00001").rename(folder / "someone else's")
    images = FolderImages(folder)
    samples: list[Sample] = dogs().samples()
    assert images.prompts_without_folder(samples) == ["geneval/00001"]
    assert [type(image) for image in images.generate(samples[2:], [0, 0])] == [FileNotFoundError] * 2


@pytest.mark.parametrize("create", [False, True])
def test_a_folder_without_prompts_is_refused(tmp_path: Path, create: bool) -> None:
    root = tmp_path / "images"
    if create:
        root.mkdir()
    with pytest.raises(BenchError, match="GenEval's layout"):
        FolderImages(root)


def test_results_and_summary_round_trip(tmp_path: Path) -> None:
    right = geneval.decide(ONE_DOG, {"dog": boxes(dog(0.5))}, GenEvalOptions())
    wrong = geneval.decide(TWO_DOGS, {}, GenEvalOptions())
    rows = [
        geneval.result("00000/samples/00000.png", ONE_DOG, right),
        geneval.result("00001/samples/00000.png", TWO_DOGS, wrong),
    ]
    path = tmp_path / "results.jsonl"
    path.write_text(geneval.results_jsonl(rows))
    assert geneval.read_results(path) == rows
    assert "Overall score (avg. over tasks): 0.50000" in geneval.summary_text(rows)


def test_a_broken_image_is_an_error_of_the_verdict(tmp_path: Path) -> None:
    """And it is found before any judge is loaded."""
    from benchmarks.types import Prediction

    bench = dogs()
    sample = bench.samples()[0]
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    verdict = bench.judge([sample], [Prediction(sample.id, 0, 0.0, image="broken.png")], tmp_path)[0]
    assert verdict.error is not None
    assert "broken.png is not a readable image" in verdict.error
