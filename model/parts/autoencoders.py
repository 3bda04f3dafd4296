"""Between pixels and features: the VAE, the target encoder, and the decoder from features to latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, ModelMixin, UNet2DConditionModel
from torch import Tensor, nn

from model import checkpoint
from model.data import Draws, Source
from model.decoder import SCHEDULER, Decoder, to_latents
from model.eva_clip import EvaClip, EvaConfig, normalize
from model.parts.base import Loss, Part, Pixels, per_item, source, subset
from model.recipe import Recipe, RecipeError, from_table

M = TypeVar("M", bound=ModelMixin)


class Vae(Part):
    """An SDXL-style autoencoder: pixels <-> latents."""

    def __init__(self, recipe: Recipe, data: Source) -> None:
        super().__init__()
        if "sample_size" not in recipe.model:
            raise RecipeError("model: sample_size is missing, the side of the images in pixels")
        self.vae = built(AutoencoderKL, recipe.model)
        self.prepare = Pixels(self.vae.config.sample_size)
        self.spread: Tensor
        self.register_buffer("spread", torch.ones(()))

    def counts(self, items: Sequence[Tensor]) -> dict[str, int]:
        return {"pixels": len(items), "kl": len(items)}

    def losses(self, items: Sequence[Tensor], draws: Draws) -> dict[str, Loss]:
        images = torch.stack(list(items)).to(self.device) * 2 - 1  # [B, 3, H, W]
        posterior = self.vae.encode(images).latent_dist
        self.spread.copy_(posterior.mean.detach().std())
        noise = draws.normal(posterior.mean.shape[1:]).to(self.device)
        decoded = self.vae.decode(posterior.mean + posterior.std * noise).sample
        return {
            "pixels": Loss(per_item(F.mse_loss(decoded, images, reduction="none")).sum(), len(items)),
            "kl": Loss(1e-4 * posterior.kl().sum() / noise[0].numel(), len(items)),
        }

    def save(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        # The decoder's noise schedule takes latents of unit spread.
        config = {**self.vae.config, "scaling_factor": round(1 / state["spread"].item(), 4)}
        save_diffusers(AutoencoderKL, config, subset(state, "vae."), folder / "decoder" / "vae")

    def checkpoint_gradients(self) -> None:
        self.vae.enable_gradient_checkpointing()


class EvaClipPart(Part):
    """The target encoder, with two throw-away heads on its pooled, noisy features: one draws the image, one tells
    each token's place.

    Upstream's encoder is trained on image-text pairs. Here the features must above all keep what the decoder
    needs and be easy to generate: of unit scale per channel and robust to noise. They must say where they belong,
    because the decoder's cross-attention takes them as a set. The scale is a statistic of a micro-batch, so this
    part's loss does depend on how a batch is shared out.
    """

    NOISE = 0.3

    def __init__(self, recipe: Recipe, data: Source) -> None:
        super().__init__()
        self.config = from_table(EvaConfig, recipe.model, "model")
        self.encoder = EvaClip(self.config)
        grid = self.config.patches // self.config.pool
        self.head = upsampler(self.config.width, doublings=(self.config.image_size // grid).bit_length() - 1)
        self.place_head = nn.Linear(self.config.width, grid**2)
        self.prepare = Pixels(self.config.image_size)

    def counts(self, items: Sequence[Tensor]) -> dict[str, int]:
        return dict.fromkeys(("pixels", "place", "scale"), len(items))

    def losses(self, items: Sequence[Tensor], draws: Draws) -> dict[str, Loss]:
        images = torch.stack(list(items)).to(self.device)  # [B, 3, H, W]
        features = self.encoder.features(normalize(images))  # [B, C, grid, grid]
        noisy = features + self.NOISE * draws.normal(features.shape[1:]).to(self.device)
        mean, variance = features.mean((0, 2, 3)), features.var((0, 2, 3))  # [C]
        places = self.place_head(noisy.flatten(2).transpose(1, 2))  # [B, N, N]
        place = torch.arange(places.shape[1], device=self.device).expand(len(images), -1)  # [B, N]
        means = {
            "pixels": F.mse_loss(self.head(noisy), images * 2 - 1),
            "place": 0.05 * F.cross_entropy(places.flatten(0, 1), place.flatten()),
            "scale": 0.1 * (mean.square() + (variance - 1).square()).mean(),
        }
        return {name: Loss(mean * len(items), len(items)) for name, mean in means.items()}

    def save(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        encoder = EvaClip(self.config)
        encoder.load_state_dict(subset(state, "encoder."))
        checkpoint.save_eva_clip(encoder, folder)


def upsampler(width: int, doublings: int) -> nn.Sequential:
    """Features [B, width, h, w] -> RGB, 2**doublings times as large, through halving widths from 128 on."""
    layers: list[nn.Module] = []
    for i in range(doublings - 1):
        layers += [nn.ConvTranspose2d(width, max(32, 128 >> i), 4, 2, 1), nn.GELU()]
        width = max(32, 128 >> i)
    return nn.Sequential(*layers, nn.ConvTranspose2d(width, 3, 4, 2, 1))


class DecoderPart(Part):
    """The SDXL-style UNet that turns EVA-CLIP features into latents of the (frozen) VAE."""

    #: The generator's features are not perfect; a little noise keeps the decoder from relying on it.
    NOISE = 0.1

    def __init__(self, recipe: Recipe, data: Source) -> None:
        super().__init__()
        self.unet = built(UNet2DConditionModel, recipe.model)
        encoder = checkpoint.load_eva_clip(source(recipe, "eva_clip").folder)
        vae = checkpoint.load_vae(source(recipe, "decoder").folder)
        self.frozen = [encoder, vae]
        self.encode = encoder.features
        # Beside the module, not in it: the UNet is registered once.
        self.decoder = [Decoder(self.unet, vae)]
        self.scheduler = DDPMScheduler(**SCHEDULER)
        self.prepare = Pixels(self.decoder[0].image_size)

    def counts(self, items: Sequence[Tensor]) -> dict[str, int]:
        return {"noise": len(items)}

    def losses(self, items: Sequence[Tensor], draws: Draws) -> dict[str, Loss]:
        images = torch.stack(list(items)).to(self.device)  # [B, 3, H, W]
        with torch.no_grad():
            latents = to_latents(self.decoder[0].vae, images)  # [B, 4, h, w]
            features = self.encode(normalize(images)).flatten(2).transpose(1, 2)  # [B, N, C]
        features = features + self.NOISE * draws.normal(features.shape[1:]).to(self.device)
        noise = draws.normal(latents.shape[1:]).to(self.device)
        alphas = self.scheduler.alphas_cumprod
        timestep = (draws.uniform() * len(alphas)).long()  # [B]
        noisy = self.scheduler.add_noise(latents, noise, timestep)
        predicted = self.decoder[0].predict(noisy, timestep.to(self.device), features)
        error = per_item(F.mse_loss(predicted, noise, reduction="none"))  # [B]
        # What is drawn is settled where noise prevails, and there a wrong image costs little in terms of noise:
        # below a signal-to-noise ratio of 1 the error is weighted as that of the image, up to tenfold.
        weight = ((1 - alphas) / alphas).clamp(1, 10)[timestep].to(self.device)
        return {"noise": Loss((error * weight).sum(), len(items))}

    def save(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        save_diffusers(UNet2DConditionModel, self.unet.config, subset(state, "unet."), folder / "decoder" / "unet")

    def checkpoint_gradients(self) -> None:
        self.unet.enable_gradient_checkpointing()


def built(cls: type[M], sizes: Mapping[str, Any]) -> M:
    """A module of these sizes. RecipeError for what its class does not take."""
    try:
        return cls(**sizes)
    except (TypeError, ValueError, KeyError, IndexError, RuntimeError) as error:
        raise RecipeError(f"model: {cls.__name__} cannot be built: {error}") from error


def save_diffusers(cls: type[ModelMixin], config: Mapping[str, Any], state: Mapping[str, Tensor], folder: Path) -> None:
    with torch.device("meta"):
        module = cls.from_config(config)
    module.load_state_dict(state, assign=True)
    module.half().save_pretrained(folder)
