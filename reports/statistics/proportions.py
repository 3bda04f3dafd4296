"""Proportions of independent trials: the exact binomial test and confidence limits."""

from __future__ import annotations

import math
from typing import Literal

from reports.statistics.estimate import check_share, z_two_sided

ProportionMethod = Literal["wilson", "wilson-cc", "clopper-pearson", "agresti-coull", "jeffreys"]


def proportion_interval(
    successes: int, trials: int, method: ProportionMethod = "wilson", confidence: float = 0.95
) -> tuple[float, float]:
    """Two-sided confidence limits, in [0, 1], of a proportion of independent trials.

    Wilson's score interval is the default; ``wilson-cc`` has the continuity correction, and ``clopper-pearson``
    never covers less than ``confidence`` (Newcombe 1998, Stat. Med. 17:857, methods 3, 4 and 5). Agresti-Coull and
    the equal-tailed Jeffreys interval are as in Brown, Cai & DasGupta (2001, Stat. Sci. 16:101), without their
    change of the Jeffreys limits at 0 and ``trials`` successes.

    Raises ValueError without trials or when the successes are not among them.
    """
    check_counts(successes, trials)
    check_share(confidence, "confidence")
    from scipy import stats

    tail = (1 - confidence) / 2
    if method == "jeffreys":
        posterior = stats.beta(successes + 0.5, trials - successes + 0.5)
        return float(posterior.ppf(tail)), float(posterior.ppf(1 - tail))
    if method == "agresti-coull":
        z = z_two_sided(confidence)
        center = (successes + z**2 / 2) / (trials + z**2)
        half = z * math.sqrt(center * (1 - center) / (trials + z**2))
        return max(0.0, center - half), min(1.0, center + half)
    names = {"wilson": "wilson", "wilson-cc": "wilsoncc", "clopper-pearson": "exact"}
    interval = stats.binomtest(successes, trials).proportion_ci(confidence, names[method])
    return float(interval.low), float(interval.high)


def binomial_p(
    successes: int, trials: int, rate: float = 0.5, alternative: Literal["two-sided", "greater", "less"] = "two-sided"
) -> float:
    """Exact binomial p-value; two-sided, it adds up all outcomes no likelier than this one. No trials give 1."""
    check_share(rate, "rate")
    if trials == 0 == successes:
        return 1.0
    check_counts(successes, trials)
    from scipy import stats

    return float(stats.binomtest(successes, trials, rate, alternative).pvalue)


def mid_p(successes: int, trials: int) -> float:
    """Two-sided mid-p value against 1/2: the exact one less the probability of this outcome (Lancaster 1961, JASA
    56:223). At exactly half, where the exact value is capped at 1, it is 1 less that probability. No trials give 1.
    """
    if trials == 0 == successes:
        return 1.0
    check_counts(successes, trials)
    from scipy import stats

    return binomial_p(successes, trials) - float(stats.binom.pmf(successes, trials, 0.5))


def check_counts(successes: int, trials: int) -> None:
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials")
