"""Our own layout: designs, backbones, parts from elsewhere, and errors that name what is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaModel,
    LlavaProcessor,
    PreTrainedModel,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    SiglipImageProcessor,
)

from model import checkpoint, published
from model.blip3o import EXTRA_TOKENS, Blip3o
from model.checkpoint import CheckpointError, Generation, TextProcessor
from model.config import Blip3oConfig, Design, DiTConfig, Sampling
from model.data import train_tokenizer
from model.decoder import SCHEDULER
from model.eva_clip import EvaClip, EvaConfig
from model.llava import SiglipLlava
from tests.model.tiny import MODELS, TEXT, VISION

DIT = DiTConfig(grid=2, channels=8, dim=16, layers=2, heads=2, multiple_of=8)
SAMPLING = Sampling(steps=3, decoder_steps=4)
TOY = Path(checkpoint.__file__).parent / "toy"
LLAMA = {name: value for name, value in TEXT.items() if name != "rope_parameters"}


def qwen(vocabulary: int, tied: bool = True) -> PreTrainedModel:
    config = Qwen2_5_VLConfig(
        text_config={**TEXT, "vocab_size": vocabulary, "pad_token_id": 0},
        vision_config={**VISION, "out_hidden_size": TEXT["hidden_size"]},
        tie_word_embeddings=tied,
    )
    return Qwen2_5_VLForConditionalGeneration(config)


def llama(vocabulary: int) -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**LLAMA, vocab_size=vocabulary, pad_token_id=0))


def llava(vocabulary: int) -> PreTrainedModel:
    config = LlavaConfig(
        text_config={**LLAMA, "model_type": "qwen3", "head_dim": 16, "vocab_size": vocabulary, "pad_token_id": 0},
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 16,
        },
        image_token_id=5,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=True,
    )
    return SiglipLlava(config)


def processor(kind: str) -> ProcessorMixin:
    """The toy model's tokenizer, in each backbone's processor."""
    whole = published.load_processor(TOY / "backbone")
    if kind == "qwen":
        return whole
    if kind == "llama":
        return TextProcessor(whole.tokenizer)
    image = SiglipImageProcessor(size={"height": 32, "width": 32})
    return LlavaProcessor(image, whole.tokenizer, patch_size=16, image_token="<|image_pad|>")


BACKBONES = {"qwen": qwen, "llama": llama, "llava": llava}


def save(
    folder: Path,
    kind: str = "qwen",
    design: Design = "clip_flow",
    sources: dict[checkpoint.PartName, str] | None = None,
) -> Blip3o:
    """Write a checkpoint with random weights in float32; the backbone too, unless it comes from elsewhere."""
    torch.manual_seed(0)
    words = processor(kind)
    model = Blip3o(BACKBONES[kind](len(words.tokenizer)), Blip3oConfig(4, design, DIT), 7)
    checkpoint.write_config(folder, model.config, SAMPLING, sources)
    checkpoint.save_tensors(Generation(model).state_dict(), folder / "generator.safetensors", torch.float32)
    if "backbone" not in (sources or {}):
        checkpoint.save_backbone(model.backbone, words, folder, dtype=torch.float32)
    return model


def assert_equal(a: torch.nn.Module, b: torch.nn.Module) -> None:
    assert a.state_dict().keys() == b.state_dict().keys()
    for name, tensor in a.state_dict().items():
        assert torch.equal(tensor, b.state_dict()[name]), name


@pytest.mark.parametrize(
    ("kind", "design"),
    [("qwen", "clip_flow"), ("qwen", "clip_mse"), ("qwen", "vae_flow"), ("llama", "clip_flow"), ("llava", "clip_flow")],
)
def test_saved_and_loaded_again_it_is_the_same(tmp_path: Path, kind: str, design: Design) -> None:
    model = save(tmp_path, kind, design)
    again, words = checkpoint.load_blip3o(tmp_path)
    assert_equal(model, again)
    assert type(again.backbone) is type(model.backbone)
    assert again.backbone.get_output_embeddings().weight is again.backbone.get_input_embeddings().weight
    assert checkpoint.read_config(tmp_path) == (model.config, SAMPLING)
    assert again.image_token == words.tokenizer.convert_tokens_to_ids("[IMG]") == 7
    assert type(words) is type(processor(kind))


def test_half_precision_on_disk_leaves_the_trained_weights_alone(tmp_path: Path) -> None:
    backbone = qwen(505)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    trained = {"model.language_model.norm.weight": torch.full((32,), 2.0)}
    checkpoint.save_backbone(backbone, processor("qwen"), tmp_path, trained)
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())
    again, _ = checkpoint.load_backbone(tmp_path, torch.bfloat16)
    assert {parameter.dtype for parameter in again.parameters()} == {torch.bfloat16}
    assert torch.equal(again.model.language_model.norm.weight, torch.full((32,), 2.0, dtype=torch.bfloat16))


def test_a_generator_goes_into_a_model_that_is_there(tmp_path: Path) -> None:
    stored = save(tmp_path)
    model, _ = checkpoint.load_blip3o(tmp_path)
    with torch.no_grad():
        model.latent_queries.zero_()
    assert model.dit is not None
    model.dit.requires_grad_(False)
    checkpoint.load_generation(model, tmp_path)
    assert_equal(model, stored)
    assert model.latent_queries.requires_grad
    assert not any(parameter.requires_grad for parameter in model.dit.parameters())


def test_parts_may_lie_elsewhere(tmp_path: Path) -> None:
    """The backbone of another checkpoint, by a path relative to this one; EVA-CLIP and decoder of a third."""
    other = save(tmp_path / "other")
    encoder = EvaClip(EvaConfig(**MODELS["eva_clip"]))
    checkpoint.save_eva_clip(encoder, tmp_path / "third")
    AutoencoderKL(**MODELS["vae"]).save_pretrained(tmp_path / "third" / "decoder" / "vae")
    UNet2DConditionModel(**MODELS["decoder"]).save_pretrained(tmp_path / "third" / "decoder" / "unet")
    third = str(tmp_path / "third")
    save(tmp_path / "mine", sources={"backbone": "../other", "eva_clip": third, "decoder": third})
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["config.json", "generator.safetensors"]
    model, _ = checkpoint.load_blip3o(tmp_path / "mine")
    assert_equal(model.backbone, other.backbone)
    half = {name: tensor.half().float() for name, tensor in encoder.state_dict().items()}
    loaded = checkpoint.load_eva_clip(tmp_path / "mine")
    assert loaded.config == encoder.config
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in half.items())
    assert checkpoint.load_decoder(tmp_path / "mine").image_size == 64
    save(tmp_path / "lost", sources={"backbone": "../nowhere"})
    with pytest.raises(CheckpointError, match=r"\.\./nowhere is neither a folder nor owner/name"):
        checkpoint.load_blip3o(tmp_path / "lost")


def base(folder: Path, backbone: PreTrainedModel, pad: bool = True) -> None:
    """A language model as its own authors publish it: without BLIP3-o's tokens."""
    tokenizer = train_tokenizer(["a red cube", "a blue ball"] * 4, 300)
    document = json.loads(tokenizer.backend_tokenizer.to_str())
    document["added_tokens"] = [t for t in document["added_tokens"] if t["content"] not in EXTRA_TOKENS]
    for token in EXTRA_TOKENS:
        document["model"]["vocab"].pop(token, None)
    words = sorted(document["model"]["vocab"], key=document["model"]["vocab"].get)
    document["model"]["vocab"] = {word: i for i, word in enumerate(words)}
    for token in document["added_tokens"]:
        token["id"] = document["model"]["vocab"][token["content"]]
    with torch.no_grad():  # the unused rows must not count in any mean
        for layer in (backbone.get_input_embeddings(), backbone.get_output_embeddings()):
            layer.weight[len(words) :] = 100.0
    backbone.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps(document))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    if pad:
        settings["pad_token"] = "<|endoftext|>"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize("tied", [True, False])
