"""Deliberate damages to a model, each of which an evaluation should notice (docs/sensitivity.md)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from model.generate import Unified

#: What is damaged; ``Damaged`` says how.
Damage = Literal["guidance", "steps", "queries", "weights", "template"]


class Damaged(Unified):
    """A model with one damage, which its description names.

    ``guidance``: none, the scale is 1. ``steps``: 5 sampling steps. ``queries``: the latent queries in another order.
    ``weights``: every weight matrix, of the decoder too, rounded to 8 bits per row. ``template``: prompts of drawing
    lose the markers of the chat template. The weights of ``whole`` are changed in place: load it anew for another use.
    """

    def __init__(self, whole: Unified, damage: Damage) -> None:
        changed: dict[Damage, dict[str, Any]] = {"guidance": {"guidance": 1.0}, "steps": {"steps": 5}}
        super().__init__(
            whole.source,
            whole.model,
            whole.processor,
            whole.decoder,
            dataclasses.replace(whole.sampling, **changed.get(damage, {})),
            whole.profile,
            whole.group,
            whole.together,
        )
        self.damage = damage
        if damage == "queries":
            queries = self.model.latent_queries.data  # [1, n_query, width]
            order = torch.randperm(queries.shape[1], generator=torch.Generator().manual_seed(0))
            self.model.latent_queries.data = queries[:, order.to(queries.device)]
        if damage == "weights":
            round_weights(self.model)
            round_weights(self.decoder)

    def describe(self) -> Mapping[str, Any]:
        return {**super().describe(), "damage": self.damage}

    def _tokens(self, text: str) -> Tensor:
        if self.damage == "template":
            text = text.replace("<|im_start|>", "").replace("<|im_end|>", "")
        return super()._tokens(text)


@torch.no_grad()
def round_weights(module: nn.Module) -> None:
    """Round all parameters of two or more dimensions to 255 levels per row, symmetric about 0, and back, in place."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            rows = parameter.flatten(1)  # [out, in]
            step = rows.abs().amax(1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny) / 127
            parameter.copy_((rows / step).round().mul(step).view_as(parameter))
