"""The diffusion transformer: Lumina's Next-DiT with cross-attention to the backbone's query states."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import LuminaNextDiT2DModel
from diffusers.models.embeddings import PixArtAlphaTextProjection, get_2d_rotary_pos_embed_lumina
from torch import Tensor, nn


@dataclass(frozen=True)
class DiTConfig:
    """``grid`` x ``grid`` tokens of ``channels`` features; the defaults are the published model's."""

    grid: int = 8
    channels: int = 1792
    dim: int = 1792
    layers: int = 24
    heads: int = 28
    multiple_of: int = 256


class NextDiT(nn.Module):
    """Predicts the flow from noisy features, a timestep and a condition.

    The published model is diffusers' LuminaNextDiT2DModel behind a projection of the condition that diffusers
    lacks. diffusers >= 0.33 takes two thirds of four times ``dim`` as the width of the feed-forward layer, which
    gives the published 4864; upstream's own copy on those versions would be 7168 wide (BLIP3o issues 29 and 93).
    """

    def __init__(self, config: DiTConfig, condition_width: int) -> None:
        super().__init__()
        self.config = config
        self.caption_projection = PixArtAlphaTextProjection(condition_width, config.dim)
        self.lumina = LuminaNextDiT2DModel(
            sample_size=config.grid,
            patch_size=1,
            in_channels=config.channels,
            hidden_size=config.dim,
            num_layers=config.layers,
            num_attention_heads=config.heads,
            num_kv_heads=config.heads,
            multiple_of=config.multiple_of,
            learn_sigma=False,
            cross_attention_dim=config.dim,
        )
        # diffusers allocates it uninitialised and never reads it; the published checkpoint has no such tensor.
        del self.lumina.pad_token

    @torch.no_grad()
    def open_gates(self, value: float) -> None:
        """Let every head's cross-attention count tanh(value) of its output. Gates are 0 at first and open slowly."""
        for layer in self.lumina.layers:
            layer.gate.fill_(value)

    def forward(self, x: Tensor, timestep: Tensor, condition: Tensor) -> Tensor:
        """Predict the flow, [B, C, grid, grid].

        From noisy features x [B, C, grid, grid], timestep [B] in (0, 1000] and condition [B, queries, width].
        """
        head_width = self.config.dim // self.config.heads
        rope = get_2d_rotary_pos_embed_lumina(head_width, self.config.grid, self.config.grid).to(x.device)
        caption = self.caption_projection(condition)  # [B, queries, dim]
        mask = torch.ones(caption.shape[:2], dtype=torch.bool, device=x.device)
        return self.lumina(x, timestep, caption, mask, rope, cross_attention_kwargs={}, return_dict=False)[0]
