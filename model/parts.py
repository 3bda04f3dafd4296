"""The parts of BLIP3-o that are trained, one class each: what is learned, the loss, and where it is saved.

Order for a model from scratch: vae and eva_clip, then decoder; backbone, then generator. Every loss draws its
randomness from a generator that the training loop seeds by step, so that an interrupted run resumes exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
)
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

from model import checkpoint, flow
from model.blip3o import CLOSING, IMAGE, INSTRUCTION, Blip3o, Blip3oConfig, chat
from model.checkpoint import Generation, Sampling
from model.data import Example, Source, pixels, train_tokenizer
from model.decoder import SCHEDULER, Decoder
from model.dit import DiTConfig
from model.eva_clip import EvaClip, EvaConfig, normalize

#: A condition is dropped for this share of the samples, so that guidance has something to steer away from.
CONDITION_DROPOUT = 0.1


class Part(Protocol):
    """Something to train: ``trained`` holds the parameters, ``loss`` the objective on one batch of examples."""

    trained: nn.Module

    def loss(self, examples: Sequence[Example], generator: torch.Generator) -> dict[str, Tensor]:
        """Named losses; their sum is minimised."""

    def save(self, folder: Path) -> None: ...


class Vae:
    """An SDXL-style autoencoder: pixels <-> latents."""

    def __init__(self, folder: Path, model: Mapping[str, Any], sources: Sequence[Source]) -> None:
        self.trained = AutoencoderKL(**model)
        self.size = int(model["sample_size"])
        self.spread = 1.0

    def loss(self, examples: Sequence[Example], generator: torch.Generator) -> dict[str, Tensor]:
        images = pixels([example.image for example in examples], self.size) * 2 - 1
        posterior = self.trained.encode(images).latent_dist
        self.spread = posterior.mean.std().item()
        noise = torch.randn(posterior.mean.shape, generator=generator)
        decoded = self.trained.decode(posterior.mean + posterior.std * noise).sample
        return {"pixels": F.mse_loss(decoded, images), "kl": 1e-4 * posterior.kl().mean() / noise[0].numel()}

    def save(self, folder: Path) -> None:
        # The decoder's noise schedule takes latents of unit spread.
        self.trained.register_to_config(scaling_factor=round(1 / self.spread, 4))
        self.trained.half().save_pretrained(folder / "decoder" / "vae")
        self.trained.float()


class EvaClipPart:
    """The target encoder, with two throw-away heads on its pooled, noisy features: one draws the image, one tells
    each token's place.

    Upstream's encoder is trained on image-text pairs. Here the features must above all keep what the decoder
    needs and be easy to generate: of unit scale per channel and robust to noise. They must say where they belong,
    because the decoder's cross-attention takes them as a set.
    """

    NOISE = 0.3

    def __init__(self, folder: Path, model: Mapping[str, Any], sources: Sequence[Source]) -> None:
        self.config = EvaConfig(**model)
        self.encoder = EvaClip(self.config)
        grid = self.config.patches // self.config.pool
        self.head = upsampler(self.config.width, doublings=(self.config.image_size // grid).bit_length() - 1)
        self.place = nn.Linear(self.config.width, grid**2)
        self.trained: nn.Module = nn.ModuleDict({"encoder": self.encoder, "head": self.head, "place": self.place})

    def loss(self, examples: Sequence[Example], generator: torch.Generator) -> dict[str, Tensor]:
        images = pixels([example.image for example in examples], self.config.image_size)
        features = self.encoder.features(normalize(images))  # [B, C, grid, grid]
        noisy = features + self.NOISE * torch.randn(features.shape, generator=generator)
        mean, variance = features.mean((0, 2, 3)), features.var((0, 2, 3))
        places = self.place(noisy.flatten(2).transpose(1, 2))  # [B, N, N]
        place = torch.arange(places.shape[1]).expand(len(images), -1)
        return {
            "pixels": F.mse_loss(self.head(noisy), images * 2 - 1),
            "place": 0.05 * F.cross_entropy(places.flatten(0, 1), place.flatten()),
            "scale": 0.1 * (mean.square() + (variance - 1).square()).mean(),
        }

    def save(self, folder: Path) -> None:
        checkpoint.save_eva_clip(self.encoder, folder)


def upsampler(width: int, doublings: int) -> nn.Sequential:
    """Features [B, width, h, w] -> RGB, 2**doublings times as large, through halving widths from 128 on."""
    layers: list[nn.Module] = []
    for i in range(doublings - 1):
        layers += [nn.ConvTranspose2d(width, max(32, 128 >> i), 4, 2, 1), nn.GELU()]
        width = max(32, 128 >> i)
    return nn.Sequential(*layers, nn.ConvTranspose2d(width, 3, 4, 2, 1))


class DecoderPart:
    """The SDXL-style UNet that turns EVA-CLIP features into latents of the (frozen) VAE."""

    #: The generator's features are not perfect; a little noise keeps the decoder from relying on it.
    NOISE = 0.1

    def __init__(self, folder: Path, model: Mapping[str, Any], sources: Sequence[Source]) -> None:
        self.encoder = checkpoint.load_eva_clip(folder).requires_grad_(False)
        vae = checkpoint.load_vae(folder).requires_grad_(False)
        self.trained = UNet2DConditionModel(**model)
        self.decoder = Decoder(self.trained, vae)
        self.scheduler = DDPMScheduler(**SCHEDULER)
        # What is drawn is settled where noise prevails, and there a wrong image costs little in terms of noise:
        # below a signal-to-noise ratio of 1 the error is weighted as that of the image, up to tenfold.
        alphas = self.scheduler.alphas_cumprod
        self.weight = ((1 - alphas) / alphas).clamp(1, 10)

    def loss(self, examples: Sequence[Example], generator: torch.Generator) -> dict[str, Tensor]:
        images = pixels([example.image for example in examples], self.decoder.image_size)
        with torch.no_grad():
            latents = self.decoder.encode(images)
            features = self.encoder.features(normalize(images)).flatten(2).transpose(1, 2)  # [B, N, C]
        features = features + self.NOISE * torch.randn(features.shape, generator=generator)
        noise = torch.randn(latents.shape, generator=generator)
        timestep = torch.randint(self.scheduler.config.num_train_timesteps, (len(images),), generator=generator)
        noisy = self.scheduler.add_noise(latents, noise, timestep)
        error = (self.decoder.predict(noisy, timestep, features) - noise).square().mean((1, 2, 3))
        return {"noise": (error * self.weight[timestep]).mean()}

    def save(self, folder: Path) -> None:
        self.trained.half().save_pretrained(folder / "decoder" / "unet")
        self.trained.float()


def answer_loss(
    backbone: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, examples: Sequence[Example]
) -> Tensor:
    """Cross-entropy of every answer's tokens and its end of turn, given the image and all that was said before."""
    tokenizer = processor.tokenizer
    batch = processor(
        text=[conversation(example.turns) for example in examples],
        images=[[example.image] for example in examples],
        padding=True,
        return_tensors="pt",
    )
    ids = batch["input_ids"]  # [B, L], padded on the left
    start, end = tokenizer.convert_tokens_to_ids(["assistant", "<|im_end|>"])
    newline = tokenizer.convert_tokens_to_ids(tokenizer.tokenize("\n"))[0]
    hidden = backbone.model(**batch, use_cache=False).last_hidden_state
    answered = answer_mask(ids, start, newline, end)[:, 1:]
    logits = backbone.lm_head(hidden[:, :-1][answered])
    return F.cross_entropy(logits, ids[:, 1:][answered])


