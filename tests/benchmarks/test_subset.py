"""Which samples the suite ``ci`` takes: by the largest remainder, whole groups, the same ones always."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks import catalog, runner
from benchmarks.subset import Subset, shares, stratified
from benchmarks.types import Sample
from benchmarks.work import Part, Settings
from tests.fakes import FakeBenchmark, FakeGenerator


@pytest.mark.parametrize(
    ("sizes", "total", "expected"),
    [
        # The worked example of Wikipedia's page on the method (Hare quota).
        ([47000, 16000, 15900, 12000, 6000, 3100], 10, [5, 2, 1, 1, 1, 0]),
        ([53, 40, 7], 10, [5, 4, 1]),
        ([1, 1, 1], 2, [1, 1, 0]),  # equal remainders: the earlier ones
        ([80, 99, 80, 94, 100, 100], 250, [36, 45, 36, 43, 45, 45]),  # GenEval's prompts: .166 .756 .166 .495 .208 .208
        ([5, 0, 3], 8, [5, 0, 3]),
        ([4, 4], 0, [0, 0]),
    ],
)
def test_seats_go_by_the_largest_remainder(sizes: list[int], total: int, expected: list[int]) -> None:
    assert shares(sizes, total) == expected
    assert sum(expected) == total


def test_more_seats_than_members_are_refused() -> None:
    with pytest.raises(ValueError, match="9 of 8 cannot be chosen"):
        shares([5, 3], 9)


def samples(strata: Mapping[str, int], each: int = 2) -> list[Sample]:
    return [
        Sample(f"{stratum}{group}/{number}", "", group=f"{stratum}{group}", stratum=stratum)
        for stratum, groups in strata.items()
        for group in range(groups)
        for number in range(each)
    ]


def test_whole_groups_are_drawn_in_proportion_and_stay_in_order() -> None:
    everything = samples({"a": 60, "b": 30, "c": 10})
    chosen = stratified(everything, 10)
    assert Counter(sample.stratum for sample in chosen) == {"a": 12, "b": 6, "c": 2}
    assert set(Counter(sample.group for sample in chosen).values()) == {2}
    assert chosen == [sample for sample in everything if sample in chosen]
    groups = sorted({f"b{i}" for i in range(30)}, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    assert {sample.group for sample in chosen if sample.stratum == "b"} == set(groups[:3])


def test_neither_order_nor_other_strata_change_what_is_drawn() -> None:
    one = stratified(samples({"a": 20, "b": 20}), 10)
    other = stratified(list(reversed(samples({"b": 20, "a": 20}))), 10)
    assert {sample.id for sample in one} == {sample.id for sample in other}
    wider = stratified(samples({"a": 20, "b": 20, "c": 20}), 15)
    assert [sample for sample in wider if sample.stratum != "c"] == one


def test_a_group_counts_to_the_stratum_of_its_first_sample() -> None:
    mixed = [Sample("1", "", "g", "a"), Sample("2", "", "g", "b"), Sample("3", "", "h", "b")]
    assert [sample.id for sample in stratified(mixed, 2)] == ["1", "2", "3"]
    assert len(stratified(mixed, 99)) == 3


def test_a_run_of_a_subset_records_which_and_scores_the_same(tmp_path: Path) -> None:
    whole, subset = FakeBenchmark(groups=12), Subset(FakeBenchmark(groups=12), 6)
    settings = Settings(suite="ci")
    (record,) = runner.run(tmp_path / "part", [subset], FakeGenerator(), settings, Part()) or []
    chosen = "\n".join(sample.id for sample in subset.samples())
    assert record.settings["subset"] == {
        "groups": 6,
        "samples": 12,
        "ids_sha256": hashlib.sha256(chosen.encode()).hexdigest(),
    }
    assert (record.metrics[0].n, record.judge) == (12, {"name": "reader"})
    assert Counter(sample.stratum for sample in subset.samples()) == {"a": 4, "b": 4, "c": 4}
    runner.run(tmp_path / "whole", [whole], FakeGenerator(), settings, Part())
    of_whole = set((tmp_path / "whole" / "fake" / "scores.jsonl").read_text().splitlines())
    assert of_whole > set((tmp_path / "part" / "fake" / "scores.jsonl").read_text().splitlines())


def test_the_ci_suite_is_a_part_of_the_paper_suite() -> None:
    assert set(catalog.SUITES["ci"]) == set(catalog.SUITES["paper"]) - {"mjhq"}
    assert {name for suite, name in catalog.BENCHMARKS if suite == "ci"} == set(catalog.SUITES["ci"])


def test_the_ci_part_of_geneval(bench_data: Path) -> None:
    """The tags in the proportions of the 553 official prompts, four images of each prompt."""
    benchmark = catalog.load("ci", "geneval", catalog.Data(bench_data))
    assert Counter(sample.stratum for sample in benchmark.samples()) == {
        "single_object": 4 * 36,
        "two_object": 4 * 45,
        "counting": 4 * 36,
        "colors": 4 * 43,
        "position": 4 * 45,
        "color_attr": 4 * 45,
    }


def test_the_ci_part_of_wise(bench_data: Path) -> None:
    """Of the 1000 prompts 400 are of culture, and 120 of each of the other categories."""
    benchmark = catalog.load("ci", "wise", catalog.Data(bench_data))
    assert Counter(sample.stratum for sample in benchmark.samples()) == {
        "culture": 100,
        **dict.fromkeys(("time", "space", "biology", "physics", "chemistry"), 30),
    }
