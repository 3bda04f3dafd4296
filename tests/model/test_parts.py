"""The parts that are trained: their losses, their items, and what of a model they train."""

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from benchmarks.shapes import training as shapes
from model import checkpoint as checkpoints
from model import flow
from model.blip3o import INSTRUCTION, chat
from model.data import Draws, Unreadable, pixels, readable
from model.eva_clip import normalize
from model.parts.autoencoders import EvaClipPart
from model.parts.backbone import Backbone, Converse, answer_mask
from model.parts.generator import Generator, set_aside
from model.recipe import Recipe, RecipeError, SourceName
from model.sources import load_mixture
from tests.model import tiny


def generator(recipe: Recipe) -> Generator:
    torch.manual_seed(0)
    part = Generator(recipe, load_mixture(recipe.data))
    part.place(torch.device("cpu"), torch.bfloat16 if recipe.precision == "bf16" else torch.float32)
    return part


def features(folder: Path, count: int) -> Tensor:
    images = pixels([shapes.generation(1, i).image for i in range(count)], 64)
    with torch.no_grad():
        return checkpoints.load_eva_clip(folder).features(normalize(images))


def test_flow_loss_is_that_of_its_definition(checkpoint: Path) -> None:
    """Noise, level and dropout in upstream's order, from the generator of each example."""
    part = generator(tiny.recipe("generator", checkpoint))
    part.model.dit.open_gates(0.5)  # type: ignore[union-attr]  # or the condition would hardly count
    items = [part.prepare(shapes.generation(1, i)) for i in range(24)]
    loss = part(items, Draws(7, range(24)))["flow"]

    draws = Draws(7, range(24))
    clean = features(checkpoint, 24)
    noise, sigma = draws.normal(clean.shape[1:]), flow.noise_levels(draws.uniform())
    dropped = draws.uniform() < 0.1
    assert 0 < dropped.sum() < 24
    condition = part.model.query_states([item.drawing.ids for item in items if item.drawing])
    condition[dropped] = 0
    level = sigma.view(-1, 1, 1, 1)
    assert part.model.dit is not None
    predicted = part.model.dit((1 - level) * clean + level * noise, 1000 * sigma, condition)
    assert loss.terms == 24
    assert loss.total.item() / 24 == pytest.approx(F.mse_loss(predicted, noise - clean).item(), rel=1e-5)


def test_losses_of_a_batch_are_the_sums_of_those_of_its_halves(checkpoint: Path) -> None:
    part = generator(tiny.recipe("generator", checkpoint, backbone="joint", echo=0.3, sketch=0.5, label=0.2, levels=2))
    items = [part.prepare(shapes.generation(1, i) if i % 2 else labelled(i)) for i in range(8)]
    whole = part(items, Draws(7, range(8)))
    halves = [part(items[i : i + 4], Draws(7, range(i, i + 4))) for i in (0, 4)]
    assert whole.keys() == {"flow", "echo", "sketch", "answer", "label"}
    for name, loss in whole.items():
        assert loss.total.item() == pytest.approx(sum(half[name].total.item() for half in halves), rel=1e-5)
        assert loss.terms == sum(half[name].terms for half in halves) == part.counts(items)[name]


def test_an_image_and_its_caption_find_each_other_as_in_clip(tmp_path: Path) -> None:
    """The mean of both directions' cross-entropies over cosines (Radford et al. 2021, figure 3)."""
    torch.manual_seed(0)
    part = EvaClipPart(tiny.recipe("eva_clip", tmp_path), shapes.dense_generation)
    captions = torch.stack([part.prepare(shapes.dense_generation(1, i))[1] for i in range(4)])
    seen = torch.randn(4, 8, 2, 2)
    cosines = F.cosine_similarity(part.image_head(seen.mean((2, 3)))[:, None], part.text(captions)[None], dim=-1)
    logits, own = cosines / 0.07, torch.arange(4)
    expected = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    assert part.contrast_loss(seen, captions).item() == pytest.approx(expected.item(), rel=1e-4)
    # What stands behind a caption's end does not count.
    end = part.prepare.tokenizer.eos_token_id
    filled = torch.where((captions == end).cumsum(1) > 0, end, captions)
    assert (filled != captions).any()
    torch.testing.assert_close(part.text(filled), part.text(captions))


def test_a_target_encoder_needs_captions(tmp_path: Path) -> None:
    part = EvaClipPart(tiny.recipe("eva_clip", tmp_path), shapes.dense_generation)
    with pytest.raises(Unreadable, match="example without caption"):
        part.prepare(shapes.understanding(1, 0))


