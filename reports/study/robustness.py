"""What a net margin hangs on: the analysis, single annotators, the round."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from reports.statistics import preference
from reports.statistics.annotators import dawid_skene
from reports.statistics.estimate import Estimate, t_quantile
from reports.statistics.means import clustered_mean, standard_error, two_way_standard_error
from reports.statistics.paired import PairedResult, paired_difference
from reports.statistics.tables import ChiSquared, homogeneity
from reports.study.judgments import natural
from reports.study.votes import ALPHA, Counts, count, net_margin, prompt_sums

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Variant:
    """The net margin in another analysis than the headline's; None, with the reason in ``note``, where it has none."""

    name: str
    margin: Estimate | None
    note: str = ""


@dataclass(frozen=True)
class AnnotatorMargin:
    """One annotator's net margin, and that of all others together (None when there is no other)."""

    annotator: str
    judgments: int
    margin: Estimate
    without: Estimate | None


@dataclass(frozen=True)
class AnnotatorEffects:
    """``alike`` tests whether annotators have the same shares of wins, ties and losses."""

    margins: tuple[AnnotatorMargin, ...]
    alike: ChiSquared | None
    note: str = ""


@dataclass(frozen=True)
class RoundMargin:
    """One round's votes."""

    round: str
    counts: Counts
    margin: Estimate


@dataclass(frozen=True)
class Rounds:
    """``alike`` tests whether rounds have the same shares of wins, ties and losses, and takes judgments as independent;
    ``difference``, of two rounds, compares each prompt with itself (first round minus second)."""

    margins: tuple[RoundMargin, ...]
    alike: ChiSquared | None
    difference: PairedResult | None
    note: str = ""


def variants(votes: pd.DataFrame, distrusted: Sequence[str], trusted_from: float | None) -> tuple[Variant, ...]:
    """The margin under other assumptions than the headline's.

    ``distrusted`` are the annotators who gave the known answer to a share of gold pairs below ``trusted_from``.
    """
    counts = count(votes)
    majority = np.sign(prompt_sums(votes).to_numpy())
    found = [
        _independent(counts),
        Variant("majority of each prompt", clustered_mean(majority, range(len(majority)), bounds=(-1, 1))),
        _two_way(votes),
        _dawid_skene(votes),
    ]
    if trusted_from is not None:
        trusted = votes[~votes["annotator"].isin(distrusted)]
        name = f"only annotators with {trusted_from:.0%} of gold"
        found.append(Variant(name, net_margin(trusted)) if len(trusted) else Variant(name, None, "nobody is left"))
    return tuple(found)


def _independent(counts: Counts) -> Variant:
    margin = preference.net_margin(counts.wins, counts.losses, counts.ties)
    if margin.low is not None and margin.high is not None:  # Wald's limits of few votes leave the scale
        margin = replace(margin, low=max(-1.0, margin.low), high=min(1.0, margin.high))
    return Variant("judgments taken as independent", margin)


def _two_way(votes: pd.DataFrame) -> Variant:
    """For a conclusion about other annotators too: the largest of the standard errors by prompt, by annotator and by
    both, with t of the fewer of them less one (Cameron, Gelbach & Miller 2011, J. Bus. Econ. Stat. 29:238)."""
    name = "annotators are a sample too"
    vote, prompt, annotator = votes["vote"].to_numpy(), votes["cluster"].to_numpy(), _annotators(votes)
    fewer = min(len(set(prompt)), len(set(annotator)))
    if fewer < 2:
        return Variant(name, None, "needs two prompts and two annotators")
    errors = [standard_error(vote, prompt), standard_error(vote, annotator)]
    with suppress(ValueError):  # where it is not positive, it is not the largest
        errors.append(two_way_standard_error(vote, prompt, annotator))
    margin, half = float(vote.mean()), t_quantile(1 - ALPHA / 2, fewer - 1) * max(errors)
    if half == 0:
        return Variant(name, Estimate(margin, None, None, "no spread to make an interval from"))
    note = f"rough: only {fewer} annotators or prompts" if fewer < 10 else ""
    return Variant(name, Estimate(margin, max(-1.0, margin - half), min(1.0, margin + half), note))


def _dawid_skene(votes: pd.DataFrame) -> Variant:
    """The mean over pairs of images of P(first is better) - P(second is better), where annotators weigh by how well
    they predict each other.

    Every pair enters in both orders, so that no annotator's errors may favour a model: with the few votes that a pair
    has, a preference and annotators who lean that way are not told apart, and the margin may come out with either sign.
    There is no interval: the model takes votes on a pair as independent, and would be too sure of itself.
    """
    name = "Dawid-Skene"
    annotator, pair = _annotators(votes), votes.groupby(["prompt", "item"], sort=False).ngroup().to_numpy()
    pairs = int(pair.max()) + 1
    if len(set(annotator)) < 3 or pairs == len(pair):
        return Variant(name, None, "needs three annotators, and pairs that several of them judged")
    vote = votes["vote"].to_numpy()
    fit = dawid_skene(
        np.concatenate([pair, pair + pairs]),
        np.concatenate([annotator, annotator]),
        np.concatenate([vote, -vote]),
        iterations=100,
        tolerance=1e-3,
    )
    margin = float(np.mean(fit.posterior[:pairs] @ np.array(fit.classes)))
    note = "takes votes on a pair as independent"
    return Variant(name, Estimate(margin, None, None, note if fit.converged else f"{note}; had not converged"))


def annotator_effects(votes: pd.DataFrame) -> AnnotatorEffects:
    """Each annotator's margin, and the margin without them."""
    annotator = _annotators(votes)
    names = sorted(set(annotator), key=natural)
    if names == [""]:
        return AnnotatorEffects((), None, "the judgments do not say whose they are")
    parts = {name: votes[annotator == name] for name in names}
    margins = tuple(
        AnnotatorMargin(
            name, len(part), net_margin(part), net_margin(votes[annotator != name]) if len(names) > 1 else None
        )
        for name, part in parts.items()
    )
    if len(names) == 1:
        return AnnotatorEffects(margins, None, "one annotator only: nothing tells what others would say")
    return AnnotatorEffects(margins, *_alike([count(part) for part in parts.values()]))


def rounds(votes: pd.DataFrame) -> Rounds:
    """Each round's margin, and whether they differ."""
    names = sorted(set(votes["round"]), key=natural)
    parts = {name: votes[votes["round"] == name] for name in names}
    margins = tuple(RoundMargin(name, count(part), net_margin(part)) for name, part in parts.items())
    if len(parts) == 1:
        return Rounds(margins, None, None, "one round only")
    alike, note = _alike([one.counts for one in margins])
    if len(parts) > 2:
        return Rounds(margins, alike, None, note)
    one, other = (part.groupby("cluster")["vote"].mean() for part in parts.values())
    prompts = one.index.union(other.index)
    if not len(one.index.intersection(other.index)):
        return Rounds(margins, alike, None, "the rounds share no prompt")
    difference = paired_difference(one.reindex(prompts), other.reindex(prompts), prompts, bounds=(-2, 2))
    return Rounds(margins, alike, difference, note)


def _annotators(votes: pd.DataFrame) -> np.ndarray[tuple[int], np.dtype[np.str_]]:
    names: np.ndarray[tuple[int], np.dtype[np.str_]] = votes["annotator"].to_numpy(dtype=str)
    return names


def _alike(rows: Sequence[Counts]) -> tuple[ChiSquared | None, str]:
    try:
        return homogeneity([[row.wins, row.ties, row.losses] for row in rows]).test, ""
    except ValueError:
        return None, "all votes are the same"
