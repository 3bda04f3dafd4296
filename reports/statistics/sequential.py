"""Tests that stay valid however often one looks: e-values, always-valid p-values, confidence sequences.

All assume independent observations. Judgments of the same prompt are not: feed prompt-level signs, or one block per
prompt. E >= 1/alpha rejects at level alpha at any time one chooses to stop (Ville's inequality).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from reports.statistics.estimate import Estimate, Floats, array, check_share
from reports.statistics.proportions import check_counts

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def log_e_value(wins: int, losses: int, prior: float = 1.0, rate: float = 0.5) -> float:
    """Log of the beta-binomial mixture e-value against P(win) = ``rate``.

    E = B(w + a, l + a) / B(a, a) / (rate^w (1 - rate)^l) with a = ``prior``: 1 is the uniform mixture, 1/2 Jeffreys'
    (Robbins 1970, Ann. Math. Stat. 41:1397). Raises ValueError for negative counts or a prior that is not positive.
    """
    check_share(rate, "rate")
    if min(wins, losses) < 0:
        raise ValueError(f"negative counts: {wins} wins and {losses} losses")
    mixture = _log_mixture(np.array(wins), np.array(losses), prior)
    return float(mixture) - wins * math.log(rate) - losses * math.log(1 - rate)


def always_valid_p(outcomes: ArrayLike, prior: float = 1.0) -> list[float]:
    """After each of the ``outcomes`` (1 win, 0 loss, in the order they came): the least 1/E so far, at most 1."""
    won = array(outcomes, "outcomes")
    if not bool(np.all((won == 0) | (won == 1))):
        raise ValueError("outcomes must be 0 or 1; leave ties out")
    wins = np.cumsum(won)
    losses = np.arange(1, len(won) + 1) - wins
    logs = _log_mixture(wins, losses, prior) + (wins + losses) * math.log(2)
    return [math.exp(-max(0.0, float(log))) for log in np.maximum.accumulate(logs)]


def win_rate_sequence(wins: int, losses: int, confidence: float = 0.95, prior: float = 1.0) -> Estimate:
    """Anytime-valid interval of a win rate: the rates whose mixture e-value lies below 1/(1 - confidence)."""
    from scipy import optimize

    check_share(confidence, "confidence")
    n = wins + losses
    check_counts(wins, n)
    reached, value = -math.log(1 - confidence), wins / n

    def excess(rate: float) -> float:
        return log_e_value(wins, losses, prior, rate) - reached

    edge = 1e-15
    low = 0.0 if wins == 0 else float(optimize.brentq(excess, edge, min(value, 1 - edge)))
    high = 1.0 if losses == 0 else float(optimize.brentq(excess, max(value, edge), 1 - edge))
    return Estimate(value, low, high, "anytime-valid")


def msprt(mean: float, n: int, sigma2: float, tau2: float) -> float:
    """Mixture likelihood ratio against mean 0 of ``n`` values of variance ``sigma2``, mixed over N(0, ``tau2``)
    (Johari, Koomen, Pekelis & Walsh 2022, Oper. Res. 70:1806). 1/this is an always-valid p-value when n only grows."""
    if n < 1 or sigma2 <= 0 or tau2 <= 0:
        raise ValueError(f"n, sigma2 and tau2 must be positive, not {n}, {sigma2}, {tau2}")
    total = sigma2 + n * tau2
    return math.sqrt(sigma2 / total) * math.exp(n**2 * tau2 * mean**2 / (2 * sigma2 * total))


def normal_mixture_log_e(total: float, variance: float, rho: float) -> float:
    """Log supermartingale of the two-sided normal mixture for a sum with this intrinsic ``variance`` (n sigma^2)
    (Howard, Ramdas, McAuliffe & Sekhon 2021, Ann. Stat. 49:1055, Prop. 5)."""
    _check_rho(variance, rho)
    return math.log(rho / (rho + variance)) / 2 + total**2 / (2 * (variance + rho))


def normal_mixture_bound(variance: float, rho: float, alpha: float = 0.05) -> float:
    """How far a sum may stray from its expectation at any time, but for a chance of alpha (ibid.); over n for a
    mean. ``rho`` places where it is tightest, see ``best_rho``."""
    _check_rho(variance, rho)
    check_share(alpha, "alpha")
    return math.sqrt((variance + rho) * math.log((variance + rho) / (rho * alpha**2)))


def best_rho(variance: float, alpha: float = 0.05) -> float:
    """The rho that makes the bound about the tightest at this intrinsic variance (confseq's two-sided rule)."""
    check_share(alpha, "alpha")
    _check_rho(variance, 1.0)
    reach = 2 * math.log(1 / alpha)
    return variance / (reach + math.log1p(reach))


def _log_mixture(wins: Floats, losses: Floats, prior: float) -> Floats:
    """Log of the probability of a sequence with these counts under a Beta(prior, prior) mixture of rates."""
    from scipy import special

    if not 0 < prior < math.inf:
        raise ValueError(f"the prior must be positive, not {prior}")
    log: Floats = special.betaln(wins + prior, losses + prior) - special.betaln(prior, prior)
    return log


def _check_rho(variance: float, rho: float) -> None:
    if not (variance > 0 and rho > 0):
        raise ValueError(f"variance and rho must be positive, not {variance} and {rho}")
