"""The published layout, made of the reference tensors under upstream's own names, and its full size without weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from model import published, tensors
from model.blip3o import Blip3o
from model.config import Blip3oConfig, DiTConfig, qwen_3b, qwen_7b
from model.eva_clip import EvaClip, EvaConfig
from model.tensors import CheckpointError, StoredTensor, empty, names
from tests.golden.cases import load_json, load_tensors

TOKENIZER = Path(published.__file__).parent / "toy" / "backbone"
VOCABULARY = json.loads((TOKENIZER / "config.json").read_text())["text_config"]["vocab_size"]
EVA = EvaConfig(width=48, layers=3, head_width=12)
#: What the two sizes of the published model count (backbone's text model and output layer, image tower, generator).
SIZES = {"4B": (qwen_3b, 3_085_389_824, 668_684_288), "8B": (qwen_7b, 7_612_777_984, 676_550_144)}


@pytest.fixture(scope="module")
def upstream() -> dict[str, Tensor]:
    """A tiny model's tensors as upstream's training names them, with a smaller vocabulary."""
    state: dict[str, Tensor] = load_tensors("model/train_tiny.pt")["state_dict"]
    embedding = torch.randn(VOCABULARY, 64, generator=torch.Generator().manual_seed(0))
    return {**state, "model.embed_tokens.weight": embedding, "model.vae.encoder.conv_in.weight": torch.zeros(3)}


@pytest.fixture
def config() -> dict[str, Any]:
    """config.json as transformers 4.51 wrote it, with some of upstream's own fields."""
    tiny = load_json("model/tiny_config.json")
    tokens = {name: id_ for name, id_ in tiny["token_ids"].items() if name not in ("img_token_id", "latent_token_id")}
    return {
        **tiny["text_config"],
        **tokens,
        "vocab_size": VOCABULARY,
        "pad_token_id": 0,
        "vision_config": {**tiny["vision_config"], "model_type": "qwen2_5_vl"},
        "architectures": ["blip3oQwenForCausalLM"],
        "model_type": "blip3o_qwen",
        "torch_dtype": "bfloat16",
        "gen_vision_tower": "eva-clip-E-14-plus",
        "n_query": 64,
    }


@pytest.fixture
def folder(tmp_path: Path, upstream: dict[str, Tensor], config: dict[str, Any]) -> Path:
    """A published checkpoint in one file."""
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(upstream, folder / "model.safetensors")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(TOKENIZER / name, folder / name)
    return folder


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")


def test_every_wanted_tensor_arrives_under_our_name(folder: Path, upstream: dict[str, Tensor]) -> None:
    model, processor = published.load_blip3o(folder)
    state = model.state_dict()
    arrived = {published.our_name(name): tensor for name, tensor in upstream.items()}
    arrived.pop(None)
    for name, tensor in arrived.items():
        if not str(name).startswith("eva_clip."):
            torch.testing.assert_close(state[str(name)], tensor, rtol=0, atol=0)
    assert model.backbone.lm_head.weight is model.backbone.get_input_embeddings().weight
    assert model.config == Blip3oConfig(
        64, "clip_flow", DiTConfig(channels=48, dim=64, layers=2, heads=4, multiple_of=192)
    )
    assert model.image_token == processor.tokenizer.convert_tokens_to_ids("[IMG]") == 7


def test_what_is_not_stored_is_as_in_a_model_built_whole(folder: Path) -> None:
    model, _ = published.load_blip3o(folder)
    whole = Qwen2_5_VLForConditionalGeneration(model.backbone.config)
    rotary = dict(model.backbone.named_buffers())
    assert rotary.keys() == dict(whole.named_buffers()).keys() != set()
    for name, buffer in whole.named_buffers():
        torch.testing.assert_close(rotary[name], buffer, rtol=0, atol=0)


