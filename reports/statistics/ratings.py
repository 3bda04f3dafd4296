"""Worths of several models from pairwise judgments: Bradley-Terry, Davidson's and Rao & Kupper's models."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from reports.statistics.estimate import Codes, Estimate, Floats, Labels, coded, z_two_sided

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

#: A log worth beyond this is taken for one that grows without limit: odds of 3 million to 1.
INFINITE = 15.0


@dataclass(frozen=True)
class Ratings:
    """Log worths that sum to 0, and their covariance.

    ``tie`` is Davidson's nu (P(tie) is nu sqrt(pi_i pi_j) against pi_i and pi_j), 0 without ties or where they count
    half. ``order`` is the log advantage of being first. ``deviance`` is against the saturated model of the rows as
    given, with ``df`` degrees of freedom.
    """

    names: tuple[str, ...]
    log_worth: tuple[float, ...]
    covariance: Floats
    tie: float
    order: float | None
    order_standard_error: float | None
    log_likelihood: float
    deviance: float
    df: int

    @property
    def worth(self) -> tuple[float, ...]:
        """Worths that sum to 1."""
        worth = np.exp(np.array(self.log_worth))
        return tuple((worth / worth.sum()).tolist())

    def contrast(self, name: str, against: str, confidence: float = 0.95) -> Estimate:
        """Log ratio of two worths, with its interval; none where the groups' scores cancel."""
        one, other = self.names.index(name), self.names.index(against)
        value = self.log_worth[one] - self.log_worth[other]
        cov = self.covariance
        variance = float(cov[one, one] + cov[other, other] - 2 * cov[one, other])
        if variance < 1e-12:
            return Estimate(value, None, None, "the groups do not differ: no interval")
        half = z_two_sided(confidence) * math.sqrt(variance)
        return Estimate(value, value - half, value + half)


def fit_ratings(
    first: Labels,
    second: Labels,
    wins: ArrayLike,
    losses: ArrayLike,
    ties: ArrayLike | None = None,
    tie_model: Literal["davidson", "half"] = "davidson",
    order_effect: bool = False,
    groups: Labels | None = None,
) -> Ratings:
    """Maximum likelihood by Newton's method of Davidson's (1970, JASA 65:317) model; without ties, or with ties as
    half a win for each, of Bradley & Terry's (1952, Biometrika 39:324).

    One row per judgment or per pair of models; ``wins``, ``losses`` and ``ties`` count those of the first. With
    ``groups`` (prompts) the covariance is the cluster-robust sandwich with G/(G-1), else the inverse information.
    ``order_effect`` fits the advantage of being first (on the left), as in Agresti (2002, section 10.6.3).

    Raises ValueError for unlike lengths, negative counts, models that no chain of judgments connects, and data
    without a finite maximum: some models never lose to the others (Ford 1957, Am. Math. Mon. 64:28), or with
    ``order_effect`` the same side always wins.
    """
    one, other, names, counts = _rows(first, second, wins, losses, ties)
    if not bool(counts[:, :2].any()):
        raise ValueError("every judgment is a tie: nu is infinite, no maximum exists")
    if tie_model == "half":
        counts = np.stack([counts[:, 0] + counts[:, 2] / 2, counts[:, 1] + counts[:, 2] / 2], axis=1)
    elif not bool(counts[:, 2].any()):
        counts = counts[:, :2]
    design = _design(one, other, len(names), counts.shape[1] == 3, order_effect)
    beta, probability = _newton(design, counts, len(names))
    centred = design - np.einsum("ro,rop->rp", probability, design)[:, None]
    totals = counts.sum(axis=1)
    information = np.einsum("r,ro,rop,roq->pq", totals, probability, centred, centred)
    covariance = _inverse(information, len(names))
    if groups is not None:
        covariance = covariance @ _meat(np.einsum("ro,rop->rp", counts, centred), groups) @ covariance
    worth, k = beta[: len(names)], len(names)
    log_likelihood = float(np.sum(counts * np.log(probability)))
    shares = counts / np.maximum(totals, 1e-300)[:, None]
    saturated = float(np.sum(counts * np.log(np.where(counts > 0, shares, 1))))
    return Ratings(
        tuple(map(str, names)),
        tuple((worth - worth.mean()).tolist()),
        covariance[:k, :k],
        math.exp(beta[k]) if counts.shape[1] == 3 else 0.0,
        float(beta[-1]) if order_effect else None,
        math.sqrt(float(covariance[-1, -1])) if order_effect else None,
        log_likelihood,
        2 * (saturated - log_likelihood),
        int(np.count_nonzero(totals)) * (counts.shape[1] - 1) - (len(beta) - 1),
    )


