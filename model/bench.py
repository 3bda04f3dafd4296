"""Speed of this implementation against the plain upstream algorithm, measured in one run: ``make bench-model``.

Plain is what upstream's inference and training code does: one image at a time, every prompt read anew for each of its
images, the condition projected anew in every step, only the decoder's negative kept; in training a graph through the
text, and the logits of every token, which the loss does not use. The transformer of the plain side is diffusers' own
Lumina.
"""

from __future__ import annotations

import copy
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, LuminaNextDiT2DModel, UNet2DConditionModel
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel, Qwen2_5_VLConfig

from model import checkpoint, flow
from model.blip3o import INSTRUCTION, Blip3o, chat
from model.config import BACKBONES, Blip3oConfig, DiTConfig, Sampling, qwen_7b
from model.decoder import Decoder, to_pixels
from model.dit import NextDiT, rope_2d
from model.generate import Unified, feature_noise, load
from model.hub import Located

T = TypeVar("T")

#: Images of one measurement: so many prompts, so many images each.
PROMPTS, IMAGES = 8, 4
TOY = Path(__file__).parent / "toy"


@dataclass(frozen=True)
class Prompt:
    prompt: str


def toy() -> Unified:
    """The embedded model with its trained weights and its own sampling."""
    return load(str(TOY))