def test_qwen_s_own_spelling_of_its_rotary_embedding_is_understood(folder: Path, config: dict[str, Any]) -> None:
    model, _ = published.load_blip3o(folder)
    config["rope_scaling"] = {"type": "mrope", "mrope_section": [2, 3, 3]}
    (folder / "config.json").write_text(json.dumps(config))
    again, _ = published.load_blip3o(folder)
    for backbone in (model.backbone, again.backbone):
        rope = backbone.config.text_config.rope_parameters
        assert (rope["rope_type"], rope["rope_theta"], rope["mrope_section"]) == ("default", 1e6, [2, 3, 3])


def test_a_tokenizer_as_transformers_4_51_saved_it(folder: Path) -> None:
    """No tokenizer.json: words, merges, and the added tokens behind them."""
    whole = json.loads((folder / "tokenizer.json").read_text())
    added = [token["content"] for token in whole["added_tokens"]]
    vocabulary = {word: id_ - len(added) for word, id_ in whole["model"]["vocab"].items() if word not in added}
    ids = {token: len(vocabulary) + i for i, token in enumerate(added)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(" ".join(pair) for pair in whole["model"]["merges"]))
    (folder / "added_tokens.json").write_text(json.dumps(ids))
    settings = {"content": "", "special": True, "lstrip": False, "rstrip": False, "normalized": False}
    decoder = {str(id_): {**settings, "content": token, "single_word": False} for token, id_ in ids.items()}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": decoder, "eos_token": "<|im_end|>"})
    )
    (folder / "tokenizer.json").unlink()
    model, processor = published.load_blip3o(folder)
    assert model.image_token == ids["[IMG]"]
    assert processor.tokenizer("<|im_end|>\n[IMG]").input_ids == [ids["<|im_end|>"], vocabulary["Ċ"], ids["[IMG]"]]


def test_the_processor_without_an_image_part_gets_qwen_s(folder: Path) -> None:
    image = published.load_processor(folder).image_processor
    assert (image.patch_size, image.temporal_patch_size, image.merge_size) == (14, 2, 2)
    assert (image.size["shortest_edge"], image.size["longest_edge"]) == (3136, 12845056)


def test_an_image_part_in_the_folder_counts(folder: Path) -> None:
    """As Qwen2.5-VL's own preprocessor_config.json is written, with other numbers."""
    stored = {"image_processor_type": "Qwen2VLImageProcessor", "min_pixels": 784, "max_pixels": 200704, "patch_size": 7}
    (folder / "preprocessor_config.json").write_text(json.dumps(stored))
    processor = published.load_processor(folder)
    for part in (processor.image_processor, processor.video_processor):
        assert (part.patch_size, part.size["shortest_edge"], part.size["longest_edge"]) == (7, 784, 200704)


def test_only_wanted_tensors_are_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    read = tensors._read

    def recorded(path: Path, name: str) -> Tensor:
        seen.append(name)
        return read(path, name)

    monkeypatch.setattr(tensors, "_read", recorded)
    published.load_backbone(folder)
    assert {name.split(".")[0] for name in seen} == {"visual", "model"}
    assert not [
        name for name in seen if name.startswith(("model.dit", "model.latent", "model.gen_vision", "model.vae"))
    ]
    seen.clear()
    published.load_blip3o(folder)
    assert not [name for name in seen if name.startswith(("model.gen_vision", "model.vae"))]
    assert len(seen) == len(set(seen))


