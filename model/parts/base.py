"""What the training loop knows of a part, and what parts share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from model import checkpoint
from model.data import Draws, Example, pixels
from model.hub import Located
from model.recipe import Recipe, RecipeError, SourceName


class Loss(NamedTuple):
    """A sum over the items at hand, and the number of its terms.

    What is minimised is the sum of the losses' means, each over all items of a step: so it does not matter how many
    processes and micro-batches share them.
    """

    total: Tensor
    terms: int


class Part(nn.Module):
    """Something to train.

    Its ``state_dict`` holds what is trained and nothing else; what is frozen is out of the module's registration,
    in ``frozen``. ``prepare`` turns an example into an item for ``forward``; it runs in the data loader's processes
    and holds no weights.
    """

    prepare: Callable[[Example], Any]

    def __init__(self) -> None:
        super().__init__()
        #: In a list, which nn.Module does not look into.
        self.frozen: list[nn.Module] = []
        #: Where the parts that it is built upon were found.
        self.sources: dict[SourceName, Located] = {}
        self.device, self.dtype = torch.device("cpu"), torch.float32

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move what is frozen, and calculate in ``dtype``; what is trained is moved by accelerate and stays float32."""
        self.device, self.dtype = device, dtype
        for module in self.frozen:
            module.to(device).eval().requires_grad_(False)
            for parameter in module.parameters():  # but not buffers, such as rotary frequencies
                parameter.data = parameter.data.to(dtype)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def forward(self, items: Sequence[Any], draws: Draws) -> dict[str, Loss]:
        """Named losses. Item i takes its random numbers from row i of the draws."""
        with self.autocast():  # here, because DeepSpeed ends any that is around it
            return self.losses(items, draws)

    def losses(self, items: Sequence[Any], draws: Draws) -> dict[str, Loss]:
        raise NotImplementedError

    def counts(self, items: Sequence[Any]) -> dict[str, int]:
        """How many terms each loss of ``forward`` sums for these items; the names are always the same."""
        raise NotImplementedError

    def save(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        """Write the part into a checkpoint folder, with the weights of ``state`` (named as in ``state_dict``)."""
        raise NotImplementedError

    def checkpoint_gradients(self) -> None:
        """Recompute activations in the backward pass in place of keeping them."""
        raise RecipeError(f"gradient_checkpointing is not for {type(self).__name__}")


@dataclass(frozen=True)
class Pixels:
    """Example -> its image, RGB in [0, 1], [3, size, size]."""

    size: int

    def __call__(self, example: Example) -> Tensor:
        return pixels([example.image], self.size)[0]


def source(recipe: Recipe, name: SourceName) -> Located:
    """Where a recipe takes a part from: its ``sources``, or its own checkpoint folder. Downloads what is on the hub."""
    if name not in recipe.sources:
        return Located(Path(recipe.checkpoint))
    alone = name == "decoder" and recipe.model.get("design") == "vae_flow"
    return checkpoint.locate_part(recipe.sources[name], "vae" if alone else name)


def per_item(error: Tensor) -> Tensor:
    """The mean over all but the first dimension, [B]."""
    return error.flatten(1).mean(1)


def subset(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
