from __future__ import annotations

import random
from collections import Counter

import pytest

from human_study.simulate import Preferences


def shares(preferences: Preferences, n: int = 20_000) -> dict[str, float]:
    rng = random.Random(0)
    counts = Counter(preferences.choose(None, "a", "b", rng) for _ in range(n))
    return {choice: count / n for choice, count in counts.items()}


def test_choices_follow_davidsons_model() -> None:
    # Strengths 3 and 1, ties 0.5 sqrt(3): the shares are their parts of 4.866.
    found = shares(Preferences({(None, "a"): 1.0986, (None, "b"): 0.0}, ties=0.5))
    assert found == pytest.approx({"left": 0.6165, "right": 0.2055, "tie": 0.1780}, abs=0.01)


def test_the_left_one_gains_from_bias() -> None:
    found = shares(Preferences({(None, "a"): 0.0, (None, "b"): 0.0}, left_bias=0.4055))  # log 1.5
    assert found == pytest.approx({"left": 0.6, "right": 0.4}, abs=0.01)


def test_noise_is_indifferent() -> None:
    sure: dict[tuple[str | None, str], float] = {(None, "a"): 50.0, (None, "b"): 0.0}
    assert shares(Preferences(sure)) == {"left": 1.0}
    assert shares(Preferences(sure, noise=0.5)) == pytest.approx({"left": 0.75, "right": 0.25}, abs=0.01)
    thirds = {"left": 2 / 3, "right": 1 / 6, "tie": 1 / 6}
    assert shares(Preferences(sure, ties=1e-9, noise=0.5)) == pytest.approx(thirds, abs=0.01)
