"""How good the parts of a model are on examples of a seed that was not trained on: what its card says."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from model import checkpoint
from model.data import Draws, Source, pixels
from model.decoder import to_latents, to_pixels
from model.eva_clip import normalize
from model.generate import load
from model.parts.generator import Generator
from model.recipe import Recipe
from model.sources import load_mixture

#: Added to a recipe's seed: so far apart that no recipe's own seed is met.
OTHER_SEED = 1_000_000
BATCH = 16

#: A score by its name, and the number of examples that it rests on.
Measured = dict[str, tuple[float, int]]


@torch.inference_mode()
def pixel_errors(folder: Path, source: Source, seed: int, count: int) -> Measured:
    """Mean squared error of RGB in [0, 1] of images through the VAE, and through encoder, decoder and VAE.

    ``retrieval`` is the share of images that, moved to the right by a pixel, are nearest to themselves among all, by
    the cosine of their EVA-CLIP features.
    """
    images = [source(seed, index).image for index in range(count)]
    model = load(str(folder))
    vae, encoder = checkpoint.load_vae(folder).eval(), model.encoder
    size = encoder.config.image_size
    seen = pixels(images, size)  # [N, 3, H, W]
    through = torch.cat([to_pixels(vae, to_latents(vae, batch)) for batch in seen.split(BATCH)])
    decoded = pixels(model.decode_images(images, range(count)), size)
    own, moved = (_directions(encoder.features, x) for x in (seen, seen.roll(1, dims=3)))
    nearest = (moved @ own.T).argmax(1)
    return {
        "vae error": (F.mse_loss(through, seen).item(), count),
        "decoder error": (F.mse_loss(decoded, seen).item(), count),
        "retrieval": ((nearest == torch.arange(count)).float().mean().item(), count),
    }


def _directions(features: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Features of images [N, 3, H, W] as unit vectors [N, C * grid * grid]."""
    rows = torch.cat([features(normalize(batch)).flatten(1) for batch in images.split(BATCH)])
    return F.normalize(rows, dim=1)


@torch.inference_mode()
def losses(recipe: Recipe, folder: Path, count: int) -> Measured:
    """Mean flow loss, and where the recipe trains jointly the answers' cross-entropy, of the generator in ``folder``.

    On ``count`` examples of the recipe's data, of another seed; noise and levels are drawn as in training, in single
    precision. Losses with heads that are thrown away have no value here.
    """
    recipe = dataclasses.replace(
        recipe, checkpoint=str(folder), sources={"generator": str(folder)}, precision="no", cache=None
    )
    data = load_mixture(recipe.data)
    part = Generator(recipe, data).eval()
    seed = recipe.seed + OTHER_SEED
    totals: Counter[str] = Counter()
    terms: Counter[str] = Counter()
    examples: Counter[str] = Counter()
    for start in range(0, count, BATCH):
        indices = range(start, min(start + BATCH, count))
        items = [part.prepare(data(seed, index)) for index in indices]
        found = part(items, Draws(seed, indices))
        examples["flow"] += sum(item.drawing is not None for item in items)
        examples["answer"] += sum(item.conversation is not None for item in items)
        for name in ("flow", "answer"):
            if name in found:
                totals[name] += found[name].total.item()
                terms[name] += found[name].terms
    return {f"{name} loss": (totals[name] / terms[name], examples[name]) for name in terms if terms[name]}
