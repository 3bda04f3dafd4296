"""spec.json: what determines the numbers of a run, and where it was started. It is written before anything else.

Processes join a run by it, add to it, and refuse to mix two runs in one folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from benchmarks.disk import create_file, disk_errors, exclusive, json_document, replace_file
from benchmarks.store import Shard, shards
from benchmarks.types import BenchError, Json, Verdict

Stage = Literal["generate", "judge"]


@dataclass(frozen=True)
class RunSpec:
    """Everything that determines the numbers of a run. The batch size and the number of processes do not.

    A benchmark has no ``judge`` until a process that judges joins the run.
    """

    suite: str
    seed: int
    limit: int | None
    model: Mapping[str, Json]
    benchmarks: Mapping[str, Json]  # name -> version, profile and what the benchmark says of its data and judge


@dataclass(frozen=True)
class Environment:
    """Where and with what a run was started. Recorded, not compared: another machine may finish the run.

    ``also`` has an entry for each other code, packages or hardware by which a stage of it was done; ``out_of_memory``
    for each batch that a model had no memory for; ``rejudged`` for each time that judges were replaced: when, by which
    code, and the judge of each benchmark before.
    """

    started: str
    code: Mapping[str, Json]
    packages: Mapping[str, str]
    hardware: Mapping[str, Json]
    also: tuple[Mapping[str, Json], ...] = ()
    out_of_memory: tuple[Mapping[str, Json], ...] = ()
    rejudged: tuple[Mapping[str, Json], ...] = ()


def open_run(root: Path, spec: RunSpec, environment: Environment) -> None:
    """Start a run in ``root``, or join the one that is there.

    A benchmark of which ``spec`` names no judge is not going to be judged here; judges that the stored run does not
    have yet are added to it. Raises BenchError when ``root`` holds a run with another spec, naming the first field
    that differs.
    """
    path = root / "spec.json"
    with disk_errors("read", path):
        started = path.exists()
    if not started:
        create_file(path, [_spec_document(spec, environment)])

    def joined(stored: RunSpec, known: Environment) -> tuple[RunSpec, Environment]:
        here = RunSpec(**json.loads(json_document(asdict(spec))))
        stored = _with_judges_of(stored, here)
        _check_same(root, stored, _with_judges_of(here, stored))
        return stored, known

    _amend(root, joined)


def note_environment(root: Path, environment: Environment, stage: Stage) -> None:
    """Keep that this stage was done in ``environment``, if it is another than the run was started in."""
    _amend(root, lambda spec, known: (spec, _with(known, environment, stage)))


def note_out_of_memory(root: Path, benchmark: str, samples: int, reason: str) -> None:
    """Keep in the run's environment that a model had no memory for so many samples at once."""
    entry = {"benchmark": benchmark, "samples": samples, "reason": reason}

    def noted(spec: RunSpec, known: Environment) -> tuple[RunSpec, Environment]:
        if entry in known.out_of_memory:
            return spec, known
        return spec, replace(known, out_of_memory=(*known.out_of_memory, entry))

    _amend(root, noted)


def _amend(root: Path, change: Callable[[RunSpec, Environment], tuple[RunSpec, Environment]]) -> None:
    """Write spec.json as ``change`` makes it of the stored one, if that is another. Several processes may at once."""
    stored = read_spec(root)
    if change(*stored) != stored:
        with exclusive(root / ".lock"):
            replace_file(root / "spec.json", [_spec_document(*change(*read_spec(root)))])


def _spec_document(spec: RunSpec, environment: Environment) -> bytes:
    return json_document({**asdict(spec), "environment": asdict(environment)})


def _with_judges_of(spec: RunSpec, other: RunSpec) -> RunSpec:
    """``spec`` with the judges of ``other`` where it has none of its own."""
    judges = {name: {"judge": one["judge"]} for name, one in other.benchmarks.items() if "judge" in one}
    return replace(spec, benchmarks={name: {**judges.get(name, {}), **one} for name, one in spec.benchmarks.items()})


def _with(known: Environment, here: Environment, stage: Stage) -> Environment:
    """``known`` with that of this process, if it is another one."""
    own = {"code": here.code, "packages": here.packages, "hardware": here.hardware}
    started_in = {"code": known.code, "packages": known.packages, "hardware": known.hardware}
    if _same_place(started_in, own) or any(one["stage"] == stage and _same_place(one, own) for one in known.also):
        return known
    return replace(known, also=(*known.also, {"stage": stage, **own}))


def _same_place(there: Mapping[str, Json], here: Mapping[str, Json]) -> bool:
    """What only one of them says of its hardware makes no difference: nothing is imported in order to say more."""
    return (
        there["code"] == here["code"]
        and there["packages"] == here["packages"]
        and _agree(there["hardware"], here["hardware"])
    )


def _agree(there: Json, here: Json) -> bool:
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        return all(_agree(there[key], here[key]) for key in there.keys() & here.keys())
    return bool(there == here)


