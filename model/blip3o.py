"""BLIP3-o: a Qwen2.5-VL backbone, latent queries, and a diffusion transformer that draws image features.

    [prompt tokens ; [IMG] ; queries] -> backbone -> states of the queries -> diffusion transformer -> features

Understanding is the backbone's own: images in, text out, with its multimodal rotary positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import DynamicCache, Qwen2_5_VLForConditionalGeneration

from model.dit import DiTConfig, NextDiT

SYSTEM = "You are a helpful assistant."
#: The published model's wording; the paper prints "generate an image".
INSTRUCTION = "Please generate image based on the following caption: "
#: Where an image stands in a question; the processor repeats the middle token once per image token.
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
#: Added behind Qwen2.5-VL's vocabulary, in this order; [IMG] opens the queries.
EXTRA_TOKENS = ("[IMG]", "[/IMG]", "<image>")


@dataclass(frozen=True)
class Blip3oConfig:
    """What the backbone's and the decoder's own config files do not say."""

    n_query: int = 64
    dit: DiTConfig = field(default_factory=DiTConfig)


#: What stands between the user's words and the assistant's reply.
CLOSING = "<|im_end|>\n<|im_start|>assistant\n"


def chat(user: str) -> str:
    """Qwen's chat template with the system turn, open for the assistant's reply."""
    return f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{user}{CLOSING}"


class Blip3o(nn.Module):
    def __init__(self, backbone: Qwen2_5_VLForConditionalGeneration, config: Blip3oConfig, image_token: int) -> None:
        """``image_token`` is the id of [IMG]."""
        super().__init__()
        width = backbone.config.text_config.hidden_size
        self.config = config
        self.image_token = image_token
        self.backbone = backbone
        self.latent_queries = nn.Parameter(torch.randn(1, config.n_query, width))
        self.dit = NextDiT(config.dit, width)

    def query_states(self, prompts: Sequence[Tensor]) -> Tensor:
        """Token ids of each prompt [length] -> states of the queries after the final norm [B, n_query, width].

        Attention is causal and the queries come last, so padding behind them changes nothing. Positions are
        0..N-1 on all three axes of the rotary embedding, as in the published model. What all prompts begin
        with (the system turn and the instruction) goes through the backbone once.
        """
        embed = self.backbone.get_input_embeddings()
        shared = shared_prefix(prompts)
        image_token = embed(torch.tensor([self.image_token], device=self.latent_queries.device))
        rows = [torch.cat([embed(ids[shared:]), image_token, self.latent_queries[0]]) for ids in prompts]
        inputs = nn.utils.rnn.pad_sequence(rows, batch_first=True)  # [B, longest, width]
        language_model = self.backbone.model.language_model
        cache = DynamicCache()
        if shared:
            prefix = embed(prompts[0][:shared])[None]  # [1, shared, width]
            language_model(inputs_embeds=prefix, position_ids=_positions(0, prefix), past_key_values=cache)
            cache.batch_repeat_interleave(len(rows))
        hidden = language_model(
            inputs_embeds=inputs, position_ids=_positions(shared, inputs), past_key_values=cache
        ).last_hidden_state
        n_query = self.config.n_query
        return torch.stack([h[len(row) - n_query : len(row)] for h, row in zip(hidden, rows, strict=True)])


def shared_prefix(prompts: Sequence[Tensor]) -> int:
    """How many leading tokens all prompts share; 0 for a single prompt, which shares with nobody."""
    if len(prompts) == 1:
        return 0
    shortest = min(len(ids) for ids in prompts)
    stacked = torch.stack([ids[:shortest] for ids in prompts])
    differs = (stacked != stacked[0]).any(0)
    return int(differs.float().argmax()) if differs.any() else shortest


def _positions(start: int, inputs: Tensor) -> Tensor:
    """Positions start..start+L-1 for inputs [B, L, width], the same on all three axes [3, B, L]."""
    batch, length, _ = inputs.shape
    return torch.arange(start, start + length, device=inputs.device).expand(3, batch, -1)