def mid() -> Unified:
    """Random weights: backbone and transformer of width 512 and 8 layers, published vocabulary and sampling."""
    text = {
        "vocab_size": 151668,
        "hidden_size": 512,
        "intermediate_size": 1536,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]},
        "tie_word_embeddings": True,
    }
    vision = {"depth": 1, "hidden_size": 64, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 512}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True)
    dit = DiTConfig(grid=8, channels=512, dim=512, layers=8, heads=8, multiple_of=64)
    model = _random(config, dit, torch.float32, torch.device("cpu"))
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(64, 128),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        norm_num_groups=8,
        cross_attention_dim=512,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=512 + 6 * 8,
    )
    vae = AutoencoderKL(
        latent_channels=4,
        block_out_channels=(32, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=8,
    )
    return _unified(model, Decoder(unet, vae))


def full(device: torch.device) -> Unified:
    """The sizes of the 8B model with random weights in bfloat16."""
    model = _random(qwen_7b(), DiTConfig(), torch.bfloat16, device)
    with torch.device(device):
        unet = UNet2DConditionModel(
            sample_size=128,
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            use_linear_projection=True,
            cross_attention_dim=1792,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=1792 + 6 * 256,
        ).bfloat16()
        vae = AutoencoderKL(
            latent_channels=4,
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            scaling_factor=0.13025,
        ).bfloat16()
    return _unified(model, Decoder(unet, vae))


def _random(config: Qwen2_5_VLConfig, dit: DiTConfig, dtype: torch.dtype, device: torch.device) -> Blip3o:
    torch.manual_seed(0)
    previous = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            backbone: PreTrainedModel = BACKBONES[config.model_type](config)
            model = Blip3o(backbone, Blip3oConfig(dit=dit), image_token=151665)
    finally:
        torch.set_default_dtype(previous)
    assert model.dit is not None
    model.dit.open_gates(0.5)  # closed ones would hide a difference in the cross-attention
    return model


def _unified(model: Blip3o, decoder: Decoder) -> Unified:
    """With the toy's tokenizer: any will do where the weights are random."""
    _, processor = checkpoint.load_backbone(TOY)
    model.image_token = processor.tokenizer.convert_tokens_to_ids("[IMG]")
    return Unified(Located(TOY), model, processor, decoder, Sampling(), "exact")


def prompts() -> list[Prompt]:
    """PROMPTS captions of growing length, each IMAGES times."""
    things = [f"a {color} {shape}" for color in ("red", "blue", "green") for shape in ("ring", "star", "cross")]
    return [Prompt("a photo of " + ", ".join(things[: 2 + i])) for i in range(PROMPTS) for _ in range(IMAGES)]


# --- drawing


def plain_pipeline(unified: Unified) -> Callable[[Sequence[Prompt], Sequence[int]], list[Image.Image]]:
    """What draws one image after another as upstream's pipeline does.

    The decoder's negative is sampled here, because upstream samples it once in a process and keeps it.
    """
    model, sampling = unified.model, unified.sampling
    assert model.dit is not None
    decoder = copy.deepcopy(unified.decoder)
    assert isinstance(decoder, Decoder)
    for part in (decoder.unet, decoder.vae):
        part.to(memory_format=torch.contiguous_format)
    config, queries, device = model.config.dit, model.latent_queries, unified.device
    dit, lumina = model.dit, as_lumina(model.dit).to(queries)
    embed, language_model = model.backbone.get_input_embeddings(), model.backbone.get_decoder()
    rope = rope_2d(config.grid, config.grid, config.dim // config.heads).view(config.grid, config.grid, -1).to(device)
    mask = torch.ones(2, model.config.n_query, dtype=torch.bool, device=device)

    def features(text: str, generator: torch.Generator) -> Tensor:
        ids = torch.tensor([*unified.processor.tokenizer(text).input_ids, model.image_token], device=device)
        inputs = torch.cat([embed(ids), queries[0]])[None]
        positions = torch.arange(inputs.shape[1], device=device).expand(3, 1, -1)
        hidden = language_model(
            inputs_embeds=inputs, position_ids=positions, output_hidden_states=True, use_cache=True
        ).last_hidden_state
        state = hidden[:, -model.config.n_query :]
        both = torch.cat([torch.zeros_like(state), state])
        scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
        scheduler.set_timesteps(sigmas=flow.schedule(sampling.steps)[:-1].tolist(), device=device)
        x = feature_noise(model, generator)
        for timestep in scheduler.timesteps:
            predicted = lumina(
                torch.cat([x, x]),
                timestep.expand(2),
                dit.caption_projection(both),
                mask,
                rope,
                cross_attention_kwargs={},
                return_dict=False,
            )[0]
            null, conditional = predicted.chunk(2)
            x = scheduler.step(flow.guided(conditional, null, sampling.guidance), timestep, x, return_dict=False)[0]
        return x.flatten(2).transpose(1, 2)

    negative: Tensor | None = None
    if sampling.decoder_guidance != 1:
        generator = torch.Generator().manual_seed(42)
        feature_noise(model, generator)  # the negative is the second draw of upstream's seed
        negative = features(" ", generator)

    def image(sample: Prompt, seed: int) -> Image.Image:
        generator = torch.Generator().manual_seed(seed)
        tokens = features(chat(INSTRUCTION + sample.prompt), generator)
        noise = decoder.draw_noise([generator], tokens.dtype, device)
        latents = decoder.sample(
            tokens,
            tokens if negative is None else negative,
            noise,
            sampling.decoder_steps,
            sampling.decoder_guidance,
        )
        pixels = (to_pixels(decoder.vae, latents)[0].float() * 255).round().to(torch.uint8).permute(1, 2, 0)
        return Image.fromarray(pixels.cpu().numpy())

    return lambda samples, seeds: [image(sample, seed) for sample, seed in zip(samples, seeds, strict=True)]


def as_lumina(dit: NextDiT) -> LuminaNextDiT2DModel:
    """diffusers' own transformer with the same weights; it takes the projected condition."""
    config = dit.config
    lumina = LuminaNextDiT2DModel(
        sample_size=config.grid,
        patch_size=config.patch_size,
        in_channels=config.channels,
        hidden_size=config.dim,
        num_layers=config.layers,
        num_attention_heads=config.heads,
        num_kv_heads=config.heads,
        multiple_of=config.multiple_of,
        learn_sigma=False,
        cross_attention_dim=config.dim,
    ).eval()
    own = {name: value for name, value in dit.state_dict().items() if not name.startswith("caption_projection.")}
    missing, unexpected = lumina.load_state_dict(own, strict=False)
    assert (missing, unexpected) == (["pad_token"], [])  # which diffusers never reads
    return lumina


def compare_drawing(name: str, unified: Unified) -> None:
    """Draw PROMPTS x IMAGES images our way, the first image of each prompt the plain way, and compare these."""
    samples = prompts()
    seeds = list(range(len(samples)))
    firsts, first_seeds = samples[::IMAGES], seeds[::IMAGES]
    with torch.inference_mode():
        unified.generate(samples[:1], seeds[:1])  # warm up
        ours, our_seconds = timed(lambda: unified.generate(samples, seeds))
        if unified.device.type == "cuda":  # before the plain side has its copies there
            print(f"{name:5} peak memory of ours {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
        draw_plainly = plain_pipeline(unified)
        draw_plainly(samples[:1], seeds[:1])
        plain, plain_seconds = timed(lambda: draw_plainly(firsts, first_seeds))
    pairs = zip(plain, ours[::IMAGES], strict=True)
    difference = max(int(np.abs(np.asarray(a, dtype=int) - np.asarray(b, dtype=int)).max()) for a, b in pairs)
    note = f"pixels differ by {difference} of 255 at most"
    show(f"{name} drawing", len(firsts) / plain_seconds, len(ours) / our_seconds, "images/s", note)


def timed(call: Callable[[], T]) -> tuple[T, float]:
    """The result and the seconds it took: of the clock with a GPU, its queue included; without one of the processor,
    so that other programs do not count.
    """
    gpu = torch.cuda.is_available()
    clock = time.perf_counter if gpu else time.process_time
    started = clock()
    result = call()
    if gpu:
        torch.cuda.synchronize()
    return result, clock() - started


# --- training

#: Examples of a step, tokens of a prompt, steps that are timed.
BATCH, TOKENS, STEPS = 8, 128, 4


def training_step(model: Blip3o, plain: bool) -> Callable[[], Tensor]:
    """One step on random features and prompts of TOKENS tokens, the backbone frozen; returns the loss.

    Plain: a graph through the text, and the logits and cross-entropy of all tokens, computed for nothing.
    """
    assert model.dit is not None
    dit, config, embed = model.dit, model.config, model.backbone.get_input_embeddings()
    model.train().requires_grad_(True).backbone.requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(embed.num_embeddings, (BATCH, TOKENS), generator=generator)
    clean = torch.randn(BATCH, config.dit.channels, config.dit.grid, config.dit.grid, generator=generator)

    def plain_states() -> Tensor:
        opening = torch.full((BATCH, 1), model.image_token)
        text = embed(torch.cat([ids, opening], dim=1)).requires_grad_()  # as under upstream's gradient checkpointing
        inputs = torch.cat([text, model.latent_queries.expand(BATCH, -1, -1)], dim=1)
        positions = torch.arange(inputs.shape[1]).expand(3, BATCH, -1)
        hidden = model.backbone.get_decoder()(inputs_embeds=inputs, position_ids=positions).last_hidden_state
        logits = model.backbone.lm_head(hidden).float()
        F.cross_entropy(logits[:, : TOKENS - 1].flatten(0, 1), ids[:, 1:].flatten())
        return hidden[:, -config.n_query :]

    def step() -> Tensor:
        states = plain_states() if plain else model.query_states(list(ids))
        sigma = flow.noise_levels(torch.rand(BATCH, generator=generator))
        noisy, target = flow.add_noise(clean, torch.randn(clean.shape, generator=generator), sigma)
        loss = F.mse_loss(dit(noisy, sigma * flow.LEVELS, states), target)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        return loss.detach()

    return step


def measure_training(name: str, plain: bool) -> None:
    """In a process of its own, because the peak of memory is that of a process: print samples/s, MB and losses."""
    model = BUILDS[name]().model
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = training_step(model, plain)
    losses = [step().item()]
    _, seconds = timed(lambda: losses.extend(step().item() for _ in range(STEPS)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"rate": BATCH * STEPS / seconds, "mb": peak / 1024, "before": before / 1024, "losses": losses}))


def compare_training(name: str) -> None:
    results = {}
    for way in ("plain", "ours"):
        command = [sys.executable, "-m", "model.bench", "--training", name, way]
        results[way] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    plain, ours = results["plain"], results["ours"]
    difference = max(abs(a - b) for a, b in zip(plain["losses"], ours["losses"], strict=True))
    show(f"{name} training", plain["rate"], ours["rate"], "samples/s", f"losses differ by {difference:.1e} at most")
    show(f"{name} peak memory", plain["mb"], ours["mb"], "MB", "of the whole process")
    own = {way: result["mb"] - result["before"] for way, result in results.items()}
    show(f"{name} memory of steps", own["plain"], own["ours"], "MB", "beyond imports and weights")


def show(what: str, plain: float, ours: float, unit: str, note: str) -> None:
    print(f"{what:22} plain {plain:9.3f}  ours {ours:9.3f} {unit:10} ratio {ours / plain:5.2f}  {note}", flush=True)


BUILDS = {"toy": toy, "mid": mid}


def main(arguments: Sequence[str]) -> None:
    torch.set_num_threads(1)  # as in ``generate``
    if arguments:
        _, name, way = arguments
        measure_training(name, way == "plain")
        return
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, one thread; torch {torch.__version__}"
    )
    for name, build in BUILDS.items():
        compare_drawing(name, build())
        compare_training(name)
    if torch.cuda.is_available():
        device = torch.device("cuda")
        print(f"8B    {torch.cuda.get_device_name()}")
        compare_drawing("8B", full(device))
        print(f"8B    peak memory with the plain side's copies {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
    else:
        print("8B    not run: no CUDA device")


if __name__ == "__main__":
    main(sys.argv[1:])
