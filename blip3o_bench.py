"""The command line. Results go to standard output, progress and logs to standard error.

Exit codes: 0 success, 1 failed, 2 a user's error, 130 interrupted. Whatever is slow to import is imported
inside the command that needs it, so that --help answers at once.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar, cast

import click

from benchmarks import catalog, models, plugins
from benchmarks.types import BenchError, Benchmark, RunRecord, Sample, printable
from human_study.cli import study

if TYPE_CHECKING:
    from benchmarks.judges.chat import Chat, ImageChat
    from benchmarks.judges.vqa import VqaJudge
    from benchmarks.runner import Model, Settings
    from model.generate import Device, Profile, Unified

F = TypeVar("F", bound=Callable[..., Any])

TOY_CHECKPOINT = Path(__file__).parent / "model" / "toy"

#: The share of groups that two models score differently, for the loss that so many can find: one in five.
DISAGREEING = 0.2

CHECKPOINTS_HELP = "a checkpoint folder, or owner/name[@revision] on the Hugging Face hub"
MODEL_HELP = f"toy, oracle, blank, folder:DIR with images that are there already, diffusers:NAME, {CHECKPOINTS_HELP}."
PROFILE_OPTION = click.option(
    "--model-profile",
    type=click.Choice(("exact", "upstream")),
    default="exact",
    show_default=True,
    help="exact: float32. upstream: half precision and whole timesteps, as the published pipeline draws.",
)
DEVICE_OPTION = click.option(
    "--device", type=click.Choice(("auto", "cpu", "cuda")), default="auto", help="Default: a GPU if there is one."
)
WORKERS_HELP = "Processes that prepare images for the model; 0: a thread does."
FOLDER = click.Path(path_type=Path, file_okay=False)


class CommandLine(click.Group):
    """Turns every user's error of any command into one line and exit code 2."""

    def invoke(self, ctx: click.Context) -> None:
        try:
            super().invoke(ctx)
        except BenchError as error:
            _fail(ctx, str(error))
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx else ctx.command_path
            _fail(ctx, f"{error.format_message().rstrip('.')}; see {path} --help")
        except ModuleNotFoundError as error:
            # Only a package that is wholly absent is the user's affair; a missing module of one is a bug.
            if error.name is None or "." in error.name:
                raise
            _fail(ctx, f"the package {error.name} is not installed: run pip install 'blip3o-bench[all]'")
        except KeyboardInterrupt:
            click.echo("interrupted; what is stored is kept, and the same command resumes", err=True)
            ctx.exit(130)


def _fail(ctx: click.Context, message: str) -> None:
    click.echo("error: " + printable(" ".join(message.split())), err=True)
    ctx.exit(2)


@click.group(cls=CommandLine)
@click.version_option(package_name="blip3o-bench")
def main() -> None:
    """Score BLIP3-o and other unified models on image generation and understanding."""


@dataclass(frozen=True)
class ModelOptions:
    """How the model that ``--model`` names is run. None leaves a setting to the model."""

    model_profile: Profile
    device: Device
    backend: Literal["own", "vllm"]
    answers_together: int | None
    steps: int | None
    guidance: float | None
    size: int | None


@dataclass(frozen=True)
class JudgeOptions:
    """Who judges, and what that may cost."""

    judge_spec: str | None
    judge_model: str | None
    judge_runs: int
    judge_concurrency: int
    judge_prices: tuple[float, float] | None
    max_judge_cost: float | None
    judge_timeout: float
    judge_prompt: Path | None
    vqa_judge: str | None
    detector: Path | None
    clip: Path | None


def _together(cls: type, parameter: str, *options: Callable[[F], F]) -> Callable[[F], F]:
    """Options of the command line that a command gets as one value, ``parameter``, of the dataclass ``cls``."""

    def packed(command: F) -> F:
        @functools.wraps(command)
        def unpacked(**given: object) -> object:
            own = {field.name: given.pop(field.name) for field in dataclasses.fields(cls)}
            return command(**{parameter: cls(**own)}, **given)

        decorated = cast(F, unpacked)
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return packed


