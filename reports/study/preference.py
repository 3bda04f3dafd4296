"""Which of two models is preferred, by how much, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reports.statistics.estimate import Estimate
from reports.statistics.means import clustered_mean, intraclass_correlation, standard_error, t_test
from reports.statistics.paired import SignFlip, sign_flip
from reports.statistics.power import minimal_detectable_effect
from reports.statistics.preference import SignTest, half_win_p, sign_test
from reports.statistics.proportions import proportion_interval
from reports.statistics.sequential import always_valid_p, log_e_value, win_rate_sequence
from reports.study.automatic import Automatic, AutomaticScores, against_automatic
from reports.study.robustness import AnnotatorEffects, Rounds, Variant, annotator_effects, rounds, variants
from reports.study.votes import ALPHA, Counts, contrast, count, fit, net_margin, prompt_sums

if TYPE_CHECKING:
    import pandas as pd

#: Patterns of signs that are drawn where prompts are too many to try all: p is 1 / 100,000 at least.
FLIPS = 99_999


@dataclass(frozen=True)
class PaperStyle:
    """What papers print: ties dropped, judgments taken as independent. ``win_rate`` has Wilson's interval."""

    test: SignTest
    win_rate: Estimate | None


@dataclass(frozen=True)
class Ties:
    """The result under three treatments of ties. Intervals and Davidson's p are clustered by prompt; the p-values of
    dropped ties and of ties as half wins take judgments as independent.

    The headline's permutation is the same whether ties are dropped or halved: a tie adds nothing to its prompt's sum.
    """

    rate: float
    dropped: Estimate | None  # share of decisive judgments that the first wins
    dropped_p: float
    half: Estimate  # the same of all judgments, a tie as half a win
    half_p: float
    davidson: Estimate | None  # log of the ratio of worths
    davidson_p: float | None
    nu: float | None
    side_adjusted: Estimate | None  # Davidson's, with a parameter for standing on the left
    note: str


@dataclass(frozen=True)
class Precision:
    """How far the judgments of a prompt depend on each other, and what the study could find."""

    standard_error: float | None
    design_effect: float | None  # variance by prompt over that of independent judgments
    intraclass_correlation: float | None
    detectable: float | None  # net margin that so many judgments like these find with power 0.8; None: not even 1
    note: str = ""


@dataclass(frozen=True)
class Sequential:
    """Valid however often one looks and whenever one stops: the prompts that favour a model, in the order in which
    they got their last judgments. The e-value first reached 1 / ALPHA after ``stopped_after`` of them, or never."""

    leads: int
    trails: int
    level: int
    log_e_value: float
    p: float
    lead_rate: Estimate | None  # anytime-valid interval
    stopped_after: int | None


@dataclass(frozen=True)
class Comparison:
    """Two models under one criterion. Margins are (wins - losses) / judgments of ``first``, in [-1, 1].

    The headline is ``margin``, with its interval clustered by prompt, and ``permutation``, which flips the signs of
    whole prompts; ``p_holm`` is its p corrected for all comparisons of the study.
    """

    criterion: str
    first: str
    second: str
    counts: Counts
    prompts: int
    margin: Estimate
    permutation: SignFlip
    p_holm: float
    clustered_t_p: float | None
    paper_style: PaperStyle
    ties: Ties
    precision: Precision
    variants: tuple[Variant, ...]
    annotators: AnnotatorEffects
    rounds: Rounds
    sequential: Sequential
    automatic: tuple[Automatic, ...]
    notes: tuple[str, ...]


def permutation(votes: pd.DataFrame, seed: int) -> SignFlip:
    """The headline's test."""
    return sign_flip(prompt_sums(votes).to_numpy(), resamples=FLIPS, seed=seed)


def compare(
    votes: pd.DataFrame,
    test: SignFlip,
    p_holm: float,
    distrusted: Sequence[str],
    trusted_from: float | None,
    scores: Sequence[AutomaticScores],
) -> Comparison:
    """Everything about the votes on two models under one criterion. Others than ``votes`` as in ``analyse``."""
    counts, prompts = count(votes), votes["cluster"].nunique()
    first, second = votes["first"].iloc[0], votes["second"].iloc[0]
    return Comparison(
        criterion=votes["criterion"].iloc[0],
        first=first,
        second=second,
        counts=counts,
        prompts=prompts,
        margin=net_margin(votes),
        permutation=test,
        p_holm=p_holm,
        clustered_t_p=t_test(votes["vote"].to_numpy(), votes["cluster"].to_numpy()).p if prompts > 1 else None,
        paper_style=_paper_style(counts),
        ties=_ties(votes, counts),
        precision=_precision(votes),
        variants=variants(votes, distrusted, trusted_from),
        annotators=annotator_effects(votes),
        rounds=rounds(votes),
        sequential=_sequential(votes),
        automatic=tuple(filter(None, (against_automatic(votes, one) for one in scores))),
        notes=_notes(votes, counts, test),
    )


