"""Making and examining the embedded toy model: the study of designs, damages, cards, a contact sheet.

For a checkout, whose docs/ it writes; ``make retrain study-design sensitivity cards`` call it as ``python -m
blip3o_toy``.
"""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

import click

from benchmarks.types import BenchError, Benchmark, Sample
from blip3o_bench.command_line import FILE, FOLDER, CommandLine
from blip3o_bench.models import TOY_CHECKPOINT, load_checkpoint

if TYPE_CHECKING:
    from model.generate import Unified
    from model.held_out import Measured
    from model.recipe import Recipe

Kind = Literal["guidance", "steps", "queries", "weights", "template", "half", "seed"]
HERE = Path(__file__).parent
DESIGNS = HERE / "model" / "recipes" / "design" / "toy"
#: Trained in this order, so that the comparison of designs is complete first.
ARMS = ("clip_mse", "clip_flow", "vae_flow", "joint")
#: Both sides of sequential against joint training are asked these.
UNDERSTANDING = ("vqav2", "mme", "seedbench", "realworldqa")
#: What sensitivity is measured by, to keep it short.
DRAWN, ASKED = ("geneval", "dpg", "mjhq"), ("vqav2", "mme")
#: Damage -> its kind, and the benchmarks that it can touch; "half" takes a checkpoint, "seed" is a control.
DAMAGES: Mapping[str, tuple[Kind, tuple[str, ...]]] = {
    "guidance 1": ("guidance", DRAWN),
    "5 steps": ("steps", DRAWN),
    "shuffled queries": ("queries", DRAWN),
    "template": ("template", DRAWN),
    "8-bit weights": ("weights", DRAWN + ASKED),
    "half the training": ("half", DRAWN + ASKED),
    "nothing": ("seed", DRAWN),
}
RECIPES = HERE / "model" / "recipes" / "toy"
JUDGE_WEIGHTS = HERE / "benchmarks" / "shapes" / "weights"


@click.group(cls=CommandLine)
def main() -> None:
    """Make and examine the embedded toy model."""


@main.command("study-design")
@click.option("--out", type=FOLDER, default="runs/design", show_default=True, help="Give it again to go on.")
@click.option("--seed", "seeds", type=int, multiple=True, default=(1, 2, 3), show_default=True)
@click.option("--arm", "arms", type=click.Choice(ARMS), multiple=True, default=ARMS, show_default=True)
@click.option("--docs", type=FOLDER, default=HERE / "docs", help="Gets design_study.md and design_study/.")
@click.option("--page-only", is_flag=True, help="Write what is there, and run nothing.")
def study_design(out: Path, seeds: tuple[int, ...], arms: tuple[str, ...], docs: Path, page_only: bool) -> None:
    """Train the designs of the paper in small, score them along their training, and write what came of it."""
    from reports import design_study, plots

    if not page_only:
        base = _base(out)
        for arm, seed in product(arms, seeds):
            _study(base, out, arm, seed)
    study = design_study.collect(out)
    results = docs / "design_study"
    design_study.write(study, results / "results.json")
    plots.save(design_study.figure(study), results / "curves.png")
    if sheet := design_study.one_prompt(out):
        sheet.save(results / "one_prompt.png")
    (docs / "design_study.md").write_text(design_study.page(study))


def _base(out: Path) -> Path:
    """The toy model as it was when the study began, since a later one would be another experiment.

    But its backbone is trained anew as far as backbone.toml goes: one that has drawn would favour its design.
    """
    from model.recipe import read_recipe

    base = out / "base"
    if not base.is_dir():
        copying = base.with_suffix(".tmp")
        shutil.rmtree(copying, ignore_errors=True)
        shutil.copytree(TOY_CHECKPOINT, copying)
        copying.rename(base)
    recipe = read_recipe(RECIPES / "backbone.toml")
    with _errors_told():
        _train(replace(recipe, checkpoint=str(base)), out / "backbone", processes=1)
    return base


