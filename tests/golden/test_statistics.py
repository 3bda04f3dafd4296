"""Every golden case of statistics/cases.json: its published or independently computed numbers against ours.

What a case expects and reports.statistics does not compute is named in a skip, after all else was compared.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest

from reports.statistics.agreement import (
    Scale,
    agreement,
    cohen_kappa,
    intraclass_correlations,
    krippendorff_alpha,
    pair_counts,
    rating_counts,
)
from reports.statistics.annotators import DawidSkene, dawid_skene
from reports.statistics.binary import clustered_mcnemar, mcnemar, odds_ratio, paired_proportions, tango_z
from reports.statistics.bootstrap import cluster_bootstrap, jackknife
from reports.statistics.estimate import Estimate, z_p
from reports.statistics.frechet import fid_infinity, frechet_distance, kid
from reports.statistics.means import (
    design_effect,
    intraclass_correlation,
    spread,
    standard_error,
    t_test,
    two_way_standard_error,
)
from reports.statistics.mixed import random_intercept_logit
from reports.statistics.multiple import adjusted, benjamini_hochberg, holm
from reports.statistics.paired import equivalence, non_inferiority, paired_difference, sign_flip
from reports.statistics.power import (
    margin_standard_error,
    minimal_detectable_effect,
    questions_needed,
    sign_test_n,
    sign_test_power,
    t_test_n,
    t_test_power,
)
from reports.statistics.preference import (
    cohen_h,
    elo,
    gee_win_logit,
    half_win_p,
    net_margin,
    sign_test,
    tie_models,
)
from reports.statistics.proportions import ProportionMethod, binomial_p, proportion_interval
from reports.statistics.ratings import Ratings, fit_ratings, rao_kupper
from reports.statistics.sequential import (
    best_rho,
    log_e_value,
    msprt,
    normal_mixture_bound,
    normal_mixture_log_e,
)
from reports.statistics.tables import (
    bowker,
    cochran_q,
    friedman,
    homogeneity,
    mantel_haenszel,
    marginal_homogeneity,
    wilcoxon,
)
from tests.golden.cases import load_json

Json = Any
Case = Mapping[str, Any]
#: By the key of ``expected``: the value, or what computes it when the case asks for it.
Results = Mapping[str, Any]

METHODS: Mapping[str, ProportionMethod] = {
    "wilson95": "wilson",
    "wilson_cc95": "wilson-cc",
    "clopper_pearson95": "clopper-pearson",
    "agresti_coull95": "agresti-coull",
    "jeffreys95": "jeffreys",
}


def limits(estimate: Estimate) -> list[float | None]:
    return [estimate.low, estimate.high]


def width(estimate: Estimate) -> float:
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.high - estimate.low


def proportion(successes: int, trials: int) -> dict[str, Any]:
    return {name: list(proportion_interval(successes, trials, method)) for name, method in METHODS.items()}


def proportion_ci(case: Case) -> Results:
    return proportion(case["inputs"]["k"], case["inputs"]["n"])


def sign(case: Case) -> Results:
    inputs = case["inputs"]
    if "k" in inputs:
        k, n = inputs["k"], inputs["n"]
        return {"p": binomial_p(k, n, inputs["p0"]), "ci95": proportion(k, n)["clopper_pearson95"], "est": k / n}
    w, l, t = inputs["w"], inputs["l"], inputs["t"]  # noqa: E741
    test, models, margin = sign_test(w, l), tie_models(w, l, t), net_margin(w, l, t)
    votes = t_test([1] * w + [-1] * l + [0] * t)
    return {
        **proportion(w, w + l),
        "n_decisive": w + l,
        "win_rate_decisive": w / (w + l),
        "p_exact_two_sided": test.p,
        "p_exact_greater": test.p_greater,
        "p_mid_two_sided": test.p_mid,
        "z": test.z,
        "p_z_two_sided": test.p_z,
        "z_cc": test.z_corrected,
        "p_z_cc": test.p_corrected,
        "net_margin": margin.value,
        "net_margin_se_naive": lambda: width(margin) / 2 / 1.959963984540054,
        "t_signed": votes.t,
        "p_t_signed": votes.p,
        "p_score_half_ties": half_win_p(w, l, t),
        "win_rate_half_ties": (margin.value + 1) / 2,
        "davidson_log_worth_ratio": models.davidson_log_ratio,
        "davidson_nu": models.davidson_nu,
        "rao_kupper_worth_ratio": models.rao_kupper_ratio,
        "rao_kupper_theta": models.rao_kupper_theta,
        "cohen_h": cohen_h(w / (w + l)),
        "bt_mle_exists": models.davidson_log_ratio is not None,
    }


def mcnemar_case(case: Case) -> Results:
    table = case["inputs"]["table"]
    b, c = table[0][1], table[1][0]
    return {
        "b": b,
        "c": c,
        **mcnemar_results(b, c),
        "diff": paired_proportions(table).value,
        "wald95": lambda: limits(paired_proportions(table, "wald")),
        "newcombe_square_and_add95": lambda: limits(paired_proportions(table, "newcombe")),
        "tango_score95": lambda: limits(paired_proportions(table, "tango")),
        "bonett_price95": lambda: limits(paired_proportions(table, "bonett-price")),
        "or_cond": lambda: odds_ratio(b, c).value,
        "or_transformed_clopper_pearson95": lambda: limits(odds_ratio(b, c, "clopper-pearson")),
        "or_transformed_wilson95": lambda: limits(odds_ratio(b, c, "wilson")),
    }


def mcnemar_results(b: int, c: int) -> dict[str, Any]:
    test = mcnemar(b, c)
    return {
        "p_exact": test.p,
        "p_mid": test.p_mid,
        "chi2": test.chi2,
        "p_asymptotic": test.p_chi2,
        "chi2_cc": test.chi2_corrected,
        "p_cc": test.p_corrected,
        "defined_asymptotic": test.chi2 is not None,
    }


def bowker_case(case: Case) -> Results:
    table = case["inputs"]["table"]
    symmetry = bowker(table)
    return {
        "bowker_chi2": symmetry.statistic,
        "bowker_df": symmetry.df,
        "bowker_p": symmetry.p,
        "stuart_maxwell_chi2": lambda: marginal_homogeneity(table).statistic,
        "stuart_maxwell_df": lambda: marginal_homogeneity(table).df,
        "stuart_maxwell_p": lambda: marginal_homogeneity(table).p,
        "bhapkar_chi2": lambda: marginal_homogeneity(table, "bhapkar").statistic,
        "bhapkar_df": lambda: marginal_homogeneity(table, "bhapkar").df,
        "bhapkar_p": lambda: marginal_homogeneity(table, "bhapkar").p,
    }


def cochran_case(case: Case) -> Results:
    rows = [
        [letter == "F" for letter in pattern]
        for pattern, count in case["inputs"]["patterns"].items()
        for _ in range(count)
    ]
    test = cochran_q(rows)
    return {"q": test.statistic, "df": test.df, "p": test.p}


def wilcoxon_case(case: Case) -> Results:
    test = wilcoxon(np.subtract(case["inputs"]["x"], case["inputs"]["y"]))
    return {"V_plus": test.positive, "p_greater": test.p_greater, "p_two_sided": test.p}


def permutation(case: Case) -> Results:
    differences = case["inputs"]["differences"]
    both, greater, student = sign_flip(differences), sign_flip(differences, "greater"), t_test(differences)
    return {
        "sum": sum(differences),
        "n_ge": greater.extreme,
        "n_total": greater.flips,
        "p_one_sided": greater.p,
        "p_two_sided": both.p,
        "t": student.t,
        "p_t": student.p,
        "wilcoxon_p": lambda: wilcoxon(differences).p,
    }


def paired_t(case: Case) -> Results:
    x, y = case["inputs"]["x"], case["inputs"]["y"]
    test, result = t_test(np.subtract(x, y)), paired_difference(x, y, range(len(x)))
    return {
        "t": test.t,
        "df": test.df,
        "p": test.p,
        "mean_diff": result.difference.value,
        "ci95": limits(result.difference),
        "cohen_dz": (test.t or math.nan) / math.sqrt(len(x)),
    }


def friedman_case(case: Case) -> Results:
    test = friedman(case["inputs"]["data"])
    return {"chi2": test.statistic, "df": test.df, "p": test.p}


def multiplicity(case: Case) -> Results:
    p, alpha = case["inputs"]["p"], case["inputs"].get("alpha", 0.05)

    def of(name: str) -> Json:
        if name == "holm":
            values = holm(p)
        elif name in ("fdr_bh", "bh"):
            values = benjamini_hochberg(p)
        else:
            values = adjusted(p, name)  # type: ignore[arg-type]
        if isinstance(case["expected"][name], list):
            return values
        return {"adjusted": values, "n_reject": sum(value <= alpha for value in values)}

    return {name: of(name) for name in case["expected"]}


def bradley_terry(case: Case) -> Results:
    inputs = case["inputs"]
    first, second, wins, losses = (list(column) for column in zip(*inputs["rows"], strict=True))
    plain, ref = fit_ratings(first, second, wins, losses), inputs.get("ref")

    def against(fit: Ratings, error: bool) -> dict[str, float]:
        found = {name: fit.contrast(name, ref) for name in fit.names if name != ref}
        return {name: width(e) / 2 / 1.959963984540054 if error else e.value for name, e in found.items()}

    def ordered() -> Ratings:
        return fit_ratings(first, second, wins, losses, order_effect=True)

    def beats(name: str, other: str) -> float:
        return 1 / (1 + math.exp(-plain.contrast(name, other).value))

    gain = plain.deviance - ordered().deviance
    # The file gives the worths of a case's fullest model.
    worth = (ordered() if "order_effect" in case["expected"] else plain).worth
    return {
        "coef": lambda: against(plain, False),
        "se": lambda: against(plain, True),
        "coef_no_order": lambda: against(plain, False),
        "se_no_order": lambda: against(plain, True),
        "deviance": plain.deviance,
        "deviance_no_order": plain.deviance,
        "df": plain.df,
        "sum_to_zero": dict(zip(plain.names, plain.log_worth, strict=True)),
        "sum_to_zero_se": dict(zip(plain.names, np.sqrt(np.diag(plain.covariance)).tolist(), strict=True)),
        "p_win_biometrika_vs_jrssb": lambda: beats("Biometrika", "JRSS-B"),
        "order_effect": lambda: ordered().order,
        "order_se": lambda: ordered().order_standard_error,
        "deviance_order": lambda: ordered().deviance,
        "lr_order": gain,
        "p_lr_order": z_p(math.sqrt(gain)),
        "worth_sorted": sorted(worth),
    }


def ties(case: Case) -> Results:
    first, second, wins, losses, tied = (list(column) for column in zip(*case["inputs"]["rows"], strict=True))
    if "theta" in case["expected"]:
        fit = rao_kupper(first, second, wins, losses, tied)
        worth = np.exp(fit.log_worth)
        return {"pi": (worth / worth.sum()).tolist(), "theta": fit.theta, "neg_loglik": -fit.log_likelihood}
    davidson = fit_ratings(first, second, wins, losses, tied)
    return {
        "pi": list(davidson.worth),
        "nu": davidson.tie,
        "neg_loglik": -davidson.log_likelihood,
        "evalica_newman_v": davidson.tie / 2,
    }


def agreement_case(case: Case) -> Results:
    inputs = case["inputs"]
    if "ratings" in inputs:
        return vars(intraclass_correlations(inputs["ratings"]))
    if "rater1" in inputs:
        size = max(*inputs["rater1"], *inputs["rater2"])
        table = np.zeros((size, size))
        np.add.at(table, (np.array(inputs["rater1"]) - 1, np.array(inputs["rater2"]) - 1), 1)
        return {
            "unweighted": cohen_kappa(table).value,
            "linear": cohen_kappa(table, "linear").value,
            "quadratic": cohen_kappa(table, "quadratic").value,
        }
    categories = None
    if "reliability_data" in inputs:
        counts, categories = rating_counts(np.array(inputs["reliability_data"], dtype=float))
    else:
        counts = pair_counts(inputs["table"]) if "table" in inputs else np.array(inputs["counts"])
    found = agreement(counts)

    def alpha(scale: Scale) -> Callable[[], float | None]:
        return lambda: krippendorff_alpha(counts, categories, scale).value

    scales: Sequence[Scale] = ("nominal", "ordinal", "interval", "ratio")
    results: dict[str, Any] = {scale: alpha(scale) for scale in scales}
    results |= {f"alpha_{scale}": alpha(scale) for scale in scales}
    results |= {"krippendorff": alpha("nominal"), "kappa": found.fleiss.value}
    results |= dict.fromkeys(("percent", "po", "percent_agreement", "observed_agreement"), found.observed)
    results |= dict.fromkeys(("ac1", "gwet_ac1"), found.ac1.value)
    results |= dict.fromkeys(("fleiss", "fleiss_kappa", "fleiss_kappa_gwet", "scott_pi"), found.fleiss.value)
    results |= {"brennan_prediger": found.brennan_prediger.value}
    if "table" in inputs:
        cohen, symmetry = cohen_kappa(inputs["table"]), bowker(inputs["table"])
        results |= dict.fromkeys(("cohen", "kappa"), cohen.value)
        results |= dict.fromkeys(("cohen_se", "kappa_se"), cohen.standard_error)
        results |= {"bowker_chi2": symmetry.statistic, "bowker_p": symmetry.p}
    return results


def stopped_as_crowd_kit(items: Sequence[int], raters: Sequence[int], labels: Sequence[int]) -> DawidSkene:
    """crowd-kit 1.4.2, from which the file's values come, stops before the maximum: its lower bound counts the prior
    once per rating instead of once per item, and soon grows by less than 1e-5 per rating."""
    before = -math.inf
    for iterations in range(1, 101):
        fit = dawid_skene(items, raters, labels, iterations, tolerance=-1)
        item, rater, label = (
            [names.index(one) for one in column]
            for names, column in ((fit.items, items), (fit.raters, raters), (fit.classes, labels))
        )
        log = np.log(np.clip(fit.confusion[rater, :, label], 1e-10, None)) + np.log(fit.prior)
        posterior = np.clip(fit.posterior, 1e-10, None)
        bound = float(np.sum(posterior[item] * log) - np.sum(posterior * np.log(posterior))) / len(items)
        if bound - before < 1e-5:
            break
        before = bound
    return fit


def annotator_quality(case: Case) -> Results:
    items, raters, labels = (list(column) for column in zip(*case["inputs"]["rows"], strict=True))
    assert dawid_skene(items, raters, labels).converged
    fit = stopped_as_crowd_kit(items, raters, labels)
    names = [str(name) for name in fit.classes]

    def error_rate(key: str) -> float:
        rater, true, said = map(int, re.findall(r"\d+", key))
        return float(fit.confusion[fit.raters.index(rater), fit.classes.index(true), fit.classes.index(said)])

    best = [names[index] for index in fit.posterior.argmax(axis=1)]
    results = {
        "class_prior": dict(zip(names, fit.prior.tolist(), strict=True)),
        "error_rates": {key: error_rate(key) for key in case["expected"].get("error_rates", ())},
        "label_counts": {name: best.count(name) for name in names},
    }
    for key in case["expected"]:
        if patient := re.fullmatch(r"patient(\d+)_posterior", key):
            row = fit.posterior[fit.items.index(int(patient[1]))]
            results[key] = dict(zip(names, row.tolist(), strict=True))
    return results


def clustered(case: Case) -> Results:
    if "formula" in case["inputs"]:
        return mixed_model(case)
    if "ak" in case["inputs"]["columns"]:
        a, b, c, d = np.array(case["inputs"]["rows"]).T
        test, plain = clustered_mcnemar(b, c, a + b + c + d), mcnemar(int(b.sum()), int(c.sum()))
        return {**vars(test), "mcnemar": plain.chi2, "p_mcnemar": plain.p_chi2}
    return small_study(np.array(case["inputs"]["rows"]))


def small_study(rows: np.ndarray[Any, Any]) -> Results:
    prompt, annotator, vote, on_left = rows.T
    wins, losses = int(np.sum(vote == 1)), int(np.sum(vote == -1))
    sums = np.bincount(prompt, weights=vote)
    left = int(np.sum((vote == 1) & (on_left == 1)) + np.sum((vote == -1) & (on_left == 0)))
    ratings = np.full((annotator.max() + 1, prompt.max() + 1), np.nan)
    ratings[annotator, prompt] = vote
    counts, categories = rating_counts(ratings)
    test, icc = t_test(vote, prompt), intraclass_correlation(vote, prompt)
    majority = int(np.sum(sums > 0)), int(np.sum(sums < 0))

    def gee(structure: Literal["independence", "exchangeable"]) -> dict[str, float | None]:
        fit = gee_win_logit(vote, prompt, structure)
        return {"logit": fit.logit, "se": fit.standard_error, "p": fit.p, "alpha": fit.correlation}

    return {
        "n": len(vote),
        "wins": wins,
        "losses": losses,
        "ties": int(np.sum(vote == 0)),
        "mean_margin": spread(vote.astype(float), prompt).mean,
        "se_naive": standard_error(vote),
        "se_cluster_cr0": standard_error(vote, prompt, "cr0"),
        "se_cluster_cr1_statsmodels": standard_error(vote, prompt),
        "se_cluster_inspect_ai": standard_error(vote, prompt),
        "se_miller_eq4": standard_error(vote, prompt, "miller"),
        "se_two_way_cgm_cr0": two_way_standard_error(vote, prompt, annotator),
        "t_prompt": test.t,
        "p_t_prompt": test.p,
        "p_signflip_prompt_exact": sign_flip(sums).p,
        "p_wilcoxon_prompt_pratt": wilcoxon(sums, "pratt").p,
        "p_wilcoxon_prompt_wilcox": wilcoxon(sums, "wilcox").p,
        "p_sign_judgments": sign_test(wins, losses).p,
        "majority": {
            "w": majority[0],
            "l": majority[1],
            "t": int(np.sum(sums == 0)),
            "p_sign": sign_test(*majority).p,
        },
        "gee_independence": gee("independence"),
        "gee_exchangeable": gee("exchangeable"),
        "fleiss": agreement(counts).fleiss.value,
        "alpha_nominal": krippendorff_alpha(counts, categories).value,
        "alpha_ordinal": krippendorff_alpha(counts, categories, "ordinal").value,
        "left_chosen": left,
        "decisive": wins + losses,
        "p_position": binomial_p(left, wins + losses),
        "icc1_anova": icc,
        "design_effect": design_effect(annotator.max() + 1, icc),
    }


def mixed_model(case: Case) -> Results:
    """Treatment coding of the last column, as R's."""
    group, successes, trials, factor = np.array(case["inputs"]["rows"], dtype=float).T
    design = np.stack([np.ones_like(factor), *(factor == level for level in np.unique(factor)[1:])], axis=1)

    def of(points: int) -> dict[str, Any]:
        fit = random_intercept_logit(successes, trials, design, group, points)
        return {"coef": list(fit.coefficients), "sd": fit.sd, "minus2ll": fit.minus2ll}

    return {key: of(int(re.findall(r"\d+", key)[0])) for key in case["expected"]}


