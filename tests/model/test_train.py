"""Training: every part learns, an interrupted run equals an uninterrupted one, recipes are checked."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from model import train as training
from model.data import Example, Source
from model.train import Average, Recipe, RecipeError, learning_rate, read_recipe, train
from tests.model import tiny

RECIPES = sorted((Path(training.__file__).parent / "recipes").rglob("*.toml"))


def losses(work: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (work / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "samples_per_second"} for line in lines]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_committed_recipes_are_valid(path: Path) -> None:
    assert read_recipe(path).steps > 0


def test_resumed_training_equals_uninterrupted(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny.recipe("generator", tmp_path, steps=4)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for target in (whole, parts):
        shutil.copytree(checkpoint, target / "checkpoint")
    train(dataclasses.replace(recipe, checkpoint=str(whole / "checkpoint")), whole / "work")

    interrupted = dataclasses.replace(recipe, checkpoint=str(parts / "checkpoint"))
    _stop_before(monkeypatch, step=2)
    with pytest.raises(KeyboardInterrupt):
        train(interrupted, parts / "work")
    monkeypatch.undo()
    train(interrupted, parts / "work")

    assert losses(parts / "work") == losses(whole / "work")
    one, two = (load_file(folder / "checkpoint" / "generator.safetensors") for folder in (whole, parts))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def _stop_before(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Interrupt training when it asks for the batch of ``step``."""
    original = training.batch

    def batch(recipe: Recipe, sources: list[Source], at: int) -> list[Example]:
        if at == step:
            raise KeyboardInterrupt
        return original(recipe, sources, at)

    monkeypatch.setattr(training, "batch", batch)


def test_training_stops_where_the_recipe_says_and_another_goes_on(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, folder)
    before = load_file(folder / "generator.safetensors")["dit.lumina.layers.0.gate"]
    train(dataclasses.replace(tiny.recipe("generator", folder, steps=9), stop_at=2), tmp_path / "first")
    assert [line["step"] for line in losses(tmp_path / "first")] == [1, 2]
    train(tiny.recipe("generator", folder, steps=1, **{"continue": True, "gate": 0.5}), tmp_path / "second")
    after = load_file(folder / "generator.safetensors")["dit.lumina.layers.0.gate"]
    assert before.abs().max() < 0.1
    assert after.tolist() == pytest.approx([0.5, 0.5], abs=0.01)


def test_other_recipe_in_the_same_work_folder_is_refused(tmp_path: Path) -> None:
    recipe = tiny.recipe("vae", tmp_path / "checkpoint")
    train(recipe, tmp_path / "work")
    with pytest.raises(RecipeError, match="another recipe"):
        train(dataclasses.replace(recipe, lr=1.0), tmp_path / "work")


def test_joint_training_moves_the_backbone_and_sequential_does_not(checkpoint: Path, tmp_path: Path) -> None:
    weights = {}
    for name, joint in (("sequential", False), ("joint", True)):
        shutil.copytree(checkpoint, tmp_path / name)
        train(tiny.recipe("generator", tmp_path / name, steps=2, joint=joint), tmp_path / "work" / name)
        weights[name] = load_file(tmp_path / name / "backbone" / "model.safetensors")
    before = load_file(checkpoint / "backbone" / "model.safetensors")
    key = next(name for name in before if name.endswith("layers.0.mlp.up_proj.weight"))
    assert torch.equal(weights["sequential"][key], before[key])
    assert not torch.equal(weights["joint"][key], before[key])


def test_queries_learn_to_pass_the_caption_on(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, folder)
    recipe = tiny.recipe("generator", folder, steps=30, joint=True, echo=1.0, query_scale=0.1)
    train(dataclasses.replace(recipe, lr=1e-2), tmp_path / "work")
    curve = [line["echo"] for line in losses(tmp_path / "work")]
    assert curve[0] > 3  # nothing is known of some 300 tokens
    assert sum(curve[-5:]) / 5 < 0.6 * curve[0]


def test_the_eva_clip_part_learns(tmp_path: Path) -> None:
    recipe = dataclasses.replace(tiny.recipe("eva_clip", tmp_path / "checkpoint", steps=40), lr=1e-2, batch_size=8)
    train(recipe, tmp_path / "work")
    curve = [line["pixels"] for line in losses(tmp_path / "work")]
    assert sum(curve[-5:]) < 0.5 * sum(curve[:5])


def test_learning_rate_warms_up_and_follows_a_cosine() -> None:
    recipe = dataclasses.replace(tiny.recipe("vae", Path("x"), steps=110), lr=1.0, min_lr=0.1, warmup=10)
    assert [learning_rate(recipe, step) for step in (0, 4, 9, 10)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    assert learning_rate(recipe, 60) == pytest.approx(0.55)  # half way between lr and min_lr
    assert learning_rate(recipe, 110) == pytest.approx(0.1)


def test_average_is_exact_for_a_constant_and_is_taken_off_again() -> None:
    module = torch.nn.Linear(2, 2)
    average = Average(module, 0.5)
    with torch.no_grad():
        module.weight.zero_()
    average.update(100)
    own = module.weight.clone()
    with average.applied():
        assert not torch.equal(module.weight, own)
    assert torch.equal(module.weight, own)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("part = 'vae'\nspeed = 3", "unknown entry 'speed'"),
        ("part = 'vae'", "is missing"),
        ("part = ", "is not TOML"),
    ],
)
def test_a_bad_recipe_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message):
        read_recipe(path)


def test_an_unknown_data_source_is_named(tmp_path: Path) -> None:
    recipe = dataclasses.replace(tiny.recipe("vae", tmp_path), data=("nowhere:examples",))
    with pytest.raises(ValueError, match="nowhere:examples"):
        train(recipe, tmp_path / "work")
