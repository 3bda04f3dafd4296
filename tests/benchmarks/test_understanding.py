"""What all columns of questions about images have in common, on their toy rows and on parquet files."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from benchmarks import catalog
from benchmarks.mme import Mme
from benchmarks.shapes.reference import Blank, Oracle
from benchmarks.types import BenchError, JudgeError, Prediction
from benchmarks.understanding import ToJudge, Understanding
from benchmarks.understanding import judged as readable_replies
from tests.benchmarks.answering import ScriptedJudge, golden_answer, judged, predictions, scored, summarized


def toy(name: str) -> Understanding:
    return cast(Understanding, catalog.BENCHMARKS["toy", name](catalog.Data()))


@pytest.fixture(scope="module", params=catalog.COLUMNS)
def column(request: pytest.FixtureRequest) -> Understanding:
    return toy(request.param)


def test_the_oracle_has_full_marks(column: Understanding) -> None:
    answers = {sample.id: Oracle().answer([sample], [0])[0] for sample in column.samples()}
    full_marks = {"mme_perception_score": 2000, "mme_cognition_score": 800}
    for name, metric in scored(column, lambda sample: answers[sample.id]).items():
        if name in ("random_fallback", "judge_noise"):
            assert metric.value == 0
        elif name.startswith("mme"):
            assert metric.value == full_marks.get(name, 200)
        else:
            assert metric.value == column.full_marks
        assert metric.missing == 0


def test_the_blank_model_is_not_above_chance(column: Understanding) -> None:
    answers = {sample.id: Blank().answer([sample], [0])[0] for sample in column.samples()}
    for metric in scored(column, lambda sample: answers[sample.id]).values():
        if metric.chance is not None and metric.n > 100:
            assert metric.low is not None
            assert metric.low <= metric.chance


def test_samples(column: Understanding) -> None:
    samples = column.samples()
    assert len(samples) == len({sample.id for sample in samples}) == len(column.rows) >= 200
    for sample in samples:
        assert sample.id.startswith(f"{column.name}/")
        assert sample.group.startswith(f"{column.name}/")
    expected = [image.tobytes() for image in column.harness.images(5)]
    assert [open_image().tobytes() for open_image in samples[5].images] == expected
    assert expected


def test_what_was_not_answered_is_missing(column: Understanding) -> None:
    samples = column.samples()
    first = samples[0].group
    kept = [sample for sample in samples if sample.group != first]
    scores, metrics = summarized(column, samples, judged(column, kept, golden_answer))
    assert [score.value is None for score in scores] == [sample.group == first for sample in samples]
    assert max(metric.missing for metric in metrics.values()) == len(samples) - len(kept)


def test_nothing_was_answered(column: Understanding) -> None:
    scores, metrics = summarized(column, column.samples(), [])
    assert {score.value for score in scores} == {None}
    for metric in metrics.values():
        assert (metric.value, metric.low, metric.high, metric.n) == (None, None, None, 0)
        assert metric.missing > 0


def test_raw_replies_are_stored(column: Understanding) -> None:
    sample = column.samples()[0]
    (verdict,) = judged(column, [sample], " B.\nYes ")
    assert verdict.finding["text"] == " B.\nYes "


def test_an_image_is_no_answer(column: Understanding, tmp_path: Path) -> None:
    sample = column.samples()[0]
    with pytest.raises(JudgeError, match=f"{re.escape(sample.id)}: {column.title} needs a text"):
        column.judge([sample], [Prediction(sample.id, 0, 0.0, image="images/0.png")], tmp_path)


def test_the_record(column: Understanding) -> None:
    described = column.describe()
    assert described == toy(column.name).describe()
    assert described["data"]["rows"] == len(column.rows)
    assert described["judge"]["task"] == column.task_name
    assert column.profile == "lmms-0.7.3"


def test_the_profile_of_the_papers_authors(column: Understanding) -> None:
    """Prompt, images or decoding differ in each column: the authors' model took the blank line from the stops."""
    authors = type(column)(column.rows, {}, replace(column.options, profile="blip3o-0.3.0"))
    assert authors.profile == "blip3o-0.3.0"
    ours, theirs = column.samples()[0], authors.samples()[0]
    assert theirs.images[0]().format == "JPEG"
    assert "\n\n" not in theirs.decoding.stop
    assert (ours.id, ours.group) == (theirs.id, theirs.group)


def test_export_has_every_answer(column: Understanding, tmp_path: Path) -> None:
    samples = column.samples()[:8]
    verdicts = {verdict.id: verdict for verdict in judged(column, samples, golden_answer)}
    column.export(samples, {p.id: p for p in predictions(samples, golden_answer)}, verdicts, tmp_path, tmp_path / "out")
    assert list((tmp_path / "out").iterdir())


