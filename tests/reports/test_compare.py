"""Two stored runs: the difference in each metric's own unit, its test, and what refuses to be compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from benchmarks.catalog import BENCHMARKS
from benchmarks.store import write_image, write_scores
from benchmarks.types import BenchError, Metric, Prediction, Sample
from reports import compare
from reports.composition import RULES, compose, pair
from reports.statistics import clustered_mean
from tests.reports.pairs import metrics, scores, simple, store
from tests.reports.stored import HOSTILE, Page, assert_self_contained, record


def compared(runs: Sequence[Path]) -> compare.ComparedRuns:
    return compare.compare(runs[0], runs[1])


def only(found: compare.ComparedRuns, name: str = "") -> compare.MetricDifference:
    (one,) = [one for one in found.metrics if not name or one.metric == name]
    return one


def test_binary_independent_samples_get_the_exact_mcnemar_test(tmp_path: Path) -> None:
    # 9 samples only the first has right, 2 only the second: the exact p is the binomial test's of 2 in 11.
    first = simple(tmp_path / "a", [1.0] * 9 + [0.0] * 2 + [1.0] * 20 + [0.0] * 9)
    second = simple(tmp_path / "b", [0.0] * 9 + [1.0] * 2 + [1.0] * 20 + [0.0] * 9)
    one = only(compare.compare(first, second))
    assert (one.first, one.second) == (29 / 40, 22 / 40)
    assert one.difference == pytest.approx(-7 / 40)
    assert one.p == pytest.approx(stats.binomtest(2, 11).pvalue)
    assert (one.test, one.n, one.missing) == ("exact McNemar", 40, 0)
    assert one.low is not None
    assert one.high is not None
    assert -1 < one.low < -7 / 40 < one.high < 1


@pytest.mark.parametrize("left_right", [True, False])
def test_samples_that_one_run_lacks_leave_both_and_are_counted(tmp_path: Path, left_right: bool) -> None:
    whole, holed = [1.0, 0.0, 1.0, 1.0], [1.0, None, 1.0, 0.0]
    runs = (whole, holed) if left_right else (holed, whole)
    one = only(compare.compare(simple(tmp_path / "a", runs[0]), simple(tmp_path / "b", runs[1])))
    assert (one.n, one.missing) == (3, 1)
    assert one.difference == pytest.approx(-1 / 3 if left_right else 1 / 3)
    assert {one.first, one.second} == {3 / 4, 2 / 3}  # each run's own, as its report prints it


def test_groups_are_the_unit(tmp_path: Path) -> None:
    """Eight samples change, but in two groups: of four sign patterns two are as extreme."""
    rows = [(str(at // 4), "", 1.0) for at in range(40)]
    worse = [(group, "", 0.0 if int(group) < 2 else 1.0) for group, _, _ in rows]
    runs = [
        store(tmp_path / name, [(record("textvqa", metrics({"exact_match": mean}, own)), own)])
        for name, mean, own in (("a", 1.0, scores("textvqa", rows)), ("b", 0.8, scores("textvqa", worse)))
    ]
    one = only(compared(runs))
    assert (one.p, one.test) == (0.5, "exact sign-flip by group")


def test_geneval_is_the_mean_of_its_tags_and_each_tag_is_a_metric(tmp_path: Path) -> None:
    first = scores(
        "geneval", [(f"a{at}", "colors", 1.0) for at in range(8)] + [("b0", "counting", 1.0), ("b1", "counting", 0.0)]
    )
    second = scores(
        "geneval",
        [(f"a{at}", "colors", float(at > 1)) for at in range(8)] + [("b0", "counting", 1.0), ("b1", "counting", 0.0)],
    )
    runs = [
        store(
            tmp_path / "a",
            [(record("geneval", metrics({"overall": 0.75, "colors": 1.0, "counting": 0.5}, first)), first)],
        ),
        store(
            tmp_path / "b",
            [(record("geneval", metrics({"overall": 0.625, "colors": 0.75, "counting": 0.5}, second)), second)],
        ),
    ]
    found = {one.metric: one for one in compared(runs).metrics}
    assert {name: one.difference for name, one in found.items()} == pytest.approx(
        {"overall": -0.125, "colors": -0.25, "counting": 0.0}
    )
    assert {name: one.n for name, one in found.items()} == {"overall": 10, "colors": 8, "counting": 2}
    assert found["overall"].headline
    assert not found["colors"].headline


def test_mme_adds_up_image_marks_over_the_categories_that_are_listed(tmp_path: Path) -> None:
    """An image has 50 marks for one question right and 200 for both; a category is the mean, a score their sum."""

    def run(name: str, existence: list[float | None], poster: list[float | None], code: list[float | None]) -> Path:
        rows = [
            (f"{stratum}{at // 2}", stratum, value)
            for stratum, values in (("existence", existence), ("posters", poster), ("code_reasoning", code))
            for at, value in enumerate(values)
        ]
        own = scores("mme", rows)
        marks = [_marks(existence), _marks(poster), _marks(code)]
        values = {
            "mme_perception_score": marks[0] + marks[1],
            "mme_cognition_score": marks[2],
            "mme_perception_score.existence": marks[0],
            "mme_perception_score.posters": marks[1],
            "mme_cognition_score.code_reasoning": marks[2],
        }
        return store(tmp_path / name, [(record("mme", metrics(values, own, "points")), own)])

    def _marks(values: list[float | None]) -> float:
        whole = [pair for pair in zip(values[::2], values[1::2], strict=True) if None not in pair]
        return sum({0: 0.0, 1: 50.0, 2: 200.0}[int(sum(v or 0 for v in pair))] for pair in whole) / len(whole)

    first = run("a", [1, 1, 1, 1, 0, 0], [1, 0, 1, 1], [1, 1, 0, 0])
    second = run("b", [1, 1, 1, 0, 1, None], [1, 0, 1, 0], [1, 1, 0, 1])
    found = {one.metric: one for one in compare.compare(first, second).metrics}
    # The image with an open question leaves both runs: existence falls from 200 to 125 on the other two.
    assert found["mme_perception_score.existence"].difference == pytest.approx(-75)
    assert found["mme_perception_score.posters"].difference == pytest.approx(-75)
    assert found["mme_perception_score"].difference == pytest.approx(-150)
    assert found["mme_cognition_score"].difference == pytest.approx(25)
    assert (found["mme_perception_score"].n, found["mme_perception_score"].missing) == (8, 2)
    assert all(one.test != "none" for one in found.values())


def test_mmbench_counts_questions_with_all_rotations_right(tmp_path: Path) -> None:
    def run(name: str, values: list[float], score: float) -> Path:
        own = scores("mmbench", [(str(at // 2), "logic", value) for at, value in enumerate(values)])
        named = {"gpt_eval_score": score, "gpt_eval_score.logic": score}
        return store(tmp_path / name, [(record("mmbench", metrics(named, own, "percent")), own)])

    first = run("a", [1, 1, 1, 1, 1, 0, 1, 1], 75.0)
    second = run("b", [1, 1, 1, 0, 0, 0, 1, 1], 50.0)
    for one in compare.compare(first, second).metrics:
        assert one.difference == pytest.approx(-25)
        assert (one.n, one.test) == (8, "exact McNemar")


def test_wise_weighs_its_categories_and_needs_all_of_them(tmp_path: Path) -> None:
    """400 of a thousand prompts are about culture; a loss of one half there is one of 0.2."""
    names = ("culture", "time", "space", "biology", "physics", "chemistry")
    rows = [(f"{name}{at}", name, 1.0) for name in names for at in range(4)]
    worse = [(group, name, 0.0 if group in ("culture0", "culture1") else 1.0) for group, name, _ in rows]

    def run(name: str, rows: list[tuple[str, str, float]], score: float | None) -> Path:
        own = scores("wise", rows)
        return store(tmp_path / name, [(record("wise", metrics({"wiscore": score}, own), profile="wise-legacy"), own)])

    assert only(compare.compare(run("a", rows, 1.0), run("b", worse, 0.8))).difference == pytest.approx(-0.2)
    fewer = compare.compare(run("c", rows[:-4], None), run("d", worse[:-4], None))
    assert (only(fewer).difference, only(fewer).p) == (None, None)
    assert "no sample counts in both runs, or a stratum has none" in only(fewer).note


def test_mmvet_gives_each_capability_all_questions_that_need_it(tmp_path: Path) -> None:
    rows = [("0", "ocr,math", 0.5), ("1", "ocr", 1.0), ("2", "rec", 0.0)]
    named = {"gpt_eval_score": 50.0, "gpt_eval_score.ocr": 75.0, "gpt_eval_score.math": 50.0, "judge_noise": 1.0}
    own = scores("mmvet", rows)
    run = store(tmp_path / "a", [(record("mmvet", metrics(named, own, "points")), own)])
    found = {one.metric: one for one in compare.compare(run, run).metrics}
    assert {name: one.n for name, one in found.items()} == {
        "gpt_eval_score": 3,
        "gpt_eval_score.ocr": 2,
        "gpt_eval_score.math": 1,
        "judge_noise": 3,
    }
    assert found["judge_noise"].note == "no score per sample is stored of it"


def test_dpg_takes_the_prompt_as_the_unit(tmp_path: Path) -> None:
    """A prompt with one image counts as much as one with two, as in the official score."""

    def run(name: str, last: float, score: float) -> Path:
        own = scores("dpg", [("0", "", 1.0), ("0", "", 0.5), ("1", "", last)])
        return store(tmp_path / name, [(record("dpg", metrics({"overall": score}, own, "percent")), own)])

    assert only(compare.compare(run("a", 1.0, 87.5), run("b", 0.5, 62.5))).difference == pytest.approx(-25)


def test_dpg_categories_are_means_of_answers_and_resampled_by_prompt(tmp_path: Path) -> None:
    """Three answers of the first prompt turn to no, and two of the fourth to yes; a prompt has three at most."""
    yes = {"a": [3, 1, 0, 0], "b": [0, 1, 0, 2]}
    number = [3, 1, 2, 2]

    def run(name: str, lost: Sequence[int] = ()) -> Path:
        own = [
            replace(score, value=None, parts={}) if at in lost else replace(score, parts={"entity": [told, asked]})
            for at, (score, told, asked) in enumerate(
                zip(scores("dpg", [(str(at), "", 0.5) for at in range(4)]), yes[name[0]], number, strict=True)
            )
        ]
        told = sum(score.parts["entity"][0] for score in own if score.parts)
        asked = sum(score.parts["entity"][1] for score in own if score.parts)
        named = metrics({"overall": 50.0, "entity": 100 * told / asked}, own, "percent")
        return store(tmp_path / name, [(record("dpg", named), own)])

    one = only(compared([run("a"), run("b")]), "entity")
    assert (one.first, one.second, one.difference) == (50.0, 37.5, -12.5)
    # The prompts' sums -3 and 2: of four sign patterns all are at least 1 from 0.
    assert (one.test, one.p, one.p_holm, one.n, one.missing) == ("exact sign-flip by group", 1.0, 1.0, 4, 0)
    estimate = clustered_mean([-1.0] * 3 + [0.0] * 3 + [1.0] * 2, [0, 0, 0, 1, 2, 2, 3, 3])
    assert (one.low, one.high) == pytest.approx((estimate.scaled(100).low, estimate.scaled(100).high))
    short = only(compared([run("a2", lost=[0]), run("b2")]), "entity")
    assert short.difference == pytest.approx(40.0)
    assert (short.n, short.missing) == (3, 1)


def test_a_sample_with_another_number_of_answers_is_not_compared(tmp_path: Path) -> None:
    first, second = (
        [replace(score, parts={"entity": part})]
        for score, part in zip(scores("dpg", [("0", "", 1.0)] * 2)[:1] * 2, ([2, 2], [1, 1]), strict=True)
    )
    assert np.isnan(pair(first, second).parts["entity"].first).all()


def test_categories_that_tell_nothing_are_named(tmp_path: Path) -> None:
    """Nothing changes in colors, so that it adds no error; then position has one prompt with two images."""

    def run(name: str, colors: list[float], position: list[float]) -> Path:
        tags = {"colors": colors, "position": position}
        own = scores(
            "geneval",
            [(f"{tag}{at // 2}", tag, value) for tag, values in tags.items() for at, value in enumerate(values)],
        )
        values = {tag: float(np.mean(values)) for tag, values in tags.items()}
        stored = metrics({"overall": sum(values.values()) / 2, **values}, own)
        return store(tmp_path / name, [(record("geneval", stored), own)])

    same = compare.compare(run("a", [1, 0, 1, 0], [1, 1, 0, 1]), run("b", [1, 0, 1, 0], [0, 1, 0, 1]))
    assert only(same, "overall").note == "no spread in colors, which add nothing to the error"
    lone = compare.compare(run("c", [1, 0, 1, 1], [1, 1]), run("d", [1, 1, 1, 1], [0, 1]))
    assert only(lone, "overall").note == "stratum 'position' has one group only: no interval"
    assert only(lone, "position").note == "one group only: no interval"


def test_a_run_compared_with_itself_has_no_difference(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    own = scores(
        "geneval", [(str(at // 4), "colors" if at < 60 else "position", float(rng.random() < 0.6)) for at in range(100)]
    )
    means = {tag: float(np.mean([s.value for s in own if s.stratum == tag])) for tag in ("colors", "position")}
    fid = Metric("fid", 12.5, 12.0, 13.0, 5, 0, higher_is_better=False, unit="FID")
    run = store(
        tmp_path / "run",
        [
            (record("geneval", metrics({"overall": sum(means.values()) / 2, **means}, own)), own),
            (record("mjhq", [fid]), scores("mjhq", [(str(at), "art", None) for at in range(5)])),
        ],
    )
    found = compare.compare(run, run)
    assert len(found.metrics) == 4
    assert all((one.difference, one.p, one.p_holm) == (0, 1, 1) for one in found.metrics)
    assert not any(found.flips.values())


def test_what_no_score_is_stored_of_has_a_difference_and_no_test(tmp_path: Path) -> None:
    runs = []
    for name, value in (("a", 12.5), ("b", 11.0)):
        fid = Metric("fid", value, None, None, 3, 0, higher_is_better=False, unit="FID")
        own = scores("mjhq", [(str(at), "art", None) for at in range(3)])
        runs.append(store(tmp_path / name, [(record("mjhq", [fid]), own)]))
    found = compared(runs)
    one = only(found)
    assert (one.difference, one.low, one.p, one.p_holm, one.test) == (-1.5, None, None, None, "none")
    assert "none: no score per sample is stored of it" in compare.text(found)


def test_a_stored_value_that_its_scores_do_not_give_is_not_tested(tmp_path: Path) -> None:
    run = simple(tmp_path / "a", [1.0, 0.0])
    write_scores(run / "realworldqa", scores("realworldqa", [("0", "", 1.0), ("1", "", 1.0)]))
    one = only(compare.compare(run, simple(tmp_path / "b", [1.0, 1.0])))
    assert (one.p, one.test) == (None, "none")
    assert one.note == "its stored value, 0.500, is not what the stored scores give: 1.000"


def test_a_collapse_without_spread_is_tested(tmp_path: Path) -> None:
    """All 60 samples in 30 groups lose the same: there is no standard error, but all groups have one sign."""
    runs = [
        store(tmp_path / name, [(record("textvqa", metrics({"exact_match": value}, own)), own)])
        for name, value in (("a", 1.0), ("b", 0.0))
        if (own := scores("textvqa", [(str(at // 2), "", value) for at in range(60)]))
    ]
    one = only(compared(runs))
    assert one.difference == -1
    assert one.p == pytest.approx(1e-4)  # 1 / (1 + 9999) sign patterns: none else is as extreme


def test_holm_corrects_headlines_and_parts_apart(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    runs = []
    for name, chance in (("a", 0.9), ("b", 0.6)):
        drawn = [float(rng.random() < chance) for _ in range(90)]
        own = scores(
            "vqav2", [(str(at), ("yes/no", "number", "other")[at % 3], value) for at, value in enumerate(drawn)]
        )
        values = {"exact_match": float(np.mean(drawn))}
        values |= {
            f"exact_match.{part}": float(np.mean(drawn[at::3])) for at, part in enumerate(("yes/no", "number", "other"))
        }
        runs.append(store(tmp_path / name, [(record("vqav2", metrics(values, own)), own)]))
    found = {one.metric: one for one in compared(runs).metrics}
    assert found["exact_match"].p_holm == found["exact_match"].p  # alone in its family
    parts = sorted((one for one in found.values() if not one.headline), key=lambda one: one.p or 0)
    assert parts[0].p_holm == pytest.approx(3 * (parts[0].p or 0))
    assert [one.p_holm for one in parts] == sorted(one.p_holm or 0 for one in parts)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"profile": "blip3o-0.3.0"}, "profile is realworldqa-official and blip3o-0.3.0"),
        ({"data": {"sha256": "other"}}, "data.sha256 is cd34 and other"),
        ({"suite": "paper"}, "suite is toy and paper"),
        ({"settings": {"steps": 20, "limit": 3}}, "limit is null and 3"),
        ({"seed": 8}, "seed is 7 and 8"),
        ({"version": "2"}, "version is 1 and 2"),
        ({"judge": {"name": "gpt"}}, "judge.name is not there and gpt"),
    ],
)
def test_unlike_runs_need_force(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    first, second = simple(tmp_path / "a", [1.0, 0.0]), simple(tmp_path / "b", [1.0, 1.0], **changes)
    with pytest.raises(BenchError) as refused:
        compare.compare(first, second)
    assert named in str(refused.value)
    assert "--force" in str(refused.value)
    forced = compare.compare(first, second, force=True)
    assert only(forced).difference == 0.5
    assert named in compare.text(forced)


def test_models_and_machines_may_differ(tmp_path: Path) -> None:
    other: dict[str, Any] = {"model": {"name": "another"}, "hardware": {"cores": 64}, "packages": {}, "code": {}}
    found = compare.compare(simple(tmp_path / "a", [1.0]), simple(tmp_path / "b", [1.0], **other))
    assert not found.unlike


def test_runs_without_a_common_benchmark_or_not_complete_are_refused(tmp_path: Path) -> None:
    first, second = simple(tmp_path / "a", [1.0]), simple(tmp_path / "b", [1.0], benchmark="textvqa")
    with pytest.raises(BenchError, match="share no benchmark"):
        compare.compare(first, second)
    (second / "run.json").unlink()
    with pytest.raises(BenchError, match="no complete run"):
        compare.compare(first, second)


def test_a_sample_in_another_group_is_refused() -> None:
    with pytest.raises(BenchError, match="x/0 has another group"):
        pair(scores("x", [("0", "", 1.0)]), scores("x", [("1", "", 1.0)]))


def test_pairs_keep_samples_that_one_run_has_alone() -> None:
    both = pair(scores("x", [("0", "", 1.0)]), scores("x", [("0", "", 0.0), ("1", "", 1.0)]))
    assert both.ids == ["x/0", "x/1"]
    np.testing.assert_array_equal(both.first, [1, np.nan])
    np.testing.assert_array_equal(both.second, [0, 1])


def test_every_benchmark_with_scores_has_a_rule() -> None:
    without = {name for _, name in BENCHMARKS} - set(RULES)
    assert without <= {"mjhq", "vqav2_test"}  # a distance between sets of images; a split without public answers
    assert compose(record("unknown", []), pair([], [])) == {}


def test_flips_are_listed_in_both_directions(tmp_path: Path) -> None:
    found = compare.compare(
        simple(tmp_path / "a", [1.0, 0.0, 1.0, 0.3, None]), simple(tmp_path / "b", [0.0, 1.0, 1.0, 0.9, 1.0])
    )
    assert [(flip.first.id, flip.change) for flip in found.flips["realworldqa"]] == [
        ("realworldqa/0", "worse"),
        ("realworldqa/1", "better"),
        ("realworldqa/3", "better"),
    ]
    assert "realworldqa: 2 samples flipped to right, 1 to wrong: realworldqa/0, realworldqa/1" in compare.text(found)
    told = json.loads(compare.to_json(found))
    assert told["flips"]["realworldqa"][0] == {"id": "realworldqa/0", "first": 1.0, "second": 0.0}
    assert told["metrics"][0]["metric"] == "exact_match"


def test_the_page_shows_both_answers_and_escapes_them(tmp_path: Path) -> None:
    from PIL import Image

    first, second = simple(tmp_path / "a", [1.0, 1.0]), simple(tmp_path / "b", [0.0, 1.0])
    asked = Sample("realworldqa/0", HOSTILE, "g", images=(lambda: Image.new("RGB", (8, 8)),), meta={"answer": "B"})
    page = Page(source := compare.html(compare.compare(first, second), {"realworldqa": [asked]}))
    assert_self_contained(source)
    assert "reply 1.0" in page.text
    assert "reply 0.0" in page.text
    assert HOSTILE in page.text
    assert len(page.all("article", "worse")) == 1
    assert len(page.all("img")) == 1


def test_the_page_shows_both_images(tmp_path: Path) -> None:
    from io import BytesIO

    from PIL import Image

    from benchmarks.store import Shard, shard_path

    runs = []
    for name, value in (("a", 1.0), ("b", 0.0)):
        run = simple(tmp_path / name, [value])
        buffer = BytesIO()
        Image.new("RGB", (8, 8), "red" if value else "blue").save(buffer, "PNG")
        path = write_image(run / "realworldqa", "realworldqa/0", buffer.getvalue(), ".png")
        with Shard(shard_path(run / "realworldqa", Prediction, 0)) as shard:
            shard.append([Prediction("realworldqa/0", 1, 0.1, image=path)])
        runs.append(run)
    images = Page(compare.html(compared(runs))).all("img")
    assert len({image["src"] for image in images}) == 2
    (runs[0] / "realworldqa" / path).unlink()
    page = Page(compare.html(compared(runs)))
    assert len(page.all("img")) == 1
    assert f"the image {path} is not there" in page.text


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    runs = [simple(tmp_path / name / "run", [value]) for name, value in (("old", 1.0), ("new", 0.0))]
    assert f"{runs[1]} compared with {runs[0]}" in Page(compare.html(compared(runs))).text
