"""Sizes of BLIP3-o: what its own config says, and the four models of the paper and its repository."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

from model.llava import SiglipLlava

#: What is predicted from the query states, and by which objective: the three designs that the paper compares (3.3).
Design = Literal["clip_flow", "clip_mse", "vae_flow"]


@dataclass(frozen=True)
class DiTConfig:
    """A transformer over a ``grid`` x ``grid`` map of ``channels``, in patches of ``patch_size`` x ``patch_size``.

    The defaults are the published model's.
    """

    grid: int = 8
    patch_size: int = 1
    channels: int = 1792
    dim: int = 1792
    layers: int = 24
    heads: int = 28
    multiple_of: int = 256

    def __post_init__(self) -> None:
        """Raises ValueError for sizes that do not fit each other."""
        if min(self.grid, self.patch_size, self.channels, self.dim, self.layers, self.heads, self.multiple_of) < 1:
            raise ValueError("sizes start at 1")
        if self.dim % (4 * self.heads):  # rows and columns rotate pairs of a head's channels
            raise ValueError(f"dim {self.dim} is not a multiple of 4 x heads {self.heads}")
        if self.grid % self.patch_size:
            raise ValueError(f"the map's side {self.grid} is not a multiple of patch_size {self.patch_size}")

    @property
    def ffn_width(self) -> int:
        """Two thirds of four times ``dim``, rounded up to a multiple: 4864 in the published model.

        Upstream's code on diffusers >= 0.33 leaves the two thirds out and makes it 7168 (BLIP3o issues 29, 93).
        """
        return -(-(8 * self.dim // 3) // self.multiple_of) * self.multiple_of


@dataclass(frozen=True)
class Blip3oConfig:
    """What the backbone's and the decoder's own config files do not say."""

    n_query: int = 64
    design: Design = "clip_flow"
    dit: DiTConfig = field(default_factory=DiTConfig)


@dataclass(frozen=True)
class Sampling:
    """How images are drawn. The defaults are upstream's fixed 30 steps and its pipeline's 50."""

    steps: int = 30
    guidance: float = 3.0
    decoder_steps: int = 50
    decoder_guidance: float = 3.0


#: Qwen2.5-VL's tokenizer and the three tokens behind it; the base models' embedding has more rows than that.
VOCABULARY = 151668

_QWEN_TOKENS = {
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
}


def _qwen_2_5_vl(vision_width: int, tied: bool, **text: Any) -> Qwen2_5_VLConfig:
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 128000,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
            "tie_word_embeddings": tied,
            "bos_token_id": 151643,
            "eos_token_id": 151645,
            "pad_token_id": 151643,
            **text,
        },
        vision_config={"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16}
        | {
            "fullatt_block_indexes": [7, 15, 23, 31],
            "window_size": 112,
            "out_hidden_size": vision_width,
            "tokens_per_second": 2,
        },
        tie_word_embeddings=tied,
        **_QWEN_TOKENS,
    )


def qwen_3b() -> Qwen2_5_VLConfig:
    """Qwen2.5-VL-3B-Instruct with BLIP3-o's vocabulary: the backbone of the 4B model."""
    return _qwen_2_5_vl(
        2048,
        tied=True,
        hidden_size=2048,
        intermediate_size=11008,
        num_hidden_layers=36,
        num_attention_heads=16,
        num_key_value_heads=2,
    )


def qwen_7b() -> Qwen2_5_VLConfig:
    """Qwen2.5-VL-7B-Instruct with BLIP3-o's vocabulary: the backbone of the 8B model."""
    return _qwen_2_5_vl(
        3584,
        tied=False,
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
    )


def llama_1b() -> LlamaConfig:
    """Llama-3.2-1B-Instruct, the backbone of the paper's comparison of designs (3.3), with four tokens added."""
    return LlamaConfig(
        vocab_size=128260,  # 128256 and <pad>, [IMG], [/IMG], <image>
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
        max_position_embeddings=131072,
        rms_norm_eps=1e-5,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 32.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
        },
        tie_word_embeddings=True,
        bos_token_id=128000,
        eos_token_id=128009,
        pad_token_id=128256,
    )


def qwen3_siglip2() -> LlavaConfig:
    """Qwen3-1.7B that sees through SigLIP2-so400m at 512 px (1,024 tokens): upstream's branch for joint training."""
    return LlavaConfig(
        text_config={
            "model_type": "qwen3",
            "vocab_size": 151672,  # 151669 and [IMG], [/IMG], <image>
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 40960,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
            "tie_word_embeddings": True,
        },
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "image_size": 512,
            "patch_size": 16,
        },
        image_token_id=151655,
        image_seq_length=1024,
        projector_hidden_act="gelu",  # mlp2x_gelu
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=True,
    )


#: The class of a backbone by its config's model_type.
BACKBONES: dict[str, type[PreTrainedModel]] = {
    "qwen2_5_vl": Qwen2_5_VLForConditionalGeneration,
    "llama": LlamaForCausalLM,
    "llava": SiglipLlava,
}


def text_width(config: PreTrainedConfig) -> int:
    """Width of the language model's states, which is that of the latent queries."""
    return int(config.get_text_config().hidden_size)