MODEL_OPTIONS = _together(
    ModelOptions,
    "running",
    PROFILE_OPTION,
    DEVICE_OPTION,
    click.option(
        "--backend",
        type=click.Choice(("own", "vllm")),
        default="own",
        help="vllm: answers of a stock Qwen2.5-VL by vLLM, which is to be installed.",
    ),
    click.option(
        "--answers-together",
        type=click.IntRange(min=1),
        help="Questions about images of equal size that are answered at once; part of the record, since it may "
        "change the last bits. Default: 8 for the toy, else 1.",
    ),
    click.option("--steps", type=click.IntRange(min=1), help="Steps of a diffusers pipeline. Default: its own."),
    click.option("--guidance", type=float, help="Guidance of diffusers, Janus, Emu3. Default: its own."),
    click.option(
        "--size", type=click.IntRange(min=8), help="Pixels of diffusers, Emu3, openai-images. Default: its own."
    ),
)
JUDGE_OPTIONS = _together(
    JudgeOptions,
    "judging",
    click.option(
        "--judge",
        "judge_spec",
        metavar="JUDGE",
        help="Judges replies of MMBench and MM-Vet and images of WISE: the URL of an OpenAI-compatible server "
        "(http://.../v1), local:FOLDER (or a name on the hub), replay:FILE of a judge's replies.",
    ),
    click.option("--judge-model", help="The server's name of the model that judges."),
    click.option(
        "--judge-runs", type=click.IntRange(min=1), default=1, show_default=True, help="Judgments per MM-Vet reply."
    ),
    click.option("--judge-concurrency", type=click.IntRange(min=1), default=16, show_default=True),
    click.option(
        "--judge-prices",
        type=(float, float),
        metavar="IN OUT",
        help="US dollars per million tokens of prompt and reply.",
    ),
    click.option("--max-judge-cost", type=click.FloatRange(min=0), help="US dollars; needs --judge-prices."),
    click.option(
        "--judge-timeout",
        type=click.FloatRange(min=0),
        default=600,
        show_default=True,
        help="Seconds for a sample; what takes longer is missing until the command is given again. 0: no limit.",
    ),
    click.option(
        "--judge-prompt",
        type=click.Path(path_type=Path, dir_okay=False, exists=True),
        help="WISE's wording: a script of its repository, or a text with {Prompt} and {Explanation}.",
    ),
    click.option(
        "--vqa-judge",
        metavar="JUDGE",
        help="Answers DPG-Bench's questions: mplug (needs modelscope; the default), local:FOLDER (or a name on the "
        "hub) of a transformers model, judge for the one of --judge, replay:FILE.csv.",
    ),
    click.option(
        "--detector",
        type=click.Path(path_type=Path),
        help="GenEval's Mask2Former; a folder is one of transformers, which is another profile and not comparable.",
    ),
    click.option("--clip", type=click.Path(path_type=Path, dir_okay=False), help="GenEval's CLIP ViT-L/14 of OpenAI."),
)


main.add_command(study)


@main.command()
@click.argument("names", metavar="[BENCHMARK]...", nargs=-1)
@click.option(
    "--suite",
    type=click.Choice((*catalog.SUITES, "toy-quick")),
    help=f"ci: a fixed part of paper, {catalog.CI_GROUPS} groups of each benchmark. toy-quick: toy with --limit "
    f"{catalog.QUICK}. Default: toy for embedded models, else paper.",
)
@click.option("--model", "model_spec", default="toy", show_default=True, help=MODEL_HELP)
@click.option("--out", type=FOLDER, help="Folder of the run; give it again to resume. Default: runs/ and the options.")
@click.option("--seed", type=int, help="Base of the seeds of all samples. Default: 0.")
@click.option("--batch-size", type=click.IntRange(min=1), default=16, show_default=True)
@click.option("--workers", type=click.IntRange(min=0), default=0, show_default=True, help=WORKERS_HELP)
@click.option("--limit", type=click.IntRange(min=1), help="So many samples of each benchmark, in whole groups.")
@click.option(
    "--profile",
    "profiles",
    multiple=True,
    type=click.Choice(tuple(catalog.PROFILES)),
    help="Prompts and rules; one for each kind of benchmark. Default: "
    f"{', '.join(dataclasses.asdict(catalog.Profiles()).values())}, or the stored run's.",
)
@click.option(
    "--rewrite",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Draw rewritten prompts: JSON or JSON lines; part of the record.",
)
@click.option(
    "--grid", type=click.IntRange(min=1), help="DPG-Bench's images are 2 x 2 tiles of so many pixels. Default: single."
)
@MODEL_OPTIONS
@JUDGE_OPTIONS
@click.option(
    "--stage",
    type=click.Choice(("generate", "judge", "score")),
    help="Do this part of the run alone, wherever its folder is: generate needs no judge, judge no model, score "
    "neither. Default: all.",
)
@click.option("--rescore", is_flag=True, help="Apply the rules again to a stored run, without model or judge.")
@click.option("--rejudge", is_flag=True, help="Judge the answers of a stored run again, with the judges given here.")
@click.option("--dry-run", is_flag=True, help="Print what the run will take; nothing is run or written.")
@click.option(
    "--calibrate",
    type=click.IntRange(min=1),
    metavar="N",
    help="With --dry-run: run N samples of each benchmark and throw them away, for time and disk.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the records as JSON.")
@click.option("--data-dir", type=FOLDER, help="Folder of fetched data sets. Default: see data list.")
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
    running: ModelOptions,
    judging: JudgeOptions,
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
        if rewrite:
            raise BenchError("leave --rewrite out: the stored run has it")
        whole = None if stage == "judge" else sorted(names) or None
        _same_as_stored(out, {"suite": suite, "seed": seed, "limit": limit, "benchmarks": whole})
        if rescore or stage == "score":
            _score_stored(out, data, profiles, as_json, rescore)
        else:
            _judge_stored(out, data, profiles, names, judging, running, batch_size, as_json, rejudge)
        return
    suite = suite or _default_suite(model_spec)
    chosen = _names(suite, names)
    _check_known(model_spec)
    _share_cores()
    from benchmarks import runner

    settings = runner.Settings(suite, seed or 0, limit, batch_size, workers, judging.judge_timeout)
    can = frozenset({"answer"}) if running.backend == "vllm" else models.tasks(model_spec)
    chosen = _within_reach({name: catalog.task(name) for name in chosen}, can, model_spec, asked_for=bool(names))
    if dry_run:
        with TemporaryDirectory() as scratch:
            data = _judged(data, judging, running, profiles, Path(scratch))
            _dry_run(chosen, model_spec, running, data, rewrite, settings, calibrate, as_json)
        return
    judged = stage != "generate"
    if judged:
        data = _judged(data, judging, running, profiles, out)
    else:
        data = replace(data, profiles=catalog.choose(profiles))
    part = runner.Part.from_environment()
    benchmarks = _rewritten(_ready(suite, chosen, data, judged), rewrite)
    model = load_model(model_spec, running)
    benchmarks = _possible(benchmarks, model, model_spec, asked_for=bool(names))
    _tell_absent(model, benchmarks)
    click.echo(f"run in {out}", err=True)
    if not judged:
        _tell_stage(runner.generate(out, benchmarks, model, settings, part), "predictions", "judge")
        return
    records = runner.run(out, benchmarks, model, settings, part)
    _tell_cost(data.judge)
    _tell_records(records, out, as_json)


