"""The human study's results: what is recovered, what is said of data that cannot tell, what is refused."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.store import write_scores
from benchmarks.types import BenchError, Metric, Score
from reports.statistics.estimate import Estimate
from reports.study import analyse, read, read_runs
from reports.study.figure import figure
from reports.study.judgments import OPTIONAL, REQUIRED
from reports.study.preference import Comparison
from reports.study.render import html, markdown, text
from reports.study.results import Criterion, Results
from reports.study.sections import conclusion
from tests.reports.stored import HOSTILE, Page, assert_self_contained, record, store_run
from tests.reports.studies import between, judgments, of_counts, simulate

NAN = float("nan")


def only(results: Results) -> tuple[Criterion, Comparison]:
    (criterion,) = results.criteria
    (comparison,) = criterion.comparisons
    return criterion, comparison


def holds(estimate: Estimate | None, truth: float) -> bool:
    """Whether the interval, made 1.6 times as wide (99.8 %), holds the truth."""
    assert estimate is not None
    assert estimate.low is not None
    assert estimate.high is not None
    value = estimate.value
    return value - 1.6 * (value - estimate.low) <= truth <= value + 1.6 * (estimate.high - value)


def variant(comparison: Comparison, name: str) -> Any:
    return next(one for one in comparison.variants if one.name.startswith(name))


@pytest.mark.parametrize(("wins", "losses", "printed"), [(1591, 1343, "5.05e-06"), (1620, 1379, "1.16e-05")])
def test_the_papers_p_values_are_sign_tests_of_independent_votes(wins: int, losses: int, printed: str) -> None:
    """Counts near 3,000 whose two-sided exact sign test is what section 5.4 prints; it gives no counts itself."""
    _, one = only(analyse(judgments(of_counts(wins, losses, 0))))
    assert f"{one.paper_style.test.p:.2e}" == printed


def test_simulated_preference_ties_and_sides_are_recovered() -> None:
    rng = np.random.default_rng(1)
    truth = {"worth": 0.5, "nu": 0.3, "left": 0.4}
    table = simulate(rng, {"A": truth["worth"], "B": 0.0}, 400, 8, nu=truth["nu"], left_bias=truth["left"])
    criterion, one = only(analyse(table))
    assert holds(one.ties.side_adjusted, truth["worth"])
    assert holds(criterion.position.order_effect, truth["left"])
    assert one.ties.nu == pytest.approx(truth["nu"], abs=0.06)
    # What a judgment gives on average, half of them with A on the left.
    margins = []
    for side in (truth["left"], -truth["left"]):
        first, second = math.exp((truth["worth"] + side) / 2), math.exp(-(truth["worth"] + side) / 2)
        margins.append((first - second) / (first + second + truth["nu"]))
    assert holds(one.margin, sum(margins) / 2)
    assert one.p_holm < 0.001
    assert criterion.position.p is not None
    assert criterion.position.p < 0.001


def test_an_annotator_who_chooses_at_random_is_seen_and_left_out_where_asked() -> None:
    rng = np.random.default_rng(2)
    worths = {"A": 1.0, "B": 0.0}
    main = simulate(rng, worths, 200, 4, noise=[1.0]).assign(kind="main", better="")
    gold = simulate(rng, {"A": 9.0, "worse": 0.0}, 25, 4, per_pair=4, noise=[1.0])
    gold = gold.assign(kind="gold", better=np.where(gold["left_model"] == "A", "left", "right"))
    gold["prompt_id"] = "gold " + gold["prompt_id"]
    results = analyse(pd.concat([main, gold]), trusted_from=0.8)
    _, one = only(results)
    assert results.distrusted == ("r0",)
    assert [annotator.gold.asked for annotator in results.annotators] == [25] * 4
    assert all(annotator.gold.rate.value >= 0.9 for annotator in results.annotators[1:] if annotator.gold.rate)
    margin = math.tanh(0.5)
    trusted = variant(one, "only annotators with 80% of gold").margin
    assert holds(trusted, margin)
    assert not holds(one.margin, margin)
    assert next(other for other in one.annotators.margins if other.annotator == "r0").without == trusted


def test_dawid_skene_looks_through_annotators_who_choose_at_random() -> None:
    """Prompts of strong taste, on which those who look agree: 62 % are A's, to the accuracy of 300."""
    rng = np.random.default_rng(5)
    _, one = only(analyse(simulate(rng, {"A": 2.4, "B": 0.0}, 300, 5, noise=[1.0, 1.0], taste=8.0)))
    assert one.margin.value < 0.18
    assert variant(one, "Dawid-Skene").margin.value == pytest.approx(0.24, abs=0.12)
    assert variant(one, "Dawid-Skene").margin.value > one.margin.value