def test_a_base_model_is_given_the_extra_tokens(tmp_path: Path, tied: bool) -> None:
    stored = qwen(320, tied)
    base(tmp_path, stored)
    backbone, words = checkpoint.load_backbone(tmp_path)
    size = len(words.tokenizer)
    known = size - len(EXTRA_TOKENS)
    assert known < size < 320  # rows for which there is no token are dropped
    assert words.tokenizer.convert_tokens_to_ids(list(EXTRA_TOKENS)) == [known, known + 1, known + 2]
    assert words.tokenizer("a [IMG]").input_ids[-1] == known
    for old, new in [
        (stored.get_input_embeddings().weight, backbone.get_input_embeddings().weight),
        (stored.get_output_embeddings().weight, backbone.get_output_embeddings().weight),
    ]:
        assert new.shape == (size, 32)
        assert torch.equal(new[:known], old[:known])
        torch.testing.assert_close(new[known:], old[:known].mean(0).expand(3, -1))
    assert backbone.config.get_text_config().vocab_size == size
    again, _ = checkpoint.load_backbone(tmp_path)
    assert_equal(backbone, again)


def test_a_base_model_without_padding_is_given_a_token_for_it(tmp_path: Path) -> None:
    base(tmp_path, llama(320), pad=False)
    with pytest.raises(CheckpointError, match="holds no BLIP3-o checkpoint: a language model alone"):
        checkpoint.load_blip3o(tmp_path)
    backbone, words = checkpoint.load_backbone(tmp_path)
    ids = words.tokenizer.convert_tokens_to_ids(["<pad>", *EXTRA_TOKENS])
    assert ids == list(range(len(words.tokenizer) - 4, len(words.tokenizer)))
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="holds no processor or tokenizer that can be read"):
        checkpoint.load_backbone(tmp_path)
    assert backbone.config.pad_token_id == words.tokenizer.pad_token_id == ids[0]
    assert backbone.get_input_embeddings().weight.shape[0] == len(words.tokenizer)