# Parquet files


def written(column: Understanding, root: Path, shards: int = 2, without: tuple[str, ...] = ()) -> Path:
    """The column's rows as the hub has them, with the official columns only; returns the data set's folder."""
    folder = root / column.name
    names = [name for name in column.rows.column_names if name not in ("choices", *without)]
    for index in range(shards):
        file = folder / "data" / column.files.replace("*-of-[0-9]*", f"{index:05d}-of-{shards:05d}")
        file.parent.mkdir(parents=True, exist_ok=True)
        column.rows.select_columns(names).shard(shards, index, contiguous=True).to_parquet(file)
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def test_paper_reads_the_publishers_files(column: Understanding, tmp_path: Path) -> None:
    folder = written(column, tmp_path)
    benchmark = cast(Understanding, catalog.BENCHMARKS["paper", column.name](catalog.Data(root=tmp_path)))
    assert [sample.prompt for sample in benchmark.samples()] == [sample.prompt for sample in column.samples()]
    last, toy_last = benchmark.samples()[-1], column.samples()[-1]
    assert [image().tobytes() for image in last.images] == [image().tobytes() for image in toy_last.images]
    data = benchmark.describe()["data"]
    assert data["rows"] == len(column.rows)
    assert set(data["bytes"]) == {file.name for file in folder.rglob("*.parquet")}


def test_paper_with_a_column_missing(column: Understanding, tmp_path: Path) -> None:
    folder = written(column, tmp_path, shards=1, without=("question",))
    with pytest.raises(BenchError, match=r"lacks the columns question: is this .*blip3o-bench data fetch"):
        type(column).paper(folder)


def test_paper_without_files(column: Understanding, tmp_path: Path) -> None:
    command = f"run `blip3o-bench data fetch {column.name} --data-dir {tmp_path}`"
    with pytest.raises(BenchError, match=re.escape(f"no {column.title} in {tmp_path / column.name}: {command}")):
        type(column).paper(tmp_path / column.name)


def test_paper_with_digests_in_the_names_of_its_shards(tmp_path: Path) -> None:
    folder = written(toy("mme"), tmp_path)
    for file in sorted(folder.rglob("*.parquet")):
        file.rename(file.with_stem(f"{file.stem}-a25dbe3b44c4fda6"))
    assert len(Mme.paper(folder).samples()) == len(toy("mme").rows)


def test_paper_with_a_shard_missing(tmp_path: Path) -> None:
    folder = written(toy("mme"), tmp_path, shards=3)
    (folder / "data" / "test-00001-of-00003.parquet").unlink()
    with pytest.raises(BenchError, match=r"2 shards of MME in .*, 3 expected: run `blip3o-bench data fetch mme"):
        Mme.paper(folder)


def test_paper_with_a_damaged_shard(tmp_path: Path) -> None:
    folder = written(toy("mme"), tmp_path, shards=1)
    file = folder / "data" / "test-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(BenchError, match=r"a parquet file in .* is damaged .*: delete it and run `blip3o-bench data"):
        Mme.paper(folder)


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = written(toy("mme"), tmp_path, shards=1)
    with monkeypatch.context() as patched:
        patched.setattr("datasets.config.HF_DATASETS_CACHE", "/dev/null/cache")
        with pytest.raises(BenchError, match=r"cannot keep MME in its cache \(.*/dev/null.*set HF_DATASETS_CACHE"):
            Mme.paper(folder)
    assert len(Mme.paper(folder).samples()) > 0


def test_the_record_names_the_revision_that_was_fetched(tmp_path: Path) -> None:
    folder = written(toy("mme"), tmp_path, shards=1)
    (folder / "revision.json").write_text('{"commit": "abc", "files": []}')
    assert Mme.paper(folder).describe()["data"]["revision"] == "abc"


# Judges


def is_digit(reply: str) -> str | None:
    return reply if reply.isdigit() else None


def test_a_judge_is_asked_until_its_reply_can_be_read() -> None:
    judge = ScriptedJudge({"a/0": "1", "b/0": "well", "b/1": "2", "c/0": "er", "c/1": "um"})
    asked = [ToJudge(key, f"how many {key}?", is_digit) for key in "abcd"]
    replies = readable_replies(judge, asked, (0.0, 0.5), 10)
    assert replies[:2] == ["1", "2"]
    assert [str(reply) for reply in replies[2:]] == [
        "the judge's reply cannot be read: 'um'",
        "the server answered 500",
    ]
    assert all(isinstance(reply, JudgeError) for reply in replies[2:])
    assert judge.asked == [(f"{key}/0", 0.0) for key in "abcd"] + [("b/1", 0.5), ("c/1", 0.5)]
