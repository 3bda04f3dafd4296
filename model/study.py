"""A model's course of training: a checkpoint folder of every stored state, to be scored against training steps."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from safetensors.torch import load_file

from model.parts.generator import Generator
from model.recipe import Recipe, RecipeError
from model.sources import load_mixture
from model.train import states, train


def train_and_publish(recipe: Recipe, work: Path) -> dict[int, Path]:
    """Run a generator's recipe to its end, or on to it -> its averaged weights after each stored step, a folder each.

    The folders ``work/published-STEP`` refer to the recipe's sources for what was frozen. Raises as ``train`` does, and
    RecipeError for a recipe that keeps no average.
    """
    if recipe.part != "generator" or not recipe.ema:
        raise RecipeError("the course of training wants part = 'generator' and ema: the averages are published")
    recipe = dataclasses.replace(recipe, checkpoint=str(work / "last"))
    train(recipe, work)
    part = Generator(recipe, load_mixture(recipe.data))
    folders: dict[int, Path] = {}
    for state in states(work):
        step = int(state.name.removeprefix("step-"))
        folders[step] = work / f"published-{step:06d}"
        part.save(folders[step], load_file(state / "average.safetensors"))
    return folders


def trained_parameters(recipe: Recipe) -> int:
    """How many numbers a generator's recipe trains, those of heads that are thrown away included."""
    part = Generator(recipe, load_mixture(recipe.data))
    return sum(parameter.numel() for parameter in part.parameters() if parameter.requires_grad)
