from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from benchmarks.types import BenchError
from human_study import design
from human_study.design import Block, Design, gold_pairs, kind_at, pairs, tasks

PLAN = Design(title="test", models=("a", "b"), rounds=2, judgments_per_pair=4)
PROMPTS = [f"p{number}" for number in range(40)]


def test_the_default_asks_about_3000_judgments_of_each_of_the_papers_criteria() -> None:
    plan = Design(title="paper", models=("BLIP3-o 8B", "Janus Pro 7B"))
    planned = tasks(plan, pairs([str(number) for number in range(1065)], plan.models))  # DPG-Bench's prompts
    assert Counter(task.criterion for task in planned) == {"visual_quality": 3195, "prompt_alignment": 3195}


def test_sides_are_balanced_over_each_criterion_and_round_and_each_pair() -> None:
    planned = tasks(PLAN, pairs(PROMPTS, PLAN.models))
    assert len(planned) == 40 * 2 * 2 * 4
    for criterion in PLAN.criteria:
        for round_ in range(2):
            own = sorted(
                (task for task in planned if task.criterion == criterion.key and task.round == round_),
                key=lambda task: task.order,
            )
            assert [task.order for task in own] == list(range(160))
            assert sum(task.swapped for task in own) == 80
            assert sum(task.swapped for task in own if task.slot == 0) == 20
            assert all(sum(t.swapped for t in own if t.pair == pair) == 2 for pair in range(40))


def test_one_judgment_per_pair_has_the_sides_swapped_in_the_second_round() -> None:
    planned = tasks(replace(PLAN, judgments_per_pair=1), pairs(PROMPTS, PLAN.models))
    sides = {(task.criterion, task.round, task.pair): task.swapped for task in planned}
    assert all(sides[criterion, 0, pair] != sides[criterion, 1, pair] for criterion, _, pair in sides)


def test_each_of_three_models_stands_left_as_often_as_right() -> None:
    models = ("a", "b", "c")
    of = pairs(PROMPTS, models)
    assert len(of) == 3 * 40
    left = Counter(
        of[task.pair].second if task.swapped else of[task.pair].first
        for task in tasks(replace(PLAN, models=models, rounds=1, judgments_per_pair=1), of)
    )
    assert left == dict.fromkeys(models, 80)  # of 2 criteria x 80 appearances


def test_the_seed_decides_order_and_sides() -> None:
    of = pairs(PROMPTS, PLAN.models)
    assert tasks(PLAN, of) == tasks(PLAN, of)
    assert tasks(PLAN, of) != tasks(replace(PLAN, seed=1), of)


def test_sides_come_in_blocks_of_four() -> None:
    sides = [design.side_at(position, "key") for position in range(400)]
    assert all(sum(sides[start : start + 4]) == 2 for start in range(0, 400, 4))
    assert len({tuple(sides[start : start + 4]) for start in range(0, 400, 4)}) == 6  # all orders occur


def test_annotators_begin_with_the_criteria_in_turn_and_never_mix_them() -> None:
    quality, alignment = (criterion.key for criterion in PLAN.criteria)
    assert design.blocks(PLAN, 0) == [Block(quality, 0), Block(alignment, 0), Block(quality, 1), Block(alignment, 1)]
    assert design.blocks(PLAN, 1) == [Block(alignment, 0), Block(quality, 0), Block(alignment, 1), Block(quality, 1)]
    assert design.blocks(PLAN, 2) == design.blocks(PLAN, 0)


def test_gold_and_repeats_come_once_in_so_many_judgments() -> None:
    plan = replace(PLAN, gold_every=10, repeat_every=25)
    kinds = [kind_at(plan, 3, Block("visual_quality", 0), position) for position in range(500)]
    repeats = [position for position, kind in enumerate(kinds) if kind == "repeat"]
    assert [position // 25 for position in repeats] == list(range(20))
    assert 45 <= kinds.count("gold") <= 50  # a repeat takes a gold pair's place now and then
    assert kind_at(replace(plan, repeat_every=0), 3, Block("visual_quality", 0), repeats[0]) != "repeat"


def test_the_worse_image_of_gold_is_of_another_prompt_where_the_prompt_is_shown() -> None:
    made = gold_pairs(PLAN, PROMPTS)
    assert Counter((pair.criterion, pair.kind) for pair, _ in made) == {
        (criterion, kind): number
        for criterion in ("visual_quality", "prompt_alignment")
        for kind, number in (("gold", 10), ("qualification", 4), ("example", 1))
    }
    for pair, other in made:
        assert (other == pair.prompt) == (pair.criterion == "visual_quality")
    better = Counter(pair.first for pair, _ in made)
    assert abs(better["a"] - better["b"]) <= 2  # in turn within each criterion


def test_gold_of_the_model_that_is_trusted() -> None:
    assert {pair.first for pair, _ in gold_pairs(replace(PLAN, gold_from="b"), PROMPTS)} == {"b"}


def test_gold_needs_as_many_prompts() -> None:
    with pytest.raises(BenchError, match="14 gold and qualification pairs of each criterion need as many prompts"):
        gold_pairs(PLAN, PROMPTS[:13])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": ("a",)}, "two models or more"),
        ({"models": ("a", "a")}, "different names"),
        ({"criteria": ()}, "there must be one"),
        ({"gold_from": "c"}, "no such model"),
        ({"rounds": 0}, "start at 1"),
        ({"gold": -1}, "start at 0"),
        ({"qualification_passes": 5}, "more qualification pairs to pass than asked"),
        ({"lease_minutes": 0}, "must be positive"),
        ({"pixels": 4}, "16 pixels or more"),
    ],
)
def test_designs_that_cannot_be_carried_out_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(BenchError, match=message):
        replace(PLAN, **change)  # type: ignore[arg-type]


def test_a_design_survives_its_json() -> None:
    assert Design.from_json(PLAN.to_json()) == PLAN
