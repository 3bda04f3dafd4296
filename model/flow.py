"""Flow matching: the training target and the sampler, apart from any network."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

#: Discrete noise levels of training; the timestep is the level times 1000 (FlowMatchEulerDiscreteScheduler, shift 1).
LEVELS = 1000

#: (noisy features, timestep) -> predicted flow.
Velocity = Callable[[Tensor, Tensor], Tensor]
#: (noisy features, timestep, condition) -> predicted flow.
Network = Callable[[Tensor, Tensor, Tensor], Tensor]


def noise_levels(count: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw sigma in {0.001, ..., 1}, uniform, one per sample [count]."""
    index = (torch.rand(count, generator=generator) * LEVELS).long()
    return (LEVELS - index).float() / LEVELS


def add_noise(clean: Tensor, noise: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Return x_t = (1 - sigma) x + sigma noise, and the flow noise - x that the network learns.

    ``sigma`` [B] holds one level per sample. The paper counts time the other way round (t = 1 - sigma) and
    so has the opposite sign; the code that trained the published models is followed here.
    """
    sigma = sigma.view(-1, *[1] * (clean.dim() - 1))
    return (1 - sigma) * clean + sigma * noise, noise - clean


def sample(velocity: Velocity, noise: Tensor, steps: int) -> Tensor:
    """Integrate from noise to features in ``steps`` Euler steps over sigma = linspace(1, 1 / steps), then 0."""
    sigmas = [*torch.linspace(1, 1 / steps, steps).tolist(), 0.0]
    x = noise
    for sigma, following in pairwise(sigmas):
        timestep = torch.full((len(x),), sigma * LEVELS, device=x.device)
        x = x + (following - sigma) * velocity(x, timestep)
    return x


def guided(network: Network, condition: Tensor, null: Tensor, guidance: float) -> Velocity:
    """Classifier-free guidance: v_null + guidance (v_condition - v_null), both in one batch, null first.

    Guidance 1 leaves the null condition out.
    """
    if guidance == 1:
        return lambda x, timestep: network(x, timestep, condition)
    both = torch.cat([null, condition])

    def velocity(x: Tensor, timestep: Tensor) -> Tensor:
        base, conditional = network(torch.cat([x, x]), torch.cat([timestep, timestep]), both).chunk(2)
        return base + guidance * (conditional - base)

    return velocity
