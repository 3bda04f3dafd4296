"""The command line: what goes to which stream, and which exit code a mistake has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from benchmarks import catalog
from benchmarks.judges.chat import Replay
from benchmarks.types import BenchError
from blip3o_bench import main, models
from blip3o_bench.run import _share_cores
from model.train import SavingError
from tests.benchmarks.test_endpoint import serving
from tests.fakes import FakeAnswerer, FakeBenchmark, FakeGenerator
from tests.reports.pairs import simple

ROOT = Path(__file__).parents[1]


def call(*arguments: str | Path | int) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch) -> FakeGenerator:
    """A catalog of two fake benchmarks, and the model that draws for them."""
    model = FakeGenerator()
    for suite in catalog.SUITES:
        monkeypatch.setitem(catalog.BENCHMARKS, (suite, "fake"), lambda data: FakeBenchmark())
        monkeypatch.setitem(catalog.BENCHMARKS, (suite, "questions"), lambda data: questions())
        monkeypatch.setitem(catalog.SUITES, suite, ("fake", "questions"))
    monkeypatch.setattr(models, "load_model", lambda *given: model)
    return model


def questions() -> FakeBenchmark:
    return FakeBenchmark(name="questions", task="answer")


def test_help_needs_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, blip3o_bench\n"
        "try: blip3o_bench.main(['run', '--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "print('heavy:', sorted({'torch', 'numpy', 'PIL', 'tqdm', 'jinja2'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--rescore" in done.stdout
    assert done.stdout.endswith("heavy: []\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["run", "nothing"],
            "unknown benchmark 'nothing' in the suite toy: choose among geneval, dpg, wise",
        ),
        (["run", "--model", "gpt"], "unknown model 'gpt': choose one of blip3o-bench models list"),
        (["run", "--suite", "large"], "Invalid value for '--suite': 'large' is not one of 'toy', 'paper'"),
        (["run", "--limit", "0"], "Invalid value for '--limit': 0 is not in the range x>=1"),
        (["run", "--rescore", "--out", "nowhere"], "cannot read nowhere/spec.json: give the folder of a run"),
        (["run", "--judge", "http://localhost:1/v1"], "name its model with --judge-model"),
        (["run", "--judge", "localhost:1", "--judge-model", "m"], "is no URL"),
        (
            ["run", "--judge", "http://localhost:1/v1", "--judge-model", "m", "--max-judge-cost", "1"],
            "--max-judge-cost needs the judge's prices",
        ),
        (["run", "--max-model-cost", "1"], "--max-model-cost needs --model-prices of openai-chat"),
        (["run", "--steps", "4"], "--steps is for diffusers alone"),
        (["run", "--backend", "vllm"], "--backend vllm is for a stock Qwen2.5-VL alone"),
        (["run", "--model", "oracle", "--answers-together", "2"], "--answers-together is for a BLIP3-o alone"),
        (["run", "--judge-prices", "-1", "2"], "-1.0 is not in the range x>=0"),
        (["run", "--max-judge-cost", "nan"], "nan is not a finite number"),
        (["run", "--judge-model", "m"], "--judge-model, --judge-prices and --max-judge-cost belong to --judge"),
        (["report", "docs/img/report.png"], "cannot read docs/img/report.png: "),
        (["report", "docs/img/report.png", "--json"], "only the summary is printed: give no option"),
        (
            ["run", "dpg", "--suite", "toy", "--model", "folder:x", "--grid", "64"],
            "takes single images: leave --grid out",
        ),
        (["run", "--detector", "here"], "the toy suite has judges of its own"),
        (["run", "--profile", "wise-legacy"], "the toy suite's WISE has its own wording"),
        (["run", "--model", "oracle", "--model-profile", "upstream"], "--model-profile is for a BLIP3-o alone"),
        (["run", "dpg", "--grid", "32"], "--grid tells what the image files of --model folder:DIR are"),
        (["run", "--judge-timeout", "inf"], "inf is not in the range 0<=x<=86400"),
        (["run", "--model-prices", "1", "2"], "--model-prices is for openai-chat alone"),
        (["run", "--model", "openai-chat:http://localhost:1/v1#m", "--image-price", "1"], "is for openai-images alone"),
        (["run", "--judge", "local:nowhere"], "nowhere is neither a folder nor owner/name"),
        (["run", "--profile", "lmms-0.1"], "Invalid value for '--profile'"),
        (["walk"], "No such command 'walk'"),
        (["report", "nowhere"], "nowhere"),
        (["data", "fetch", "nothing"], "unknown data set 'nothing'"),
        (["data", "show", "shapes", "--out", "/dev/null/x.png"], "cannot write /dev/null/x.png: "),
        (["generate", "a star", "--model", "oracle"], "the model oracle reads no prompts"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(arguments: list[str], message: str) -> None:
    done = call(*arguments)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_run_prints_its_scores_and_resumes(tmp_path: Path, generator: FakeGenerator) -> None:
    done = call("run", "fake", "--out", tmp_path)
    assert done.exit_code == 0
    assert "overall" in done.stdout
    assert "fake-official" in done.stdout
    assert done.stderr.splitlines()[:2] == [f"run in {tmp_path}", "fake: predict 12 of 12 samples"]
    assert call("run", "fake", "--out", tmp_path).stdout == done.stdout
    assert len(generator.drawn) == 12


def test_json_is_the_record_and_nothing_else(tmp_path: Path, generator: FakeGenerator) -> None:
    done = call("run", "fake", "--out", tmp_path, "--limit", 4, "--seed", 3, "--json")
    printed = json.loads(done.stdout)
    assert printed == json.loads((tmp_path / "run.json").read_bytes())
    (record,) = printed["records"]
    assert (record["seed"], record["settings"]["limit"], record["metrics"][0]["n"]) == (3, 4, 4)
    assert json.loads(call("report", tmp_path, "--json").stdout) == printed


def test_runs_with_other_options_have_other_folders(
    tmp_path: Path, generator: FakeGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for options in ([], ["--limit", "4"], ["--seed", "1"], ["--model", "oracle"], ["--suite", "paper"]):
        assert call("run", "fake", *options).exit_code == 0
    assert len(list((tmp_path / "runs").iterdir())) == 5


def test_a_model_runs_what_it_can(tmp_path: Path, generator: FakeGenerator) -> None:
    done = call("run", "--model", "folder:images", "--out", tmp_path, "--json")
    assert "cannot do it: questions" in done.stderr
    assert [record["benchmark"] for record in json.loads(done.stdout)["records"]] == ["fake"]
    refused = call("run", "questions", "--model", "folder:images", "--out", tmp_path / "other")
    assert refused.exit_code == 2
    assert refused.stderr == (
        "error: the model folder:images cannot do questions: leave it out or choose another model\n"
    )


def test_only_embedded_models_default_to_the_toy_suite(tmp_path: Path, generator: FakeGenerator) -> None:
    for model, suite in (("blank", "toy"), ("folder:images", "paper")):
        done = call("run", "fake", "--model", model, "--out", tmp_path / suite, "--json")
        assert json.loads(done.stdout)["records"][0]["suite"] == suite


def test_profile_and_judge_reach_the_benchmark(
    tmp_path: Path, generator: FakeGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[catalog.Data] = []

    def factory(data: catalog.Data) -> FakeBenchmark:
        seen.append(data)
        return FakeBenchmark(profile=data.profiles.understanding)

    monkeypatch.setitem(catalog.BENCHMARKS, ("toy", "fake"), factory)
    (tmp_path / "replies.jsonl").write_text('{"key": "a", "text": "1"}\n')
    replay = f"replay:{tmp_path / 'replies.jsonl'}"
    options = ("--profile", "blip3o-0.3.0", "--profile", "wise-own", "--judge", replay, "--judge-runs", 3)
    assert call("run", "fake", "--out", tmp_path / "run", *options).exit_code == 0
    assert seen[0].profiles == catalog.Profiles("blip3o-0.3.0", "dpg-official", "wise-own")
    assert seen[0].judge_runs == 3
    assert seen[0].judge == Replay(tmp_path / "replies.jsonl")
    # A stored run is scored again and reported under its own profile.
    for command in (["run", "--rescore", "--out"], ["export", "--out", tmp_path / "official"]):
        assert call(*command, tmp_path / "run").exit_code == 0
    assert [data.profiles.understanding for data in seen[1:]] == ["blip3o-0.3.0"] * 2
    call("run", "--rescore", "--profile", "lmms-0.7.3", "--out", tmp_path / "run")
    assert seen[-1].profiles.understanding == "lmms-0.7.3"
    two = call("run", "fake", "--profile", "dpg-official", "--profile", "dpg-corrected", "--out", tmp_path / "other")
    assert (two.exit_code, "choose one" in two.stderr) == (2, True)


def test_rescore_needs_no_model(tmp_path: Path, generator: FakeGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    call("run", "fake", "--out", tmp_path)
    strict = FakeBenchmark(threshold=2.0)
    monkeypatch.setitem(catalog.BENCHMARKS, ("toy", "fake"), lambda data: strict)
    monkeypatch.delattr(models, "load_model")
    done = call("run", "--rescore", "--out", tmp_path, "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["records"][0]["metrics"][0]["value"] == 0.0
    assert strict.judged == []
    other = call("run", "--rescore", "--out", tmp_path, "--seed", 1)
    assert other.exit_code == 2
    assert "was run with seed 0, not 1" in other.stderr


def test_one_of_two_processes_says_what_is_missing(
    tmp_path: Path, generator: FakeGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    first = call("run", "fake", "--out", tmp_path)
    assert (first.exit_code, first.stdout) == (0, "")
    assert "6 of 12 samples are missing, such as fake/00000/1" in first.stderr
    report = call("report", tmp_path)
    assert (report.exit_code, report.stdout) == (2, "")
    monkeypatch.setenv("RANK", "1")
    second = call("run", "fake", "--out", tmp_path)
    assert second.stderr.endswith(f"complete: blip3o-bench report {tmp_path}\n")
    assert call("report", tmp_path).exit_code == 0


def test_ctrl_c_exits_with_130(tmp_path: Path, generator: FakeGenerator) -> None:
    generator.crash_after = 3
    done = call("run", "fake", "--out", tmp_path, "--batch-size", 1)
    assert done.exit_code == 130
    assert done.stderr.endswith("interrupted; what is stored is kept, and the same command resumes\n")
    generator.crash_after = None
    assert call("run", "fake", "--out", tmp_path).exit_code == 0
    assert len(generator.drawn) == 12


def test_a_bug_is_no_users_error(tmp_path: Path, generator: FakeGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> FakeAnswerer:
        raise ZeroDivisionError

    monkeypatch.setattr(models, "load_model", broken)
    done = call("run", "fake", "--out", tmp_path)
    assert (done.exit_code, type(done.exception)) == (1, ZeroDivisionError)


@pytest.mark.parametrize(("module", "exit_code"), [("torch", 2), ("torch.gone", 1), ("benchmarks.gone", 1)])
def test_a_package_that_is_not_installed_is_named(
    tmp_path: Path, generator: FakeGenerator, monkeypatch: pytest.MonkeyPatch, module: str, exit_code: int
) -> None:
    def incomplete(*arguments: object) -> FakeAnswerer:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(models, "load_model", incomplete)
    done = call("run", "fake", "--out", tmp_path)
    assert done.exit_code == exit_code
    named = "error: the package torch is not installed: run pip install 'blip3o-bench[all]'\n"
    assert (done.stderr == named) == (exit_code == 2)


def test_a_models_budget_stops_a_run_that_goes_on_with_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(catalog.BENCHMARKS, ("toy", "fake"), lambda data: FakeBenchmark(groups=2))
    monkeypatch.setitem(catalog.SUITES, "toy", ("fake",))
    with serving() as server:
        model = ("--suite", "toy", "--model", f"openai-images:{server.address}", "--batch-size", 2, "--out", tmp_path)
        stopped = call("run", *model, "--image-price", 1, "--max-model-cost", 3)
        assert (stopped.exit_code, stopped.stdout, len(server.asked)) == (2, "", 2)
        assert "raise --max-model-cost" in stopped.stderr
        done = call("run", *model, "--image-price", 1, "--max-model-cost", 4)
        assert (done.exit_code, len(server.asked)) == (0, 4)
    assert done.stderr.endswith("model: 4 replies, 0 + 0 tokens, 4.00 US dollars at most\n")


def test_report_writes_a_page(tmp_path: Path, generator: FakeGenerator) -> None:
    call("run", "fake", "--out", tmp_path)
    done = call("report", tmp_path, "--html")
    assert done.exit_code == 0
    assert "prompt 0" in (tmp_path / "report.html").read_text()


def test_a_report_without_the_data_has_no_prompts(
    tmp_path: Path, generator: FakeGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    call("run", "fake", "--out", tmp_path)

    def absent(data: catalog.Data) -> FakeBenchmark:
        raise BenchError("not fetched")

    monkeypatch.setitem(catalog.BENCHMARKS, ("toy", "fake"), absent)
    done = call("report", tmp_path, "--html")
    assert done.exit_code == 0
    assert "examples of fake come without their prompts: not fetched" in done.stderr


def test_processes_of_torchrun_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.environment.usable_cores", lambda: 16)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    _share_cores()
    assert os.environ["OMP_NUM_THREADS"] == "7"
    monkeypatch.delenv("OMP_NUM_THREADS")
    _share_cores()
    assert os.environ["OMP_NUM_THREADS"] == "5"


def test_generate_draws_one_image_per_prompt(tmp_path: Path, generator: FakeGenerator) -> None:
    done = call("generate", "a star", "a ring", "--out", tmp_path, "--seed", 1)
    assert done.stdout.split() == [str(tmp_path / "00000.png"), str(tmp_path / "00001.png")]
    first = (tmp_path / "00000.png").read_bytes()
    assert first != (tmp_path / "00001.png").read_bytes()
    call("generate", "a star", "--out", tmp_path, "--seed", 1)
    assert (tmp_path / "00000.png").read_bytes() == first


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FloatingPointError("the gradient was not finite"), "the gradient was not finite"),
        (OSError(28, "No space left on device", "runs/x"), "runs/x: No space left on device; mend that"),
        (SavingError("cannot save into runs/x: enforce fail"), "cannot save into runs/x: enforce fail; mend that"),
        (OSError("Traceback ...\nOSError: [Errno 5] Input/output error: 'a.tar'"), "OSError: [Errno 5] Input/output"),
    ],
)
def test_training_that_cannot_go_on_is_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception, said: str) -> None:
    def stopped(recipe: Path, work: Path | None) -> None:
        raise error

    monkeypatch.setattr("model.train.main", stopped)
    done = call("train", "recipe.toml")
    assert done.exit_code == 2
    assert done.stderr.startswith(f"error: {said}")
    assert done.stderr.count("\n") == 1


def test_an_image_bomb_is_not_drawn_again(
    tmp_path: Path, generator: FakeGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (20, 20)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    done = call("generate", "--image", tmp_path / "bomb.png", "--out", tmp_path)
    assert done.exit_code == 2
    assert done.stderr.startswith("error: not a readable image: ")
    assert done.stderr.count("\n") == 1


def test_verify_of_an_unknown_suite_is_one_line_and_exit_code_1(tmp_path: Path, generator: FakeGenerator) -> None:
    call("run", "geneval", "--limit", 4, "--out", tmp_path)
    spec = json.loads((tmp_path / "spec.json").read_bytes())
    (tmp_path / "spec.json").write_text(json.dumps({**spec, "suite": "other"}))
    done = call("verify", tmp_path)
    assert done.exit_code == 1
    assert "run.json: geneval.suite is 'toy', the run gives 'other'" in done.stdout
    assert "unknown suite 'other'" in done.stderr


def test_the_contact_sheet_shows_every_tag(tmp_path: Path) -> None:
    done = call("data", "show", "shapes", "--out", tmp_path / "sheet.png", "--columns", 2)
    assert (done.exit_code, done.stdout) == (0, f"{tmp_path / 'sheet.png'}\n")
    with Image.open(tmp_path / "sheet.png") as sheet:
        tile, gap, heading, label = 160, 16, 26, 44
        assert sheet.width == 2 * (tile + gap) + gap
        for row in range(6):
            top = row * (heading + tile + label)
            shapes = sheet.crop((gap, top + heading, gap + tile, top + heading + tile)).getcolors(tile * tile)
            prompt = sheet.crop((gap, top + heading + tile, gap + tile, top + heading + tile + 24)).convert("L")
            assert shapes is not None
            assert len(shapes) > 5
            assert sum(prompt.histogram()[:60]) > 20  # dark pixels of letters


def test_data_list_says_what_is_not_fetched(tmp_path: Path) -> None:
    done = call("data", "list", "--data-dir", tmp_path)
    assert done.exit_code == 0
    folder, *lines = done.stdout.splitlines()
    assert folder == f"in {tmp_path}"
    (line,) = (line for line in lines if line.startswith("geneval "))
    assert line.endswith(f"not fetched: blip3o-bench data fetch geneval --data-dir {tmp_path}")
    every = call("data", "verify", "--data-dir", tmp_path)
    assert every.exit_code == 0
    assert "geneval is not fetched\n" in every.stderr
    absent = call("data", "verify", "geneval", "--data-dir", tmp_path)
    assert absent.exit_code == 2
    assert "blip3o-bench data fetch geneval" in absent.stderr


def test_an_official_results_file_is_reported_with_its_summary_and_intervals(tmp_path: Path) -> None:
    row = {
        "filename": "00000/samples/00000.png",
        "tag": "counting",
        "prompt": "two dogs",
        "reason": "",
        "details": "{}",
    }
    lines = [json.dumps({**row, "metadata": str(i // 4), "correct": i % 4 == 0}) for i in range(80)]
    (tmp_path / "results.jsonl").write_text("\n".join(lines) + "\n")
    done = call("report", tmp_path / "results.jsonl")
    assert done.exit_code == 0
    assert "% correct images: 25.00%" in done.stdout
    assert "% correct prompts: 100.00%" in done.stdout
    assert "counting       0.250  " in done.stdout
    (tmp_path / "other.jsonl").write_text("{}\n")
    wrong = call("report", tmp_path / "other.jsonl")
    assert (wrong.exit_code, "line 1 is not a line of GenEval" in wrong.stderr) == (2, True)


def test_a_summary_that_cannot_be_written_does_not_end_as_worse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = simple(tmp_path / "run", [1.0, 0.0] * 400)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    assert call("gate", run, "--baseline", run).exit_code == 0
    assert call("gate", run, "--baseline", run).exit_code == 0
    assert (tmp_path / "summary.md").read_text().count("realworldqa") == 2  # appended
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "/dev/null/summary.md")
    done = call("gate", run, "--baseline", run)
    assert done.exit_code == 2
    assert done.stderr.startswith("error: cannot write /dev/null/summary.md")


def test_a_fault_of_the_gate_itself_does_not_end_as_worse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr("reports.gate.gate", broken)
    done = call("gate", tmp_path, "--baseline", tmp_path)
    assert done.exit_code == 2
    assert "RuntimeError: a fault of ours" in done.stderr
