"""Whether a new run got worse than a baseline, as a policy says: pass, fail, or cannot tell.

Errors are controlled in both directions. A metric fails only on a significant loss, with Holm's correction over all
tested metrics, so that two runs of equally good models fail with probability alpha at most. A metric passes only on
evidence, and the gate only if all pass, which needs no correction: whichever metric is in truth worse by its margin,
the chance that the gate passes is at most alpha (intersection-union test: Berger 1982, Technometrics 24:295). What is
neither cannot be told from so few samples.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Literal, get_args

from benchmarks.store import read_records, read_scores
from benchmarks.types import BenchError, Metric, RunRecord
from reports.compare import NO_SCORES, obstacle, p_value, signed, unlike
from reports.composition import Composed, compose, pair
from reports.runs import headline
from reports.statistics import holm, minimal_detectable_effect, needed_n
from reports.tables import Table, as_text, number, suite_notes

RuleName = Literal["non-inferiority", "no-significant-loss", "absolute-floor", "none"]
Verdict = Literal["pass", "fail", "cannot tell"]
EXIT_CODES: Mapping[Verdict, int] = {"pass": 0, "fail": 1, "cannot tell": 2}
#: Of the minimal detectable effect and the number of samples needed.
POWER = 0.8


@dataclass(frozen=True)
class Gate:
    """What is asked of one metric.

    ``margin`` and ``max_missing`` are shares: of full marks (0.02 is 2 of MMBench's 100 and 40 of MME perception's
    2000), and of the samples asked for. ``floor`` is in the metric's own unit, a ceiling where lower is better.

    non-inferiority passes where the lower one-sided 1 - alpha limit of new minus old lies above -margin.
    no-significant-loss passes there too, and where no loss is significant though one of ``margin`` would have been
    found with a power of 80 %. Both fail on a significant loss, the first only where it may reach the margin.
    absolute-floor passes where the new run's stored 95 % interval keeps to the floor, and fails where all of it lies
    beyond. none is not judged.
    """

    rule: RuleName = "non-inferiority"
    margin: float = 0.02
    alpha: float = 0.05
    max_missing: float = 0.01
    floor: float | None = None

    def __post_init__(self) -> None:
        if self.rule not in get_args(RuleName):
            raise BenchError(f"rule must be one of {', '.join(get_args(RuleName))}, not {self.rule!r}")
        if not (_is_number(self.margin) and 0 < self.margin < 1):
            raise BenchError(f"margin must be a share of full marks between 0 and 1, not {self.margin!r}")
        if not (_is_number(self.alpha) and 0 < self.alpha < 0.5):
            raise BenchError(f"alpha must lie between 0 and 0.5, not {self.alpha!r}")
        if not (_is_number(self.max_missing) and 0 <= self.max_missing < 1):
            raise BenchError(f"max_missing must be a share from 0 to below 1, not {self.max_missing!r}")
        if (self.floor is None) == (self.rule == "absolute-floor") or not _is_number(self.floor or 0):
            raise BenchError('rule = "absolute-floor" needs a number as floor, and no other rule has one')

    @property
    def is_test(self) -> bool:
        """Whether it compares two runs."""
        return self.rule in ("non-inferiority", "no-significant-loss")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True)
class Policy:
    """A gate for every metric: its own, else its benchmark's, else the default."""

    default: Gate = Gate()
    benchmarks: Mapping[str, Gate] = field(default_factory=dict)
    metrics: Mapping[str, Mapping[str, Gate]] = field(default_factory=dict)  # by benchmark and name

    def gate(self, benchmark: str, metric: str) -> Gate:
        own = self.metrics.get(benchmark, {}).get(metric)
        return own or self.benchmarks.get(benchmark, self.default)


