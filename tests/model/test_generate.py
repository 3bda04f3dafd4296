"""The model at work: invariances of drawing and answering, and readable errors for broken checkpoints."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model import checkpoint as checkpoints
from model.checkpoint import CheckpointError
from model.generate import GROUP, Drawer, Profile, Unified, UnreadableImageError, load, load_answerer
from model.train import train
from tests.model import tiny


@dataclass(frozen=True)
class Decoding:
    max_new_tokens: int = 6
    stop: tuple[str, ...] = ()
    temperature: float = 0.0


@dataclass(frozen=True)
class Request:
    prompt: str
    images: tuple[Callable[[], Image.Image], ...] = ()
    decoding: Decoding = field(default_factory=Decoding)


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Unified:
    return load(str(checkpoint))


def noise_image(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


PROMPTS = [Request(text) for text in ("a photo of a star", "a red ring", "a photo of a star", "two crosses and a ring")]


def test_an_image_depends_on_its_prompt_and_seed_alone(model: Unified) -> None:
    together = model.generate(PROMPTS, [1, 2, 3, 4])
    alone = [model.generate([request], [seed])[0] for request, seed in zip(PROMPTS, [1, 2, 3, 4], strict=True)]
    assert [image.tobytes() for image in together] == [image.tobytes() for image in alone]
    backwards = model.generate(PROMPTS[::-1], [4, 3, 2, 1])[::-1]
    assert [image.tobytes() for image in together] == [image.tobytes() for image in backwards]
    assert together[0].tobytes() != together[2].tobytes()  # the same prompt, another seed
    assert together[0].size == (64, 64)


def test_more_images_than_a_group(model: Unified) -> None:
    count = GROUP + 1
    images = model.generate([PROMPTS[0]] * count, list(range(count)))
    assert images[GROUP].tobytes() == model.generate([PROMPTS[0]], [GROUP])[0].tobytes()


def test_query_states_do_not_depend_on_company(model: Unified) -> None:
    tokenizer = model.processor.tokenizer
    ids = [tokenizer(text, return_tensors="pt").input_ids[0] for text in ("a star", "a star and two rings", "a star")]
    with torch.inference_mode():
        together = model.model.query_states(ids)
        alone = torch.cat([model.model.query_states([row]) for row in ids])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


def test_query_states_of_a_learning_backbone_are_those_of_a_frozen_one(model: Unified) -> None:
    """Prompts of five lengths in three groups, with a graph through the text, come back in order."""
    ids = [model.processor.tokenizer("a star " * n, return_tensors="pt").input_ids[0] for n in (3, 1, 5, 2, 4)]
    network = model.model
    with torch.inference_mode():
        frozen = network.query_states(ids)
    network.backbone.requires_grad_(True)
    learning = network.query_states(ids).detach()
    network.backbone.requires_grad_(False)
    torch.testing.assert_close(learning, frozen, rtol=1e-4, atol=1e-5)


def test_the_text_never_sees_the_queries(model: Unified) -> None:
    """Causality, which lets the prompt be computed once: other queries leave the first query's state as it is."""
    ids = model.processor.tokenizer("a star", return_tensors="pt").input_ids[0]
    with torch.inference_mode():
        before = model.model.query_states([ids])
        saved = model.model.latent_queries.clone()
        model.model.latent_queries[0, -1] += 1
        after = model.model.query_states([ids])
        model.model.latent_queries.copy_(saved)
    torch.testing.assert_close(before[:, :-1], after[:, :-1])
    assert not torch.allclose(before[:, -1], after[:, -1])


def test_answers_depend_on_the_question_alone(model: Unified) -> None:
    asked = [Request(f"What is this {i}?", (partial(noise_image, i),)) for i in range(3)]
    assert model.answer(asked, [0, 1, 2]) == [model.answer([one], [9])[0] for one in asked]


def test_the_image_reaches_the_backbone(model: Unified) -> None:
    tokens = {}
    for name, image in (("noise", noise_image(0)), ("black", Image.new("RGB", (64, 64)))):
        batch = model.processor(
            text=["<|vision_start|><|image_pad|><|vision_end|>?"], images=[[image]], return_tensors="pt"
        )
        with torch.inference_mode():
            tokens[name] = model.model.backbone(**batch).logits[0, -1]
    assert not torch.allclose(tokens["noise"], tokens["black"])


