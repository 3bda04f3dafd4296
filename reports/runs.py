"""Many stored runs: where they lie, which of their records are alike, and how far their models were trained."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.spec import read_spec
from benchmarks.store import read_records
from benchmarks.types import BenchError, Metric, RunRecord
from reports.published import is_headline
from reports.tables import leaves, shortened

#: How a name tells a training step.
STEP = r"(?:step|checkpoint)[-_]?(\d+)"


@dataclass(frozen=True)
class StoredRun:
    """A complete run; ``name`` is its folder's path below the folder that was searched, ``started`` is in UTC."""

    name: str
    folder: Path
    started: datetime
    records: tuple[RunRecord, ...]


@dataclass(frozen=True)
class Kind:
    """What two records must share for their scores to compare: all that is not the model, the seed or the machine.

    ``details`` are version, profile, data, judge and settings as (key, value) in the order of the keys.
    """

    suite: str
    benchmark: str
    profile: str
    details: tuple[tuple[str, str], ...]


def find_runs(root: Path) -> tuple[list[StoredRun], dict[str, str]]:
    """The complete runs below ``root`` in the order of their names, and why the others were left out, by name.

    Raises BenchError when there is no complete run.
    """
    if not root.is_dir():
        raise BenchError(f"there is no folder {root}; give one that holds the folders of runs")
    runs, left_out = [], {}
    for folder in _run_folders(root):
        name = str(folder.relative_to(root)) if folder != root else folder.resolve().name
        try:
            runs.append(StoredRun(name, folder, _started(folder), tuple(read_records(folder))))
        except BenchError as error:
            left_out[name] = str(error)
    if not runs:
        raise BenchError(f"{root} holds no complete run; blip3o-bench run --out {root}/NAME makes one")
    return runs, left_out


def _started(folder: Path) -> datetime:
    """In UTC, so that runs of several machines are in their order."""
    told = read_spec(folder)[1].started
    try:
        return datetime.fromisoformat(told).astimezone(UTC)
    except (ValueError, TypeError) as error:
        raise BenchError(f"{folder}/spec.json does not say when the run was started: {told!r} is no date") from error


def _run_folders(root: Path) -> Iterator[Path]:
    for folder, below, files in os.walk(root):
        below.sort()
        if "spec.json" in files:
            below.clear()  # a run may hold 30,000 images and no other run
            yield Path(folder)


def kind(record: RunRecord) -> Kind:
    """The kind of a record."""
    told = {
        "version": record.version,
        "profile": record.profile,
        "data": record.data,
        "judge": record.judge,
        "settings": record.settings,
    }
    details = ((".".join(keys), value if isinstance(value, str) else json.dumps(value)) for keys, value in leaves(told))
    return Kind(record.suite, record.benchmark, record.profile, tuple(sorted(details)))


def kind_names(kinds: Iterable[Kind]) -> dict[Kind, str]:
    """A name for each kind: its profile, and what sets it apart from the others of its suite and benchmark."""
    alike: dict[tuple[str, str], list[Kind]] = {}
    for one in dict.fromkeys(kinds):
        alike.setdefault((one.suite, one.benchmark), []).append(one)
    return {one: _kind_name(one, group) for group in alike.values() for one in group}


def _kind_name(one: Kind, group: Sequence[Kind]) -> str:
    told = [dict(other.details) for other in group]
    own = dict(one.details)
    keys = [key for key in dict.fromkeys(key for other in told for key in other) if key != "profile"]
    differing = [key for key in keys if len({other.get(key) for other in told}) > 1]
    return ", ".join([one.profile, *(_brief(key.rpartition(".")[2], own.get(key, "null")) for key in differing)])


def _brief(key: str, text: str) -> str:
    if text == "null":
        return f"no {key}"
    if re.fullmatch(r"[0-9a-f]{32,}", text):
        return f"{key} {text[:8]}"
    return f"{key} {shortened(text)}"


def headline(record: RunRecord) -> list[Metric]:
    """The metrics that stand for a benchmark: those of the paper's tables, else the first."""
    chosen = [metric for metric in record.metrics if is_headline(record.benchmark, metric.name)]
    return chosen or list(record.metrics[:1])


def training_step(run: StoredRun, record: RunRecord) -> int | None:
    """The number of training steps of a record's model: its ``step``, or the number after "step" or "checkpoint" in
    the model's name or the run's (the folders that training writes are called step-003200); None without one."""
    told = record.model.get("step")
    if isinstance(told, int):
        return told
    for name in (str(record.model.get("name", "")), run.name):
        if found := re.findall(STEP, name):
            return int(found[-1])
    return None
