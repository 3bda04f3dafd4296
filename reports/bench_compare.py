"""How often the gate errs, and what comparing two runs of the paper suite costs: ``python -m reports.bench_compare``.

The error rates are of simulated runs of one model with unlike seeds: each sample has its own chance of being right,
which its group shares in part, and both runs draw from it. Takes about five minutes.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.spec import Environment, RunSpec, open_run
from benchmarks.store import Shard, shard_path, write_records, write_scores
from benchmarks.types import Metric, Prediction, RunRecord, Score
from reports.composition import RULES, Composed, Items, compose
from reports.gate import EXIT_CODES, Case, Gate, Gated, Judged, RuleName, Verdict, judge

PAIRS, POWER_PAIRS = 500, 100
#: What a right answer is worth where scores are graded: VQA's levels by how many annotators agree.
LEVELS = np.array([0.3, 0.6, 0.9, 1.0, 1.0, 1.0])


@dataclass(frozen=True)
class World:
    """A benchmark's size and kind; ``groups`` have ``size`` samples each and are dealt to ``strata`` in turn."""

    benchmark: str
    metric: str
    groups: int
    size: int
    strata: tuple[str, ...]
    graded: bool = False


TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
SENSES = ("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR")
SCIENCES = ("culture", "time", "space", "biology", "physics", "chemistry")
#: The paper suite's own sizes, but for VQAv2, which is ten times as large.
WORLDS = (
    World("geneval", "overall", 553, 4, TAGS),
    World("dpg", "overall", 1_065, 4, ("",)),
    World("wise", "wiscore", 1_000, 1, SCIENCES),
    World("vqav2", "exact_match", 8_000, 3, ("yes/no", "number", "other"), graded=True),
    World("mmbench", "gpt_eval_score", 1_164, 4, ("",)),
    World("seedbench", "seed_image", 14_232, 1, ("image",)),
    World("mmvet", "gpt_eval_score", 200, 1, ("rec,ocr",)),
    World("mme", "mme_perception_score", 1_057, 2, SENSES),
    World("mmmu", "mmmu_acc", 900, 1, ("",)),
    World("realworldqa", "exact_match", 765, 1, ("",)),
    World("textvqa", "exact_match", 2_500, 2, ("",), graded=True),
)


def record(world: World, values: Mapping[str, float | None] | None = None) -> RunRecord:
    """A record with the metrics that the scores of a world give, all None without ``values``."""
    rule = RULES[world.benchmark]
    whole = world.metric if world.metric in rule.whole else rule.whole[0]
    parts = [rule.part.format(whole=whole, stratum=part) for part in ",".join(world.strata).split(",")]
    metrics = tuple(
        Metric(name, (values or {}).get(name), None, None, n=world.groups * world.size, missing=0)
        for name in dict.fromkeys([whole, world.metric, *parts])
    )
    profile = "wise-verified" if world.benchmark == "wise" else "simulated"
    return RunRecord(
        world.benchmark, "1", "simulated", profile, {"name": "simulated"}, {}, {}, 0, {}, {}, {}, {}, metrics
    )


def items(world: World, rng: np.random.Generator, loss: float = 0.0, repeats: int = 1) -> Items:
    """Two runs of one model. In the second, groups fail as a whole as often as costs ``loss`` of full marks.

    Chances are logistic, with a normal effect of the group (standard deviation 1) and of the sample (2.5): most
    samples are nearly sure, as they are for real models.
    """
    groups = world.groups * repeats
    group = np.repeat(np.arange(groups), world.size)
    logit = 1.0 + rng.normal(0, 1, groups)[group] + rng.normal(0, 2.5, len(group))
    chance = 1 / (1 + np.exp(-logit))
    worth = rng.choice(LEVELS, len(group)) if world.graded else np.ones(len(group))
    first, second = (worth * (rng.random(len(group)) < chance) for _ in range(2))
    paired = Items(
        [f"{world.benchmark}/{number}" for number in range(len(group))],
        first,
        second,
        group,
        group % len(world.strata),
        list(world.strata),
    )
    if not loss:
        return paired
    score = units(world, paired).score("first")
    assert score is not None
    broken = rng.random(groups) < loss * units(world, paired).full_marks / score
    second[broken[group]] = 0.0
    return paired


def units(world: World, paired: Items) -> Composed:
    return compose(record(world), paired)[world.metric]


def case(world: World, rng: np.random.Generator, rule: RuleName, loss: float = 0.0) -> Case:
    judged = Judged(world.benchmark, world.metric, Gate(rule))
    return Case(judged, units(world, items(world, rng, loss)))