def test_mse_compares_query_and_feature_in_reading_order(checkpoint: Path) -> None:
    part = generator(tiny.recipe("generator", checkpoint, design="clip_mse"))
    projector = part.model.projector
    assert projector is not None
    items = [part.prepare(shapes.generation(1, i)) for i in range(2)]
    clean = features(checkpoint, 2)  # [2, C, 2, 2]
    # The projector says what the features are, token by token: no loss.
    states = torch.stack([clean[:, :, y, x] for y in (0, 1) for x in (0, 1)], dim=1)
    projector.register_forward_hook(lambda *_: states)
    assert part(items, Draws(7, range(2)))["mse"].total.item() == pytest.approx(0, abs=1e-10)


def test_a_sketch_is_compared_with_the_features_in_reading_order(checkpoint: Path) -> None:
    part = generator(tiny.recipe("generator", checkpoint, sketch=0.5))
    assert part.sketch is not None
    items = [part.prepare(shapes.generation(1, i)) for i in range(2)]
    clean = features(checkpoint, 2)  # [2, C, 2, 2]
    states = torch.stack([clean[:, :, y, x] for y in (0, 1) for x in (0, 1)], dim=1) + 2.0
    part.sketch.register_forward_hook(lambda *_: states)
    assert part(items, Draws(7, range(2)))["sketch"].total.item() == pytest.approx(2 * 0.5 * 2.0**2, rel=1e-5)


def labelled(index: int, labels: tuple[str, ...] = ("top", "right red star", "", "bottom")) -> shapes.Example:
    """An example with as many labels as the tiny backbone has image tokens."""
    return dataclasses.replace(shapes.alone(1, index), labels=labels)


def test_labels_are_read_off_the_image_tokens_in_reading_order(checkpoint: Path) -> None:
    part = generator(tiny.recipe("generator", checkpoint, backbone="joint", label=0.5))
    backbone = part.model.backbone
    labels = ("right red star", "blue", "", "a label of more than ten tokens")
    seen = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    backbone.model.visual.register_forward_hook(
        lambda _module, _inputs, output: dataclasses.replace(output, pooler_output=seen)
    )
    lengths, expected = [], 0.0
    for token, label in zip(seen, labels, strict=True):
        ids = part.processor.tokenizer(label).input_ids[:10]
        said = F.log_softmax(backbone.lm_head(token / token.square().mean().sqrt()), dim=0)
        expected -= sum(said[i].item() for i in ids)
        lengths.append(len(ids))
    loss = part([part.prepare(labelled(0, labels))], Draws(7, range(1)))["label"]
    assert lengths[2:] == [0, 10]
    assert loss.terms == sum(lengths)
    assert loss.total.item() == pytest.approx(0.5 * expected, rel=1e-5)


def test_labels_alone_cost_what_they_cost_in_a_conversation(checkpoint: Path) -> None:
    part = generator(tiny.recipe("generator", checkpoint, backbone="joint", label=0.5))
    talks = [labelled(0), labelled(1, ("left", "", "blue ring", "a"))]
    looks = [dataclasses.replace(talk, turns=()) for talk in talks]
    told, seen = (part([part.prepare(one) for one in of], Draws(7, range(2))) for of in (talks, looks))
    assert seen["label"].total.item() == pytest.approx(told["label"].total.item(), rel=1e-5)
    assert seen["label"].terms == told["label"].terms > 4
    assert (seen["answer"].total.item(), seen["answer"].terms) == (0.0, 0)
    mixed = part([part.prepare(one) for one in (talks[0], looks[1])], Draws(7, range(2)))
    assert mixed["label"].total.item() == pytest.approx(told["label"].total.item(), rel=1e-5)
    assert 0 < mixed["answer"].total.item() < told["answer"].total.item()


@pytest.mark.parametrize("label", [0.0, 0.5])
def test_the_backbone_learns_from_labels_as_joint_training_does(checkpoint: Path, label: float) -> None:
    """The same random weights in both."""
    joint = generator(tiny.recipe("generator", checkpoint, backbone="joint", label=label))
    recipe = tiny.recipe("backbone", checkpoint, label=label)
    alone = Backbone(recipe, load_mixture(recipe.data))
    alone.backbone, alone.processor = joint.model.backbone, joint.processor
    alone.prepare = Converse(joint.processor, labelled=bool(label))
    examples = [labelled(0), labelled(1)]
    one, other = (part([part.prepare(e) for e in examples], Draws(7, range(2))) for part in (alone, joint))
    assert one.keys() == ({"answer", "label"} if label else {"answer"})
    for name, loss in one.items():
        assert loss.total.item() == pytest.approx(other[name].total.item(), rel=1e-5)
        assert loss.terms == other[name].terms


def test_conversations_without_labels_have_no_such_loss(checkpoint: Path) -> None:
    part = generator(tiny.recipe("generator", checkpoint, backbone="joint", label=0.5))
    items = [part.prepare(labelled(0, ())), part.prepare(shapes.generation(1, 0))]
    assert part(items, Draws(7, range(2))).keys() == {"flow", "answer"}
    assert part.counts(items)["label"] == 0


def test_labels_need_joint_training(checkpoint: Path) -> None:
    with pytest.raises(RecipeError, match="label needs backbone = 'joint'"):
        generator(tiny.recipe("generator", checkpoint, label=0.5))


