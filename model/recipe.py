"""A training recipe: what a TOML file may say, and what follows from it."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

PartName = Literal["vae", "eva_clip", "decoder", "backbone", "generator"]

#: What a part may be built upon. ``generator`` holds weights to go on from. ``vision`` is a SigLIP tower for a
#: ``backbone`` that has no eyes.
SourceName = Literal["backbone", "vision", "eva_clip", "decoder", "generator"]

#: What may differ between an interrupted run and its continuation: it changes no weight.
CHANGEABLE = frozenset({"checkpoint", "workers", "cache", "save_every", "keep_last", "log_every", "trackers"})
CHANGEABLE |= {"preview_every", "preview_prompts"}

T = TypeVar("T")


class RecipeError(Exception):
    """A recipe that cannot be run; the message says what is wrong in it."""


@dataclass(frozen=True)
class Recipe:
    """One part of a model, trained once. The defaults are upstream's where it has any.

    The learning rate follows a schedule of ``steps``; training ends at ``stop_at`` where that is given, for another
    recipe to go on from there. ``batch_size`` counts the examples of a step over all processes and all
    ``accumulation`` micro-batches.
    """

    part: PartName
    checkpoint: str  # folder: the part is saved there, and the other parts are read from there
    data: tuple[str, ...]  # names as in model.sources, taken in turn
    model: Mapping[str, Any]  # sizes and settings of the part; its class says which
    steps: int
    batch_size: int
    lr: float
    sources: Mapping[SourceName, str] = field(default_factory=dict)  # folders, or owner/name[@revision] on the hub
    min_lr: float = 0.0
    warmup: int | None = None  # steps
    warmup_ratio: float | None = None  # share of ``steps``
    stop_at: int | None = None
    accumulation: int = 1
    precision: Literal["no", "bf16"] = "no"
    gradient_checkpointing: bool = False
    weight_decay: float = 0.0
    clip: float = 1.0  # largest norm of the gradient
    ema: float = 0.0  # decay of the averaged weights, which are what is published; 0: no average
    seed: int = 42
    workers: int = 0  # processes that load data, for each training process
    cache: str | None = None  # folder for the target encoder's features
    save_every: int = 1000
    keep_last: int = 2
    log_every: int = 50
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    preview_every: int = 0  # 0: no previews
    preview_prompts: tuple[str, ...] = ()

    @property
    def last(self) -> int:
        """Steps that are taken."""
        return self.stop_at or self.steps


def read_recipe(path: Path) -> Recipe:
    """Parse a recipe file; RecipeError on an unknown, missing or impossible entry."""
    try:
        table = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise RecipeError(f"no recipe {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not TOML: {error}") from error
    recipe = from_table(Recipe, table, str(path))
    for name in ("steps", "batch_size", "accumulation", "save_every", "keep_last", "log_every"):
        if getattr(recipe, name) < 1:
            raise RecipeError(f"{path}: {name} must be at least 1")
    impossible = {  # so written that nan is impossible too
        "stop_at": recipe.stop_at is not None and not 1 <= recipe.stop_at <= recipe.steps,
        "lr": not 0 <= recipe.lr < math.inf,
        "min_lr": not 0 <= recipe.min_lr < math.inf,
        "warmup": recipe.warmup is not None and recipe.warmup < 0,
        "warmup_ratio": recipe.warmup_ratio is not None and not 0 <= recipe.warmup_ratio <= 1,
        "weight_decay": not 0 <= recipe.weight_decay < math.inf,
        "clip": not recipe.clip > 0,
        "ema": not 0 <= recipe.ema < 1,
        "workers": recipe.workers < 0,
        "preview_every": recipe.preview_every < 0,
    }
    for name in (name for name, is_so in impossible.items() if is_so):
        raise RecipeError(f"{path}: {name} cannot be {getattr(recipe, name)}")
    if not recipe.data:
        raise RecipeError(f"{path}: data names no source")
    if recipe.warmup is not None and recipe.warmup_ratio is not None:
        raise RecipeError(f"{path}: give warmup (steps) or warmup_ratio, not both")
    if recipe.preview_every and not (recipe.part == "generator" and recipe.preview_prompts):
        raise RecipeError(f"{path}: preview_every needs preview_prompts, and part = 'generator'")
    return recipe


def from_table(cls: type[T], table: Mapping[str, Any], where: str, **given: Any) -> T:
    """A dataclass from a TOML table and from what is ``given`` beside it.

    RecipeError, which begins with ``where``, on an unknown or missing entry and on one of the wrong type.
    """
    fields = {f.name: f for f in dataclasses.fields(cls) if f.name not in given}  # type: ignore[arg-type]
    hints = get_type_hints(cls)
    if unknown := sorted(table.keys() - fields.keys()):
        raise RecipeError(f"{where}: unknown entry {unknown[0]!r}; known are {', '.join(sorted(fields))}")
    values = {name: _value(hints[name], value, f"{where}: {name}") for name, value in table.items()}
    for name, f in fields.items():
        if name not in values and f.default is f.default_factory is dataclasses.MISSING:
            raise RecipeError(f"{where}: entry {name!r} is missing")
    try:
        return cls(**values, **given)
    except ValueError as error:
        raise RecipeError(f"{where}: {error}") from error


def _value(hint: Any, value: Any, where: str) -> Any:
    """The value as the type ``hint`` wants it: lists as tuples, whole numbers as floats, tables as dataclasses."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is UnionType:
        return _value(next(h for h in arguments if h is not NoneType), value, where)
    if origin is Literal:
        if value not in arguments:
            raise RecipeError(f"{where} is {value!r}; one of {', '.join(map(repr, arguments))}")
        return value
    if origin is tuple and isinstance(value, list):
        return tuple(_value(arguments[0], item, where) for item in value)
    if origin is Mapping and isinstance(value, dict):
        return {_value(arguments[0], k, where): _value(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, dict):
        return from_table(hint, value, where)
    wanted = (int, float) if hint is float else origin or hint
    # bool is a subclass of int.
    if hint is not Any and (not isinstance(value, wanted) or (isinstance(value, bool) and hint is not bool)):
        raise RecipeError(f"{where} is {value!r}, which is no {getattr(hint, '__name__', hint)}")
    return value


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then a cosine from ``lr`` to ``min_lr`` at the last step of the schedule."""
    warmup = recipe.warmup if recipe.warmup_ratio is None else math.ceil(recipe.warmup_ratio * recipe.steps)
    warmup = warmup or 0
    if step < warmup:
        return recipe.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, recipe.steps - warmup)
    return recipe.min_lr + (recipe.lr - recipe.min_lr) * (1 + math.cos(math.pi * progress)) / 2