def _notes(votes: pd.DataFrame, counts: Counts, test: SignFlip) -> tuple[str, ...]:
    if counts.wins + counts.losses == 0:
        return ("every judgment is a tie",)
    favouring = int(np.count_nonzero(prompt_sums(votes)))
    least = 2.0 ** (1 - favouring)
    if favouring and test.exact and least > ALPHA:
        favour = "1 prompt that favours" if favouring == 1 else f"{favouring} prompts that favour"
        return (f"with {favour} a side, p is {least:g} at least, whatever they say",)
    return ()


def _paper_style(counts: Counts) -> PaperStyle:
    decisive = counts.wins + counts.losses
    rate = Estimate(counts.wins / decisive, *proportion_interval(counts.wins, decisive)) if decisive else None
    return PaperStyle(sign_test(counts.wins, counts.losses), rate)


def _ties(votes: pd.DataFrame, counts: Counts) -> Ties:
    decisive = votes[votes["vote"] != 0]
    names = votes["first"].iloc[0], votes["second"].iloc[0]
    plain, note = fit(votes)
    by_side, side_note = fit(votes, order_effect=True) if plain is not None else (None, "")
    davidson, davidson_p = (None, None) if plain is None else contrast(plain, *names)
    return Ties(
        rate=counts.ties / counts.total,
        dropped=_win_rate(decisive) if len(decisive) else None,
        dropped_p=sign_test(counts.wins, counts.losses).p,
        half=_win_rate(votes),
        half_p=half_win_p(counts.wins, counts.losses, counts.ties),
        davidson=davidson,
        davidson_p=davidson_p,
        nu=None if plain is None else plain.tie,
        side_adjusted=None if by_side is None else contrast(by_side, *names)[0],
        note=note or (side_note and f"not adjusted for the side: {side_note}"),
    )


def _win_rate(votes: pd.DataFrame) -> Estimate:
    return clustered_mean((votes["vote"].to_numpy() + 1) / 2, votes["cluster"].to_numpy(), bounds=(0, 1))


def _precision(votes: pd.DataFrame) -> Precision:
    vote, prompt = votes["vote"].to_numpy(), votes["cluster"].to_numpy()
    if len(set(prompt)) < 2:
        return Precision(None, None, None, None, "one prompt only: nothing tells how far prompts differ")
    error, independent = standard_error(vote, prompt), standard_error(vote)
    if error == 0 or independent == 0:
        return Precision(None, None, None, None, "prompts do not differ")
    try:
        correlation, note = intraclass_correlation(vote, prompt), ""
    except ValueError as reason:
        correlation, note = None, str(reason)
    effect, detectable = (error / independent) ** 2, minimal_detectable_effect(error)
    if detectable <= 1:
        return Precision(error, effect, correlation, detectable, note)
    reasons = filter(None, [note, "too few prompts to find any margin with power 0.8"])
    return Precision(error, effect, correlation, None, "; ".join(reasons))


def _sequential(votes: pd.DataFrame) -> Sequential:
    finished = votes["cluster"][~votes["cluster"].duplicated(keep="last")]
    sums = prompt_sums(votes).loc[finished].to_numpy()
    outcomes = (sums[sums != 0] > 0).astype(float)
    leads, favouring = int(outcomes.sum()), len(outcomes)
    if not favouring:
        return Sequential(0, 0, len(sums), 0.0, 1.0, None, None)
    p = always_valid_p(outcomes)
    return Sequential(
        leads=leads,
        trails=favouring - leads,
        level=len(sums) - favouring,
        log_e_value=log_e_value(leads, favouring - leads),
        p=p[-1],
        lead_rate=win_rate_sequence(leads, favouring - leads),
        stopped_after=next((number for number, value in enumerate(p, start=1) if value <= ALPHA), None),
    )
