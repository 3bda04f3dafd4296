"""The command line. Results go to standard output, progress and logs to standard error.

Exit codes: 0 success, 1 failed, 2 a user's error, 130 interrupted. Whatever is slow to import is imported
inside the command that needs it, so that --help answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import click

from benchmarks import catalog
from benchmarks.types import BenchError, Benchmark, RunRecord, Sample

if TYPE_CHECKING:
    from benchmarks.harness import Profile as ScoringProfile
    from benchmarks.judges.chat import Chat
    from benchmarks.runner import Model
    from model.generate import Device, Profile, Unified

#: Models that are not the path of a checkpoint.
MODELS = ("toy", "oracle", "blank", "folder:DIR")
TOY_CHECKPOINT = Path(__file__).parent / "model" / "toy"

CHECKPOINTS_HELP = "a checkpoint folder, or owner/name[@revision] on the Hugging Face hub"
MODEL_HELP = f"toy, oracle, blank, folder:DIR with images that are there already, {CHECKPOINTS_HELP}."
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
    click.echo("error: " + " ".join(message.split()), err=True)
    ctx.exit(2)


@click.group(cls=CommandLine)
@click.version_option(package_name="blip3o-bench")
def main() -> None:
    """Score BLIP3-o and other unified models on image generation and understanding."""


@main.command()
@click.argument("names", metavar="[BENCHMARK]...", nargs=-1)
@click.option("--suite", type=click.Choice(tuple(catalog.SUITES)), help="Default: toy for embedded models, else paper.")
@click.option("--model", "model_spec", default="toy", show_default=True, help=MODEL_HELP)
@click.option("--out", type=FOLDER, help="Folder of the run; give it again to resume. Default: runs/ and the options.")
@click.option("--seed", type=int, help="Base of the seeds of all samples. Default: 0.")
@click.option("--batch-size", type=click.IntRange(min=1), default=16, show_default=True)
@click.option("--limit", type=click.IntRange(min=1), help="So many samples of each benchmark, in whole groups.")
@PROFILE_OPTION
@DEVICE_OPTION
@click.option(
    "--answers-together",
    type=click.IntRange(min=1),
    help="Questions about images of equal size that are answered at once; part of the record, since it may change "
    "the last bits. Default: 8 for the toy, else 1.",
)
@click.option(
    "--profile",
    type=click.Choice(catalog.PROFILES),
    help=f"Prompts and rules of the questions about images. Default: {catalog.PROFILES[0]}, or the stored run's.",
)
@click.option(
    "--judge",
    "judge_spec",
    metavar="JUDGE",
    help="Reads replies for MMBench and MM-Vet: the URL of an OpenAI-compatible server (http://.../v1), "
    "local:FOLDER (or a name on the hub), replay:FILE of a judge's replies.",
)
@click.option("--judge-model", help="The server's name of the model that judges.")
@click.option(
    "--judge-runs", type=click.IntRange(min=1), default=1, show_default=True, help="Judgments per MM-Vet reply."
)
@click.option("--judge-concurrency", type=click.IntRange(min=1), default=16, show_default=True)
@click.option(
    "--judge-prices", type=(float, float), metavar="IN OUT", help="US dollars per million tokens of prompt and reply."
)
@click.option("--max-judge-cost", type=click.FloatRange(min=0), help="US dollars; needs --judge-prices.")
@click.option("--rescore", is_flag=True, help="Apply the rules again to a stored run, without model or judge.")
@click.option("--json", "as_json", is_flag=True, help="Print the records as JSON.")
@click.option("--data-dir", type=FOLDER, help="Folder of fetched data sets. Default: see data list.")
@click.option("--detector", type=click.Path(path_type=Path, dir_okay=False), help="GenEval's Mask2Former.")
@click.option("--clip", type=click.Path(path_type=Path, dir_okay=False), help="GenEval's CLIP ViT-L/14 of OpenAI.")
def run(
    names: tuple[str, ...],
    suite: catalog.Suite | None,
    model_spec: str,
    out: Path | None,
    seed: int | None,
    batch_size: int,
    limit: int | None,
    model_profile: Profile,
    device: Device,
    answers_together: int | None,
    profile: ScoringProfile | None,
    judge_spec: str | None,
    judge_model: str | None,
    judge_runs: int,
    judge_concurrency: int,
    judge_prices: tuple[float, float] | None,
    max_judge_cost: float | None,
    rescore: bool,
    as_json: bool,
    data_dir: Path | None,
    detector: Path | None,
    clip: Path | None,
) -> None:
    """Run benchmarks (default: all of the suite) and print their scores.

    Started by torchrun or by hand with RANK and WORLD_SIZE, several processes share one run.
    """
    data = catalog.Data(data_dir, detector, clip)
    if rescore:
        out = out or _default_out(suite or _default_suite(model_spec), model_spec, names, seed, limit)
        _print_records(_rescore(out, names, suite, seed, limit, data, profile), as_json)
        return
    suite = suite or _default_suite(model_spec)
    out = out or _default_out(suite, model_spec, names, seed, limit)
    chosen = _names(suite, names)
    judge = _judge(judge_spec, judge_model, judge_concurrency, judge_prices, max_judge_cost, out)
    data = replace(data, profile=profile or catalog.PROFILES[0], judge=judge, judge_runs=judge_runs)
    _share_cores()
    from benchmarks import runner

    part = runner.Part.from_environment()
    model = load_model(model_spec, model_profile, device, answers_together)
    benchmarks = [catalog.BENCHMARKS[suite, name](data) for name in chosen]
    benchmarks = _within_reach(benchmarks, model, model_spec, asked_for=bool(names))
    for benchmark in benchmarks:
        _tell_absent(model, benchmark)
    click.echo(f"run in {out}", err=True)
    records = runner.run(out, benchmarks, model, runner.Settings(suite, seed or 0, limit, batch_size), part)
    _tell_cost(judge)
    if records is not None and part.world == 1:
        _print_records(records, as_json)
    elif records is not None:  # two processes may end the run at once; the result must not be printed twice
        click.echo(f"complete: blip3o-bench report {out}", err=True)


def _judge(
    spec: str | None,
    model: str | None,
    concurrency: int,
    prices: tuple[float, float] | None,
    max_cost: float | None,
    out: Path,
) -> Chat | None:
    """The judge that ``--judge`` names; a server's replies are kept in the run. Raises BenchError."""
    if spec is None:
        return None
    from benchmarks.judges.chat import Endpoint, LocalModel, Prices, Replay

    kind, _, rest = spec.partition(":")
    if kind == "replay":
        return Replay(Path(rest))
    if kind == "local":
        from model.hub import locate
        from model.tensors import CheckpointError

        try:
            located = locate(rest)
        except CheckpointError as error:
            raise BenchError(str(error)) from error
        return LocalModel(located.folder, located.name if located.repo else located.folder.name)
    if model is None:
        raise BenchError("--judge is the address of a server: name its model with --judge-model")
    return Endpoint(
        spec,
        model,
        out / "judge.jsonl",
        prices=Prices(*prices) if prices else None,
        max_cost=max_cost,
        concurrency=concurrency,
    )


