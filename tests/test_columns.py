"""The columns through the command line: judges that fail, a budget, and what the exit code says."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from click.testing import CliRunner, Result

from benchmarks import store
from benchmarks.judges.chat import Endpoint
from benchmarks.types import Json, Sample
from blip3o_bench import main, models
from tests.benchmarks.judges.test_chat import Act, Server, completion
from tests.serving import in_thread

#: Toy questions of each column; of MMBench whole ones, with two rotations or more.
LIMIT = 6
READABLE = {"mmbench": "E", "mmvet": "0.5"}


@dataclass
class Mumbling:
    """Says nothing that has a letter in it."""

    reply: str | Exception = "the round one over there"
    answered: int = 0

    def describe(self) -> Mapping[str, Json]:
        return {"name": "mumbling"}

    def answer(self, samples: Sequence[Sample], seeds: Sequence[int]) -> list[str]:
        if isinstance(self.reply, Exception):
            raise self.reply
        self.answered += len(samples)
        return [self.reply] * len(samples)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Mumbling:
    model = Mumbling()
    monkeypatch.setattr(models, "load_model", lambda *arguments, **options: model)
    return model


def expect(monkeypatch: pytest.MonkeyPatch, option: str, value: float) -> None:
    """Another default of the judges' client, which the command line does not set."""
    monkeypatch.setitem(cast(dict[str, object], Endpoint.__init__.__kwdefaults__), option, value)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A judge, of whom a client expects little patience."""
    for option, value in (("timeout", 10.0), ("attempts", 2), ("backoff", 0.01)):
        expect(monkeypatch, option, value)
    with in_thread(Server()) as server:
        yield server


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def run(column: str, out: Path, server: Server, *options: object) -> Result:
    judge = ("--judge", server.url, "--judge-model", "judge")
    return call("run", column, "--limit", LIMIT, "--out", out, "--json", *judge, *options)


def overall(done: Result) -> dict[str, Any]:
    assert done.exit_code == 0, done.stderr
    metric: dict[str, Any] = json.loads(done.stdout)["records"][0]["metrics"][0]
    return metric


@pytest.mark.parametrize("column", ["mmbench", "mmvet"])
@pytest.mark.parametrize(
    ("act", "reason", "read"),
    [
        (Act(500, b'{"error": {"message": "overloaded"}}'), "Error code: 500", False),
        (Act(seconds=1.0), "timed out", False),
        (Act(body=b"<html>a proxy's page</html>"), "the server sent no chat completion but", False),
        (Act(body=completion("")), "the reply is empty", False),
        (Act(body=completion("I would not say")), "the judge's reply cannot be read: 'I would not say'", True),
        (Act(body=completion("2")), "the judge's reply cannot be read: '2'", True),
    ],
    ids=["500", "timeout", "no completion", "empty", "garbage", "2"],
)
def test_a_judge_that_fails_leaves_its_questions_missing_with_the_reason(
    model: Mumbling,
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    column: str,
    act: Act,
    reason: str,
    read: bool,
) -> None:
    """And the next start asks again what had no reply; an unreadable one is a reply, and was paid."""
    server.usual = act
    with monkeypatch.context() as impatient:
        if act.seconds:
            expect(impatient, "timeout", 0.3)
        metric = overall(run(column, tmp_path, server))
    answered, asked = model.answered, len(server.asked)
    assert answered >= LIMIT
    assert (metric["value"], metric["low"], metric["n"], metric["missing"]) == (None, None, 0, answered)
    scores = store.read_scores(tmp_path / column)
    assert len(scores) == answered
    for score in scores:
        assert score.value is None
        assert reason in score.reason
    server.usual = Act(body=completion(READABLE[column]))
    again = overall(run(column, tmp_path, server))
    assert (again["missing"], len(server.asked)) == ((answered, asked) if read else (0, asked + answered))
    assert model.answered == answered


@pytest.mark.parametrize(("column", "budget"), [("mmbench", 17), ("mmvet", 30)])
def test_the_judges_budget_ends_a_run_that_goes_on_with_more(
    model: Mumbling, server: Server, tmp_path: Path, column: str, budget: int
) -> None:
    """A question costs 1.1 dollars, 100 and 10 tokens at 10,000 dollars per million. By its length it might have cost
    so much that only a few are within the budget."""
    server.usual = Act(body=completion(READABLE[column]))
    priced = ("--judge-prices", 10_000, 10_000, "--judge-concurrency", 1, "--max-judge-cost")
    stopped = run(column, tmp_path, server, *priced, budget)
    assert (stopped.exit_code, stopped.stdout) == (2, "")
    assert "raise --max-judge-cost" in stopped.stderr
    assert stopped.stderr.splitlines()[-1].startswith("error: the judge has cost $")
    assert not (tmp_path / "run.json").exists()
    paid, answered = len(server.asked), model.answered
    assert 0 < paid < answered
    charged = sum(json.loads(line)["charge"] for line in (tmp_path / "judge.jsonl").read_text().splitlines())
    assert charged == pytest.approx(1.1 * paid)

    metric = overall(run(column, tmp_path, server, *priced, 1000))
    assert (metric["n"], metric["missing"]) == (answered, 0)
    assert (len(server.asked), model.answered) == (answered, answered)  # nothing was paid for twice


@pytest.mark.parametrize("column", ["vqav2", "mmvet"])
def test_a_failure_of_the_model_is_the_exit_code(model: Mumbling, server: Server, tmp_path: Path, column: str) -> None:
    model.reply = RuntimeError("CUDA error")
    done = run(column, tmp_path, server)
    assert (done.exit_code, done.stdout, type(done.exception)) == (1, "", RuntimeError)


def test_a_column_without_its_data_names_the_command(model: Mumbling, tmp_path: Path) -> None:
    done = call("run", "mmmu", "--suite", "paper", "--data-dir", tmp_path, "--out", tmp_path / "run")
    assert (done.exit_code, done.stdout) == (2, "")
    assert (
        done.stderr
        == f"error: no MMMU in {tmp_path / 'mmmu'}: run `blip3o-bench data fetch mmmu --data-dir {tmp_path}`\n"
    )