def bootstrap(case: Case) -> Results:
    if "x" in case["inputs"]:
        x = np.array(case["inputs"]["x"])
        columns = np.stack([x, x**2, np.ones_like(x)], axis=1)

        def variance(sums: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            return np.asarray(sums[..., 1] / sums[..., 2] - (sums[..., 0] / sums[..., 2]) ** 2)

        bca = cluster_bootstrap(variance, columns, range(len(x)), confidence=0.9, method="bca")
        percentile = cluster_bootstrap(variance, columns, range(len(x)), confidence=0.9)
        return {
            "theta": bca.value,
            "acceleration": jackknife(variance, columns, range(len(x))).acceleration,
            "bca90": limits(bca),
            "percentile90": limits(percentile),
        }
    x, y = np.array(case["inputs"]["lsat"]), np.array(case["inputs"]["gpa"])
    columns = np.stack([x, y, x * x, y * y, x * y, np.ones_like(x)], axis=1)

    def correlation(sums: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        x, y, xx, yy, xy = (sums[..., i] / sums[..., 5] for i in range(5))
        return np.asarray((xy - x * y) / np.sqrt((xx - x * x) * (yy - y * y)))

    found = jackknife(correlation, columns, range(len(x)))
    return {
        "r": float(correlation(columns.sum(axis=0))),
        "jackknife_se": found.se,
        "acceleration": found.acceleration,
    }


def paired_benchmark(case: Case) -> Results:
    a, b = np.array(case["inputs"]["a"]), np.array(case["inputs"]["b"])
    d = a - b
    table = [[int(np.sum((a == x) & (b == y))) for y in (1, 0)] for x in (1, 0)]
    test, result = t_test(d), paired_difference(a, b, range(len(a)))
    return {
        "table": table,
        "mean_diff": result.difference.value,
        "se_paired": standard_error(d),
        "se_unpaired": math.hypot(standard_error(a), standard_error(b)),
        "t": test.t,
        "p_t": test.p,
        "correlation": float(np.corrcoef(a, b)[0, 1]),
        "boot_se_analytic": standard_error(d, estimator="cr0"),
        "p_signflip_exact": sign_flip(d).p,
        "b": table[0][1],
        "c": table[1][0],
        **mcnemar_results(table[0][1], table[1][0]),
        "p_exact": result.p,
    }


def macro_average(case: Case) -> Results:
    inputs = case["inputs"]
    sizes = [prompts * inputs["images_per_prompt"] for prompts in inputs["prompts"]]
    rights = inputs["correct"]
    values = [np.repeat([1.0, 0.0], [right, n - right]) for right, n in zip(rights, sizes, strict=True)]
    means = [float(part.mean()) for part in values]
    # The case divides by n within each task; CR1 by n - 1.
    se = math.hypot(*(standard_error(part, estimator="cr0") for part in values)) / len(values)
    strata = np.repeat(inputs["tasks"], sizes)
    found = spread(np.concatenate(values), range(sum(sizes)), strata)
    assert found.se == pytest.approx(se, rel=1 / min(sizes))
    return {
        "task_acc": dict(zip(inputs["tasks"], means, strict=True)),
        "macro": found.mean,
        "macro_se_iid": se,
        "macro_ci95": [found.mean - 1.959963984540054 * se, found.mean + 1.959963984540054 * se],
        "micro": sum(rights) / sum(sizes),
        "se_if_prompt_is_cluster_rho1": se * math.sqrt(design_effect(inputs["images_per_prompt"], 1)),
    }


def noninferiority(case: Case) -> Results:
    inputs = case["inputs"]
    margin = inputs["margin"]
    if "b" in inputs:
        n, b, c = inputs["n"], inputs["b"], inputs["c"]
        new = np.repeat([1.0, 0.0, 1.0], [b, c, n - b - c])
        old = np.repeat([0.0, 1.0, 1.0], [b, c, n - b - c])
        result = non_inferiority(new, old, range(n), margin)
        return {
            "diff": result.difference.value,
            "z": tango_z(b, c, n, -margin),
            "p_one_sided": result.p,
            "score_ci95": limits(paired_difference(new, old, range(n)).difference),
            "score_ci90": limits(result.difference),
        }
    new, old = np.array(inputs["candidate"]), np.array(inputs["baseline"])
    result, test = non_inferiority(new, old, range(len(new)), margin), t_test(new - old, against=-margin)
    return {
        "mean_diff": result.difference.value,
        "se": standard_error(new - old),
        "t_ni": test.t,
        "p_ni": result.p,
        "df": test.df,
        "lower95_one_sided": result.difference.low,
        "upper95_one_sided": result.difference.high,
        "p_tost": equivalence(new, old, range(len(new)), margin).p,
        "pass_gate_5pct": result.passed,
    }


def power(case: Case) -> Results:
    inputs, expected = case["inputs"], case["expected"]
    results: dict[str, Any] = {}
    for key in expected:
        numbers = [float(number) for number in re.findall(r"\d+(?:\.\d+)?", key)]
        if re.fullmatch(r"n\d+_p[\d.]+", key):
            found = sign_test_power(int(numbers[0]), numbers[1], inputs["alpha"])
            results[key] = {"power": found.power, "critical_wins": found.critical_wins}
        elif match := re.fullmatch(r"normal_n_for_p(\d+)_power(\d+)", key):
            results[key] = sign_test_n(float(f"0.{match[1]}"), power=float(f"0.{match[2]}"))
        elif re.fullmatch(r"tie[\d.]+_deff[\d.]+", key):
            se = margin_standard_error(inputs["n"], *numbers)
            results[key] = minimal_detectable_effect(se, inputs["alpha"], inputs["power"])
        elif key.startswith("K"):
            samples = math.inf if key == "Kinf" else numbers[0]
            results[key] = questions_needed(
                inputs["delta"],
                inputs["omega2"],
                inputs["sigma2_A"],
                inputs["sigma2_B"],
                samples,
                samples,
                inputs["alpha"],
                inputs["power"],
            )
        elif key == "t_test_ind_n":
            results[key] = t_test_n(inputs["delta"] / inputs["sd"], inputs["alpha"], inputs["power"])
        elif match := re.fullmatch(r"t_test_ind_power_n(\d+)", key):
            results[key] = t_test_power(inputs["delta"] / inputs["sd"], int(match[1]), inputs["alpha"])
    return results


def sequential(case: Case) -> Results:
    inputs, results = case["inputs"], dict[str, Any]()
    for key in case["expected"]:
        numbers = [float(number) for number in re.findall(r"\d+(?:\.\d+)?", key)]
        if re.fullmatch(r"w\d+_l\d+", key):
            w, l = map(int, numbers)  # noqa: E741
            log = log_e_value(w, l)
            jeffreys = math.exp(log_e_value(w, l, prior=0.5))
            results[key] = {"e_uniform": math.exp(log), "e_jeffreys": jeffreys, "log_e_uniform": log}
        elif key.startswith("lambda_n"):
            results[key] = msprt(numbers[1], int(numbers[0]), inputs["sigma2"], inputs["tau2"])
        elif key.startswith("cs_radius_n"):
            n, rho = numbers
            results[key] = normal_mixture_bound(n * inputs["sigma2"], rho, inputs["alpha"]) / n
            results["fixed_n_radius"] = 1.959963984540054 * math.sqrt(inputs["sigma2"] / n)
    if "v_opt" in inputs:
        rho = best_rho(inputs["v_opt"], inputs["alpha_opt"])
        results["best_rho"] = rho
        results["log_supermartingale"] = normal_mixture_log_e(inputs["s"], inputs["v"], rho)
        results["bound"] = normal_mixture_bound(inputs["v"], rho, inputs["alpha"])
    return results


def fid(case: Case) -> Results:
    inputs = case["inputs"]
    if "X" in inputs:
        return {"mmd2_unbiased": kid(inputs["X"], inputs["Y"]), "mmd2_biased": kid(inputs["X"], inputs["Y"], False)}
    if "N" in inputs:
        exact, noisy = (fid_infinity(inputs["N"], inputs[key]) for key in ("fid_exact", "fid_noisy"))
        return {
            "exact_intercept": exact.intercept.value,
            "exact_slope": exact.slope,
            "noisy_intercept": noisy.intercept.value,
            "noisy_slope": noisy.slope,
            "noisy_intercept_se": noisy.standard_error,
        }
    other, eye, zero = inputs["noncommuting"], np.eye(2), np.zeros(2)
    return {  # the file says the first three in words
        "identical": frechet_distance(other["m1"], other["S1"], other["m1"], other["S1"]),
        "mean_shift_3_4": frechet_distance(zero, eye, [3, 4], eye),
        "diag": frechet_distance(zero, np.diag([1, 9]), zero, np.diag([4, 1])),
        "noncommuting": frechet_distance(other["m1"], other["S1"], other["m2"], other["S2"]),
    }


def homogeneity_case(case: Case) -> Results:
    if "tables" not in case["inputs"]:
        found = homogeneity(case["inputs"]["table"])
        test = found.test
        return {
            "chi2": test.statistic,
            "df": test.df,
            "p": test.p,
            "expected": found.expected.tolist(),
            "cramers_v": found.cramers_v,
        }
    pooled = mantel_haenszel(case["inputs"]["tables"])
    return {
        "or_mh": pooled.odds_ratio,
        "ci95": [pooled.low, pooled.high],
        "rbg95": [pooled.low, pooled.high],
        "chi2_cmh": pooled.association.statistic,
        "p_cmh": pooled.association.p,
        "breslow_day": pooled.equal_odds.statistic,
        "p_breslow_day_equal_odds": pooled.equal_odds.p,
        "breslow_day_tarone": pooled.equal_odds_tarone.statistic,
        "p_breslow_day_tarone": pooled.equal_odds_tarone.p,
    }


def position(case: Case) -> Results:
    left, decisive = case["inputs"]["left"], case["inputs"]["decisive"]
    return {"p": binomial_p(left, decisive), "rate": left / decisive, **proportion(left, decisive)}


def elo_case(case: Case) -> Results:
    first, second, outcome = (list(column) for column in zip(*case["inputs"]["rows"], strict=True))
    k = re.search(r"k=(\d+)", case["statistic"])
    assert k is not None
    return elo(first, second, [{"x": 1, "y": 0, "tie": 0.5}[one] for one in outcome], float(k[1]))


def read_annotations(folder: Path, name: str, sha256: str | None) -> pd.DataFrame:
    path = folder / "geneval" / "annotations" / Path(name).with_suffix(".csv").name
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    data = path.read_bytes()
    assert sha256 is None or hashlib.sha256(data).hexdigest() == sha256
    # Some answers hold a bare CR, at which read_csv would start a row.
    return pd.read_csv(path, lineterminator="\n")


def counts_of(frame: pd.DataFrame, column: str) -> tuple[Any, list[float]]:
    """Ratings of each image: the order of an image's raters does not matter, they are not named."""
    rows = frame.dropna(subset=[column])
    rater = rows.groupby("Input.index").cumcount()
    table = rows.assign(rater=rater).pivot(index="rater", columns="Input.index", values=column)
    return rating_counts(table.to_numpy(dtype=float))


def real_agreement(case: Case, folder: Path) -> Results:
    inputs = case["inputs"]
    frame = read_annotations(folder, inputs["file"], inputs["sha256"])
    quality = frame[inputs["column"]]
    counts, categories = counts_of(frame, inputs["column"])
    found = agreement(counts)
    perfect = np.stack([counts[:, -1], counts[:, :-1].sum(axis=1)], axis=1)

    def count_0(use: Callable[[Any, list[float]], float | None]) -> Callable[[], float | None]:
        return lambda: use(*counts_of(frame, "Answer.task-count-0"))

    return {
        "rows": len(frame),
        "items": frame["Input.index"].nunique(),
        "marginals": counts.sum(axis=0).tolist(),
        "mean_quality": float(quality.mean()),
        "fleiss": found.fleiss.value,
        "alpha_nominal": krippendorff_alpha(counts, categories).value,
        "alpha_ordinal": krippendorff_alpha(counts, categories, "ordinal").value,
        "alpha_interval": krippendorff_alpha(counts, categories, "interval").value,
        "gwet_ac1": found.ac1.value,
        "observed_agreement": found.observed,
        "unanimous": found.unanimous,
        "perfect4_fleiss": agreement(perfect).fleiss.value,
        "perfect4_observed_agreement": agreement(perfect).observed,
        "perfect4_majority": int(np.sum(perfect[:, 0] > perfect[:, 1])),
        "count0_fleiss": count_0(lambda counts, _: agreement(counts).fleiss.value),
        "count0_alpha_interval": count_0(lambda counts, names: krippendorff_alpha(counts, names, "interval").value),
        "se_mean_naive": standard_error(quality),
        "se_mean_cluster_image_cr0": standard_error(quality, frame["Input.index"].tolist(), "cr0"),
        "se_mean_cluster_prompt_cr0": standard_error(quality, frame["Input.prompt_id"].tolist(), "cr0"),
    }


def real_pair(case: Case, folder: Path) -> Results:
    one, other = (read_annotations(folder, name, None) for name in case["inputs"]["files"])
    means = [frame.groupby("Input.index")["Answer.task-quality"].mean() for frame in (one, other)]
    d = (means[0] - means[1]).round(6)
    prompts = [index.split("_")[0] for index in d.index]
    w, l, t = int((d > 0).sum()), int((d < 0).sum()), int((d == 0).sum())  # noqa: E741
    images, by_prompt, ranks = t_test(d), t_test(d, prompts), wilcoxon(d)
    total = (w + l) * (w + l + 1) / 2
    return {
        **proportion(w, w + l),
        "w": w,
        "l": l,
        "t": t,
        "p_sign_exact": sign_test(w, l).p,
        "p_wilcoxon": ranks.p,
        "wilcoxon_T": min(ranks.positive, total - ranks.positive),
        "p_wilcoxon_pratt": wilcoxon(d, "pratt").p,
        "mean_diff": float(d.mean()),
        "t_images": images.t,
        "p_t_images": images.p,
        "se_naive": standard_error(d),
        "se_cluster_prompt_cr0": standard_error(d, prompts, "cr0"),
        "t_prompts": by_prompt.t,
        "p_t_prompts": by_prompt.p,
        "davidson_nu": tie_models(w, l, t).davidson_nu,
        "davidson_log_worth_ratio": tie_models(w, l, t).davidson_log_ratio,
    }


def refused(message: str, call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def flagged(note: str) -> None:
    assert note, "a degenerate result must say so"


def degenerate(case: Case) -> Results:
    """``required`` is in words, by the name of the situation; the values beside it are what libraries return."""
    table = next(entry["table"] for entry in case["expected"].values() if "table" in entry)
    constant = cluster_bootstrap(lambda sums: sums[..., 0] / sums[..., 1], np.ones((8, 2)), range(8), method="bca")
    single, lonely = [[3.0], [3.0]], [[1.0], [1.0]]

    def no_pairs() -> None:
        assert mcnemar(0, 0).p == mcnemar(0, 0).p_mid == 1
        flagged(mcnemar(0, 0).note)

    def empty_pairs() -> None:
        test = bowker(table)
        expected = next(entry for entry in case["expected"].values() if "table" in entry)
        assert test.statistic == pytest.approx(expected["statsmodels_shift_zeros_False"])
        flagged(test.note)

    def undefined(value: float | None, note: str) -> None:
        assert value is None
        flagged(note)

    def constant_sample() -> None:
        assert constant.low == constant.high == constant.value == 1
        flagged(constant.note)

    one_category, no_units = krippendorff_alpha(single), krippendorff_alpha(lonely)
    situations: dict[str, Callable[[], None]] = {
        "mcnemar_zero_discordant": no_pairs,
        "bowker_zero_pairs": empty_pairs,
        "alpha_single_category": lambda: undefined(one_category.value, one_category.note),
        "alpha_no_pairable_units": lambda: undefined(no_units.value, no_units.note),
        "fleiss_single_category": lambda: undefined(agreement(single).fleiss.value, agreement(single).fleiss.note),
        "bt_all_wins": lambda: refused("infinite", lambda: fit_ratings(["A"], ["B"], [8], [0])),
        "bt_disconnected_graph": lambda: refused(
            "connects", lambda: fit_ratings(["A", "C"], ["B", "D"], [3, 3], [2, 2])
        ),
        "wilcoxon_all_zero": lambda: flagged(wilcoxon([0.0, 0.0]).note if wilcoxon([0.0, 0.0]).p == 1 else ""),
        "bca_constant_sample": constant_sample,
    }
    for name in case["expected"]:
        if name in situations:
            situations[name]()
    return {name: case["expected"][name] for name in case["expected"] if name in situations}


#: By the file's ``group``: what computes a case's ``expected`` from its ``inputs``.
GROUPS: Mapping[str, Callable[[Case], Results]] = {
    "agreement": agreement_case,
    "annotator_quality": annotator_quality,
    "bootstrap": bootstrap,
    "bowker": bowker_case,
    "bradley_terry": bradley_terry,
    "clustered": clustered,
    "cochran_q": cochran_case,
    "degenerate": degenerate,
    "elo": elo_case,
    "fid": fid,
    "friedman": friedman_case,
    "homogeneity": homogeneity_case,
    "macro_average": macro_average,
    "mcnemar": mcnemar_case,
    "multiplicity": multiplicity,
    "noninferiority": noninferiority,
    "paired_benchmark": paired_benchmark,
    "paired_t": paired_t,
    "permutation": permutation,
    "position": position,
    "power": power,
    "proportion_ci": proportion_ci,
    "sequential": sequential,
    "sign": sign,
    "ties": ties,
    "wilcoxon": wilcoxon_case,
}


def assert_close(computed: Json, expected: Json, rel: float, tolerance: float, where: str = "") -> list[str]:
    """The file's rule for every number: |x - expected| <= abs + rel * |expected|. Returns what was not computed."""
    computed = computed() if callable(computed) else computed
    if isinstance(expected, dict):
        missing = []
        for key, value in expected.items():
            name = f"{where}.{key}" if where else key
            if key in computed:
                missing += assert_close(computed[key], value, rel, tolerance, name)
            else:
                missing.append(name)
        return missing
    if isinstance(expected, list):
        assert len(computed) == len(expected), where
        return [
            name
            for index, (one, other) in enumerate(zip(computed, expected, strict=True))
            for name in assert_close(one, other, rel, tolerance, f"{where}.{index}")
        ]
    if isinstance(expected, bool | str) or expected is None:
        assert computed == expected, where
    else:
        assert abs(computed - expected) <= tolerance + rel * abs(expected), f"{where}: {computed}, not {expected}"
    return []


@cache
def cases() -> Mapping[str, Case]:
    return {case["id"]: case for case in load_json("statistics/cases.json")["cases"]}


@pytest.mark.parametrize("name", sorted(cases()))
def test_case(name: str, request: pytest.FixtureRequest) -> None:
    case = dict(cases()[name])
    if shared := re.fullmatch(r"see (\w+)", str(case["inputs"].get("rows"))):
        case["inputs"] = cases()[shared[1]]["inputs"]
    if case["group"] == "real_data":
        compute = real_pair if "files" in case["inputs"] else real_agreement
        results = compute(case, request.getfixturevalue("bench_data"))
    elif case["group"] in GROUPS:
        results = GROUPS[case["group"]](case)
    else:
        pytest.skip(f"nothing computes {case['group']}: {case['statistic']}")
    missing = assert_close(results, case["expected"], case["tol"]["rel"], case["tol"]["abs"])
    if missing:
        pytest.skip(f"compared but for {', '.join(missing)}, which nothing computes")


def test_groups_are_in_the_file() -> None:
    """A file whose groups have other names must not pass by skipping."""
    assert set(GROUPS) & {case["group"] for case in cases().values()}