def test_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    save(tmp_path)
    path = tmp_path / "generator.safetensors"
    stored = load_file(path)
    changed = {name: tensor for name, tensor in stored.items() if name != "dit.norm_out.linear_1.bias"}
    save_file({**changed, "extra": torch.zeros(1), "latent_queries": torch.zeros(1, 4, 3)}, path)
    message = (
        rf"{path} does not fit its configuration: dit\.norm_out\.linear_1\.bias is missing; "
        r"latent_queries is \[1, 4, 3\] instead of \[1, 4, 32\]; extra is unexpected"
    )
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load_blip3o(tmp_path)
    name = "dit.layers.0.feed_forward.linear_1.weight"
    save_file({**stored, name: torch.zeros(64, 16)}, path)
    with pytest.raises(CheckpointError, match=r"64 wide instead of 48\. It was trained by upstream's code"):
        checkpoint.load_blip3o(tmp_path)
    save_file({**stored, "latent_queries": torch.ones(1, 4, 32, dtype=torch.int8)}, path)
    with pytest.raises(CheckpointError, match=r"latent_queries is of torch\.int8 instead of torch\.float32"):
        checkpoint.load_blip3o(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"generator\.safetensors is damaged or cut short"):
        checkpoint.load_blip3o(tmp_path)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"generator\.safetensors is missing"):
        checkpoint.load_blip3o(tmp_path)


def test_a_backbone_that_does_not_fit_is_never_filled_up(tmp_path: Path) -> None:
    save(tmp_path)
    path = tmp_path / "backbone" / "model.safetensors"
    stored = load_file(path)
    changed = {name: tensor for name, tensor in stored.items() if name != "model.norm.weight"}
    save_file({**changed, "visual.merger.ln_q.weight": torch.zeros(3)}, path, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"norm\.weight is missing; .*ln_q\.weight is \[3\] instead of \[32\]"):
        checkpoint.load_blip3o(tmp_path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"backbone/model\.safetensors is damaged or cut short"):
        checkpoint.load_backbone(tmp_path)
    (tmp_path / "backbone" / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(CheckpointError, match="model_type is 'gpt2'; a backbone's is one of qwen2_5_vl, llama, llava"):
        checkpoint.load_backbone(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"config\.json is not JSON"),
        ("[]", r"config\.json holds no JSON object"),
        ('{"n_query": 4}', r"config\.json is not a BLIP3-o configuration: 'design'"),
        (
            '{"n_query": 4, "design": "clip_flow", "dit": {"width": 3}, "sampling": {}}',
            "unexpected keyword argument 'width'",
        ),
    ],
)
def test_a_configuration_that_cannot_be_read_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.read_config(tmp_path)


@pytest.mark.parametrize(
    ("load", "missing"),
    [
        (checkpoint.read_config, "config.json"),
        (checkpoint.load_blip3o, "config.json"),
        (checkpoint.load_backbone, "backbone/config.json"),
        (checkpoint.load_eva_clip, "eva_clip/config.json"),
        (checkpoint.load_vae, "decoder/vae/config.json"),
        (checkpoint.load_decoder, "decoder/unet/config.json"),
    ],
)
def test_what_is_not_there_is_named(tmp_path: Path, load: Callable[[Path], object], missing: str) -> None:
    with pytest.raises(CheckpointError, match=f"{tmp_path}/{missing} is missing"):
        load(tmp_path)


def decoder(folder: Path, variant: str | None) -> UNet2DConditionModel:
    dtype = torch.bfloat16 if variant else torch.float32
    unet = UNet2DConditionModel(**MODELS["decoder"]).to(dtype)
    unet.save_pretrained(folder / "unet", variant=variant)
    AutoencoderKL(**MODELS["vae"]).to(dtype).save_pretrained(folder / "vae", variant=variant)
    return unet


