"""Tiny models of transformers with random weights, built here: a Qwen2.5-VL, a Chameleon, a Janus and an Emu3."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    ChameleonConfig,
    ChameleonForConditionalGeneration,
    ChameleonImageProcessor,
    ChameleonProcessor,
    Emu3Config,
    Emu3ForConditionalGeneration,
    Emu3ImageProcessor,
    Emu3Processor,
    JanusConfig,
    JanusForConditionalGeneration,
    JanusImageProcessor,
    JanusProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from model.adapters import Emu3, ImageTextToText, Janus, _image
from model.generate import UnreadableImageError
from model.tensors import CheckpointError
from tests.model.test_generate import Decoding, Request, noise_image
from tests.model.tiny import TEXT as TEXT_QWEN
from tests.model.tiny import VISION

#: What stands around a question; the letters of a tiny vocabulary follow the special tokens.
TEMPLATE = (
    "{% for message in messages %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}:{% endif %}"
)
TEXT = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.5,  # so large that a prompt decides more than chance does
}
SPECIAL = ["<pad>", "<s>", "</s>", "<image>", "<boi>", "<eoi>"]


def tokenizer(extra: Sequence[str] = (), **named: str) -> PreTrainedTokenizerFast:
    """Printable characters behind the special tokens."""
    words = [*SPECIAL, *extra, *map(chr, range(32, 127))]
    letters = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="?"))
    letters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=letters,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        sep_token=" ",
        additional_special_tokens=list(extra),
        extra_special_tokens={"image_token": "<image>", "boi_token": "<boi>", "eoi_token": "<eoi>", **named},
    )


def save(folder: Path, model: Any, processor: Any) -> Path:
    """With the ends that the tiny vocabulary has."""
    model.generation_config.update(pad_token_id=0, bos_token_id=1, eos_token_id=2)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def janus(folder: Path) -> Path:
    torch.manual_seed(0)
    words = tokenizer()
    config = JanusConfig(
        text_config={"model_type": "llama", "vocab_size": len(words), **TEXT},
        vision_config={
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 16,
            "mlp_ratio": 1.0,
            "projection_dim": 16,
            "num_image_tokens": 4,
        },
        vq_config={
            "embed_dim": 4,
            "num_embeddings": 32,
            "latent_channels": 32,
            "base_channels": 32,
            "channel_multiplier": [1, 1, 1, 1, 1],
            "num_res_blocks": 1,
            "projection_dim": 16,
            "image_token_embed_dim": 16,
        },
        image_token_id=words.image_token_id,
    )
    images = JanusImageProcessor(size={"height": 32, "width": 32}, min_size=8)
    processor = JanusProcessor(images, words, chat_template=TEMPLATE, num_image_tokens=4)
    model = JanusForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.generation_head.vision_head.weight, std=0.2)  # for the same reason
    return save(folder, model, processor)


def emu3(folder: Path) -> Path:
    torch.manual_seed(0)
    visual = [f"<|visual token {i:06d}|>" for i in range(16)]
    words = tokenizer(
        ["<|extra_200|>", "<|extra_201|>", "<|image token|>", *visual],
        eof_token="<|extra_201|>",
        image_wrapper_token="<|image token|>",
    )
    config = Emu3Config(
        text_config={"vocab_size": len(words), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, **TEXT},
        vq_config={
            "codebook_size": 16,
            "embed_dim": 4,
            "base_channels": 32,
            "channel_multiplier": [1, 1, 1, 1],
            "num_res_blocks": 1,
            "attn_resolutions": [],
            "hidden_size": 32,
        },
        vocabulary_map=words.get_vocab(),
    )
    images = Emu3ImageProcessor(min_pixels=16 * 16, max_pixels=32 * 32)
    processor = Emu3Processor(images, words, chat_template=TEMPLATE)
    return save(folder, Emu3ForConditionalGeneration(config), processor)


def chameleon(folder: Path) -> Path:
    """Published without a chat template."""
    torch.manual_seed(0)
    visual = [f"IMGIMG{'ABCDEFGHIJ'[i]}Z" for i in range(8)]
    words = tokenizer(visual)
    config = ChameleonConfig(
        vocab_size=len(words),
        **TEXT,
        vq_config={
            "embed_dim": 8,
            "num_embeddings": 8,
            "latent_channels": 8,
            "resolution": 32,
            "base_channels": 32,
            "channel_multiplier": [1, 1, 1, 1, 1],
            "num_res_blocks": 1,
        },
        vocabulary_map=words.get_vocab(),
    )
    images = ChameleonImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return save(
        folder, ChameleonForConditionalGeneration(config), ChameleonProcessor(images, words, image_seq_length=4)
    )


def qwen(folder: Path) -> Path:
    torch.manual_seed(0)
    words = tokenizer()
    ids = {"image_token_id": 3, "vision_start_token_id": 4, "vision_end_token_id": 5, "video_token_id": 1}
    config = Qwen2_5_VLConfig(
        text_config={"vocab_size": len(words), **TEXT_QWEN},
        vision_config={**VISION, "out_hidden_size": TEXT_QWEN["hidden_size"]},
        **ids,
    )
    processor = Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(patch_size=16, min_pixels=32 * 32, max_pixels=64 * 64),
        words,
        Qwen2VLVideoProcessor(),
        chat_template=TEMPLATE.replace("<image>", "<boi><image><eoi>"),  # its positions are told by the ends
    )
    return save(folder, Qwen2_5_VLForConditionalGeneration(config), processor)


def question(words: str, *numbers: int, length: int = 6, stop: tuple[str, ...] = (), heat: float = 0.0) -> Request:
    return Request(words, tuple(partial(noise_image, number) for number in numbers), Decoding(length, stop, heat))


KINDS: dict[str, tuple[type[ImageTextToText], Callable[[Path], Path]]] = {
    "qwen": (ImageTextToText, qwen),
    "chameleon": (ImageTextToText, chameleon),
    "janus": (Janus, janus),
    "emu3": (Emu3, emu3),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: build(root / name) for name, (_, build) in KINDS.items()}


@pytest.fixture(scope="module", params=KINDS)
def answerer(request: pytest.FixtureRequest, folders: dict[str, Path]) -> ImageTextToText:
    return KINDS[request.param][0](str(folders[request.param]))


@pytest.fixture(scope="module", params=["janus", "emu3"])
def drawer(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Janus | Emu3:
    folder = str(folders[request.param])
    return Janus(folder) if request.param == "janus" else Emu3(folder, size=32)


def test_a_reply_depends_on_its_question_alone(answerer: ImageTextToText) -> None:
    asked = [question("what?", 0), question("which of them?", 1, 2), question("why?")]
    replies = answerer.answer(asked, [0, 1, 2])
    assert all(isinstance(reply, str) for reply in replies)
    assert any(replies)
    assert [answerer.answer([one], [9])[0] for one in reversed(asked)] == replies[::-1]


def test_the_question_and_its_images_reach_the_model(answerer: ImageTextToText) -> None:
    def logits(words: str, *numbers: int) -> Any:
        with torch.inference_mode():
            images = [noise_image(number).resize((64, 64)) for number in numbers]
            return answerer.model(**answerer._conversation(words, images)).logits[0, -1]

    seen = [logits("what?", 0), logits("what?", 1), logits("which?", 0), logits("what?", 0, 1)]
    for i, one in enumerate(seen):
        assert all(not torch.equal(one, other) for other in seen[i + 1 :])


def test_the_prompt_is_the_chat_template_around_images_and_question(folders: dict[str, Path]) -> None:
    model = Janus(str(folders["janus"]))
    (ids,) = model._conversation("ab", [noise_image(0)])["input_ids"]
    written = model.processor.tokenizer.convert_ids_to_tokens(ids)
    assert written == ["<boi>", *["<image>"] * 4, "<eoi>", "a", "b", ":"]


def test_a_reply_ends_at_its_length_and_at_its_stop_string(answerer: ImageTextToText) -> None:
    (whole,) = answerer.answer([question("what?", 0)], [0])
    (longer,) = answerer.answer([question("what?", 0, length=9)], [0])
    assert isinstance(whole, str)
    assert isinstance(longer, str)
    assert longer.startswith(whole)
    assert len(longer) > len(whole)
    middle = whole[len(whole) // 2]
    (cut,) = answerer.answer([question("what?", 0, stop=(middle,))], [0])
    assert cut == whole.split(middle)[0]


def test_a_sampled_reply_follows_its_seed(answerer: ImageTextToText) -> None:
    asked = question("what?", 0, heat=5.0)
    first, second, again = answerer.answer([asked, asked, asked], [1, 2, 1])
    assert first == again
    assert first != second


def test_sampling_is_from_the_whole_vocabulary(folders: dict[str, Path]) -> None:
    """Where nobody sets top_k, transformers keeps 50 tokens; at this temperature all are about as likely."""
    model = ImageTextToText(str(folders["qwen"]))
    asked = question("what?", length=1, heat=1e4)
    assert len(set(model.answer([asked] * 150, range(150)))) > 50


def test_what_cannot_be_looked_at_is_that_questions_error(folders: dict[str, Path]) -> None:
    def broken() -> Image.Image:
        raise OSError("image file is truncated")

    model = ImageTextToText(str(folders["qwen"]))
    narrow = Request("what?", (lambda: Image.new("RGB", (2, 800)),), Decoding(max_new_tokens=2))
    unreadable, refused, fine = model.answer([Request("?", (broken,)), narrow, question("what?", 0)], [0, 0, 0])
    assert isinstance(unreadable, UnreadableImageError)
    assert isinstance(refused, ValueError)
    assert "aspect ratio" in str(refused)
    assert isinstance(fine, str)


def test_an_image_depends_on_its_prompt_and_seed_alone(drawer: Janus | Emu3) -> None:
    asked = [Request("a cat"), Request("two dogs"), Request("a cat")]
    drawn = [np.asarray(image) for image in drawer.generate(asked, [1, 1, 2])]
    assert {image.shape for image in drawn} == {(32, 32, 3)}
    (alone,) = drawer.generate([Request("a cat")], [2])
    np.testing.assert_array_equal(np.asarray(alone), drawn[2])
    assert not np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


def test_guidance_reaches_the_drawing(folders: dict[str, Path]) -> None:
    for plain, guided in (
        (Janus(str(folders["janus"]), guidance=1.5), Janus(str(folders["janus"]), guidance=50.0)),
        (Emu3(str(folders["emu3"]), guidance=1.0, size=32), Emu3(str(folders["emu3"]), guidance=50.0, size=32)),
    ):
        images = [np.asarray(model.generate([Request("a cat")], [1])[0]) for model in (plain, guided)]
        assert not np.array_equal(images[0], images[1])


@pytest.mark.parametrize(("name", "top_k", "guidance"), [("janus", 0, 5.0), ("emu3", 2048, 3.0)])
def test_drawing_samples_as_the_authors_scripts_do(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, name: str, top_k: int, guidance: float
) -> None:
    model = Janus(str(folders[name])) if name == "janus" else Emu3(str(folders[name]), size=32)
    original, calls = model.model.generate, []

    def generate(**given: Any) -> Any:
        calls.append(given)
        return original(**given)

    monkeypatch.setattr(model.model, "generate", generate)
    model.generate([Request("a cat")], [1])
    asked = {key: calls[0][key] for key in ("do_sample", "temperature", "top_k", "top_p", "guidance_scale")}
    assert asked == {
        "do_sample": True,
        "temperature": 1.0,
        "top_k": top_k,
        "top_p": 1.0,
        "guidance_scale": guidance,
    }


def test_guidance_that_janus_cannot_do_is_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(CheckpointError, match=r"guidance above 1 only, not 1\.0"):
        Janus(str(folders["janus"]), guidance=1.0)


def test_levels_are_cut_off_as_the_authors_scripts_do() -> None:
    """-1 is black, 1 white; 0 is 127.5, of which 127 is left."""
    pixels = torch.tensor([[[-1.0, 0.0, 1.0], [-2.0, 2.0, 0.5]]])
    assert np.asarray(_image(pixels)).tolist() == [[[0, 127, 255], [0, 255, 191]]]


def test_emu3_draws_rows_that_end_where_they_must(folders: dict[str, Path]) -> None:
    model = Emu3(str(folders["emu3"]), size=32)
    names = model.processor.tokenizer.convert_ids_to_tokens
    allowed = [names(model._allowed(position, height=2, width=3)) for position in range(11)]
    visual = [f"<|visual token {i:06d}|>" for i in range(16)]
    row = [visual] * 3 + [["<|extra_200|>"]]
    assert allowed == [*row, *row, ["<|extra_201|>"], ["<eoi>"], ["</s>"]]


def test_the_description_names_what_changes_the_output(folders: dict[str, Path]) -> None:
    described = Emu3(str(folders["emu3"]), guidance=2.0, size=64).describe()
    assert described == {
        "name": "emu3",
        "sha256": described["sha256"],
        "model": "Emu3ForConditionalGeneration",
        "device": "cpu",
        "dtype": "float32",
        "guidance": 2.0,
        "size": 64,
    }
    assert len(described["sha256"]) == 64
    assert Janus(str(folders["janus"])).describe()["guidance"] == 5.0
    assert (Emu3(str(folders["emu3"])).guidance, Emu3(str(folders["emu3"])).size) == (3.0, 720)


def test_the_number_type_is_the_one_asked_for(folders: dict[str, Path]) -> None:
    model = Janus(str(folders["janus"]), dtype="bfloat16")
    assert {parameter.dtype for parameter in model.model.parameters()} == {torch.bfloat16}
    assert isinstance(model.answer([question("what?", 0)], [0])[0], str)
    assert isinstance(model.generate([Request("a cat")], [0])[0], Image.Image)


def test_what_is_no_such_model_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is of the type emu3, not janus: try transformers:"):
        Janus(str(folders["emu3"]))
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        ImageTextToText(str(tmp_path))
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_type": "of_tomorrow"}))
    with pytest.raises(CheckpointError, match="cannot be loaded by transformers"):
        ImageTextToText(str(tmp_path))
    config.write_text(json.dumps({"model_type": "florence2", "is_encoder_decoder": True}))
    with pytest.raises(CheckpointError, match="is an encoder-decoder"):
        ImageTextToText(str(tmp_path))


def test_code_and_pickles_of_a_repository_are_not_run(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('this ran')")
    config = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoProcessor": "evil.Processor"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="cannot be loaded by transformers"):
        ImageTextToText(str(tmp_path))
    pickled = tmp_path / "pickled"
    shutil.copytree(folders["qwen"], pickled)
    (pickled / "model.safetensors").unlink()
    torch.save({}, pickled / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="cannot be loaded by transformers"):
        ImageTextToText(str(pickled))
