"""A language model given eyes: the start of joint training, as upstream's branch Qwen3-Siglip2 sets it up."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    SiglipVisionModel,
)

from model.checkpoint import add_extra_tokens


def join(language: Path, vision: Path) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """A language model with Qwen's tokens and a SigLIP vision tower, and a new projector of two layers between them.

    Every patch is a token: 1,024 for SigLIP2-so400m at 512 px. Weights are float32; the projector's come from torch's
    global random state.
    """
    text = AutoModelForCausalLM.from_pretrained(language, dtype=torch.float32, local_files_only=True)
    tower = SiglipVisionModel.from_pretrained(vision, dtype=torch.float32, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(language, local_files_only=True)
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
    backbone = LlavaForConditionalGeneration(config)
    backbone.model.language_model.load_state_dict(text.model.state_dict())
    backbone.model.vision_tower.load_state_dict(tower.state_dict())
    backbone.lm_head.load_state_dict(text.lm_head.state_dict())
    processor = LlavaProcessor(
        AutoImageProcessor.from_pretrained(vision, local_files_only=True),
        tokenizer,
        patch_size=tower.config.patch_size,
        vision_feature_select_strategy="full",
        image_token="<|image_pad|>",
        num_additional_image_tokens=0,
    )
    add_extra_tokens(backbone, processor.tokenizer)
    return backbone, processor
