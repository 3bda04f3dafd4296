"""Preferences between two sides: sign tests, ties, and the logit of winning."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from reports.statistics.estimate import Estimate, Labels, array, coded, z_p, z_two_sided
from reports.statistics.proportions import binomial_p, mid_p

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


@dataclass(frozen=True)
class SignTest:
    """On decisive judgments, taken as independent: exact p-values, and the normal approximation without and with the
    continuity correction (None without decisive judgments)."""

    p: float
    p_greater: float
    p_mid: float
    z: float | None
    p_z: float | None
    z_corrected: float | None
    p_corrected: float | None
    note: str = ""


def sign_test(wins: int, losses: int) -> SignTest:
    """Whether wins and losses are equally likely; ties are dropped. Judgments of the same prompt are not independent:
    then this rejects too often, and ``sign_flip`` by prompt is the test. Raises ValueError for negative counts."""
    _check(wins, losses)
    n = wins + losses
    if n == 0:
        return SignTest(1.0, 1.0, 1.0, None, None, None, None, "no decisive judgments")
    distance, sd = wins - n / 2, math.sqrt(n) / 2
    z, corrected = distance / sd, math.copysign(max(0.0, abs(distance) - 0.5), distance) / sd
    exact, greater = binomial_p(wins, n), binomial_p(wins, n, alternative="greater")
    return SignTest(exact, greater, mid_p(wins, n), z, z_p(z), corrected, z_p(corrected))


def net_margin(wins: int, losses: int, ties: int = 0, confidence: float = 0.95) -> Estimate:
    """(wins - losses) / all, with the interval of independent judgments: Var = ((W + L)/N - m^2)/N.

    For judgments that share prompts use ``clustered_mean`` of the votes (1, 0, -1). Raises ValueError without any.
    """
    _check(wins, losses, ties)
    n = wins + losses + ties
    if n == 0:
        raise ValueError("there are no judgments")
    margin = (wins - losses) / n
    variance = ((wins + losses) / n - margin**2) / n
    if variance <= 0:
        return Estimate(margin, None, None, "all judgments are the same: no spread to make an interval from")
    half = z_two_sided(confidence) * math.sqrt(variance)
    return Estimate(margin, margin - half, margin + half)


def half_win_p(wins: int, losses: int, ties: int) -> float:
    """Two-sided p-value of the win rate with ties as half wins against 1/2, with the variance 1/(4N) of no ties: a
    sensitivity analysis, conservative. Raises ValueError without judgments."""
    _check(wins, losses, ties)
    n = wins + losses + ties
    if n == 0:
        raise ValueError("there are no judgments")
    return z_p((wins - losses) / math.sqrt(n))


@dataclass(frozen=True)
class TieModels:
    """Two sides under Davidson's and Rao & Kupper's models; None where a maximum likelihood estimate is infinite."""

    davidson_log_ratio: float | None
    davidson_nu: float | None
    rao_kupper_ratio: float | None
    rao_kupper_theta: float | None
    note: str = ""


def tie_models(wins: int, losses: int, ties: int) -> TieModels:
    """Closed forms for two sides. Davidson (1970, JASA 65:317): ratio of worths W/L, nu = T / sqrt(WL). Rao & Kupper
    (1967, JASA 62:194): ratio sqrt(W(N-L) / (L(N-W))), theta = sqrt((N-W)(N-L) / (WL))."""
    _check(wins, losses, ties)
    if min(wins, losses) == 0:
        return TieModels(None, None, None, None, "one side never wins: the estimates are infinite")
    not_won, not_lost = losses + ties, wins + ties
    return TieModels(
        math.log(wins / losses),
        ties / math.sqrt(wins * losses),
        math.sqrt(wins * not_lost / (losses * not_won)),
        math.sqrt(not_won * not_lost / (wins * losses)),
    )


def cohen_h(rate: float, against: float = 0.5) -> float:
    """Cohen's (1988) effect size of two proportions, 2 asin(sqrt(p)) - 2 asin(sqrt(q)), in [-pi, pi]."""
    if not (0 <= rate <= 1 and 0 <= against <= 1):
        raise ValueError(f"proportions must lie in [0, 1], not {rate} and {against}")
    return 2 * math.asin(math.sqrt(rate)) - 2 * math.asin(math.sqrt(against))


@dataclass(frozen=True)
class WinLogit:
    """The logit of winning a decisive judgment; ``correlation`` within a group is None when taken as 0."""

    logit: float
    standard_error: float
    p: float
    correlation: float | None


def gee_win_logit(
    votes: ArrayLike, groups: Labels, structure: Literal["independence", "exchangeable"] = "exchangeable"
) -> WinLogit:
    """Generalised estimating equations with robust errors (Liang & Zeger 1986) on votes 1 and -1; 0, a tie, is dropped.

    By statsmodels. Raises ValueError for other votes, or unless both sides win and two groups have decisive votes.
    """
    import statsmodels.api as sm

    values = array(votes, "votes")
    group, _ = coded(groups, len(values), "groups")
    if not bool(np.isin(values, (-1, 0, 1)).all()):
        raise ValueError("votes must be 1, 0 or -1")
    won, group = values[values != 0] > 0, group[values != 0]
    if won.size == 0 or bool(won.all()) or not bool(won.any()) or len(np.unique(group)) < 2:
        raise ValueError("the logit needs wins of both sides, in two groups at least")
    covariance = {"independence": sm.cov_struct.Independence, "exchangeable": sm.cov_struct.Exchangeable}[structure]()
    model = sm.GEE(
        won.astype(float), np.ones(len(won)), groups=group, family=sm.families.Binomial(), cov_struct=covariance
    )
    result = model.fit()
    correlation = float(covariance.dep_params) if structure == "exchangeable" else None
    return WinLogit(float(result.params[0]), float(result.bse[0]), float(result.pvalues[0]), correlation)


def elo(
    first: Labels, second: Labels, scores: ArrayLike, k: float = 4.0, start: float = 1000.0, scale: float = 400.0
) -> dict[str, float]:
    """Ratings after the games in their order (Elo 1978), with base 10: scores are the first side's 1, 1/2 or 0.

    Depends on the order, so that ``fit_ratings`` is the estimator; this is for comparison with arenas (FastChat's and
    evalica's default k is 4). Raises ValueError for unlike lengths or other scores.
    """
    points = array(scores, "scores")
    if not len(first) == len(second) == len(points) or not bool(np.isin(points, (0, 0.5, 1)).all()):
        raise ValueError("give one score of 1, 1/2 or 0 per game, and both sides' names")
    ratings: dict[str, float] = {}
    for one, other, score in zip(map(str, first), map(str, second), points, strict=True):
        difference = ratings.get(other, start) - ratings.get(one, start)
        gain = k * (float(score) - 1 / (1 + 10 ** (difference / scale)))
        ratings[one] = ratings.get(one, start) + gain
        ratings[other] = ratings.get(other, start) - gain
    return ratings


def _check(*counts: int) -> None:
    if min(counts) < 0:
        raise ValueError(f"negative counts of judgments: {', '.join(map(str, counts))}")
