"""A BLIP3-o at work: prompts -> images, questions about images -> answers.

``load`` returns an object that fits the benchmarks' Generator and Answerer protocols without importing them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor
from transformers import GenerationConfig, Qwen2_5_VLProcessor

from model import checkpoint, flow
from model.blip3o import IMAGE, INSTRUCTION, Blip3o, chat
from model.checkpoint import Sampling
from model.decoder import Decoder

#: Images are drawn in groups of exactly this many (the last one is filled up), because the shape of a matrix
#: product decides the order in which it is summed: so an image does not depend on the batch it came in.
GROUP = 8


@contextmanager
def _one_thread() -> Iterator[None]:
    """The number of CPU threads decides that order too; more processes, not threads, make use of more cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Prompted(Protocol):
    """Something to draw."""

    @property
    def prompt(self) -> str: ...


class Decoding(Protocol):
    @property
    def max_new_tokens(self) -> int: ...
    @property
    def stop(self) -> tuple[str, ...]: ...
    @property
    def temperature(self) -> float: ...


class Asked(Protocol):
    """A question about images that are opened when they are called."""

    @property
    def prompt(self) -> str: ...
    @property
    def images(self) -> tuple[Callable[[], Image.Image], ...]: ...
    @property
    def decoding(self) -> Decoding: ...


class Understanding:
    """Questions about images -> answers, by the backbone's own generate()."""

    def __init__(self, folder: Path, model: Blip3o, processor: Qwen2_5_VLProcessor) -> None:
        self.folder = folder
        self.model = model.eval()
        self.processor = processor

    @cached_property
    def digest(self) -> str:
        return checkpoint.digest(self.folder)

    def describe(self) -> Mapping[str, Any]:
        return {"name": self.folder.name, "sha256": self.digest, "dtype": "float32"}

    @_one_thread()
    @torch.inference_mode()
    def answer(self, samples: Sequence[Asked], seeds: Sequence[int]) -> list[str]:
        """One reply per sample, cut at its first stop string.

        Greedy at temperature 0; otherwise sampled with the sample's own seed. One sample at a time: padding
        changes the last bits of a batch, and with them now and then a reply.
        """
        return [self._answer(sample, seed) for sample, seed in zip(samples, seeds, strict=True)]

    def _answer(self, sample: Asked, seed: int) -> str:
        images = [open_image().convert("RGB") for open_image in sample.images]
        text = chat(IMAGE * len(images) + sample.prompt)
        batch = self.processor(text=[text], images=[images] if images else None, return_tensors="pt")
        decoding = sample.decoding
        sampled = decoding.temperature > 0
        if sampled:
            torch.manual_seed(seed)
        tokenizer = self.processor.tokenizer
        config = GenerationConfig(
            max_new_tokens=decoding.max_new_tokens,
            do_sample=sampled,
            temperature=decoding.temperature if sampled else None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        tokens = self.model.backbone.generate(**batch, generation_config=config)
        reply: str = tokenizer.decode(tokens[0, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        for stop in decoding.stop:
            reply = reply.split(stop)[0]
        return reply


class Unified(Understanding):
    """The whole model: it answers, and it draws."""

    def __init__(
        self, folder: Path, model: Blip3o, processor: Qwen2_5_VLProcessor, decoder: Decoder, sampling: Sampling
    ) -> None:
        super().__init__(folder, model, processor)
        self.decoder = decoder.eval()
        self.sampling = sampling

    def describe(self) -> Mapping[str, Any]:
        return {**super().describe(), "sampling": dataclasses.asdict(self.sampling)}

    @_one_thread()
    @torch.inference_mode()
    def generate(self, samples: Sequence[Prompted], seeds: Sequence[int]) -> list[Image.Image]:
        """One image per sample. Each sample's noise comes from a generator with its own seed."""
        states = {prompt: self.condition(prompt) for prompt in dict.fromkeys(sample.prompt for sample in samples)}
        images: list[Image.Image] = []
        for start in range(0, len(samples), GROUP):
            conditions = torch.stack([states[sample.prompt] for sample in samples[start : start + GROUP]])
            images += self.draw(conditions, seeds[start : start + GROUP])
        return images

    def condition(self, prompt: str) -> Tensor:
        """States of the latent queries behind one prompt, [n_query, width]."""
        ids = self.processor.tokenizer(chat(INSTRUCTION + prompt), return_tensors="pt").input_ids[0]
        return self.model.query_states([ids])[0]

    def draw(self, conditions: Tensor, seeds: Sequence[int]) -> list[Image.Image]:
        """Conditions [up to GROUP, n_query, width] and a seed each -> images."""
        count = len(conditions)
        filled = [i % count for i in range(GROUP)]
        conditions = conditions[filled]
        generators = [torch.Generator().manual_seed(seeds[i]) for i in filled]
        features = self.features(conditions, generators)
        tokens = features.flatten(2).transpose(1, 2)  # [B, N, C]
        sampling = self.sampling
        pixels = self.decoder.decode(
            tokens, torch.zeros_like(tokens), generators, sampling.decoder_steps, sampling.decoder_guidance
        )
        rounded = (pixels[:count] * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        return [Image.fromarray(array.numpy()) for array in rounded]

    def features(self, conditions: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Sample EVA-CLIP features [B, C, grid, grid]; guidance steers away from the zero condition."""
        config = self.model.dit.config
        shape = (1, config.channels, config.grid, config.grid)
        noise = torch.cat([torch.randn(shape, generator=generator) for generator in generators])
        null = torch.zeros_like(conditions)
        velocity = flow.guided(self.model.dit, conditions, null, self.sampling.guidance)
        return flow.sample(velocity, noise, self.sampling.steps)


def load_answerer(folder: Path) -> Understanding:
    """Read what understanding needs: the backbone. CheckpointError when the folder does not hold it."""
    model, processor = checkpoint.load_blip3o(folder)
    return Understanding(folder, model, processor)


def load(folder: Path) -> Unified:
    """Read a whole checkpoint. CheckpointError names what is missing or does not fit."""
    model, processor = checkpoint.load_blip3o(folder)
    _, sampling = checkpoint.read_config(folder)
    return Unified(folder, model, processor, checkpoint.load_decoder(folder), sampling)