def read_policy(path: Path) -> Policy:
    """``[defaults]``, ``[BENCHMARK]`` and ``[BENCHMARK."METRIC"]`` of a TOML file, each on top of the one before.

    Raises BenchError, naming the table, for anything else in it.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BenchError(f"cannot read the policy {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BenchError(f"{path} is not TOML: {error}") from error
    settings = {one.name for one in fields(Gate)}

    def on_top(of: Gate, table: object, name: str) -> Gate:
        if not isinstance(table, dict):
            raise BenchError(f"{path}: {name} must be a table, [{name}]")
        if unknown := [key for key in table if key not in settings]:
            raise BenchError(f"{path}: [{name}] has {unknown[0]!r}; known are {', '.join(sorted(settings))}")
        # A floor belongs to its rule: a table that names a rule begins without one.
        fresh = {"floor": None} if "rule" in table else {}
        try:
            return Gate(**{**asdict(of), **fresh, **table})
        except BenchError as error:
            raise BenchError(f"{path}: [{name}]: {error}") from error

    default = on_top(Gate(), content.pop("defaults", {}), "defaults")
    benchmarks: dict[str, Gate] = {}
    metrics: dict[str, dict[str, Gate]] = {}
    for benchmark, table in content.items():
        if not isinstance(table, dict):
            raise BenchError(f"{path}: {benchmark} must stand in a table such as [defaults]")
        own = {key: value for key, value in table.items() if not isinstance(value, dict)}
        benchmarks[benchmark] = on_top(default, own, benchmark)
        metrics[benchmark] = {
            metric: on_top(benchmarks[benchmark], inner, f'{benchmark}."{metric}"')
            for metric, inner in table.items()
            if isinstance(inner, dict)
        }
    return Policy(default, benchmarks, metrics)


@dataclass(frozen=True)
class Judged:
    """One metric, its verdict and why, in the metric's unit. What does not apply or is not known is None.

    ``difference`` is new minus old over the ``n`` samples that count in both; ``limit`` its lower one-sided 1 - alpha
    limit, or the worse end of the new run's interval where a floor decides. ``p`` is one-sided, for there being no
    loss, ``p_holm`` corrected for all tested metrics. ``detectable`` is the smallest margin that so many samples
    decide about with a power of 80 %, ``needed`` how many decide about the gate's.
    """

    benchmark: str
    metric: str
    gate: Gate
    verdict: Verdict = "cannot tell"
    reason: str = ""
    unit: str = "fraction"
    old: float | None = None
    new: float | None = None
    difference: float | None = None
    limit: float | None = None
    margin: float | None = None
    p: float | None = None
    p_holm: float | None = None
    detectable: float | None = None
    needed: int | None = None
    n: int = 0
    missing: int = 0


@dataclass(frozen=True)
class Case:
    """A metric to be judged: by a test of its units, or, without them, by what ``judged`` says already."""

    judged: Judged
    units: Composed | None = None


@dataclass(frozen=True)
class Gated:
    """Both runs by name, and the verdict over all metrics: fail if one fails, else cannot tell if one cannot, or if
    there is none."""

    new: str
    baseline: str
    metrics: tuple[Judged, ...]
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        found = {one.verdict for one in self.metrics}
        if "fail" in found:
            return "fail"
        return "pass" if found == {"pass"} else "cannot tell"

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.verdict]


def gate(new: Path, baseline: Path, policy: Policy | None = None) -> Gated:
    """Judge the headline metrics of every benchmark of the baseline and of the policy, and all that the policy names.

    The runs may differ in model and seed. Raises BenchError when one of them is not complete.
    """
    policy = policy or Policy()
    news, olds = ({record.benchmark: record for record in read_records(run)} for run in (new, baseline))
    cases: list[Case] = []
    for benchmark in dict.fromkeys([*olds, *policy.benchmarks]):
        cases += _cases(benchmark, new, baseline, news.get(benchmark), olds.get(benchmark), policy)
    notes = list(suite_notes(list(news.values())))
    for benchmark in news:
        if not any(case.judged.benchmark == benchmark for case in cases):
            known = benchmark in olds or benchmark in policy.benchmarks
            notes.append(f"{benchmark} is not judged: {'the policy says so' if known else 'the baseline lacks it'}")
    return Gated(str(new), str(baseline), tuple(judge(cases)), tuple(notes))


def _cases(
    benchmark: str, new: Path, baseline: Path, record: RunRecord | None, old: RunRecord | None, policy: Policy
) -> list[Case]:
    known = old or record
    heads = [metric.name for metric in headline(known)] if known else []
    # A benchmark that neither run has is one case, so that its absence is told.
    names = list(dict.fromkeys([*heads, *policy.metrics.get(benchmark, {})])) or [""]
    gates = {name: policy.gate(benchmark, name) for name in names}
    differing: list[str] = []
    composed: Mapping[str, Composed] = {}
    if record and old and any(one.is_test for one in gates.values()):
        differing = unlike([(old, record)], but=("seed",))
        if not differing:
            composed = compose(record, pair(read_scores(baseline / benchmark), read_scores(new / benchmark)))
    cases = []
    for name, one in gates.items():
        mine, theirs = _metric(record, name), _metric(old, name)
        judged = Judged(benchmark, name, one)
        if mine is None:
            judged = replace(judged, reason=f"{new} has no {benchmark} {name}".rstrip())
        elif one.rule == "absolute-floor":
            judged = _against_floor(_shown(judged, mine), mine)
        elif theirs is None:
            judged = replace(_shown(judged, mine), reason=f"{baseline} has no {benchmark} {name}")
        else:
            why_not = f"not alike: {'; '.join(differing)}" if differing else obstacle(theirs, mine, composed.get(name))
            if why_not == NO_SCORES:
                why_not += '; rule = "absolute-floor" can judge it, or rule = "none" leave it out'
            judged = replace(_shown(judged, mine), old=theirs.value, reason=why_not)
        if one.rule != "none":
            cases.append(Case(judged, None if judged.reason else composed[name]))
    return cases


def _metric(record: RunRecord | None, name: str) -> Metric | None:
    return next((metric for metric in record.metrics if metric.name == name), None) if record else None


def _shown(judged: Judged, metric: Metric) -> Judged:
    return replace(judged, unit=metric.unit, new=metric.value, n=metric.n, missing=metric.missing)


def _against_floor(judged: Judged, metric: Metric) -> Judged:
    floor = judged.gate.floor
    assert floor is not None
    worse, better = (metric.low, metric.high) if metric.higher_is_better else (metric.high, metric.low)
    sign, word = (1, "floor") if metric.higher_is_better else (-1, "ceiling")
    judged = replace(judged, limit=worse)
    told = f"the {word} is {number(floor, metric.unit)}"
    if too_many := _too_many_missing(judged):
        return replace(judged, reason=too_many)
    if worse is None or better is None:
        return replace(judged, reason=f"{told}, and the score has no interval")
    if sign * (worse - floor) >= 0:
        return replace(judged, verdict="pass", reason=f"{told}; all of the 95 % interval keeps to it")
    if sign * (better - floor) < 0:
        return replace(judged, verdict="fail", reason=f"{told}; all of the 95 % interval lies beyond")
    return replace(judged, reason=f"{told}, inside the 95 % interval: too few samples")


def _too_many_missing(judged: Judged) -> str:
    asked = judged.n + judged.missing
    if judged.missing <= judged.gate.max_missing * asked:
        return ""
    return (
        f"{judged.missing} of {asked} samples are missing, more than max_missing = {judged.gate.max_missing:g} allows"
    )


def judge(cases: Sequence[Case]) -> list[Judged]:
    """The verdicts, those of tests under Holm's correction over all metrics that are tested."""
    judged = [case.judged if case.units is None else _tested(case.judged, case.units) for case in cases]
    ps = {at: one.p for at, one in enumerate(judged) if one.p is not None}
    corrected = dict(zip(ps, holm(list(ps.values())), strict=True)) if ps else {}
    for at, p_holm in corrected.items():
        units = cases[at].units
        assert units is not None  # or there would be no p
        judged[at] = _decided(_with_power(replace(judged[at], p_holm=p_holm), units, len(ps)))
    return judged