def _score_stored(out: Path, data: catalog.Data, profiles: Sequence[str], as_json: bool, other_rules: bool) -> None:
    from benchmarks import runner

    score = runner.rescore if other_rules else runner.score
    _tell_records(score(out, _stored_benchmarks(out, data, profiles)), out, as_json)


def _judge_stored(
    out: Path,
    data: catalog.Data,
    profiles: Sequence[str],
    names: Sequence[str],
    judging: JudgeOptions,
    running: ModelOptions,
    batch_size: int,
    as_json: bool,
    again: bool,
) -> None:
    """Judge the predictions of a stored run, for the first time or ``again`` by another judge."""
    _share_cores()
    from benchmarks import runner

    data = _judged(data, judging, running, profiles, out)
    benchmarks = _stored_benchmarks(out, data, profiles, names)
    part = runner.Part.from_environment()
    click.echo(f"run in {out}", err=True)
    if again:
        records = runner.rejudge(out, benchmarks, batch_size, part, judging.judge_timeout)
        _tell_cost(data.judge)
        _tell_records(records, out, as_json)
    else:
        missing = runner.judge(out, benchmarks, batch_size, part, judging.judge_timeout)
        _tell_cost(data.judge)
        _tell_stage(missing, "verdicts", "score")


def _tell_stage(missing: int, made: str, following: str) -> None:
    if missing:
        click.echo(f"{missing} {made} are missing; wait for the other processes, or start the command again", err=True)
    else:
        click.echo(f"all {made} are there; what follows is --stage {following}", err=True)


def _tell_records(records: Sequence[RunRecord] | None, out: Path, as_json: bool) -> None:
    from benchmarks import runner

    part = runner.Part.from_environment()
    if records is not None and part.world == 1:
        _print_records(records, as_json)
    elif records is not None:  # two processes may end the run at once; the result must not be printed twice
        click.echo(f"complete: blip3o-bench report {out}", err=True)


def _judged(
    data: catalog.Data, judging: JudgeOptions, running: ModelOptions, profiles: Sequence[str], folder: Path
) -> catalog.Data:
    """``data`` with the judges that are named; a server's replies are kept in ``folder``. Raises BenchError."""
    judge = _judge(judging, folder)
    return replace(
        data,
        profiles=catalog.choose(profiles),
        judge=judge,
        judge_runs=judging.judge_runs,
        judge_prompt=judging.judge_prompt,
        vqa_judge=_vqa_judge(judging.vqa_judge, judge, running.device),
    )


def _judge(given: JudgeOptions, out: Path) -> ImageChat | None:
    """The judge that ``--judge`` names; a server's replies are kept in the run. Raises BenchError."""
    if given.judge_spec is None:
        return None
    from benchmarks.judges.chat import Endpoint, LocalModel, Prices, Replay

    kind, _, rest = given.judge_spec.partition(":")
    if kind == "replay":
        return Replay(Path(rest))
    if kind == "local":
        return LocalModel(*_located(rest))
    if given.judge_model is None:
        raise BenchError("--judge is the address of a server: name its model with --judge-model")
    return Endpoint(
        given.judge_spec,
        given.judge_model,
        out / "judge.jsonl",
        prices=Prices(*given.judge_prices) if given.judge_prices else None,
        max_cost=given.max_judge_cost,
        concurrency=given.judge_concurrency,
    )


def _vqa_judge(spec: str | None, judge: ImageChat | None, device: Device) -> VqaJudge | None:
    """The judge that ``--vqa-judge`` names; None is left to the suite. Raises BenchError."""
    if spec is None:
        return None
    from benchmarks.judges.vqa import ChatVqa, Mplug, ReplayVqa, local_judge

    kind, _, rest = spec.partition(":")
    if kind == "replay":
        return ReplayVqa(Path(rest))
    if kind == "local":
        return local_judge(*_located(rest), _place(device))
    if spec == "mplug":
        return Mplug(_place(device))
    if spec == "judge" and judge is not None:
        return ChatVqa(judge)
    raise BenchError("--vqa-judge is mplug, local:FOLDER, replay:FILE.csv, or judge beside a --judge")


def _located(spec: str) -> tuple[Path, str]:
    """Folder and name of a model in a folder or on the hub. Raises BenchError."""
    from model.hub import locate
    from model.tensors import CheckpointError

    try:
        located = locate(spec)
    except CheckpointError as error:
        raise BenchError(str(error)) from error
    return located.folder, located.name if located.repo else located.folder.name


