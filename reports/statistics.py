"""Statistics of results: pure functions on counts and arrays."""

from __future__ import annotations

import math
from typing import Literal

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
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials")
    from scipy import stats

    tail = (1 - confidence) / 2
    if method == "jeffreys":
        posterior = stats.beta(successes + 0.5, trials - successes + 0.5)
        return float(posterior.ppf(tail)), float(posterior.ppf(1 - tail))
    if method == "agresti-coull":
        z = float(stats.norm.ppf(1 - tail))
        center = (successes + z**2 / 2) / (trials + z**2)
        half = z * math.sqrt(center * (1 - center) / (trials + z**2))
        return max(0.0, center - half), min(1.0, center + half)
    names = {"wilson": "wilson", "wilson-cc": "wilsoncc", "clopper-pearson": "exact"}
    interval = stats.binomtest(successes, trials).proportion_ci(confidence, names[method])
    return float(interval.low), float(interval.high)
