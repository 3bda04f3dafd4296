"""What each metric is the average of, so that two runs are compared in the metric's own unit.

A benchmark's ``summarize`` makes its numbers; the table here says which stored scores each of them is made of. It is
not trusted: a metric is tested only where the stored scores give the stored value (``Composed.score``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from benchmarks.types import BenchError, RunRecord, Score
from reports.statistics.estimate import Codes, Estimate, Floats
from reports.statistics.means import shares, spread
from reports.statistics.paired import paired_difference, sign_flip
from reports.statistics.scores import all_right, pair_marks

if TYPE_CHECKING:
    from numpy.typing import NDArray

Mask: TypeAlias = "NDArray[np.bool_]"
Names: TypeAlias = "NDArray[np.str_]"
#: What one value stands for: a sample; the samples of a group, by their mean; MME's image, by its marks; MMBench's
#: question, right if all its rotations are.
Unit = Literal["sample", "group mean", "image marks", "all right"]
#: How the metrics of all samples are made of their strata; a part is always the mean of its own units.
Average = Literal["mean", "mean of strata", "weighted strata", "sum of strata"]


@dataclass(frozen=True)
class Rule:
    """Of one benchmark: ``whole`` are the metrics of all samples, ``part`` is how that of one stratum is called.

    ``full_marks`` is what a mean gives for all right; ``weights`` are those of the strata, by profile. All are better
    higher.
    """

    whole: tuple[str, ...]
    part: str = "{whole}.{stratum}"
    unit: Unit = "sample"
    full_marks: float = 1.0
    average: Average = "mean"
    weights: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


#: Prompts per category, of a thousand, in the Calculate scripts of WISE and WISE-Verified.
_WISE_LEGACY = {"culture": 400, "time": 167, "space": 133, "biology": 100, "physics": 100, "chemistry": 100}
_WISE_VERIFIED = {"culture": 400, "time": 120, "space": 120, "biology": 120, "physics": 120, "chemistry": 120}

#: ``summarize`` of benchmarks/NAME.py is what these lines describe. mjhq has none: one image has no FID.
RULES: Mapping[str, Rule] = {
    "geneval": Rule(("overall",), part="{stratum}", average="mean of strata"),
    "dpg": Rule(("overall",), unit="group mean", full_marks=100.0),
    "wise": Rule(
        ("wiscore",),
        average="weighted strata",
        weights={"wise-legacy": _WISE_LEGACY, "wise-verified": _WISE_VERIFIED, "wise-own": _WISE_VERIFIED},
    ),
    "vqav2": Rule(("exact_match",)),
    "mmbench": Rule(("gpt_eval_score",), unit="all right", full_marks=100.0),
    "seedbench": Rule(("seed_all",), part="seed_{stratum}"),
    "mmvet": Rule(("gpt_eval_score",), full_marks=100.0),
    "mme": Rule(
        ("mme_perception_score", "mme_cognition_score"),
        unit="image marks",
        full_marks=200.0,
        average="sum of strata",
    ),
    "mmmu": Rule(("mmmu_acc",)),
    "realworldqa": Rule(("exact_match",)),
    "textvqa": Rule(("exact_match",)),
}


@dataclass(frozen=True)
class Items:
    """One benchmark's samples in two runs: scores (NaN where not scored), and the numbers of group and stratum."""

    ids: list[str]
    first: Floats
    second: Floats
    group: Codes
    stratum: Codes
    strata: list[str]
    parts: Mapping[str, Part] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """The values that a metric of several per sample averages (``Score.parts``): of the samples at ``at`` their mean
    in two runs (NaN where not scored) and their number."""

    at: Codes
    first: Floats
    second: Floats
    number: Codes


def pair(first: Sequence[Score], second: Sequence[Score]) -> Items:
    """Pairs by sample id, in the order of the first run; a sample that one run lacks is not scored there.

    Raises BenchError when the runs put a sample into different groups or strata.
    """
    own, other = ({score.id: score for score in scores} for scores in (first, second))
    for id_, score in other.items():
        if id_ in own and (own[id_].group, own[id_].stratum) != (score.group, score.stratum):
            raise BenchError(f"{id_} has another group or stratum in the second run: the runs asked different things")
    rows = [*own.values(), *(score for id_, score in other.items() if id_ not in own)]
    group, _ = _numbered([row.group for row in rows])
    stratum, strata = _numbered([row.stratum for row in rows])
    ids = [row.id for row in rows]
    parts = {name: _part(name, own, other, ids) for name in dict.fromkeys(name for row in rows for name in row.parts)}
    return Items(ids, _values(own, ids), _values(other, ids), group, stratum, strata, parts)


