"""The diffusion transformer: Lumina's Next-DiT with cross-attention to the backbone's query states.

    noisy map (B, C, H, W), timestep (B), condition (B, M, W) -> flow (B, C, H, W)

Parameter names are the published ones. What depends on the condition alone (its projection, every block's keys and
values) is a ``Context``: a sampler computes it once and uses it in every step.

In the right-hand column: B batch, N tokens of the map, M tokens of the condition, D width, H heads, K head width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import PixArtAlphaTextProjection, TimestepEmbedding
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.config import DiTConfig

EPS = 1e-5
#: Channels of the sinusoids that encode the timestep.
FREQUENCIES = 256


@dataclass(frozen=True)
class Context:
    """What the transformer keeps of a condition for all steps: its mean, and each block's keys and values."""

    pooled: Tensor  # (B, D)
    keys_values: tuple[tuple[Tensor, Tensor], ...]  # (B, H, M, K) each

    def expand(self, count: int) -> Context:
        """The same for a whole batch, of a context of one."""
        pairs = tuple((k.expand(count, -1, -1, -1), v.expand(count, -1, -1, -1)) for k, v in self.keys_values)
        return Context(self.pooled.expand(count, -1), pairs)

    @classmethod
    def cat(cls, first: Context, second: Context) -> Context:
        """Both batches, one behind the other."""
        pairs = zip(first.keys_values, second.keys_values, strict=True)
        return cls(
            torch.cat([first.pooled, second.pooled]),
            tuple((torch.cat([k, k2]), torch.cat([v, v2])) for (k, v), (k2, v2) in pairs),
        )


