"""From features to pixels: the diffusion decoder, an SDXL UNet and VAE as in Emu2-Gen, and the VAE alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from torch import Tensor, nn

from model.flow import guided

#: Emu2-Gen's scheduler_config.json, which the published decoder carries unchanged.
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 1,
}


def to_latents(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """RGB in [0, 1], [B, 3, H, W] -> scaled latents (the mean of the posterior)."""
    return (vae.encode(pixels * 2 - 1).latent_dist.mode() - _shift(vae)) * vae.config.scaling_factor


def to_pixels(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Scaled latents -> RGB in [0, 1]."""
    return (vae.decode(latents / vae.config.scaling_factor + _shift(vae)).sample / 2 + 0.5).clamp(0, 1)


def _shift(vae: AutoencoderKL) -> float:
    """FLUX's VAE centres its latents; SDXL's does not."""
    return float(vae.config.shift_factor or 0)


class Decoder(nn.Module):
    """A latent diffusion model conditioned on the feature tokens (cross-attention) and their mean (text_embeds)."""

    def __init__(self, unet: UNet2DConditionModel, vae: AutoencoderKL) -> None:
        super().__init__()
        # Convolutions are faster when the channels lie together: on CPUs by a tenth, on GPUs by more.
        self.unet = unet.to(memory_format=torch.channels_last)
        self.vae = vae.to(memory_format=torch.channels_last)

    @property
    def latent_size(self) -> int:
        return int(self.unet.config.sample_size)

    @property
    def latent_pixels(self) -> int:
        """Side in pixels of one latent."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def image_size(self) -> int:
        """Side of the decoded image in pixels."""
        return self.latent_size * self.latent_pixels

    def predict(
        self, latents: Tensor, timestep: Tensor | float, features: Tensor, original_size: int | None = None
    ) -> Tensor:
        """Noise in latents [B, 4, h, w] at a timestep, given feature tokens [B, N, C].

        ``original_size`` is the side in pixels that SDXL's micro-conditioning names as that of the source image;
        the image's own when not given (1024 in the published model).
        """
        height, width = (side * self.latent_pixels for side in latents.shape[2:])
        source = (original_size or height, original_size or width)
        time_ids = features.new_tensor([*source, 0, 0, height, width]).expand(len(features), -1)  # 0, 0: crop corner
        added = {"text_embeds": features.mean(1), "time_ids": time_ids}
        return self.unet(latents, timestep, features, added_cond_kwargs=added, return_dict=False)[0]

    def sample(
        self,
        features: Tensor,
        negative: Tensor,
        noise: Tensor,
        steps: int,
        guidance: float,
        original_size: int | None = None,
    ) -> Tensor:
        """Feature tokens [B, N, C] and unit noise [B, 4, h, w] -> scaled latents [B, 4, h, w].

        ``negative`` [B, N, C] is what guidance steers away from; guidance 1 leaves it out.
        """
        scheduler = EulerDiscreteScheduler(**SCHEDULER)
        scheduler.set_timesteps(steps, device=noise.device)
        both = features if guidance == 1 else torch.cat([features, negative])
        latents = noise * scheduler.init_noise_sigma
        for timestep in scheduler.timesteps:
            scaled = scheduler.scale_model_input(latents, timestep)
            if guidance == 1:
                predicted = self.predict(scaled, timestep, both, original_size)
            else:
                twice = self.predict(torch.cat([scaled, scaled]), timestep, both, original_size)
                conditional, unconditional = twice.chunk(2)
                predicted = guided(conditional, unconditional, guidance)
            latents = scheduler.step(predicted, timestep, latents, return_dict=False)[0]
        return latents

    def draw_noise(self, generators: Sequence[torch.Generator], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Unit noise for one image per generator, [B, 4, h, w], drawn where the generator lives."""
        shape = (1, self.unet.config.in_channels, self.latent_size, self.latent_size)
        return torch.cat([torch.randn(shape, generator=g, dtype=dtype, device=g.device) for g in generators]).to(device)
