"""The manifest of the committed weights, its cards, and held-out scores."""

import dataclasses
import json
from pathlib import Path

import pytest

from benchmarks.shapes.training import understanding
from model import cards, held_out
from model.cards import Card, File, Repeated, Score, Trained
from model.recipe import RecipeError
from tests.model import tiny

ROOT = Path(__file__).parents[2]
MANIFEST = ROOT / "docs" / "toy_model.json"
SHARE, ERROR = Score("answers", 0.9, True, 100, 0.03), Score("error", 0.01, False, 100, 0.2)
RUN = Trained("recipes/vae.toml", 11, 1500, 12.5, "a machine")


def test_every_committed_weight_is_in_the_manifest_as_it_is() -> None:
    listed = {file.path: file for card in cards.read(MANIFEST) for file in card.files}
    committed = [*(ROOT / "model" / "toy").rglob("*.safetensors"), *(ROOT / "benchmarks").rglob("*.safetensors")]
    assert listed == {file.path: file for file in (cards.file_of(path, ROOT) for path in committed)}


def test_the_cards_are_those_of_the_manifest() -> None:
    assert MANIFEST.with_suffix(".md").read_text() == cards.page(cards.read(MANIFEST))


def test_every_recipe_of_the_manifest_is_there_and_every_score_was_measured() -> None:
    for card in cards.read(MANIFEST):
        assert card.trained
        assert all((ROOT / run.recipe).is_file() for run in card.trained)
        assert all(score.n > 0 for score in card.held_out)


@pytest.mark.parametrize(
    ("score", "value", "agrees"),
    [
        (SHARE, 0.871, True),
        (SHARE, 0.869, False),
        (SHARE, 1.0, True),
        (SHARE, None, False),
        (ERROR, 0.0119, True),
        (ERROR, 0.0121, False),
        (ERROR, 0.0, True),
    ],
)
def test_a_repetition_may_be_worse_by_the_tolerance(score: Score, value: float | None, agrees: bool) -> None:
    assert Repeated("part", score, value).agrees is agrees


def test_what_was_not_measured_is_told() -> None:
    card = Card("vae", "", (), (RUN,), (SHARE, ERROR))
    assert [one.value for one in cards.repeated([card], {"error": (0.02, 9)})] == [None, 0.02]


def test_a_renewed_card_has_the_files_the_scores_and_the_runs(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"abc")
    first, second, gone = (
        Trained(f"{name}.toml", 1, 2, 3.0, "m", note="of it") for name in ("first", "second", "gone")
    )
    (tmp_path / "first.toml").write_text(tiny.toml(tiny.recipe("vae", tmp_path)))
    joint = tiny.recipe("generator", tmp_path, backbone="joint")
    (tmp_path / "second.toml").write_text(tiny.toml(joint))
    card = Card("backbone", "what", (File("weights", 0, ""),), (gone, first), (ERROR,))
    again = dataclasses.replace(first, steps=9, note="")
    new = cards.renewed(card, tmp_path, [again, second], {"error": (0.123456, 7)})
    # FIPS 180-2's example
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert new.files == (File("weights", 3, digest),)
    assert new.trained == (again, second)
    assert new.held_out == (Score("error", 0.1235, False, 7, 0.2),)
    decoder = dataclasses.replace(card, part="decoder")
    assert cards.renewed(decoder, tmp_path, [second], {"error": (0.1, 7)}).trained == (first,)


def test_cards_are_read_as_they_were_written(tmp_path: Path) -> None:
    made = [Card("vae", "what", (File("a", 1, "b"),), (RUN,), (SHARE, ERROR))]
    cards.write(made, tmp_path / "cards.json")
    assert cards.read(tmp_path / "cards.json") == made
    text = cards.page(made)
    assert "12 minutes" in text
    assert "| answers | 0.9 | 100 | 0.87 |" in text


def test_training_time_is_that_of_the_logged_rates(tmp_path: Path) -> None:
    (tmp_path / "step-000004").mkdir()
    state = {"step": 4, "recipe": {"seed": 5, "batch_size": 30}}
    (tmp_path / "step-000004" / "state.json").write_text(json.dumps(state))
    lines = [{"step": 2, "samples_per_second": 0.5}, {"step": 4, "samples_per_second": 1.0}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert cards.trained_in(tmp_path, "r", "m") == Trained("r", 5, 4, 3.0, "m")  # 60 / 0.5 + 60 / 1 seconds
    with pytest.raises(RecipeError, match="no state"):
        cards.trained_in(tmp_path / "none", "r", "m")


def test_held_out_scores_of_a_tiny_model(checkpoint: Path) -> None:
    scores = held_out.pixel_errors(checkpoint, understanding, 1, 6)
    assert {n for _, n in scores.values()} == {6}
    assert 0 < scores["vae error"][0] < 1
    assert 0 < scores["decoder error"][0] < 1
    assert 0 <= scores["retrieval"][0] <= 1
    assert held_out.pixel_errors(checkpoint, understanding, 2, 6) != scores

    recipe = tiny.recipe("generator", checkpoint, backbone="joint", sketch=0.5, echo=0.1)
    losses = held_out.losses(recipe, checkpoint, 20)
    assert {name: n for name, (_, n) in losses.items()} == {"flow loss": 10, "answer loss": 10}
    assert held_out.losses(recipe, checkpoint, 20) == losses
    assert held_out.losses(dataclasses.replace(recipe, seed=2), checkpoint, 20) != losses