def conversation(turns: Sequence[tuple[str, str]]) -> str:
    """A closed conversation in Qwen's chat template; the image stands before the first question."""
    (first, reply), *others = turns
    text = f"{chat(IMAGE + first)}{reply}<|im_end|>"
    for question, answer in others:
        text += f"\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>"
    return text


def answer_mask(ids: Tensor, assistant: int, newline: int, end: int) -> Tensor:
    """True at the tokens [B, L] from behind ``assistant newline`` to the next ``end``, which is included."""
    mask = torch.zeros_like(ids, dtype=torch.bool)
    open_ = torch.zeros(len(ids), dtype=torch.bool)
    for i in range(2, ids.shape[1]):
        open_ |= (ids[:, i - 2] == assistant) & (ids[:, i - 1] == newline)
        mask[:, i] = open_
        open_ &= ids[:, i] != end
    return mask


class Backbone:
    """The understanding stage: Qwen2.5-VL on questions about images."""

    def __init__(self, folder: Path, model: Mapping[str, Any], sources: Sequence[Source]) -> None:
        examples = [source(0, index) for source in sources for index in range(2048)]
        captions = [chat(INSTRUCTION + example.caption) for example in examples if example.caption]
        turns = [conversation(example.turns) for example in examples if example.turns]
        tokenizer = train_tokenizer(captions + turns, model["vocab_size"])
        image_size, vision = model["image_size"], model["vision"]
        image = {
            "patch_size": vision["patch_size"],
            "merge_size": 2,
            "temporal_patch_size": 2,
            "size": {"shortest_edge": image_size**2, "longest_edge": image_size**2},
        }
        self.processor = Qwen2_5_VLProcessor(Qwen2VLImageProcessor(**image), tokenizer, Qwen2VLVideoProcessor(**image))
        ids = {
            name: tokenizer.convert_tokens_to_ids(token)
            for name, token in (
                ("image_token_id", "<|image_pad|>"),
                ("video_token_id", "<|video_pad|>"),
                ("vision_start_token_id", "<|vision_start|>"),
                ("vision_end_token_id", "<|vision_end|>"),
            )
        }
        text = dict(model["text"])
        text |= {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
        text |= {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.pad_token_id}
        config = Qwen2_5_VLConfig(
            text_config=text,
            vision_config={**vision, "out_hidden_size": text["hidden_size"]},
            tie_word_embeddings=True,
            **ids,
        )
        self.trained = Qwen2_5_VLForConditionalGeneration(config)

    def loss(self, examples: Sequence[Example], generator: torch.Generator) -> dict[str, Tensor]:
        return {"answer": answer_loss(self.trained, self.processor, [e for e in examples if e.turns])}

    def save(self, folder: Path) -> None:
        checkpoint.save_backbone(self.trained, self.processor, folder)


class Generator:
    """Flow matching on EVA-CLIP features, with the backbone frozen (sequential) or trained along (joint).

    In joint training half of a batch is drawn, the other half is questions, and both losses count alike.
    """

    def __init__(self, folder: Path, model: Mapping[str, Any], sources: Sequence[Source]) -> None:
        self.encoder = checkpoint.load_eva_clip(folder).requires_grad_(False)
        backbone, self.processor = checkpoint.load_backbone(folder)
        eva = self.encoder.config
        dit = DiTConfig(grid=eva.patches // eva.pool, channels=eva.width, **model["dit"])
        config = Blip3oConfig(n_query=model["n_query"], dit=dit)
        self.sampling = Sampling(**model["sampling"])
        self.model = Blip3o(backbone, config, self.processor.tokenizer.convert_tokens_to_ids("[IMG]"))
        self.joint: bool = model["joint"]
        self.echo: float = model.get("echo", 0.0)
        if model["continue"]:
            checkpoint.load_tensors(Generation(self.model), folder / "generator.safetensors")
        if "gate" in model:
            self.model.dit.open_gates(model["gate"])
        if "query_scale" in model:
            with torch.no_grad():
                self.model.latent_queries.mul_(model["query_scale"])
        backbone.requires_grad_(self.joint)
        self.trained: nn.Module = self.model if self.joint else Generation(self.model)

    def drawing_losses(self, examples: Sequence[Example], generator: torch.Generator) -> dict[str, Tensor]:
        images = pixels([example.image for example in examples], self.encoder.config.image_size)
        with torch.no_grad():
            clean = self.encoder.features(normalize(images))  # [B, C, grid, grid]
        texts = [chat(INSTRUCTION + example.caption) for example in examples]
        ids = [torch.tensor(self.processor.tokenizer(text).input_ids) for text in texts]
        condition = self.model.query_states(ids)
        # Upstream's order of draws: noise, level, dropout.
        noise = torch.randn(clean.shape, generator=generator)
        sigma = flow.noise_levels(len(clean), generator)
        kept = torch.rand(len(clean), generator=generator) >= CONDITION_DROPOUT
        noisy, target = flow.add_noise(clean, noise, sigma)
        predicted = self.model.dit(noisy, sigma * flow.LEVELS, condition * kept.view(-1, 1, 1))
        losses = {"flow": F.mse_loss(predicted.float(), target.float())}
        if self.echo:
            losses["echo"] = self.echo * self.echo_loss(condition, ids)
        return losses

    def echo_loss(self, condition: Tensor, prompts: Sequence[Tensor]) -> Tensor:
        """Cross-entropy of the caption's last tokens, each named by one query's state.

        A large backbone's states tell the words by themselves; a small one has to be taught to pass them on.
        """
        closing = len(self.processor.tokenizer(CLOSING).input_ids)
        n_query = condition.shape[1]
        said = torch.stack([ids[-closing - n_query : -closing] for ids in prompts])  # [B, n_query]
        return F.cross_entropy(self.model.backbone.lm_head(condition).flatten(0, 1), said.flatten())

    def loss(self, examples: Sequence[Example], generator: torch.Generator) -> dict[str, Tensor]:
        if not self.joint:
            return self.drawing_losses(examples, generator)
        return {
            **self.drawing_losses([example for example in examples if example.caption], generator),
            "answer": answer_loss(self.model.backbone, self.processor, [e for e in examples if e.turns]),
        }

    def save(self, folder: Path) -> None:
        checkpoint.write_config(folder, self.model.config, self.sampling)
        checkpoint.save_tensors(Generation(self.model), folder / "generator.safetensors")
        if self.joint:
            checkpoint.save_backbone(self.model.backbone, self.processor, folder)