def _study(base: Path, out: Path, arm: str, seed: int) -> None:
    """Train and score one arm with one seed; what is complete is left alone."""
    from benchmarks.shapes import study
    from model.recipe import read_recipe
    from model.study import train_and_publish, trained_parameters

    recipe = read_recipe(DESIGNS / f"{arm}.toml")
    recipe = replace(recipe, seed=seed, sources=dict.fromkeys(recipe.sources, str(base)))
    folder = out / arm / f"seed{seed}"
    trained = folder / "trained.json"
    if not trained.is_file():
        with _errors_told():
            train_and_publish(recipe, folder)
        stamp = {"parameters": trained_parameters(recipe), "steps": recipe.last, "batch_size": recipe.batch_size}
        trained.write_text(json.dumps(stamp))
    # Joint training is compared at its end, which is a step where its sequential arm is drawn, too.
    for step in (recipe.last // part for part in ((1,) if arm == "joint" else (4, 2, 1))):
        model = str(folder / f"published-{step:06d}")
        _run(folder / f"drawn-{step:06d}", model, study.benchmarks, seed)
    _one_prompt(model, folder / "one-prompt")
    if arm in ("joint", "clip_flow"):
        _run(folder / "answered", model, partial(_columns, UNDERSTANDING), seed, limit=100)


@contextmanager
def _errors_told() -> Iterator[None]:
    """A recipe or checkpoint that is wrong is the user's affair; the model package knows nothing of ours."""
    from model.checkpoint import CheckpointError
    from model.recipe import RecipeError

    try:
        yield
    except (RecipeError, CheckpointError) as error:
        raise BenchError(str(error)) from error


def _columns(names: Sequence[str]) -> list[Benchmark]:
    from benchmarks import catalog

    return [catalog.load("toy", name, catalog.Data()) for name in names]


def _run(
    folder: Path,
    model: str,
    benchmarks: Callable[[], Sequence[Benchmark]],
    seed: int,
    limit: int | None = None,
    changed: Callable[[Unified], Unified] = lambda model: model,
) -> None:
    """A run of the toy suite's benchmarks in ``folder``, unless it is complete: then nothing is loaded.

    Raises BenchError for a complete run of other weights.
    """
    from benchmarks import runner, store
    from benchmarks.work import Part, Settings
    from model.checkpoint import digest

    if (folder / "run.json").is_file():
        weights = digest(TOY_CHECKPOINT if model == "toy" else Path(model))
        if any(record.model["sha256"] != weights for record in store.read_records(folder)):
            raise BenchError(f"{folder} was run with other weights than {model} has now; delete it")
        return
    loaded = changed(load_checkpoint(model, "exact", "cpu", together=8))
    runner.run(folder, benchmarks(), loaded, Settings("toy", seed, limit), Part())


def _one_prompt(model: str, folder: Path, count: int = 16) -> None:
    """So many images of the study's one prompt, unless they are there."""
    from reports.design_study import PROMPT

    if len(list(folder.glob("*.png"))) == count:
        return
    folder.mkdir(exist_ok=True)
    loaded = load_checkpoint(model, "exact", "cpu")
    samples = [Sample(f"{number:02d}", PROMPT, group="") for number in range(count)]
    for sample, image in zip(samples, loaded.generate(samples, range(count)), strict=True):
        image.save(folder / f"{sample.id}.png")


@main.command("sensitivity")
@click.option("--out", type=FOLDER, default="runs/sensitivity", show_default=True, help="Give it again to go on.")
@click.option("--half", type=FOLDER, help="Checkpoint of half the training steps. Default: that damage is left out.")
@click.option("--undamaged", type=FOLDER, help="A complete run of the toy model on the whole toy suite, to be reused.")
@click.option("--limit", "limits", type=click.IntRange(min=0), multiple=True, default=(32, 100, 0), show_default=True)
@click.option("--docs", type=FOLDER, default=HERE / "docs", help="Gets sensitivity.md.")
def sensitivity(out: Path, half: Path | None, undamaged: Path | None, limits: tuple[int, ...], docs: Path) -> None:
    """Damage the toy model on purpose and see what the gate notices, with more samples (0: all) while it does not."""
    from reports.sensitivity import Try, examine, page

    tries: list[Try] = []
    for number in limits:
        limit = number or None
        size = out / f"limit-{number}" if number else out / "all"
        baseline = undamaged if undamaged and limit is None else size / "undamaged"
        noticed = {one.damage for one in tries if one.detected}
        for damage, (kind, columns) in DAMAGES.items():
            checkpoint = str(half) if kind == "half" else "toy"
            if damage in noticed or (kind == "half" and half is None) or (kind == "seed" and limit is None):
                continue
            _run(baseline, "toy", partial(_columns, DRAWN + ASKED), 0, limit)
            seed = 1 if kind == "seed" else 0
            _run(size / kind, checkpoint, partial(_columns, columns), seed, limit, partial(_damaged, kind))
            tries.append(examine(damage, limit, size / kind, baseline))
            click.echo(f"{damage}, {number or 'all'}: gate {tries[-1].gated.verdict}", err=True)
    (docs / "sensitivity.md").write_text(page(tries))


def _damaged(kind: Kind, model: Unified) -> Unified:
    from model.damages import Damaged

    return model if kind == "half" or kind == "seed" else Damaged(model, kind)


@main.command("contact-sheet")
@click.option("--model", default="toy", show_default=True, help="toy, or a checkpoint folder.")
@click.option("--out", type=FILE, default=HERE / "docs" / "img" / "toy_contact_sheet.png")
def contact_sheet(model: str, out: Path) -> None:
    """Draw 64 images of the toy suite's prompts on one picture; what is held out of training is marked."""
    from benchmarks.predicting import seed_for
    from benchmarks.shapes.sheet import Tile, drawn_sheet, is_held_out, rows_of

    samples = {benchmark.name: benchmark.samples() for benchmark in _columns(("geneval", "dpg", "wise"))}
    loaded = load_checkpoint(model, "exact", "cpu")
    rows = {}
    for name, row in rows_of(samples).items():
        images = loaded.generate(row, [seed_for(0, sample.id) for sample in row])
        rows[name] = [Tile(image, s.prompt, is_held_out(s)) for image, s in zip(images, row, strict=True)]
    drawn_sheet(rows).save(out)


@main.command("cards")
@click.option(
    "--work", type=(str, FOLDER), multiple=True, metavar="RECIPE FOLDER", help="A recipe's run, to be told of."
)
@click.option(
    "--manifest", type=FILE, default=HERE / "docs" / "toy_model.json", help="Written, with its .md beside it."
)
@click.option("--examples", type=click.IntRange(min=1), default=500, show_default=True, help="Of each held-out score.")
def cards(work: tuple[tuple[str, Path], ...], manifest: Path, examples: int) -> None:
    """Measure the committed weights on held-out examples, and renew the manifest and the cards.

    How a recipe was run is read from its work folder where --work names one, else kept as the manifest has it.
    """
    from benchmarks.environment import hardware
    from model import cards as manifests

    machine = str(hardware()["cpu"])
    with _errors_told():
        runs = [manifests.trained_in(folder, f"model/recipes/toy/{name}.toml", machine) for name, folder in work]
    measured = _held_out(TOY_CHECKPOINT, JUDGE_WEIGHTS, RECIPES, examples)
    made = [manifests.renewed(card, HERE, runs, measured) for card in manifests.read(manifest)]
    manifests.write(made, manifest)
    manifest.with_suffix(".md").write_text(manifests.page(made))


@main.command("retrain")
@click.option("--out", type=FOLDER, default="runs/retrain", show_default=True, help="Give it again to go on.")
@click.option("--recipes", type=FOLDER, default=RECIPES, help="Folder of the recipes. Default: the committed ones.")
@click.option("--judges/--no-judges", default=True, help="Train the judges, too. Otherwise the committed ones judge.")
@click.option("--examples", type=click.IntRange(min=1), default=500, show_default=True, help="Of each held-out score.")
@click.option("--processes", type=click.IntRange(min=1), default=1, show_default=True, help="Sharing each batch.")
@click.pass_context
def retrain(ctx: click.Context, out: Path, recipes: Path, judges: bool, examples: int, processes: int) -> None:
    """Train all parts anew, and compare their held-out scores with the cards; exits with 1 where one is worse."""
    from benchmarks.shapes import chat, train_judges
    from model import cards as manifests
    from model.recipe import read_recipe

    checkpoint, weights = out / "toy", out / "judges"
    for name in _order(recipes):
        recipe = read_recipe(recipes / f"{name}.toml")
        sources = dict.fromkeys(recipe.sources, str(checkpoint))  # all from scratch: nothing committed is read
        with _errors_told():
            _train(replace(recipe, checkpoint=str(checkpoint), sources=sources), out / "work" / name, processes)
    if judges and not (weights / chat.CARD).is_file():  # the last file that is written
        train_judges.main(["--out", str(weights)])
    measured = _held_out(checkpoint, weights if judges else JUDGE_WEIGHTS, recipes, examples)
    found = manifests.repeated(manifests.read(HERE / "docs" / "toy_model.json"), measured)
    for one in found:
        here = "none" if one.value is None else f"{one.value:.4g}"
        told = "agrees" if one.agrees else "worse"
        click.echo(f"{one.part:10} {one.card.name:32} card {one.card.value:.4g}  here {here}  {told}")
    ctx.exit(0 if all(one.agrees for one in found) else 1)


def _train(recipe: Recipe, work: Path, processes: int) -> None:
    """Run a recipe; several processes are started as torchrun would, and tell their errors themselves."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from model.train import train

    if processes == 1:
        train(recipe, work)
        return
    config = LaunchConfig(1, 1, processes, rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0)
    # The launcher keeps its handlers, and workers forked later (mmdet evaluates in some) would end with a traceback.
    handlers = {
        number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    }
    try:
        elastic_launch(config, train)(recipe, work)
    except ChildFailedError as error:
        raise BenchError(f"{work.name}: a process of the training failed; what it said stands above") from error
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _order(recipes: Path) -> list[str]:
    """The toy model's recipes in the order in which they build on each other; the generator's stages are numbered."""
    stages = sorted((path.stem for path in recipes.glob("generator*.toml")), key=lambda name: (len(name), name))
    return ["vae", "eva_clip", "decoder", "backbone", *stages]


def _held_out(checkpoint: Path, weights: Path, recipes: Path, examples: int) -> Measured:
    """Every score of the cards."""
    from benchmarks import runner
    from benchmarks.shapes import held_out as judged
    from benchmarks.shapes.training import understanding
    from benchmarks.work import Part, Settings
    from model import held_out
    from model.recipe import read_recipe

    model = load_checkpoint(str(checkpoint), "exact", "cpu", together=8)
    scores = held_out.pixel_errors(checkpoint, understanding, held_out.OTHER_SEED, examples)
    scores |= held_out.losses(read_recipe(recipes / f"{_order(recipes)[-1]}.toml"), checkpoint, examples)
    scores |= judged.judges(weights, examples)
    for name, benchmark, drawn_by in (
        ("oracle GenEval through features", "geneval", judged.ThroughFeatures(model)),
        ("VQAv2 answers", "vqav2", model),
    ):
        with TemporaryDirectory() as folder:
            settings = Settings("toy", limit=examples)
            records = runner.run(Path(folder), _columns([benchmark]), drawn_by, settings, Part())
        assert records is not None
        overall = records[0].metrics[0]
        if overall.value is not None:
            scores[name] = overall.value, overall.n
    return scores


if __name__ == "__main__":
    main()
