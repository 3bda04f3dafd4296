"""Complete runs whose scores are given, written by the store itself: what ``compare`` and ``gate`` read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.store import Shard, shard_path, write_scores
from benchmarks.types import Metric, Prediction, RunRecord, Score
from tests.reports.stored import record, store_run

Values = Mapping[str, float | None]


def scores(benchmark: str, rows: Sequence[tuple[str, str, float | None]]) -> list[Score]:
    """From (group, stratum, value); ids number the samples."""
    return [
        Score(f"{benchmark}/{number}", f"{benchmark}/g{group}", stratum, value, "" if value is not None else "lost")
        for number, (group, stratum, value) in enumerate(rows)
    ]


def metrics(values: Values, own: Sequence[Score], unit: str = "fraction") -> list[Metric]:
    missing = sum(score.value is None for score in own)
    return [Metric(name, value, None, None, len(own) - missing, missing, unit=unit) for name, value in values.items()]


def store(root: Path, runs: Sequence[tuple[RunRecord, Sequence[Score]]]) -> Path:
    """A run of these records with these scores; every sample's reply is "reply" and its score."""
    store_run(root, [one for one, _ in runs])
    for one, own in runs:
        folder = root / one.benchmark
        write_scores(folder, own)
        with Shard(shard_path(folder, Prediction, 0)) as shard:
            shard.append([Prediction(score.id, 1, 0.1, text=f"reply {score.value}") for score in own])
    return root


def simple(root: Path, values: Sequence[float | None], benchmark: str = "realworldqa", **changes: Any) -> Path:
    """A run of one benchmark whose samples are all independent, scored by their mean."""
    own = scores(benchmark, [(str(at), "", value) for at, value in enumerate(values)])
    scored = [value for value in values if value is not None]
    mean = sum(scored) / len(scored) if scored else None
    return store(root, [(replace(record(benchmark, metrics({"exact_match": mean}, own)), **changes), own)])
