"""Golden cases of statistics that are studies, or parts of one: as judgments through ``analyse``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from reports.study import analyse
from reports.study.preference import Comparison
from reports.study.results import Criterion
from tests.golden.cases import load_json
from tests.reports.studies import between, judgments, of_counts

Case = Mapping[str, Any]


def cases(chosen: Callable[[Case], bool]) -> list[Case]:
    found = [case for case in load_json("statistics/cases.json")["cases"] if chosen(case)]
    if not found:
        pytest.skip("no golden case of this kind")
    return found


def check(case: Case, results: Mapping[str, Any], needed: str) -> None:
    """Every number that is in both, and ``needed`` among them."""
    assert needed in results.keys() & case["expected"].keys()
    tolerance = case["tol"]
    for key in results.keys() & case["expected"].keys():
        expected = case["expected"][key]
        if isinstance(expected, bool):
            assert results[key] is expected, (case["id"], key)
        else:
            assert results[key] == pytest.approx(expected, rel=tolerance["rel"], abs=tolerance["abs"]), (
                case["id"],
                key,
            )


def only(table: Any) -> tuple[Criterion, Comparison]:
    (criterion,) = analyse(table).criteria
    (comparison,) = criterion.comparisons
    return criterion, comparison


def test_independent_votes_on_two_models() -> None:
    """Among them the paper's counts: its p-values are what votes taken as independent give."""
    for case in cases(lambda case: case["inputs"].keys() >= {"w", "l", "t"} and case["group"] == "sign"):
        _, one = only(judgments(of_counts(*(case["inputs"][key] for key in ("w", "l", "t")))))
        test, ties = one.paper_style.test, one.ties
        rate = one.paper_style.win_rate
        assert rate is not None
        results = {
            "n_decisive": one.counts.wins + one.counts.losses,
            "win_rate_decisive": rate.value,
            "wilson95": [rate.low, rate.high],
            "p_exact_two_sided": test.p,
            "p_exact_greater": test.p_greater,
            "p_mid_two_sided": test.p_mid,
            "z": test.z,
            "p_z_two_sided": test.p_z,
            "z_cc": test.z_corrected,
            "p_z_cc": test.p_corrected,
            "net_margin": one.margin.value,
            "p_t_signed": one.clustered_t_p,
            "p_score_half_ties": ties.half_p,
            "win_rate_half_ties": ties.half.value,
            "davidson_log_worth_ratio": ties.davidson and ties.davidson.value,
            "davidson_nu": ties.nu,
            "bt_mle_exists": ties.davidson is not None,
        }
        check(case, results, "p_exact_two_sided")


def test_a_study_clustered_by_prompt() -> None:
    for case in cases(lambda case: {"p_signflip_prompt_exact", "p_position"} <= case["expected"].keys()):
        prompts, annotators, votes, left = (list(column) for column in zip(*case["inputs"]["rows"], strict=True))
        criterion, one = only(judgments(votes, prompts, annotator=annotators, left=left))
        agreement, majority = criterion.agreement, one.variants[1].margin
        assert agreement.several is not None
        assert agreement.alpha_nominal is not None
        assert agreement.alpha_ordinal is not None
        assert majority is not None
        groups = case["expected"]["majority"]
        results = {
            "n": one.counts.total,
            "wins": one.counts.wins,
            "losses": one.counts.losses,
            "ties": one.counts.ties,
            "mean_margin": one.margin.value,
            "se_cluster_cr1_statsmodels": one.precision.standard_error,
            "p_t_prompt": one.clustered_t_p,
            "p_signflip_prompt_exact": one.permutation.p,
            "p_sign_judgments": one.paper_style.test.p,
            "fleiss": agreement.several.fleiss.value,
            "alpha_nominal": agreement.alpha_nominal.value,
            "alpha_ordinal": agreement.alpha_ordinal.value,
            "left_chosen": criterion.position.left,
            "decisive": criterion.position.decisive,
            "p_position": criterion.position.p,
            "icc1_anova": one.precision.intraclass_correlation,
        }
        check(case, results, "p_signflip_prompt_exact")
        assert majority.value == (groups["w"] - groups["l"]) / one.prompts
        assert (one.sequential.leads, one.sequential.level, one.sequential.trails) == (
            groups["w"],
            groups["t"],
            groups["l"],
        )


