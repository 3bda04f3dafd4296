"""Between pixels and features: the VAE, the target encoder, and the decoder from features to latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, ModelMixin, UNet2DConditionModel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from model import checkpoint
from model.data import Draws, Example, Source, Unreadable, pixels, readable, train_tokenizer
from model.decoder import SCHEDULER, Decoder, to_latents
from model.eva_clip import EvaClip, EvaConfig, normalize
from model.parts.base import Loss, Part, Pixels, per_item, source, subset
from model.recipe import Recipe, RecipeError, from_table

M = TypeVar("M", bound=ModelMixin)

#: Of the text tower that EVA-CLIP is trained beside; longer captions are cut.
CAPTION_TOKENS = 32


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


@dataclass(frozen=True)
class PrepareCaptioned:
    """Example -> its image, RGB in [0, 1], [3, size, size], and the token ids of its caption, [CAPTION_TOKENS]."""

    size: int
    tokenizer: PreTrainedTokenizerFast

    def __call__(self, example: Example) -> tuple[Tensor, Tensor]:
        if not example.caption:
            raise Unreadable("example without caption")
        ids = [*self.tokenizer(example.caption).input_ids[: CAPTION_TOKENS - 1], self.tokenizer.eos_token_id]
        padding = [self.tokenizer.pad_token_id] * (CAPTION_TOKENS - len(ids))
        return pixels([example.image], self.size)[0], torch.tensor(ids + padding)


class EvaClipPart(Part):
    """The target encoder, learned as CLIP is: each image has to find its caption in the micro-batch, and the reverse.

    The loss and the text tower, which is thrown away, are open_clip's. Two more heads that are thrown away look at the
    noisy, pooled features: one draws the image, one tells each token's place. A billion image-text pairs teach
    upstream's encoder what it sees in detail; here the features must be made to keep what the decoder needs, be easy to
    generate (of unit scale per channel, robust to noise) and say where they belong, because the decoder's
    cross-attention takes them as a set. Scale and contrast are statistics of a micro-batch, so this part's loss does
    depend on how a batch is shared out.
    """

    prepare: PrepareCaptioned

    NOISE = 0.3
    #: Width of the text tower, and of the space in which images and captions meet.
    TEXT_WIDTH = 64
    VOCABULARY = 512
    #: Examples of the data from which the tokenizer is learned.
    TOKENIZED = 1024

    def __init__(self, recipe: Recipe, data: Source) -> None:
        super().__init__()
        # Two seconds that no other part needs.
        from open_clip.loss import ClipLoss
        from open_clip.transformer import TextTransformer

        self.config = from_table(EvaConfig, recipe.model, "model")
        self.encoder = EvaClip(self.config)
        grid = self.config.patches // self.config.pool
        self.head = upsampler(self.config.width, doublings=(self.config.image_size // grid).bit_length() - 1)
        self.place_head = nn.Linear(self.config.width, grid**2)
        captions = [example.caption for example in readable(data, self.TOKENIZED)]
        tokenizer = train_tokenizer(captions, self.VOCABULARY)
        self.text = TextTransformer(
            context_length=CAPTION_TOKENS,
            vocab_size=len(tokenizer),
            width=self.TEXT_WIDTH,
            heads=2,
            layers=2,
            output_dim=self.TEXT_WIDTH,
            eos_id=tokenizer.eos_token_id,
            pool_type="eos",
        )
        self.image_head = nn.Linear(self.config.width, self.TEXT_WIDTH, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(1 / 0.07).log())  # CLIP's first temperature
        self.contrast = ClipLoss()
        self.prepare = PrepareCaptioned(self.config.image_size, tokenizer)

    def counts(self, items: Sequence[tuple[Tensor, Tensor]]) -> dict[str, int]:
        return dict.fromkeys(("contrast", "pixels", "place", "scale"), len(items))

    def losses(self, items: Sequence[tuple[Tensor, Tensor]], draws: Draws) -> dict[str, Loss]:
        images, captions = (torch.stack(list(of)).to(self.device) for of in zip(*items, strict=True))
        features = self.encoder.features(normalize(images))  # [B, C, grid, grid]
        noisy = features + self.NOISE * draws.normal(features.shape[1:]).to(self.device)
        mean, variance = features.mean((0, 2, 3)), features.var((0, 2, 3))  # [C]
        places = self.place_head(noisy.flatten(2).transpose(1, 2))  # [B, N, N]
        place = torch.arange(places.shape[1], device=self.device).expand(len(images), -1)  # [B, N]
        means = {
            "contrast": 0.02 * self.contrast_loss(noisy, captions),
            "pixels": F.mse_loss(self.head(noisy), images * 2 - 1),
            "place": 0.05 * F.cross_entropy(places.flatten(0, 1), place.flatten()),
            "scale": 0.1 * (mean.square() + (variance - 1).square()).mean(),
        }
        return {name: Loss(mean * len(items), len(items)) for name, mean in means.items()}

    def contrast_loss(self, features: Tensor, captions: Tensor) -> Tensor:
        """CLIP's: cross-entropy of each image's caption among those of the micro-batch, and of each caption's image.

        An image is embedded by the mean of its features [B, C, grid, grid], a caption [B, CAPTION_TOKENS] by the text
        tower's state at its end.
        """
        seen = F.normalize(self.image_head(features.mean((2, 3))), dim=-1)  # [B, TEXT_WIDTH]
        said = F.normalize(self.text(captions), dim=-1)  # [B, TEXT_WIDTH]
        loss: Tensor = self.contrast(seen, said, self.logit_scale.exp())
        return loss

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
