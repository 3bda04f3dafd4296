"""A BLIP3-o on disk, in our layout or the published one (``model.published``); what reads a folder detects which.

    config.json             design, latent queries, diffusion transformer, sampling settings, sources
    generator.safetensors   latent queries, and the diffusion transformer or the projector
    backbone/               Qwen2.5-VL, Llama or LLaVA as transformers saves it, with its processor
    decoder/unet, vae/      as diffusers saves them
    eva_clip/               target encoder; only training and reconstruction read it

``sources`` in config.json names, for any of the last three, a folder or ``owner/name@revision`` on the hub in place
of the sub folder: another checkpoint of either layout, or the part as its own authors publish it. A language model
that does not know [IMG] yet is given BLIP3-o's extra tokens when it is read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, ModelMixin, UNet2DConditionModel
from torch import Tensor, nn
from transformers import (
    AddedToken,
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlavaConfig,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    SiglipVisionModel,
)
from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

from model import published
from model.blip3o import EXTRA_TOKENS, Blip3o
from model.config import BACKBONES, Blip3oConfig, DiTConfig, Sampling
from model.decoder import SCHEDULER, Decoder
from model.eva_clip import EvaClip, EvaConfig
from model.hub import DECODER_FILES, EVA_CLIP_FILES, MODEL_FILES, Located, locate
from model.llava import SiglipLlava
from model.tensors import CheckpointError as CheckpointError  # "as": for other modules to take from here
from model.tensors import empty, fill, names, read_json, refuse, stored_tensors, write_atomic
from model.tensors import save_tensors as save_tensors

#: What a checkpoint may take from elsewhere.
PartName = Literal["backbone", "decoder", "eva_clip"]
Layout = Literal["ours", "published", "backbone alone"]

#: Endings of the files that a model, its processor or its tokenizer is read from.
READ = frozenset({".safetensors", ".bin", ".json", ".txt", ".jinja", ".model"})


class Generation(nn.Module):
    """The generator's own part, under the names of ``generator.safetensors``: all that the published model trained."""

    def __init__(self, model: Blip3o) -> None:
        super().__init__()
        self.latent_queries = model.latent_queries
        self.dit = model.dit
        self.projector = model.projector


class TextProcessor(ProcessorMixin):
    """The processor of a backbone that sees no images: a tokenizer in the place where the others have theirs."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, chat_template: str | None = None) -> None:
        super().__init__(tokenizer, chat_template=chat_template)


def layout(folder: Path) -> Layout:
    """What a folder holds; one without config.json is a checkpoint of ours whose generator is still to come."""
    path = folder / "config.json"
    if not path.is_file():
        return "ours"
    data = read_json(path)
    if data.get("model_type") in published.MODEL_TYPES:
        return "published"
    return "ours" if "n_query" in data else "backbone alone"


def read_config(folder: Path) -> tuple[Blip3oConfig, Sampling]:
    """The generator's sizes, and how to sample; the published layout does not say how, and gets upstream's settings."""
    if (kind := layout(folder)) == "published":
        return published.read_config(folder), Sampling()
    path = folder / "config.json"
    if kind == "backbone alone" or not path.is_file():
        found = "a language model alone" if path.is_file() else f"{path} is missing"
        raise CheckpointError(f"{folder} holds no BLIP3-o checkpoint: {found}")
    data = read_json(path)
    try:
        config = Blip3oConfig(data["n_query"], data["design"], DiTConfig(**data["dit"]))
        return config, Sampling(**data["sampling"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is not a BLIP3-o configuration: {error}") from error


def write_config(
    folder: Path, config: Blip3oConfig, sampling: Sampling, sources: Mapping[PartName, str] | None = None
) -> None:
    """Write config.json; a source that is a path is absolute or relative to ``folder``."""
    data: dict[str, Any] = {**dataclasses.asdict(config), "sampling": dataclasses.asdict(sampling)}
    if sources:
        data["sources"] = dict(sources)
    write_atomic(folder / "config.json", (json.dumps(data, indent=2) + "\n").encode())


def part_folder(folder: Path, part: PartName, vae_only: bool = False) -> Path:
    """Where a part of a checkpoint in our layout lies: what config.json's ``sources`` says, or the sub folder.

    Downloads it when its source is on the hub; of a decoder the VAE alone if nothing else is wanted.
    """
    source = _sources(folder).get(part)
    if source is None:
        return folder / part
    if (folder / source).is_dir():
        return folder / source
    return locate_part(source, "vae" if vae_only else part).folder


def _sources(folder: Path) -> dict[str, str]:
    """The parts that lie elsewhere: folders, absolute or relative to ``folder``, or names on the hub."""
    config = folder / "config.json"
    if layout(folder) != "ours" or not config.is_file():
        return {}
    sources: dict[str, str] = read_json(config).get("sources") or {}
    return sources


def locate_part(spec: str, part: PartName | Literal["vae", "vision", "generator"]) -> Located:
    """``hub.locate`` with the files that a part is read from; ``vae`` is the decoder's VAE alone."""
    if part in ("decoder", "vae"):
        kinds = ("vae/",) if part == "vae" else ("unet/", "vae/", "scheduler/")
        return locate(spec, [f"{at}{kind}*" for at in ("", "decoder/", "diffusion-decoder/") for kind in kinds])
    return locate(spec, (*MODEL_FILES, *EVA_CLIP_FILES) if part == "eva_clip" else MODEL_FILES, DECODER_FILES)


