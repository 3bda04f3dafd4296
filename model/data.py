"""Training data: where examples come from, and how they become tensors."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence
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


class Example(Protocol):
    """One training example; a part of the model reads only what it needs."""

    @property
    def image(self) -> Image.Image: ...
    @property
    def caption(self) -> str: ...
    @property
    def turns(self) -> tuple[tuple[str, str], ...]: ...


#: (seed, index) -> example; the same for the same arguments, so that training resumes exactly.
Source = Callable[[int, int], Example]


def load_source(name: str) -> Source:
    """Import a source by its ``package.module:function`` name.

    Raises ValueError when there is none of that name.
    """
    module, _, function = name.partition(":")
    try:
        source: Source = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"no training data source {name!r}; name a function as package.module:function") from error
    return source


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
        scale = size / min(width, height)
        width, height = round(width * scale), round(height * scale)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (width - size) // 2, (height - size) // 2
        image = image.crop((left, top, left + size, top + size))
    array = np.asarray(image, dtype=np.float32) / 255
    return torch.from_numpy(array).permute(2, 0, 1)
