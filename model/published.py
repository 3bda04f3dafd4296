"""The layout of BLIP3o/BLIP3o-Model-4B and -8B, and of what upstream's training writes.

    config.json             Qwen2.5-VL's fields, flat, as transformers 4.51 wrote them; nothing about the DiT
    model*.safetensors      all tensors under the names of transformers 4.51, EVA-CLIP's and an unused VAE's among them
    tokenizer files         151,668 tokens
    diffusion-decoder/      unet, vae and scheduler as diffusers saves them, in a bf16 variant

Sizes of the diffusion transformer are read off its tensors' shapes.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import re
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
)
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

from model.blip3o import Blip3o
from model.config import Blip3oConfig, DiTConfig
from model.eva_clip import EvaClip, EvaConfig
from model.tensors import CheckpointError, StoredTensor, empty, fill, named, names, read_json, stored_tensors

MODEL_TYPES = ("blip3o_qwen", "blip3o_qwen_inference")
#: Prefix of a published name -> prefix of ours, in a ``Blip3o`` with EVA-CLIP beside it.
PREFIXES = {
    "visual.": "backbone.model.visual.",
    "model.embed_tokens.": "backbone.model.language_model.embed_tokens.",
    "model.layers.": "backbone.model.language_model.layers.",
    "model.norm.": "backbone.model.language_model.norm.",
    "lm_head.": "backbone.lm_head.",
    "model.latent_queries": "latent_queries",
    "model.dit.model.": "dit.",
    "model.gen_vision_tower.vision_tower.model.": "eva_clip.",
}
#: Stored, but part of no computation: the FLUX VAE of an earlier design, and LLaVA's tower and projector for images,
#: which Qwen2.5-VL's own tower replaces.
SKIPPED = ("model.vae.", "model.vision_tower.", "model.mm_projector.")
#: Fields of config.json without which the backbone's shape or positions would be guessed.
REQUIRED = ("hidden_size", "num_attention_heads", "num_key_value_heads", "rope_scaling", "vision_config")
#: What upstream's code reads from config.json beside Qwen2.5-VL's own fields.
UPSTREAM_FIELDS = {
    "gen_vision_tower": "eva-clip-E-14-plus",
    "gen_pooling": "early_pool2d_4",
    "image_aspect_ratio": "square",
    "mm_patch_merge_type": "flat",
    "mm_projector_type": "mlp2x_gelu",
    "mm_use_im_patch_token": False,
    "mm_use_im_start_end": False,
    "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -2,
    "tokenizer_model_max_length": 512,
    "tokenizer_padding_side": "right",
    "use_mm_proj": True,
    "vision_tower_pretrained": None,
}
#: Largest file of weights, as transformers 4.51 split them.
SHARD = "5GB"
#: Qwen2.5-VL's preprocessor_config.json, for the checkpoints that have none.
IMAGE_PROCESSING = {
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "size": {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 16384},
}


def our_name(published: str) -> str | None:
    """Our name of a published tensor, None for one that is skipped; CheckpointError for a name nobody knows.

    Ours are the names in ``Blip3o``'s state, and ``eva_clip.`` before those in ``EvaClip``'s.
    """
    for prefix, ours in PREFIXES.items():
        if published.startswith(prefix):
            return ours + published.removeprefix(prefix)
    if published.startswith(SKIPPED):
        return None
    raise CheckpointError(f"{published} is no tensor of a published BLIP3-o")


def published_name(ours: str) -> str:
    """The published name of a tensor of ours."""
    for prefix, own in PREFIXES.items():
        if ours.startswith(own):
            return prefix + ours.removeprefix(own)
    raise CheckpointError(f"{ours} has no place in the published layout")


def read_config(folder: Path) -> Blip3oConfig:
    """Sizes of the generator. CheckpointError for a folder without one, and for the 7168-wide feed-forward layers."""
    return _generator_config(_our_tensors(folder), folder)


def load_backbone(
    folder: Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> tuple[Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor]:
    """Read the backbone alone, and the processor."""
    processor = load_processor(folder)
    backbone = _empty_backbone(folder)
    fill(backbone, _used(named(_our_tensors(folder), "backbone."), backbone), folder, dtype=dtype, device=device)
    return _tied(backbone).to(device), processor


def load_blip3o(
    folder: Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> tuple[Blip3o, Qwen2_5_VLProcessor]:
    """Read backbone, latent queries and diffusion transformer, and the processor."""
    processor = load_processor(folder)
    stored = {name: tensor for name, tensor in _our_tensors(folder).items() if not name.startswith("eva_clip.")}
    config = _generator_config(stored, folder)
    backbone = _empty_backbone(folder)
    with empty():
        model = Blip3o(backbone, config, image_token(processor, folder))
    fill(model, _used(stored, backbone, "backbone."), folder, dtype=dtype, device=device)
    _tied(backbone)
    return model.to(device), processor


def generation_tensors(folder: Path) -> dict[str, StoredTensor]:
    """The latent queries and the diffusion transformer under our names."""
    beside = ("backbone.", "eva_clip.")
    return {name: tensor for name, tensor in _our_tensors(folder).items() if not name.startswith(beside)}


def load_eva_clip(
    folder: Path,
    config: EvaConfig | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> EvaClip:
    """Read EVA-CLIP from a published checkpoint, or from jiuhai/eva_clip_vision_tower's ``pytorch_model.bin``.

    Its sizes are stored in neither; ``config`` is for others than the published ones.
    """
    single = folder / "pytorch_model.bin"
    stored = _pickled_tensors(single) if single.is_file() else named(_our_tensors(folder), "eva_clip.")
    if not stored:
        raise CheckpointError(f"{folder} holds no EVA-CLIP: take jiuhai/eva_clip_vision_tower")
    with empty():
        encoder = EvaClip(config or EvaConfig())
    fill(encoder, stored, folder, dtype=dtype, device=device)
    return encoder


def load_processor(folder: Path) -> Qwen2_5_VLProcessor:
    """The folder's tokenizer and image processing, the latter as Qwen2.5-VL publishes it where the folder has none."""
    try:
        # With a configuration of its own, because transformers warns of the folder's model_type.
        tokenizer = AutoTokenizer.from_pretrained(
            folder, config=Qwen2_5_VLConfig(), local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} holds no tokenizer that can be read: fetch its tokenizer files") from error
    if any((folder / name).is_file() for name in ("processor_config.json", "preprocessor_config.json")):
        image = Qwen2VLImageProcessor.from_pretrained(folder, local_files_only=True)
        video = Qwen2VLVideoProcessor.from_pretrained(folder, local_files_only=True)
    else:
        image, video = Qwen2VLImageProcessor(**IMAGE_PROCESSING), Qwen2VLVideoProcessor(**IMAGE_PROCESSING)
    return Qwen2_5_VLProcessor(image, tokenizer, video, chat_template=tokenizer.chat_template)