def test_votes_that_depend_on_the_prompt_widen_the_interval() -> None:
    votes = judgments(np.repeat([1.0, -1.0], [60, 40]).repeat(5).tolist(), np.arange(100).repeat(5).tolist())
    _, one = only(analyse(votes))
    assert one.precision.design_effect == pytest.approx(5, rel=0.02)
    assert one.precision.intraclass_correlation == pytest.approx(1)
    assert one.permutation.p == pytest.approx(0.057, abs=0.005)  # of 60 prompts in 100
    assert one.paper_style.test.p < 1e-4  # of 300 votes in 500, as if they were independent
    assert holds(one.margin, 0.2)
    assert one.margin.low is not None
    assert one.margin.low < 0.01


def test_holm_is_over_all_comparisons_of_the_study() -> None:
    one, other = judgments(of_counts(60, 40, 0)), judgments(of_counts(65, 35, 0))
    results = analyse(pd.concat([one.assign(criterion="quality"), other.assign(criterion="alignment")]))
    quality, alignment = results.comparisons
    assert alignment.p_holm == pytest.approx(2 * alignment.permutation.p)
    assert quality.p_holm == quality.permutation.p
    assert [criterion.name for criterion in results.criteria] == ["quality", "alignment"]


@settings(max_examples=10, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from([1.0, -1.0, 0.0]), st.booleans()), min_size=2, max_size=30)
)
def test_neither_names_nor_sides_change_what_is_found(rows: list[tuple[int, float, bool]]) -> None:
    prompts, votes, left = (list(column) for column in zip(*rows, strict=True))
    _, one = only(analyse(judgments(votes, prompts, left=left)))
    _, turned = only(analyse(judgments(votes, prompts, left=[not side for side in left])))
    assert (turned.margin, turned.permutation, turned.paper_style) == (one.margin, one.permutation, one.paper_style)
    _, named = only(analyse(judgments(votes, prompts, left=left), lead="B"))
    assert (named.first, named.second) == ("B", "A")
    assert named.margin.value == -one.margin.value
    assert named.permutation.p == one.permutation.p


def test_three_models_stand_on_one_scale() -> None:
    rng = np.random.default_rng(3)
    worths = {"x": 0.6, "y": 0.0, "z": -0.6}
    (criterion,) = analyse(simulate(rng, worths, 150, 5, nu=0.2)).criteria
    (scale,) = criterion.scales
    assert scale.models == ("x", "y", "z")
    assert all(holds(worth.log_worth, worths[worth.model]) for worth in scale.worths)
    assert sum(worth.log_worth.value for worth in scale.worths) == pytest.approx(0, abs=1e-9)
    assert [(one.first, one.second) for one in scale.contrasts] == [("x", "y"), ("x", "z"), ("y", "z")]
    assert holds(scale.contrasts[1].log_ratio, 1.2)
    assert len(criterion.comparisons) == 3


