"""Flow matching against closed forms."""

import pytest
import torch

from model import flow


def test_levels_are_the_thousand_of_the_scheduler() -> None:
    sigma = flow.noise_levels(torch.rand(200_000, generator=torch.Generator().manual_seed(0)))
    steps = (sigma * 1000).round()
    assert torch.equal(steps / 1000, sigma)
    assert (steps.min().item(), steps.max().item()) == (1, 1000)
    assert sigma.mean().item() == pytest.approx(0.5005, abs=0.003)


def test_shift_moves_levels_towards_noise_and_keeps_the_end() -> None:
    """SD3's formula: a shift of 3 takes 1/2 to 3/4."""
    sigma = torch.tensor([0.25, 0.5, 1.0])
    torch.testing.assert_close(flow.shifted(sigma, 3.0), torch.tensor([0.5, 0.75, 1.0]))
    assert torch.equal(flow.shifted(sigma, 1.0), sigma)


def test_the_ends_of_the_path_are_data_and_noise() -> None:
    clean, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    noisy, target = flow.add_noise(clean, noise, torch.tensor([0.0, 1.0]))
    assert torch.equal(noisy[0], clean[0])
    assert torch.equal(noisy[1], noise[1])
    assert torch.equal(target, noise - clean)


@pytest.mark.parametrize("steps", [1, 5, 30])
def test_the_exact_flow_leads_from_noise_to_data(steps: int) -> None:
    clean, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    sampled = flow.sample(lambda x, timestep: noise - clean, noise, steps)
    torch.testing.assert_close(sampled, clean, rtol=0, atol=1e-5)


def test_timesteps_are_a_thousand_times_the_level() -> None:
    seen: list[float] = []

    def velocity(x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        seen.append(timestep[0].item())
        return torch.zeros_like(x)

    flow.sample(velocity, torch.zeros(1, 1), 4)
    assert seen == pytest.approx([1000, 750, 500, 250])


def test_upstream_cuts_timesteps_to_whole_numbers() -> None:
    seen: list[float] = []

    def velocity(x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        seen.append(timestep[0].item())
        return torch.ones_like(x)

    sampled = flow.sample(velocity, torch.zeros(1, 1), 3, integer_timesteps=True)
    assert seen == [1000, 666, 333]
    assert sampled.item() == pytest.approx(-1)  # the steps are those of the uncut levels


def test_guidance_extrapolates_from_the_null_condition() -> None:
    assert flow.guided(torch.full((1, 2), 3.0), torch.ones(1, 2), 2.5).tolist() == [[6, 6]]  # 1 + 2.5 (3 - 1)