def _tested(judged: Judged, units: Composed) -> Judged:
    found = units.difference(confidence=1 - 2 * judged.gate.alpha)
    assert found is not None  # or there was an obstacle
    value = found.estimate.value
    judged = replace(
        judged,
        difference=value,
        limit=found.estimate.low,
        margin=judged.gate.margin * units.full_marks,
        n=found.n,
        missing=found.missing,
    )
    if too_many := _too_many_missing(judged):
        return replace(judged, reason=too_many)
    # Under no difference the tests are symmetric: half of the two-sided p is that of the side where the data lie.
    return replace(judged, reason=found.estimate.note, p=found.p / 2 if value < 0 else 1.0)


def _with_power(judged: Judged, units: Composed, tests: int) -> Judged:
    """Of the test that a pass rests on: that of the margin, or, with a share of alpha, that of a loss."""
    error, one = units.standard_error, judged.gate
    if error is None:
        if judged.difference != 0 or judged.limit is None:
            return judged
        # No unit differs: the limit is Wilson's for 0 of G groups, z^2 / (G + z^2), and G grows with the samples.
        reach = -judged.limit / units.full_marks
        needed = math.ceil(judged.n * (1 / one.margin - 1) / (1 / reach - 1))
        return replace(judged, detectable=reach * units.full_marks, needed=needed)
    alpha = one.alpha / tests if one.rule == "no-significant-loss" else one.alpha
    return replace(
        judged,
        detectable=minimal_detectable_effect(error, alpha, POWER, sides=1) * units.full_marks,
        needed=needed_n(one.margin, error, judged.n, alpha, POWER, sides=1),
    )