def test_models_that_do_not_compare_are_said_to() -> None:
    apart = analyse(between([("a", "b", 5, 4), ("b", "a", 5, 4), ("c", "d", 9, 3), ("d", "c", 4, 6)])).criteria[0]
    assert {scale.models for scale in apart.scales} == {("a", "b"), ("c", "d")}
    assert all("2 groups of models do not compare" in scale.note and scale.worths for scale in apart.scales)
    unbeaten = analyse(between([("a", "b", 5, 4), ("b", "a", 5, 4), ("c", "a", 9, 0), ("b", "c", 0, 7)])).criteria[0]
    assert {scale.models for scale in unbeaten.scales} == {("a", "b"), ("c",)}
    assert next(scale for scale in unbeaten.scales if scale.models == ("c",)).worths == ()
    assert "2 groups of models do not compare" in text(analyse(between([("a", "b", 5, 4), ("c", "d", 9, 3)])))


def test_one_side_that_always_wins_has_no_infinite_worth() -> None:
    _, one = only(analyse(judgments(of_counts(8, 0, 2))))
    assert one.ties.davidson is None
    assert "infinite" in one.ties.note
    assert one.permutation.p == 2 / 2**8


def test_every_degenerate_study_is_told_as_such() -> None:
    """No certainty, no 0 for what is not known; JSON takes neither NaN nor infinity."""
    one_prompt = judgments(of_counts(3, 2, 0), ["p"] * 5)
    all_ties = judgments([0.0] * 6)
    unanimous = judgments([1.0] * 6, [0, 0, 1, 1, 2, 2], annotator=["r", "s"] * 3)
    alone = judgments(of_counts(4, 3, 1), annotator=["r"] * 8)
    one_sided = judgments(of_counts(4, 3, 1), left=[True] * 8)
    single = judgments([1.0])
    said = {}
    for name, table in (
        ("one prompt", one_prompt),
        ("all ties", all_ties),
        ("unanimous", unanimous),
        ("alone", alone),
        ("one-sided", one_sided),
        ("single", single),
    ):
        results = analyse(table)
        json.loads(results.to_json())
        said[name] = only(results)[1], text(results), results.criteria[0]

    comparison, told, _ = said["one prompt"]
    assert (comparison.margin.low, comparison.clustered_t_p, comparison.permutation.p) == (None, None, 1)
    assert "one group only: no interval" in told
    assert "p is 1 at least, whatever they say" in told
    comparison, told, criterion = said["all ties"]
    assert comparison.margin.value == 0
    assert comparison.margin.low is not None
    assert comparison.margin.low < -0.1
    assert (comparison.permutation.p, comparison.sequential.p, comparison.paper_style.win_rate) == (1, 1, None)
    assert criterion.position.rate is None
    assert "every judgment is a tie" in told
    comparison, told, criterion = said["unanimous"]
    assert comparison.margin.high == 1
    assert comparison.margin.low is not None
    assert comparison.margin.low < 0.5
    assert criterion.agreement.several is not None
    assert criterion.agreement.several.fleiss.value is None
    assert "undefined" in told
    comparison, told, criterion = said["alone"]
    assert comparison.annotators.alike is None
    assert comparison.annotators.margins[0].without is None
    assert criterion.agreement.several is None
    assert "one annotator only" in told
    assert "no two images were judged by two annotators in one round" in told
    assert "no pair was repeated" in told
    comparison, told, criterion = said["one-sided"]
    assert criterion.position.p is None
    assert comparison.ties.side_adjusted is None
    assert "A and B never changed sides" in told
    assert only(analyse(single))[1].margin == Estimate(1, None, None, "one group only: no interval")


def test_few_or_extreme_votes_claim_nothing_that_cannot_be() -> None:
    few = judgments(of_counts(3, 1, 0))
    _, one = only(analyse(few))
    independent = variant(one, "judgments taken as independent").margin
    assert (independent.value, independent.high) == (0.5, 1)  # Wald's limit is 1.35
    assert one.precision.detectable is None
    assert "too few prompts to find any margin with power 0.8" in one.precision.note
    single = text(analyse(judgments([1.0])))
    assert "with 1 prompt that favours a side, p is 1 at least" in single
    told = text(analyse(judgments(of_counts(3000, 0, 0))))  # the sign test's p is 2^-2999, below every float
    assert re.search(r"3000 +100\.0 \(99\.9 to 100\.0\) +<1e-300 +<1e-300", told)