def load_blip3o(
    folder: Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> tuple[Blip3o, ProcessorMixin]:
    """Read backbone, queries and transformer (or projector), and the processor; EVA-CLIP and decoder stay unread."""
    if layout(folder) == "published":
        return published.load_blip3o(folder, dtype, device)
    config, _ = read_config(folder)
    backbone, processor = load_backbone(folder, dtype, device)
    with empty():
        model = Blip3o(backbone, config, published.image_token(processor, folder))
    load_generation(model, folder, dtype, device)
    return model, processor


def load_generation(
    model: Blip3o, folder: Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> None:
    """Give ``model`` the latent queries and the transformer (or projector) of a checkpoint of the same sizes."""
    if layout(folder) == "published":
        stored, source = published.generation_tensors(folder), folder
    else:
        source = folder / "generator.safetensors"
        stored = stored_tensors(source)
    published.check_ffn(stored, model.config.dit, source)  # otherwise only "is [7168, 1792] instead of [4864, 1792]"
    own = [name for name in names(model) if not name.startswith("backbone.")]
    fill(model, stored, source, own, dtype, device)


def load_backbone(
    folder: Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Read the backbone and processor of a checkpoint of either layout, or of a model as transformers saves it.

    The latter is given BLIP3-o's extra tokens unless it knows them.
    """
    if (kind := layout(folder)) == "published":
        return published.load_backbone(folder, dtype, device)
    if kind == "ours":
        part = part_folder(folder, "backbone")
        if part != folder / "backbone":
            return load_backbone(part, dtype, device)
        folder = part
    processor = _read_processor(folder)
    backbone = _read_backbone(folder, dtype)
    add_extra_tokens(backbone, processor.tokenizer)
    return backbone.to(device), processor


def _read_backbone(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """As transformers reads it, but a tensor that is missing or does not fit is an error."""
    stored_tensors(folder)  # names a file that is missing or cut short
    with _without_progress_bar():
        backbone, report = BACKBONES[_model_type(folder)].from_pretrained(
            folder, dtype=dtype, local_files_only=True, output_loading_info=True, ignore_mismatched_sizes=True
        )
    _check_report(report, folder)
    return backbone


def _check_report(report: Mapping[str, Any], folder: Path) -> None:
    """The libraries fill up what is missing or misshapen with random numbers; here it is an error."""
    refuse(
        [f"{name} is missing" for name in sorted(report["missing_keys"])]
        + [f"{name} is {list(a)} instead of {list(b)}" for name, a, b in sorted(report["mismatched_keys"])]
        + [f"{name} is unexpected" for name in sorted(report["unexpected_keys"])],
        folder,
    )


def _model_type(folder: Path) -> str:
    path = folder / "config.json"
    model_type = read_json(path).get("model_type")
    if model_type not in BACKBONES:
        raise CheckpointError(f"{path}: model_type is {model_type!r}; a backbone's is one of {', '.join(BACKBONES)}")
    return str(model_type)


def _read_processor(folder: Path) -> ProcessorMixin:
    model_type = _model_type(folder)
    if model_type == "qwen2_5_vl":
        return published.load_processor(folder)
    try:
        if model_type == "llava":
            return LlavaProcessor.from_pretrained(folder, local_files_only=True)
        return TextProcessor(AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} holds no processor or tokenizer that can be read: fetch its files") from error


@torch.no_grad()
def add_extra_tokens(backbone: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give tokenizer and embedding [IMG], [/IMG] and <image>, before them <pad> where the tokenizer has no padding.

    The embedding gets as many rows as the tokenizer has tokens, which drops the unused rows of Qwen's. A new row, of
    the output layer too where it is not tied, is the mean of all rows before the new ones, as in upstream's training.
    """
    if EXTRA_TOKENS[0] in tokenizer.get_vocab():
        return
    old = len(tokenizer)
    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": "<pad>"})
        backbone.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    tokenizer.add_tokens([AddedToken(token, special=True) for token in EXTRA_TOKENS], special_tokens=True)
    backbone.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    for layer in (backbone.get_input_embeddings(), backbone.get_output_embeddings()):
        layer.weight[old:] = layer.weight[:old].mean(0, dtype=torch.float32).to(layer.weight.dtype)


def join_vision(language: Path, vision: Path) -> tuple[SiglipLlava, LlavaProcessor]:
    """A language model with Qwen's tokens and a SigLIP vision tower, and a new projector of two layers between them.

    Every patch is a token: 1,024 for SigLIP2-so400m at 512 px. Weights are float32; the projector's come from torch's
    global random state.
    """
    text = AutoModelForCausalLM.from_pretrained(
        language, dtype=torch.float32, local_files_only=True, trust_remote_code=False
    )
    tower, report = SiglipVisionModel.from_pretrained(
        vision, dtype=torch.float32, local_files_only=True, output_loading_info=True
    )
    if absent := sorted(report["missing_keys"]):  # its text tower is not missed
        raise CheckpointError(f"{vision} lacks {len(absent)} weights of a SigLIP vision tower, such as {absent[0]}")
    tokenizer = AutoTokenizer.from_pretrained(language, local_files_only=True, trust_remote_code=False)
    patches = (tower.config.image_size // tower.config.patch_size) ** 2
    config = LlavaConfig(
        text_config=text.config,
        vision_config=tower.config,
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        image_seq_length=patches,
        projector_hidden_act="gelu",
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=text.config.tie_word_embeddings,
    )
    backbone = SiglipLlava(config)
    backbone.model.language_model.load_state_dict(text.model.state_dict())
    backbone.model.vision_tower.load_state_dict(tower.state_dict())
    backbone.lm_head.load_state_dict(text.lm_head.state_dict())
    processor = LlavaProcessor(
        AutoImageProcessor.from_pretrained(vision, local_files_only=True, trust_remote_code=False),
        tokenizer,
        patch_size=tower.config.patch_size,
        vision_feature_select_strategy="full",
        image_token="<|image_pad|>",
        num_additional_image_tokens=0,
    )
    add_extra_tokens(backbone, processor.tokenizer)
    return backbone, processor


def save_backbone(
    backbone: PreTrainedModel,
    processor: ProcessorMixin,
    folder: Path,
    state: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write a backbone, with the weights of ``state`` where it has them, as ``dtype``; the module is left as it is."""
    tensors = {**backbone.state_dict(), **(state or {})}
    for name in backbone.all_tied_weights_keys:  # stored once, under its other name
        del tensors[name]
    stored = {name: tensor.detach().to("cpu", dtype) for name, tensor in tensors.items()}
    with _without_progress_bar():
        backbone.save_pretrained(folder / "backbone", state_dict=stored)
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


def save_eva_clip(encoder: EvaClip, folder: Path) -> None:
    content = json.dumps(dataclasses.asdict(encoder.config), indent=2) + "\n"
    save_tensors(encoder.state_dict(), folder / "eva_clip" / "model.safetensors")
    write_atomic(folder / "eva_clip" / "config.json", content.encode())


def load_eva_clip(folder: Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> EvaClip:
    """Read the target encoder of a checkpoint of either layout, or of jiuhai/eva_clip_vision_tower."""
    if (folder / "pytorch_model.bin").is_file() or layout(folder) == "published":
        return published.load_eva_clip(folder, dtype=dtype, device=device)
    part = part_folder(folder, "eva_clip")
    if part != folder / "eva_clip":
        return load_eva_clip(part, dtype, device)
    try:
        config = EvaConfig(**read_json(part / "config.json"))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{part / 'config.json'} is not an EVA-CLIP configuration: {error}") from error
    with empty():
        encoder = EvaClip(config)
    fill(encoder, stored_tensors(part / "model.safetensors"), part / "model.safetensors", dtype=dtype, device=device)
    return encoder


def load_decoder(folder: Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Decoder:
    """Read UNet and VAE; CheckpointError when a scheduler stored beside them is not the one that we sample with."""
    part = _decoder_folder(folder)
    check_scheduler(part / "scheduler" / "scheduler_config.json")
    unet = _load_diffusers(UNet2DConditionModel, part / "unet", dtype, device)
    return Decoder(unet, _load_diffusers(AutoencoderKL, part / "vae", dtype, device))


def load_vae(folder: Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> AutoencoderKL:
    """Read the VAE alone; also that of a diffusers pipeline such as FLUX.1-dev's."""
    return _load_diffusers(AutoencoderKL, _decoder_folder(folder, vae_only=True) / "vae", dtype, device)


def _decoder_folder(folder: Path, vae_only: bool = False) -> Path:
    """The folder that holds unet and vae: our ``decoder``, the published ``diffusion-decoder``, or a whole pipeline."""
    if (folder / "diffusion-decoder").is_dir() or layout(folder) == "published":
        return folder / "diffusion-decoder"
    if (folder / "vae").is_dir():
        return folder
    part = part_folder(folder, "decoder", vae_only)
    return part if part == folder / "decoder" else _decoder_folder(part)


def _load_diffusers(cls: type[ModelMixin], folder: Path, dtype: torch.dtype, device: torch.device | str) -> ModelMixin:
    """Read weights of a bf16 variant (the published ones have no others) or without one."""
    read_json(folder / "config.json")
    variant = "bf16" if (folder / "diffusion_pytorch_model.bf16.safetensors").is_file() else None
    weights = folder / f"diffusion_pytorch_model{f'.{variant}' if variant else ''}.safetensors"
    stored_tensors(weights)  # names a file that is missing or cut short
    module, report = cls.from_pretrained(
        folder,
        variant=variant,
        torch_dtype=dtype,
        local_files_only=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    _check_report(report, folder)
    return module.to(device)


def check_scheduler(path: Path) -> None:
    """Raise CheckpointError, naming the field, for a scheduler_config.json that is not ``Decoder``'s schedule."""
    if not path.is_file():
        return
    # A field that is not stored has the default of diffusers.
    stored = {**EulerDiscreteScheduler().config, **read_json(path)}
    ours = EulerDiscreteScheduler(**SCHEDULER).config
    wanted = {"_class_name": "EulerDiscreteScheduler"} | {k: v for k, v in ours.items() if not k.startswith("_")}
    for field, value in wanted.items():
        if stored.get(field) != value:
            raise CheckpointError(f"{path}: {field} is {stored.get(field)!r}; this decoder samples with {value!r}")


def digest(folder: Path) -> str:
    """sha256 over the names and bytes of all files that models are read from, in name order.

    Others, such as a README that another program fetched into the hub's cache, change no number; hidden ones are a
    tool's notes.
    Parts in another local folder count as well. One on the hub is told by the name and commit in config.json.
    """
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.suffix in READ and path.is_file() and not any(part.startswith(".") for part in name.parts):
            total.update(str(name).encode() + b"\0")
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
    for part, source in sorted(_sources(folder).items()):
        if (folder / source).is_dir():
            total.update(f"{part}\0{digest(folder / source)}".encode())
    return total.hexdigest()