def image_token(processor: ProcessorMixin, folder: Path) -> int:
    """The id of [IMG]."""
    vocabulary = processor.tokenizer.get_vocab()
    if "[IMG]" not in vocabulary:
        raise CheckpointError(f"the tokenizer in {folder} has no token [IMG]: it is not BLIP3-o's")
    return int(vocabulary["[IMG]"])


def check_ffn(stored: Mapping[str, StoredTensor], dit: DiTConfig, source: Path) -> None:
    """Raise CheckpointError, with the reason, for feed-forward layers that lack the factor 2/3 in their width."""
    name = "dit.layers.0.feed_forward.linear_1.weight"
    width = stored[name].shape[0] if name in stored else dit.ffn_width
    without_factor = -(-4 * dit.dim // dit.multiple_of) * dit.multiple_of
    if width != dit.ffn_width and width == without_factor:
        raise CheckpointError(
            f"{source}: feed-forward layers {width} wide instead of {dit.ffn_width}. It was trained by upstream's code "
            "with diffusers 0.33 or newer, which makes another network (BLIP3o issues 29 and 93): train it again here "
            "or with diffusers 0.32.2"
        )


def write(model: Blip3o, processor: Qwen2_5_VLProcessor, folder: Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write a new folder in the published layout: what upstream's code and ``load_blip3o`` read. No decoder in it.

    The folder appears when it is complete. CheckpointError when it exists, or for a model with no place in this layout.
    """
    config, backbone = model.config, model.backbone
    if not isinstance(backbone, Qwen2_5_VLForConditionalGeneration) or config.design != "clip_flow":
        raise CheckpointError("the published layout is for Qwen2.5-VL with flow matching on CLIP features")
    if (config.dit.grid, config.dit.patch_size) != (DiTConfig.grid, DiTConfig.patch_size):
        raise CheckpointError(
            f"the published layout is for {DiTConfig.grid} x {DiTConfig.grid} features in patches of 1"
        )
    if folder.exists():
        raise CheckpointError(f"{folder} exists: choose another folder")
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    state = model.state_dict()
    tensors = {published_name(name): state[name].to("cpu", dtype).contiguous() for name in names(model)}
    save_torch_state_dict(tensors, temporary, filename_pattern="model{suffix}.safetensors", max_shard_size=SHARD)
    processor.save_pretrained(temporary)
    backbone.generation_config.save_pretrained(temporary)
    flat = _flat_config(backbone.config) | {
        "n_query": config.n_query,
        "gen_hidden_size": config.dit.channels,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }
    (temporary / "config.json").write_text(json.dumps(flat, indent=2, sort_keys=True) + "\n")
    os.rename(temporary, folder)


def _our_tensors(folder: Path) -> dict[str, StoredTensor]:
    """All tensors of a checkpoint that are not skipped, under our names."""
    ours = {}
    for published, tensor in stored_tensors(folder).items():
        try:
            name = our_name(published)
        except CheckpointError as error:
            raise CheckpointError(f"{folder}: {error}") from None
        if name is not None:
            ours[name] = tensor
    return ours


def _generator_config(stored: Mapping[str, StoredTensor], folder: Path) -> Blip3oConfig:
    """The generator's sizes from its tensors' shapes."""

    def shape(name: str) -> tuple[int, ...]:
        if name not in stored:
            raise CheckpointError(f"{folder} lacks {published_name(name)}: it holds no generator")
        return stored[name].shape

    dim, channels = shape("dit.patch_embedder.proj.weight")
    layers = {match[1] for name in stored if (match := re.match(r"dit\.layers\.(\d+)\.", name))}
    dit = DiTConfig(channels=channels, dim=dim, layers=len(layers), heads=shape("dit.layers.0.gate")[0])
    check_ffn(stored, dit, folder)
    width = shape("dit.layers.0.feed_forward.linear_1.weight")[0]
    if width != dit.ffn_width:  # smaller models round to a smaller multiple; the width is a multiple of itself
        dit = dataclasses.replace(dit, multiple_of=width)
    return Blip3oConfig(n_query=shape("latent_queries")[1], design="clip_flow", dit=dit)


def _empty_backbone(folder: Path) -> Qwen2_5_VLForConditionalGeneration:
    path = folder / "config.json"
    flat = read_json(path)
    if flat.get("model_type") not in MODEL_TYPES:
        known = " and ".join(MODEL_TYPES)
        raise CheckpointError(f"{path}: model_type is {flat.get('model_type')!r}; {known} can be read")
    if absent := [name for name in REQUIRED if name not in flat]:
        raise CheckpointError(f"{path} lacks {absent[0]}: fetch it again")
    config = Qwen2_5_VLConfig.from_dict({k: v for k, v in flat.items() if k not in ("model_type", "architectures")})
    with empty():
        backbone = Qwen2_5_VLForConditionalGeneration(config)
    if (folder / "generation_config.json").is_file():
        backbone.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    return _tied(backbone)


def _tied(backbone: Qwen2_5_VLForConditionalGeneration) -> Qwen2_5_VLForConditionalGeneration:
    """Tie anew: parameters that were replaced are no longer the same object."""
    backbone.tie_weights()
    return backbone


def _used(
    stored: dict[str, StoredTensor], backbone: Qwen2_5_VLForConditionalGeneration, prefix: str = ""
) -> dict[str, StoredTensor]:
    """Without the output layer where it is the embedding: some checkpoints hold it twice."""
    tied = {f"{prefix}lm_head.weight"} if backbone.config.tie_word_embeddings else set()
    return {name: tensor for name, tensor in stored.items() if name not in tied}


def _pickled_tensors(path: Path) -> dict[str, StoredTensor]:
    """The image tower in a pytorch file; a whole CLIP's names begin with ``visual.`` there."""
    try:
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} is damaged or not a file of tensors: fetch it again") from error
    stored = {
        name: StoredTensor(tuple(tensor.shape), partial(state.__getitem__, name)) for name, tensor in state.items()
    }
    return named(stored, "visual.") or stored


def _flat_config(config: Qwen2_5_VLConfig) -> dict[str, Any]:
    """A configuration as transformers 4.51 wrote it: the text model's fields at the top."""
    nested = config.to_diff_dict()
    text, vision = nested["text_config"], nested["vision_config"]
    rope = text.pop("rope_parameters")
    for name in ("dtype", "layer_types", "model_type"):
        text.pop(name, None)
    vision.pop("rope_parameters", None)
    vision |= {
        "model_type": "qwen2_5_vl",
        "in_chans": vision["in_channels"],
        "spatial_patch_size": vision["patch_size"],
    }
    tokens = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    return {
        **UPSTREAM_FIELDS,
        **text,
        **{name: getattr(config, name) for name in (*tokens, "tie_word_embeddings")},
        "architectures": ["blip3oQwenForCausalLM"],
        "model_type": MODEL_TYPES[0],
        "rope_theta": rope["rope_theta"],
        "rope_scaling": {"type": "default", "rope_type": "default", "mrope_section": rope["mrope_section"]},
        "vision_config": vision,
    }