def test_one_repeated_pair_has_a_kappa_without_an_error() -> None:
    table = judgments([1.0, 0.0, 0.0], ["p", "q", "p"], annotator=["r"] * 3, kind=["main", "main", "repeat"])
    results = analyse(table)
    assert results.criteria[0].repeats.kappa is not None
    assert (results.criteria[0].repeats.kappa.value, results.criteria[0].repeats.kappa.standard_error) == (0, None)
    json.loads(results.to_json())


def test_repeats_are_matched_by_annotator_and_gold_ties_are_wrong() -> None:
    table = pd.DataFrame(
        [
            ("p", "A", "B", "left", "r", "main", ""),
            ("p", "B", "A", "right", "r", "repeat", ""),
            ("p", "A", "B", "right", "s", "main", ""),
            ("p", "B", "A", "tie", "s", "repeat", ""),
            ("q", "B", "A", "left", "s", "repeat", ""),  # its first vote was taken back
            ("g", "A", "A spoilt", "left", "r", "gold", "left"),
            ("g", "A", "A spoilt", "tie", "s", "gold", "left"),
            ("h", "A spoilt", "A", "skip", "s", "gold", "right"),
            ("i", "A spoilt", "A", "right", "s", "qualification", "right"),
        ],
        columns=["prompt_id", "left_model", "right_model", "choice", "annotator", "kind", "better"],
    )
    results = analyse(table)
    criterion, one = only(results)
    assert criterion.repeats.table == ((1, 0, 0), (0, 0, 0), (0, 1, 0))
    assert [(name.same, name.repeats) for name in results.annotators] == [(1, 1), (0, 1)]
    assert (criterion.gold.right, criterion.gold.asked) == (1, 2)
    assert one.counts.total == 2


def test_what_was_undone_or_skipped_does_not_count() -> None:
    table = judgments([1.0, -1.0, 1.0, NAN, 0.0], annotator=list("rstuv"), surplus=[False] * 4 + [True])
    table["stands"] = [False, True, True, True, True]
    table.loc[2, "choice"] = "undo"
    criterion, one = only(analyse(table))
    assert (one.counts.wins, one.counts.losses, one.counts.ties) == (0, 1, 1)
    assert (criterion.judgments, criterion.skips, criterion.surplus) == (2, 1, 1)


def test_evidence_grows_in_the_order_of_time() -> None:
    """30 wins and then 30 losses: enough after the first, and level at the end."""
    votes = of_counts(30, 30, 0)
    times = [f"2026-11-21T12:{minute:02}:00.500+00:00" for minute in range(60)]
    forward = only(analyse(judgments(votes, created_at=times)))[1].sequential
    shuffled = judgments(votes, created_at=times).sample(frac=1, random_state=0)
    assert only(analyse(shuffled))[1].sequential == forward
    assert forward.stopped_after == 8  # 2^n / (n + 1), the e-value of n wins, is 16 at 7 and 28 at 8
    assert forward.log_e_value < 0
    assert forward.p == pytest.approx(31 / 2**30)


def test_rounds_are_compared_on_their_shared_prompts() -> None:
    first, second = of_counts(30, 10, 0), of_counts(10, 30, 0)
    results = analyse(judgments(first + second, [*range(40)] * 2, round=[1] * 40 + [2] * 40))
    rounds = only(results)[1].rounds
    assert [one.margin.value for one in rounds.margins] == [0.5, -0.5]
    assert rounds.difference is not None
    assert rounds.difference.difference.value == 1
    assert rounds.difference.p is not None
    assert rounds.difference.p < 0.001
    apart = only(analyse(judgments(first + second, range(80), round=[1] * 40 + [2] * 40)))[1].rounds
    assert apart.difference is None
    assert apart.note == "the rounds share no prompt"
    three = only(analyse(judgments(of_counts(9, 9, 0), round=["1", "2", "10"] * 6)))[1].rounds
    assert [one.round for one in three.margins] == ["1", "2", "10"]


