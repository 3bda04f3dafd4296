"""Flow matching: the training target and the sampler, apart from any network."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: Discrete noise levels of training; the timestep is the level times 1000 (FlowMatchEulerDiscreteScheduler, shift 1).
LEVELS = 1000

#: (noisy features, timestep) -> predicted flow.
Velocity = Callable[[Tensor, Tensor], Tensor]


def noise_levels(uniform: Tensor) -> Tensor:
    """Uniform numbers in [0, 1) -> sigma in {0.001, ..., 1}, of the same shape: level 1000 comes from 0."""
    return (LEVELS - (uniform * LEVELS).long()).float() / LEVELS


def shifted(sigma: Tensor, shift: float) -> Tensor:
    """Move noise levels in (0, 1] towards 1 for ``shift`` above 1 (Esser et al., 2024, equation 23); 1 leaves them."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def add_noise(clean: Tensor, noise: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Return x_t = (1 - sigma) x + sigma noise, and the flow noise - x that the network learns.

    ``sigma`` [B] holds one level per sample. The paper counts time the other way round (t = 1 - sigma) and
    so has the opposite sign; the code that trained the published models is followed here.
    """
    sigma = sigma.view(-1, *[1] * (clean.dim() - 1))
    return (1 - sigma) * clean + sigma * noise, noise - clean


def schedule(steps: int) -> Tensor:
    """Sigmas of the sampler in float32, [steps + 1]: linspace(1, 1 / steps), then 0."""
    return torch.cat([torch.linspace(1, 1 / steps, steps, dtype=torch.float64).float(), torch.zeros(1)])


def sample(velocity: Velocity, noise: Tensor, steps: int, integer_timesteps: bool = False) -> Tensor:
    """Integrate from noise to features in ``steps`` Euler steps.

    ``integer_timesteps`` cuts the network's timestep to whole numbers, as upstream's inference does (966.67 -> 966)
    and its training does not. Each step is summed in float32, whatever the dtype of ``noise``.
    """
    sigmas = schedule(steps)
    timesteps = (sigmas * LEVELS).long() if integer_timesteps else sigmas * LEVELS
    x = noise
    for i in range(steps):
        flow = velocity(x, timesteps[i].to(x.device).expand(len(x)))
        x = (x.float() + (sigmas[i + 1] - sigmas[i]) * flow).to(noise.dtype)
    return x


def guided(conditional: Tensor, unconditional: Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance: v_null + guidance (v_condition - v_null)."""
    return unconditional + guidance * (conditional - unconditional)