def _place(device: Device) -> Literal["cpu", "cuda"]:
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def _tell_cost(judge: Chat | None) -> None:
    from benchmarks.judges.chat import Endpoint

    if isinstance(judge, Endpoint):
        usage = judge.usage()
        cost = f", {usage.cost:.2f} US dollars at most" if usage.cost else ""
        click.echo(
            f"judge: {usage.replies} replies, {usage.prompt_tokens} + {usage.completion_tokens} tokens{cost}", err=True
        )


def _tell_absent(model: Model, benchmarks: Sequence[Benchmark]) -> None:
    """Say at the start what a folder or file lacks or has too much; what is absent will be counted as missing."""
    from benchmarks.answers import FileAnswers
    from benchmarks.folder import FolderImages

    if isinstance(model, FolderImages | FileAnswers):
        for line in model.check([sample for benchmark in benchmarks for sample in benchmark.samples()]):
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


def _names(suite: catalog.Suite, names: Sequence[str]) -> list[str]:
    whole = catalog.SUITES[suite]
    known = [*whole, *(name for other, name in catalog.BENCHMARKS if other == suite and name not in whole)]
    known += [name for name in plugins.found("benchmarks") if name not in known]
    for name in names:
        if name not in known:
            raise BenchError(f"unknown benchmark {name!r} in the suite {suite}: choose among {', '.join(known)}")
    return [name for name in known if name in names] if names else list(whole)


def _within_reach(tasks: Mapping[str, str | None], can: Container[str], model_spec: str, asked_for: bool) -> list[str]:
    """The benchmarks whose task, where it is known, is among what the model can do; one that was asked for by name
    must be."""
    possible = [name for name, task in tasks.items() if task is None or task in can]
    left_out = ", ".join(name for name in tasks if name not in possible)
    if left_out and (asked_for or not possible):
        raise BenchError(f"the model {model_spec} cannot do {left_out}: leave it out or choose another model")
    if left_out:
        click.echo(f"left out, since the model {model_spec} cannot do it: {left_out}", err=True)
    return possible


def _possible(benchmarks: Sequence[Benchmark], model: Model, model_spec: str, asked_for: bool) -> list[Benchmark]:
    """As ``_within_reach``, of a model that is loaded: what a plug-in can do, only it knows."""
    can = [task for task in ("generate", "answer") if hasattr(model, task)]
    names = _within_reach({one.name: one.task for one in benchmarks}, can, model_spec, asked_for)
    return [benchmark for benchmark in benchmarks if benchmark.name in names]


def _ready(suite: catalog.Suite, names: Sequence[str], data: catalog.Data, judged: bool) -> list[Benchmark]:
    """The benchmarks. Raises BenchError once everything that any of them lacks is told."""
    from benchmarks import needs

    benchmarks, lacking = needs.load_all(suite, names, data, judged)
    if lacking:
        _refuse(names, lacking)
    return benchmarks


def _refuse(names: Sequence[str], lacking: Mapping[str, Sequence[str]]) -> NoReturn:
    if len(names) == 1:
        raise BenchError("; ".join(lacking[names[0]]))
    _tell_lacking(lacking)
    others = " ".join(name for name in names if name not in lacking)
    instead = f", or run the others: {others}" if others else ""
    raise BenchError(f"{len(lacking)} of {len(names)} benchmarks lack something: get what is named above{instead}")


def _tell_lacking(lacking: Mapping[str, Sequence[str]]) -> None:
    for name, found in lacking.items():
        for problem in found:
            click.echo(printable(f"{name}: {problem}"), err=True)


def _dry_run(
    names: Sequence[str],
    model_spec: str,
    running: ModelOptions,
    data: catalog.Data,
    rewrite: Path | None,
    settings: Settings,
    calibrate: int | None,
    as_json: bool,
) -> None:
    """Print what the run will take, and then what is still to be got for it."""
    from benchmarks import estimate, needs
    from reports.statistics.power import minimal_detectable_effect, paired_binary_standard_error

    suite = cast(catalog.Suite, settings.suite)
    ready, lacking = needs.load_all(suite, names, data)
    if lacking and (calibrate or not lacking.keys() <= estimate.PUBLISHED.keys()):
        _refuse(names, lacking)
    benchmarks = {benchmark.name: benchmark for benchmark in _rewritten(ready, rewrite)}
    plans = [estimate.estimate(suite, name, benchmarks.get(name), data, settings.limit) for name in names]
    if calibrate:
        model = load_model(model_spec, running)
        _possible(ready, model, model_spec, asked_for=True)
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
    _tell_lacking(lacking)


def _check_known(spec: str) -> None:
    """Raise BenchError for what cannot be a model."""
    kind = spec.partition(":")[0]
    known = kind in (one.prefix for one in models.MODELS) or kind in plugins.found("models")
    if not known and not Path(spec).is_dir() and "/" not in spec:
        raise BenchError(f"unknown model {spec!r}: choose one of blip3o-bench models list, or a checkpoint folder")