def test_a_reply_ends_at_its_stop_string(model: Unified) -> None:
    question = Request("?", (partial(noise_image, 0),), Decoding(max_new_tokens=8))
    whole = str(model.answer([question], [0])[0])
    assert whole
    middle = whole[len(whole) // 2]
    cut = model.answer([Request("?", question.images, Decoding(max_new_tokens=8, stop=(middle,)))], [0])[0]
    assert cut == whole.split(middle)[0]


def test_understanding_loads_without_the_decoder(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "half")
    shutil.rmtree(tmp_path / "half" / "decoder")
    shutil.rmtree(tmp_path / "half" / "eva_clip")
    assert load_answerer(str(tmp_path / "half")).answer([Request("?", (partial(noise_image, 0),))], [0])
    with pytest.raises(CheckpointError, match="decoder"):
        load(str(tmp_path / "half"))


def test_a_tensor_that_does_not_fit_is_named(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "copy")
    config = tmp_path / "copy" / "config.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps({**content, "n_query": 5}))
    with pytest.raises(CheckpointError, match=r"latent_queries is \[1, 4, 32\] instead of \[1, 5, 32\]"):
        load(str(tmp_path / "copy"))


def test_a_folder_without_a_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no BLIP3-o checkpoint"):
        load(str(tmp_path))


def test_prompts_of_other_lengths_change_nothing(model: Unified) -> None:
    """They are padded, but by their own length."""
    short, long = "a star", "a photo of " + ", ".join(["a red ring"] * 30)
    together = model.conditions([short, long, "two rings"])
    assert torch.equal(together[0], model.conditions([short])[0])
    assert torch.equal(together[1], model.conditions([long])[0])


def test_guidance_of_the_decoder_leads_away_from_the_bare_prompt(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "copy")
    config = tmp_path / "copy" / "config.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps({**content, "sampling": {**content["sampling"], "decoder_guidance": 3.0}}))
    guided = load(str(tmp_path / "copy"))
    negative = guided.negative
    assert negative.shape == (1, 4, 8)
    assert torch.equal(negative, load(str(tmp_path / "copy")).negative)  # whatever was drawn before
    image = guided.generate(PROMPTS[:1], [1])[0]
    assert image.tobytes() != load(str(checkpoint)).generate(PROMPTS[:1], [1])[0].tobytes()


def test_upstream_draws_in_half_precision(checkpoint: Path, model: Unified) -> None:
    upstream = load(str(checkpoint), "upstream")
    assert upstream.model.latent_queries.dtype == torch.float16
    assert (upstream.decoder.unet.dtype, upstream.describe()["profile"]) == (torch.bfloat16, "upstream")
    image, exact = (np.asarray(m.generate(PROMPTS[:1], [1])[0], dtype=float) for m in (upstream, model))
    assert 0 < np.abs(image - exact).mean() < 20  # of 255 levels; another seed differs by more, as tested below
    other = np.asarray(model.generate(PROMPTS[:1], [2])[0], dtype=float)
    assert np.abs(other - exact).mean() > 20


@pytest.mark.parametrize(
    ("profile", "layout", "pixels"),
    [("upstream", "published", 256 * 28 * 28), ("upstream", "ours", 64 * 64), ("exact", "published", 64 * 64)],
)
def test_upstream_bounds_the_pixels_of_a_question(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, profile: Profile, layout: str, pixels: int
) -> None:
    """The published processor takes smaller images, and much larger ones."""
    loaded = checkpoints.load_blip3o(checkpoint, torch.float32, torch.device("cpu"))
    monkeypatch.setattr(checkpoints, "load_blip3o", lambda folder, dtype, device: loaded)
    monkeypatch.setattr(checkpoints, "layout", lambda folder: layout)
    model = load_answerer(str(checkpoint), profile)
    prepared = model._prepare(Request("?", (partial(noise_image, 0),)))
    assert not isinstance(prepared, UnreadableImageError)
    patches = int(prepared["image_grid_thw"].prod())
    assert patches * model.processor.image_processor.patch_size**2 == pytest.approx(pixels, rel=0.05)


@pytest.mark.parametrize("through", ["reconstruct", "decode_images"])
def test_an_image_is_drawn_from_an_image(model: Unified, through: str) -> None:
    draw = getattr(model, through)
    first, second = noise_image(0), Image.new("RGB", (80, 40))
    drawn = draw([first, second], [1, 1])
    assert drawn[0].size == (64, 64)
    assert drawn[0].tobytes() != drawn[1].tobytes()
    assert drawn[1].tobytes() == draw([second], [1])[0].tobytes()


def test_a_missing_encoder_is_named(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "half")
    shutil.rmtree(tmp_path / "half" / "eva_clip")
    with pytest.raises(CheckpointError, match="eva_clip"):
        load(str(tmp_path / "half")).decode_images([noise_image(0)], [0])


def test_questions_answered_together_do_not_depend_on_company(checkpoint: Path) -> None:
    model = load(str(checkpoint), together=3)
    with torch.no_grad():  # random weights say one thing to everybody until they are made to differ
        for parameter in model.model.backbone.parameters():
            parameter.mul_(4)
    asked = [
        Request(f"{'What is this? ' * repeated}{i}", tuple(partial(noise_image, i + k) for k in range(images)))
        for i, (repeated, images) in enumerate([(1, 1), (9, 1), (1, 2), (1, 1), (2, 0), (1, 1), (1, 1)])
    ]
    seeds = list(range(len(asked)))
    replies = model.answer(asked, seeds)
    assert len(set(replies)) > 3
    assert replies == [model.answer([one], [0])[0] for one in asked]
    assert replies == model.answer(asked[::-1], seeds)[::-1]
    model.together = 1  # padding is inert: the same words as without it
    assert replies == model.answer(asked, seeds)


def test_sampled_replies_have_their_own_seed_also_together(checkpoint: Path) -> None:
    model = load(str(checkpoint), together=3)
    asked = [Request("?", (partial(noise_image, 0),), Decoding(temperature=1.0))] * 3
    first, second, third = model.answer(asked, [1, 2, 1])
    assert first == third != second


def test_sampling_takes_top_k_from_the_checkpoint_and_top_p_from_the_task(checkpoint: Path) -> None:
    """As upstream's model class for lmms-eval does."""
    model = load(str(checkpoint))
    hot = [Request("?", (partial(noise_image, 0),), Decoding(temperature=1.0))] * 3
    model.model.backbone.generation_config.top_p = 1e-6
    assert len(set(model.answer(hot, [1, 2, 3]))) > 1
    model.model.backbone.generation_config.top_k = 1
    assert set(model.answer(hot, [1, 2, 3])) == set(model.answer([Request("?", (partial(noise_image, 0),))], [0]))


@pytest.mark.parametrize("together", [1, 2])
def test_an_image_that_does_not_decode_costs_its_own_question_only(checkpoint: Path, together: int) -> None:
    def damaged() -> Image.Image:
        raise OSError("image file is truncated")

    model = load(str(checkpoint), together=together)
    good = Request("?", (partial(noise_image, 0),))
    replies = model.answer([good, Request("?", (damaged,)), good], [0, 0, 0])
    assert str(replies[1]) == "OSError: image file is truncated"
    assert isinstance(replies[1], UnreadableImageError)
    assert replies[0] == replies[2] == model.answer([good], [0])[0]


@pytest.mark.parametrize("together", [1, 2])
def test_an_image_too_narrow_for_the_processor_costs_its_own_question_only(checkpoint: Path, together: int) -> None:
    model = load(str(checkpoint), together=together)
    narrow, good = Request("?", (partial(Image.new, "RGB", (700, 3)),)), Request("?", (partial(noise_image, 0),))
    replies = model.answer([narrow, good], [0, 0])
    assert "aspect ratio" in str(replies[0])
    assert isinstance(replies[0], UnreadableImageError)
    assert replies[1] == model.answer([good], [0])[0]


def test_a_backbone_without_eyes_only_draws(checkpoint: Path, tmp_path: Path) -> None:
    """It would answer questions about images that it has not been shown."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, folder)
    language = tiny.llama(checkpoint, tmp_path / "llama")
    recipe = tiny.recipe("generator", folder)
    train(dataclasses.replace(recipe, sources={"backbone": str(language)}), tmp_path / "work")
    model = load(str(folder))
    assert not model.sees
    assert not hasattr(Drawer(model), "answer")
    with pytest.raises(CheckpointError, match=r"only a Qwen2\.5-VL"):
        model.reconstruct([noise_image(0)], [0])


# forking beside other threads is deprecated from Python 3.12 on; torch's data loaders do it everywhere
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # on one core
@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("together", [1, 3])
def test_reading_ahead_changes_no_reply(checkpoint: Path, together: int, workers: int) -> None:
    def damaged() -> Image.Image:
        raise UnpicklableError(open)

    model = load(str(checkpoint), together=together)
    asked = [Request(f"What is this {i}?", (partial(noise_image, i),)) for i in range(8)]
    asked[2] = Request("?", (damaged,))
    asked[5] = Request("?", (partial(noise_image, 5),), Decoding(temperature=1.0))
    seeds = list(range(8))
    expected = [str(reply) for reply in model.answer(asked, seeds)]
    with model.ahead(asked, workers):
        replies = model.answer(asked[:5], seeds[:5]) + model.answer(asked[5:], seeds[5:])
    assert [str(reply) for reply in replies] == expected
    assert expected[2] == "UnpicklableError: not to be sent"


class UnpicklableError(Exception):
    def __init__(self, reason: object) -> None:
        super().__init__("not to be sent")
        self.reason = (one for one in [reason])


@pytest.mark.parametrize("together", [1, 2])
def test_reading_ahead_holds_few_images(checkpoint: Path, together: int) -> None:
    model = load(str(checkpoint), together=together)
    opened = 0

    def counted(i: int) -> Image.Image:
        nonlocal opened
        opened += 1
        return noise_image(i)

    asked = [Request("?", (partial(counted, i),)) for i in range(20)]
    with model.ahead(asked):
        for done, sample in enumerate(asked, start=1):
            model.answer([sample], [0])
            assert opened <= done + together + 1
    assert opened == 20


def test_other_questions_than_were_announced_are_refused(model: Unified) -> None:
    asked = [Request("one?"), Request("two?")]
    with model.ahead(asked), pytest.raises(ValueError, match="in order"):
        model.answer(asked[::-1], [0, 0])
    assert model.answer(asked[:1], [0])  # nothing is left of it
