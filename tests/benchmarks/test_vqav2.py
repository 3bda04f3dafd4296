"""VQAv2: the toy rows, the real files, and what becomes of replies."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from benchmarks.shapes import vqa
from benchmarks.shapes.scene import render
from benchmarks.types import BenchError, JudgeError, Prediction, Verdict
from benchmarks.vqav2 import Vqav2

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
        assert sample.meta["multiple_choice_answer"] == row["multiple_choice_answer"]
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


def test_a_missing_verdict_is_counted_and_not_scored(toy: Vqav2) -> None:
    samples = toy.samples()
    verdicts = {
        sample.id: Verdict(sample.id, {"text": sample.meta["multiple_choice_answer"]}) for sample in samples[1:]
    }
    scores, metrics = toy.summarize(samples, verdicts)
    assert scores[0].value is None
    assert (metrics[0].value, metrics[0].n, metrics[0].missing) == (1.0, len(samples) - 1, 1)


def test_no_verdict_at_all(toy: Vqav2) -> None:
    samples = toy.samples()
    _, metrics = toy.summarize(samples, {})
    assert (metrics[0].value, metrics[0].low, metrics[0].high) == (None, None, None)
    assert (metrics[0].n, metrics[0].missing) == (0, len(samples))


def test_the_raw_reply_is_stored(toy: Vqav2, tmp_path: Path) -> None:
    sample = toy.samples()[0]
    (verdict,) = toy.judge([sample], [Prediction(sample.id, 0, 0.0, text=" Two\n dogs. ")], tmp_path)
    assert verdict == Verdict(sample.id, {"text": " Two\n dogs. "})


def test_an_image_is_no_answer(toy: Vqav2, tmp_path: Path) -> None:
    sample = toy.samples()[0]
    with pytest.raises(JudgeError, match=f"{sample.id}: VQAv2 needs a text"):
        toy.judge([sample], [Prediction(sample.id, 0, 0.0, image="images/0.png")], tmp_path)


def test_the_digest_tells_other_rows_and_other_images() -> None:
    one, same, other = Vqav2.toy(images=2), Vqav2.toy(images=2), Vqav2.toy(images=3)
    assert one.describe() == same.describe()
    assert one.describe()["data"]["sha256"] != other.describe()["data"]["sha256"]
    assert one.describe()["data"]["pixels_sha256"] != other.describe()["data"]["pixels_sha256"]


def write_shards(folder: Path, rows: Dataset, shards: int) -> None:
    folder.mkdir()
    for index in range(shards):
        name = f"validation-{index:05d}-of-{shards:05d}.parquet"
        rows.shard(shards, index, contiguous=True).to_parquet(folder / name)


@pytest.fixture
def official_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """Rows with the official columns only; what datasets makes of parquet files goes to the test's own cache."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return Vqav2.toy(images=4).rows.remove_columns("choices")


def test_paper_reads_the_publishers_files(official_rows: Dataset, tmp_path: Path) -> None:
    write_shards(tmp_path / "data", official_rows, shards=2)
    benchmark, toy = Vqav2.paper(tmp_path), Vqav2.toy(images=4)
    assert [sample.prompt for sample in benchmark.samples()] == [sample.prompt for sample in toy.samples()]
    (open_image,) = benchmark.samples()[-1].images
    (open_toy_image,) = toy.samples()[-1].images
    assert open_image().tobytes() == open_toy_image().tobytes()
    assert benchmark.describe()["data"]["rows"] == len(official_rows)
    _, (metric, *_) = benchmark.summarize(benchmark.samples(), answered(benchmark, "yes"))
    assert metric.chance is None  # the real questions have no known number of answers


def test_paper_without_files(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=re.escape(f"no VQAv2 in {tmp_path}: run `hf download lmms-lab-encoder/VQAv2")):
        Vqav2.paper(tmp_path)


def test_paper_with_a_shard_missing(official_rows: Dataset, tmp_path: Path) -> None:
    write_shards(tmp_path / "data", official_rows, shards=3)
    (tmp_path / "data" / "validation-00001-of-00003.parquet").unlink()
    with pytest.raises(BenchError, match=r"2 shards of VQAv2 in .*, 3 expected"):
        Vqav2.paper(tmp_path)


def test_paper_with_a_damaged_shard(official_rows: Dataset, tmp_path: Path) -> None:
    write_shards(tmp_path / "data", official_rows, shards=1)
    file = tmp_path / "data" / "validation-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(BenchError, match=r"a parquet file in .* is damaged"):
        Vqav2.paper(tmp_path)


@pytest.mark.usefixtures("official_rows")
def test_paper_with_other_columns(tmp_path: Path) -> None:
    rows: Any = Dataset.from_list([{"question": "q", "image_id": 1}])
    write_shards(tmp_path / "data", rows, shards=1)
    with pytest.raises(BenchError, match="lacks the columns answer_type, answers"):
        Vqav2.paper(tmp_path)
