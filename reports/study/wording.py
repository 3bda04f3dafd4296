"""Numbers of a study in words."""

from __future__ import annotations

from reports.statistics.agreement import Coefficient
from reports.statistics.estimate import Estimate
from reports.statistics.paired import SignFlip
from reports.statistics.tables import ChiSquared

UNKNOWN = "-"


def percent(share: float | None) -> str:
    """A share in percent."""
    return UNKNOWN if share is None else f"{100 * share:.1f}"


def estimate_text(estimate: Estimate | None, factor: float = 1, decimals: int = 2, sign: str = "+") -> str:
    """``value (low to high)`` times ``factor``; limits that the data do not give are left out."""
    if estimate is None:
        return UNKNOWN
    value, low, high = (
        None if number is None else f"{factor * number:{sign}.{decimals}f}"
        for number in (estimate.value, estimate.low, estimate.high)
    )
    return f"{value} (no interval)" if low is None or high is None else f"{value} ({low} to {high})"


def margin_text(margin: Estimate | None) -> str:
    """A net margin in points with its interval."""
    return estimate_text(margin, 100, 1)


def rate_text(rate: Estimate | None) -> str:
    """A share in percent with its interval."""
    return estimate_text(rate, 100, 1, sign="")


def p_text(p: float | None) -> str:
    """Three decimals, or two significant digits of a small one; of what is too small for a float, a bound."""
    if p is None:
        return UNKNOWN
    if p == 0:
        return "<1e-300"
    return f"{p:.3f}" if p >= 0.01 else f"{p:.2g}"


def flip_text(test: SignFlip) -> str:
    """The p-value; where no pattern that was drawn is as extreme as the data, only an upper bound is known."""
    return p_text(test.p) if test.exact or test.extreme else f"<= {p_text(test.p)}"


def chi2_text(test: ChiSquared | None) -> str:
    """Statistic, degrees of freedom and p-value."""
    return UNKNOWN if test is None else f"chi2 {test.statistic:.2f}, df {test.df}, p {p_text(test.p)}"


def coefficient_text(coefficient: Coefficient | None) -> str:
    """A coefficient of agreement, or that it is undefined."""
    if coefficient is None:
        return UNKNOWN
    return f"{coefficient.value:.3f}" if coefficient.value is not None else "undefined"