def replace_judges(root: Path, spec: RunSpec, environment: Environment) -> None:
    """Put the judges of ``spec`` in place of those that the run in ``root`` has.

    Predictions stay. Where a benchmark's judge is another one, its verdicts are kept aside under ``verdicts-N``, and
    the run is not complete until the new judge has seen everything. Several processes may do this at once. Raises
    BenchError when more than the judges differs, and while a process that knows the old judge writes.
    """
    with exclusive(root / ".lock"):
        stored, started_in = read_spec(root)
        _check_same(root, _without_judges(stored), _without_judges(spec))
        before = {
            name: stored.benchmarks[name].get("judge")
            for name, described in json.loads(json_document(spec.benchmarks)).items()
            if described.get("judge") != stored.benchmarks[name].get("judge")
        }
        if not before:
            return
        for path in sorted(root.glob("*/*/rank*.jsonl")):
            Shard(path).close()  # nobody else has it open
        # In this order a run that is stopped in between is one under the old judge without verdicts.
        with disk_errors("write", root / "run.json"):
            (root / "run.json").unlink(missing_ok=True)
        for name in before:
            _set_aside(shards(root / name, Verdict))
        entry = {"started": environment.started, "code": environment.code, "judges_before": before}
        started_in = replace(started_in, rejudged=(*started_in.rejudged, entry))
        replace_file(root / "spec.json", [_spec_document(spec, started_in)])


def check_judge(folder: Path, spec: RunSpec) -> None:
    """Raise BenchError unless the judge of the benchmark in ``folder`` is still that of ``spec``.

    For a process that has its shard of verdicts open: from then on ``replace_judges`` refuses.
    """
    root = folder.parent
    if (root / ".lock").exists():  # one that has not seen the shard is let through to its end
        with exclusive(root / ".lock"):
            pass
    here = json.loads(json_document(spec.benchmarks[folder.name].get("judge")))
    if read_spec(root)[0].benchmarks[folder.name].get("judge") != here:
        raise BenchError(f"another process has replaced the judge of {folder.name} in {root}: start again with that")


def _without_judges(spec: RunSpec) -> RunSpec:
    return replace(
        spec,
        benchmarks={
            name: {key: value for key, value in described.items() if key != "judge"}
            for name, described in spec.benchmarks.items()
        },
    )


def _set_aside(folder: Path) -> None:
    number = 1
    while (aside := folder.with_name(f"{folder.name}-{number}")).exists():
        number += 1
    with disk_errors("write", folder), suppress(FileNotFoundError):  # no verdicts yet
        folder.rename(aside)


def _check_same(root: Path, stored: RunSpec, spec: RunSpec) -> None:
    if stored.benchmarks.keys() != spec.benchmarks.keys():
        raise BenchError(
            f"{root} is a run of {', '.join(stored.benchmarks)}, not of {', '.join(spec.benchmarks)}; "
            "name the same benchmarks or another --out"
        )
    difference = _difference(asdict(stored), json.loads(json_document(asdict(spec))))
    if difference is not None:
        field, there, here = difference
        raise BenchError(
            f"{root} holds another run: {field} is {_brief(there)} there and {_brief(here)} here; "
            "give the same options or another --out"
        )


def read_spec(root: Path) -> tuple[RunSpec, Environment]:
    """What ``root`` was started with. Raises BenchError when it holds no run."""
    path = root / "spec.json"
    if not path.exists():
        raise BenchError(f"cannot read {path}: give the folder of a run, which blip3o-bench run --out wrote")
    with disk_errors("read", path):
        data = path.read_bytes()
    try:
        content = json.loads(data)
        stored = content.pop("environment")
        lists = {name: tuple(stored.get(name, ())) for name in ("also", "out_of_memory", "rejudged")}
        spec = RunSpec(**content)
        _check_types(spec)
        return spec, Environment(**{**stored, **lists})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise BenchError(f"{path} is not the spec of a run ({error}); use another --out") from error


def _check_types(spec: RunSpec) -> None:
    """Raise ValueError for what no run is started with, such as a benchmark whose folder would lie elsewhere."""
    if type(spec.seed) is not int or type(spec.limit) not in (int, type(None)):
        raise ValueError("seed and limit are whole numbers")
    for name, described in spec.benchmarks.items():
        if name in ("", "..") or Path(name).name != name or not isinstance(described, dict):
            raise ValueError(f"{name!r} is no benchmark")
        if lacking := [field for field in ("version", "profile") if not isinstance(described.get(field), str)]:
            raise ValueError(f"{name} has no {lacking[0]}")


def _difference(there: Json, here: Json, field: str = "") -> tuple[str, Json, Json] | None:
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted(there.keys() | here.keys()):
            found = _difference(there.get(key), here.get(key), f"{field}.{key}" if field else key)
            if found is not None:
                return found
        return None
    return None if there == here else (field, there, here)


def _brief(value: Json) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 80 else text[:77] + "..."
