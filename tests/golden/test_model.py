"""The network against tensors that upstream's own classes wrote.

A difference counts in units of the reference's largest value, where that is above 1: sums are rounded in another order
on another CPU, and the references carry that error themselves. dit_tiny's output, of up to 3.4, is about 1e-5 away from
the same network's in float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from model import flow
from model.bench import as_lumina
from model.blip3o import Blip3o
from model.config import Blip3oConfig, DiTConfig, Sampling, qwen_3b, qwen_7b
from model.decoder import SCHEDULER, Decoder, to_pixels
from model.dit import NextDiT, rope_2d, sinusoids
from model.eva_clip import EvaClip, EvaConfig
from model.generate import sample_features
from model.published import our_name
from tests.golden.cases import load_json, load_tensors

#: Largest difference for the transformer, schedules, query states and sampled features, and for everything else: also
#: for what training predicts, which carries the exp() of the reference's CPU (see model.dit.sinusoids).
TIGHT, LOOSE = 1e-5, 1e-4

CPU = torch.device("cpu")


def assert_close(ours: Tensor, reference: Tensor, bound: float) -> None:
    assert ours.shape == reference.shape
    difference = (ours.float() - reference.float()).abs().max().item()
    assert difference <= bound * max(1.0, reference.abs().max().item()), f"they differ by {difference}"


def dit_config(sizes: Mapping[str, Any]) -> DiTConfig:
    return DiTConfig(
        grid=sizes["input_size"],
        patch_size=sizes["patch_size"],
        channels=sizes["in_channels"],
        dim=sizes["dim"],
        layers=sizes["n_layers"],
        heads=sizes["n_heads"],
        multiple_of=sizes["multiple_of"],
    )


# --- the diffusion transformer alone


@pytest.fixture(scope="module")
def dit_case() -> dict[str, Any]:
    return load_tensors("model/dit_tiny.pt")


@pytest.fixture(scope="module")
def dit(dit_case: dict[str, Any]) -> NextDiT:
    network = NextDiT(dit_config(dit_case["config"]), dit_case["config"]["latent_embedding_size"])
    network.load_state_dict({name.removeprefix("model."): value for name, value in dit_case["state_dict"].items()})
    return network.eval().requires_grad_(False)


def test_dit_forward(dit: NextDiT, dit_case: dict[str, Any]) -> None:
    x, timestep, condition = dit_case["x"], dit_case["t"], dit_case["z"]
    assert_close(dit(x, timestep, condition), dit_case["out"], TIGHT)
    assert_close(dit(x, timestep, torch.zeros_like(condition)), dit_case["out_null"], TIGHT)
    assert_close(dit(x, timestep.long(), condition), dit_case["out_long_t"], TIGHT)


def test_dit_intermediates(dit: NextDiT, dit_case: dict[str, Any]) -> None:
    x, timestep, condition = dit_case["x"], dit_case["t"], dit_case["z"]
    seen = dit_case["intermediates"]
    caption = dit.caption_projection(condition)
    time = dit.time_caption_embed(timestep, caption.mean(1))
    assert_close(dit.patch_embedder(x), seen["patch_embed"], TIGHT)
    assert_close(caption, seen["caption_projection"], TIGHT)
    assert_close(time, seen["temb"], TIGHT)
    config = dit.config
    rope = rope_2d(config.grid, config.grid, config.dim // config.heads)
    assert_close(torch.view_as_real(rope).view_as(dit_case["rope_8x8"]), dit_case["rope_8x8"], TIGHT)
    keys, values = dit.context(condition).keys_values[0]
    assert_close(dit.layers[0](seen["patch_embed"], time, rope, keys, values), seen["layer0"], TIGHT)
    assert config.ffn_width == dit_case["ffn_inner"]


def test_dit_in_bfloat16(dit: NextDiT, dit_case: dict[str, Any]) -> None:
    """Within what bfloat16 itself costs: the reference's own distance from its float32 result."""
    half = NextDiT(dit.config, dit_case["config"]["latent_embedding_size"])
    half.load_state_dict(dit.state_dict())
    half = half.bfloat16().requires_grad_(False)
    ours = half(dit_case["x"].bfloat16(), dit_case["t"], dit_case["z"].bfloat16())
    reference = dit_case["out_bf16"].float()
    assert ours.dtype == torch.bfloat16
    assert (ours - reference).square().mean() < (reference - dit_case["out"]).square().mean()