def _part(name: str, own: Mapping[str, Score], other: Mapping[str, Score], ids: Sequence[str]) -> Part:
    """A sample that has not as many values in both runs is scored in neither."""
    rows = []
    for at, id_ in enumerate(ids):
        first, second = (scores[id_].parts.get(name) if id_ in scores else None for scores in (own, other))
        if some := first or second:
            unlike = first and second and first[1] != second[1]
            means = [np.nan if part is None or unlike else part[0] / part[1] for part in (first, second)]
            rows.append((at, *means, some[1]))
    at_, before, after, number = zip(*rows, strict=True)
    return Part(np.array(at_), np.array(before), np.array(after), np.array(number, dtype=np.intp))


def _numbered(names: Sequence[str]) -> tuple[Codes, list[str]]:
    numbers: dict[str, int] = {}
    codes = np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.intp)
    return codes, list(numbers)


def _values(scores: Mapping[str, Score], ids: Sequence[str]) -> Floats:
    found = (scores.get(id_) for id_ in ids)
    return np.array([np.nan if score is None or score.value is None else score.value for score in found])


@dataclass(frozen=True)
class Difference:
    """Second minus first in the metric's unit, over the ``n`` samples whose units both runs have; ``missing`` are the
    others. ``p`` is two-sided."""

    estimate: Estimate
    p: float
    test: str
    n: int
    missing: int


@dataclass(frozen=True)
class Composed:
    """The units that a metric is the average of, in two runs, NaN where not scored.

    ``samples`` is how many each unit has. With ``stratum`` the average is that of the strata's means, with
    ``weights`` if given, and then no stratum may lack. ``full_marks`` is what the metric gives for all 1.
    """

    first: Floats
    second: Floats
    group: Codes
    samples: Codes
    full_marks: float
    stratum: Names | None = None
    weights: Mapping[str, float] | None = None

    @cached_property
    def paired(self) -> Composed | None:
        """The units that both runs have; None where none is left, or a stratum that has a weight."""
        return self._where(~np.isnan(self.first) & ~np.isnan(self.second))

    def score(self, run: Literal["first", "second"]) -> float | None:
        """The metric of one run, by its own units; None where they give none."""
        values = self.first if run == "first" else self.second
        scored = self._where(~np.isnan(values))
        if scored is None:
            return None
        return self.full_marks * spread(values[~np.isnan(values)], scored.group, scored.stratum, scored.weights).mean

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The least and greatest difference possible; not known where a score is above 1, as WISE's judge may give."""
        return None if np.nanmax([self.first, self.second], initial=0) > 1 else (-1.0, 1.0)

    @cached_property
    def standard_error(self) -> float | None:
        """Of second minus first over the pairs, as a share of full marks; None where they give none, or no spread."""
        pairs = self.paired
        if pairs is None:
            return None
        return spread(pairs.second - pairs.first, pairs.group, pairs.stratum, pairs.weights).se or None

    def difference(self, confidence: float = 0.95) -> Difference | None:
        """None where the runs have no pair, or none of a stratum that has a weight."""
        pairs = self.paired
        if pairs is None:
            return None
        found = paired_difference(
            pairs.second, pairs.first, pairs.group, pairs.stratum, pairs.weights, confidence, pairs.bounds
        )
        p, test = found.p, str(found.test)
        if p is None:
            # No standard error (all differences are equal, or a stratum has one group only), but groups have signs.
            flipped = sign_flip(np.bincount(pairs.group, weights=(pairs.second - pairs.first) * pairs._shares))
            p, test = flipped.p, "sign-flip by group"
        n = int(pairs.samples.sum())
        return Difference(found.difference.scaled(self.full_marks), p, test, n, int(self.samples.sum()) - n)

    @property
    def _shares(self) -> Floats:
        """What each unit counts in the average."""
        stratum = np.full(len(self.group), "") if self.stratum is None else self.stratum
        names, code = np.unique(stratum, return_inverse=True)
        result: Floats = (shares(names.tolist(), self.weights) / np.bincount(code))[code]
        return result

    def _where(self, kept: Mask) -> Composed | None:
        stratum = None if self.stratum is None else self.stratum[kept]
        present = set() if stratum is None else set(np.unique(stratum).tolist())
        if not kept.any() or (self.weights is not None and present != set(self.weights)):
            return None
        return replace(_of(self, kept, self.full_marks), stratum=stratum, weights=self.weights)


