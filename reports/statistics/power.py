"""How large an effect a study can find, and how large a study an effect needs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from reports.statistics.estimate import check_share, z_quantile
from reports.statistics.proportions import binomial_p

Sides = Literal[1, 2]


def minimal_detectable_effect(
    standard_error: float, alpha: float = 0.05, power: float = 0.8, sides: Sides = 2
) -> float:
    """The effect that a test at ``alpha`` finds with probability ``power``: (z_alpha + z_power) standard errors.

    In the unit of the standard error, which stands for all of the design: clusters, pairing, ties. Normal
    approximation. Raises ValueError for a standard error that is not positive.
    """
    if not 0 < standard_error < math.inf:
        raise ValueError(f"the standard error must be positive, not {standard_error}: no spread, no power to compute")
    return _quantiles(alpha, power, sides) * standard_error


def needed_n(
    effect: float, standard_error: float, n: int, alpha: float = 0.05, power: float = 0.8, sides: Sides = 2
) -> int:
    """How many units of the same kind find ``effect``, when ``n`` of them gave this standard error."""
    if not 0 < abs(effect) < math.inf or n < 1:
        raise ValueError(f"an effect other than 0 and n of 1 or more are needed, not {effect} and {n}")
    detectable = minimal_detectable_effect(standard_error, alpha, power, sides)
    return math.ceil(n * (detectable / effect) ** 2)


def margin_standard_error(n: float, tie_rate: float = 0.0, design_effect: float = 1.0) -> float:
    """Standard error of a net margin (wins - losses) / n when neither side is better: sqrt((1 - ties) deff / n)."""
    if n < 1 or not 0 <= tie_rate < 1 or design_effect <= 0:
        raise ValueError(f"no study has n {n}, tie rate {tie_rate} and design effect {design_effect}")
    return math.sqrt((1 - tie_rate) * design_effect / n)


def paired_binary_standard_error(n: float, discordant: float, design_effect: float = 1.0) -> float:
    """Standard error of the difference of two equally good runs that disagree on a share ``discordant`` of items."""
    return margin_standard_error(n, 1 - discordant, design_effect)


def questions_needed(
    effect: float,
    omega2: float,
    sigma2_a: float = 0.0,
    sigma2_b: float = 0.0,
    samples_a: float = 1,
    samples_b: float = 1,
    alpha: float = 0.05,
    power: float = 0.8,
) -> float:
    """Questions that a paired comparison of two models needs (Miller 2024, arXiv:2411.00640, eq. 9), not rounded.

    ``omega2`` is the variance over questions of the difference of the expected scores, ``sigma2`` the mean variance
    of one answer's score about its expectation, ``samples`` the answers per question (infinity is allowed).
    """
    if not 0 < abs(effect) < math.inf or min(omega2, sigma2_a, sigma2_b) < 0 or min(samples_a, samples_b) < 1:
        raise ValueError("an effect other than 0, variances of 0 or more and at least one sample are needed")
    variance = omega2 + sigma2_a / samples_a + sigma2_b / samples_b
    return _quantiles(alpha, power, 2) ** 2 * variance / effect**2


@dataclass(frozen=True)
class SignTestPower:
    """The two-sided exact test rejects from ``critical_wins`` wins or losses on, with chance ``power``."""

    power: float
    critical_wins: int


def sign_test_power(n: int, rate: float, alpha: float = 0.05) -> SignTestPower:
    """Exact power of the two-sided sign test on ``n`` decisive judgments when one side wins a share ``rate``.

    Raises ValueError where not even n wins of n would reject.
    """
    from scipy import stats

    check_share(rate, "rate")
    check_share(alpha, "alpha")
    if n < 1 or binomial_p(n, n) > alpha:
        raise ValueError(f"no result of {n} judgments has p <= {alpha}")
    # The smallest number of wins whose doubled upper tail is within alpha.
    critical = int(stats.binom.isf(alpha / 2, n, 0.5)) + 1
    wins = stats.binom.sf(critical - 1, n, rate)
    losses = stats.binom.cdf(n - critical, n, rate)
    return SignTestPower(float(wins + losses), critical)


def sign_test_n(rate: float, alpha: float = 0.05, power: float = 0.8) -> int:
    """Decisive judgments that the sign test needs, by the normal approximation."""
    check_share(rate, "rate")
    check_share(alpha, "alpha")
    check_share(power, "power")
    if rate == 0.5:
        raise ValueError("no number of judgments finds a rate of 0.5")
    reach = z_quantile(1 - alpha / 2) / 2 + z_quantile(power) * math.sqrt(rate * (1 - rate))
    return math.ceil((reach / (rate - 0.5)) ** 2)


def t_test_power(effect: float, n: int, alpha: float = 0.05) -> float:
    """Power of the two-sided t-test of two independent samples of ``n`` each (not paired) at a difference of
    ``effect`` standard deviations, by statsmodels; R's power.t.test leaves the opposite tail out."""
    from statsmodels.stats.power import TTestIndPower

    if n < 2:
        raise ValueError(f"a sample needs two values at least, not {n}")
    check_share(alpha, "alpha")
    return float(TTestIndPower().power(effect, n, alpha))


def t_test_n(effect: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """Size of each sample that ``t_test_power`` needs, not rounded."""
    from statsmodels.stats.power import TTestIndPower

    if not 0 < abs(effect) < math.inf:
        raise ValueError(f"an effect other than 0 is needed, not {effect}")
    check_share(alpha, "alpha")
    check_share(power, "power")
    return float(TTestIndPower().solve_power(abs(effect), alpha=alpha, power=power))


def _quantiles(alpha: float, power: float, sides: Sides) -> float:
    check_share(alpha, "alpha")
    check_share(power, "power")
    return z_quantile(1 - alpha / sides) + z_quantile(power)