def _tell_cost(judge: Chat | None) -> None:
    from benchmarks.judges.chat import Endpoint

    if isinstance(judge, Endpoint):
        usage = judge.usage()
        cost = f", {usage.cost:.2f} US dollars at most" if usage.cost else ""
        click.echo(
            f"judge: {usage.replies} replies, {usage.prompt_tokens} + {usage.completion_tokens} tokens{cost}", err=True
        )


def _tell_absent(model: Model, benchmark: Benchmark) -> None:
    """Say at the start which prompts a folder of images lacks; their samples will be counted as missing."""
    from benchmarks.geneval import FolderImages

    if isinstance(model, FolderImages):
        absent = model.prompts_without_folder(benchmark.samples())
        if absent:
            click.echo(f"{len(absent)} prompts have no folder in {model.root}, such as {absent[0]}", err=True)


def _default_suite(model_spec: str) -> catalog.Suite:
    return "toy" if model_spec in ("toy", "oracle", "blank") else "paper"


def _default_out(
    suite: catalog.Suite, model_spec: str, names: Sequence[str], seed: int | None, limit: int | None
) -> Path:
    """A folder name that other options do not share."""
    parts = [suite, Path(model_spec.removeprefix("folder:")).resolve().name, *names]
    parts += [f"seed{seed}"] * bool(seed) + [f"limit{limit}"] * bool(limit)
    return Path("runs") / "-".join(parts)


def _names(suite: catalog.Suite, names: Sequence[str]) -> list[str]:
    whole = catalog.SUITES[suite]
    known = [*whole, *(name for other, name in catalog.BENCHMARKS if other == suite and name not in whole)]
    for name in names:
        if name not in known:
            raise BenchError(f"unknown benchmark {name!r} in the suite {suite}: choose among {', '.join(known)}")
    return [name for name in known if name in names] if names else list(whole)


def _within_reach(benchmarks: Sequence[Benchmark], model: Model, model_spec: str, asked_for: bool) -> list[Benchmark]:
    """The benchmarks whose task the model has; a benchmark that was asked for by name must be among them."""
    possible = [benchmark for benchmark in benchmarks if hasattr(model, benchmark.task)]
    left_out = ", ".join(benchmark.name for benchmark in benchmarks if benchmark not in possible)
    if left_out and (asked_for or not possible):
        raise BenchError(f"the model {model_spec} cannot do {left_out}: leave it out or choose another model")
    if left_out:
        click.echo(f"left out, since the model {model_spec} cannot do it: {left_out}", err=True)
    return possible


