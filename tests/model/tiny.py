"""A BLIP3-o of a few thousand parameters with random weights: shapes and invariances, never quality."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from benchmarks.shapes import training as shapes
from benchmarks.shapes.training import Example
from model.blip3o import EXTRA_TOKENS
from model.data import Unreadable
from model.recipe import PartName, Recipe
from model.train import train

SOURCE = "benchmarks.shapes.training"
LANGUAGE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
VISION = {
    "depth": 1,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_heads": 2,
    "patch_size": 16,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "window_size": 64,
    "fullatt_block_indexes": [0],
    "in_channels": 3,
}
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
}
MODELS: dict[str, dict[str, Any]] = {
    "vae": {
        "sample_size": 64,
        "latent_channels": 4,
        "block_out_channels": [4, 4, 4],
        "down_block_types": ["DownEncoderBlock2D"] * 3,
        "up_block_types": ["UpDecoderBlock2D"] * 3,
        "norm_num_groups": 2,
        "mid_block_add_attention": False,
    },
    "eva_clip": {
        "image_size": 64,
        "patch_size": 16,
        "width": 8,
        "layers": 1,
        "head_width": 4,
        "mlp_ratio": 2.0,
        "pool": 2,
    },
    "decoder": {
        "sample_size": 16,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": [8, 8],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "layers_per_block": 1,
        "transformer_layers_per_block": 1,
        "attention_head_dim": [2, 2],
        "use_linear_projection": True,
        "norm_num_groups": 2,
        "cross_attention_dim": 8,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 32,
    },
    "backbone": {"vocab_size": 320, "image_size": 64, "text": TEXT, "vision": VISION},
    "generator": {
        "n_query": 4,
        "dit": {"dim": 16, "layers": 2, "heads": 2, "multiple_of": 8},
        "sampling": {"steps": 3, "guidance": 2.0, "decoder_steps": 3, "decoder_guidance": 1.0},
    },
}
#: The order in which the parts of a model from scratch depend on each other.
PARTS: tuple[PartName, ...] = ("vae", "eva_clip", "decoder", "backbone", "generator")


def recipe(part: PartName, checkpoint: Path, steps: int = 1, **model: Any) -> Recipe:
    """A recipe for one part; ``model`` overrides entries of its sizes."""
    sources = [{"generator": "generation", "eva_clip": "dense_generation"}.get(part, "understanding")]
    if model.get("backbone") == "joint":
        sources.append("understanding")
    return Recipe(
        part=part,
        checkpoint=str(checkpoint),
        data=tuple(f"{SOURCE}:{name}" for name in sources),
        model={**MODELS[part], **model},
        steps=steps,
        batch_size=4,
        lr=1e-3,
        seed=1,
        log_every=1,
        save_every=1,
    )


def toml(value: Any) -> str:
    """A value as TOML, tables inline; a recipe's own entries stand one to a line."""
    if isinstance(value, Recipe):
        entries = {k: v for k, v in dataclasses.asdict(value).items() if v is not None}
        return "".join(f"{key} = {toml(entry)}\n" for key, entry in entries.items())
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {toml(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


def keyed(seed: int, index: int) -> Example:
    """Eight captioned images over and over, each with a key."""
    return dataclasses.replace(shapes.generation(seed, index % 8), key=f"{index % 8:064x}")


def damaged(seed: int, index: int) -> Example:
    """Captioned images, of which every fourth cannot be read, and none from the 40th on."""
    if index % 4 == 1 or index >= 40:
        raise Unreadable(f"shard.tar::{index}.jpg: image file is truncated")
    return shapes.generation(seed, index)


def build(checkpoint: Path, work: Path) -> None:
    """Train every part for one step, so that ``checkpoint`` is whole."""
    for part in PARTS:
        train(recipe(part, checkpoint), work / part)


def llama(checkpoint: Path, folder: Path) -> Path:
    """A language model without eyes and without BLIP3-o's tokens, as its authors would publish it."""
    return _language_model(LlamaForCausalLM(LlamaConfig(vocab_size=320, **LANGUAGE)), checkpoint, folder)


def qwen3(checkpoint: Path, folder: Path) -> Path:
    return _language_model(Qwen3ForCausalLM(Qwen3Config(vocab_size=320, head_dim=16, **LANGUAGE)), checkpoint, folder)


def _language_model(model: PreTrainedModel, checkpoint: Path, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer = json.loads((checkpoint / "backbone" / "tokenizer.json").read_text())
    extra = {token["id"] for token in tokenizer["added_tokens"] if token["content"] in EXTRA_TOKENS}
    tokenizer["added_tokens"] = [token for token in tokenizer["added_tokens"] if token["id"] not in extra]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    shutil.copy(checkpoint / "backbone" / "tokenizer_config.json", folder)
    return folder


def siglip(folder: Path) -> Path:
    config = SiglipVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16
    )
    SiglipVisionModel(config).save_pretrained(folder)
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder
