"""EVA-CLIP's image tower, the target encoder: image -> a grid of raw features that the diffusion transformer learns.

BLIP3-o takes the output of the last block as it is: the class token dropped, no final norm, no scaling, then
average-pooled to the generator's grid (``gen_pooling early_pool2d_4``: 32 x 32 patches -> 8 x 8 tokens).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: OpenAI CLIP's pixel statistics, which EVA-CLIP uses too.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class EvaConfig:
    """Sizes of EVA-02-CLIP-E-plus at 448 px by default."""

    image_size: int = 448
    patch_size: int = 14
    width: int = 1792
    layers: int = 64
    head_width: int = 112
    mlp_ratio: float = 8.571428571428571
    pool: int = 4

    def __post_init__(self) -> None:
        """Raises ValueError for sizes that do not fit each other."""
        if min(self.image_size, self.patch_size, self.width, self.layers, self.head_width, self.pool) < 1:
            raise ValueError("sizes start at 1")
        if self.width % self.head_width:
            raise ValueError(f"width {self.width} is not a multiple of head_width {self.head_width}")
        if self.image_size % (self.patch_size * self.pool):
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size} x pool {self.pool}"
            )

    @property
    def patches(self) -> int:
        """Patches along one side of the image."""
        return self.image_size // self.patch_size


class Attention(nn.Module):
    def __init__(self, width: int, head_width: int) -> None:
        super().__init__()
        self.heads = width // head_width
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # [B, heads, N, head_width]
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).reshape(batch, length, width))


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """EVA-CLIP-E normalises after each branch (``postnorm``), not before it."""

    def __init__(self, config: EvaConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=1e-6)
        self.attn = Attention(config.width, config.head_width)
        self.norm2 = nn.LayerNorm(config.width, eps=1e-6)
        self.mlp = Mlp(config.width, int(config.width * config.mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.norm1(self.attn(x))
        return x + self.norm2(self.mlp(x))


class PatchEmbed(nn.Module):
    def __init__(self, config: EvaConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, config.width, config.patch_size, config.patch_size)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)


class EvaClip(nn.Module):
    """Parameter names are those of the published weights."""

    def __init__(self, config: EvaConfig) -> None:
        super().__init__()
        self.config = config
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.randn(1, config.patches**2 + 1, config.width) * 0.02)
        self.patch_embed = PatchEmbed(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images [B, 3, H, W] -> patch features [B, patches**2, width] of the last block."""
        x = self.patch_embed(images)  # [B, N, C]
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed  # [B, 1+N, C]
        for block in self.blocks:
            x = block(x)
        return x[:, 1:]

    def features(self, images: Tensor) -> Tensor:
        """Normalised images [B, 3, H, W] -> the generator's target [B, width, grid, grid]."""
        x = self(images)
        grid = x.transpose(1, 2).unflatten(2, (self.config.patches, self.config.patches))
        return F.avg_pool2d(grid, self.config.pool)


def normalize(pixels: Tensor) -> Tensor:
    """RGB in [0, 1], [B, 3, H, W] -> the encoder's input."""
    return (pixels - pixels.new_tensor(MEAN).view(3, 1, 1)) / pixels.new_tensor(STD).view(3, 1, 1)