def _decided(judged: Judged) -> Judged:
    """By the numbers that a test gave."""
    limit, margin, p = judged.limit, judged.margin, judged.p_holm
    assert margin is not None
    assert p is not None
    shown = number(margin, judged.unit)
    kept, lost = limit is not None and limit > -margin, p <= judged.gate.alpha
    if lost and not (kept and judged.gate.rule == "non-inferiority"):
        return replace(
            judged, verdict="fail", reason=f"a significant loss, Holm's p {p_value(p)}; the margin is {shown}"
        )
    if kept:
        return replace(judged, verdict="pass", reason=f"a loss of {shown} or more is ruled out")
    if judged.gate.rule == "no-significant-loss" and judged.detectable is not None and judged.detectable <= margin:
        return replace(
            judged, verdict="pass", reason=f"no significant loss; one of {shown} would mostly have been found"
        )
    if limit is None:
        return judged  # the reason says why there is none
    more = f"; about {judged.needed} would decide" if judged.needed is not None and judged.needed > judged.n else ""
    return replace(
        judged,
        reason=f"too few samples: the loss may be {number(max(0.0, -limit), judged.unit)}, the margin is {shown}{more}",
    )


# For readers and machines ---------------------------------------------------------------------------------------------


def gate_table(gated: Gated) -> Table:
    """One row per metric."""
    rows = tuple(
        (
            one.benchmark,
            one.metric or "-",
            number(one.old, one.unit),
            number(one.new, one.unit),
            signed(one.difference, one.unit),
            signed(one.limit, one.unit) if one.difference is not None else number(one.limit, one.unit),
            number(one.margin, one.unit),
            p_value(one.p_holm),
            number(one.detectable, one.unit),
            str(one.n),
            str(one.missing),
            f"{one.verdict}: {one.reason}",
        )
        for one in gated.metrics
    )
    header = (
        "benchmark",
        "metric",
        "old",
        "new",
        "difference",
        "limit",
        "margin",
        "Holm p",
        "detectable",
        "n",
        "missing",
        "verdict",
    )
    return Table(header, rows, frozenset(range(2, 11)), (*gated.notes, *multiplicity(gated)))


def multiplicity(gated: Gated) -> tuple[str, ...]:
    """What the verdict's error rates are."""
    tests = [one for one in gated.metrics if one.p is not None]
    if not tests:
        return ()
    alpha = max(one.gate.alpha for one in tests)
    told = "1 test" if len(tests) == 1 else f"{len(tests)} tests"
    return (
        f"{told}, Holm's correction: equally good runs fail with probability {alpha:g} at most; if one is "
        f"worse by its margin, a non-inferiority gate passes with probability {alpha:g} at most",
    )


def text(gated: Gated) -> str:
    """For a terminal: the table, and the verdict in the last line."""
    return f"{as_text(gate_table(gated))}\n{summary(gated)}"


def summary(gated: Gated) -> str:
    """One line."""
    count = Counter(one.verdict for one in gated.metrics)
    told = ", ".join(f"{count[verdict]} {verdict}" for verdict in EXIT_CODES if count[verdict]) or "nothing to judge"
    return f"gate: {gated.verdict} ({told})"


def to_json(gated: Gated) -> str:
    """The verdict, and every metric with every digit."""
    content = {
        "verdict": gated.verdict,
        "exit_code": gated.exit_code,
        "new": gated.new,
        "baseline": gated.baseline,
        "notes": [*gated.notes, *multiplicity(gated)],
        "metrics": [asdict(one) for one in gated.metrics],
    }
    return json.dumps(content, indent=1, allow_nan=False)