def test_dit_equals_lumina(dit: NextDiT, dit_case: dict[str, Any]) -> None:
    """On one and the same machine it is diffusers' Lumina, bit for bit, but for the last bits of the sinusoids."""
    config, lumina = dit.config, as_lumina(dit)
    x, timestep, condition = dit_case["x"], dit_case["t"], dit_case["z"]
    caption = dit.caption_projection(condition)
    rope = rope_2d(config.grid, config.grid, config.dim // config.heads).view(config.grid, config.grid, -1)
    mask = torch.ones(caption.shape[:2], dtype=torch.bool)
    assert_close(sinusoids(timestep), lumina.time_caption_embed.time_proj(timestep), 1e-4)
    lumina.time_caption_embed.time_proj.register_forward_hook(lambda module, inputs, output: sinusoids(*inputs))
    with torch.inference_mode():
        expected = lumina(x, timestep, caption, mask, rope, cross_attention_kwargs={}, return_dict=False)[0]
        assert torch.equal(dit(x, timestep, condition), expected)


# --- schedules


def test_schedules() -> None:
    case = load_tensors("model/schedules.pt")
    levels = len(case["train_sigmas"])
    sigmas = flow.noise_levels((torch.arange(levels) + 0.5) / levels)
    assert_close(sigmas, case["train_sigmas"], TIGHT)
    assert_close(sigmas * flow.LEVELS, case["train_timesteps"], TIGHT)
    steps = len(case["infer_timesteps"])
    assert_close(flow.schedule(steps), case["infer_sigmas"], TIGHT)
    seen = {cut: timesteps(steps, cut) for cut in (False, True)}
    assert_close(seen[False], case["infer_timesteps"], TIGHT)
    assert torch.equal(seen[True].long(), case["infer_timesteps_long"])

    decoder = EulerDiscreteScheduler(**SCHEDULER)
    decoder.set_timesteps(len(case["euler_timesteps"]))
    assert_close(decoder.timesteps, case["euler_timesteps"], TIGHT)
    assert_close(decoder.sigmas, case["euler_sigmas"], TIGHT)
    assert_close(torch.as_tensor(decoder.init_noise_sigma), case["euler_init_noise_sigma"], TIGHT)


def timesteps(steps: int, integer: bool) -> Tensor:
    """What the sampler shows the network."""
    seen: list[Tensor] = []

    def velocity(x: Tensor, timestep: Tensor) -> Tensor:
        seen.append(timestep[0])
        return x

    flow.sample(velocity, torch.zeros(1, 1), steps, integer)
    return torch.stack(seen)


# --- EVA-CLIP


def test_eva_clip_features() -> None:
    case = load_tensors("model/eva_tiny.pt")
    sizes = case["config"]["vision_cfg"]
    encoder = EvaClip(
        EvaConfig(
            image_size=sizes["image_size"],
            patch_size=sizes["patch_size"],
            width=sizes["width"],
            layers=sizes["layers"],
            head_width=sizes["head_width"],
            mlp_ratio=sizes["mlp_ratio"],
        )
    )
    encoder.load_state_dict(case["state_dict"])
    generator = torch.Generator().manual_seed(case["image_seed"])
    images = torch.randn(len(case["features"]), 3, sizes["image_size"], sizes["image_size"], generator=generator)
    with torch.inference_mode():
        assert_close(encoder(images), case["features"], LOOSE)
        assert_close(encoder.features(images), case["pooled"], LOOSE)


# --- the whole model


@pytest.fixture(scope="module")
def trained() -> dict[str, Any]:
    return load_tensors("model/train_tiny.pt")


@pytest.fixture(scope="module")
def generated() -> dict[str, Any]:
    return load_tensors("model/generate_tiny.pt")


def tiny_model(trained: Mapping[str, Any], dit_sizes: str, dit_state: Mapping[str, Tensor]) -> Blip3o:
    """Backbone and queries of train_tiny, with the transformer whose sizes and tensors (under our names) are given."""
    sizes = load_json("model/tiny_config.json")
    text = dict(sizes["text_config"])
    scaling = text.pop("rope_scaling")
    text["rope_parameters"] = {
        "rope_type": "default",
        "rope_theta": text.pop("rope_theta"),
        "mrope_section": scaling["mrope_section"],
    }
    tokens = sizes["token_ids"]
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=sizes["vision_config"],
        tie_word_embeddings=text["tie_word_embeddings"],
        **{
            name: tokens[name]
            for name in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
        },
    )
    backbone = Qwen2_5_VLForConditionalGeneration(config)
    model = Blip3o(
        backbone,
        Blip3oConfig(sizes["n_query"], "clip_flow", dit_config(sizes[dit_sizes])),
        image_token=tokens["img_token_id"],
    )
    state: dict[str, Tensor] = {f"dit.{name}": value for name, value in dit_state.items()}
    for name, value in trained["state_dict"].items():
        ours = our_name(name)
        if ours is not None and not ours.startswith(("dit.", "eva_clip.")):
            state[ours] = value
    rows, width = backbone.get_input_embeddings().weight.shape
    generator = torch.Generator().manual_seed(trained["embed_tokens_seed"])
    state["backbone.model.language_model.embed_tokens.weight"] = torch.randn(rows, width, generator=generator) * 0.5
    state["backbone.lm_head.weight"] = state["backbone.model.language_model.embed_tokens.weight"]
    model.load_state_dict(state)
    model.backbone.requires_grad_(False)
    return model.eval()


