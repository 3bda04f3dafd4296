"""The training entry point: one recipe, one part of BLIP3-o, resumable at any step.

    blip3o-bench train model/recipes/toy/vae.toml

A recipe names the part, the checkpoint folder that it reads the other parts from and writes its own to, the
data source, and the schedule. State lies in a work folder; a second call goes on where the first one ended, and
gives the same weights as one uninterrupted call.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import os
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from model.data import Example, load_source
from model.parts import Backbone, DecoderPart, EvaClipPart, Generator, Part, Vae

PARTS: dict[str, Callable[..., Part]] = {
    "vae": Vae,
    "eva_clip": EvaClipPart,
    "decoder": DecoderPart,
    "backbone": Backbone,
    "generator": Generator,
}


class RecipeError(Exception):
    """A recipe that cannot be run; the message says what is wrong in it."""


@dataclass(frozen=True)
class Recipe:
    """``data`` names the sources of examples; example i comes from source i modulo their number.

    The learning rate follows a schedule of ``steps``; training ends at ``stop_at`` where that is given, for
    another recipe to go on from there.
    """

    part: Literal["vae", "eva_clip", "decoder", "backbone", "generator"]
    checkpoint: str
    data: tuple[str, ...]
    model: Mapping[str, Any]
    steps: int
    batch_size: int
    lr: float
    min_lr: float = 0.0
    stop_at: int | None = None
    warmup: int = 100
    weight_decay: float = 0.0
    clip: float = 1.0
    ema: float = 0.999
    seed: int = 1
    save_every: int = 200
    log_every: int = 50


def read_recipe(path: Path) -> Recipe:
    """Parse a recipe file; RecipeError on an unknown, missing or impossible entry."""
    try:
        table = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise RecipeError(f"no recipe {path}") from None
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path} is not TOML: {error}") from error
    known = {field.name for field in dataclasses.fields(Recipe)}
    required = {f.name for f in dataclasses.fields(Recipe) if f.default is dataclasses.MISSING}
    if unknown := sorted(table.keys() - known):
        raise RecipeError(f"{path}: unknown entry {unknown[0]!r}; known are {', '.join(sorted(known))}")
    if missing := sorted(required - table.keys()):
        raise RecipeError(f"{path}: entry {missing[0]!r} is missing")
    if table["part"] not in PARTS:
        raise RecipeError(f"{path}: unknown part {table['part']!r}; one of {', '.join(PARTS)}")
    return Recipe(**{**table, "data": tuple(table["data"])})


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then a cosine from ``lr`` to ``min_lr`` at the last step."""
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    progress = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.min_lr + (recipe.lr - recipe.min_lr) * (1 + math.cos(math.pi * progress)) / 2


class Average:
    """Exponential moving average of the trained parameters; short at first, so that the start is forgotten."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = module
        self.decay = decay
        self.values = {name: p.detach().clone() for name, p in self._parameters()}

    def _parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in self.module.named_parameters() if p.requires_grad)

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, parameter in self._parameters():
            self.values[name].lerp_(parameter, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The module holds the averages inside the block, its own values afterwards."""
        own = copy.deepcopy(self.module.state_dict())
        self.module.load_state_dict(self.values, strict=False)
        yield
        self.module.load_state_dict(own)


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    torch.save(dict(state), temporary)
    os.replace(temporary, path)


def train(recipe: Recipe, work: Path) -> None:
    """Run a recipe to its end, from the work folder's state where there is one.

    Writes ``state.pt`` and ``log.jsonl`` to ``work``, and the trained part (averaged weights) to the recipe's
    checkpoint folder whenever the state is saved. Raises RecipeError when ``work`` holds another recipe's state.
    """
    torch.manual_seed(recipe.seed)
    sources = [load_source(name) for name in recipe.data]
    folder = Path(recipe.checkpoint)
    part = PARTS[recipe.part](folder, recipe.model, sources)
    part.trained.train()
    parameters = [p for p in part.trained.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)
    average = Average(part.trained, recipe.ema)

    state_file, log_file = work / "state.pt", work / "log.jsonl"
    first, stamp = 0, json.dumps(dataclasses.asdict(recipe), sort_keys=True)
    if state_file.is_file():
        state = torch.load(state_file, weights_only=True)
        if state["recipe"] != stamp:
            raise RecipeError(f"{work} holds the state of another recipe; choose another --work folder or delete it")
        part.trained.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average.values = state["average"]
        first = state["step"]

    def save(step: int) -> None:
        with average.applied():
            part.save(folder)
        state = {"recipe": stamp, "step": step, "model": part.trained.state_dict()}
        save_state(state_file, state | {"optimizer": optimizer.state_dict(), "average": average.values})

    started = time.monotonic()
    last = recipe.stop_at or recipe.steps
    for step in range(first, last):
        examples = batch(recipe, sources, step)
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
        losses = part.loss(examples, generator)
        optimizer.param_groups[0]["lr"] = learning_rate(recipe, step)
        optimizer.zero_grad(set_to_none=True)
        total = torch.stack(list(losses.values())).sum()
        total.backward()
        norm = nn.utils.clip_grad_norm_(parameters, recipe.clip)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"gradient norm {norm.item()} at step {step}: lower the learning rate")
        optimizer.step()
        average.update(step)
        done = step + 1
        if done % recipe.log_every == 0 or done == last:
            rate = (done - first) * recipe.batch_size / (time.monotonic() - started)
            report(log_file, recipe, done, losses, norm, rate)
        if done % recipe.save_every == 0 or done == last:
            save(done)


def batch(recipe: Recipe, sources: list[Callable[[int, int], Example]], step: int) -> list[Example]:
    start = step * recipe.batch_size
    indices = range(start, start + recipe.batch_size)
    return [sources[index % len(sources)](recipe.seed, index) for index in indices]


def report(log: Path, recipe: Recipe, step: int, losses: Mapping[str, Tensor], norm: Tensor, rate: float) -> None:
    """One line to the log file and one to stderr: losses, gradient norm, samples per second, minutes left."""
    values = {name: round(loss.item(), 5) for name, loss in losses.items()}
    line = {"step": step, **values, "gradient_norm": round(norm.item(), 4), "samples_per_second": round(rate, 1)}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        file.write(json.dumps(line) + "\n")
    last = recipe.stop_at or recipe.steps
    left = (last - step) * recipe.batch_size / rate / 60
    shown = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
    print(
        f"{recipe.part} {step}/{last}  {shown}  norm {norm:.2f}  {rate:.0f}/s  {left:.0f} min left",
        file=sys.stderr,
        flush=True,
    )


def main(path: Path, work: Path | None = None) -> None:
    """Run the recipe at ``path``; the work folder is ``runs/train/<name>`` unless given."""
    train(read_recipe(path), work or Path("runs/train") / path.stem)