def load_model(spec: str, running: ModelOptions) -> Model:
    """The model that ``--model`` names. Raises BenchError with the choices when there is none."""
    kind, _, name = spec.partition(":")
    if spec == "oracle":
        from benchmarks.shapes.reference import Oracle

        return Oracle()
    if spec == "blank":
        from benchmarks.shapes.reference import Blank

        return Blank()
    if kind == "folder":
        from benchmarks.folder import FolderImages

        return FolderImages(Path(name))
    if kind == "answers":
        from benchmarks.answers import FileAnswers

        return FileAnswers(Path(name))
    if kind == "openai-chat":
        from benchmarks.endpoint import ChatEndpoint

        return ChatEndpoint(name)
    if kind == "openai-images":
        from benchmarks.endpoint import ImagesEndpoint

        return ImagesEndpoint(name, running.size)
    if kind in ("diffusers", "janus", "emu3", "transformers") or running.backend == "vllm":
        return _load_other(kind, spec if running.backend == "vllm" else name, running)
    if not Path(spec).is_dir() and kind in plugins.found("models"):
        return plugins.model(kind, name)
    return load_checkpoint(spec, running.model_profile, running.device, together=running.answers_together)


def _load_other(kind: str, name: str, running: ModelOptions) -> Model:
    from model.tensors import CheckpointError

    place = _place(running.device)
    half: Literal["bfloat16", "float32"] = "bfloat16" if place == "cuda" else "float32"
    try:
        if running.backend == "vllm":
            from model.vllm_backend import VllmUnderstanding

            return VllmUnderstanding(name)
        from model import adapters

        if kind == "janus":
            return adapters.Janus(name, place, half, running.guidance)
        if kind == "emu3":
            return adapters.Emu3(name, place, half, running.guidance, running.size)
        if kind == "transformers":
            return adapters.ImageTextToText(name, place, half)
        dtype: Literal["float16", "float32"] = "float16" if place == "cuda" else "float32"
        return adapters.DiffusersPipeline(name, place, dtype, running.steps, running.guidance, running.size)
    except CheckpointError as error:  # the model package knows nothing of ours, BenchError included
        raise BenchError(str(error)) from error


def load_checkpoint(
    spec: str, profile: Profile, device: Device, images: int | None = None, together: int | None = None
) -> Unified:
    """A BLIP3-o: the toy, a checkpoint folder, or one on the hub, to draw so many images. Raises BenchError."""
    _check_known(spec)
    from model.checkpoint import CheckpointError
    from model.generate import GROUP, load

    try:
        return load(
            str(TOY_CHECKPOINT) if spec == "toy" else spec,
            profile,
            device,
            min(GROUP, images or GROUP),
            together or (8 if spec == "toy" else 1),  # the toy's images are all of one size
        )
    except CheckpointError as error:
        raise BenchError(str(error)) from error


def _share_cores() -> None:
    """Divide this machine's cores among the processes torchrun started on it; torch and numpy read it at import."""
    from benchmarks.environment import usable_cores

    processes = os.environ.get("LOCAL_WORLD_SIZE", "1")
    if processes.isdecimal() and int(processes) > 1:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // int(processes))))


def _same_as_stored(out: Path, given: Mapping[str, object]) -> None:
    """Raise BenchError for an option that the stored run was not started with."""
    from benchmarks import store

    spec, _ = store.read_spec(out)
    stored = {"suite": spec.suite, "seed": spec.seed, "limit": spec.limit, "benchmarks": sorted(spec.benchmarks)}
    for field, value in given.items():
        if value is not None and value != stored[field]:
            raise BenchError(f"{out} was run with {field} {stored[field]}, not {value}; leave that out")


def _stored_benchmarks(
    out: Path, data: catalog.Data, profiles: Sequence[str], names: Sequence[str] = ()
) -> list[Benchmark]:
    """The benchmarks of the run in ``out``, or those with these names, under their stored profiles where none of
    ``profiles`` is for them."""
    from benchmarks import store

    spec, _ = store.read_spec(out)
    if unknown := [name for name in names if name not in spec.benchmarks]:
        raise BenchError(f"the run in {out} has no {unknown[0]}: choose among {', '.join(spec.benchmarks)}")
    suite = cast(catalog.Suite, spec.suite)
    loaded = []
    for name in _names(suite, list(names or spec.benchmarks)):
        stored = spec.benchmarks[name]
        of_run = replace(data, profiles=catalog.choose(profiles, stored["profile"]), grid=stored.get("grid"))
        loaded.append(catalog.load(suite, name, of_run))
    return loaded


def _report_results(path: Path) -> None:
    from benchmarks import geneval
    from reports.tables import interval, number

    results = geneval.read_results(path)
    click.echo(geneval.summary_text(results))
    for metric in geneval.metrics(geneval.scores_of(results)):
        click.echo(f"{metric.name:14} {number(metric.value, metric.unit)}  {interval(metric)}")


def _print_records(records: Sequence[RunRecord], as_json: bool) -> None:
    from reports import tables

    click.echo(tables.to_json(records) if as_json else tables.table(records))


