"""The tools that make and examine the embedded model: their commands, on tiny models and stored runs."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from safetensors.torch import load_file

import blip3o_toy
from benchmarks.types import BenchError
from blip3o_bench.models import TOY_CHECKPOINT
from model import cards
from model.checkpoint import digest
from model.held_out import Measured
from tests.model import tiny
from tests.reports.stored import record, store_run

ROOT = Path(__file__).parents[1]


def call(*arguments: str | Path | int) -> Result:
    return CliRunner().invoke(blip3o_toy.main, [str(argument) for argument in arguments])


def test_every_command_has_help() -> None:
    assert set(blip3o_toy.main.commands) == {"study-design", "sensitivity", "contact-sheet", "cards", "retrain"}
    for name in blip3o_toy.main.commands:
        assert call(name, "--help").exit_code == 0


def test_every_committed_recipe_has_its_place() -> None:
    assert sorted(path.stem for path in blip3o_toy.RECIPES.glob("*.toml")) == sorted(
        blip3o_toy._order(blip3o_toy.RECIPES)
    )


@pytest.fixture
def recipes(tmp_path: Path) -> Path:
    """Recipes of the committed names for one step of a model of a few thousand numbers."""
    folder = tmp_path / "recipes"
    folder.mkdir()
    for part in tiny.PARTS:
        (folder / f"{part}.toml").write_text(tiny.toml(tiny.recipe(part, Path("model/toy"))))
    second = tiny.recipe("generator", Path("model/toy"), steps=2, backbone="joint")
    (folder / "generator_2.toml").write_text(
        tiny.toml(second).replace("sources = {}", 'sources = {generator = "model/toy"}')
    )
    return folder


def test_stages_are_in_the_order_of_their_numbers(recipes: Path) -> None:
    (recipes / "generator_10.toml").write_text((recipes / "generator_2.toml").read_text())
    assert blip3o_toy._order(recipes)[-3:] == ["generator", "generator_2", "generator_10"]


def test_retraining_runs_every_recipe_in_its_own_folder_and_goes_on(
    recipes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is measured is written by a stand-in here; tests of the measures are elsewhere."""
    out, committed = tmp_path / "out", TOY_CHECKPOINT
    before = {path: path.stat().st_mtime_ns for path in committed.rglob("*")}
    asked: list[tuple[Path, Path, int]] = []

    def measured(checkpoint: Path, weights: Path, recipes: Path, examples: int) -> Measured:
        asked.append((checkpoint, weights, examples))
        return {score.name: (score.value, score.n) for card in manifest for score in card.held_out}

    manifest = cards.read(ROOT / "docs" / "toy_model.json")
    monkeypatch.setattr(blip3o_toy, "_held_out", measured)
    arguments = ("retrain", "--out", out, "--recipes", recipes, "--no-judges", "--examples", 4)
    done = call(*arguments)
    assert done.exit_code == 0, done.output
    assert asked == [(out / "toy", blip3o_toy.JUDGE_WEIGHTS, 4)]
    assert {path.name for path in (out / "work").iterdir()} == {*tiny.PARTS, "generator_2"}
    assert (out / "work" / "generator_2" / "step-000002").is_dir()
    assert before == {path: path.stat().st_mtime_ns for path in committed.rglob("*")}

    weights = cards.file_of(out / "toy" / "generator.safetensors", out)
    monkeypatch.setattr(blip3o_toy, "_held_out", lambda *arguments: {})
    again = call(*arguments)
    assert again.exit_code == 1
    assert "here none  worse" in again.output
    assert cards.file_of(out / "toy" / "generator.safetensors", out) == weights


def test_two_processes_train_as_one_does(recipes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blip3o_toy, "_order", lambda recipes: ["vae"])
    monkeypatch.setattr(blip3o_toy, "_held_out", lambda *arguments: {})
    weights = []
    for processes in (1, 2):
        out = tmp_path / str(processes)
        call("retrain", "--out", out, "--recipes", recipes, "--no-judges", "--processes", processes)
        state = json.loads((out / "work" / "vae" / "step-000001" / "state.json").read_text())
        assert state["processes"] == processes
        weights.append(load_file(out / "toy" / "decoder" / "vae" / "diffusion_pytorch_model.safetensors"))
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL  # the launcher's is gone with it
    one, two = weights
    assert max((one[name] - two[name]).abs().max() for name in one) < 2e-3  # stored as float16

    text = (recipes / "vae.toml").read_text()
    (recipes / "vae.toml").write_text(text.replace("batch_size = 4", "batch_size = 3"))
    failed = call("retrain", "--out", tmp_path / "3", "--recipes", recipes, "--no-judges", "--processes", 2)
    assert failed.exit_code == 2
    assert "vae: a process of the training failed; what it said stands above" in failed.output


def test_a_folder_of_another_recipe_is_refused(recipes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blip3o_toy, "_order", lambda recipes: ["vae"])
    monkeypatch.setattr(blip3o_toy, "_held_out", lambda *arguments: {})
    arguments = ("retrain", "--out", tmp_path / "out", "--recipes", recipes, "--no-judges")
    call(*arguments)
    text = (recipes / "vae.toml").read_text()
    (recipes / "vae.toml").write_text(text.replace("lr = 0.001", "lr = 0.002"))
    refused = call(*arguments)
    assert refused.exit_code == 2
    assert "with another lr" in refused.output


def test_sensitivity_stops_asking_for_what_was_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in draws; one damage is noticed with the first samples, the other with none."""
    runs: list[tuple[str, int | None]] = []

    def run(folder: Path, model: str, benchmarks: object, seed: int, limit: int | None = None, *rest: object) -> None:
        runs.append((folder.name, limit))

    class Found:
        def __init__(self, damage: str, limit: int | None) -> None:
            self.damage, self.limit, self.detected = damage, limit, damage == "guidance 1"
            self.gated = type("Gated", (), {"verdict": "fail" if self.detected else "cannot tell"})

    def page(tries: list[Found]) -> str:
        told.extend(tries)
        return "page"

    told: list[Found] = []
    monkeypatch.setattr(blip3o_toy, "_run", run)
    monkeypatch.setattr("reports.sensitivity.examine", lambda damage, limit, *folders: Found(damage, limit))
    monkeypatch.setattr("reports.sensitivity.page", page)
    done = call("sensitivity", "--out", tmp_path, "--docs", tmp_path, "--limit", 4, "--limit", 0)
    assert done.exit_code == 0, done.output
    assert [one.damage for one in told if one.limit == 4] == [name for name in blip3o_toy.DAMAGES if "half" not in name]
    assert "guidance 1" not in [one.damage for one in told if one.limit is None]
    assert {limit for name, limit in runs if name == "weights"} == {4, None}
    assert ("seed", None) not in runs
    assert (tmp_path / "sensitivity.md").read_text() == "page"


def test_a_complete_run_of_other_weights_is_not_reused(tmp_path: Path) -> None:
    weights, run = tmp_path / "weights", tmp_path / "run"
    weights.mkdir()
    (weights / "a.safetensors").write_text("new")
    old = replace(record("geneval", []), model={"sha256": digest(weights)})
    store_run(run, [old])
    blip3o_toy._run(run, str(weights), list, 0)
    (weights / "a.safetensors").write_text("newer")
    with pytest.raises(BenchError, match="other weights"):
        blip3o_toy._run(run, str(weights), list, 0)
