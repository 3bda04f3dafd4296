"""`blip3o-bench verify` finds what was changed in a stored run, and names it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from benchmarks import catalog, runner, store
from benchmarks.predicting import seed_for
from benchmarks.types import BenchError
from benchmarks.verify import verify
from benchmarks.work import Part, Settings
from blip3o_bench import main
from tests.fakes import FakeAnswerer, FakeBenchmark, FakeGenerator

SETTINGS = Settings(suite="toy", batch_size=4)


def make(root: Path) -> None:
    runner.run(root, [FakeBenchmark()], FakeGenerator(), SETTINGS, Part())


def differences(root: Path, benchmark: FakeBenchmark | None = None) -> list[str]:
    return [str(one) for one in verify(root, {"fake": benchmark or FakeBenchmark()}).differences]


def edit_json(path: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(path.read_bytes())
    change(content)
    path.write_text(json.dumps(content))


def edit_line(path: Path, number: int, change: Callable[[dict[str, Any]], object]) -> None:
    lines = path.read_text().splitlines()
    row = json.loads(lines[number])
    change(row)
    lines[number] = json.dumps(row, sort_keys=True)
    path.write_text("\n".join(lines) + "\n")


def test_a_run_that_nobody_touched_has_no_difference(tmp_path: Path) -> None:
    make(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    found = verify(tmp_path, {"fake": FakeBenchmark()})
    assert (found.samples, found.differences) == (12, ())
    assert found.left_out == ("the model's weights: name their folder with --weights",)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_failures_and_several_processes_are_no_difference(tmp_path: Path) -> None:
    benchmark = FakeBenchmark(refuse={"fake/00002/1"})
    model = FakeGenerator(fails={"fake/00001/0": RuntimeError("too dark")})
    for rank in range(2):
        runner.run(tmp_path, [benchmark], model, SETTINGS, Part(rank, 2))
    assert differences(tmp_path) == []


def test_a_replaced_image_is_named(tmp_path: Path) -> None:
    make(tmp_path)
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "fake/images/fake/00003/1.png")
    (found,) = differences(tmp_path)
    assert found.startswith("fake/images/fake/00003/1.png: fake/00003/1: has sha256 ")


def test_a_lost_and_an_added_image_are_named(tmp_path: Path) -> None:
    make(tmp_path)
    images = tmp_path / "fake/images/fake/00003"
    (images / "1.png").rename(images / "7.png")
    assert differences(tmp_path) == [
        "fake/images/fake/00003/1.png: fake/00003/1: is not there",
        "fake/images/fake/00003/7.png: belongs to no prediction",
    ]


def test_an_edited_score_is_named(tmp_path: Path) -> None:
    make(tmp_path)
    scores = store.read_scores(tmp_path / "fake")
    store.write_scores(tmp_path / "fake", [replace(scores[0], value=0.5), *scores[2:]])
    assert differences(tmp_path) == [
        f"fake/scores.jsonl: fake/00000/0: value is 0.5, its verdict gives {scores[0].value}",
        "fake/scores.jsonl: fake/00000/1: has no score",
    ]


def test_a_score_that_is_there_twice_and_another_order_are_named(tmp_path: Path) -> None:
    make(tmp_path)
    scores = store.read_scores(tmp_path / "fake")
    store.write_scores(tmp_path / "fake", [replace(scores[0], value=0.5), *scores])
    assert differences(tmp_path) == ["fake/scores.jsonl: fake/00000/0: is there 2 times"]
    store.write_scores(tmp_path / "fake", [scores[1], scores[0], *scores[2:]])
    assert differences(tmp_path) == ["fake/scores.jsonl: the scores are in another order than the samples"]


def test_a_metric_or_record_that_is_there_twice_is_named(tmp_path: Path) -> None:
    make(tmp_path)
    whole = (tmp_path / "run.json").read_bytes()
    edit_json(tmp_path / "run.json", lambda content: content["records"][0]["metrics"].insert(0, _better(content)))
    assert differences(tmp_path) == ["run.json: fake.metrics.overall: is there 2 times"]
    (tmp_path / "run.json").write_bytes(whole)
    edit_json(tmp_path / "run.json", lambda content: content["records"].insert(0, content["records"][0]))
    assert differences(tmp_path) == ["run.json: fake: is there 2 times"]


def _better(content: Any) -> Any:
    return {**content["records"][0]["metrics"][0], "value": 0.99}


def test_parts_of_a_score_are_compared_where_the_run_has_them(tmp_path: Path) -> None:
    class Parted(FakeBenchmark):
        def summarize(self, *arguments: Any) -> Any:
            scores, metrics = super().summarize(*arguments)
            return [replace(score, parts={"color": (0.25, 1)}) for score in scores], metrics

    runner.run(tmp_path, [Parted()], FakeGenerator(), SETTINGS, Part())
    assert differences(tmp_path, Parted()) == []
    scores = store.read_scores(tmp_path / "fake")
    store.write_scores(tmp_path / "fake", [replace(scores[0], parts={"color": [0.9, 1]}), *scores[1:]])
    assert differences(tmp_path, Parted()) == [
        "fake/scores.jsonl: fake/00000/0: parts is {'color': [0.9, 1]}, its verdict gives {'color': (0.25, 1)}"
    ]
    store.write_scores(tmp_path / "fake", [replace(score, parts={}) for score in scores])
    assert differences(tmp_path, Parted()) == []


def test_an_edited_verdict_is_named_even_if_no_score_changes(tmp_path: Path) -> None:
    make(tmp_path)
    shard = tmp_path / "fake/verdicts/rank00000.jsonl"
    high = next(
        i for i, line in enumerate(shard.read_text().splitlines()) if json.loads(line)["finding"]["value"] > 0.6
    )
    sample = json.loads(shard.read_text().splitlines()[high])["id"]
    edit_line(shard, high, lambda row: row["finding"].update(value=0.55))
    said = f"fake/verdicts/rank00000.jsonl: {sample}: line {high + 1} is not as it was written"
    assert differences(tmp_path) == [said]
    edit_line(shard, high, lambda row: row["finding"].update(value=0.1))
    assert differences(tmp_path)[:2] == [
        said,
        f"fake/scores.jsonl: {sample}: value is 1.0, its verdict gives 0.0",
    ]
    edit_line(shard, high, lambda row: row.pop("check"))
    assert differences(tmp_path)[0] == said
    edit_line(shard, high, lambda row: row.update(finding={}))
    assert "fake/verdicts: the rule cannot read them: KeyError('value')" in differences(tmp_path)
    shard.write_bytes(shard.read_bytes().replace(b'"finding"', b'"found"', 1))
    assert "line 1 is damaged" in differences(tmp_path)[-1]


def test_an_edited_answer_is_named(tmp_path: Path) -> None:
    runner.run(tmp_path, [FakeBenchmark(task="answer")], FakeAnswerer(), SETTINGS, Part())
    shard = tmp_path / "fake/predictions/rank00000.jsonl"
    edit_line(shard, 4, lambda row: row.update(text="1.0"))
    assert differences(tmp_path, FakeBenchmark(task="answer")) == [
        "fake/predictions/rank00000.jsonl: fake/00002/0: line 5 is not as it was written",
        "fake/predictions: fake/00002/0: the text has another sha256 than its own",
    ]


def test_what_was_left_out_or_put_in_is_counted(tmp_path: Path) -> None:
    make(tmp_path)
    for kind, line in (("predictions", 2), ("verdicts", 5)):
        shard = tmp_path / f"fake/{kind}/rank00000.jsonl"
        lines = shard.read_bytes().splitlines(keepends=True)
        shard.write_bytes(b"".join(lines[:line] + lines[line + 1 :]))
    assert differences(tmp_path) == [
        "fake/images/fake/00001/0.png: belongs to no prediction",
        "fake/predictions: fake/00001/0: has no prediction",
        "fake/verdicts: fake/00002/1: has no verdict",
    ]
    make(tmp_path / "longer")
    shorter = differences(tmp_path / "longer", FakeBenchmark(groups=5))
    assert "fake/predictions: fake/00005/0: no such sample belongs to the run" in shorter
    assert "fake/scores.jsonl: fake/00005/1: no such sample belongs to the run" in shorter


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r["metrics"][0].update(value=0.99), "fake.metrics.overall.value is 0.99, the run gives "),
        (lambda r: r["metrics"][0].update(missing=1), "fake.metrics.overall.missing is 1, the run gives 0"),
        (lambda r: r["model"].update(digest="1"), "fake.model.digest is '1', the run gives '0'"),
        (lambda r: r["data"].update(groups=7), "fake.data.groups is 7, the run gives 6"),
        (lambda r: r["packages"].update(numpy="9"), "fake.packages.numpy is '9', the run gives "),
        (lambda r: r["hardware"].pop("cpu"), "fake.hardware.cpu is None, the run gives "),
        (lambda r: r.update(profile="strict"), "fake.profile is 'strict', the run gives 'fake-official'"),
    ],
)
def test_an_edited_record_is_named(tmp_path: Path, change: Callable[[Any], object], said: str) -> None:
    make(tmp_path)
    edit_json(tmp_path / "run.json", lambda content: change(content["records"][0]))
    (found,) = differences(tmp_path)
    assert found.startswith(f"run.json: {said}")


def test_an_edited_spec_is_named(tmp_path: Path) -> None:
    make(tmp_path)
    edit_json(tmp_path / "spec.json", lambda content: content.update(seed=1))
    found = differences(tmp_path)
    assert f"fake/predictions: fake/00000/0: seed {seed_for(0, 'fake/00000/0')} is not of this run" in found
    assert "run.json: fake.seed is 0, the run gives 1" in found


def test_digests_of_data_judge_and_weights_are_compared_with_what_is_here(tmp_path: Path) -> None:
    class Digested(FakeBenchmark):
        weights = "judge a"

        def describe(self) -> dict[str, Any]:
            return {"data": {"sha256": "data a", "rows": 1}}

        def describe_judge(self) -> dict[str, Any]:
            if not self.weights:
                raise BenchError("judge weights are not there")
            return {"weights_sha256": self.weights, "chat": None}

    class Weighty(FakeGenerator):
        def describe(self) -> dict[str, Any]:
            return {"name": "fake", "sha256": "weights a"}

    runner.run(tmp_path, [Digested()], Weighty(), SETTINGS, Part())
    assert verify(tmp_path, {"fake": Digested()}, "weights a").differences == ()
    other = Digested()
    other.weights = "judge b"
    found = verify(tmp_path, {"fake": other}, "weights b")
    assert [str(one) for one in found.differences] == [
        "spec.json: model.sha256 is weights a, the weights here have weights b",
        "spec.json: benchmarks.fake.judge.weights_sha256 is judge a, what is here has judge b",
    ]
    other.weights = ""
    assert verify(tmp_path, {"fake": other}, "weights a").left_out == (
        "data and judge of fake: judge weights are not there",
    )


def test_a_benchmark_that_cannot_be_loaded_is_left_out_and_its_files_are_still_checked(tmp_path: Path) -> None:
    make(tmp_path)
    found = verify(tmp_path, {"fake": BenchError("not fetched")})
    assert found.differences == ()
    assert "scores and data of fake: not fetched" in found.left_out
    whole = (tmp_path / "spec.json").read_bytes()
    edit_json(tmp_path / "spec.json", lambda content: content.update(suite="paper"))
    assert [str(one) for one in verify(tmp_path, {"fake": BenchError("not fetched")}).differences] == [
        "run.json: fake.suite is 'toy', the run gives 'paper'"
    ]
    (tmp_path / "spec.json").write_bytes(whole)
    (tmp_path / "fake/images/fake/00003/1.png").unlink()
    assert len(verify(tmp_path, {"fake": BenchError("not fetched")}).differences) == 1


def test_a_run_of_an_older_version_has_no_checks_and_is_read(tmp_path: Path) -> None:
    make(tmp_path)
    for kind in ("predictions", "verdicts"):
        shard = tmp_path / f"fake/{kind}/rank00000.jsonl"
        for line in range(12):
            edit_line(shard, line, lambda row: row.pop("check"))
    edit_json(tmp_path / "spec.json", lambda content: [content["environment"].pop(key) for key in ("also", "rejudged")])
    assert differences(tmp_path) == []


def test_an_incomplete_run_is_a_difference(tmp_path: Path) -> None:
    runner.run(tmp_path, [FakeBenchmark()], FakeGenerator(), SETTINGS, Part(0, 2))
    found = differences(tmp_path)
    assert found[0].startswith("run.json: ")
    assert "holds no complete run" in found[0]
    assert sum("has no prediction" in one for one in found) == 6


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setitem(catalog.BENCHMARKS, ("toy", "fake"), lambda data: FakeBenchmark())
    monkeypatch.setitem(catalog.SUITES, "toy", ("fake",))
    return lambda *arguments: CliRunner().invoke(main, ["verify", *map(str, arguments)])


def test_the_command_exits_with_0_or_1(tmp_path: Path, command: Callable[..., Result]) -> None:
    make(tmp_path)
    done = command(tmp_path)
    assert (done.exit_code, done.stdout) == (0, f"{tmp_path}: 12 predictions of fake: nothing differs\n")
    assert done.stderr == "not checked: the model's weights: name their folder with --weights\n"
    (tmp_path / "fake/images/fake/00003/1.png").unlink()
    done = command(tmp_path)
    assert done.exit_code == 1
    assert done.stdout.splitlines() == [
        "fake/images/fake/00003/1.png: fake/00003/1: is not there",
        f"{tmp_path}: 12 predictions of fake: differences: 1",
    ]


def test_the_command_compares_the_weights_in_a_folder(tmp_path: Path, command: Callable[..., Result]) -> None:
    from model import checkpoint

    class Weighty(FakeGenerator):
        def describe(self) -> dict[str, Any]:
            return {"name": "fake", "sha256": checkpoint.digest(tmp_path / "weights")}

    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model.safetensors").write_bytes(b"1")
    runner.run(tmp_path / "run", [FakeBenchmark()], Weighty(), SETTINGS, Part())
    done = command(tmp_path / "run", "--weights", tmp_path / "weights")
    assert (done.exit_code, done.stderr) == (0, "")
    (tmp_path / "weights" / "model.safetensors").write_bytes(b"2")
    done = command(tmp_path / "run", "--weights", tmp_path / "weights")
    assert done.exit_code == 1
    assert done.stdout.startswith("spec.json: model.sha256 is ")


def test_what_is_no_run_is_a_users_error(tmp_path: Path, command: Callable[..., Result]) -> None:
    assert (command(tmp_path).exit_code, command(tmp_path).stdout) == (2, "")
    make(tmp_path)
    assert "is not a folder" in command(tmp_path, "--weights", tmp_path / "nowhere").stderr