def test_choices_of_the_left_side() -> None:
    for case in cases(lambda case: case["inputs"].keys() == {"left", "decisive"}):
        left, decisive = case["inputs"]["left"], case["inputs"]["decisive"]
        sides = np.arange(decisive) % 2 == 0
        criterion, _ = only(judgments(np.where((np.arange(decisive) < left) == sides, 1.0, -1.0).tolist(), left=sides))
        position = criterion.position
        assert position.rate is not None
        found = {"p": position.p, "rate": position.rate.value, "wilson95": [position.rate.low, position.rate.high]}
        check(case, found, "p")


def test_two_rounds() -> None:
    for case in cases(lambda case: case["inputs"].get("columns") == ["win", "tie", "lose"]):
        votes, rounds = [], []
        for number, (wins, ties, losses) in enumerate(case["inputs"]["table"]):
            votes += of_counts(wins, losses, ties)
            rounds += [number] * (wins + losses + ties)
        _, one = only(judgments(votes, round=rounds))
        alike = one.rounds.alike
        assert alike is not None
        check(case, {"chi2": alike.statistic, "df": alike.df, "p": alike.p}, "p")


def test_repeated_pairs() -> None:
    for case in cases(lambda case: case["group"] == "agreement" and "bowker_p" in case["expected"]):
        table = np.array(case["inputs"]["table"])
        votes = [
            (1.0 - first, 1.0 - again)
            for first, row in enumerate(table)
            for again, n in enumerate(row)
            for _ in range(n)
        ]
        first, again = (list(column) for column in zip(*votes, strict=True))
        prompts, kinds = [*range(len(votes))] * 2, ["main"] * len(votes) + ["repeat"] * len(votes)
        criterion, _ = only(judgments(first + again, prompts, kind=kinds, annotator=["r"] * 2 * len(votes)))
        found = criterion.repeats
        assert found.table == tuple(map(tuple, table.tolist()))
        assert found.same is not None
        assert found.kappa is not None
        assert found.symmetry is not None
        results = {
            "percent": found.same.value,
            "kappa": found.kappa.value,
            "kappa_se": found.kappa.standard_error,
            "bowker_chi2": found.symmetry.statistic,
            "bowker_p": found.symmetry.p,
        }
        check(case, results, "kappa")


def test_evidence_by_prompt() -> None:
    for case in cases(lambda case: any(re.fullmatch(r"w\d+_l\d+", key) for key in case["expected"])):
        for key, expected in case["expected"].items():
            wins, losses = map(int, re.findall(r"\d+", key))
            _, one = only(judgments(of_counts(wins, losses, 0)))
            assert one.sequential.log_e_value == pytest.approx(expected["log_e_uniform"], rel=1e-6)
            assert one.sequential.p <= min(1, math.exp(-expected["log_e_uniform"]) * (1 + 1e-6))


def test_several_models() -> None:
    for case in cases(
        lambda case: case["group"] in ("bradley_terry", "ties") and isinstance(case["inputs"]["rows"], list)
    ):
        expected, rows = case["expected"], case["inputs"]["rows"]
        if expected.keys() & {"theta", "worth_sorted"}:
            continue  # another model
        (criterion,) = analyse(between(rows)).criteria
        (scale,) = criterion.scales
        log_worth = {worth.model: worth.log_worth.value for worth in scale.worths}
        worth = np.exp([log_worth[name] for name in sorted(log_worth)])
        against = log_worth.get(str(case["inputs"].get("ref")), 0.0)
        coefficients = {name: value - against for name, value in log_worth.items() if name != case["inputs"].get("ref")}
        order = criterion.position.order_effect
        results = {
            "coef": coefficients,
            "coef_no_order": coefficients,
            "pi": (worth / worth.sum()).tolist(),
            "nu": scale.nu,
            "order_effect": order and order.value,
        }
        check(case, results, next(key for key in ("coef", "coef_no_order", "pi") if key in expected))