@pytest.fixture(scope="module")
def drawing(trained: dict[str, Any], generated: dict[str, Any]) -> Blip3o:
    state = {name.removeprefix("model."): value for name, value in generated["dit_state_dict"].items()}
    return tiny_model(trained, "dit_of_generate_tiny", state).requires_grad_(False)


def draw(model: Blip3o, states: Tensor, seed: int) -> Tensor:
    """Upstream's sampling -> feature tokens [1, N, C]."""
    generator = torch.Generator().manual_seed(seed)
    features = sample_features(model, states, [generator], Sampling(), integer_timesteps=True)
    return features.flatten(2).transpose(1, 2)


def test_generation(drawing: Blip3o, generated: dict[str, Any]) -> None:
    states = drawing.query_states([generated["prompt_ids"]])
    assert_close(states, generated["hidden_states"], TIGHT)
    assert drawing.dit is not None
    both = torch.cat([generated["null_states"], states])
    first = drawing.dit(generated["x0"], generated["timesteps"][:1].expand(2), both)
    assert_close(first, generated["pred0"], TIGHT)
    assert_close(draw(drawing, states, generated["seed"]), generated["clip_features"], TIGHT)


def test_negative_features(drawing: Blip3o, generated: dict[str, Any]) -> None:
    states = drawing.query_states([torch.tensor([220])])  # the token of the bare prompt " "
    assert_close(draw(drawing, states, 42), generated["neg_features_seed42"], TIGHT)


def patches(case: Mapping[str, Any]) -> Tensor:
    """The random image of i2i_tiny: one row per patch of two frames of three channels of 14 x 14 pixels."""
    generator = torch.Generator().manual_seed(case["pixel_values_seed"])
    return torch.randn(int(case["image_grid_thw"].prod()), 3 * 2 * 14 * 14, generator=generator)


def test_generation_from_an_image(drawing: Blip3o) -> None:
    case = load_tensors("model/i2i_tiny.pt")
    images = drawing.image_features(patches(case), case["image_grid_thw"])
    assert_close(images[0], case["image_embeds"], LOOSE)
    states = drawing.query_states([case["prompt_ids"]], images)
    assert_close(states, case["hidden_states"], TIGHT)
    assert_close(draw(drawing, states, case["seed"]), case["clip_features"], TIGHT)


def test_understanding(drawing: Blip3o) -> None:
    case, image = load_tensors("model/understand_tiny.pt"), load_tensors("model/i2i_tiny.pt")
    ids = case["input_ids"].view(1, -1)
    backbone = drawing.backbone
    inputs = {
        "input_ids": ids,
        "pixel_values": patches(image),
        "image_grid_thw": image["image_grid_thw"],
        "mm_token_type_ids": (ids == backbone.config.image_token_id).long(),
    }
    with torch.inference_mode():
        top = case["last_logits_top"]
        logits = backbone(**inputs).logits[0, -1]
        assert_close(logits[top["indices"]], top["values"], LOOSE)
        assert set(logits.topk(len(top["indices"])).indices.tolist()) == set(top["indices"].tolist())
        replies = backbone.generate(**inputs, max_new_tokens=len(case["greedy"]), do_sample=False)
    assert replies[0, ids.shape[1] :].tolist() == case["greedy"].tolist()
    assert torch.equal(backbone.model.rope_deltas, case["rope_deltas"])