def test_labels_that_do_not_fit_the_image_are_refused(checkpoint: Path) -> None:
    part = generator(tiny.recipe("generator", checkpoint, backbone="joint", label=0.5))
    with pytest.raises(Unreadable, match="16 labels for 4 image tokens"):
        part.prepare(shapes.alone(1, 0))


def test_several_noise_levels_lie_one_in_each_part_of_the_scale(checkpoint: Path) -> None:
    """Each level's noise, level and dropout follow in the generator of the example; ``shift`` moves the levels up."""
    part = generator(tiny.recipe("generator", checkpoint, levels=3, shift=3.0))
    assert part.model.dit is not None
    part.model.dit.open_gates(0.5)
    items = [part.prepare(shapes.generation(1, i)) for i in range(4)]
    clean = features(checkpoint, 4)
    condition = part.model.query_states([item.drawing.ids for item in items if item.drawing])
    draws = Draws(7, range(4))
    expected = []
    for i in range(3):
        noise, level, kept = draws.normal(clean.shape[1:]), (i + draws.uniform()) / 3, draws.uniform() >= 0.1
        sigma = (3 * (1 - level) / (1 + 2 * (1 - level))).view(-1, 1, 1, 1)  # within a thousandth
        predicted = part.model.dit(
            (1 - sigma) * clean + sigma * noise, 1000 * sigma.flatten(), condition * kept[:, None, None]
        )
        expected.append(F.mse_loss(predicted, noise - clean).item() * 4)
    assert part(items, Draws(7, range(4)))["flow"].total.item() == pytest.approx(sum(expected) / 3, rel=3e-3)


def test_upstream_closes_the_empty_turn_and_cuts_long_prompts(checkpoint: Path) -> None:
    inference = generator(tiny.recipe("generator", checkpoint)).prepare
    upstream = generator(tiny.recipe("generator", checkpoint, prompt="upstream")).prepare
    tokenizer = inference.processor.tokenizer
    example = shapes.generation(1, 0)
    text = chat(INSTRUCTION + example.caption)
    for prepare, closing in ((inference, ""), (upstream, "<|im_end|>\n")):
        drawing = prepare(example).drawing
        assert drawing is not None
        assert tokenizer.decode(drawing.ids) == text + closing
    long = dataclasses.replace(example, caption="red " * 600)
    drawing = upstream(long).drawing
    assert drawing is not None
    assert len(drawing.ids) == 512 - 1 - 4  # [IMG] and four queries follow


def test_answers_are_the_assistants_words_and_their_end() -> None:
    opening, end = (1, 2), 9
    ids = [1, 2, 5, 6, 9, 2, 7, 1, 2, 8, 9, 3]
    assert [i for i, answered in enumerate(answer_mask(ids, opening, end)) if answered] == [2, 3, 4, 9, 10]


def test_the_tokenizer_is_learned_from_the_examples_that_can_be_read() -> None:
    def source(seed: int, index: int) -> shapes.Example:
        if index % 2:
            raise Unreadable("x.jpg: truncated")
        return shapes.understanding(seed, index)

    assert [one.turns for one in readable(source, 4)] == [shapes.understanding(0, index).turns for index in (0, 2)]


def test_frozen_modules_are_set_aside_but_found(checkpoint: Path) -> None:
    backbone, _ = checkpoints.load_backbone(checkpoint)
    assert isinstance(backbone, Qwen2_5_VLForConditionalGeneration)
    names = set(backbone.state_dict())
    backbone.model.visual.requires_grad_(False)
    aside = set_aside(backbone)
    assert list(aside) == ["model.visual"]
    assert backbone.model.visual is aside["model.visual"]
    assert set(backbone.state_dict()) == {name for name in names if not name.startswith("model.visual.")}
    assert all(parameter.requires_grad for parameter in backbone.parameters())


def test_in_bfloat16_what_is_trained_stays_float32(checkpoint: Path) -> None:
    recipe = tiny.recipe("generator", checkpoint, backbone="joint")
    part = generator(dataclasses.replace(recipe, precision="bf16"))
    assert {parameter.dtype for parameter in part.parameters()} == {torch.float32}
    assert {p.dtype for module in part.frozen for p in module.parameters()} == {torch.bfloat16}
    # Rounded, rotary frequencies would turn far tokens by whole radians.
    assert all(b.dtype != torch.bfloat16 for module in part.frozen for b in module.buffers())


def test_only_a_backbone_with_eyes_is_trained_jointly(checkpoint: Path, tmp_path: Path) -> None:
    recipe = tiny.recipe("generator", checkpoint, backbone="joint")
    sources: dict[SourceName, str] = {"backbone": str(tiny.llama(checkpoint, tmp_path / "llama"))}
    with pytest.raises(RecipeError, match="LlamaForCausalLM sees no images"):
        generator(dataclasses.replace(recipe, sources=sources))
