"""Judgments with known properties, as tables that another tool might write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd


def judgments(
    votes: Sequence[float], prompts: Sequence[object] | None = None, **columns: Sequence[object]
) -> pd.DataFrame:
    """Votes for model "A" (1), model "B" (-1), neither (0) or skipped (NaN); A stands left in every other row, unless
    ``left`` has other booleans. Without ``prompts`` each vote has its own."""
    vote = np.asarray(votes, dtype=float)
    left = np.asarray(columns.pop("left", np.arange(len(vote)) % 2 == 0), dtype=bool)
    choice = np.select([np.isnan(vote), vote == 0, (vote > 0) == left], ["skip", "tie", "left"], "right")
    return pd.DataFrame(
        {
            "prompt_id": [str(one) for one in (prompts if prompts is not None else range(len(vote)))],
            "left_model": np.where(left, "A", "B"),
            "right_model": np.where(left, "B", "A"),
            "choice": choice,
            **columns,
        }
    )


def of_counts(wins: int, losses: int, ties: int) -> list[float]:
    return [1.0] * wins + [-1.0] * losses + [0.0] * ties


def between(rows: Sequence[Sequence[Any]]) -> pd.DataFrame:
    """Rows of (left model, right model, wins, losses[, ties]) of the left one; every judgment has its own prompt."""
    made = [
        (str(one), str(other), choice)
        for one, other, *counts in rows
        for choice, count in zip(("left", "right", "tie"), counts, strict=False)
        for _ in range(count)
    ]
    table = pd.DataFrame(made, columns=["left_model", "right_model", "choice"])
    return table.assign(prompt_id=[str(number) for number in range(len(table))])


def simulate(
    rng: np.random.Generator,
    worths: Mapping[str, float],
    prompts: int,
    annotators: int,
    per_pair: int = 3,
    nu: float = 0.0,
    left_bias: float = 0.0,
    noise: Sequence[float] = (),
    taste: float = 0.0,
) -> pd.DataFrame:
    """Judgments of all pairs of two or more models by Davidson's model with log ``worths``, an advantage of the left
    side, annotators of whom the first choose anything with probability ``noise``, and a normal difference of standard
    deviation ``taste`` between prompts."""
    names = list(worths)
    rows = []
    for prompt in range(prompts):
        for number, (one, other) in enumerate((a, b) for i, a in enumerate(names) for b in names[i + 1 :]):
            difference = worths[one] - worths[other] + taste * rng.standard_normal()
            for slot, annotator in enumerate(rng.permutation(annotators)[:per_pair]):
                turned = bool((prompt + slot + number) % 2)
                log_ratio = (-difference if turned else difference) + left_bias
                weights = np.array([np.exp(log_ratio / 2), np.exp(-log_ratio / 2), nu])
                random = annotator < len(noise) and rng.random() < noise[annotator]
                choice = rng.choice(["left", "right", "tie"], p=None if random else weights / weights.sum())
                sides = (other, one) if turned else (one, other)
                rows.append((str(prompt), *sides, str(choice), f"r{annotator}"))
    return pd.DataFrame(rows, columns=["prompt_id", "left_model", "right_model", "choice", "annotator"])