def test_weights_are_cast_but_rotary_frequencies_stay_exact(folder: Path, upstream: dict[str, Tensor]) -> None:
    model, _ = published.load_blip3o(folder, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert {buffer.dtype for buffer in model.backbone.buffers()} == {torch.float32}
    assert torch.equal(model.latent_queries, upstream["model.latent_queries"].bfloat16())


def test_a_tied_output_layer_may_be_stored_and_an_untied_one_must_be(folder: Path, config: dict[str, Any]) -> None:
    rewrite(folder, lambda state: state.update({"lm_head.weight": torch.ones(VOCABULARY, 64)}))
    model, _ = published.load_blip3o(folder)
    assert model.backbone.lm_head.weight is model.backbone.get_input_embeddings().weight
    assert not (model.backbone.lm_head.weight == 1).all()
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    backbone, _ = published.load_backbone(folder)
    assert (backbone.lm_head.weight == 1).all()
    rewrite(folder, lambda state: state.pop("lm_head.weight"))
    with pytest.raises(CheckpointError, match=r"lm_head\.weight is missing"):
        published.load_blip3o(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("model.norm.weight"), r"published does not fit .*language_model\.norm\.weight is missing"),
        (lambda s: s.update({"model.new.weight": torch.zeros(1)}), r"model\.new\.weight is no tensor of a published"),
        (lambda s: s.update({"model.norm.weight": torch.zeros(3)}), r"norm\.weight is \[3\] instead of \[64\]"),
        (
            lambda s: [s.pop(n) for n in list(s) if n.startswith("model.layers.0.")],
            r"q_proj\.weight is missing.* and \d+ more$",
        ),
        (lambda s: s.pop("model.latent_queries"), r"lacks model\.latent_queries: it holds no generator"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(
    folder: Path, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    rewrite(folder, change)
    with pytest.raises(CheckpointError, match=message) as error:
        published.load_blip3o(folder)
    assert "\n" not in str(error.value)


def test_the_feed_forward_layers_of_newer_diffusers_are_explained(folder: Path) -> None:
    name = "dit.layers.0.feed_forward.linear_1.weight"
    wide = StoredTensor((7168, 1792), lambda: torch.empty(0))
    with pytest.raises(CheckpointError, match=r"7168 wide instead of 4864.*diffusers 0\.33"):
        published.check_ffn({name: wide}, DiTConfig(), folder)
    published.check_ffn({name: StoredTensor((4864, 1792), wide.read)}, DiTConfig(), folder)

    def widen(state: dict[str, Tensor]) -> None:
        for key in [key for key in state if key.startswith("model.dit.")]:
            del state[key]
        state["model.dit.model.patch_embedder.proj.weight"] = torch.zeros(96, 48)
        state["model.dit.model.layers.0.gate"] = torch.zeros(4)
        state["model.dit.model.layers.0.feed_forward.linear_1.weight"] = torch.zeros(512, 96)

    rewrite(folder, widen)
    with pytest.raises(CheckpointError, match="512 wide instead of 256"):
        published.read_config(folder)


def test_another_model_is_named(folder: Path, config: dict[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "llava_qwen"}))
    with pytest.raises(CheckpointError, match="model_type is 'llava_qwen'; blip3o_qwen and"):
        published.load_blip3o(folder)
    del config["rope_scaling"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"config\.json lacks rope_scaling"):
        published.load_backbone(folder)


def test_a_damaged_file_is_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged or cut short"):
        published.load_blip3o(folder)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        published.load_blip3o(folder)


def test_written_and_read_again_it_is_the_same(
    folder: Path, upstream: dict[str, Tensor], config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published, "SHARD", "200KB")
    model, processor = published.load_blip3o(folder)
    out = tmp_path / "out" / "copy"
    published.write(model, processor, out, torch.float32)
    shards = sorted(out.glob("model-*.safetensors"))
    assert len(shards) > 1
    stored = {name: tensor for shard in shards for name, tensor in load_file(shard).items()}
    expected = {name: t for name, t in upstream.items() if not name.startswith(("model.gen_vision", "model.vae"))}
    assert stored.keys() == expected.keys()
    again, processor_again = published.load_blip3o(out)
    assert again.config == model.config
    written = json.loads((out / "config.json").read_text())
    assert written["vision_config"].items() >= config["vision_config"].items()
    assert {name: written[name] for name in config if name != "vision_config"} == {
        **{name: value for name, value in config.items() if name != "vision_config"},
        "torch_dtype": "float32",
    }
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert processor_again.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    assert processor_again.image_processor.size["longest_edge"] == 12845056
    with pytest.raises(CheckpointError, match="copy exists: choose another folder"):
        published.write(model, processor, out)
    shards[0].unlink()
    with pytest.raises(CheckpointError, match=f"{shards[0].name} is missing"):
        published.load_blip3o(out)


def test_the_file_is_bfloat16_unless_asked_otherwise(folder: Path, tmp_path: Path) -> None:
    model, processor = published.load_blip3o(folder, dtype=torch.bfloat16)
    published.write(model, processor, tmp_path / "half")
    assert {tensor.dtype for tensor in load_file(tmp_path / "half" / "model.safetensors").values()} == {torch.bfloat16}
    again, _ = published.load_blip3o(tmp_path / "half", dtype=torch.bfloat16)
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


def test_what_upstream_could_not_read_is_not_written(folder: Path, tmp_path: Path) -> None:
    model, processor = published.load_blip3o(folder)
    with empty():
        other = Blip3o(model.backbone, Blip3oConfig(64, "clip_mse", model.config.dit), 7)
        small = Blip3o(model.backbone, Blip3oConfig(64, "clip_flow", DiTConfig(grid=4, dim=64, heads=2)), 7)
    with pytest.raises(CheckpointError, match="flow matching on CLIP features"):
        published.write(other, processor, tmp_path / "other")
    with pytest.raises(CheckpointError, match="8 x 8 features"):
        published.write(small, processor, tmp_path / "small")
    assert not list(tmp_path.glob("other*")) + list(tmp_path.glob("small*"))


def test_eva_clip_from_the_checkpoint_and_from_its_own_file(folder: Path, tmp_path: Path) -> None:
    eva = load_tensors("model/train_tiny.pt")["state_dict"]
    prefix = "model.gen_vision_tower.vision_tower.model."
    eva = {name.removeprefix(prefix): tensor for name, tensor in eva.items() if name.startswith(prefix)}
    whole = {**{f"visual.{name}": tensor for name, tensor in eva.items()}, "logit_scale": torch.ones(())}
    (tmp_path / "plain").mkdir()
    (tmp_path / "whole").mkdir()
    torch.save(eva, tmp_path / "plain" / "pytorch_model.bin")
    torch.save(whole, tmp_path / "whole" / "pytorch_model.bin")
    for source in (folder, tmp_path / "plain", tmp_path / "whole"):
        state = published.load_eva_clip(source, EVA).state_dict()
        assert state.keys() == eva.keys()
        assert all(torch.equal(state[name], tensor) for name, tensor in eva.items())
    with pytest.raises(CheckpointError, match=r"blocks\.3\.norm1\.weight is missing"):
        published.load_eva_clip(folder)
    rewrite(folder, lambda state: [state.pop(name) for name in list(state) if name.startswith(prefix)])
    with pytest.raises(CheckpointError, match="holds no EVA-CLIP: take jiuhai/eva_clip_vision_tower"):
        published.load_eva_clip(folder)


def test_a_pickle_with_code_in_it_is_refused(tmp_path: Path) -> None:
    torch.save({"cls_token": Path("code")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is damaged or not a file of tensors"):
        published.load_eva_clip(tmp_path)


@pytest.mark.parametrize("size", SIZES)
def test_full_size_names_and_shapes(size: str) -> None:
    backbone_config, text, vision = SIZES[size]
    with empty():
        model = Blip3o(Qwen2_5_VLForConditionalGeneration(backbone_config()), Blip3oConfig(), 151665)
    model.backbone.tie_weights()
    state = model.state_dict()
    shapes = {published.published_name(name): list(state[name].shape) for name in names(model)}
    assert {name: shape for name, shape in shapes.items() if ".dit." in name} == load_json("model/dit_full_keys.json")[
        size
    ]
    assert shapes["model.latent_queries"] == [1, 64, state["latent_queries"].shape[-1]]
    assert ("lm_head.weight" in shapes) == (size == "8B")
    assert all(published.our_name(published.published_name(name)) == name for name in names(model))
    counts = {False: 0, True: 0}
    for name, parameter in model.backbone.named_parameters():
        counts[name.startswith("model.visual.")] += parameter.numel()
    assert counts == {False: text, True: vision}


def test_full_size_eva_clip() -> None:
    with empty():
        encoder = EvaClip(EvaConfig())
    shapes = {name: list(parameter.shape) for name, parameter in encoder.named_parameters()}
    assert shapes == load_json("model/eva_full_keys.json")
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 4_350_208_256
