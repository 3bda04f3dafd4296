"""Generation, judging and scoring alone, on machines that have nothing but what they need."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from benchmarks import catalog, environment, runner, store
from benchmarks.rewrite import Rewritten
from benchmarks.spec import read_spec
from benchmarks.types import BenchError, Json, Sample, Verdict
from benchmarks.work import Part, Settings
from blip3o_bench import main, models
from tests.fakes import FakeBenchmark, FakeGenerator

SETTINGS = Settings(suite="toy", batch_size=4)
ALONE = Part()
ROOT = Path(__file__).parents[1]


@dataclass
class Weighty(FakeBenchmark):
    """Its judge can be described where its weights are: ``weights`` is their digest, "" where there are none."""

    weights: str = "a"

    def describe(self) -> Mapping[str, Json]:
        return {"data": {"groups": self.groups}}

    def describe_judge(self) -> Json:
        if not self.weights:
            raise BenchError("judge weights are not there")
        return {"weights_sha256": self.weights}


def pair(weights: str = "a") -> list[Weighty]:
    return [Weighty(weights=weights), Weighty(name="other", weights=weights)]


def content(root: Path) -> dict[str, bytes]:
    """What must be the same however the stages were divided."""
    spec = json.loads((root / "spec.json").read_bytes())
    del spec["environment"]["started"]
    files = {name: (root / name).read_bytes() for name in ("run.json", "fake/scores.jsonl", "other/scores.jsonl")}
    return {**files, "spec.json": json.dumps(spec).encode()}


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    root = tmp_path_factory.mktemp("together")
    assert runner.run(root, pair(), FakeGenerator(), SETTINGS, ALONE) is not None
    return content(root)


@pytest.mark.parametrize("world", [1, 3])
def test_three_stages_give_the_bytes_of_one(tmp_path: Path, together: dict[str, bytes], world: int) -> None:
    ranks = [Part(rank, world) for rank in range(world)]
    left = [runner.generate(tmp_path, pair(weights=""), FakeGenerator(), SETTINGS, part) for part in ranks]
    assert left == ([0] if world == 1 else [16, 8, 0])
    assert all("judge" not in one for one in read_spec(tmp_path)[0].benchmarks.values())
    benchmarks = pair()
    left = [runner.judge(tmp_path, benchmarks, 4, part) for part in ranks]
    assert left == ([0] if world == 1 else [16, 8, 0])
    assert [len(benchmark.judged) for benchmark in benchmarks] == [12, 12]
    runner.score(tmp_path, pair(weights=""))
    assert content(tmp_path) == together


def test_a_whole_run_finishes_what_a_stage_began_and_a_stage_what_it_left(
    tmp_path: Path, together: dict[str, bytes]
) -> None:
    runner.generate(tmp_path / "a", pair(weights=""), FakeGenerator(), SETTINGS, ALONE)
    again = FakeGenerator()
    runner.run(tmp_path / "a", pair(), again, SETTINGS, ALONE)
    assert (again.drawn, content(tmp_path / "a")) == ([], together)
    with pytest.raises(KeyboardInterrupt):
        runner.run(tmp_path / "b", pair(), FakeGenerator(crash_after=6), SETTINGS, ALONE)
    runner.generate(tmp_path / "b", pair(weights=""), again, SETTINGS, ALONE)
    assert len(again.drawn) == 24 - 4
    runner.judge(tmp_path / "b", pair(), 4, ALONE)
    runner.score(tmp_path / "b", pair())
    assert content(tmp_path / "b") == together


def test_benchmarks_may_be_judged_on_different_machines(tmp_path: Path, together: dict[str, bytes]) -> None:
    runner.generate(tmp_path, pair(weights=""), FakeGenerator(), SETTINGS, ALONE)
    for one in reversed(pair()):
        assert runner.judge(tmp_path, [one], 4, ALONE) == 0
    runner.score(tmp_path, pair())
    assert content(tmp_path) == together


def test_a_stage_that_is_not_complete_says_how_many_are_missing(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"cannot read .*spec\.json"):
        runner.judge(tmp_path, pair(), 4, ALONE)
    runner.generate(tmp_path, pair(), FakeGenerator(), SETTINGS, Part(0, 2))
    missing = r"no prediction yet \(6 of fake, 6 of other\), such as fake/00000/1: finish --stage generate first"
    with pytest.raises(BenchError, match=missing):
        runner.judge(tmp_path, pair(), 4, ALONE)
    with pytest.raises(BenchError, match=missing):
        runner.score(tmp_path, pair())
    assert "judge" not in read_spec(tmp_path)[0].benchmarks["fake"]
    runner.generate(tmp_path, pair(), FakeGenerator(), SETTINGS, Part(1, 2))
    runner.judge(tmp_path, pair(), 4, Part(1, 2))
    with pytest.raises(
        BenchError, match=r"not judged yet \(6 of fake, 6 of other\), such as fake/00000/0: .*judge first"
    ):
        runner.score(tmp_path, pair())


def test_what_failed_is_missing_in_the_record_and_tried_again_by_its_stage(
    tmp_path: Path, together: dict[str, bytes]
) -> None:
    failing = FakeGenerator(fails={"fake/00001/0": RuntimeError("too dark")})
    assert runner.generate(tmp_path, pair(), failing, SETTINGS, ALONE) == 0
    refusing = [Weighty(refuse={"fake/00002/1"}), Weighty(name="other")]
    assert runner.judge(tmp_path, refusing, 4, ALONE) == 0
    metric = runner.score(tmp_path, pair())[0].metrics[0]
    assert (metric.n, metric.missing) == (10, 2)
    runner.generate(tmp_path, pair(), FakeGenerator(), SETTINGS, ALONE)
    with pytest.raises(BenchError, match=r"\(1 of fake\), such as fake/00001/0"):
        runner.score(tmp_path, pair())
    runner.judge(tmp_path, pair(), 4, ALONE)
    runner.score(tmp_path, pair())
    assert content(tmp_path) == together


def test_another_judge_or_rule_may_not_enter(tmp_path: Path) -> None:
    runner.generate(tmp_path, pair(), FakeGenerator(), SETTINGS, ALONE)
    runner.judge(tmp_path, pair(), 4, ALONE)
    with pytest.raises(BenchError, match=r'judge\.weights_sha256 is "a" there and "b" here'):
        runner.judge(tmp_path, pair(weights="b"), 4, ALONE)
    with pytest.raises(BenchError, match=r"data\.groups is 6 there and 5 here"):
        runner.judge(tmp_path, [Weighty(groups=5)], 4, ALONE)
    with pytest.raises(
        BenchError, match=r"profile fake-official, not 1, strict: to score it by these rules is --rescore"
    ):
        runner.score(tmp_path, [Weighty(profile="strict"), Weighty(name="other")])


def test_rewritten_prompts_are_the_models_affair(tmp_path: Path) -> None:
    new = tmp_path / "new.json"
    new.write_text(json.dumps({f"prompt {i}": f"a better prompt {i}" for i in range(6)}))
    rewritten = Rewritten(Weighty(), new)
    runner.generate(tmp_path / "run", [rewritten], FakeGenerator(), SETTINGS, ALONE)
    runner.judge(tmp_path / "run", [Weighty()], 4, ALONE)
    (record,) = runner.score(tmp_path / "run", [Weighty()])
    assert record.settings["rewrite"]["changed"] == 6
    assert record.judge == {"weights_sha256": "a"}
    assert runner.run(tmp_path / "run", [rewritten], FakeGenerator(), SETTINGS, ALONE) == [record]


def test_the_record_names_the_machine_that_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = environment.current()
    runner.generate(tmp_path, pair(), FakeGenerator(), SETTINGS, ALONE)
    there = replace(here, packages={"mmdet": "3.3.0"}, hardware={**here.hardware, "gpus": ["H100"]})
    monkeypatch.setattr(environment, "current", lambda: there)
    runner.judge(tmp_path, pair(), 4, ALONE)
    record = runner.score(tmp_path, pair())[0]
    assert record.packages == here.packages
    assert record.code["also"] == [
        {"stage": "judge", "code": there.code, "packages": there.packages, "hardware": there.hardware}
    ]


# The command line


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> FakeGenerator:
    """A catalog of two benchmarks whose judge has no weights here, and the model that draws for them."""
    model = FakeGenerator()
    monkeypatch.setattr(models, "load_model", lambda *given: model)
    monkeypatch.setitem(catalog.SUITES, "toy", ("fake", "other"))
    weights(monkeypatch, "")
    return model


def weights(monkeypatch: pytest.MonkeyPatch, digest: str) -> None:
    fake, other = pair(digest)
    monkeypatch.setitem(catalog.BENCHMARKS, ("toy", "fake"), lambda data: fake)
    monkeypatch.setitem(catalog.BENCHMARKS, ("toy", "other"), lambda data: other)


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["run", *map(str, arguments)])


def test_each_stage_is_a_command(tmp_path: Path, fakes: FakeGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    out = ("--out", tmp_path)
    refused = call("--stage", "judge", *out)
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
    done = call("--stage", "generate", *out)
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr.endswith("all predictions are there; what follows is --stage judge\n")
    monkeypatch.delattr(models, "load_model")
    refused = call("--stage", "judge", *out)
    assert (refused.exit_code, refused.stderr.splitlines()[:2]) == (
        2,
        ["fake: judge weights are not there", "other: judge weights are not there"],
    )
    weights(monkeypatch, "a")
    refused = call("--stage", "score", *out)
    assert refused.exit_code == 2
    assert "samples are not judged yet (12 of fake, 12 of other), such as fake/00000/0" in refused.stderr
    assert call("other", "--stage", "judge", *out).exit_code == 0
    assert call("fake", "--stage", "judge", *out).stderr.endswith("what follows is --stage score\n")
    weights(monkeypatch, "")
    done = call("--stage", "score", *out, "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout) == json.loads((tmp_path / "run.json").read_bytes())


def test_another_judge_is_for_the_benchmarks_named(
    tmp_path: Path, fakes: FakeGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = ("--out", tmp_path)
    weights(monkeypatch, "first")
    assert call(*out).exit_code == 0
    unnamed = call("--rejudge", *out)
    assert "name the judge that --rejudge brings" in unnamed.stderr
    weights(monkeypatch, "")
    refused = call("other", "--rejudge", *out)
    assert (refused.exit_code, refused.stderr) == (2, "error: judge weights are not there\n")
    assert (tmp_path / "run.json").is_file()  # nothing was put aside for a judge that is not ready
    weights(monkeypatch, "second")
    assert call("other", "--rejudge", *out).exit_code == 0
    told = {record.benchmark: record.judge for record in store.read_records(tmp_path)}
    assert told["fake"] != told["other"]
    assert not (tmp_path / "fake" / "verdicts-1").exists()
    assert (tmp_path / "other" / "verdicts-1").is_dir()


def test_verdicts_that_are_errors_are_counted(
    tmp_path: Path, fakes: FakeGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights(monkeypatch, "a")
    assert call("--stage", "generate", "--out", tmp_path).exit_code == 0

    def silent(self: object, samples: Sequence[Sample], *_: object) -> list[Verdict]:
        return [Verdict(sample.id, error="no answer") for sample in samples]

    monkeypatch.setattr(type(pair("a")[0]), "judge", silent)
    done = call("fake", "--stage", "judge", "--out", tmp_path)
    assert "fake: 12 verdicts are errors, to be tried again by this command: no answer" in done.stderr


def test_a_process_of_several_says_what_is_missing_of_its_stage(
    tmp_path: Path, fakes: FakeGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    done = call("--stage", "generate", "--out", tmp_path)
    assert done.exit_code == 0
    assert done.stderr.endswith(
        "12 predictions are missing; wait for the other processes, or start the command again\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--stage", "judge", "--rejudge"), "exclude each other"),
        (("--stage", "score", "--rescore"), "exclude each other"),
        (("nothing", "--stage", "judge"), "has no nothing: choose among fake, other"),
        (("fake", "--stage", "score"), "was run with benchmarks ['fake', 'other'], not ['fake']"),
        (("--stage", "judge", "--seed", "1"), "was run with seed 0, not 1"),
        (("--stage", "judge", "--rewrite", "pyproject.toml"), "leave --rewrite out"),
    ],
)
def test_a_users_mistake_is_one_line(
    tmp_path: Path, fakes: FakeGenerator, arguments: tuple[str, ...], message: str
) -> None:
    assert call("--stage", "generate", "--out", tmp_path).exit_code == 0
    refused = call(*arguments, "--out", tmp_path)
    assert (refused.exit_code, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
    assert message in refused.stderr


# Without the packages of the other stages

JUDGES = ("mmdet", "mmcv", "mmengine", "open_clip", "cleanfid", "transformers", "torch")


def without(packages: tuple[str, ...], *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command where these packages are not installed."""
    code = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({packages!r}))\n"
        "import blip3o_bench\n"
        "blip3o_bench.main(sys.argv[1:])"
    )
    return subprocess.run(
        [sys.executable, "-c", code, "run", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_drawing_needs_no_package_of_a_judge(tmp_path: Path) -> None:
    names = ("geneval", "dpg", "wise", "mjhq")
    options = ("--model", "oracle", "--limit", "2", "--out", tmp_path)
    done = without(JUDGES, *names, *options, "--stage", "generate")
    assert done.returncode == 0, done.stderr
    spec, _ = read_spec(tmp_path)
    assert {name: "judge" in spec.benchmarks[name] for name in names} == dict.fromkeys(names, False)


@pytest.mark.slow
def test_judging_needs_no_model_and_scoring_no_judge(tmp_path: Path) -> None:
    """MJHQ-30K is not among them: its score compares with features of the references, which its network makes."""
    names = ("geneval", "dpg", "wise")
    options = ("--model", "oracle", "--limit", "4", "--out")
    apart, together = tmp_path / "apart", tmp_path / "together"
    assert without(JUDGES, *names, *options, apart, "--stage", "generate").returncode == 0
    judged = without(("model", "diffusers"), *names, "--out", apart, "--stage", "judge")
    assert judged.returncode == 0, judged.stderr
    scored = without(("model", *JUDGES), "--out", apart, "--stage", "score")
    assert scored.returncode == 0, scored.stderr
    whole = without((), *names, *options, together)
    assert scored.stdout == whole.stdout
    for file in ("run.json", *(f"{name}/scores.jsonl" for name in names)):
        assert (apart / file).read_bytes() == (together / file).read_bytes()
