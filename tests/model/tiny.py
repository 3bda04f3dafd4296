"""A BLIP3-o of a few thousand parameters with random weights: shapes and invariances, never quality."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from model.train import Recipe, train

SOURCE = "benchmarks.shapes.training"
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
        "joint": False,
        "continue": False,
        "n_query": 4,
        "dit": {"dim": 16, "layers": 2, "heads": 2, "multiple_of": 8},
        "sampling": {"steps": 3, "guidance": 2.0, "decoder_steps": 3, "decoder_guidance": 1.0},
    },
}
#: The order in which the parts of a model from scratch depend on each other.
PARTS = ("vae", "eva_clip", "decoder", "backbone", "generator")


def recipe(part: Any, checkpoint: Path, steps: int = 1, **model: Any) -> Recipe:
    """A recipe for one part; ``model`` overrides entries of its sizes."""
    source = "generation" if part == "generator" else "understanding"
    data = tuple(f"{SOURCE}:{name}" for name in dict.fromkeys((source, "understanding")))
    return Recipe(
        part=part,
        checkpoint=str(checkpoint),
        data=data,
        model={**MODELS[part], **model},
        steps=steps,
        batch_size=4,
        lr=1e-3,
        warmup=1,
        log_every=1,
        save_every=1,
    )


def build(checkpoint: Path, work: Path) -> None:
    """Train every part for one step, so that ``checkpoint`` is whole."""
    for part in PARTS:
        train(recipe(part, checkpoint), work / part)
