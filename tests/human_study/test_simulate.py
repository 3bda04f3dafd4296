from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from human_study import export, monitor
from human_study.claims import Assignment
from human_study.design import PAPER_CRITERIA, Choice
from human_study.folder import Study
from human_study.simulate import Preferences, annotate, quality
from reports.statistics.estimate import Estimate
from reports.study import analyse
from tests.human_study.serving import serve
from tests.human_study.studies import PLAIN, judge_all, study_with_images


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


# Three annotators who prefer beta and the left side, and one who chooses at random, judge every pair.
PROMPTS = 100
PREFERENCE, LEFT_BIAS, TIES = 1.2, 0.8, 0.4
PLAN = replace(PLAIN, criteria=PAPER_CRITERIA[:1], judgments_per_pair=4, gold=12, gold_every=6, gold_from="beta")


def through_the_store(study: Study, people: Mapping[str, Preferences]) -> None:
    for seed, (name, preferences) in enumerate(people.items(), start=100):
        me, rng = study.store.enrol(name).id, random.Random(seed)

        def choose(shown: Assignment, me: int = me, who: Preferences = preferences, rng: random.Random = rng) -> Choice:
            left, right = (study.store.image(me, token) for token in (shown.left_token, shown.right_token))
            assert left is not None
            assert right is not None
            return who.choose(None, left, right, rng)

        judge_all(study.store, me, choose)


def through_the_server(study: Study, people: Mapping[str, Preferences]) -> None:
    with serve(study) as server:
        for seed, (name, preferences) in enumerate(people.items(), start=100):
            annotate(server.url, server.link(name), preferences, seed)


def expected_margin() -> float:
    """(wins - losses) / votes of beta in Davidson's model with the order effect, as often left as right."""

    def at(side: float) -> float:
        beta = math.exp(PREFERENCE + side)
        return (beta - 1) / (beta + 1 + TIES * math.sqrt(beta))

    return (at(LEFT_BIAS) + at(-LEFT_BIAS)) / 2


def recovers(found: Estimate | None, truth: float) -> bool:
    """Whether the truth is in the 99.9 % interval, and 0 is not in the 95 % one."""
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    return abs(found.value - truth) <= 3.29 / 1.96 * (found.high - found.low) / 2 and found.low > 0


@pytest.mark.parametrize(
    "judge", [through_the_store, pytest.param(through_the_server, marks=pytest.mark.slow)], ids=["store", "server"]
)
def test_results_recover_what_the_annotators_were_given(
    tmp_path: Path, judge: Callable[[Study, Mapping[str, Preferences]], None]
) -> None:
    study = study_with_images(tmp_path, PLAN, PROMPTS)
    steady = Preferences(quality(study.store, {"alpha": 0.0, "beta": PREFERENCE}), TIES, LEFT_BIAS)
    judge(study, {"a": steady, "b": steady, "c": steady, "noisy": replace(steady, noise=1.0)})
    judgments = pd.DataFrame(export.rows(study.store))
    noisy = judgments["annotator"] == 3  # exports number the annotators

    (criterion,) = analyse(judgments[~noisy], lead="beta").criteria
    (found,) = criterion.comparisons
    assert found.counts.total == 3 * PROMPTS
    assert recovers(found.margin, expected_margin())
    assert recovers(found.ties.side_adjusted, PREFERENCE)
    assert recovers(criterion.position.order_effect, LEFT_BIAS)
    assert found.ties.nu == pytest.approx(TIES, abs=0.15)
    assert criterion.gold.right == criterion.gold.asked == 3 * PLAN.gold

    results = analyse(judgments, lead="beta", trusted_from=0.8)
    (found,) = results.comparisons
    assert found.counts.total == 4 * PROMPTS
    assert recovers(found.margin, 3 / 4 * expected_margin())
    assert results.distrusted == ("3",)
    trusted = next(one for one in found.variants if one.name == "only annotators with 80% of gold")
    assert recovers(trusted.margin, expected_margin())
    without = {one.annotator: one.without.value for one in found.annotators.margins if one.without is not None}
    assert max(without, key=lambda name: without[name]) == "3"
    assert found.annotators.alike is not None
    assert found.annotators.alike.p < 0.01

    reports = {report.person.name: report for report in monitor.annotators(study.store)}
    assert reports["noisy"].gold_right < 0.6 * PLAN.gold
