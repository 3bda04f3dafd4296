"""What every analysis asks of votes: rows that ``clean`` gives, of one criterion and without skips."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reports.statistics.estimate import Estimate, z_p, z_two_sided
from reports.statistics.means import clustered_mean
from reports.statistics.ratings import Ratings, fit_ratings

if TYPE_CHECKING:
    import pandas as pd

#: Of every test and interval of a study.
ALPHA = 0.05


@dataclass(frozen=True)
class Counts:
    """Votes for the first of two models, for the second, and ties."""

    wins: int
    losses: int
    ties: int

    @property
    def total(self) -> int:
        return self.wins + self.losses + self.ties


def count(votes: pd.DataFrame) -> Counts:
    vote = votes["vote"].to_numpy()
    wins, losses, ties = (int(np.count_nonzero(vote == value)) for value in (1, -1, 0))
    return Counts(wins, losses, ties)


def net_margin(votes: pd.DataFrame) -> Estimate:
    """(wins - losses) / votes of the first model, with its interval clustered by prompt."""
    return clustered_mean(votes["vote"].to_numpy(), votes["cluster"].to_numpy(), bounds=(-1, 1))


def prompt_sums(votes: pd.DataFrame) -> pd.Series:
    """Wins less losses by prompt."""
    return votes.groupby("cluster", sort=False)["vote"].sum()


def fit(votes: pd.DataFrame, order_effect: bool = False) -> tuple[Ratings | None, str]:
    """Davidson's model of votes on any number of models, with the sandwich by prompt; or None, and why there is none.

    With ``order_effect`` the first side of each vote is the one shown on the left, else the order of names.
    """
    vote = votes["vote"].to_numpy()
    if not bool(vote.any()):
        return None, "every vote is a tie"
    first, second = votes["first"].to_numpy(dtype=str), votes["second"].to_numpy(dtype=str)
    if order_effect:
        left = votes["first_left"].to_numpy(dtype=bool)
        vote = np.where(left, vote, -vote)
        first, second = np.where(left, first, second), np.where(left, second, first)
    prompts = votes["cluster"].to_numpy()
    try:
        return fit_ratings(
            first, second, vote == 1, vote == -1, vote == 0, order_effect=order_effect, groups=prompts
        ), ""
    except ValueError as error:
        return None, str(error)


def log_estimate(value: float, variance: float) -> Estimate:
    """A log worth, or a difference of two, with its normal interval."""
    if variance < 1e-12:  # the clustered variance is 0 where every prompt says the same, or nothing
        return Estimate(value, None, None, "the prompts do not differ: no interval")
    half = z_two_sided(1 - ALPHA) * math.sqrt(variance)
    return Estimate(value, value - half, value + half)


def contrast(ratings: Ratings, first: str, second: str) -> tuple[Estimate, float | None]:
    """Log of the ratio of two worths, and its two-sided p-value."""
    one, other = ratings.names.index(first), ratings.names.index(second)
    cov = ratings.covariance
    variance = float(cov[one, one] + cov[other, other] - 2 * cov[one, other])
    found = log_estimate(ratings.log_worth[one] - ratings.log_worth[other], variance)
    return found, None if found.low is None else z_p(found.value / math.sqrt(variance))