@dataclass(frozen=True)
class RaoKupper:
    """Log worths that sum to 0, the threshold theta (1: no ties), and the log likelihood."""

    names: tuple[str, ...]
    log_worth: tuple[float, ...]
    theta: float
    log_likelihood: float


def rao_kupper(first: Labels, second: Labels, wins: ArrayLike, losses: ArrayLike, ties: ArrayLike) -> RaoKupper:
    """Rao & Kupper's (1967, JASA 62:194) model of ties: P(i wins) = pi_i / (pi_i + theta pi_j), by scipy's BFGS.

    Rows and errors as in ``fit_ratings``; raises ValueError too without any tie, where theta is 1 at its bound.
    """
    from scipy import optimize

    one, other, names, counts = _rows(first, second, wins, losses, ties)
    if not bool(counts[:, 2].any()):
        raise ValueError("there are no ties: fit_ratings is the model without them")
    _check_bounded(one, other, counts, len(names))

    def negative(parameters: Floats) -> float:
        log_theta = math.exp(parameters[-1])  # positive, so that theta is above 1
        difference = parameters[one] - parameters[other]
        won, lost = -np.logaddexp(0, log_theta - difference), -np.logaddexp(0, log_theta + difference)
        tied = won + lost + math.log(math.expm1(2 * log_theta))
        ridge = float(np.sum(parameters[:-1])) ** 2  # picks the log worths that sum to 0
        return ridge - float(counts[:, 0] @ won + counts[:, 1] @ lost + counts[:, 2] @ tied)

    fit = optimize.minimize(negative, np.append(np.zeros(len(names)), -1.0), method="BFGS", options={"gtol": 1e-4})
    worth = fit.x[:-1] - fit.x[:-1].mean()
    _check_finite(worth)
    return RaoKupper(
        tuple(map(str, names)), tuple(worth.tolist()), math.exp(math.exp(fit.x[-1])), -float(negative(fit.x))
    )


def _rows(
    first: Labels, second: Labels, wins: ArrayLike, losses: ArrayLike, ties: ArrayLike | None
) -> tuple[Codes, Codes, list[Any], Floats]:
    """Codes of both sides, names, and counts of shape (rows, 3)."""
    won = np.asarray(wins, dtype=np.float64)
    counts = np.stack(
        [won, np.asarray(losses, np.float64), np.zeros_like(won) if ties is None else np.asarray(ties)], 1
    )
    if counts.ndim != 2 or len(first) != len(counts) or len(second) != len(counts):
        raise ValueError("give as many first and second sides as counts")
    if not bool(np.isfinite(counts).all()) or bool((counts < 0).any()) or not bool(counts.any()):
        raise ValueError("counts must be finite, not negative and not all 0")
    sides, names = coded(np.concatenate([np.asarray(first), np.asarray(second)]), 2 * len(counts), "sides")
    one, other = sides[: len(counts)], sides[len(counts) :]
    if bool((one == other).any()):
        raise ValueError("a model was compared with itself")
    kept = counts.any(axis=1)
    _check_connected(one[kept], other[kept], names)
    return one, other, names, counts


def _check_connected(one: Codes, other: Codes, names: list[Any]) -> None:
    part = np.arange(len(names))
    for _ in names:
        low = np.minimum(part[one], part[other])
        np.minimum.at(part, one, low)
        np.minimum.at(part, other, low)
    if bool(part.any()):
        apart = names[int(np.argmax(part != part[0]))]
        raise ValueError(f"no chain of judgments connects {names[0]} and {apart}: their worths do not compare")


def _design(one: Codes, other: Codes, k: int, with_ties: bool, order_effect: bool) -> Floats:
    """What the logit of each outcome is made of, shape (rows, outcomes, parameters): log worths, log nu, order."""
    rows = np.arange(len(one))
    design = np.zeros((len(one), 3, k + 2))
    design[rows, 0, one] = design[rows, 1, other] = 1
    design[rows, 2, one] = design[rows, 2, other] = 0.5
    design[:, 2, k] = 1
    design[:, 0, k + 1] = 1
    design[:, 2, k + 1] = 0.5
    kept = [*range(k), *([k] if with_ties else []), *([k + 1] if order_effect else [])]
    return design[:, : 3 if with_ties else 2, kept]


