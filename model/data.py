"""Training examples, the random numbers that go with them, and how they become tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from model.blip3o import EXTRA_TOKENS

#: Qwen2.5-VL's special tokens that this suite needs, in the vocabulary's order.
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    *EXTRA_TOKENS,
)


class Unreadable(Exception):
    """An example that cannot be read: ``<file or tar member>: <reason>``."""


class Example(Protocol):
    """One training example; a part of the model reads only what it needs."""

    @property
    def image(self) -> Image.Image: ...
    @property
    def caption(self) -> str: ...
    @property
    def turns(self) -> tuple[tuple[str, str], ...]: ...
    @property
    def labels(self) -> tuple[str, ...]:
        """What each of the image's tokens shows, in reading order; empty where nobody knows."""

    @property
    def key(self) -> str:
        """Hex digest of the image's content; "" where what is computed from the image must not be cached."""


#: (seed, index) -> example; the same for the same arguments, so that training resumes exactly. Indices count from 0 for
#: ever: a finite source takes them as (epoch, position). Raises Unreadable.
Source = Callable[[int, int], Example]


def readable(data: Source, count: int) -> Iterator[Example]:
    """The readable ones of the first ``count`` examples; the others are named when their step comes."""
    for index in range(count):
        with suppress(Unreadable):
            yield data(0, index)


class Draws:
    """The random numbers of one micro-batch, drawn on the CPU.

    Every example has a generator of its own, seeded by (seed, index): its numbers depend neither on the batch that it
    stands in nor on the process. torch's CPU generator takes 32 bits of the seed's hash.
    """

    def __init__(self, seed: int, indices: Sequence[int]) -> None:
        self._generators = [torch.Generator().manual_seed(hash64("draws", seed, index)) for index in indices]

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Standard normal [B, *shape]; every call draws anew."""
        return torch.stack([torch.randn(tuple(shape), generator=generator) for generator in self._generators])

    def uniform(self) -> Tensor:
        """Uniform in [0, 1) [B]; every call draws anew."""
        return torch.cat([torch.rand(1, generator=generator) for generator in self._generators])


def hash64(purpose: str, *numbers: int) -> int:
    """64 bits of SHA-256: unlike a sum or product, no two lists of numbers share it by construction."""
    text = " ".join([purpose, *(str(int(number)) for number in numbers)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with Qwen2.5-VL's special tokens, learned from ``texts``."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def pixels(images: Sequence[Image.Image], size: int) -> Tensor:
    """RGB images -> [B, 3, size, size] in [0, 1]: shorter side to ``size`` (bicubic), then the centre."""
    return torch.stack([_pixels(image, size) for image in images])


def _pixels(image: Image.Image, size: int) -> Tensor:
    image = image.convert("RGB")
    width, height = image.size
    if (width, height) != (size, size):
        # torchvision's roundings: the long side down, half a pixel of the crop to even
        short = min(width, height)
        width, height = size * width // short, size * height // short
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = round((width - size) / 2), round((height - size) / 2)
        image = image.crop((left, top, left + size, top + size))
    array = np.asarray(image, dtype=np.float32) / 255
    return torch.from_numpy(array).permute(2, 0, 1)
