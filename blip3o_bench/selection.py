"""Which benchmarks a command is about: those named, those a model can do, those whose data is here, a stored run's."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn, cast

import click

from benchmarks import catalog, plugins
from benchmarks.types import BenchError, Benchmark, Model, RunRecord, Sample, printable


def named(suite: catalog.Suite, names: Sequence[str]) -> list[str]:
    """``names`` in the order of the suite, or all of it; plug-ins come last. Raises BenchError for an unknown one."""
    if suite not in catalog.SUITES:  # as a stored run may say
        raise BenchError(f"unknown suite {suite!r}: choose among {', '.join(catalog.SUITES)}")
    whole = catalog.SUITES[suite]
    known = [*whole, *(name for other, name in catalog.BENCHMARKS if other == suite and name not in whole)]
    known += [name for name in plugins.found("benchmarks") if name not in known]
    for name in names:
        if name not in known:
            raise BenchError(f"unknown benchmark {name!r} in the suite {suite}: choose among {', '.join(known)}")
    return [name for name in known if name in names] if names else list(whole)


def within_reach(tasks: Mapping[str, str | None], can: Container[str], model_spec: str, asked_for: bool) -> list[str]:
    """The benchmarks whose task, where it is known, is among what the model can do; one that was asked for by name
    must be."""
    within = [name for name, task in tasks.items() if task is None or task in can]
    left_out = ", ".join(name for name in tasks if name not in within)
    if left_out and (asked_for or not within):
        raise BenchError(f"the model {model_spec} cannot do {left_out}: leave it out or choose another model")
    if left_out:
        click.echo(f"left out, since the model {model_spec} cannot do it: {left_out}", err=True)
    return within


def possible(benchmarks: Sequence[Benchmark], model: Model, model_spec: str, asked_for: bool) -> list[Benchmark]:
    """As ``within_reach``, of a model that is loaded: what a plug-in can do, only it knows."""
    can = [task for task in ("generate", "answer") if hasattr(model, task)]
    within = within_reach({one.name: one.task for one in benchmarks}, can, model_spec, asked_for)
    return [benchmark for benchmark in benchmarks if benchmark.name in within]


def ready(suite: catalog.Suite, names: Sequence[str], data: catalog.Data, judged: bool) -> list[Benchmark]:
    """The benchmarks. Raises BenchError once everything that any of them lacks is told."""
    from benchmarks import needs

    benchmarks, lacking = needs.load_all(suite, names, data, judged)
    if lacking:
        refuse(names, lacking)
    return benchmarks


def refuse(names: Sequence[str], lacking: Mapping[str, Sequence[str]]) -> NoReturn:
    """Tell what each benchmark lacks, and raise BenchError."""
    if len(names) == 1:
        raise BenchError("; ".join(lacking[names[0]]))
    tell_lacking(lacking)
    others = " ".join(name for name in names if name not in lacking)
    instead = f", or run the others: {others}" if others else ""
    raise BenchError(f"{len(lacking)} of {len(names)} benchmarks lack something: get what is named above{instead}")


def tell_lacking(lacking: Mapping[str, Sequence[str]]) -> None:
    """What each benchmark lacks, on standard error."""
    for name, found in lacking.items():
        for problem in found:
            click.echo(printable(f"{name}: {problem}"), err=True)


def stored_names(out: Path) -> list[str]:
    """The benchmarks of the run in ``out``."""
    from benchmarks.spec import read_spec

    return list(read_spec(out)[0].benchmarks)


def stored_benchmarks(
    out: Path, data: catalog.Data, profiles: Sequence[str], names: Sequence[str] = (), judged: bool = False
) -> list[Benchmark]:
    """The benchmarks of the run in ``out``, or those with these names, under their stored profiles where none of
    ``profiles`` is for them. Raises BenchError, if they are to be ``judged``, once everything is told that any of them
    lacks for that."""
    from benchmarks import needs
    from benchmarks.spec import read_spec

    spec, _ = read_spec(out)
    if unknown := [name for name in names if name not in spec.benchmarks]:
        raise BenchError(f"the run in {out} has no {unknown[0]}: choose among {', '.join(spec.benchmarks)}")
    suite = cast(catalog.Suite, spec.suite)
    loaded: list[Benchmark] = []
    lacking: dict[str, list[str]] = {}
    wanted = named(suite, list(names or spec.benchmarks))
    for name in wanted:
        stored = spec.benchmarks[name]
        of_run = replace(data, profiles=catalog.choose(profiles, stored["profile"]), grid=stored.get("grid"))
        if judged:
            found, lacks = needs.load_all(suite, [name], of_run)
            loaded += found
            lacking |= lacks
        else:
            loaded.append(catalog.load(suite, name, of_run))
    if lacking:
        refuse(wanted, lacking)
    return loaded


def data_of(record: RunRecord, data_dir: Path | None) -> catalog.Data:
    """For the benchmark of a stored record, without judges."""
    return catalog.Data(data_dir, profiles=catalog.choose((), record.profile), grid=record.settings.get("grid"))


def samples_of(records: Sequence[RunRecord], data_dir: Path | None) -> dict[str, Sequence[Sample]]:
    """The samples of the records' benchmarks, where their data is at hand."""
    samples: dict[str, Sequence[Sample]] = {}
    for record in records:
        suite = cast(catalog.Suite, record.suite)
        try:
            samples[record.benchmark] = catalog.load(suite, record.benchmark, data_of(record, data_dir)).samples()
        except (BenchError, ModuleNotFoundError) as error:
            click.echo(f"examples of {record.benchmark} come without their prompts: {error}", err=True)
    return samples