@main.command()
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--html", "as_html", is_flag=True, help="Also write RUN/report.html.")
@click.option("--json", "form", flag_value="json", help="Print JSON.")
@click.option("--csv", "form", flag_value="csv", help="Print CSV, with every digit.")
@click.option("--markdown", "form", flag_value="markdown", help="Print a Markdown table.")
@click.option("--latex", "form", flag_value="latex", help="Print a LaTeX table (needs booktabs).")
@click.option("--against", type=click.Choice(("paper",)), help="Print the scores beside published ones.")
@click.option("--published", metavar="MODEL", help="With --against: the published model. Default: the run's own.")
@click.option(
    "--figure", type=click.Path(path_type=Path, dir_okay=False), help="With --against: its chart (.pdf .svg .png)."
)
@click.option("--data-dir", type=FOLDER, help="Folder of fetched data sets.")
def report(
    folder: Path,
    as_html: bool,
    form: Literal["json", "csv", "markdown", "latex"] | None,
    against: Literal["paper"] | None,
    published: str | None,
    figure: Path | None,
    data_dir: Path | None,
) -> None:
    """Print the scores of a complete run; --html writes a page with charts and examples.

    A file in place of RUN is GenEval's official results.jsonl: its official summary, and intervals.
    """
    from reports import plots, render, tables
    from reports.published import against_published

    if folder.is_file():
        _report_results(folder)
        return

    if (published or figure) and against is None:
        raise BenchError("--published and --figure belong to --against paper")
    records = render.load_records(folder)
    comparisons = against_published(records, published) if against else []
    shown = tables.comparison_table(comparisons) if against else tables.score_table(records)
    match form:
        case "json":
            click.echo(tables.comparisons_json(comparisons) if against else tables.to_json(records))
        case "csv":
            click.echo(tables.comparisons_csv(comparisons) if against else tables.scores_csv(records))
        case "markdown":
            click.echo(tables.as_markdown(shown))
        case "latex":
            click.echo(tables.as_latex(shown))
        case None:
            click.echo(tables.as_text(shown) if against else tables.table(records))
    if figure:
        drawn = render.published_figure(comparisons)
        if drawn is None:
            raise BenchError("nothing of this run stands beside a published number; see the table for the reasons")
        plots.save(drawn, figure)
        click.echo(f"written: {figure}", err=True)
    if as_html:
        page = folder / "report.html"
        _write(page, render.html(folder, _asked(records, data_dir), comparisons).encode())
        click.echo(f"written: {page}", err=True)


@main.command()
@click.argument("folder", metavar="RUN", type=FOLDER)
@click.option("--weights", type=FOLDER, help="Folder of the model's weights, to compare their digest too.")
@click.option("--data-dir", type=FOLDER, help="Folder of fetched data sets.")
@click.pass_context
def verify(ctx: click.Context, folder: Path, weights: Path | None, data_dir: Path | None) -> None:
    """Compute a run's digests, counts and scores again; name what differs, and exit 1 if anything does."""
    from benchmarks import store
    from benchmarks import verify as verifying

    spec, _ = store.read_spec(folder)
    benchmarks: dict[str, Benchmark | BenchError] = {}
    for name in spec.benchmarks:
        try:
            (benchmarks[name],) = _stored_benchmarks(folder, catalog.Data(data_dir), (), [name])
        except BenchError as error:
            benchmarks[name] = error
        except ModuleNotFoundError as error:
            benchmarks[name] = BenchError(f"the package {error.name} is not installed")
    found = verifying.verify(folder, benchmarks, _weights_digest(spec.model, weights))
    for difference in found.differences:
        click.echo(difference)
    for left_out in found.left_out:
        click.echo(f"not checked: {left_out}", err=True)
    told = f"differences: {len(found.differences)}" if found.differences else "nothing differs"
    click.echo(f"{folder}: {found.samples} predictions of {', '.join(spec.benchmarks)}: {told}")
    ctx.exit(1 if found.differences else 0)


def _weights_digest(model: Mapping[str, Any], weights: Path | None) -> str | None:
    """Of the weights named, or of the toy's where they are those of the run: another version has others."""
    if weights is None and model.get("name") != "toy":
        return None
    if weights is not None and not weights.is_dir():
        raise BenchError(f"{weights} is not a folder")
    from model import checkpoint

    digest = checkpoint.digest(weights or TOY_CHECKPOINT)
    return digest if weights is not None or digest == model.get("sha256") else None


@main.command()
@click.argument("first", metavar="A", type=FOLDER)
@click.argument("second", metavar="B", type=FOLDER)
@click.option("--force", is_flag=True, help="Compare runs that are not alike; what differs is printed.")
@click.option("--html", "page", type=click.Path(path_type=Path, dir_okay=False), help="Also write a page with flips.")
@click.option("--json", "as_json", is_flag=True, help="Print every digit and all flipped samples.")
@click.option("--data-dir", type=FOLDER, help="Folder of fetched data sets.")
def compare(first: Path, second: Path, force: bool, page: Path | None, as_json: bool, data_dir: Path | None) -> None:
    """Compare two complete runs: B - A of every metric, with interval and test."""
    from reports import compare as comparing

    found = comparing.compare(first, second, force)
    click.echo(comparing.to_json(found) if as_json else comparing.text(found))
    if page:
        _write(page, comparing.html(found, _asked(found.records, data_dir)).encode("utf-8", "replace"))
        click.echo(f"written: {page}", err=True)


@main.command()
@click.argument("new", metavar="NEW", type=FOLDER)
@click.option("--baseline", type=FOLDER, required=True, help="The run that it must not be worse than.")
@click.option("--policy", "policy_file", type=click.Path(path_type=Path, dir_okay=False), help="gates.toml")
@click.option("--junit", "junit_file", type=click.Path(path_type=Path, dir_okay=False), help="Also write JUnit XML.")
@click.option("--json", "as_json", is_flag=True, help="Print the verdict with every digit.")
@click.pass_context
def gate(
    ctx: click.Context, new: Path, baseline: Path, policy_file: Path | None, junit_file: Path | None, as_json: bool
) -> None:
    """Exit 0 if NEW is no worse than the baseline, 1 if it is, 2 if that cannot be told."""
    from reports import ci
    from reports import gate as gating

    found = gating.gate(new, baseline, gating.read_policy(policy_file) if policy_file else None)
    click.echo(gating.to_json(found) if as_json else gating.text(found))
    if junit_file:
        _write(junit_file, ci.junit(found).encode())
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(ci.github_summary(found))
    if os.environ.get("GITHUB_ACTIONS") == "true" and (told := ci.github_annotations(found)):
        click.echo(told, err=True)  # standard output may be JSON
    ctx.exit(found.exit_code)


