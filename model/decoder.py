"""The diffusion decoder: CLIP image features -> pixels, by an SDXL UNet and VAE as in Emu2-Gen."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from torch import Tensor, nn

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


class Decoder(nn.Module):
    """A latent diffusion model conditioned on the feature tokens (cross-attention) and their mean (text_embeds)."""

    def __init__(self, unet: UNet2DConditionModel, vae: AutoencoderKL) -> None:
        super().__init__()
        self.unet = unet
        self.vae = vae

    @property
    def latent_size(self) -> int:
        return int(self.unet.config.sample_size)

    @property
    def image_size(self) -> int:
        """Side of the decoded image in pixels."""
        return self.latent_size * 2 ** (len(self.vae.config.block_out_channels) - 1)

    def predict(self, latents: Tensor, timestep: Tensor | float, features: Tensor) -> Tensor:
        """Noise in latents [B, 4, h, w] at a timestep, given feature tokens [B, N, C]."""
        # SDXL's micro-conditioning: original size, crop corner, target size (all in pixels).
        size = float(self.image_size)
        time_ids = features.new_tensor([size, size, 0, 0, size, size]).expand(len(features), -1)
        added = {"text_embeds": features.mean(1), "time_ids": time_ids}
        return self.unet(latents, timestep, features, added_cond_kwargs=added, return_dict=False)[0]

    def encode(self, pixels: Tensor) -> Tensor:
        """RGB in [0, 1], [B, 3, H, W] -> scaled latents (the mean of the posterior)."""
        return self.vae.encode(pixels * 2 - 1).latent_dist.mode() * self.vae.config.scaling_factor

    def pixels(self, latents: Tensor) -> Tensor:
        """Scaled latents -> RGB in [0, 1]."""
        return (self.vae.decode(latents / self.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)

    def decode(
        self,
        features: Tensor,
        negative: Tensor,
        generators: Sequence[torch.Generator],
        steps: int,
        guidance: float,
    ) -> Tensor:
        """Feature tokens [B, N, C] -> RGB in [0, 1], [B, 3, H, W]; one generator per image draws its noise.

        ``negative`` [B, N, C] is what guidance steers away from; guidance 1 leaves it out.
        """
        scheduler = EulerDiscreteScheduler(**SCHEDULER)
        scheduler.set_timesteps(steps)
        shape = (1, self.unet.config.in_channels, self.latent_size, self.latent_size)
        noise = [torch.randn(shape, generator=generator) for generator in generators]
        latents = torch.cat(noise).to(features) * scheduler.init_noise_sigma
        for timestep in scheduler.timesteps:
            scaled = scheduler.scale_model_input(latents, timestep)
            predicted = self.predict(scaled, timestep, features)
            if guidance != 1:
                base = self.predict(scaled, timestep, negative)
                predicted = base + guidance * (predicted - base)
            latents = scheduler.step(predicted, timestep, latents, return_dict=False)[0]
        return self.pixels(latents)
