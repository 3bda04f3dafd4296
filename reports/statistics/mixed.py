"""Logistic regression with a random intercept per group (prompt), by adaptive Gauss-Hermite quadrature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reports.statistics.estimate import Codes, Floats, Labels, array, coded

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


@dataclass(frozen=True)
class RandomIntercept:
    """Coefficients on the logit scale with their standard errors, the standard deviation of the intercepts, and -2 log
    likelihood with the binomial constants."""

    coefficients: tuple[float, ...]
    standard_errors: tuple[float, ...]
    sd: float
    minus2ll: float
    note: str = ""


def random_intercept_logit(
    successes: ArrayLike, trials: ArrayLike, design: ArrayLike, groups: Labels, points: int = 25
) -> RandomIntercept:
    """Maximum likelihood of logit P = design @ b + u[group], u ~ N(0, sd^2), as lme4's glmer with nAGQ = ``points``.

    One point is Laplace's approximation. ``design`` has shape (n, coefficients), a column of ones included.
    statsmodels' BinomialBayesMixedGLM is variational and gives other numbers. Raises ValueError for counts that do
    not fit, a design without full rank, fewer than two groups, or data without a finite maximum (one side
    always wins).
    """
    from scipy import optimize, special
    from statsmodels.tools.numdiff import approx_hess3

    y, n, x = array(successes, "successes"), array(trials, "trials"), np.asarray(design, dtype=np.float64)
    group, names = coded(groups, len(y), "groups")
    if len(n) != len(y) or bool((y < 0).any()) or bool((y > n).any()):
        raise ValueError("successes must lie between 0 and the trials")
    if x.ndim != 2 or len(x) != len(y) or np.linalg.matrix_rank(x) < x.shape[1] or len(names) < 2 or points < 1:
        raise ValueError("the design needs one row per count and full rank, the intercepts two groups")
    nodes, weights = np.polynomial.hermite.hermgauss(points)
    constant = float(np.sum(special.gammaln(n + 1) - special.gammaln(y + 1) - special.gammaln(n - y + 1)))

    def objective(parameters: Floats) -> float:
        # u = sd * v with v standard normal, so that sd = 0 is no special case; sd and -sd are the same model.
        fixed, sd = x @ parameters[:-1], abs(float(parameters[-1]))
        mode, curvature = _modes(y, n, fixed, sd, group, len(names))
        v = mode[:, None] + np.sqrt(2 / curvature)[:, None] * nodes
        linear = fixed[:, None] + sd * v[group]
        terms = y[:, None] * linear - n[:, None] * np.logaddexp(0, linear)
        inside = _by_group(terms, group, len(names)) - v**2 / 2 + nodes**2 + np.log(weights)
        integral = special.logsumexp(inside, axis=1) - np.log(np.pi) / 2 - np.log(curvature) / 2
        return -float(integral.sum()) - constant

    start = np.append(np.linalg.lstsq(x, np.log((y + 0.5) / (n - y + 0.5)), rcond=None)[0], 0.5)
    fit = optimize.minimize(objective, start, method="BFGS", options={"gtol": 1e-6, "xrtol": 1e-10})
    # A coefficient may be large because its column is small; log odds beyond 10 on the data are no estimate.
    largest = max(float(np.abs(x @ fit.x[:-1]).max()), abs(float(fit.x[-1])))
    if np.abs(fit.jac).max() > 1e-2 or largest > 10:
        raise ValueError("no finite maximum of the likelihood was found: one side may always win")
    sd = abs(float(fit.x[-1]))
    note = "the intercepts do not vary: sd is at its bound of 0" if sd < 1e-3 else ""
    free = len(fit.x) - bool(note)  # at the bound, sd is no parameter to be uncertain about
    hessian = approx_hess3(fit.x[:free], lambda part: objective(np.append(part, fit.x[free:])))
    errors = np.sqrt(np.diag(np.linalg.inv(hessian)))[: x.shape[1]]
    return RandomIntercept(tuple(map(float, fit.x[:-1])), tuple(map(float, errors)), sd, 2 * float(fit.fun), note)


def _modes(y: Floats, n: Floats, fixed: Floats, sd: float, group: Codes, groups: int) -> tuple[Floats, Floats]:
    """Of each group's log density of v: where it is highest, and minus its second derivative there, by Newton."""
    from scipy import special

    v: Floats = np.zeros(groups)
    curvature: Floats = np.ones(groups)
    for _ in range(100):
        p: Floats = special.expit(fixed + sd * v[group])
        slope = sd * np.bincount(group, weights=y - n * p, minlength=groups) - v
        curvature = np.add(1, sd * sd * np.bincount(group, weights=n * p * (1 - p), minlength=groups))
        step = slope / curvature
        v += step
        if np.abs(step).max() < 1e-12:
            break
    return v, curvature


def _by_group(values: Floats, group: Codes, groups: int) -> Floats:
    totals = np.zeros((groups, values.shape[1]))
    np.add.at(totals, group, values)
    return totals