@main.command()
@click.argument("folder", metavar="FOLDER", type=FOLDER)
def leaderboard(folder: Path) -> None:
    """Write FOLDER/leaderboard.html, one sortable page of all complete runs below the folder."""
    from reports import leaderboard as board

    page = folder / "leaderboard.html"  # in the folder: it links to the runs' own pages
    _write(page, board.html(folder).encode())
    click.echo(page)


@main.command()
@click.argument("folder", metavar="FOLDER", type=FOLDER)
@click.option("--against", type=click.Choice(("step", "date")), help="Default: the training step where all have one.")
@click.option("--figure", type=click.Path(path_type=Path, dir_okay=False), help="Also the charts (.pdf .svg .png).")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Default: FOLDER/history.html.")
def history(folder: Path, against: Literal["step", "date"] | None, figure: Path | None, out: Path | None) -> None:
    """Write one page with the scores of all complete runs below a folder against training step or date."""
    from reports import history as scores
    from reports import plots

    page = out or folder / "history.html"
    _write(page, scores.html(folder, against).encode())
    click.echo(page)
    if figure:
        plots.save(scores.figure(folder, against), figure)
        click.echo(figure)


@main.command()
@click.argument("folder", metavar="RUN", type=FOLDER)
@click.option("--out", type=FOLDER, required=True, help="Gets one folder per benchmark.")
@click.option("--data-dir", type=FOLDER, help="Folder of fetched data sets.")
def export(folder: Path, out: Path, data_dir: Path | None) -> None:
    """Write a complete run in the layouts that the benchmarks' own scripts read."""
    from benchmarks import store
    from benchmarks.runner import limited

    for record in store.read_records(folder):
        suite = cast(catalog.Suite, record.suite)
        benchmark = catalog.load(suite, record.benchmark, _data(record, data_dir))
        own = folder / benchmark.name
        samples = limited(benchmark.samples(), record.settings["limit"])
        try:
            benchmark.export(samples, store.read_predictions(own), store.read_verdicts(own), own, out / benchmark.name)
        except OSError as error:
            raise BenchError(f"cannot write {out / benchmark.name}: {error.strerror}") from error
        click.echo(out / benchmark.name)


def _data(record: RunRecord, data_dir: Path | None) -> catalog.Data:
    return catalog.Data(data_dir, profiles=catalog.choose((), record.profile), grid=record.settings.get("grid"))


def _asked(records: Sequence[RunRecord], data_dir: Path | None) -> dict[str, Sequence[Sample]]:
    """The samples of the records' benchmarks, where their data is at hand."""
    samples: dict[str, Sequence[Sample]] = {}
    for record in records:
        suite = cast(catalog.Suite, record.suite)
        try:
            samples[record.benchmark] = catalog.load(suite, record.benchmark, _data(record, data_dir)).samples()
        except BenchError as error:
            click.echo(f"examples of {record.benchmark} come without their prompts: {error}", err=True)
    return samples


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise BenchError(f"cannot write {path}: {error.strerror}") from error


@main.command()
@click.argument("benchmark", type=click.Choice(["geneval"]))
@click.option(
    "--annotations", type=click.Path(path_type=Path, dir_okay=False), multiple=True, help="Default: all three files."
)
@click.option(
    "--verdicts",
    type=click.Path(path_type=Path, exists=True),
    help="Of the annotated images: a run, or an official results.jsonl.",
)
@click.option("--data-dir", type=FOLDER, help="Folder of fetched data sets.")
def validate(benchmark: str, annotations: tuple[Path, ...], verdicts: Path | None, data_dir: Path | None) -> None:
    """Compare verdicts with the public annotations of people."""
    from benchmarks import annotations as people
    from benchmarks import datasets, geneval

    if verdicts and len(annotations) != 1:
        raise BenchError("--verdicts are of one model's images: name its --annotations FILE")
    files = annotations or sorted(datasets.locate("geneval-annotations", data_dir).glob("annotations_*.csv"))
    metadata = geneval.read_metadata(datasets.locate("geneval", data_dir) / "evaluation_metadata.jsonl")
    click.echo(people.table([people.validate(file, metadata, verdicts) for file in files]))


@main.group("models", no_args_is_help=False)
def models_group() -> None:
    """What --model takes."""


@models_group.command("list")
def models_list() -> None:
    """Kinds of models: what each can do and what it needs, and the plug-ins installed."""
    click.echo(models.table())


@main.group(no_args_is_help=False)
def data() -> None:
    """Where the benchmarks' data comes from; fetch it, verify it, look at it."""


@data.command("list")
@click.option("--data-dir", type=FOLDER, help="Folder of fetched data sets.")
def data_list(data_dir: Path | None) -> None:
    """Data sets with licence and state."""
    from benchmarks import datasets

    for name, dataset in datasets.DATASETS.items():
        try:
            state = str(datasets.locate(name, data_dir))
        except BenchError:
            state = f"not fetched: blip3o-bench data fetch {name}"
        click.echo(f"{name:20} {dataset.licence:24} {state}")


