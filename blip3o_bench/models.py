"""Models: the one that ``--model`` names, which kinds there are, drawing with one, training one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from benchmarks import plugins
from benchmarks.environment import torch_device
from benchmarks.models import MODELS, table
from benchmarks.types import BenchError, Model, Sample
from blip3o_bench.command_line import FILE, FILE_THERE, FOLDER, PRICE, options_as, write

if TYPE_CHECKING:
    from model.generate import Device, Profile, Unified

TOY_CHECKPOINT = Path(__file__).parents[1] / "model" / "toy"

#: In the folder of a run: what a model behind a server was asked, and what that cost.
CHARGES = "model.jsonl"

CHECKPOINTS_HELP = "a checkpoint folder, or owner/name[@revision] on the Hugging Face hub"
MODEL_HELP = (
    f"toy, oracle, blank, folder:DIR with images that are there already, diffusers:NAME, {CHECKPOINTS_HELP}; "
    "others: models list."
)
#: Who has a setting: the kinds of --model.
HAVING = {
    "steps": ("diffusers",),
    "guidance": ("diffusers", "janus", "emu3"),
    "size": ("diffusers", "emu3", "openai-images"),
    "model_prices": ("openai-chat",),
    "image_price": ("openai-images",),
}
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
    model_prices: tuple[float, float] | None
    image_price: float | None
    max_model_cost: float | None


MODEL_OPTIONS = options_as(
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
    click.option(
        "--model-prices",
        type=(PRICE, PRICE),
        metavar="IN OUT",
        help="Of openai-chat, in US dollars per million tokens of prompt and reply.",
    ),
    click.option("--image-price", type=PRICE, help="Of openai-images, in US dollars per image."),
    click.option(
        "--max-model-cost",
        type=PRICE,
        help="US dollars; no batch is asked that may pass it. Needs --model-prices or --image-price.",
    ),
)


def check_known(spec: str) -> None:
    """Raise BenchError for what cannot be a model."""
    kind = spec.partition(":")[0]
    known = kind in (one.prefix for one in MODELS) or kind in plugins.found("models")
    if not known and not Path(spec).is_dir() and "/" not in spec:
        raise BenchError(f"unknown model {spec!r}: choose one of blip3o-bench models list, or a checkpoint folder")


def check_options(spec: str, running: ModelOptions) -> None:
    """Raise BenchError for a setting that this kind of model has not, and for a budget without a price."""
    kind = spec.partition(":")[0]
    for name, kinds in HAVING.items():
        if getattr(running, name) is not None and kind not in kinds:
            raise BenchError(f"--{name.replace('_', '-')} is for {', '.join(kinds)} alone")
    if kind in (one.prefix for one in MODELS):
        if running.backend == "vllm":
            raise BenchError("--backend vllm is for a stock Qwen2.5-VL alone: name its folder, or owner/name")
        if running.answers_together is not None and kind != "toy":
            raise BenchError("--answers-together is for a BLIP3-o alone")
        if running.model_profile != "exact" and kind != "toy":
            raise BenchError("--model-profile is for a BLIP3-o alone")
    elif running.backend == "vllm" and running.answers_together is not None:
        raise BenchError("--answers-together is for a BLIP3-o alone: vLLM schedules what it is given")
    if running.max_model_cost is not None and running.model_prices is None and running.image_price is None:
        raise BenchError("--max-model-cost needs --model-prices of openai-chat, or --image-price of openai-images")


def load_model(spec: str, running: ModelOptions, folder: Path) -> Model:
    """The model that ``--model`` names; what a server charges is kept in ``folder``.

    Raises BenchError with the choices when there is none.
    """
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
        from benchmarks.server import Prices

        prices = Prices(*running.model_prices) if running.model_prices else None
        return ChatEndpoint(name, folder / CHARGES, prices, running.max_model_cost)
    if kind == "openai-images":
        from benchmarks.endpoint import ImagesEndpoint

        return ImagesEndpoint(name, folder / CHARGES, running.size, running.image_price, running.max_model_cost)
    if kind in ("diffusers", "janus", "emu3", "transformers") or running.backend == "vllm":
        return _load_other(kind, spec if running.backend == "vllm" else name, running)
    if not Path(spec).is_dir() and kind in plugins.found("models"):
        return plugins.model(kind, name)
    from model.generate import Drawer

    loaded = load_checkpoint(spec, running.model_profile, running.device, together=running.answers_together)
    return loaded if loaded.sees else Drawer(loaded)


def _load_other(kind: str, name: str, running: ModelOptions) -> Model:
    from model.tensors import CheckpointError

    place = torch_device(running.device)
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
    spec: str, profile: Profile, device: Device, group: int | None = None, together: int | None = None
) -> Unified:
    """A BLIP3-o: the toy, a checkpoint folder, or one on the hub; it draws so many at once. Raises BenchError."""
    check_known(spec)
    from model.checkpoint import CheckpointError
    from model.generate import GROUP, load

    try:
        return load(
            str(TOY_CHECKPOINT) if spec == "toy" else spec,
            profile,
            device,
            group or GROUP,
            together or (8 if spec == "toy" else 1),  # the toy's images are all of one size
        )
    except CheckpointError as error:
        raise BenchError(str(error)) from error


def tell_cost(model: Model) -> None:
    """What a model behind a server took, on standard error."""
    from benchmarks.endpoint import ModelEndpoint

    if isinstance(model, ModelEndpoint):
        click.echo(f"model: {model.usage()}", err=True)


def located(spec: str) -> tuple[Path, str]:
    """Folder and name of a model in a folder or on the hub. Raises BenchError."""
    from model.hub import locate
    from model.tensors import CheckpointError

    try:
        found = locate(spec)
    except CheckpointError as error:
        raise BenchError(str(error)) from error
    return found.folder, found.name if found.repo else found.folder.name


@click.group(no_args_is_help=False)
def models() -> None:
    """What --model takes."""


@models.command("list")
def models_list() -> None:
    """Kinds of models: what each can do and what it needs, and the plug-ins installed."""
    click.echo(table())


@click.command()
@click.argument("prompts", metavar="PROMPT...", nargs=-1)
@click.option(
    "--image",
    "pictures",
    multiple=True,
    type=FILE_THERE,
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
@click.option("--out", type=FOLDER, default="generated", show_default=True, help="Gets one PNG per prompt.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the noise that the images start from.")
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

    from benchmarks.images import UNREADABLE, open_image
    from benchmarks.predicting import seed_for
    from model.tensors import CheckpointError

    if bool(prompts) == bool(pictures):
        raise BenchError("give one or more prompts, or one or more --image FILE")
    if model_spec in ("oracle", "blank") or ":" in model_spec:
        raise BenchError(f"the model {model_spec} reads no prompts: choose toy or the path of a checkpoint folder")
    names = [f"{number:05d}" for number in range(len(prompts or pictures))]
    seeds = [seed_for(seed, name) for name in names]
    # One by one: in a group the last bits would depend on how many prompts there are.
    model = load_checkpoint(model_spec, model_profile, device, group=1)
    try:
        seen = [open_image(path).convert("RGB") for path in pictures]
    except UNREADABLE as error:
        raise BenchError(f"not a readable image: {error}") from error
    try:
        if prompts:
            samples = [Sample(name, prompt, group=name) for name, prompt in zip(names, prompts, strict=True)]
            images = model.generate(samples, seeds)
        else:
            images = model.reconstruct(seen, seeds) if through == "backbone" else model.decode_images(seen, seeds)
    except CheckpointError as error:  # a part that only this way of drawing reads
        raise BenchError(str(error)) from error
    for name, image in zip(names, images, strict=True):
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        write(out / f"{name}.png", buffer.getvalue())
        click.echo(out / f"{name}.png")


@click.command()
@click.argument("recipe", metavar="RECIPE.toml", type=FILE)
@click.option("--out", type=FOLDER, help="Work folder; give it again to resume. Default: runs/train/ and the recipe.")
def train(recipe: Path, out: Path | None) -> None:
    """Train one part of a model."""
    from model import train as training
    from model.checkpoint import CheckpointError

    try:
        training.main(recipe, out)
    except (training.RecipeError, CheckpointError, FloatingPointError) as error:
        raise BenchError(str(error)) from error
    except (OSError, training.SavingError) as error:  # a full disk, a work folder that cannot be written
        if isinstance(error, OSError) and error.filename is not None:
            told = f"{error.filename}: {error.strerror}"
        else:  # from a process that loads data, with its traceback: the last line is the reason
            told = str(error).strip().splitlines()[-1]
        raise BenchError(f"{told}; mend that, and the same command goes on from the last state") from error
