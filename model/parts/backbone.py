"""Understanding: a small Qwen2.5-VL from scratch, and the loss on answers that joint training shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    PreTrainedModel,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
)
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

from model import checkpoint
from model.blip3o import IMAGE, INSTRUCTION, QWEN, alike, chat
from model.data import Draws, Example, Source, Unreadable, readable, train_tokenizer
from model.parts.base import Loss, Part, subset
from model.recipe import Recipe, from_table

#: What a label has beyond these is not learned.
LABEL_TOKENS = 10
#: cross_entropy's default ``ignore_index``: no token.
NONE = -100


@dataclass(frozen=True)
class Conversation:
    """One image and the talk about it: the processor's output, and which of its tokens are answers, [L].

    ``labels`` are the token ids of what each image token shows, [image tokens, LABEL_TOKENS], filled with NONE. Without
    a talk there are only these: ``inputs`` are the image's, and ``answered`` is empty.
    """

    inputs: Mapping[str, Tensor]  # input_ids and others [1, L]; the image as the backbone wants it
    answered: Tensor
    labels: Tensor | None = None


@dataclass(frozen=True)
class Converse:
    """Example -> its turns, tokenised, and with ``labelled`` its labels; None when it has neither."""

    processor: ProcessorMixin
    labelled: bool = False

    def __call__(self, example: Example) -> Conversation | None:
        if not example.turns:
            return self.look(example) if self.labelled and example.labels else None
        text = conversation(example.turns)
        batch = self.processor(text=[text], images=[[example.image]], return_tensors="pt")
        tokenizer = self.processor.tokenizer
        start, end = tokenizer.convert_tokens_to_ids(["assistant", "<|im_end|>"])
        newline = tokenizer("\n").input_ids[-1]
        ids = batch["input_ids"][0].tolist()
        labels = self.labels(example, ids.count(self.processor.image_token_id)) if self.labelled else None
        return Conversation(dict(batch), torch.tensor(answer_mask(ids, (start, newline), end)), labels)

    def look(self, example: Example) -> Conversation:
        """The image and its labels alone, which the language model need not read."""
        image = self.processor.image_processor(images=[example.image], return_tensors="pt")
        tokens = int(image["image_grid_thw"].prod()) // self.processor.image_processor.merge_size**2
        return Conversation(dict(image), torch.zeros(0, dtype=torch.bool), self.labels(example, tokens))

    def labels(self, example: Example, image_tokens: int) -> Tensor:
        """Raises Unreadable when the example's labels are not as many as its image's tokens."""
        labels = torch.full((image_tokens, LABEL_TOKENS), NONE)
        if example.labels:
            if len(example.labels) != image_tokens:
                raise Unreadable(f"{len(example.labels)} labels for {image_tokens} image tokens")
            for row, ids in zip(labels, self.processor.tokenizer(list(example.labels)).input_ids, strict=True):
                row[: len(ids)] = torch.tensor(ids[:LABEL_TOKENS])
        return labels


def conversation(turns: Sequence[tuple[str, str]]) -> str:
    """A closed conversation in Qwen's chat template; the image stands before the first question."""
    (first, reply), *others = turns
    text = f"{chat(IMAGE + first)}{reply}<|im_end|>"
    for question, answer in others:
        text += f"\n<|im_start|>user\n{question}{QWEN.closing}{answer}<|im_end|>"
    return text


def answer_mask(ids: Sequence[int], opening: tuple[int, int], end: int) -> list[bool]:
    """True at the tokens from behind ``opening`` to the next ``end``, which is included."""
    mask, answering = [False] * len(ids), False
    for i in range(2, len(ids)):
        answering |= (ids[i - 2], ids[i - 1]) == opening
        mask[i] = answering
        answering &= ids[i] != end
    return mask


def answer_loss(backbone: PreTrainedModel, conversations: Sequence[Conversation]) -> tuple[Tensor, Tensor]:
    """(answers' loss, labels' loss), both summed cross-entropies.

    The first is that of every answer's tokens and its end of turn, given the image and all said before. The second is
    that of every token of an image token's label, as the backbone's last matrix reads it off that image token alone,
    before the language model has seen it; 0 without labels. Where that matrix is the embedding, too, an image token
    comes to be like the words for what it shows.
    """
    device = backbone.get_input_embeddings().weight.device
    talks = [conversation for conversation in conversations if len(conversation.answered)]
    groups = alike([len(talk.answered) for talk in talks], device) if talks else []
    losses = [_answer_loss(backbone, [talks[i] for i in group], device) for group in groups]
    if looks := [conversation for conversation in conversations if not len(conversation.answered)]:
        batch = _batch(looks, device)
        seen = torch.cat(list(backbone.get_image_features(**batch).pooler_output))  # [image tokens, width]
        losses.append((seen.new_zeros(()), _label_loss(backbone, seen, looks)))
    answers, labels = zip(*losses, strict=True)
    return torch.stack(answers).sum(), torch.stack(labels).sum()


def _answer_loss(
    backbone: PreTrainedModel, talks: Sequence[Conversation], device: torch.device
) -> tuple[Tensor, Tensor]:
    batch = _batch(talks, device)
    answered = collate([talk.answered[None] for talk in talks]).to(device)[:, 1:]  # [B, L - 1]
    labelled = any(talk.labels is not None for talk in talks)
    output = backbone.model(**batch, use_cache=False, output_hidden_states=labelled)
    hidden = output.last_hidden_state  # [B, L, width]
    # Only where an answer is predicted: logits of every token would take gigabytes.
    logits = backbone.lm_head(hidden[:, :-1][answered]).float()  # [tokens, vocabulary]
    answers = F.cross_entropy(logits, batch["input_ids"][:, 1:][answered], reduction="sum")
    if not labelled:
        return answers, answers.new_zeros(())
    seen = output.hidden_states[0][batch["input_ids"] == backbone.config.image_token_id]  # [image tokens, width]
    return answers, _label_loss(backbone, seen, talks)


