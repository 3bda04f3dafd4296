"""BLIP3-o: a multimodal backbone, latent queries, and a head that draws image features from their states.

    [prompt tokens ; [IMG] ; queries] -> backbone -> states of the queries -> diffusion transformer -> features

Understanding is the backbone's own: images in, text out, with its multimodal rotary positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from model.config import Blip3oConfig, text_width
from model.dit import NextDiT

SYSTEM = "You are a helpful assistant."
#: The published model's wording; the paper prints "generate an image".
INSTRUCTION = "Please generate image based on the following caption: "
#: Where an image stands in a question; the processor repeats the middle token once per image token.
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
#: Added behind the backbone's vocabulary, in this order; [IMG] opens the queries.
EXTRA_TOKENS = ("[IMG]", "[/IMG]", "<image>")


@dataclass(frozen=True)
class Template:
    """How a backbone was taught to read a conversation: what stands before a turn, of a {role}, and behind it."""

    before: str
    behind: str

    @property
    def closing(self) -> str:
        """What stands between the user's words and the assistant's reply."""
        return self.behind + self.before.format(role="assistant")


QWEN = Template("<|im_start|>{role}\n", "<|im_end|>\n")
LLAMA = Template("<|start_header_id|>{role}<|end_header_id|>\n\n", "<|eot_id|>")


def chat(user: str, template: Template = QWEN) -> str:
    """A conversation of the system turn and the user's words, open for the assistant's reply."""
    system = template.before.format(role="system") + SYSTEM + template.behind
    return system + template.before.format(role="user") + user + template.closing


def alike(lengths: Sequence[int], device: torch.device) -> list[list[int]]:
    """The numbers of sequences in groups of like length, each to be padded on its own.

    On a CPU padding costs as much as tokens do: three groups. Elsewhere one pass is faster, and several processes must
    take equally many.
    """
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    size = -(-len(order) // (3 if device.type == "cpu" else 1))
    return [order[i : i + size] for i in range(0, len(order), size)]


class Blip3o(nn.Module):
    """``dit`` belongs to the two flow-matching designs, ``projector`` to CLIP + MSE; the other one is None."""

    dit: NextDiT | None
    projector: nn.Linear | None

    def __init__(self, backbone: PreTrainedModel, config: Blip3oConfig, image_token: int) -> None:
        """``image_token`` is the id of [IMG]."""
        super().__init__()
        width = text_width(backbone.config)
        self.config = config
        self.image_token = image_token
        self.backbone = backbone
        self.latent_queries = nn.Parameter(torch.randn(1, config.n_query, width))
        flow = config.design != "clip_mse"
        self.dit = NextDiT(config.dit, width) if flow else None
        self.projector = None if flow else nn.Linear(width, config.dit.channels)

    @property
    def template(self) -> Template:
        return LLAMA if self.backbone.config.model_type == "llama" else QWEN

    def image_features(self, pixel_values: Tensor, grids: Tensor) -> list[Tensor]:
        """The backbone's tokens of each image [tokens, width], of Qwen2.5-VL's patches and their grids [images, 3]."""
        return list(self.backbone.get_image_features(pixel_values, grids).pooler_output)

    def query_states(self, prompts: Sequence[Tensor], images: Sequence[Tensor] = (), multiple_of: int = 1) -> Tensor:
        """Token ids of each prompt [length] -> states of the queries after the final norm [B, n_query, width].

        ``images`` holds the features of all images in the prompts, in order; they take the place of the prompts'
        image tokens. Positions are 0..N-1 on all three axes of the rotary embedding even then, as in the published
        model. Prompts are padded on the left to a multiple of ``multiple_of`` tokens.
        """
        rows = self._embed(prompts, images)  # B x [length + 1, width]
        if any(parameter.requires_grad for parameter in self.backbone.parameters()):
            return self._states_in_one_pass(rows)
        longest = -(-max(len(row) for row in rows) // multiple_of) * multiple_of
        inputs = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_side="left")  # [B, L, width]
        inputs = nn.functional.pad(inputs, (0, 0, longest - inputs.shape[1], 0))
        lengths = torch.tensor([len(row) for row in rows], device=inputs.device)[:, None]  # [B, 1]
        n_query = self.config.n_query
        places = torch.arange(longest + n_query, device=inputs.device)  # [L + n_query]
        mask = (places >= longest - lengths).long()  # [B, L + n_query]
        positions = (places - longest + lengths).clamp(min=0)  # [B, L + n_query]
        # Attention is causal: the text never sees the queries, so only they need a graph when they are trained.
        cache = DynamicCache()
        language_model = self.backbone.get_decoder()
        with torch.no_grad():
            language_model(
                inputs_embeds=inputs,
                attention_mask=mask[:, :longest],
                position_ids=self._axes(positions[:, :longest]),
                past_key_values=cache,
                use_cache=True,
            )
        return language_model(
            inputs_embeds=self.latent_queries.expand(len(rows), -1, -1),
            attention_mask=mask,
            position_ids=self._axes(positions[:, longest:]),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state

    def _states_in_one_pass(self, rows: Sequence[Tensor]) -> Tensor:
        """The same with a graph through the text, for a backbone that learns; padding behind the queries is inert."""
        rows = [torch.cat([row, self.latent_queries[0]]) for row in rows]
        n_query = self.config.n_query
        states: dict[int, Tensor] = {}
        for group in alike([len(row) for row in rows], rows[0].device):
            inputs = nn.utils.rnn.pad_sequence([rows[i] for i in group], batch_first=True)  # [B, L + n_query, width]
            positions = torch.arange(inputs.shape[1], device=inputs.device).expand(len(group), -1)
            hidden = self.backbone.get_decoder()(
                inputs_embeds=inputs, position_ids=self._axes(positions), use_cache=False
            ).last_hidden_state
            states |= {i: h[len(rows[i]) - n_query : len(rows[i])] for i, h in zip(group, hidden, strict=True)}
        return torch.stack([states[i] for i in range(len(rows))])

    def _embed(self, prompts: Sequence[Tensor], images: Sequence[Tensor]) -> list[Tensor]:
        """Embeddings of each prompt and [IMG] behind it, [length + 1, width], with the images' features in place."""
        device = self.latent_queries.device
        ids = [torch.cat([ids.to(device), torch.tensor([self.image_token], device=device)]) for ids in prompts]
        lengths = [len(row) for row in ids]
        together = torch.cat(ids)
        embedded = self.backbone.get_input_embeddings()(together)
        if images:
            places = together == self.backbone.config.image_token_id
            features = torch.cat(list(images))
            if int(places.sum()) != len(features):
                raise ValueError(f"{int(places.sum())} image tokens in the prompts, {len(features)} features of images")
            embedded = embedded.masked_scatter(places[:, None], features.to(embedded.dtype))
        return list(embedded.split(lengths))

    def _axes(self, positions: Tensor) -> Tensor:
        """Positions [B, L] on every axis of Qwen2.5-VL's rotary embedding [3, B, L]; as they are for the others."""
        return positions.expand(3, -1, -1) if self.backbone.config.model_type == "qwen2_5_vl" else positions