def compose(record: RunRecord, items: Items) -> dict[str, Composed]:
    """Those of the record's metrics that are made of scores, by name; ``items`` are the record's benchmark's."""
    rule = RULES.get(record.benchmark)
    if rule is None or not items.ids:
        return {}
    units, stratum = _units(rule.unit, items)
    names = {metric.name for metric in record.metrics}
    composed: dict[str, Composed] = {}
    for whole in rule.whole:
        own = {
            name: strata
            for part, strata in _parts(items.strata).items()
            if (name := rule.part.format(whole=whole, stratum=part)) in names
        }
        composed |= {name: _of(units, np.isin(stratum, strata), rule.full_marks) for name, strata in own.items()}
        if whole in names:
            # Of several wholes (MME's) each has the strata that the record lists under it.
            listed = [code for strata in own.values() for code in strata]
            within = np.isin(stratum, listed) if len(rule.whole) > 1 else np.ones(len(stratum), dtype=bool)
            composed[whole] = _whole(rule, record.profile, units, stratum, within, items.strata)
    return composed | {name: _single(part, items, rule) for name, part in items.parts.items() if name in names}


def _single(part: Part, items: Items, rule: Rule) -> Composed:
    """Each of a sample's values as a unit. Their mean stands for them: what they add up to in a group is the same."""
    starts = np.cumsum(part.number) - part.number
    samples = np.zeros(part.number.sum(), dtype=np.intp)
    samples[starts] = 1
    first, second = (np.repeat(values, part.number) for values in (part.first, part.second))
    return Composed(first, second, np.repeat(items.group[part.at], part.number), samples, rule.full_marks)


def _units(unit: Unit, items: Items) -> tuple[Composed, Codes]:
    """All units, unstratified and out of 1, and the stratum of each."""
    if unit == "sample":
        once = np.ones(len(items.ids), dtype=np.intp)
        return Composed(items.first, items.second, items.group, once, 1.0), items.stratum
    sizes = np.bincount(items.group)
    stratum = np.zeros(len(sizes), dtype=np.intp)
    stratum[items.group] = items.stratum
    first, second = (_by_group(unit, values, items.group) for values in (items.first, items.second))
    return Composed(first, second, np.arange(len(sizes)), sizes, 1.0), stratum


def _by_group(unit: Unit, values: Floats, group: Codes) -> Floats:
    if unit == "image marks":
        return pair_marks(values, group)[0] / 200
    if unit == "all right":
        return all_right(values, group)[0]
    scored = ~np.isnan(values)
    sums = np.bincount(group[scored], values[scored], minlength=group.max() + 1)
    counts = np.bincount(group[scored], minlength=len(sums))
    means: Floats = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    return means


def _parts(strata: Sequence[str]) -> dict[str, list[int]]:
    """The strata of each part: its own, and for MM-Vet, whose strata list capabilities ("ocr,math"), all that have
    it."""
    parts: dict[str, list[int]] = {}
    for code, stratum in enumerate(strata):
        for part in stratum.split(","):
            parts.setdefault(part, []).append(code)
    return parts


def _of(units: Composed, kept: Mask, full_marks: float) -> Composed:
    return Composed(units.first[kept], units.second[kept], units.group[kept], units.samples[kept], full_marks)


def _whole(rule: Rule, profile: str, units: Composed, stratum: Codes, kept: Mask, strata: Sequence[str]) -> Composed:
    plain = _of(units, kept, rule.full_marks)
    if rule.average == "mean":
        return plain
    names = np.array(strata)[stratum[kept]]
    stratified = replace(plain, stratum=names)
    if rule.average == "sum of strata":
        weights = dict.fromkeys(names.tolist(), 1.0)
        return replace(stratified, weights=weights, full_marks=rule.full_marks * len(weights))
    if rule.average == "weighted strata" and profile in rule.weights:
        # The weight of a category without a sample, which no unit fills, leaves the metric without a value.
        return replace(stratified, weights=rule.weights[profile])
    return stratified
