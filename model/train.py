"""The training entry point: one recipe, one part of BLIP3-o, resumable at any step.

    blip3o-bench train model/recipes/toy/vae.toml
    torchrun --nproc_per_node 8 -m blip3o_bench train RECIPE.toml
    accelerate launch --config_file model/recipes/parallel/fsdp.yaml -m blip3o_bench train RECIPE.toml

A recipe names the part, the checkpoint folder that it reads the other parts from and writes its own to, the
data sources, and the schedule. State lies in a work folder; a second call goes on where the first one ended, and
gives the same weights as one uninterrupted call. However many processes share a batch, its examples and their random
numbers are the same.

    work/step-001000/     state after 1000 steps, complete as soon as it has this name
    work/log.jsonl        losses, gradient norm, learning rate, speed
    work/unreadable.txt   examples that were left out: index, tab, reason
    work/published.json   the last step whose weights went to the checkpoint folder
    work/previews/        images of the recipe's preview prompts
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, ProjectConfiguration, gather_object
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.fsdp import register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, Dataset

from model.data import Draws, Source, Unreadable
from model.parts.autoencoders import DecoderPart, EvaClipPart, Vae
from model.parts.backbone import Backbone
from model.parts.base import Part
from model.parts.generator import Generator
from model.recipe import CHANGEABLE, PartName, Recipe, RecipeError, learning_rate, read_recipe
from model.sources import load_mixture
from model.tensors import write_atomic

__all__ = ["RecipeError", "SavingError", "main", "train"]

PARTS: dict[PartName, Callable[[Recipe, Source], Part]] = {
    "vae": Vae,
    "eva_clip": EvaClipPart,
    "decoder": DecoderPart,
    "backbone": Backbone,
    "generator": Generator,
}
#: Engines that spread the weights or the optimizer over processes; they keep no average of the weights.
SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)


class SavingError(Exception):
    """The state could not be written, as on a full disk; the last whole one is there."""


def main(path: Path, work: Path | None = None) -> None:
    """Run the recipe at ``path``; the work folder is ``runs/train/<name>`` unless given."""
    train(read_recipe(path), work or Path("runs/train") / path.stem)


def train(recipe: Recipe, work: Path) -> None:
    """Run a recipe to its end, from the work folder's last state where there is one.

    The trained part (averaged weights, if the recipe averages) goes to the recipe's checkpoint folder whenever the
    state is saved. Every process of a run must see the same work and checkpoint folders. Raises RecipeError for a
    recipe that cannot be run as it is, and when ``work`` holds another recipe's state.
    """
    accelerator = start(recipe, work)
    torch.manual_seed(recipe.seed)  # the same first weights in every process
    try:
        source = load_mixture(recipe.data)
    except ValueError as error:
        raise RecipeError(f"data: {error}") from error
    part = PARTS[recipe.part](recipe, source)
    part.place(accelerator.device, torch.bfloat16 if recipe.precision == "bf16" else torch.float32)
    if recipe.gradient_checkpointing:
        part.checkpoint_gradients()
    parameters = [parameter for parameter in part.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)
    average = Average(part, recipe.ema) if recipe.ema else None
    model, optimizer = accelerator.prepare(part.train(), optimizer)
    if accelerator.distributed_type == DistributedType.FSDP:
        register_fsdp_forward_method(model, "draw")  # gathers weights as forward does
    run = Run(recipe, work, accelerator, part, model, optimizer, average, source.sizes())
    first = run.resume()
    if first == recipe.last:
        if run.published() != first:  # stopped just before; otherwise what another recipe wrote since would be undone
            run.publish(first)
    else:
        with attention(accelerator.device, recipe):
            run.loop(first, source)
    accelerator.end_training()


def attention(device: torch.device, recipe: Recipe) -> AbstractContextManager[None]:
    """torch's choice of attention, but for bfloat16 on a CPU: its fused kernel takes a third of a small model's step
    there, four times what the plain matrix products take.
    """
    plain = device.type == "cpu" and recipe.precision == "bf16"
    return sdpa_kernel(SDPBackend.MATH) if plain else nullcontext()


def start(recipe: Recipe, work: Path) -> Accelerator:
    """One of the processes of a run, as torchrun or ``accelerate launch`` says. RecipeError where it does not fit."""
    for tracker in recipe.trackers:
        if importlib.util.find_spec(tracker) is None:
            raise RecipeError(f"trackers: {tracker} is not installed; run: pip install {tracker}")
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # or several processes on CPUs would not know of each other
        mixed_precision="no",  # the part's own business
        gradient_accumulation_steps=recipe.accumulation,
        log_with=list(recipe.trackers) or None,
        project_config=ProjectConfiguration(project_dir=str(work), logging_dir=str(work / "trackers")),
    )
    parts = accelerator.num_processes * recipe.accumulation
    if recipe.batch_size % parts:
        raise RecipeError(
            f"batch_size {recipe.batch_size} is not a multiple of {parts}: "
            f"{accelerator.num_processes} processes x {recipe.accumulation} micro-batches"
        )
    if accelerator.distributed_type in SHARDED and recipe.ema:
        raise RecipeError(
            f"ema is not for {accelerator.distributed_type.value}: no process holds all weights; set ema = 0"
        )
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        # DeepSpeed clips by itself, and does not see the batches.
        config = accelerator.state.deepspeed_plugin.deepspeed_config
        config["gradient_clipping"] = recipe.clip
        config["train_micro_batch_size_per_gpu"] = recipe.batch_size // parts
    if recipe.trackers:
        settings = {k: v for k, v in dataclasses.asdict(recipe).items() if isinstance(v, (int, float, str))}
        accelerator.init_trackers("blip3o", config=settings)
    return accelerator


class Average:
    """Exponential moving average of the trained parameters; short at first, so that the start is forgotten."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.parameters = dict(module.named_parameters())
        self.decay = decay
        self.values = {name: p.detach().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, parameter in self.parameters.items():
            value = self.values[name] = self.values[name].to(parameter.device)
            value.lerp_(parameter, 1 - decay)


class Examples(Dataset[tuple[int, Any]]):
    """Example index -> (index, item), or (index, Unreadable). Runs in the data loader's processes."""

    def __init__(self, source: Source, seed: int, prepare: Callable[[Any], Any]) -> None:
        self.source = source
        self.seed = seed
        self.prepare = prepare

    def __getitem__(self, index: int) -> tuple[int, Any]:
        try:
            return index, self.prepare(self.source(self.seed, index))
        except Unreadable as error:
            return index, error


def slices(recipe: Recipe, first: int, process: int, processes: int) -> Iterator[list[int]]:
    """Example indices of one process's micro-batches, from step ``first`` to the last.

    Step s is made of the examples from s * batch_size on, whatever the number of processes.
    """
    size = recipe.batch_size // (recipe.accumulation * processes)
    for step in range(first, recipe.last):
        for micro in range(recipe.accumulation):
            begin = step * recipe.batch_size + (micro * processes + process) * size
            yield list(range(begin, begin + size))


@dataclass
class Run:
    """A recipe at work. ``model`` is ``part`` as accelerate wraps it, ``sizes`` are examples by finite source."""

    recipe: Recipe
    work: Path
    accelerator: Accelerator
    part: Part
    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: Average | None
    sizes: Mapping[str, int]

    def loop(self, first: int, source: Source) -> None:
        recipe, accelerator = self.recipe, self.accelerator
        loader = DataLoader(
            Examples(source, recipe.seed, self.part.prepare),
            batch_sampler=slices(recipe, first, accelerator.process_index, accelerator.num_processes),
            num_workers=recipe.workers,
            collate_fn=list,
        )
        batches = iter(loader)
        left_out: list[tuple[int, str]] = []
        finite = torch.tensor(True, device=accelerator.device)
        logged, then = first, time.monotonic()
        for step in range(first, recipe.last):
            batch = []
            for _ in range(recipe.accumulation):
                items, unreadable = readable(next(batches))
                self.check(step, items, unreadable)
                left_out += unreadable
                batch.append(items)
            means, norm = self.step(step, batch)
            finite &= norm.isfinite()

            done = step + 1
            saving = done % recipe.save_every == 0 or done == recipe.last
            logging = done % recipe.log_every == 0 or done == recipe.last
            # Only now do the processes wait for each other and for the device.
            if (saving or logging) and not finite:
                raise FloatingPointError(f"the gradient was not finite before step {done}: lower the learning rate")
            if saving or logging:
                self.note_unreadable(left_out)
                left_out = []
            if logging:
                now = time.monotonic()
                self.report(done, means, norm, (done - logged) * recipe.batch_size / (now - then))
                logged, then = done, now
            if saving:
                self.save(done)
            if recipe.preview_every and done % recipe.preview_every == 0:
                self.preview(done)

    def step(self, step: int, batch: list[dict[int, Any]]) -> tuple[dict[str, Tensor], Tensor]:
        """One step of the optimizer on this process's micro-batches -> its share of each loss, gradient norm."""
        recipe, accelerator = self.recipe, self.accelerator
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step)
        counts = self.global_counts(batch)
        # accelerate and DDP take the mean over micro-batches and processes. Here losses are sums, divided by how
        # many terms all of them have.
        parts = accelerator.num_processes * recipe.accumulation
        means = {name: torch.zeros((), device=accelerator.device) for name in counts}
        norm = torch.zeros((), device=accelerator.device)
        for items in batch:
            with accelerator.accumulate(self.model):
                losses = self.model(list(items.values()), Draws(recipe.seed, list(items)))
                shares = {name: loss.total / counts[name] for name, loss in losses.items()}
                accelerator.backward(torch.stack(list(shares.values())).sum() * parts)
                if accelerator.sync_gradients:
                    norm = _whole(accelerator.clip_grad_norm_(self.model.parameters(), recipe.clip)).to(norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
            for name, share in shares.items():
                means[name] += share.detach()
        if self.average:
            self.average.update(step)
        return means, norm

    def check(self, step: int, items: Mapping[int, Any], unreadable: list[tuple[int, str]]) -> None:
        """RecipeError for a micro-batch that leaves a loss without a term: processes would wait for each other."""
        for name, count in self.part.counts(list(items.values())).items():
            if not count:
                raise RecipeError(
                    f"step {step + 1}, process {self.accelerator.process_index}: no example for the loss {name!r} in a "
                    f"micro-batch of {len(items) + len(unreadable)}, {len(unreadable)} of them unreadable"
                    f"{''.join(f'; {reason}' for _, reason in unreadable[:3])}. Enlarge batch_size or mend the data"
                )

    def global_counts(self, batch: list[dict[int, Any]]) -> dict[str, Tensor]:
        """Terms of each loss over all processes and micro-batches."""
        counts = [self.part.counts(list(items.values())) for items in batch]
        local = torch.tensor([[*count.values()] for count in counts], device=self.accelerator.device).sum(0)
        total: Tensor = self.accelerator.reduce(local, reduction="sum")
        return dict(zip(counts[0], total, strict=True))

    def report(self, step: int, means: Mapping[str, Tensor], norm: Tensor, rate: float) -> None:
        """One line to the log file and one to stderr: losses, gradient norm, samples per second, time left."""
        recipe = self.recipe
        totals: Tensor = self.accelerator.reduce(torch.stack(list(means.values())), reduction="sum")
        losses = {name: round(loss, 7) for name, loss in zip(means, totals.tolist(), strict=True)}
        values = losses | {"gradient_norm": round(norm.item(), 7), "learning_rate": learning_rate(recipe, step - 1)}
        values["unreadable"] = len(_lines(self.work / "unreadable.txt"))
        values["samples_per_second"] = round(rate, 1)
        self.accelerator.log(values, step=step)
        if not self.accelerator.is_main_process:
            return
        with (self.work / "log.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        left = (recipe.last - step) * recipe.batch_size / rate
        shown = "  ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
        skipped = f"  {values['unreadable']:.0f} unreadable" * bool(values["unreadable"])
        print(
            f"{recipe.part} {step}/{recipe.last}  {shown}  norm {norm.item():.2f}  lr {values['learning_rate']:.2e}  "
            f"{rate:.1f}/s{skipped}  {_duration(left)} left",
            file=sys.stderr,
            flush=True,
        )

    def note_unreadable(self, left_out: list[tuple[int, str]]) -> None:
        """Add the examples that all processes left out to ``unreadable.txt``."""
        everywhere = sorted(gather_object(left_out))
        if everywhere and self.accelerator.is_main_process:
            with (self.work / "unreadable.txt").open("a") as file:
                file.writelines(f"{index}\t{' '.join(reason.split())}\n" for index, reason in everywhere)

    def preview(self, step: int) -> None:
        """Draw the preview prompts side by side. Every process draws, since each may hold but a part of the weights."""
        assert isinstance(self.part, Generator)
        self.part.eval()
        images = self.part.draw(self.recipe.preview_prompts)  # [B, 3, H, W]
        self.part.train()
        if not self.accelerator.is_main_process:
            return
        row = (torch.cat(list(images), dim=2) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
        path = self.work / "previews" / f"step-{step}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(row).save(path)
        for tracker in self.accelerator.trackers:
            layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({"preview": row[None]}, step=step, **layout)

    def save(self, step: int) -> None:
        """Write the state and publish its weights. Raises SavingError, or OSError with the file's name."""
        with _saving(self.work):
            self.save_state(step)
            self.publish(step)

    def save_state(self, step: int) -> None:
        """Write the state under another name first, so that a folder called ``step-NNNNNN`` is always whole."""
        accelerator, folder = self.accelerator, self.work / f"step-{step:06d}"
        temporary = folder.with_suffix(".tmp")
        if accelerator.is_main_process:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
        accelerator.wait_for_everyone()
        # Not as safetensors, which leaves tied weights out and warns that it did.
        accelerator.save_state(str(temporary), safe_serialization=False)
        if accelerator.is_main_process:
            if self.average:
                averages = {name: value.contiguous() for name, value in self.average.values.items()}
                save_file(averages, temporary / "average.safetensors")
            (temporary / "state.json").write_text(json.dumps(self.stamp() | {"step": step}, indent=2))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            os.replace(temporary, folder)
            for old in states(self.work)[: -self.recipe.keep_last]:
                os.replace(old, old.with_suffix(".tmp"))  # a name that is not a whole state's while it is deleted
            for leftover in self.work.glob("step-*.tmp"):
                shutil.rmtree(leftover)

    def published(self) -> int:
        """The last step whose weights are in the checkpoint folder; 0 before the first."""
        marker = self.work / "published.json"
        return int(json.loads(marker.read_text())["step"]) if marker.is_file() else 0

    def publish(self, step: int) -> None:
        """Write the trained part into the checkpoint folder, where each file is replaced by a whole one."""
        state = self.accelerator.get_state_dict(self.model)
        if self.accelerator.is_main_process:
            folder = Path(self.recipe.checkpoint)
            # Of this run alone: another one may save another part into the same folder.
            own = hashlib.sha256(str(self.work.resolve()).encode()).hexdigest()[:8]
            temporary = folder / f".saving-{own}"
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            self.part.save(temporary, state | (self.average.values if self.average else {}))
            for file in [path for path in temporary.rglob("*") if path.is_file()]:
                target = folder / file.relative_to(temporary)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(file, target)
            shutil.rmtree(temporary)
            write_atomic(self.work / "published.json", json.dumps({"step": step}).encode())
        self.accelerator.wait_for_everyone()

    def resume(self) -> int:
        """Load the work folder's last state, if any, and return the number of steps that are done."""
        if self.accelerator.is_main_process:
            self.work.mkdir(parents=True, exist_ok=True)
        self.accelerator.wait_for_everyone()
        saved = states(self.work)
        if not saved:
            self.rewind(0)
            return 0
        stored = json.loads((saved[-1] / "state.json").read_text())
        step: int = stored.pop("step")
        here = self.stamp()
        differing = [name for name in here["recipe"] if stored["recipe"].get(name) != here["recipe"][name]]
        if differing := [name for name in differing if name not in CHANGEABLE]:
            raise RecipeError(
                f"{self.work} holds the state of another recipe, with another {', '.join(differing)}; "
                "choose another --out folder or delete it"
            )
        for name, size in self.sizes.items():
            if (before := stored.get("examples", {}).get(name, size)) != size:  # older states do not know
                raise RecipeError(
                    f"data: {name} had {before} examples when {self.work} was begun and has {size} now, which would "
                    "repeat some and skip others; restore it, or choose another --out folder"
                )
        for name, now in here["sources"].items():
            if (then := stored.get("sources", {}).get(name, now)) != now:
                raise RecipeError(
                    f"{self.work} was begun with {then}, and the recipe's {name} is {now} by now: "
                    f"name that commit in the recipe, as {then}"
                )
        if step == self.recipe.last == self.published():
            return step  # nothing goes on from it: neither its optimizer nor the same processes are needed
        for name in ("processes", "engine"):
            if stored[name] != here[name]:
                raise RecipeError(
                    f"{self.work} was begun with {name} {stored[name]}, not {here[name]}; go on with that"
                )
        self.accelerator.load_state(str(saved[-1]))
        if self.average:
            self.average.values = load_file(saved[-1] / "average.safetensors")
        self.rewind(step)
        return step

    def stamp(self) -> dict[str, Any]:
        """What a state goes on with: recipe, examples, commits on the hub, number of processes, and who spreads the
        weights over them."""
        recipe = json.loads(json.dumps(dataclasses.asdict(self.recipe)))
        engine = self.accelerator.distributed_type
        return {
            "recipe": recipe,
            "examples": dict(self.sizes),
            "sources": {name: found.name for name, found in self.part.sources.items() if found.repo},
            "processes": self.accelerator.num_processes,
            "engine": engine.value if engine in SHARDED else "none",
        }

    def rewind(self, step: int) -> None:
        """Take back what was written after ``step``: those steps are taken again."""
        if self.accelerator.is_main_process:
            log, unreadable = self.work / "log.jsonl", self.work / "unreadable.txt"
            _keep(log, lambda line: json.loads(line)["step"] <= step)
            _keep(unreadable, lambda line: int(line.split("\t")[0]) < step * self.recipe.batch_size)
        self.accelerator.wait_for_everyone()


def readable(batch: list[tuple[int, Any]]) -> tuple[dict[int, Any], list[tuple[int, str]]]:
    """Split a micro-batch into items by index, and what could not be read."""
    items = {index: item for index, item in batch if not isinstance(item, Unreadable)}
    return items, [(index, str(item)) for index, item in batch if isinstance(item, Unreadable)]


def states(work: Path) -> list[Path]:
    """The complete states of a work folder, oldest first."""
    return sorted(
        (path for path in work.glob("step-*") if re.fullmatch(r"step-\d+", path.name)),
        key=lambda path: int(path.name.removeprefix("step-")),
    )


@contextmanager
def _saving(folder: Path) -> Iterator[None]:
    """SavingError for a disk that does not take what is written: torch and safetensors have errors of their own."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        named = isinstance(error, OSError) and error.filename is not None
        # torch's writer of archives raises RuntimeError, like much else.
        if named or (isinstance(error, RuntimeError) and "inline_container" not in str(error)):
            raise
        raise SavingError(f"cannot save into {folder}: {str(error).splitlines()[0]}") from error


def _lines(path: Path) -> list[str]:
    """The whole lines of a file; what follows the last newline was cut off when a process was killed."""
    return path.read_text().split("\n")[:-1] if path.is_file() else []


def _keep(path: Path, wanted: Callable[[str], bool]) -> None:
    """Drop the lines of a file that are not wanted."""
    if path.is_file():
        write_atomic(path, "".join(line + "\n" for line in _lines(path) if wanted(line)).encode())


def _whole(norm: Tensor | float) -> Tensor:
    """A gradient norm as DDP, FSDP and DeepSpeed give it -> a tensor of this process."""
    return norm.full_tensor() if isinstance(norm, DTensor) else torch.as_tensor(norm)


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if days else f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
