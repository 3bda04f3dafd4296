"""A file of answers in place of a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import runner
from benchmarks.answers import FileAnswers
from benchmarks.types import BenchError, Sample
from benchmarks.vqav2 import Vqav2
from benchmarks.work import Part, Settings
from tests.fakes import FakeBenchmark


def written(path: Path, *rows: object) -> FileAnswers:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return FileAnswers(path)


def sample(name: str, number: object = None) -> Sample:
    return Sample(name, "?", name, meta={} if number is None else {"question_id": number})


def test_an_answer_is_found_by_the_samples_id_or_the_data_sets_own(tmp_path: Path) -> None:
    answers = written(
        tmp_path / "a.jsonl",
        {"id": "vqav2/7", "text": "by id"},
        {"question_id": 8, "answer": "by number"},
        {"question_id": "9", "text": ""},
    )
    asked = [sample("vqav2/9", 9), sample("vqav2/8", 8), sample("vqav2/7", 7)]
    assert answers.answer(asked, [0] * 3) == ["", "by number", "by id"]
    assert answers.check(asked) == []


def test_missing_and_extra_answers_are_told_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    answers = written(path, {"id": "some/1", "text": "x"}, {"id": "some/8", "text": "y"}, {"id": "z", "text": "z"})
    asked = [sample("some/1"), sample("some/2"), sample("some/3")]
    assert answers.check(asked) == [
        f"2 of 3 samples will be counted as missing: {path} has no answer to some/2",
        f"2 answers in {path} belong to no sample, such as id some/8",
    ]
    first, *absent = answers.answer(asked, [0] * 3)
    assert first == "x"
    assert [str(error) for error in absent] == [f"{path} has no answer to some/{i}" for i in (2, 3)]


def test_a_question_id_may_not_be_of_two_benchmarks(tmp_path: Path) -> None:
    answers = written(tmp_path / "a.jsonl", {"question_id": 1, "answer": "x"})
    with pytest.raises(BenchError, match="may be of any benchmark: name one of mmbench, seedbench"):
        answers.check([sample("seedbench/1", 1), sample("mmbench/1", 1)])


def test_an_absent_answer_is_missing_in_the_record_and_never_a_score(tmp_path: Path) -> None:
    benchmark = FakeBenchmark(task="answer", groups=3)
    names = [one.id for one in benchmark.samples()]
    answers = written(tmp_path / "a.jsonl", *({"id": name, "text": "1.0"} for name in names[:-1]))
    records = runner.run(tmp_path / "run", [benchmark], answers, Settings(suite="toy"), Part())
    assert records is not None
    (metric,) = records[0].metrics
    assert (metric.value, metric.n, metric.missing) == (1.0, len(names) - 1, 1)
    assert records[0].model["sha256"] == answers.describe()["sha256"]


def test_the_toy_column_is_scored_from_a_file(tmp_path: Path) -> None:
    """The references themselves, by the data set's numbers, score as much as the column's ceiling."""
    column = Vqav2.toy()
    rows = ({"question_id": one.meta["question_id"], "answer": one.meta["answer"]} for one in column.samples())
    answers = written(tmp_path / "a.jsonl", *rows)
    records = runner.run(tmp_path / "run", [column], answers, Settings(suite="toy", limit=30), Part())
    assert records is not None
    assert records[0].metrics[0].value == 1.0


def test_the_separator_of_lines_is_no_separator_inside_an_answer(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('\ufeff{"id": "a/1", "text": "one\u2028two"}\r\n\n{"id": "a/1", "text": "one\u2028two"}\n', "utf-8")
    assert FileAnswers(path).answer([sample("a/1")], [0]) == ["one\u2028two"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no answer"),
        ("{\n", ":1 is no JSON"),
        ("[1]\n", ":1 is no answer"),
        ('{"id": "a/1"}\n', ":1 is no answer"),
        ('{"id": "a/1", "text": 3}\n', ":1 is no answer"),
        ('{"text": "x"}\n', ":1 is no answer"),
        ('{"id": "a/1", "text": "x"}\n{"id": "a/1", "text": "y"}\n', ":2: a second, other answer to id a/1"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    with pytest.raises(BenchError) as raised:
        FileAnswers(path)
    assert said in str(raised.value)


def test_what_cannot_be_read_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="cannot be read: No such file"):
        FileAnswers(tmp_path / "nowhere.jsonl")
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    with pytest.raises(BenchError, match="is no UTF-8"):
        FileAnswers(tmp_path / "image.png")
