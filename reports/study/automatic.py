"""Do people prefer the images that benchmarks score higher? Votes beside the stored scores of the same prompts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.store import read_records, read_scores
from benchmarks.types import BenchError, RunRecord, Score
from reports.statistics.bootstrap import cluster_bootstrap
from reports.statistics.estimate import Estimate, Floats
from reports.statistics.paired import PairedResult, paired_difference
from reports.statistics.proportions import binomial_p, proportion_interval
from reports.study.votes import net_margin

if TYPE_CHECKING:
    import pandas as pd

RESAMPLES = 2_000
#: Benchmarks of drawing: the only ones whose prompts annotators may have under bare ids such as 00017.
DRAWING = ("geneval", "dpg", "wise", "mjhq")


@dataclass(frozen=True)
class AutomaticScores:
    """The scores of a benchmark, by model and prompt; ``values[model]`` has several names of each prompt."""

    benchmark: str
    profile: str
    values: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Automatic:
    """Human preference and automatic scores of the ``prompts`` that have both; first model minus second.

    ``correlation`` is Pearson's over prompts, of the net margin with the difference of scores; ``rank_correlation`` is
    Spearman's. ``same_side`` is the share, of the ``sided`` prompts that either favours, on which both favour the same
    model, with Wilson's interval and the exact test against 1/2.
    """

    benchmark: str
    profile: str
    prompts: int
    unmatched: int
    human: Estimate
    difference: PairedResult
    correlation: Estimate | None
    rank_correlation: float | None
    sided: int
    same_side: Estimate | None
    same_side_p: float | None
    note: str


def read_runs(runs: Mapping[str, Path]) -> list[AutomaticScores]:
    """The scores by prompt of complete runs, given by the models' names in the judgments.

    Raises BenchError when a run is not complete, or one benchmark was scored in unlike ways.
    """
    records = {model: {record.benchmark: record for record in read_records(run)} for model, run in runs.items()}
    names = dict.fromkeys(name for of_model in records.values() for name in of_model)
    scores = []
    for name in names:
        models = [model for model in runs if name in records[model]]
        profiles = {model: records[model][name] for model in models}
        _check_alike(runs, profiles)
        values = {model: _by_prompt(name, read_scores(runs[model] / name)) for model in models}
        scores.append(AutomaticScores(name, profiles[models[0]].profile, values))
    return scores


def _check_alike(runs: Mapping[str, Path], records: Mapping[str, RunRecord]) -> None:
    (first, expected), *others = records.items()
    for model, record in others:
        for field in ("suite", "version", "profile", "judge"):
            if getattr(record, field) != getattr(expected, field):
                raise BenchError(
                    f"{runs[first]} and {runs[model]} do not compare: the {field} of {record.benchmark} differs"
                )


def _by_prompt(benchmark: str, scores: Sequence[Score]) -> dict[str, float]:
    """The mean score of a prompt's images by the prompt's group, and each image's by its id, with and for benchmarks
    of drawing also without the benchmark's name in front: geneval/00017, 00017, geneval/00017/2, 00017/2."""
    values = defaultdict(list)
    for score in scores:
        if score.value is not None:
            for name in {score.id, score.group}:
                values[name].append(score.value)
    means = {name: float(np.mean(of_name)) for name, of_name in values.items()}
    if benchmark not in DRAWING:
        return means
    return {name.removeprefix(f"{benchmark}/"): mean for name, mean in means.items()} | means


def check_matched(prompts: Sequence[str], scores: Sequence[AutomaticScores]) -> None:
    """Raises BenchError when no prompt of the judgments has a score, or bare ids fit several benchmarks."""
    known = [name for one in scores for of_model in one.values.values() for name in of_model]
    fitting = [
        one.benchmark
        for one in scores
        if any(prompt in of_model for of_model in one.values.values() for prompt in prompts if "/" not in prompt)
    ]
    if len(fitting) > 1:
        raise BenchError(
            f"prompts of the judgments (such as {prompts[0]}) have the ids of {' and '.join(fitting)}: "
            f"write them as {fitting[0]}/ID, or give runs of one benchmark"
        )
    if known and not set(known) & set(prompts):
        raise BenchError(
            f"no prompt of the judgments (such as {prompts[0]}) has a score in the runs (such as {known[0]}): "
            "prompt_id must be the id or the group of a sample"
        )


def against_automatic(votes: pd.DataFrame, scores: AutomaticScores) -> Automatic | None:
    """The votes on two models that have scores beside them; None where no prompt has both."""
    first, second = votes["first"].iloc[0], votes["second"].iloc[0]
    one, other = scores.values.get(first, {}), scores.values.get(second, {})
    matched = votes[votes["prompt"].isin(one.keys() & other.keys())]
    unmatched = votes["prompt"].nunique() - matched["prompt"].nunique()
    if not len(matched):
        return None
    margins = matched.groupby("prompt")["vote"].mean()
    ours, theirs = ([of_model[name] for name in margins.index] for of_model in (one, other))
    x, y = margins.to_numpy(), np.subtract(ours, theirs)
    correlation, rank_correlation, note = _correlations(x, y)
    product = np.sign(x * y)
    sided, same = int(np.count_nonzero(product)), int(np.count_nonzero(product > 0))
    return Automatic(
        scores.benchmark,
        scores.profile,
        len(x),
        unmatched,
        net_margin(matched),
        paired_difference(ours, theirs, range(len(x))),
        correlation,
        rank_correlation,
        sided,
        Estimate(same / sided, *proportion_interval(same, sided)) if sided else None,
        binomial_p(same, sided) if sided else None,
        note,
    )


def _correlations(x: Floats, y: Floats) -> tuple[Estimate | None, float | None, str]:
    from scipy import stats

    if len(x) < 3 or not np.ptp(x) or not np.ptp(y):
        return None, None, "no correlation: too few prompts, or one side does not differ between them"
    rank = float(stats.spearmanr(x, y).statistic)
    columns = np.stack([x, y, x * x, y * y, x * y, np.ones_like(x)], axis=1)
    try:
        return cluster_bootstrap(_pearson, columns, range(len(x)), resamples=RESAMPLES), rank, ""
    except ValueError:  # some resample has no spread
        value = float(_pearson(columns.sum(axis=0)))
        return Estimate(value, None, None, "too few prompts for an interval"), rank, ""


def _pearson(sums: Floats) -> Floats:
    x, y, xx, yy, xy = (sums[..., column] / sums[..., 5] for column in range(5))
    spread = np.maximum((xx - x * x) * (yy - y * y), 0)
    return np.divide(xy - x * y, np.sqrt(spread), out=np.full_like(x, np.nan), where=spread > 1e-18)