def _newton(design: Floats, counts: Floats, k: int) -> tuple[Floats, Floats]:
    """Coefficients and outcome probabilities at the maximum of this multinomial logit's (concave) likelihood."""
    beta, totals = np.zeros(design.shape[2]), counts.sum(axis=1)
    likelihood, probability = _likelihood(design, counts, beta)
    for _ in range(100):
        centred = design - np.einsum("ro,rop->rp", probability, design)[:, None]
        slope = np.einsum("ro,rop->p", counts, centred)
        information = np.einsum("r,ro,rop,roq->pq", totals, probability, centred, centred)
        step = _inverse(information, k) @ slope
        gain = float(slope @ step)  # twice what the step is expected to add to the log likelihood
        size = 1.0 if gain < 1e-6 else _step_size(design, counts, beta, step, likelihood)
        beta = beta + size * step
        likelihood, probability = _likelihood(design, counts, beta)
        _check_finite(beta[:k] - beta[:k].mean())
        _check_order(beta[k + (design.shape[1] == 3) :])
        if gain < 1e-12:
            break
    return beta, probability


def _inverse(information: Floats, k: int) -> Floats:
    """The inverse where the ``k`` log worths sum to 0; adding a constant to all of them changes no probability."""
    shift = np.zeros(len(information))
    shift[:k] = 1 / math.sqrt(k)
    weight = float(np.trace(information)) / k
    filled = information + weight * np.outer(shift, shift)
    if np.linalg.matrix_rank(filled, hermitian=True) < len(filled):
        raise ValueError("the judgments cannot tell the parameters apart: does every pair have one order only?")
    inverse: Floats = np.linalg.inv(filled) - np.outer(shift, shift) / weight
    return inverse


def _step_size(design: Floats, counts: Floats, beta: Floats, step: Floats, likelihood: float) -> float:
    """1, or the first of its halves that does not lose likelihood."""
    size = 1.0
    while _likelihood(design, counts, beta + size * step)[0] < likelihood and size > 1e-6:
        size /= 2
    return size


def _likelihood(design: Floats, counts: Floats, beta: Floats) -> tuple[float, Floats]:
    linear = design @ beta
    log = linear - np.logaddexp.reduce(linear, axis=1, keepdims=True)
    return float(np.sum(counts * log)), np.exp(log)


def _check_finite(worth: Floats) -> None:
    if np.abs(worth).max() > INFINITE:
        raise ValueError("some models never lose to the others: their worths are infinite, no maximum exists")


def _check_order(effect: Floats) -> None:
    if bool((np.abs(effect) > INFINITE).any()):
        raise ValueError("the same side always wins: the order effect is infinite, no maximum exists")


def _check_bounded(one: Codes, other: Codes, counts: Floats, k: int) -> None:
    """ValueError where log worths and log theta can grow without end and no outcome that occurred gets less likely.

    Along a direction a win needs (worth ahead - theta) not to fall, a tie that worths drift apart no faster than theta
    grows. Linear programming finds such a direction, which is one of recession of the (concave) log likelihood.
    """
    from scipy import optimize

    rows = []
    for i, j, (won, lost, tied) in zip(one, other, counts, strict=True):
        ahead = np.zeros(k + 1)
        ahead[i], ahead[j] = 1, -1
        theta = np.eye(k + 1)[k]
        rows += (
            [ahead - theta] * bool(won) + [-ahead - theta] * bool(lost) + [theta - ahead, theta + ahead] * bool(tied)
        )
    kept = np.unique(rows, axis=0)
    found = optimize.linprog(-kept.sum(axis=0), A_ub=-kept, b_ub=np.zeros(len(kept)), bounds=[(-1, 1)] * k + [(0, 1)])
    if found.fun < -1e-6:
        raise ValueError("some models never lose to the others: their worths are infinite, no maximum exists")


def _meat(scores: Floats, groups: Labels) -> Floats:
    group, names = coded(groups, len(scores), "groups")
    if len(names) < 2:
        raise ValueError("a clustered covariance needs two groups")
    sums = np.zeros((len(names), scores.shape[1]))
    np.add.at(sums, group, scores)
    return sums.T @ sums * len(names) / (len(names) - 1)
