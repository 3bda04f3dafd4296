"""The gate: what passes, what fails, and what cannot be told; its error rates on simulated runs."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks.types import BenchError, Metric
from reports import bench_compare, ci
from reports import gate as gates
from reports.gate import Gate, Gated, Judged, Policy, gate, read_policy
from tests.reports.pairs import metrics, scores, simple, store
from tests.reports.stored import record


def values(right: int, wrong: int) -> list[float | None]:
    return [*[1.0] * right, *[0.0] * wrong]


def policy(tmp_path: Path, text: str) -> Policy:
    path = tmp_path / "gates.toml"
    path.write_text(text, encoding="utf-8")
    return read_policy(path)


def only(found: Gated) -> Judged:
    (one,) = found.metrics
    return one


def test_the_same_scores_pass_where_the_samples_suffice(tmp_path: Path) -> None:
    run = simple(tmp_path / "run", values(150, 50))
    found = gate(run, run)
    assert (found.verdict, found.exit_code) == ("pass", 0)
    one = only(found)
    # Nothing differs in 200 samples: at most z^2 / (n + z^2) may, z = 1.645 at alpha 5 %.
    assert one.limit == pytest.approx(-(1.6449**2) / (200 + 1.6449**2), rel=1e-4)
    assert one.detectable == pytest.approx(-(one.limit or 0))
    assert one.p_holm == 1


def test_too_few_samples_cannot_tell_and_say_how_many_would(tmp_path: Path) -> None:
    run = simple(tmp_path / "run", values(30, 10))
    found = gate(run, run)
    assert (found.verdict, found.exit_code) == ("cannot tell", 2)
    one = only(found)
    assert one.needed == pytest.approx(1.6449**2 * (1 / 0.02 - 1), abs=1)  # so many without a difference rule out 2 %
    assert f"about {one.needed} would decide" in one.reason


def test_a_significant_loss_fails(tmp_path: Path) -> None:
    old, new = simple(tmp_path / "old", values(180, 20)), simple(tmp_path / "new", values(150, 50))
    found = gate(new, old)
    assert (found.verdict, found.exit_code) == ("fail", 1)
    one = only(found)
    assert one.difference == pytest.approx(-0.15)
    assert one.p == pytest.approx(0.5**30)  # all 30 samples that changed got worse
    assert gate(old, new).verdict == "pass"  # better


def test_a_total_collapse_fails(tmp_path: Path) -> None:
    """No spread to make a standard error of, and the clearest loss there is."""
    runs = [
        store(tmp_path / name, [(record("textvqa", metrics({"exact_match": value}, own)), own)])
        for name, value in (("old", 1.0), ("new", 0.0))
        if (own := scores("textvqa", [(str(at // 2), "", value) for at in range(60)]))
    ]
    assert gate(runs[1], runs[0]).verdict == "fail"


def test_a_small_significant_loss_is_a_matter_of_the_rule(tmp_path: Path) -> None:
    """Ten of 4,000 samples lost: significant, and by far less than the margin."""
    old, new = simple(tmp_path / "old", values(3000, 1000)), simple(tmp_path / "new", values(2990, 1010))
    assert gate(new, old).verdict == "pass"
    strict = gate(new, old, Policy(Gate("no-significant-loss")))
    assert strict.verdict == "fail"
    assert "significant loss" in only(strict).reason


def test_no_significant_loss_passes_only_where_one_would_have_been_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rule = Policy(Gate("no-significant-loss", margin=0.05))
    for n, verdict in ((100, "cannot tell"), (4000, "pass")):
        drawn = [[float(value) for value in rng.random(n) < 0.7] for _ in range(2)]
        old, new = simple(tmp_path / f"old{n}", drawn[0]), simple(tmp_path / f"new{n}", drawn[1])
        one = only(gate(new, old, rule))
        assert one.verdict == verdict
        assert one.detectable is not None
        assert one.needed is not None
        # Independent draws differ with variance 2 x 0.7 x 0.3; 1.6449 + 0.8416 standard errors are found with 80 %.
        assert one.detectable == pytest.approx(2.4865 * (0.42 / n) ** 0.5, rel=0.1)
        assert one.needed == pytest.approx(0.42 * (2.4865 / 0.05) ** 2, rel=0.2)


def test_missing_samples_above_the_limit_cannot_tell(tmp_path: Path) -> None:
    old = simple(tmp_path / "old", values(300, 0))
    new = simple(tmp_path / "new", [*values(296, 0), None, None, None, None])
    one = only(gate(new, old))
    assert one.verdict == "cannot tell"
    assert one.reason == "4 of 300 samples are missing, more than max_missing = 0.01 allows"
    assert gate(new, old, Policy(Gate(max_missing=0.02))).verdict == "pass"


def test_absent_benchmarks_and_metrics_cannot_tell(tmp_path: Path) -> None:
    both = store(
        tmp_path / "both",
        [
            (record(name, metrics({"exact_match": 1.0}, own)), own)
            for name in ("realworldqa", "textvqa")
            if (own := scores(name, [(str(at), "", 1.0) for at in range(300)]))
        ],
    )
    one = simple(tmp_path / "one", values(300, 0))
    assert gate(both, both).verdict == "pass"
    found = gate(one, both)
    assert (found.verdict, found.exit_code) == ("cannot tell", 2)
    assert found.metrics[1].reason == f"{one} has no textvqa exact_match"
    assert gate(one, one, policy(tmp_path, "[geneval]\nmargin = 0.1")).metrics[1].reason == f"{one} has no geneval"
    assert gate(one, one, policy(tmp_path, '[realworldqa."exact_match.part"]')).exit_code == 2
    assert gate(both, one, Policy(benchmarks={"textvqa": Gate()})).exit_code == 2
    # What the baseline lacks and no policy asks for is told, not judged.
    extra = gate(both, one)
    assert extra.verdict == "pass"
    assert extra.notes[-1] == "textvqa is not judged: the baseline lacks it"


def test_nothing_to_judge_cannot_tell(tmp_path: Path) -> None:
    run = simple(tmp_path / "run", values(300, 0))
    found = gate(run, run, policy(tmp_path, '[defaults]\nrule = "none"'))
    assert (found.metrics, found.exit_code) == ((), 2)
    suite = ElementTree.fromstring(ci.junit(found)).find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("errors")) == ("1", "1")
    assert "the policy says so" in gates.text(found)


def test_unlike_runs_cannot_tell_but_seeds_may_differ(tmp_path: Path) -> None:
    old = simple(tmp_path / "old", values(300, 0))
    assert gate(simple(tmp_path / "seed", values(300, 0), seed=8), old).verdict == "pass"
    found = gate(simple(tmp_path / "other", values(300, 0), profile="another"), old)
    assert found.exit_code == 2
    assert only(found).reason.startswith("not alike: profile is realworldqa-official and another")


def test_incomplete_runs_are_refused(tmp_path: Path) -> None:
    run = simple(tmp_path / "run", values(3, 0))
    (run / "run.json").unlink()
    with pytest.raises(BenchError, match="no complete run"):
        gate(run, run)


@pytest.mark.parametrize(("floor", "verdict"), [(11.0, "fail"), (12.2, "cannot tell"), (13.0, "pass"), (13.5, "pass")])
def test_a_floor_is_a_ceiling_where_less_is_better(tmp_path: Path, floor: float, verdict: str) -> None:
    """FID 12.5 with an interval from 12 to 13, which no other rule can judge."""
    fid = Metric("fid", 12.5, 12.0, 13.0, 3, 0, higher_is_better=False, unit="FID")
    run = store(tmp_path / "run", [(record("mjhq", [fid]), scores("mjhq", [(str(at), "", None) for at in range(3)]))])
    untold = only(gate(run, run))
    assert untold.verdict == "cannot tell"
    assert 'rule = "absolute-floor" can judge it' in untold.reason
    found = gate(run, run, policy(tmp_path, f'[mjhq]\nrule = "absolute-floor"\nfloor = {floor}'))
    assert found.verdict == verdict
    assert "ceiling" in only(found).reason


@pytest.mark.parametrize(("floor", "verdict"), [(0.6, "pass"), (0.7, "cannot tell"), (0.9, "fail")])
def test_a_floor_needs_no_baseline(tmp_path: Path, floor: float, verdict: str) -> None:
    metric = Metric("exact_match", 0.75, 0.68, 0.81, 200, 0)
    own = scores("realworldqa", [(str(at), "", float(at < 150)) for at in range(200)])
    new = store(tmp_path / "new", [(record("realworldqa", [metric]), own)])
    old = simple(tmp_path / "old", values(300, 0), benchmark="textvqa")
    rules = {"realworldqa": Gate("absolute-floor", floor=floor), "textvqa": Gate("none")}
    assert gate(new, old, Policy(benchmarks=rules)).verdict == verdict
    lost = store(tmp_path / "lost", [(record("realworldqa", [replace(metric, missing=9)]), own)])
    assert gate(lost, old, Policy(benchmarks=rules)).verdict == "cannot tell"


def test_a_score_without_interval_cannot_tell(tmp_path: Path) -> None:
    run = simple(tmp_path / "run", values(3, 0))
    assert "no interval" in only(gate(run, run, Policy(Gate("absolute-floor", floor=0.1)))).reason


def test_holm_keeps_a_chance_loss_among_many_from_failing(tmp_path: Path) -> None:
    """Five lost samples and none gained: one-sided p 1/32, a failure alone and none among three benchmarks."""

    def run(name: str, lost: int, benchmarks: tuple[str, ...]) -> Path:
        parts = []
        for benchmark in benchmarks:
            right = 60 - (lost if benchmark == "textvqa" else 0)
            own = scores(benchmark, [(str(at), "", float(at < right)) for at in range(60)])
            metric = "mmmu_acc" if benchmark == "mmmu" else "exact_match"
            parts.append((record(benchmark, metrics({metric: right / 60}, own)), own))
        return store(tmp_path / f"{name}{len(benchmarks)}", parts)

    for benchmarks, verdict in ((("textvqa",), "fail"), (("textvqa", "realworldqa", "mmmu"), "cannot tell")):
        found = gate(run("new", 5, benchmarks), run("old", 0, benchmarks))
        assert found.metrics[0].p == pytest.approx(1 / 32)
        assert found.metrics[0].p_holm == pytest.approx(len(benchmarks) / 32)
        assert found.verdict == verdict


def test_policy_tables_lie_on_top_of_each_other(tmp_path: Path) -> None:
    found = policy(
        tmp_path,
        """
        [defaults]
        margin = 0.03
        max_missing = 0
        [mme]
        margin = 0.05
        [mme.mme_cognition_score]
        alpha = 0.01
        [mjhq]
        rule = "absolute-floor"
        floor = 20
        [mjhq.kid]
        rule = "none"
        """,
    )
    assert found.gate("geneval", "overall") == Gate(margin=0.03, max_missing=0)
    assert found.gate("mme", "mme_perception_score") == Gate(margin=0.05, max_missing=0)
    assert found.gate("mme", "mme_cognition_score") == Gate(margin=0.05, alpha=0.01, max_missing=0)
    assert found.gate("mjhq", "fid") == Gate("absolute-floor", margin=0.03, max_missing=0, floor=20)
    assert found.gate("mjhq", "kid").rule == "none"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[geneval]\nmagrin = 0.1", r"\[geneval\] has 'magrin'; known are alpha, floor, margin, max_missing, rule"),
        ("[geneval]\nmargin = 2", r"\[geneval\]: margin must be a share of full marks"),
        ("[geneval]\nmargin = true", "margin must be"),
        ("[defaults]\nalpha = 0.6", "alpha must lie"),
        ("[defaults]\nmax_missing = -1", "max_missing must be"),
        ('[geneval]\nrule = "better"', "rule must be one of"),
        ('[geneval]\nrule = "absolute-floor"', "needs a number as floor"),
        ("[geneval]\nfloor = 0.5", "needs a number as floor"),
        ('[geneval]\nrule = "absolute-floor"\nfloor = "0.5"', "needs a number as floor"),
        ("margin = 0.1", "margin must stand in a table"),
        ("defaults = 1", "defaults must be a table"),
        ("[geneval", "is not TOML"),
    ],
)
def test_a_wrong_policy_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BenchError, match=message):
        policy(tmp_path, text)


def test_the_policies_of_the_docs_are_read(tmp_path: Path) -> None:
    page = (Path(gates.__file__).parent.parent / "docs" / "ci.md").read_text(encoding="utf-8")
    paper, toy = (policy(tmp_path, block) for block in re.findall(r"```toml\n(.*?)```", page, re.DOTALL))
    assert paper.default == Gate()  # the page says that these are the defaults
    assert paper.gate("mjhq", "fid").rule == "absolute-floor"
    assert toy.gate("mme", "mme_cognition_score").margin > toy.default.margin


def test_an_absent_policy_is_named(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"cannot read the policy .*gates.toml"):
        read_policy(tmp_path / "gates.toml")


@pytest.fixture
def mixed() -> Gated:
    """One metric of each verdict."""
    return Gated(
        "new",
        "old",
        (
            Judged("a", "x", Gate(), "pass", "a loss is ruled out", p=1.0),
            Judged("b", "y", Gate(), "fail", "50 % lost: \x01\n, really", p=0.001),
            Judged("c", "", Gate(), "cannot tell", "absent"),
        ),
    )


def test_junit_tells_failures_from_errors(mixed: Gated) -> None:
    suite = ElementTree.fromstring(ci.junit(mixed)).find("testsuite")
    assert suite is not None
    assert [suite.get(key) for key in ("tests", "failures", "errors")] == ["3", "1", "1"]
    cases = {(case.get("classname"), case.get("name")): [child.tag for child in case] for case in suite}
    assert cases == {("a", "x"): ["system-out"], ("b", "y"): ["failure"], ("c", "present"): ["error"]}


def test_junit_is_xml_whatever_the_policy_calls_a_benchmark(tmp_path: Path) -> None:
    run = simple(tmp_path / "run", values(300, 0))
    told = ci.junit(gate(run, run, policy(tmp_path, '["a\\u001b<b>"]')))
    cases = ElementTree.fromstring(told).iter("testcase")
    assert [case.get("classname") for case in cases] == ["realworldqa", "a\ufffd<b>"]


def test_annotations_are_one_escaped_line_each(mixed: Gated) -> None:
    assert ci.github_annotations(mixed).splitlines() == [
        "::error title=b y::50 %25 lost: \x01%0A, really",
        "::warning title=c::absent",
        "::error title=gate::gate: fail (1 pass, 1 fail, 1 cannot tell)",
    ]


def test_summary_is_markdown_with_the_error_rates(mixed: Gated) -> None:
    told = ci.github_summary(mixed)
    assert told.startswith("## gate: fail (1 pass, 1 fail, 1 cannot tell)\n\n2 tests, Holm's correction")
    assert "| b | y |" in told


def test_json_has_every_number(mixed: Gated) -> None:
    told = json.loads(gates.to_json(mixed))
    assert (told["verdict"], told["exit_code"]) == ("fail", 1)
    assert told["metrics"][1]["p"] == 0.001
    assert told["metrics"][0]["gate"]["rule"] == "non-inferiority"


#: Small worlds for the default suite; ``python -m reports.bench_compare`` and the slow test take the paper's sizes.
SMALL = tuple(
    replace(world, groups=min(world.groups, 120))
    for world in bench_compare.WORLDS
    if world.benchmark in ("geneval", "mme", "mmmu", "textvqa")
)


def test_false_alarms_and_power_in_small(tmp_path: Path) -> None:
    """60 pairs: at a rate of 5 %, more than 8 false alarms come up once in 500 times."""
    for rule in ("non-inferiority", "no-significant-loss"):
        assert bench_compare.same_model(rule, 60, worlds=SMALL)["fail"] <= 8
    found = bench_compare.one_worse("no-significant-loss", 0.2, 10, worlds=SMALL)
    assert all(verdicts["fail"] >= 8 for verdicts in found.values())


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["non-inferiority", "no-significant-loss"])
def test_false_alarms_and_power(rule: gates.RuleName) -> None:
    """Of 500 pairs of runs of one model at most 6 % fail; a loss of 5 points in one large benchmark is found."""
    assert bench_compare.same_model(rule, 500)["fail"] <= 30
    found = bench_compare.one_worse(rule, 0.05, 40)
    assert min(found[name]["fail"] for name in ("geneval", "dpg", "vqav2", "seedbench")) >= 32


def test_reports_work_without_torch(tmp_path: Path) -> None:
    """In an interpreter that cannot import it."""
    import subprocess
    import sys

    simple(tmp_path / "a", values(3, 1))
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from pathlib import Path; from reports import ci, compare, gate\n"
        "a = Path('a'); compare.html(compare.compare(a, a)); ci.junit(gate.gate(a, a))\n"
        "print(sorted(set(sys.modules) & {'matplotlib', 'statsmodels', 'pandas'}))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(gates.__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == "[]"  # nothing slow either
