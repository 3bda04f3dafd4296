"""The manifest of committed weights: each file with its digest, how it was trained, and how good it is held out.

``docs/toy_model.json`` is the manifest, ``docs/toy_model.md`` the cards made of it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.recipe import Recipe, RecipeError, read_recipe
from model.train import states


@dataclass(frozen=True)
class File:
    """A file of weights; ``path`` is relative to the checkout."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Trained:
    """One recipe's run.

    ``steps`` are those that the weights have seen; ``minutes`` are of training alone, None where it was not timed;
    ``machine`` says on what; ``note`` what else a reader has to know.
    """

    recipe: str
    seed: int
    steps: int
    minutes: float | None
    machine: str
    note: str = ""


@dataclass(frozen=True)
class Score:
    """A held-out score, and by how much a repetition may be worse: absolute for shares, a share of it for errors."""

    name: str
    value: float
    higher_is_better: bool
    n: int
    tolerance: float

    def worst(self) -> float:
        """The least good value that still agrees."""
        return self.value - self.tolerance if self.higher_is_better else self.value * (1 + self.tolerance)


@dataclass(frozen=True)
class Card:
    """One part: its files, the recipes that trained it in their order, and its held-out scores."""

    part: str
    what: str
    files: tuple[File, ...]
    trained: tuple[Trained, ...]
    held_out: tuple[Score, ...]


def file_of(path: Path, root: Path) -> File:
    data = path.read_bytes()
    return File(path.relative_to(root).as_posix(), len(data), hashlib.sha256(data).hexdigest())


def renewed(card: Card, root: Path, runs: Sequence[Trained], measured: Mapping[str, tuple[float, int]]) -> Card:
    """The card of the files as they are now, with the values measured and on how many examples, and with those of the
    ``runs`` that trained the part. A run of a recipe that is gone is dropped."""
    trained = {run.recipe: run for run in card.trained if (root / run.recipe).is_file()}
    for run in runs:
        if run.recipe in trained or card.part in trains(read_recipe(root / run.recipe)):
            trained[run.recipe] = run
    scores = (
        dataclasses.replace(score, value=float(f"{value:.4g}"), n=n)
        for score in card.held_out
        for value, n in (measured[score.name],)
    )
    files = (file_of(root / file.path, root) for file in card.files)
    return dataclasses.replace(card, files=tuple(files), trained=tuple(trained.values()), held_out=tuple(scores))


def trains(recipe: Recipe) -> set[str]:
    """The parts that a recipe changes."""
    parts: set[str] = {recipe.part}
    return parts | {"backbone"} if recipe.model.get("backbone") in ("joint", "trained") else parts


def trained_in(work: Path, recipe: str, machine: str) -> Trained:
    """What the work folder of a run says. Its log has rates, not times: minutes are the sum of examples over rate.

    Raises RecipeError where there is no state.
    """
    saved = states(work)
    if not saved:
        raise RecipeError(f"{work} holds no state of a training run")
    state = json.loads((saved[-1] / "state.json").read_text())
    lines = [json.loads(line) for line in (work / "log.jsonl").read_text().splitlines()]
    steps = [0, *(line["step"] for line in lines)]
    seconds = sum(
        (after - before) * state["recipe"]["batch_size"] / line["samples_per_second"]
        for before, after, line in zip(steps, steps[1:], lines, strict=False)
    )
    return Trained(recipe, state["recipe"]["seed"], state["step"], round(seconds / 60, 1), machine)


def write(cards: Sequence[Card], path: Path) -> None:
    content = {"parts": [dataclasses.asdict(card) for card in cards]}
    path.write_text(json.dumps(content, indent=1) + "\n")


def read(path: Path) -> list[Card]:
    return [_card(entry) for entry in json.loads(path.read_text())["parts"]]


def _card(entry: Mapping[str, Any]) -> Card:
    return Card(
        entry["part"],
        entry["what"],
        tuple(File(**file) for file in entry["files"]),
        tuple(Trained(**run) for run in entry["trained"]),
        tuple(Score(**score) for score in entry["held_out"]),
    )


@dataclass(frozen=True)
class Repeated:
    """A score of a card and its repetition; ``agrees`` where the latter is no worse than the tolerance allows."""

    part: str
    card: Score
    value: float | None

    @property
    def agrees(self) -> bool:
        if self.value is None:
            return False
        worst = self.card.worst()
        return self.value >= worst if self.card.higher_is_better else self.value <= worst


def repeated(cards: Iterable[Card], measured: Mapping[str, tuple[float, int]]) -> list[Repeated]:
    """Every score of the cards beside what was measured under its name; None where nothing was."""
    values = {name: value for name, (value, _) in measured.items()}
    return [Repeated(card.part, score, values.get(score.name)) for card in cards for score in card.held_out]


def page(cards: Sequence[Card]) -> str:
    """docs/toy_model.md."""
    return _PAGE.format(
        megabytes=sum(file.bytes for card in cards for file in card.files) / 1e6,
        minutes=sum(run.minutes or 0 for run in {run for card in cards for run in card.trained}),
        cards="\n".join(map(_section, cards)),
    )


def _section(card: Card) -> str:
    files = "\n".join(f"| `{file.path}` | {file.bytes:,} | `{file.sha256}` |" for file in card.files)
    runs = "\n".join(
        f"| `{run.recipe}` | {run.seed} | {run.steps:,} | {_told(run.minutes)} | {run.machine}{_and(run.note)} |"
        for run in card.trained
    )
    scores = "\n".join(
        f"| {score.name} | {score.value:.4g} | {score.n:,} | {score.worst():.4g} |" for score in card.held_out
    )
    return f"""## {card.part}

{card.what}

| file | bytes | SHA-256 |
|---|---:|---|
{files}

| recipe | seed | steps | minutes | machine |
|---|---:|---:|---:|---|
{runs}

| held out | score | examples | a repetition agrees up to |
|---|---:|---:|---:|
{scores}
"""


def _told(minutes: float | None) -> str:
    return "not timed" if minutes is None else f"{minutes:g}"


def _and(note: str) -> str:
    return f"; {note}" if note else ""


_PAGE = """\
# The embedded weights

Written by `make cards` from [toy_model.json](toy_model.json), which a test checks against the files: {megabytes:.1f} MB
of weights in all, {minutes:.0f} minutes of training. What the parts are and how they work together: [toy.md](toy.md).

`make retrain` runs all recipes in their order into `runs/retrain` (another folder: `python -m blip3o_toy retrain --out
DIR`), goes on where it was stopped, measures the same scores and says which agree with those below. A score may be
as bad as its last column says (worse by 0.03 where it is a share, by a fifth where it is an error or a loss).

Held out means: examples of a seed that no recipe has. Errors are mean squares of RGB in 0 … 1. *retrieval*: images
moved by one pixel that are nearest to themselves among all, by EVA-CLIP's features. *oracle GenEval through features*:
GenEval's score when the oracle's drawings go through encoder and decoder; no generator before them can be better.
Minutes are reckoned from the logged rates, with whatever else the machine did at the time.

{cards}"""
