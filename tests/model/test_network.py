"""The parts of the network: published sizes, and what the diffusion transformer's gates do."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import PreTrainedConfig

from model.blip3o import LLAMA, chat
from model.config import BACKBONES, DiTConfig, llama_1b, qwen3_siglip2, qwen_3b, qwen_7b
from model.dit import FREQUENCIES, NextDiT, sinusoids
from model.eva_clip import EvaClip, EvaConfig, normalize
from model.llava import SiglipLlava


@pytest.mark.parametrize(("hidden", "parameters"), [(2048, 1_362_257_824), (3584, 1_365_010_336)])
def test_the_transformer_has_the_published_size(hidden: int, parameters: int) -> None:
    """Of the 4B and the 8B model; with a 7168-wide feed-forward layer it would be 1.66 B."""
    with torch.device("meta"):
        dit = NextDiT(DiTConfig(), hidden)
    assert sum(p.numel() for p in dit.parameters()) == parameters


def test_the_encoder_has_the_published_size() -> None:
    with torch.device("meta"):
        encoder = EvaClip(EvaConfig())
    assert sum(p.numel() for p in encoder.parameters()) == 4_350_208_256
    assert len(encoder.state_dict()) == 772


def test_gates_let_cross_attention_in() -> None:
    torch.manual_seed(0)
    dit = NextDiT(DiTConfig(grid=2, channels=4, dim=16, layers=2, heads=2, multiple_of=8), condition_width=6)
    x, timestep, condition = torch.randn(1, 4, 2, 2), torch.tensor([500.0]), torch.randn(1, 3, 6)
    with torch.inference_mode():
        closed = dit(x, timestep, condition)
        dit.open_gates(1.0)
        opened = dit(x, timestep, condition)
        shuffled = dit(x, timestep, condition[:, [2, 0, 1]])
    assert not torch.allclose(closed, opened, atol=1e-4)
    torch.testing.assert_close(opened, shuffled, atol=1e-5, rtol=1e-4)  # attention takes tokens as a set


def test_sinusoids_are_of_correctly_rounded_frequencies() -> None:
    """At the largest timestep, where a last bit of a frequency would be 3e-5."""
    half = FREQUENCIES // 2
    exponents = -np.float32(math.log(10000)) * np.arange(half, dtype=np.float32) / np.float32(half)
    angles = [float(np.float32(1000) * np.float32(math.exp(exponent))) for exponent in exponents]
    expected = torch.tensor([[math.cos(angle) for angle in angles] + [math.sin(angle) for angle in angles]])
    torch.testing.assert_close(sinusoids(torch.tensor([1000.0])), expected, atol=3e-7, rtol=0)


def test_features_are_pooled_patch_features() -> None:
    torch.manual_seed(0)
    encoder = EvaClip(EvaConfig(image_size=16, patch_size=4, width=8, layers=1, head_width=4, mlp_ratio=2.0, pool=2))
    images = normalize(torch.rand(2, 3, 16, 16))
    with torch.inference_mode():
        patches, features = encoder(images), encoder.features(images)
    assert patches.shape == (2, 16, 8)
    assert features.shape == (2, 8, 2, 2)
    # Token (1, 0) of the 2 x 2 grid is the mean of patches in rows 2 and 3, columns 0 and 1.
    torch.testing.assert_close(features[:, :, 1, 0], patches[:, [8, 9, 12, 13]].mean(1))


def test_normalize_gives_clip_statistics() -> None:
    white = normalize(torch.ones(1, 3, 1, 1)).flatten()
    assert white.tolist() == pytest.approx([1.9303, 2.0749, 2.1459], abs=1e-4)  # (1 - mean) / std


def test_prompts_are_written_as_the_backbone_was_taught() -> None:
    assert chat("Hi") == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    # Llama 3's model card, without the <|begin_of_text|> that its tokenizer adds
    assert chat("Hi", LLAMA) == (
        "<|start_header_id|>system<|end_header_id|>\n\nYou are a helpful assistant.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (qwen_3b, 3_085_389_824 + 668_684_288),  # language model and eyes
        (qwen_7b, 7_612_777_984 + 676_550_144),
        (llama_1b, 1_235_814_400 + 4 * 2048),  # the published model and four tokens
    ],
)
def test_backbones_have_the_published_sizes(config: Callable[[], PreTrainedConfig], parameters: int) -> None:
    with torch.device("meta"):
        backbone = BACKBONES[config().model_type](config())
    assert sum(p.numel() for p in backbone.parameters()) == parameters


def test_the_joint_variant_has_the_published_sizes() -> None:
    """Qwen3-1.7B with three tokens, SigLIP2's so400m tower at 512 px, and two layers between them."""
    with torch.device("meta"):
        backbone = SiglipLlava(qwen3_siglip2())
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in backbone.model.named_children()}
    assert sizes["language_model"] == 1_720_574_976 + (151_672 - 151_936) * 2048
    assert sizes["multi_modal_projector"] == 1152 * 2048 + 2048 + 2048 * 2048 + 2048
    assert backbone.config.image_seq_length == (512 // 16) ** 2
