"""Published numbers, checked by the arithmetic of their own tables, and the verdict beside a measured one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import pytest

from benchmarks.types import BenchError, Json, Metric
from reports.published import PAPER, RELEASED, Published, against_published, published
from tests.reports.stored import record

HUB_4B = "BLIP3o/BLIP3o-Model-4B@5fbcd30"


def rows(source: str) -> dict[str, dict[str, Published]]:
    """model -> column -> number, of the sources that hold ``source`` in their name."""
    table: dict[str, dict[str, Published]] = {}
    for value in published():
        if source in value.source:
            table.setdefault(value.model, {})[value.column.title] = value
    return table


def test_the_papers_tables_are_whole() -> None:
    understanding, generation = rows("Table 1"), rows("Table 2")
    assert (len(understanding), sum(map(len, understanding.values()))) == (14, 91)
    assert (len(generation), sum(map(len, generation.values()))) == (10, 23)
    best = {title: value.printed for title, value in understanding["BLIP3-o 8B"].items()}
    assert list(best.items()) == [
        ("VQAv2", "83.1"),
        ("MMBench", "83.5"),
        ("SEED", "77.5"),
        ("MM-Vet", "66.6"),
        ("MME-P", "1682.6"),
        ("MME-C", "647.1"),
        ("MMMU", "50.6"),
        ("RWQA", "69.0"),
        ("TextVQA", "83.1"),
    ]
    assert {title: value.value for title, value in understanding["EMU2 Chat 34B"].items()} == {
        "SEED": 62.8,
        "MM-Vet": 48.5,
        "MMMU": 34.1,
        "TextVQA": 66.6,
    }
    assert {title: value.value for title, value in generation["TokenFlow-XL 14B"].items()} == {
        "GenEval": 0.63,
        "DPG-Bench": 73.38,
    }
    released = {model: [value.value for value in row.values()] for model, row in rows(RELEASED).items()}
    assert released == {"BLIP3-o 4B": [0.81, 79.36, 0.50], "BLIP3-o 8B": [0.83, 80.73, 0.52]}


def test_no_number_is_there_twice() -> None:
    counts = Counter((value.model, value.column, value.source) for value in published())
    assert max(counts.values()) == 1


def test_geneval_readme_overall_is_the_mean_of_the_tags() -> None:
    table = rows("djghosh13/geneval")
    assert len(table) == 6
    for row in table.values():
        overall, *tags = row.values()
        assert sum(tag.value for tag in tags) / 6 == pytest.approx(overall.value, abs=2 * overall.rounding)


def weighted(row: Mapping[str, Published], weights: Mapping[str, float]) -> float:
    return sum(weight * row[f"WISE {name}"].value for name, weight in weights.items())


def test_wise_leaderboards_follow_their_weights() -> None:
    """Every number of the leaderboards enters this: a slip of the hand in one of them moves its row off its overall."""
    rest = ("biology", "physics", "chemistry")
    verified = {"culture": 0.4, "time": 0.12, "space": 0.12, **dict.fromkeys(rest, 0.12)}
    legacy = {"culture": 0.4, "time": 0.167, "space": 0.133, **dict.fromkeys(rest, 0.1)}
    for source, weights, size, exceptions in (
        ("leadboard.md", verified, 23, {"DeepGen 1.0": 0.5672}),  # printed 0.5700
        ("WISE_legacy", legacy, 37, {"BAGEL": 0.501, "OpenUni-B-512": 0.419}),  # printed unweighted means
    ):
        table = rows(source)
        assert len(table) == size
        for model, row in table.items():
            overall, value = row["WISE"], weighted(row, weights)
            if model in exceptions:
                assert value == pytest.approx(exceptions[model], abs=5e-4)
                assert abs(value - overall.value) > 2 * overall.rounding
            else:
                assert value == pytest.approx(overall.value, abs=2 * overall.rounding + 1e-9)


def compare(
    metric: Metric,
    benchmark: str = "geneval",
    profile: str = "geneval-official",
    model: str = HUB_4B,
    suite: str = "paper",
    limit: int | None = None,
    judge: Json = None,
) -> list[tuple[str, str]]:
    one = record(benchmark, [metric], judge=judge, suite=suite, profile=profile, model=model, limit=limit)
    return [(each.outcome, each.reason) for each in against_published([one])]


GENEVAL = Metric("overall", 0.8, 0.78, 0.82, n=2212, missing=0)


def test_reproduced_means_inside_the_interval_give_or_take_the_rounding() -> None:
    """BLIP3-o 4B has 0.81 in the paper and 0.81 in the README; printed with two digits it may be 0.805 or 0.815."""
    assert compare(GENEVAL) == [("reproduced", "")] * 2
    assert compare(replace(GENEVAL, low=0.8149)) == [("reproduced", "")] * 2
    assert compare(replace(GENEVAL, low=0.8151)) == [("not reproduced", "")] * 2
    assert compare(replace(GENEVAL, high=0.8051)) == [("reproduced", "")] * 2
    assert compare(replace(GENEVAL, high=0.8049)) == [("not reproduced", "")] * 2


@pytest.mark.parametrize(
    ("outcomes", "reason"),
    [
        (compare(replace(GENEVAL, n=2211, missing=1)), "1 of 2212 samples missing"),
        (compare(replace(GENEVAL, n=24), limit=24), "a part only: --limit 24"),
        (compare(replace(GENEVAL, n=2208)), "other samples: 2208 in place of 2212"),
        (compare(replace(GENEVAL, low=None, high=None)), "no interval"),
        (compare(replace(GENEVAL, value=None, low=None, high=None)), "not measured"),
        (compare(GENEVAL, profile="geneval-hf"), "other profile: geneval-official published, geneval-hf measured"),
        (compare(GENEVAL, suite="toy"), "toy suite"),
        (compare(GENEVAL, model="Janus-Pro 7b"), "the source does not say how it was measured"),
        (compare(Metric("exact_match", 0.76, 0.75, 0.77, 214_354, 0), "vqav2", "blip3o-0.3.0"), "names no split"),
        (
            compare(
                Metric("gpt_eval_score", 60, 55, 65, 218, 0, unit="points"),
                "mmvet",
                "blip3o-0.3.0",
                judge={"chat": {"model": "gpt-4o"}},
            ),
            "other judge: gpt-4-0613 published",
        ),
    ],
)
def test_what_does_not_compare_says_why(outcomes: list[tuple[str, str]], reason: str) -> None:
    assert outcomes
    for outcome, told in outcomes:
        assert outcome == "not comparable"
        assert reason in told


def test_rewritten_prompts_do_not_compare() -> None:
    one = record("geneval", [GENEVAL], suite="paper", model=HUB_4B)
    rewritten = replace(one, settings={**one.settings, "rewrite": {"file": "long.jsonl"}})
    assert {compared.reason for compared in against_published([rewritten])} == {"rewritten prompts"}


def test_the_published_judge_compares() -> None:
    metric = Metric("gpt_eval_score", 60, 55, 65, 218, 0, unit="points")
    assert compare(metric, "mmvet", "blip3o-0.3.0", judge={"chat": {"model": "gpt-4-0613"}}) == [("reproduced", "")]


@pytest.mark.parametrize(("n", "missing"), [(4256, 4), (1064, 1)])
def test_the_prompt_that_dpgs_own_script_drops_is_not_missed(n: int, missing: int) -> None:
    metric = Metric("overall", 79.0, 78.0, 80.0, n, missing, unit="percent")
    judge = {"model": "damo/mplug_visual-question-answering_coco_large_en"}
    assert compare(metric, "dpg", "dpg-official", judge=judge) == [("reproduced", "")] * 2
    fewer = replace(metric, n=n - 1, missing=missing + 1)
    assert compare(fewer, "dpg", "dpg-official", judge=judge)[0][0] == "not comparable"


def test_the_papers_8b_was_not_released_but_its_backbone_was() -> None:
    geneval = replace(GENEVAL, value=0.84, low=0.82, high=0.86)
    (paper, why), readme = compare(geneval, model="BLIP3o/BLIP3o-Model-8B")
    assert (paper, readme) == ("not comparable", ("reproduced", ""))
    assert "not public" in why
    mmmu = Metric("mmmu_acc", 0.5, 0.47, 0.53, 900, 0)
    assert compare(mmmu, "mmmu", "blip3o-0.3.0", "BLIP3o/BLIP3o-Model-8B") == [("reproduced", "")]


def test_fractions_are_compared_as_the_percent_that_was_printed() -> None:
    one = record("mmmu", [Metric("mmmu_acc", 0.478, 0.446, 0.511, 900, 0)], suite="paper", profile="blip3o-0.3.0")
    (compared,) = against_published([one], "blip3-o 4b")
    assert (compared.measured, compared.low, compared.high) == pytest.approx((47.8, 44.6, 51.1))
    assert compared.difference == pytest.approx(47.8 - 46.6)
    assert compared.published.source == f"{PAPER}, Table 1"


def test_a_toy_score_is_never_shown_beside_a_published_one() -> None:
    one = record("geneval", [GENEVAL], suite="toy")
    for compared in against_published([one], "BLIP3-o 4B"):
        assert (compared.measured, compared.low, compared.high, compared.difference) == (None,) * 4


def test_an_unknown_model_is_told_whom_to_compare_with() -> None:
    with pytest.raises(BenchError, match=r"nothing is published of toy <8M> .*Janus Pro 7B") as error:
        against_published([record("geneval", [GENEVAL])])
    assert "\n" not in str(error.value)
    with pytest.raises(BenchError, match="nothing is published of Chameleon 7B"):
        against_published([record("vqav2", [Metric("exact_match", 0.5, 0.4, 0.6, 9, 0)])], "Chameleon 7B")