# --- training


def test_training_step(trained: dict[str, Any]) -> None:
    published = trained["state_dict"]
    state = {n.removeprefix("model.dit.model."): v for n, v in published.items() if n.startswith("model.dit.model.")}
    model = tiny_model(trained, "dit_of_train_tiny", state)
    prompts = [ids[: start - 1] for ids, start in zip(trained["input_ids"], trained["i_s_pos"], strict=True)]
    states = model.query_states(prompts)
    sigma = flow.noise_levels(trained["u"])
    assert torch.equal(sigma, trained["sigmas"].flatten())
    noisy, target = flow.add_noise(trained["target"], trained["noise"], sigma)
    condition = states * (1 - trained["drop_mask"]).view(-1, 1, 1)
    assert_close(condition.detach(), trained["dit_inputs"]["z_latents"], TIGHT)
    assert_close(noisy, trained["dit_inputs"]["x"], TIGHT)
    assert_close(sigma * flow.LEVELS, trained["dit_inputs"]["timestep"], TIGHT)
    assert model.dit is not None
    predicted = model.dit(noisy, sigma * flow.LEVELS, condition)
    assert_close(predicted.detach(), trained["pred"], LOOSE)
    loss = nn.functional.mse_loss(predicted, target)
    assert_close(loss.detach(), trained["loss"], TIGHT)

    loss.backward()
    ours = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    expected = {our_name(name): value for name, value in trained["grads"].items()}
    assert ours.keys() == expected.keys()
    for name, gradient in ours.items():
        assert gradient is not None
        assert_close(gradient, expected[name], LOOSE)


# --- the decoder


def test_decoder() -> None:
    case = load_tensors("model/decoder_tiny.pt")
    unet, vae = UNet2DConditionModel(**case["unet_config"]), AutoencoderKL(**case["vae_config"])
    unet.load_state_dict(case["unet"])
    vae.load_state_dict(case["vae"])
    decoder = Decoder(unet, vae).eval()
    generator = torch.Generator().manual_seed(42)
    shape = case["neg"].shape
    condition = torch.randn(shape, generator=generator)
    negative = torch.randn(shape, generator=generator) - 0.5
    assert_close(negative, case["neg"], TIGHT)
    with torch.inference_mode():
        latents = decode(decoder, condition, negative, case["latents_call1"].shape, generator)
        assert_close(latents, case["latents_call1"], LOOSE)
        image = to_pixels(vae, latents).permute(0, 2, 3, 1)
        assert_close(image, case["image_call1"], LOOSE)
        levels = (image[0] * 255).round() - case["uint8_call1"].float()
        assert levels.abs().max() <= 1  # a value half way between two levels may fall to either side
        assert (levels == 0).float().mean() > 0.999
        condition = torch.randn(shape, generator=generator)
        latents = decode(decoder, condition, negative, case["latents_call2"].shape, generator)
        assert_close(latents, case["latents_call2"], LOOSE)


def decode(
    decoder: Decoder, condition: Tensor, negative: Tensor, shape: torch.Size, generator: torch.Generator
) -> Tensor:
    noise = torch.randn(shape, generator=generator)
    return decoder.sample(condition, negative, noise, steps=50, guidance=3.0, original_size=1024)


# --- full size, without weights


@pytest.mark.parametrize(("name", "backbone"), [("4B", qwen_3b), ("8B", qwen_7b)])
def test_names_and_shapes_of_the_full_transformer(name: str, backbone: Any) -> None:
    expected = {our_name(key): shape for key, shape in load_json("model/dit_full_keys.json")[name].items()}
    with torch.device("meta"):
        dit = NextDiT(DiTConfig(), backbone().text_config.hidden_size)
    assert {f"dit.{key}": list(value.shape) for key, value in dit.state_dict().items()} == expected


def test_names_and_shapes_of_the_full_encoder() -> None:
    with torch.device("meta"):
        encoder = EvaClip(EvaConfig())
    assert {key: list(value.shape) for key, value in encoder.state_dict().items()} == load_json(
        "model/eva_full_keys.json"
    )
