"""Damages change what they say and nothing else, and a run's record names them."""

from pathlib import Path

import torch
from torch import nn

from model.damages import Damage, Damaged, round_weights
from model.generate import load


def damaged(checkpoint: Path, damage: Damage) -> Damaged:
    return Damaged(load(str(checkpoint)), damage)


def test_the_record_names_the_damage_and_the_sampling(checkpoint: Path) -> None:
    whole = load(str(checkpoint)).describe()
    assert damaged(checkpoint, "queries").describe() == {**whole, "damage": "queries"}
    assert damaged(checkpoint, "guidance").describe()["sampling"] == {**whole["sampling"], "guidance": 1.0}
    assert damaged(checkpoint, "steps").describe()["sampling"] == {**whole["sampling"], "steps": 5}


def test_queries_are_the_same_in_another_order(checkpoint: Path) -> None:
    before = load(str(checkpoint)).model.latent_queries[0]
    after = damaged(checkpoint, "queries").model.latent_queries[0]
    assert not torch.equal(before, after)
    assert torch.equal(before.sort(dim=0).values, after.sort(dim=0).values)


def test_the_template_damage_changes_prompts_of_drawing(checkpoint: Path) -> None:
    prompts = ["a photo of a red star"]
    with torch.inference_mode():
        before = load(str(checkpoint)).conditions(prompts)
        assert not torch.equal(before, damaged(checkpoint, "template").conditions(prompts))
        assert torch.equal(before, damaged(checkpoint, "steps").conditions(prompts))


def test_weights_keep_255_levels_per_row() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(4000, 3)
    with torch.no_grad():
        layer.weight[1] = 0
        layer.weight[2] *= 100
    before, bias = layer.weight.clone(), layer.bias.clone()
    round_weights(layer)
    step = before.abs().amax(1, keepdim=True) / 127
    assert (layer.weight - before).abs().le(step / 2 * 1.001).all()
    assert len(layer.weight[0].unique()) <= 255
    assert layer.weight[1].eq(0).all()
    assert not torch.equal(layer.weight, before)
    assert torch.equal(layer.bias, bias)


def test_weights_of_backbone_transformer_and_decoder_are_rounded(checkpoint: Path) -> None:
    whole, spoiled = load(str(checkpoint)), damaged(checkpoint, "weights")
    for before, after in ((whole.model, spoiled.model), (whole.decoder, spoiled.decoder)):
        values = dict(before.named_parameters())
        for name, parameter in after.named_parameters():
            if parameter.dim() < 2:
                assert torch.equal(parameter, values[name])
        assert any(not torch.equal(p, values[name]) for name, p in after.named_parameters())