def two_runs(folder: Path, first: list[float | None], second: list[float | None], profile: str = "") -> dict[str, Path]:
    """Runs of GenEval with two images for each prompt, which have the same value."""
    for name, values in (("a", first), ("b", second)):
        made = record("geneval", [Metric("overall", 0.5, None, None, 4, 0)], profile=profile if name == "b" else "")
        store_run(folder / name, [made])
        (folder / name / "geneval").mkdir()
        scores = [
            Score(f"geneval/{prompt:05}/{image}", f"geneval/{prompt:05}", "", value)
            for prompt, value in enumerate(values)
            for image in range(2)
        ]
        write_scores(folder / name / "geneval", scores)
    return {"A": folder / "a", "B": folder / "b"}


def test_bare_ids_must_be_of_one_benchmark_of_drawing(tmp_path: Path) -> None:
    """GenEval's and MJHQ's prompts may both be numbered, and so are questions, which nobody judged images of."""
    for name in ("geneval", "mjhq", "vqav2"):
        run = tmp_path / "both" / name
        run.mkdir(parents=True)
        write_scores(run, [Score(f"{name}/{prompt}", f"{name}/{prompt}", "", 1.0) for prompt in range(4)])
    metric = Metric("overall", 1.0, None, None, 4, 0)
    store_run(tmp_path / "both", [record(name, [metric]) for name in ("geneval", "mjhq", "vqav2")])
    scores = read_runs({"A": tmp_path / "both", "B": tmp_path / "both"})
    with pytest.raises(BenchError, match="have the ids of geneval and mjhq: write them as geneval/ID"):
        analyse(judgments([1.0] * 4, list("0123")), scores=scores)
    named = judgments([1.0] * 4, [f"mjhq/{prompt}" for prompt in range(4)])
    assert [one.benchmark for one in only(analyse(named, scores=scores))[1].automatic] == ["mjhq"]
    one = [scores[0], scores[2]]
    found = only(analyse(judgments([1.0] * 4, list("0123")), scores=one))[1].automatic
    assert [one.benchmark for one in found] == ["geneval"]