def _label_loss(backbone: PreTrainedModel, seen: Tensor, conversations: Sequence[Conversation]) -> Tensor:
    """Of the image tokens [image tokens, width] as the language model gets them, in the conversations' order."""
    labels = torch.cat([c.labels for c in conversations if c.labels is not None]).to(seen.device)
    read = backbone.lm_head(F.rms_norm(seen, seen.shape[-1:])).float()  # [image tokens, vocabulary]
    row, place = (labels != NONE).nonzero(as_tuple=True)
    return F.cross_entropy(read[row], labels[row, place], reduction="sum")


def _batch(conversations: Sequence[Conversation], device: torch.device) -> dict[str, Tensor]:
    names = conversations[0].inputs
    return {name: collate([c.inputs[name] for c in conversations]).to(device) for name in names}


def collate(tensors: Sequence[Tensor]) -> Tensor:
    """Whole numbers [1, L] -> [B, longest L], padded with 0 on the right, where the mask is 0 too; others joined."""
    if len({tensor.shape[1:] for tensor in tensors}) > 1 and not tensors[0].is_floating_point():
        return nn.utils.rnn.pad_sequence([tensor[0] for tensor in tensors], batch_first=True)
    return torch.cat(list(tensors))


def given(items: Sequence[Conversation | None]) -> list[Conversation]:
    return [item for item in items if item is not None]


def answer_tokens(items: Sequence[Conversation]) -> int:
    return sum(int(item.answered[1:].sum()) for item in items)


def label_tokens(items: Sequence[Conversation]) -> int:
    return sum(int((item.labels != NONE).sum()) for item in items if item.labels is not None)


def talk_counts(conversations: Sequence[Conversation], labelled: bool) -> dict[str, int]:
    """How many terms each of ``talk_losses`` has."""
    counts = {"answer": answer_tokens(conversations)}
    return counts | {"label": label_tokens(conversations)} if labelled else counts


def talk_losses(backbone: PreTrainedModel, conversations: Sequence[Conversation], label: float) -> dict[str, Loss]:
    """``answer_loss`` by name, the labels' times ``label`` and left out where no conversation has any."""
    answers, labels = answer_loss(backbone, conversations)
    counts = talk_counts(conversations, bool(label))
    losses = {"answer": Loss(answers, counts["answer"])}
    return losses | {"label": Loss(label * labels, counts["label"])} if counts.get("label") else losses


@dataclass(frozen=True)
class BackboneModel:
    """A small Qwen2.5-VL: ``text`` and ``vision`` are its configuration's tables, ``label`` is the weight of
    ``answer_loss`` on the image tokens' labels.
    """

    vocab_size: int
    image_size: int
    text: Mapping[str, Any]
    vision: Mapping[str, Any]
    label: float = 0.0

    def __post_init__(self) -> None:
        """Raises ValueError for what cannot be."""
        if self.label < 0:
            raise ValueError("label, the weight of a loss, cannot be negative")


class Backbone(Part):
    """The understanding stage of a model from scratch: Qwen2.5-VL on questions about images.

    Examples without questions give the tokenizer their captions, and nothing else.
    """

    #: Examples of the data from which the tokenizer is learned.
    TOKENIZED = 4096

    def __init__(self, recipe: Recipe, data: Source) -> None:
        super().__init__()
        model = from_table(BackboneModel, recipe.model, "model")
        examples = list(readable(data, self.TOKENIZED))
        captions = [chat(INSTRUCTION + example.caption) for example in examples if example.caption]
        turns = [conversation(example.turns) for example in examples if example.turns]
        tokenizer = train_tokenizer(captions + turns, model.vocab_size)
        image = {
            "patch_size": model.vision["patch_size"],
            "merge_size": 2,
            "temporal_patch_size": 2,
            "size": {"shortest_edge": model.image_size**2, "longest_edge": model.image_size**2},
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
        text = {**model.text, "vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
        text |= {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.pad_token_id}
        config = Qwen2_5_VLConfig(
            text_config=text,
            vision_config={**model.vision, "out_hidden_size": text["hidden_size"]},
            tie_word_embeddings=True,
            **ids,
        )
        self.backbone = Qwen2_5_VLForConditionalGeneration(config)
        self._no_split_modules = self.backbone._no_split_modules  # FSDP's units
        self.label = model.label
        self.prepare = Converse(self.processor, labelled=bool(model.label))

    def counts(self, items: Sequence[Conversation | None]) -> dict[str, int]:
        return talk_counts(given(items), bool(self.label))

    def losses(self, items: Sequence[Conversation | None], draws: Draws) -> dict[str, Loss]:
        return talk_losses(self.backbone, given(items), self.label)

    def save(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        checkpoint.save_backbone(self.backbone, self.processor, folder, tied(self.backbone, subset(state, "backbone.")))

    def checkpoint_gradients(self) -> None:
        self.backbone.activation_checkpointing_enable()


def tied(backbone: PreTrainedModel, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a backbone with one value for tied weights: averages know a tensor by its first name only."""
    names = {name: first for name, first in backbone.all_tied_weights_keys.items() if first in state}
    return {**state, **{name: state[first] for name, first in names.items()}}