class RMSNorm(nn.RMSNorm):
    """In the dtype of what it normalises, also under autocast, which leaves the weight in float32."""

    def forward(self, x: Tensor) -> Tensor:
        assert self.weight is not None
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class Attention(nn.Module):
    """Projections of one attention; queries and keys are normalised over all heads together."""

    def __init__(self, dim: int, heads: int, out: bool) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k = nn.Linear(dim, dim, bias=False)
        self.to_v = nn.Linear(dim, dim, bias=False)
        self.norm_q = nn.LayerNorm(dim, eps=EPS)
        self.norm_k = nn.LayerNorm(dim, eps=EPS)
        if out:
            # In a list, because the published name is to_out.0.
            self.to_out = nn.ModuleList([nn.Linear(dim, dim, bias=False)])

    def queries(self, x: Tensor, rope: Tensor) -> Tensor:
        return rotate(self._split(self.norm_q(self.to_q(x))), rope).transpose(1, 2)  # (B, H, N, K)

    def keys(self, x: Tensor, rope: Tensor | None = None) -> Tensor:
        keys = self._split(self.norm_k(self.to_k(x)))  # (B, N, H, K)
        return (keys if rope is None else rotate(keys, rope)).transpose(1, 2)  # (B, H, N, K)

    def values(self, x: Tensor) -> Tensor:
        return self._split(self.to_v(x)).transpose(1, 2)  # (B, H, N, K)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1))


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(dim, width, bias=False)
        self.linear_2 = nn.Linear(width, dim, bias=False)
        self.linear_3 = nn.Linear(dim, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(_silu(self.linear_1(x)) * self.linear_3(x))


class Modulation(nn.Module):
    """The published ``norm1``: a norm, and the scales and gates of both branches. There is no shift."""

    def __init__(self, dim: int, time_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(time_dim, 4 * dim)
        self.norm = RMSNorm(dim, eps=EPS)

    def forward(self, time: Tensor) -> tuple[Tensor, ...]:
        return self.linear(F.silu(time))[:, None].chunk(4, dim=-1)  # 4 x (B, 1, D)


class Block(nn.Module):
    """Self- and cross-attention side by side, mixed by one projection; norms before and behind each branch."""

    def __init__(self, config: DiTConfig, time_dim: int) -> None:
        super().__init__()
        dim = config.dim
        self.gate = nn.Parameter(torch.zeros(config.heads))
        self.attn1 = Attention(dim, config.heads, out=False)
        self.attn2 = Attention(dim, config.heads, out=True)
        self.feed_forward = FeedForward(dim, config.ffn_width)
        self.norm1 = Modulation(dim, time_dim)
        self.norm1_context = RMSNorm(dim, eps=EPS)
        self.norm2 = RMSNorm(dim, eps=EPS)
        self.ffn_norm1 = RMSNorm(dim, eps=EPS)
        self.ffn_norm2 = RMSNorm(dim, eps=EPS)

    def keys_values(self, caption: Tensor) -> tuple[Tensor, Tensor]:
        caption = self.norm1_context(caption)
        return self.attn2.keys(caption), self.attn2.values(caption)  # (B, H, M, K) each

    def forward(self, x: Tensor, time: Tensor, rope: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        scale_attn, gate_attn, scale_mlp, gate_mlp = self.norm1(time)  # (B, 1, D)
        h = self.norm1.norm(x) * (1 + scale_attn)  # (B, N, D)
        own = F.scaled_dot_product_attention(
            self.attn1.queries(h, rope), self.attn1.keys(h, rope), self.attn1.values(h)
        )  # (B, H, N, K)
        cross = F.scaled_dot_product_attention(self.attn2.queries(h, rope), keys, values)
        mixed = own + cross * self.gate.tanh().view(-1, 1, 1)  # (B, H, N, K)
        y = self.attn2.to_out[0](mixed.transpose(1, 2).flatten(2))  # (B, N, D)
        x = x + gate_attn.tanh() * self.norm2(y)
        y = self.feed_forward(self.ffn_norm1(x) * (1 + scale_mlp))
        return x + gate_mlp.tanh() * self.ffn_norm2(y)  # (B, N, D)


class TimeCaptionEmbedding(nn.Module):
    """The timestep and the mean of the condition's tokens, added."""

    def __init__(self, dim: int, time_dim: int) -> None:
        super().__init__()
        self.timestep_embedder = TimestepEmbedding(FREQUENCIES, time_dim)
        self.caption_embedder = nn.Sequential(nn.LayerNorm(dim, eps=EPS), nn.Linear(dim, time_dim))

    def forward(self, timestep: Tensor, pooled: Tensor) -> Tensor:
        return self.timestep_embedder(sinusoids(timestep).to(pooled.dtype)) + self.caption_embedder(pooled)  # (B, T)


class PatchEmbedder(nn.Module):
    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.proj = nn.Linear(config.patch_size**2 * config.channels, config.dim)

    def forward(self, x: Tensor) -> Tensor:
        # Inside a patch: channel, row, column.
        return self.proj(F.unfold(x, self.patch_size, stride=self.patch_size).transpose(1, 2))  # (B, N, D)


class NormOut(nn.Module):
    def __init__(self, config: DiTConfig, time_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.dim, eps=1e-6, elementwise_affine=False)
        self.linear_1 = nn.Linear(time_dim, config.dim)
        self.linear_2 = nn.Linear(config.dim, config.patch_size**2 * config.channels)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        scale = self.linear_1(F.silu(time))[:, None]  # (B, 1, D)
        return self.linear_2(self.norm(x) * (1 + scale))  # (B, N, P)


class NextDiT(nn.Module):
    """Predicts the flow from noisy features, a timestep and a condition.

    The same network as diffusers' LuminaNextDiT2DModel behind PixArtAlphaTextProjection, written out because the
    sampler keeps the condition's keys and values, which diffusers recomputes in every step.
    """

    def __init__(self, config: DiTConfig, condition_width: int) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        time_dim = min(config.dim, 1024)
        self.patch_embedder = PatchEmbedder(config)
        self.caption_projection = PixArtAlphaTextProjection(condition_width, config.dim)
        self.time_caption_embed = TimeCaptionEmbedding(config.dim, time_dim)
        self.layers = nn.ModuleList(Block(config, time_dim) for _ in range(config.layers))
        self.norm_out = NormOut(config, time_dim)

    @torch.no_grad()
    def open_gates(self, value: float) -> None:
        """Let every head's cross-attention count tanh(value) of its output. Gates are 0 at first and open slowly."""
        for layer in self._blocks():
            layer.gate.fill_(value)

    def _blocks(self) -> list[Block]:
        return cast(list[Block], list(self.layers))

    def context(self, condition: Tensor) -> Context:
        """Prepare a condition (B, M, W), or the null condition of zeros, for any number of steps."""
        caption = self.caption_projection(condition)  # (B, M, D)
        return Context(caption.mean(1), tuple(layer.keys_values(caption) for layer in self._blocks()))

    def velocity(self, x: Tensor, timestep: Tensor, context: Context) -> Tensor:
        """Predict the flow (B, C, H, W) from noisy features x (B, C, H, W) and timestep (B) in (0, 1000]."""
        patches = self.config.grid // self.config.patch_size
        rope = rope_2d(patches, patches, self.config.dim // self.config.heads).to(x.device)
        time = self.time_caption_embed(timestep, context.pooled)  # (B, T)
        h = self.patch_embedder(x)  # (B, N, D)
        for layer, (keys, values) in zip(self.layers, context.keys_values, strict=True):
            if self.gradient_checkpointing and self.training:
                h = checkpoint(layer, h, time, rope, keys, values, use_reentrant=False)
            else:
                h = layer(h, time, rope, keys, values)
        h = self.norm_out(h, time)  # (B, N, P)
        size = self.config.patch_size
        # Inside a patch here: row, column, channel.
        return h.unflatten(2, (size, size, -1)).unflatten(1, (patches, patches)).permute(0, 5, 1, 3, 2, 4).reshape_as(x)

    def forward(self, x: Tensor, timestep: Tensor, condition: Tensor) -> Tensor:
        """One step, condition (B, M, W) included, as training takes it."""
        return self.velocity(x, timestep, self.context(condition))


def sinusoids(timestep: Tensor) -> Tensor:
    """Cosines and sines (B, FREQUENCIES) in float32 that encode timesteps (B).

    As diffusers' get_timestep_embedding, but for a float32 exp() that is rounded correctly: each CPU has its own last
    bits there, and a timestep of 1000 makes 1000 times as much of them.
    """
    half = FREQUENCIES // 2
    exponents = -math.log(10000) * torch.arange(half, dtype=torch.float32, device="cpu") / half
    frequencies = exponents.double().exp().float().to(timestep.device)
    angles = timestep[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def rope_2d(height: int, width: int, head_width: int, theta: float = 10000.0) -> Tensor:
    """Rotations (height * width, head_width / 2) complex: at each frequency one by the row and one by the column.

    As diffusers' get_2d_rotary_pos_embed_lumina; the paper's 3-D positions are not in the code.
    """
    frequencies = 1 / theta ** (torch.arange(0, head_width // 2, 2).float() / (head_width // 2))  # (K / 4)
    rows = torch.outer(torch.arange(height).float(), frequencies)[:, None].expand(-1, width, -1)
    columns = torch.outer(torch.arange(width).float(), frequencies)[None].expand(height, -1, -1)
    angles = torch.stack([rows, columns], dim=-1).reshape(height * width, head_width // 2)
    return torch.polar(torch.ones_like(angles), angles)


def rotate(x: Tensor, rope: Tensor) -> Tensor:
    """Rotate adjacent channel pairs of x (B, N, H, K) by rope (N, K / 2)."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rope[:, None]).flatten(3).type_as(x)


def _silu(x: Tensor) -> Tensor:
    """SiLU in float32, as Lumina's feed-forward layer takes it."""
    return F.silu(x.float()).type_as(x)