def test_preference_is_compared_with_the_scores_of_the_same_prompts(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    first, second = rng.random(40).round(3).tolist(), rng.random(40).round(3).tolist()
    votes = [1.0 if one > other else -1.0 for one, other in zip(first, second, strict=True)]
    votes[0] = -votes[0]
    runs = two_runs(tmp_path, [*first[:39], None], second)
    for prefix in ("", "geneval/"):
        table = judgments(votes, [f"{prefix}{prompt:05}" for prompt in range(40)])
        (found,) = only(analyse(table, scores=read_runs(runs)))[1].automatic
        assert (found.prompts, found.unmatched, found.sided) == (39, 1, 39)
        assert found.same_side is not None
        assert found.same_side.value == pytest.approx(38 / 39)
        assert found.difference.difference.value == pytest.approx(np.mean(np.subtract(first, second)[:39]))
        assert found.correlation is not None
        assert found.correlation.value == pytest.approx(np.corrcoef(votes[:39], np.subtract(first, second)[:39])[0, 1])
        assert holds(found.correlation, 0.8)
    single = judgments(votes, [f"geneval/{prompt:05}/1" for prompt in range(40)])
    assert only(analyse(single, scores=read_runs(runs)))[1].automatic[0].prompts == 39


def test_scores_that_do_not_compare_or_match_are_refused(tmp_path: Path) -> None:
    scores = read_runs(two_runs(tmp_path / "one", [0.0, 1.0], [1.0, 0.0]))
    with pytest.raises(BenchError, match=r"no prompt of the judgments \(such as p\) has a score .* prompt_id must be"):
        analyse(judgments([1.0], ["p"]), scores=scores)
    with pytest.raises(BenchError, match="do not compare: the profile of geneval differs"):
        read_runs(two_runs(tmp_path / "two", [0.0], [1.0], profile="other"))
    (same,) = only(analyse(judgments([1.0, 1.0], ["00000", "00001"]), scores=scores))[1].automatic
    assert same.correlation is None
    assert "no correlation" in same.note


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"choice": "A"}, r"row 2 has a choice that is none of left, right, tie, skip \(found 'A'\)"),
        ({"kind": "test"}, "row 2 has a kind that is none of main, gold"),
        ({"prompt_id": " "}, "row 2 has no prompt_id"),
        ({"right_model": "B"}, "row 2 compares a model with itself"),
        ({"kind": "gold"}, "row 2 has a known answer: better must be left or right"),
        ({"annotator": None}, "row 2 has no annotator; leave out the column"),
        ({"stands": "perhaps"}, "row 2 must be true or false in stands"),
        ({"ms_total": "-4"}, "row 2 needs a number of 0 or more as ms_total"),
        ({"created_at": "yesterday"}, "row 2 needs a time in ISO 8601 as created_at"),
        ({"choice": "undo"}, "row 2 has a choice"),
        ({"prompt_id": "0", "annotator": "r0"}, "row 2: annotator r0 judged A and B on 0 before"),
    ],
)
def test_a_wrong_row_is_named(change: dict[str, Any], message: str) -> None:
    table = judgments(of_counts(3, 0, 0), annotator=["r0", "r1", "r2"])
    for column in change.keys() - set(table):
        table[column] = {"kind": "main", "stands": "true"}.get(column, "")
    for column, value in change.items():
        table.loc[1, column] = value
    if "stands" in table and "choice" in change:
        table = table.drop(columns="stands")
    with pytest.raises(BenchError, match=message) as refused:
        analyse(table)
    assert "\n" not in str(refused.value)


def test_tables_without_columns_votes_or_the_lead_are_refused() -> None:
    with pytest.raises(BenchError, match="lack the columns prompt_id, left_model, right_model, choice; found winner"):
        analyse(pd.DataFrame({"winner": ["A"]}))
    with pytest.raises(BenchError, match="no vote of the kind main"):
        analyse(judgments([NAN]))
    with pytest.raises(BenchError, match="there is no judgment of C; the models are A, B"):
        analyse(judgments([1.0]), lead="C")
    with pytest.raises(BenchError, match="must lie between 0 and 1, not 80"):
        analyse(judgments([1.0]), trusted_from=80)


