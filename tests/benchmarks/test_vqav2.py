"""VQAv2: the toy rows, what becomes of replies, and the test split."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.shapes import vqa
from benchmarks.shapes.scene import render
from benchmarks.types import BenchError, Verdict
from benchmarks.vqav2 import Vqav2, Vqav2Test

SUFFIX = "\nAnswer the question using a single word or phrase."


@pytest.fixture(scope="module")
def toy() -> Vqav2:
    return Vqav2.toy(images=6)


def answered(benchmark: Vqav2, reply: str) -> dict[str, Verdict]:
    return {sample.id: Verdict(sample.id, {"text": reply}) for sample in benchmark.samples()}


def test_samples_ask_the_rows_of_the_shapes_world(toy: Vqav2) -> None:
    expected = [(scene, row) for scene, asked in vqa.rows(6) for row in asked]
    samples = toy.samples()
    assert len({sample.id for sample in samples}) == len(samples) == len(expected)
    for sample, (scene, row) in zip(samples, expected, strict=True):
        assert sample.id == f"vqav2/{row['question_id']}"
        assert sample.group == f"vqav2/{row['image_id']}"
        assert sample.prompt == row["question"] + SUFFIX
        assert sample.stratum == row["answer_type"]
        assert sample.meta["answer"] == row["multiple_choice_answer"]
        (open_image,) = sample.images
        assert open_image().tobytes() == render(scene).tobytes()


def test_metrics_of_all_questions_and_of_each_answer_type(toy: Vqav2) -> None:
    """Every question is answered yes, so the scores can be counted in the rows."""
    rows = [row for _, asked in vqa.rows(6) for row in asked]
    right = sum(row["multiple_choice_answer"] == "yes" for row in rows)
    questions = {kind: [row for row in rows if row["answer_type"] == kind] for kind in ("yes/no", "number", "other")}
    metrics = {metric.name: metric for metric in toy.summarize(toy.samples(), answered(toy, "Yes."))[1]}

    overall = metrics.pop("exact_match")
    assert overall.value == pytest.approx(right / len(rows))
    assert overall.chance == pytest.approx(sum(1 / row["choices"] for row in rows) / len(rows))
    assert (overall.n, overall.missing, overall.unit) == (len(rows), 0, "fraction")
    assert overall.low is not None
    assert overall.high is not None
    assert overall.low < right / len(rows) < overall.high

    assert {name: metric.n for name, metric in metrics.items()} == {
        f"exact_match.{kind}": len(of_kind) for kind, of_kind in questions.items()
    }
    assert metrics["exact_match.number"].value == 0.0
    assert metrics["exact_match.yes/no"].value == pytest.approx(right / len(questions["yes/no"]))
    assert metrics["exact_match.yes/no"].chance == 0.5


def test_the_digest_tells_other_rows_and_other_images() -> None:
    one, same, other = Vqav2.toy(images=2), Vqav2.toy(images=2), Vqav2.toy(images=3)
    assert one.describe() == same.describe()
    assert one.describe()["data"]["sha256"] != other.describe()["data"]["sha256"]
    assert one.describe()["data"]["pixels_sha256"] != other.describe()["data"]["pixels_sha256"]


def test_the_real_questions_have_no_known_number_of_answers(toy: Vqav2) -> None:
    official = Vqav2(toy.rows.remove_columns("choices"), {"name": "official"})
    _, (metric, *_) = official.summarize(official.samples(), answered(official, "yes"))
    assert metric.chance is None


@pytest.fixture(scope="module")
def test_split(toy: Vqav2) -> Vqav2Test:
    """Rows of the test split have null where there is an answer."""
    unknown = dict.fromkeys(("answers", "multiple_choice_answer", "answer_type"))
    rows = toy.rows.map(lambda row: {**row, **unknown}, features=toy.rows.features, load_from_cache_file=False)
    return Vqav2Test(rows, {"name": "test"})


def test_the_test_split_has_no_score(test_split: Vqav2Test) -> None:
    samples = test_split.samples()
    scores, (metric,) = test_split.summarize(samples, answered(test_split, "yes"))
    assert {(score.value, score.reason) for score in scores} == {(None, "the answers of the test split are not public")}
    assert (metric.value, metric.n, metric.missing) == (None, 0, len(samples))


def test_the_test_splits_submission(test_split: Vqav2Test, tmp_path: Path) -> None:
    samples = test_split.samples()
    test_split.export(samples, {}, answered(test_split, " Two dogs. "), tmp_path, tmp_path)
    rows = json.loads((tmp_path / "submission.json").read_text())
    assert rows == [{"question_id": sample.meta["question_id"], "answer": "Two dogs."} for sample in samples]


def test_a_submission_with_an_answer_missing_is_refused(test_split: Vqav2Test, tmp_path: Path) -> None:
    samples = test_split.samples()
    verdicts = answered(test_split, "yes")
    del verdicts[samples[3].id]
    with pytest.raises(BenchError, match=f"{len(samples) - 1} of the {len(samples)} questions of VQAv2 test"):
        test_split.export(samples, {}, verdicts, tmp_path, tmp_path)
    assert not (tmp_path / "submission.json").exists()
