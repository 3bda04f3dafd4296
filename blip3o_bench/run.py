"""``run``: benchmarks of a model, or a part of a stored run again, or what a run would take."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, cast

import click

from benchmarks import catalog
from benchmarks.limit import limited
from benchmarks.models import tasks
from benchmarks.types import BenchError, Benchmark, Model, RunRecord
from benchmarks.work import Part, Settings
from blip3o_bench import judges, models, selection
from blip3o_bench.command_line import DATA_DIR, FILE_THERE, FOLDER

#: The share of groups that two models score differently, for the loss that so many can find: one in five.
DISAGREEING = 0.2

WORKERS_HELP = "Processes that prepare images for the model; 0: a thread does."


@click.command()
@click.argument("names", metavar="[BENCHMARK]...", nargs=-1)
@click.option(
    "--suite",
    type=click.Choice((*catalog.SUITES, "toy-quick")),
    help=f"ci: a fixed part of paper, {catalog.CI_GROUPS} groups of each benchmark. toy-quick: toy with --limit "
    f"{catalog.QUICK}. Default: toy for embedded models, else paper.",
)
@click.option("--model", "model_spec", default="toy", show_default=True, help=models.MODEL_HELP)
@click.option("--out", type=FOLDER, help="Folder of the run; give it again to resume. Default: runs/ and the options.")
@click.option("--seed", type=int, help="Base of the seeds of all samples. Default: 0.")
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="Samples given to the model at once.",
)
@click.option("--workers", type=click.IntRange(min=0), default=0, show_default=True, help=WORKERS_HELP)
@click.option("--limit", type=click.IntRange(min=1), help="So many samples of each benchmark, in whole groups.")
@click.option(
    "--profile",
    "profiles",
    multiple=True,
    type=click.Choice(tuple(catalog.PROFILES)),
    help="Prompts and rules; one for each kind of benchmark. Default: "
    f"{', '.join(asdict(catalog.Profiles()).values())}, or the stored run's.",
)
@click.option("--rewrite", type=FILE_THERE, help="Draw rewritten prompts: JSON or JSON lines; part of the record.")
@click.option(
    "--grid",
    type=click.IntRange(min=1),
    help="The files of --model folder:DIR are DPG-Bench's 2 x 2 tiles of so many pixels. Default: single.",
)
@models.MODEL_OPTIONS
@judges.JUDGE_OPTIONS
@click.option(
    "--stage",
    type=click.Choice(("generate", "judge", "score")),
    help="Do this part of the run alone, wherever its folder is: generate needs no judge, judge no model, score "
    "neither. Default: all.",
)
@click.option("--rescore", is_flag=True, help="Apply the rules again to a stored run, without model or judge.")
@click.option(
    "--rejudge",
    is_flag=True,
    help="Judge a stored run again: the benchmarks named, or those that the judges given here are for.",
)
@click.option("--dry-run", is_flag=True, help="Print what the run will take; nothing is run or written.")
@click.option(
    "--calibrate",
    type=click.IntRange(min=1),
    metavar="N",
    help="With --dry-run: run N samples of each benchmark and throw them away, for time and disk.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the records as JSON.")
@DATA_DIR
def run(
    names: tuple[str, ...],
    suite: catalog.Suite | Literal["toy-quick"] | None,
    model_spec: str,
    out: Path | None,
    seed: int | None,
    batch_size: int,
    workers: int,
    limit: int | None,
    profiles: tuple[str, ...],
    rewrite: Path | None,
    grid: int | None,
    running: models.ModelOptions,
    judging: judges.JudgeOptions,
    stage: Literal["generate", "judge", "score"] | None,
    rescore: bool,
    rejudge: bool,
    dry_run: bool,
    calibrate: int | None,
    as_json: bool,
    data_dir: Path | None,
) -> None:
    """Run benchmarks (default: all of the suite) and print their scores.

    Started by torchrun or by hand with RANK and WORLD_SIZE, several processes share one run.
    """
    if suite == "toy-quick":
        suite, limit = "toy", limit or catalog.QUICK
    out = out or _default_out(suite or _default_suite(model_spec), model_spec, names, seed, limit)
    data = catalog.Data(data_dir, judging.detector, judging.clip, grid=grid)
    if calibrate and not dry_run:
        raise BenchError("--calibrate belongs to --dry-run")
    if sum((stage is not None, rescore, rejudge, dry_run)) > 1:
        raise BenchError("--stage, --rescore, --rejudge and --dry-run exclude each other")
    if rescore or rejudge or stage in ("judge", "score"):
        if rewrite or grid:
            raise BenchError(f"leave {'--rewrite' if rewrite else '--grid'} out: the stored run has it")
        whole = None if rejudge or stage == "judge" else sorted(names) or None
        _same_as_stored(out, {"suite": suite, "seed": seed, "limit": limit, "benchmarks": whole})
        if rescore or stage == "score":
            if judging.judge_spec or judging.vqa_judge or judging.detector or judging.clip:
                raise BenchError("leave the judges out: rules are applied to what was judged")
            _score_stored(out, data, profiles, as_json, rescore)
        else:
            _judge_stored(out, data, profiles, names, judging, running, batch_size, as_json, rejudge)
        return
    if grid and not model_spec.startswith("folder:"):
        raise BenchError("--grid tells what the image files of --model folder:DIR are; a model draws single images")
    suite = suite or _default_suite(model_spec)
    if suite == "toy" and (judging.vqa_judge or judging.detector or judging.clip):
        raise BenchError("--vqa-judge, --detector and --clip are for real data: the toy suite has judges of its own")
    if suite == "toy" and grid:
        raise BenchError("the toy suite's DPG-Bench takes single images: leave --grid out")
    if suite == "toy" and {"wise-verified", "wise-legacy"} & set(profiles):
        raise BenchError("the toy suite's WISE has its own wording, wise-own")
    chosen = selection.named(suite, names)
    models.check_known(model_spec)
    models.check_options(model_spec, running)
    _share_cores()
    from benchmarks import runner

    settings = Settings(suite, seed or 0, limit, batch_size, workers, judging.judge_timeout)
    can = frozenset({"answer"}) if running.backend == "vllm" else tasks(model_spec)
    chosen = selection.within_reach(
        {name: catalog.task(name) for name in chosen}, can, model_spec, asked_for=bool(names)
    )
    if dry_run:
        with TemporaryDirectory() as scratch:
            data = judges.judged(data, judging, running.device, profiles, Path(scratch), fetch=bool(calibrate))
            _dry_run(chosen, model_spec, running, data, rewrite, settings, calibrate, as_json, Path(scratch))
        return
    judged = stage != "generate"
    if judged:
        data = judges.judged(data, judging, running.device, profiles, out)
    else:
        data = replace(data, profiles=catalog.choose(profiles))
    part = Part.from_environment()
    benchmarks = _rewritten(selection.ready(suite, chosen, data, judged), rewrite)
    model = models.load_model(model_spec, running, out)
    benchmarks = selection.possible(benchmarks, model, model_spec, asked_for=bool(names))
    _tell_absent(model, benchmarks, limit)
    click.echo(f"run in {out}", err=True)
    if not judged:
        missing = runner.generate(out, benchmarks, model, settings, part)
        models.tell_cost(model)
        _tell_stage(missing, "predictions", "judge")
        return
    records = runner.run(out, benchmarks, model, settings, part)
    models.tell_cost(model)
    judges.tell_cost(data.judge)
    _tell_records(records, out, as_json)


def _score_stored(out: Path, data: catalog.Data, profiles: Sequence[str], as_json: bool, other_rules: bool) -> None:
    from benchmarks import runner

    score = runner.rescore if other_rules else runner.score
    _tell_records(score(out, selection.stored_benchmarks(out, data, profiles)), out, as_json)


def _judge_stored(
    out: Path,
    data: catalog.Data,
    profiles: Sequence[str],
    names: Sequence[str],
    judging: judges.JudgeOptions,
    running: models.ModelOptions,
    batch_size: int,
    as_json: bool,
    again: bool,
) -> None:
    """Judge the predictions of a stored run, for the first time or ``again`` by another judge."""
    _share_cores()
    from benchmarks import runner

    data = judges.judged(data, judging, running.device, profiles, out)
    others: Sequence[str] = ()
    if again:
        stored = selection.stored_names(out)
        names = names or judges.concerned(judging, stored)
        others = [name for name in stored if name not in names]
    benchmarks = selection.stored_benchmarks(out, data, profiles, names, judged=True)
    kept = selection.stored_benchmarks(out, data, profiles, others) if others else []
    part = Part.from_environment()
    click.echo(f"run in {out}", err=True)
    if again:
        records = runner.rejudge(out, benchmarks, batch_size, part, judging.judge_timeout, kept)
        judges.tell_cost(data.judge)
        _tell_records(records, out, as_json)
    else:
        missing = runner.judge(out, benchmarks, batch_size, part, judging.judge_timeout)
        judges.tell_cost(data.judge)
        _tell_stage(missing, "verdicts", "score")


def _tell_stage(missing: int, made: str, following: str) -> None:
    if missing:
        click.echo(f"{missing} {made} are missing; wait for the other processes, or start the command again", err=True)
    else:
        click.echo(f"all {made} are there; what follows is --stage {following}", err=True)


def _tell_records(records: Sequence[RunRecord] | None, out: Path, as_json: bool) -> None:
    from reports import tables

    part = Part.from_environment()
    if records is not None and part.world == 1:
        click.echo(tables.to_json(records) if as_json else tables.table(records))
    elif records is not None:  # two processes may end the run at once; the result must not be printed twice
        click.echo(f"complete: blip3o-bench report {out}", err=True)


def _tell_absent(model: Model, benchmarks: Sequence[Benchmark], limit: int | None) -> None:
    """Say at the start what a folder or file lacks or has too much; what is absent will be counted as missing."""
    from benchmarks.answers import FileAnswers
    from benchmarks.folder import FolderImages

    if isinstance(model, FolderImages | FileAnswers):
        asked = [sample for benchmark in benchmarks for sample in limited(benchmark.samples(), limit)]
        for line in model.check(asked):
            click.echo(line, err=True)


def _rewritten(benchmarks: Sequence[Benchmark], rewrite: Path | None) -> list[Benchmark]:
    if rewrite is None:
        return list(benchmarks)
    from benchmarks.rewrite import Rewritten

    if any(benchmark.task != "generate" for benchmark in benchmarks):
        raise BenchError("--rewrite is for benchmarks of drawing: name them")
    return [Rewritten(benchmark, rewrite) for benchmark in benchmarks]


def _default_suite(model_spec: str) -> catalog.Suite:
    return "toy" if model_spec in ("toy", "oracle", "blank") else "paper"


def _default_out(
    suite: catalog.Suite, model_spec: str, names: Sequence[str], seed: int | None, limit: int | None
) -> Path:
    """A folder name that other options do not share."""
    parts = [suite, Path(model_spec.partition(":")[2] or model_spec).resolve().name, *names]
    parts += [f"seed{seed}"] * bool(seed) + [f"limit{limit}"] * bool(limit)
    return Path("runs") / "-".join(parts)


def _dry_run(
    names: Sequence[str],
    model_spec: str,
    running: models.ModelOptions,
    data: catalog.Data,
    rewrite: Path | None,
    settings: Settings,
    calibrate: int | None,
    as_json: bool,
    scratch: Path,
) -> None:
    """Print what the run will take, and then what is still to be got for it."""
    from benchmarks import estimate, needs
    from reports.statistics.power import minimal_detectable_effect, paired_binary_standard_error

    suite = cast(catalog.Suite, settings.suite)
    ready, lacking = needs.load_all(suite, names, data)
    if lacking and (calibrate or not lacking.keys() <= estimate.PUBLISHED.keys()):
        selection.refuse(names, lacking)
    benchmarks = {benchmark.name: benchmark for benchmark in _rewritten(ready, rewrite)}
    plans = [estimate.estimate(suite, name, benchmarks.get(name), data, settings.limit) for name in names]
    if calibrate:
        model = models.load_model(model_spec, running, scratch)
        selection.possible(ready, model, model_spec, asked_for=True)
        plans = [estimate.calibrated(plan, benchmarks[plan.benchmark], model, settings, calibrate) for plan in plans]
    # As the gate tests: one-sided at 5 %, with a power of 80 %. A distance has no score per sample.
    detectable = {
        plan.benchmark: 100 * minimal_detectable_effect(paired_binary_standard_error(plan.groups, DISAGREEING), sides=1)
        for plan in plans
        if plan.groups and plan.benchmark != "mjhq"
    }
    click.echo(estimate.as_json(plans, detectable) if as_json else estimate.table(plans, detectable))
    if not as_json:
        click.echo(
            f"detectable: points of 100 that the gate finds with a power of 80 % where two models score "
            f"{DISAGREEING:.0%} of the groups differently"
        )
    selection.tell_lacking(lacking)


def _share_cores() -> None:
    """Divide this machine's cores among the processes torchrun started on it; torch and numpy read it at import."""
    from benchmarks.environment import usable_cores

    processes = os.environ.get("LOCAL_WORLD_SIZE", "1")
    if processes.isdecimal() and int(processes) > 1:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // int(processes))))


def _same_as_stored(out: Path, given: Mapping[str, object]) -> None:
    """Raise BenchError for an option that the stored run was not started with."""
    from benchmarks.spec import read_spec

    spec, _ = read_spec(out)
    stored = {"suite": spec.suite, "seed": spec.seed, "limit": spec.limit, "benchmarks": sorted(spec.benchmarks)}
    for field, value in given.items():
        if value is not None and value != stored[field]:
            raise BenchError(f"{out} was run with {field} {stored[field]}, not {value}; leave that out")
