"""A BLIP3-o on disk.

    config.json             latent queries, diffusion transformer, sampling settings
    generator.safetensors   latent queries and diffusion transformer
    backbone/               Qwen2.5-VL as transformers saves it, with its processor
    decoder/unet, vae/      as diffusers saves them
    eva_clip/               target encoder; only training reads it

Weights may be stored in half precision; they are read as float32.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor
from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

from model.blip3o import Blip3o, Blip3oConfig
from model.decoder import Decoder
from model.dit import DiTConfig
from model.eva_clip import EvaClip, EvaConfig


@dataclass(frozen=True)
class Sampling:
    """How images are drawn. The defaults are upstream's fixed 30 steps and its pipeline's 50."""

    steps: int = 30
    guidance: float = 3.0
    decoder_steps: int = 50
    decoder_guidance: float = 3.0


class CheckpointError(Exception):
    """A checkpoint folder that cannot be read; the message names the file."""


def read_config(folder: Path) -> tuple[Blip3oConfig, Sampling]:
    path = folder / "config.json"
    try:
        data = json.loads(path.read_text())
        return Blip3oConfig(data["n_query"], DiTConfig(**data["dit"])), Sampling(**data["sampling"])
    except FileNotFoundError:
        raise CheckpointError(f"{folder} holds no BLIP3-o checkpoint: {path} is missing") from None
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is not a BLIP3-o configuration: {error}") from error


def write_config(folder: Path, config: Blip3oConfig, sampling: Sampling) -> None:
    data = {
        "n_query": config.n_query,
        "dit": dataclasses.asdict(config.dit),
        "sampling": dataclasses.asdict(sampling),
    }
    write_atomic(folder / "config.json", (json.dumps(data, indent=2) + "\n").encode())


def write_atomic(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def save_tensors(module: nn.Module, path: Path) -> None:
    """Write a module's tensors in half precision, atomically."""
    tensors = {name: tensor.detach().half().contiguous() for name, tensor in module.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    save_file(tensors, temporary)
    os.replace(temporary, path)


def load_tensors(module: nn.Module, path: Path) -> None:
    """Fill a module from a file; CheckpointError names what is missing, unexpected or misshapen."""
    if not path.is_file():
        raise CheckpointError(f"{path} is missing")
    stored: dict[str, Tensor] = load_file(path)
    wanted = module.state_dict()
    problems = [f"missing {name}" for name in wanted if name not in stored]
    problems += [f"unexpected {name}" for name in stored if name not in wanted]
    problems += [
        f"{name} is {tuple(stored[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in stored and stored[name].shape != tensor.shape
    ]
    if problems:
        raise CheckpointError(f"{path} does not fit its configuration: {'; '.join(problems[:5])}")
    module.load_state_dict({name: tensor.float() for name, tensor in stored.items()})


class Generation(nn.Module):
    """The trained part of the published model: the latent queries and the diffusion transformer."""

    def __init__(self, model: Blip3o) -> None:
        super().__init__()
        self.latent_queries = model.latent_queries
        self.dit = model.dit


def load_backbone(folder: Path) -> tuple[Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor]:
    path = folder / "backbone"
    if not (path / "config.json").is_file():
        raise CheckpointError(f"{path / 'config.json'} is missing")
    with _without_progress_bar():
        backbone = Qwen2_5_VLForConditionalGeneration.from_pretrained(path, dtype=torch.float32, local_files_only=True)
    return backbone, Qwen2_5_VLProcessor.from_pretrained(path, local_files_only=True)


def save_backbone(backbone: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, folder: Path) -> None:
    """Write the backbone in half precision; it is float32 again afterwards, rounded."""
    with _without_progress_bar():
        backbone.half().save_pretrained(folder / "backbone")
    backbone.float()
    processor.save_pretrained(folder / "backbone")


@contextmanager
def _without_progress_bar() -> Iterator[None]:
    """transformers shows one for every file; a file of a few seconds needs none."""
    shown = is_progress_bar_enabled()
    disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            enable_progress_bar()


def load_blip3o(folder: Path) -> tuple[Blip3o, Qwen2_5_VLProcessor]:
    config, _ = read_config(folder)
    backbone, processor = load_backbone(folder)
    model = Blip3o(backbone, config, processor.tokenizer.convert_tokens_to_ids("[IMG]"))
    load_tensors(Generation(model), folder / "generator.safetensors")
    return model, processor


def save_eva_clip(encoder: EvaClip, folder: Path) -> None:
    content = json.dumps(dataclasses.asdict(encoder.config), indent=2) + "\n"
    write_atomic(folder / "eva_clip" / "config.json", content.encode())
    save_tensors(encoder, folder / "eva_clip" / "model.safetensors")


def load_eva_clip(folder: Path) -> EvaClip:
    path = folder / "eva_clip" / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{path} is missing")
    encoder = EvaClip(EvaConfig(**json.loads(path.read_text())))
    load_tensors(encoder, folder / "eva_clip" / "model.safetensors")
    return encoder


def load_vae(folder: Path) -> AutoencoderKL:
    path = folder / "decoder" / "vae"
    if not path.is_dir():
        raise CheckpointError(f"{path} is missing")
    return AutoencoderKL.from_pretrained(path, torch_dtype=torch.float32, local_files_only=True)


def load_decoder(folder: Path) -> Decoder:
    path = folder / "decoder" / "unet"
    if not path.is_dir():
        raise CheckpointError(f"{path} is missing")
    unet = UNet2DConditionModel.from_pretrained(path, torch_dtype=torch.float32, local_files_only=True)
    return Decoder(unet, load_vae(folder))


def digest(folder: Path) -> str:
    """sha256 over the names and bytes of all files of the checkpoint, in name order."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            total.update(str(path.relative_to(folder)).encode() + b"\0")
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()