def load_model(spec: str, profile: Profile, device: Device, together: int | None = None) -> Model:
    """The model that ``--model`` names. Raises BenchError with the choices when there is none."""
    if spec == "oracle":
        from benchmarks.shapes.reference import Oracle

        return Oracle()
    if spec == "blank":
        from benchmarks.shapes.reference import Blank

        return Blank()
    if spec.startswith("folder:"):
        from benchmarks.geneval import FolderImages

        return FolderImages(Path(spec.removeprefix("folder:")))
    return load_checkpoint(spec, profile, device, together=together)


def load_checkpoint(
    spec: str, profile: Profile, device: Device, images: int | None = None, together: int | None = None
) -> Unified:
    """A BLIP3-o: the toy, a checkpoint folder, or one on the hub, to draw so many images. Raises BenchError."""
    if spec != "toy" and not Path(spec).is_dir() and "/" not in spec:
        raise BenchError(f"unknown model {spec!r}: choose {', '.join(MODELS)} or the path of a checkpoint folder")
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
    except CheckpointError as error:  # the model package knows nothing of ours, BenchError included
        raise BenchError(str(error)) from error


def _share_cores() -> None:
    """Divide this machine's cores among the processes torchrun started on it; torch and numpy read it at import."""
    from benchmarks.environment import usable_cores

    processes = os.environ.get("LOCAL_WORLD_SIZE", "1")
    if processes.isdecimal() and int(processes) > 1:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // int(processes))))


def _rescore(
    out: Path,
    names: Sequence[str],
    suite: str | None,
    seed: int | None,
    limit: int | None,
    data: catalog.Data,
    profile: ScoringProfile | None,
) -> list[RunRecord]:
    """Score the run in ``out`` again; options but ``profile`` must be those the run was started with."""
    from benchmarks import runner, store

    spec, _ = store.read_spec(out)
    given = {"suite": suite, "seed": seed, "limit": limit, "benchmarks": sorted(names) or None}
    stored = {"suite": spec.suite, "seed": spec.seed, "limit": spec.limit, "benchmarks": sorted(spec.benchmarks)}
    for field, value in given.items():
        if value is not None and value != stored[field]:
            raise BenchError(f"{out} was run with {field} {stored[field]}, not {value}; leave it out with --rescore")
    stored_suite = cast(catalog.Suite, spec.suite)
    chosen = _names(stored_suite, list(spec.benchmarks))
    ways = [replace(data, profile=profile or _profile(spec.benchmarks[name]["profile"])) for name in chosen]
    return runner.rescore(
        out, [catalog.BENCHMARKS[stored_suite, name](way) for name, way in zip(chosen, ways, strict=True)]
    )


def _profile(stored: str) -> ScoringProfile:
    """A record's profile, or the default for a benchmark that is none of the questions about images."""
    return next((profile for profile in catalog.PROFILES if profile == stored), catalog.PROFILES[0])


def _print_records(records: Sequence[RunRecord], as_json: bool) -> None:
    from reports import render

    click.echo(render.to_json(records) if as_json else render.table(records))


@main.command()
@click.argument("folder", metavar="RUN", type=FOLDER)
@click.option("--html", "as_html", is_flag=True, help="Also write RUN/report.html.")
@click.option("--json", "as_json", is_flag=True, help="Print the records as JSON.")
@click.option("--data-dir", type=FOLDER, help="Folder of fetched data sets.")
def report(folder: Path, as_html: bool, as_json: bool, data_dir: Path | None) -> None:
    """Print the scores of a complete run; --html writes a page with examples."""
    from reports import render

    records = render.load_records(folder)
    _print_records(records, as_json)
    if as_html:
        page = folder / "report.html"
        content = render.html(folder, _asked(records, data_dir))
        _write(page, content.encode())
        click.echo(f"written: {page}", err=True)


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
        benchmark = catalog.BENCHMARKS[suite, record.benchmark](_data(record, data_dir))
        own = folder / benchmark.name
        samples = limited(benchmark.samples(), record.settings["limit"])
        try:
            benchmark.export(samples, store.read_predictions(own), store.read_verdicts(own), own, out / benchmark.name)
        except OSError as error:
            raise BenchError(f"cannot write {out / benchmark.name}: {error.strerror}") from error
        click.echo(out / benchmark.name)


def _data(record: RunRecord, data_dir: Path | None) -> catalog.Data:
    return catalog.Data(data_dir, profile=_profile(record.profile))


def _asked(records: Sequence[RunRecord], data_dir: Path | None) -> dict[str, Sequence[Sample]]:
    """The samples of the records' benchmarks, where their data is at hand."""
    samples: dict[str, Sequence[Sample]] = {}
    for record in records:
        suite = cast(catalog.Suite, record.suite)
        try:
            samples[record.benchmark] = catalog.BENCHMARKS[suite, record.benchmark](_data(record, data_dir)).samples()
        except BenchError as error:
            click.echo(f"examples of {record.benchmark} come without their prompts: {error}", err=True)
    return samples


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise BenchError(f"cannot write {path}: {error.strerror}") from error


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
    if model_spec in ("oracle", "blank") or model_spec.startswith("folder:"):
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
