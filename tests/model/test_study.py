"""Checkpoints along a training run."""

import dataclasses
from pathlib import Path

import pytest
from safetensors.torch import load_file

from model.generate import load
from model.recipe import RecipeError, SourceName
from model.study import train_and_publish, trained_parameters
from tests.model import tiny


def test_every_stored_state_is_published(checkpoint: Path, tmp_path: Path) -> None:
    sources: dict[SourceName, str] = dict.fromkeys(("backbone", "eva_clip", "decoder"), str(checkpoint))
    recipe = dataclasses.replace(tiny.recipe("generator", checkpoint, steps=3), sources=sources, ema=0.9, keep_last=3)
    folders = train_and_publish(recipe, tmp_path / "work")
    assert list(folders) == [1, 2, 3]
    queries = [load_file(folder / "generator.safetensors")["latent_queries"] for folder in folders.values()]
    assert not queries[0].equal(queries[1])
    published = load_file(tmp_path / "work" / "last" / "generator.safetensors")
    assert queries[2].equal(published["latent_queries"])
    (image,) = load(str(folders[1])).draw(load(str(folders[1])).conditions(["a photo of a star"]), [0])
    assert image.size == (64, 64)


def test_a_recipe_without_average_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="ema"):
        train_and_publish(tiny.recipe("generator", checkpoint), tmp_path)


def test_trained_parameters_of_a_frozen_backbone_are_those_of_queries_and_transformer(checkpoint: Path) -> None:
    saved = load_file(checkpoint / "generator.safetensors")
    assert trained_parameters(tiny.recipe("generator", checkpoint)) == sum(tensor.numel() for tensor in saved.values())