@pytest.mark.parametrize("variant", ["bf16", None])
def test_the_published_decoder_is_read_from_its_variant_or_without_one(tmp_path: Path, variant: str | None) -> None:
    unet = decoder(tmp_path / "diffusion-decoder", variant)
    loaded = checkpoint.load_decoder(tmp_path)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert all(torch.equal(loaded.unet.state_dict()[name], t.float()) for name, t in unet.state_dict().items())
    weights = next((tmp_path / "diffusion-decoder" / "unet").glob("*.safetensors"))
    stored = load_file(weights)
    save_file({name: tensor for name, tensor in stored.items() if name != "conv_in.bias"}, weights, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"unet does not fit its configuration: conv_in\.bias is missing"):
        checkpoint.load_decoder(tmp_path)
    weights.write_bytes(weights.read_bytes()[:50])
    with pytest.raises(CheckpointError, match=rf"{weights.name} is damaged"):
        checkpoint.load_decoder(tmp_path)


def test_a_decoder_of_another_schedule_is_refused(tmp_path: Path) -> None:
    """With Emu2-Gen's own file: fields of other schedulers in it mean nothing to this one."""
    emu = {"_class_name": "EulerDiscreteScheduler", "_diffusers_version": "0.21.2", **SCHEDULER, "clip_sample": False}
    emu |= {"interpolation_type": "linear", "use_karras_sigmas": False, "set_alpha_to_one": False}
    path = tmp_path / "scheduler_config.json"
    path.write_text(json.dumps(emu))
    checkpoint.check_scheduler(path)
    path.write_text(json.dumps(emu | {"timestep_spacing": "trailing"}))
    with pytest.raises(CheckpointError, match="timestep_spacing is 'trailing'; this decoder samples with 'leading'"):
        checkpoint.check_scheduler(path)
    path.write_text(json.dumps({name: value for name, value in emu.items() if name != "timestep_spacing"}))
    with pytest.raises(CheckpointError, match="timestep_spacing is 'linspace'"):  # as diffusers takes it
        checkpoint.check_scheduler(path)
    path.write_text(json.dumps(emu | {"_class_name": "DDIMScheduler"}))
    with pytest.raises(CheckpointError, match="_class_name is 'DDIMScheduler'"):
        checkpoint.check_scheduler(path)


def test_a_vae_of_a_whole_pipeline(tmp_path: Path) -> None:
    vae = AutoencoderKL(**MODELS["vae"])
    vae.save_pretrained(tmp_path / "vae")
    assert_equal(checkpoint.load_vae(tmp_path), vae)
    with pytest.raises(CheckpointError, match=r"unet/config\.json is missing"):
        checkpoint.load_decoder(tmp_path)


def test_the_digest_is_of_names_and_bytes(tmp_path: Path) -> None:
    save(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / ".cache").mkdir()
    (tmp_path / "b" / ".cache" / "notes.json").write_text("of a download tool")
    (tmp_path / "b" / "README.md").write_text("fetched by another program")
    first = checkpoint.digest(tmp_path / "a")
    assert checkpoint.digest(tmp_path / "b") == first
    (tmp_path / "b" / "config.json").rename(tmp_path / "b" / "other.json")
    assert checkpoint.digest(tmp_path / "b") != first


def test_the_digest_is_of_parts_in_other_folders_too(tmp_path: Path) -> None:
    save(tmp_path / "a")
    (tmp_path / "backbone").mkdir()
    weights = tmp_path / "backbone" / "model.safetensors"
    weights.write_bytes(b"one")
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    told = {"backbone": "../backbone", "decoder": "someone/decoder@0123"}
    (tmp_path / "a" / "config.json").write_text(json.dumps(config | {"sources": told}))
    first = checkpoint.digest(tmp_path / "a")
    weights.write_bytes(b"two")
    assert checkpoint.digest(tmp_path / "a") != first
    weights.write_bytes(b"one")
    assert checkpoint.digest(tmp_path / "a") == first


def test_the_toy_is_whole() -> None:
    model, words = checkpoint.load_blip3o(TOY)
    assert not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
    assert model.latent_queries.std() > 0
    assert len(words.tokenizer) == model.backbone.get_input_embeddings().num_embeddings
    assert checkpoint.load_eva_clip(TOY).config.width == model.config.dit.channels
    assert checkpoint.load_decoder(TOY).unet.config.cross_attention_dim == model.config.dit.channels


def test_siglips_features_are_taken_behind_its_last_norm() -> None:
    torch.manual_seed(0)
    backbone = llava(400)
    tower = backbone.model.vision_tower
    torch.nn.init.normal_(tower.post_layernorm.weight)
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        features = backbone.get_image_features(images).pooler_output
        expected = LlavaModel(backbone.config).multi_modal_projector
        expected.load_state_dict(backbone.model.multi_modal_projector.state_dict())
        torch.testing.assert_close(torch.stack(features), expected(tower(images).last_hidden_state))