@data.command("fetch")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--data-dir", type=FOLDER, help="Folder of fetched data sets.")
def data_fetch(names: tuple[str, ...], data_dir: Path | None) -> None:
    """Download data sets; goes on where an earlier download stopped."""
    from benchmarks import datasets

    for name in names:
        click.echo(datasets.fetch(name, data_dir))


@data.command("verify")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--data-dir", type=FOLDER, help="Folder of fetched data sets.")
def data_verify(names: tuple[str, ...], data_dir: Path | None) -> None:
    """Compare data sets (default: all) with their pinned digests."""
    from benchmarks import datasets

    for name in names or datasets.DATASETS:
        for file, digest in datasets.verify(name, data_dir).items():
            click.echo(f"{name}/{file} {digest}")


@data.command("show")
@click.argument("world", type=click.Choice(["shapes"]))
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), default="sheet.png", show_default=True)
@click.option("--columns", type=click.IntRange(1, 30), default=6, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
def data_show(world: str, out: Path, columns: int, seed: int) -> None:
    """Draw a contact sheet: scenes of each GenEval tag with their prompts."""
    import io

    from benchmarks.shapes.sheet import contact_sheet

    buffer = io.BytesIO()
    contact_sheet(columns, seed).save(buffer, "PNG")
    _write(out, buffer.getvalue())
    click.echo(out)


@main.command()
@click.argument("prompts", metavar="PROMPT...", nargs=-1)
@click.option(
    "--image",
    "pictures",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Draw this image again in place of a prompt; may be given several times.",
)
@click.option(
    "--through",
    type=click.Choice(("backbone", "encoder")),
    default="backbone",
    show_default=True,
    help="What sees an --image: the backbone, or EVA-CLIP, whose features go straight to the decoder.",
)
@click.option("--model", "model_spec", default="toy", show_default=True, help=f"toy, {CHECKPOINTS_HELP}.")
@click.option("--out", type=FOLDER, default="generated", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@PROFILE_OPTION
@DEVICE_OPTION
def generate(
    prompts: tuple[str, ...],
    pictures: tuple[Path, ...],
    through: Literal["backbone", "encoder"],
    model_spec: str,
    out: Path,
    seed: int,
    model_profile: Profile,
    device: Device,
) -> None:
    """Draw one image per prompt, or per image given."""
    import io

    from PIL import Image

    from benchmarks.runner import seed_for

    if bool(prompts) == bool(pictures):
        raise BenchError("give one or more prompts, or one or more --image FILE")
    if model_spec in ("oracle", "blank") or ":" in model_spec:
        raise BenchError(f"the model {model_spec} reads no prompts: choose toy or the path of a checkpoint folder")
    names = [f"{number:05d}" for number in range(len(prompts or pictures))]
    seeds = [seed_for(seed, name) for name in names]
    model = load_checkpoint(model_spec, model_profile, device, images=len(names))
    if prompts:
        samples = [Sample(name, prompt, group=name) for name, prompt in zip(names, prompts, strict=True)]
        images = model.generate(samples, seeds)
    else:
        try:
            seen = [Image.open(path).convert("RGB") for path in pictures]
        except OSError as error:
            raise BenchError(f"not a readable image: {error}") from error
        images = model.reconstruct(seen, seeds) if through == "backbone" else model.decode_images(seen, seeds)
    for name, image in zip(names, images, strict=True):
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        _write(out / f"{name}.png", buffer.getvalue())
        click.echo(out / f"{name}.png")


@study.command("demo")
@click.option("--out", type=FOLDER, default="runs/study-demo", show_default=True, help="Give it again to go on.")
@click.option("--port", type=click.IntRange(1, 65535), default=8501, show_default=True)
def study_demo(out: Path, port: int) -> None:
    """Draw images with two toy models and serve a study of them on this machine, with simulated annotators in it."""
    from benchmarks.runner import limited, seed_for
    from benchmarks.shapes.reference import Oracle
    from human_study import demo

    asked = limited(catalog.load("toy", "geneval", catalog.Data()).samples(), 96)
    samples = list({sample.prompt: sample for sample in asked}.values())
    seeds = [seed_for(0, sample.id) for sample in samples]
    pictures = {}
    for name, model in (("toy BLIP3-o", load_checkpoint("toy", "exact", "auto")), ("oracle", Oracle())):
        click.echo(f"{name} draws {len(samples)} images", err=True)
        images = model.generate(samples, seeds)
        pictures[name] = {sample.id: image for sample, image in zip(samples, images, strict=True)}
    made = demo.make(out, {sample.id: sample.prompt for sample in samples}, pictures)
    click.echo(f"open http://127.0.0.1:{port} and judge, or see the progress of three simulated annotators", err=True)
    demo.serve(made, port)


@main.command()
@click.argument("recipe", metavar="RECIPE.toml", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--out", type=FOLDER, help="Work folder; give it again to resume. Default: runs/train/ and the recipe.")
def train(recipe: Path, out: Path | None) -> None:
    """Train one part of a model."""
    from model import train as training
    from model.checkpoint import CheckpointError

    try:
        training.main(recipe, out)
    except (training.RecipeError, CheckpointError) as error:
        raise BenchError(str(error)) from error


if __name__ == "__main__":
    sys.exit(main())