def same_model(rule: RuleName, pairs: int, seed: int = 0, worlds: Sequence[World] = WORLDS) -> Counter[Verdict]:
    """The gate's verdicts on so many pairs of runs of one model: every fail is a false alarm."""
    rng = np.random.default_rng(seed)
    return Counter(
        Gated("", "", tuple(judge([case(world, rng, rule) for world in worlds]))).verdict for _ in range(pairs)
    )


def one_worse(
    rule: RuleName, loss: float, pairs: int, seed: int = 0, worlds: Sequence[World] = WORLDS
) -> dict[str, Counter[Verdict]]:
    """By benchmark, the verdicts on it when it alone is worse by ``loss``, with the others in the correction."""
    rng = np.random.default_rng(seed)
    found: dict[str, Counter[Verdict]] = {world.benchmark: Counter() for world in worlds}
    for _ in range(pairs):
        cases = [case(world, rng, rule) for world in worlds]
        for at, world in enumerate(worlds):
            changed = [*cases[:at], case(world, rng, rule, loss), *cases[at + 1 :]]
            found[world.benchmark][judge(changed)[at].verdict] += 1
    return found


def error_rates() -> None:
    print(f"gate over {len(WORLDS)} benchmarks, margin 2 points of 100, alpha 0.05; shares in %", flush=True)
    rules: tuple[RuleName, ...] = ("non-inferiority", "no-significant-loss")
    for rule in rules:
        verdicts = same_model(rule, PAIRS)
        shares = ", ".join(f"{name} {100 * verdicts[name] / PAIRS:.1f}" for name in EXIT_CODES)
        print(f"  {rule}, {PAIRS} pairs of runs of one model: {shares}", flush=True)
    print(f"  one benchmark alone is worse ({POWER_PAIRS} pairs): fails at a loss of 5 points, passes at one of 2")
    for rule in rules:
        found, passed = one_worse(rule, 0.05, POWER_PAIRS), one_worse(rule, 0.02, POWER_PAIRS)
        for name, verdicts in found.items():
            fail, kept = (100 * n / POWER_PAIRS for n in (verdicts["fail"], passed[name]["pass"]))
            print(f"    {rule:20} {name:12} fails {fail:5.1f}   passes {kept:5.1f}", flush=True)


def write_runs(root: Path) -> int:
    """Two complete runs of the paper suite's size, without images; returns the number of samples of one."""
    rng = np.random.default_rng(0)
    # VQAv2's validation split has 214,354 questions; the rest stands for MJHQ's 30,000 images and test splits.
    sizes = {world: 11 if world.benchmark == "vqav2" else 1 for world in WORLDS}
    pairs = {world: items(world, rng, repeats=repeats) for world, repeats in sizes.items()}
    for run in ("first", "second"):
        folder, records = root / run, []
        open_run(
            folder, RunSpec("simulated", 0, None, {"name": "simulated"}, {}), Environment("2026-11-21", {}, {}, {})
        )
        for world, paired in pairs.items():
            scored = paired.first if run == "first" else paired.second
            strata = [paired.strata[code] for code in paired.stratum]
            rows = zip(paired.ids, paired.group, strata, scored, strict=True)
            scores = [
                Score(id_, f"{world.benchmark}/g{group}", stratum, float(value)) for id_, group, stratum, value in rows
            ]
            own = folder / world.benchmark
            write_scores(own, scores)
            with Shard(shard_path(own, Prediction, 0)) as shard:
                shard.append(
                    [Prediction(id_, 2**62, 0.1, text="a reply of usual length", sha256="0" * 64) for id_ in paired.ids]
                )
            composed = compose(record(world), paired)
            records.append(
                record(
                    world, {name: one.score("first" if run == "first" else "second") for name, one in composed.items()}
                )
            )
        write_records(folder, records)
    return sum(len(paired.ids) for paired in pairs.values())


def cost() -> None:
    """Of a comparison and of a gate, each in a process of its own."""
    peak = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
    ways = {
        "compare": "from reports import compare; c = compare.compare(a, b); compare.text(c); compare.to_json(c)",
        "compare with page": "from reports import compare; c = compare.compare(a, b); compare.html(c)",
        "gate": "from reports import gate; gate.text(gate.gate(b, a))",
    }
    with tempfile.TemporaryDirectory() as folder:
        n = write_runs(Path(folder))
        print(f"two runs of {n:,} samples in {len(WORLDS)} benchmarks", flush=True)
        for name, way in ways.items():
            script = f"from pathlib import Path; a, b = Path('first'), Path('second'); {way}; {peak}"
            before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
            started = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=True
            )
            wall = time.perf_counter() - started
            cpu = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
            print(f"  {name:18} {wall:5.1f} s ({cpu:.1f} s of a core)   {int(done.stdout):,} MB", flush=True)


if __name__ == "__main__":
    cost()
    error_rates()