def test_files_are_read_as_text(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    table = judgments(of_counts(2, 1, 0), ["007", "NA", "1e3"])
    table.to_csv(tmp_path / "a.csv", index=False, encoding="utf-8-sig")
    table.to_parquet(tmp_path / "a.parquet")
    for name in ("a.csv", "a.parquet"):
        assert read(tmp_path / name)["prompt_id"].tolist() == ["007", "NA", "1e3"]
        assert analyse(read(tmp_path / name)).to_json() == analyse(table).to_json()
    (tmp_path / "b.csv").write_bytes(b"prompt_id\n\xff\xfe")
    (tmp_path / "c.csv").write_text("")
    (tmp_path / "d.parquet").write_text("no")
    for name in ("b.csv", "c.csv", "d.parquet"):
        with pytest.raises(BenchError, match=rf"{name} is no table of judgments"):
            read(tmp_path / name)
    with pytest.raises(BenchError, match="there is no file"):
        read(tmp_path / "absent.csv")


def test_the_conclusion_names_who_is_preferred_and_claims_nothing_else() -> None:
    _, worse = only(analyse(judgments(of_counts(30, 70, 0))))
    assert conclusion(worse).startswith("preference: B is preferred to A, net margin +40.0 (+")
    low = only(analyse(judgments(of_counts(1, 9, 0))))[1].margin.low
    assert low is not None
    assert -1 < low < -0.9  # Student's limit would lie below -1
    _, level = only(analyse(judgments(of_counts(31, 30, 0))))
    assert conclusion(level).startswith("preference: no preference shown between A and B")
    _, sure = only(analyse(judgments(of_counts(400, 100, 0))))
    assert "p <= 1e-05 by prompt, <= 1e-05 after Holm" in conclusion(sure)


def test_reports_escape_names_and_ask_for_nothing() -> None:
    table = judgments(of_counts(5, 3, 2), annotator=list("rs") * 5).replace({"left_model": {"A": HOSTILE}})
    table["right_model"] = table["right_model"].replace({"A": HOSTILE})
    results = analyse(table.assign(criterion="visual_quality"), planned={"visual_quality": 12})
    page = html(results, HOSTILE)
    assert_self_contained(page)
    assert HOSTILE in Page(page).text
    assert "<script>alert" not in page
    assert "visual\\_quality" in markdown(results)
    assert "<script>" not in markdown(results).replace("\\<", "")
    assert text(results).splitlines()[-1].split()[:3] == ["visual_quality", "10", "12"]


def test_the_figure_shows_shares_of_votes() -> None:
    figure(analyse(judgments([0.0])).comparisons)
    results = analyse(judgments(of_counts(50, 30, 20)))
    (axes,) = figure(results.comparisons).axes
    assert [round(bar.get_width(), 6) for bar in axes.patches] == [50, 20, 30]  # type: ignore[attr-defined]
    assert [label.get_text() for label in axes.texts][:3] == ["50.0", "20.0", "30.0"]


def test_long_names_fit_under_their_bar() -> None:
    """Else matplotlib warns that no room is left for the bar."""
    long = "a model with a very long name " * 5
    results = analyse(between([("A", long, 5, 3), (long, "A", 4, 4)]))
    names = {told.get_text() for told in figure(results.comparisons).axes[0].texts}
    assert "a model with a very long name…" in names
    assert long in Page(html(results, "long")).text


def test_a_name_does_not_turn_round_what_is_said_of_it() -> None:
    table = judgments(of_counts(9, 1, 0)).replace({"A": "A\u202eevil"})
    for told in (html(analyse(table), "\u2067x"), markdown(analyse(table)), text(analyse(table))):
        assert not re.search("[\u202a-\u202e\u2066-\u2069]", told)
        assert "u202eevil" in told


def test_a_criterion_without_votes_is_named() -> None:
    table = pd.concat([judgments([1.0, -1.0]).assign(criterion="one"), judgments([NAN]).assign(criterion="other")])
    assert "other: no vote yet" in text(analyse(table))


def test_a_studys_export_has_the_columns_that_are_read() -> None:
    pytest.importorskip("sqlalchemy")
    from human_study.export import COLUMNS

    assert {*REQUIRED, *OPTIONAL} - {"item"} <= COLUMNS.keys()  # a study has one image of a model for each prompt


def test_the_docs_example_gives_the_results_it_prints(
    bench_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    annotations = bench_data / "geneval" / "annotations"
    if not annotations.is_dir():
        pytest.skip(f"{annotations} is not there")
    (tmp_path / "annotations").symlink_to(annotations)
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "study_results.md").read_text(encoding="utf-8")
    code = next(block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "to_csv" in block)
    exec(compile(code, "docs/study_results.md", "exec"), {})
    printed = re.findall(r"^preference: .*$", page, re.MULTILINE)
    assert [conclusion(one) for one in analyse(read(tmp_path / "judgments.csv")).comparisons] == printed
