"""Every golden case of statistics/cases.json whose statistic is implemented; the others are skipped by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from reports.statistics import ProportionMethod, proportion_interval
from tests.golden.cases import load_json

Json = Any


def proportion_ci(inputs: Mapping[str, int]) -> Json:
    methods: dict[str, ProportionMethod] = {
        "wilson95": "wilson",
        "wilson_cc95": "wilson-cc",
        "clopper_pearson95": "clopper-pearson",
        "agresti_coull95": "agresti-coull",
        "jeffreys95": "jeffreys",
    }
    return {name: list(proportion_interval(inputs["k"], inputs["n"], method)) for name, method in methods.items()}


#: By the file's ``group``: what computes all of a case's ``expected`` from its ``inputs``.
GROUPS: dict[str, Callable[[Mapping[str, Any]], Json]] = {"proportion_ci": proportion_ci}


def assert_close(computed: Json, expected: Json, rel: float, tolerance: float, where: str = "") -> None:
    """The file's rule for every number: |x - expected| <= abs + rel * |expected|."""
    if isinstance(expected, dict):
        for key, value in expected.items():
            assert_close(computed[key], value, rel, tolerance, f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(computed) == len(expected), where
        for index, (one, other) in enumerate(zip(computed, expected, strict=True)):
            assert_close(one, other, rel, tolerance, f"{where}[{index}]")
    else:
        assert abs(computed - expected) <= tolerance + rel * abs(expected), f"{where}: {computed}, not {expected}"


@pytest.mark.parametrize("case", load_json("statistics/cases.json")["cases"], ids=lambda case: case["id"])
def test_case(case: Mapping[str, Any]) -> None:
    compute = GROUPS.get(case["group"])
    if compute is None:
        pytest.skip(f"reports.statistics has no {case['group']} yet: {case['statistic']}")
    assert_close(compute(case["inputs"]), case["expected"], case["tol"]["rel"], case["tol"]["abs"])


def test_implemented_groups_are_in_the_file() -> None:
    """A renamed group in the file must not turn into a skip."""
    assert set(GROUPS) <= {case["group"] for case in load_json("statistics/cases.json")["cases"]}


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (5, 4), (-1, 4)])
def test_impossible_counts_are_refused(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match="trials"):
        proportion_interval(successes, trials)
