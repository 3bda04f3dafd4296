"""The parts of BLIP3-o that are trained, one class each: what is learned, the loss, and where it is saved.

Order for a model from scratch: vae and eva_clip, then decoder; backbone, then generator.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, ModelMixin, UNet2DConditionModel
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

from model import checkpoint, flow
from model.blip3o import CLOSING, IMAGE, INSTRUCTION, Blip3o, chat
from model.config import Blip3oConfig, Design, DiTConfig, Sampling
from model.data import Draws, Example, Source, Unreadable, pixels, train_tokenizer
from model.decoder import SCHEDULER, Decoder, to_latents, to_pixels
from model.eva_clip import EvaClip, EvaConfig, normalize
from model.feature_cache import FeatureCache
from model.generate import sample_features
from model.hub import DECODER_FILES, EVA_CLIP_FILES, MODEL_FILES, Located, locate
from model.llava import join
from model.recipe import Recipe, RecipeError, SourceName, from_table

#: A condition is dropped for this share of the samples, so that guidance has something to steer away from.
CONDITION_DROPOUT = 0.1
#: Upstream's ``model_max_length``: the prompt, [IMG] and the queries together.
MAX_LENGTH = 512


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


class Vae(Part):
    """An SDXL-style autoencoder: pixels <-> latents."""

    def __init__(self, recipe: Recipe, data: Source) -> None:
        super().__init__()
        self.vae = AutoencoderKL(**recipe.model)
        self.prepare = Pixels(int(recipe.model["sample_size"]))
        self.spread: Tensor
        self.register_buffer("spread", torch.ones(()))

    def counts(self, items: Sequence[Tensor]) -> dict[str, int]:
        return {"pixels": len(items), "kl": len(items)}

    def losses(self, items: Sequence[Tensor], draws: Draws) -> dict[str, Loss]:
        images = torch.stack(list(items)).to(self.device) * 2 - 1  # [B, 3, H, W]
        posterior = self.vae.encode(images).latent_dist
        self.spread.copy_(posterior.mean.detach().std())
        noise = draws.normal(posterior.mean.shape[1:]).to(self.device)
        decoded = self.vae.decode(posterior.mean + posterior.std * noise).sample
        return {
            "pixels": Loss(per_item(F.mse_loss(decoded, images, reduction="none")).sum(), len(items)),
            "kl": Loss(1e-4 * posterior.kl().sum() / noise[0].numel(), len(items)),
        }

    def save(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        # The decoder's noise schedule takes latents of unit spread.
        config = {**self.vae.config, "scaling_factor": round(1 / state["spread"].item(), 4)}
        save_diffusers(AutoencoderKL, config, subset(state, "vae."), folder / "decoder" / "vae")

    def checkpoint_gradients(self) -> None:
        self.vae.enable_gradient_checkpointing()


class EvaClipPart(Part):
    """The target encoder, with two throw-away heads on its pooled, noisy features: one draws the image, one tells
    each token's place.

    Upstream's encoder is trained on image-text pairs. Here the features must above all keep what the decoder
    needs and be easy to generate: of unit scale per channel and robust to noise. They must say where they belong,
    because the decoder's cross-attention takes them as a set. The scale is a statistic of a micro-batch, so this
    part's loss does depend on how a batch is shared out.
    """

    NOISE = 0.3

    def __init__(self, recipe: Recipe, data: Source) -> None:
        super().__init__()
        self.config = from_table(EvaConfig, recipe.model, "model")
        self.encoder = EvaClip(self.config)
        grid = self.config.patches // self.config.pool
        self.head = upsampler(self.config.width, doublings=(self.config.image_size // grid).bit_length() - 1)
        self.place_head = nn.Linear(self.config.width, grid**2)
        self.prepare = Pixels(self.config.image_size)

    def counts(self, items: Sequence[Tensor]) -> dict[str, int]:
        return dict.fromkeys(("pixels", "place", "scale"), len(items))

    def losses(self, items: Sequence[Tensor], draws: Draws) -> dict[str, Loss]:
        images = torch.stack(list(items)).to(self.device)  # [B, 3, H, W]
        features = self.encoder.features(normalize(images))  # [B, C, grid, grid]
        noisy = features + self.NOISE * draws.normal(features.shape[1:]).to(self.device)
        mean, variance = features.mean((0, 2, 3)), features.var((0, 2, 3))  # [C]
        places = self.place_head(noisy.flatten(2).transpose(1, 2))  # [B, N, N]
        place = torch.arange(places.shape[1], device=self.device).expand(len(images), -1)  # [B, N]
        means = {
            "pixels": F.mse_loss(self.head(noisy), images * 2 - 1),
            "place": 0.05 * F.cross_entropy(places.flatten(0, 1), place.flatten()),
            "scale": 0.1 * (mean.square() + (variance - 1).square()).mean(),
        }
        return {name: Loss(mean * len(items), len(items)) for name, mean in means.items()}

    def save(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        encoder = EvaClip(self.config)
        encoder.load_state_dict(subset(state, "encoder."))
        checkpoint.save_eva_clip(encoder, folder)


def upsampler(width: int, doublings: int) -> nn.Sequential:
    """Features [B, width, h, w] -> RGB, 2**doublings times as large, through halving widths from 128 on."""
    layers: list[nn.Module] = []
    for i in range(doublings - 1):
        layers += [nn.ConvTranspose2d(width, max(32, 128 >> i), 4, 2, 1), nn.GELU()]
        width = max(32, 128 >> i)
    return nn.Sequential(*layers, nn.ConvTranspose2d(width, 3, 4, 2, 1))


class DecoderPart(Part):
    """The SDXL-style UNet that turns EVA-CLIP features into latents of the (frozen) VAE."""

    #: The generator's features are not perfect; a little noise keeps the decoder from relying on it.
    NOISE = 0.1

    def __init__(self, recipe: Recipe, data: Source) -> None:
        super().__init__()
        self.unet = UNet2DConditionModel(**recipe.model)
        encoder = checkpoint.load_eva_clip(source(recipe, "eva_clip").folder)
        vae = checkpoint.load_vae(source(recipe, "decoder").folder)
        self.frozen = [encoder, vae]
        self.encode = encoder.features
        # Beside the module, not in it: the UNet is registered once.
        self.decoder = [Decoder(self.unet, vae)]
        self.scheduler = DDPMScheduler(**SCHEDULER)
        self.prepare = Pixels(self.decoder[0].image_size)

    def counts(self, items: Sequence[Tensor]) -> dict[str, int]:
        return {"noise": len(items)}

    def losses(self, items: Sequence[Tensor], draws: Draws) -> dict[str, Loss]:
        images = torch.stack(list(items)).to(self.device)  # [B, 3, H, W]
        with torch.no_grad():
            latents = to_latents(self.decoder[0].vae, images)  # [B, 4, h, w]
            features = self.encode(normalize(images)).flatten(2).transpose(1, 2)  # [B, N, C]
        features = features + self.NOISE * draws.normal(features.shape[1:]).to(self.device)
        noise = draws.normal(latents.shape[1:]).to(self.device)
        alphas = self.scheduler.alphas_cumprod
        timestep = (draws.uniform() * len(alphas)).long()  # [B]
        noisy = self.scheduler.add_noise(latents, noise, timestep)
        predicted = self.decoder[0].predict(noisy, timestep.to(self.device), features)
        error = per_item(F.mse_loss(predicted, noise, reduction="none"))  # [B]
        # What is drawn is settled where noise prevails, and there a wrong image costs little in terms of noise:
        # below a signal-to-noise ratio of 1 the error is weighted as that of the image, up to tenfold.
        weight = ((1 - alphas) / alphas).clamp(1, 10)[timestep].to(self.device)
        return {"noise": Loss((error * weight).sum(), len(items))}

    def save(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        save_diffusers(UNet2DConditionModel, self.unet.config, subset(state, "unet."), folder / "decoder" / "unet")

    def checkpoint_gradients(self) -> None:
        self.unet.enable_gradient_checkpointing()


@dataclass(frozen=True)
class Conversation:
    """One image and the talk about it: the processor's output, and which of its tokens are answers, [L]."""

    inputs: Mapping[str, Tensor]  # input_ids and others [1, L]; the image as the backbone wants it
    answered: Tensor


@dataclass(frozen=True)
class Converse:
    """Example -> its turns, tokenised; None when it has none."""

    processor: ProcessorMixin

    def __call__(self, example: Example) -> Conversation | None:
        if not example.turns:
            return None
        text = conversation(example.turns)
        batch = self.processor(text=[text], images=[[example.image]], return_tensors="pt")
        tokenizer = self.processor.tokenizer
        start, end = tokenizer.convert_tokens_to_ids(["assistant", "<|im_end|>"])
        newline = tokenizer("\n").input_ids[-1]
        ids = batch["input_ids"][0].tolist()
        return Conversation(dict(batch), torch.tensor(answer_mask(ids, (start, newline), end)))


def conversation(turns: Sequence[tuple[str, str]]) -> str:
    """A closed conversation in Qwen's chat template; the image stands before the first question."""
    (first, reply), *others = turns
    text = f"{chat(IMAGE + first)}{reply}<|im_end|>"
    for question, answer in others:
        text += f"\n<|im_start|>user\n{question}{CLOSING}{answer}<|im_end|>"
    return text


def answer_mask(ids: Sequence[int], opening: tuple[int, int], end: int) -> list[bool]:
    """True at the tokens from behind ``opening`` to the next ``end``, which is included."""
    mask, answering = [False] * len(ids), False
    for i in range(2, len(ids)):
        answering |= (ids[i - 2], ids[i - 1]) == opening
        mask[i] = answering
        answering &= ids[i] != end
    return mask


def answer_loss(backbone: PreTrainedModel, conversations: Sequence[Conversation]) -> Tensor:
    """Cross-entropy, summed over every answer's tokens and its end of turn, given the image and all said before."""
    device = backbone.get_input_embeddings().weight.device
    batch = {name: collate([c.inputs[name] for c in conversations]) for name in conversations[0].inputs}
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    answered = collate([c.answered[None] for c in conversations]).to(device)[:, 1:]  # [B, L - 1]
    hidden = backbone.model(**batch, use_cache=False).last_hidden_state  # [B, L, width]
    # Only where an answer is predicted: logits of every token would take gigabytes.
    logits = backbone.lm_head(hidden[:, :-1][answered]).float()  # [tokens, vocabulary]
    return F.cross_entropy(logits, batch["input_ids"][:, 1:][answered], reduction="sum")


def collate(tensors: Sequence[Tensor]) -> Tensor:
    """Whole numbers [1, L] -> [B, longest L], padded with 0 on the right, where the mask is 0 too; others joined."""
    if len({tensor.shape[1:] for tensor in tensors}) > 1 and not tensors[0].is_floating_point():
        return nn.utils.rnn.pad_sequence([tensor[0] for tensor in tensors], batch_first=True)
    return torch.cat(list(tensors))


@dataclass(frozen=True)
class BackboneModel:
    """A small Qwen2.5-VL: ``text`` and ``vision`` are its configuration's tables."""

    vocab_size: int
    image_size: int
    text: Mapping[str, Any]
    vision: Mapping[str, Any]


class Backbone(Part):
    """The understanding stage of a model from scratch: Qwen2.5-VL on questions about images.

    Examples without questions give the tokenizer their captions, and nothing else.
    """

    #: Examples of the data from which the tokenizer is learned.
    TOKENIZED = 4096

    def __init__(self, recipe: Recipe, data: Source) -> None:
        super().__init__()
        model = from_table(BackboneModel, recipe.model, "model")
        examples = [data(0, index) for index in range(self.TOKENIZED)]
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
        self.prepare = Converse(self.processor)

    def counts(self, items: Sequence[Conversation | None]) -> dict[str, int]:
        return {"answer": answer_tokens(given(items))}

    def losses(self, items: Sequence[Conversation | None], draws: Draws) -> dict[str, Loss]:
        conversations = given(items)
        return {"answer": Loss(answer_loss(self.backbone, conversations), answer_tokens(conversations))}

    def save(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        checkpoint.save_backbone(self.backbone, self.processor, folder, tied(self.backbone, subset(state, "backbone.")))

    def checkpoint_gradients(self) -> None:
        self.backbone.activation_checkpointing_enable()


def given(items: Sequence[Conversation | None]) -> list[Conversation]:
    return [item for item in items if item is not None]


def answer_tokens(items: Sequence[Conversation]) -> int:
    return sum(int(item.answered[1:].sum()) for item in items)


@dataclass(frozen=True)
class GeneratorModel:
    """The generator's settings.

    ``backbone`` says what trains it: nothing (the sequential training of the published models), the generator's
    loss, or that and questions about images (joint training). ``prompt`` is upstream's sequence of training, which
    closes the assistant's empty turn before the queries and is cut at 512 tokens, or that of inference, which does
    neither. ``gate``, ``query_scale`` and ``echo`` help small models: gates of the cross-attention that are open
    from the start, smaller queries, and the weight of ``Generator.echo_loss``.
    """

    sampling: Sampling
    dit: Mapping[str, Any] = field(default_factory=dict)  # DiTConfig's; what the target encoder fixes is left out
    n_query: int = 64
    design: Design = "clip_flow"
    backbone: Literal["frozen", "trained", "joint"] = "frozen"
    freeze_vision: bool = True
    prompt: Literal["upstream", "inference"] = "inference"
    image_size: int | None = None  # pixels, for a VAE, which takes any
    gate: float | None = None
    query_scale: float | None = None
    echo: float = 0.0


@dataclass(frozen=True)
class Target:
    """A frozen encoder: what the generator learns to predict.

    ``encode`` takes RGB in [0, 1], [B, 3, image_size, image_size], to [B, channels, grid, grid].
    """

    module: nn.Module
    encode: Callable[[Tensor], Tensor]
    image_size: int
    channels: int
    grid: int


def clip_target(encoder: EvaClip) -> Target:
    config = encoder.config
    grid = config.patches // config.pool
    return Target(encoder, lambda x: encoder.features(normalize(x)), config.image_size, config.width, grid)


def vae_target(vae: AutoencoderKL, image_size: int) -> Target:
    grid = image_size // 2 ** (len(vae.config.block_out_channels) - 1)
    return Target(vae, lambda x: to_latents(vae, x), image_size, vae.config.latent_channels, grid)


@dataclass(frozen=True)
class Drawing:
    """A prompt's token ids [L], and the image to draw: its pixels [3, H, W], or its features where they are known."""

    ids: Tensor
    image: Tensor | None
    features: Tensor | None
    key: str


@dataclass(frozen=True)
class GeneratorItem:
    drawing: Drawing | None
    conversation: Conversation | None


@dataclass(frozen=True)
class PrepareGenerator:
    """Example -> a drawing if it has a caption, and in joint training a conversation if it has turns."""

    processor: ProcessorMixin
    converse: Converse | None
    suffix: str
    max_tokens: int | None
    image_size: int
    cache: FeatureCache | None = None

    def __call__(self, example: Example) -> GeneratorItem:
        drawing = self.drawing(example) if example.caption else None
        talk = self.converse(example) if self.converse else None
        if drawing is None and talk is None:
            raise Unreadable("example without caption" + (" and without turns" if self.converse else ""))
        return GeneratorItem(drawing, talk)

    def drawing(self, example: Example) -> Drawing:
        features = self.cache.get(example.key) if self.cache and example.key else None
        image = pixels([example.image], self.image_size)[0] if features is None else None
        return Drawing(self.ids(chat(INSTRUCTION + example.caption)), image, features, example.key)

    def ids(self, text: str) -> Tensor:
        return torch.tensor(self.processor.tokenizer(text + self.suffix).input_ids[: self.max_tokens])


class Generator(Part):
    """The latent queries and what draws from their states: the paper's three designs (3.3), trained on a frozen
    backbone or together with it (4.1).
    """

    prepare: PrepareGenerator

    def __init__(self, recipe: Recipe, data: Source) -> None:
        super().__init__()
        table = self.table = from_table(GeneratorModel, recipe.model, "model")
        dtype = torch.bfloat16 if recipe.precision == "bf16" else torch.float32
        self.recipe = recipe
        clip = table.design != "vae_flow"
        # Only what is needed is fetched, and the decoder of features is not, but for previews.
        used: list[SourceName] = ["backbone", "eva_clip"] if clip else ["backbone", "decoder"]
        used += ["decoder"] if clip and recipe.preview_every else []
        self.sources = {name: source(recipe, name) for name in used}
        if clip:
            self.target = clip_target(checkpoint.load_eva_clip(self.sources["eva_clip"].folder, dtype))
        elif table.image_size:
            self.target = vae_target(checkpoint.load_vae(self.sources["decoder"].folder, dtype), table.image_size)
        else:
            raise RecipeError("model: design 'vae_flow' needs image_size")
        if table.design == "clip_mse" and table.n_query != self.target.grid**2:
            raise RecipeError(f"model: design 'clip_mse' needs n_query = {self.target.grid**2}, one for each feature")
        dit = from_table(DiTConfig, table.dit, "model.dit", grid=self.target.grid, channels=self.target.channels)
        if "vision" in recipe.sources:
            backbone, self.processor = join(self.sources["backbone"].folder, source(recipe, "vision").folder)
        else:
            backbone, self.processor = checkpoint.load_backbone(
                self.sources["backbone"].folder, dtype if table.backbone == "frozen" else torch.float32
            )
        config = Blip3oConfig(table.n_query, table.design, dit)
        self.model = Blip3o(backbone, config, self.processor.tokenizer.convert_tokens_to_ids("[IMG]"))
        if "generator" in recipe.sources:
            checkpoint.load_generation(self.model, source(recipe, "generator").folder)
        if table.gate is not None and self.model.dit is not None:
            self.model.dit.open_gates(table.gate)
        if table.query_scale is not None:
            with torch.no_grad():
                self.model.latent_queries.mul_(table.query_scale)
        choose_trained(backbone, table.backbone, table.freeze_vision)
        self.aside = list(set_aside(self.model).items())
        self.frozen = [self.target.module, *(module for _, module in self.aside)]
        self._no_split_modules = fsdp_units(self, backbone)

        self.decoder: list[Decoder] = []
        if recipe.preview_every and clip:
            self.decoder = [checkpoint.load_decoder(self.sources["decoder"].folder, dtype)]
            self.frozen += self.decoder
        upstream = table.prompt == "upstream"
        suffix = "<|im_end|>\n" if upstream else ""
        self.closing = len(self.processor.tokenizer(CLOSING + suffix).input_ids)
        self.prepare = PrepareGenerator(
            self.processor,
            Converse(self.processor) if table.backbone == "joint" else None,
            suffix,
            MAX_LENGTH - 1 - table.n_query if upstream else None,
            self.target.image_size,
        )

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        super().place(device, dtype)
        if self.recipe.cache:
            encoder = f"{digest(self.target.module)} at {self.target.image_size} px"
            try:
                cache = FeatureCache(Path(self.recipe.cache), encoder)
            except ValueError as error:
                raise RecipeError(f"cache: {error}") from error
            self.prepare = dataclasses.replace(self.prepare, cache=cache)

    def counts(self, items: Sequence[GeneratorItem]) -> dict[str, int]:
        drawn = sum(item.drawing is not None for item in items)
        names = ["mse" if self.table.design == "clip_mse" else "flow"] + ["echo"] * bool(self.table.echo)
        counts = dict.fromkeys(names, drawn)
        if self.table.backbone == "joint":
            counts["answer"] = answer_tokens(given([item.conversation for item in items]))
        return counts

    def losses(self, items: Sequence[GeneratorItem], draws: Draws) -> dict[str, Loss]:
        rows = [i for i, item in enumerate(items) if item.drawing is not None]
        drawings = [item.drawing for item in items if item.drawing is not None]
        totals: dict[str, Tensor] = {}
        if drawings:
            clean = self.features(drawings)  # [B, C, grid, grid]
            prompts = [drawing.ids.to(self.device) for drawing in drawings]
            condition = self.model.query_states(prompts)  # [B, n_query, width]
            if self.table.design == "clip_mse":
                totals["mse"] = self.regression_loss(clean, condition)
            else:
                totals["flow"] = self.flow_loss(clean, condition, draws, rows)
            if self.table.echo:
                totals["echo"] = self.table.echo * self.echo_loss(condition, prompts)
        if self.table.backbone == "joint" and (asked := given([item.conversation for item in items])):
            totals["answer"] = answer_loss(self.model.backbone, asked)
        counts = self.counts(items)
        return {name: Loss(total, counts[name]) for name, total in totals.items()}

    def regression_loss(self, clean: Tensor, condition: Tensor) -> Tensor:
        """The projected state of query i against feature i, in reading order."""
        assert self.model.projector is not None
        predicted = self.model.projector(condition)  # [B, N, C]
        wanted = clean.flatten(2).transpose(1, 2)  # [B, N, C]
        return per_item(F.mse_loss(predicted.float(), wanted.float(), reduction="none")).sum()

    def flow_loss(self, clean: Tensor, condition: Tensor, draws: Draws, rows: Sequence[int]) -> Tensor:
        """Flow matching from ``clean`` [B, C, grid, grid], which are items ``rows`` of the draws.

        Noise is mixed in float32: upstream's bfloat16 rounds the level to eight bits.
        """
        assert self.model.dit is not None
        # Upstream's order of draws: noise, level, dropout.
        noise = draws.normal(clean.shape[1:])[rows].to(self.device)
        sigma = flow.noise_levels(draws.uniform()[rows]).to(self.device)  # [B]
        kept = (draws.uniform()[rows] >= CONDITION_DROPOUT).to(self.device)  # [B]
        noisy, wanted = flow.add_noise(clean.float(), noise, sigma)
        predicted = self.model.dit(noisy, sigma * flow.LEVELS, condition * kept.view(-1, 1, 1))
        return per_item(F.mse_loss(predicted.float(), wanted, reduction="none")).sum()

    def echo_loss(self, condition: Tensor, prompts: Sequence[Tensor]) -> Tensor:
        """Cross-entropy of the caption's last tokens, each named by one query's state; summed over prompts.

        A large backbone's states tell the words by themselves; a small one has to be taught to pass them on.
        """
        n_query = condition.shape[1]
        said = torch.stack([ids[-self.closing - n_query : -self.closing] for ids in prompts])  # [B, n_query]
        logits = self.model.backbone.lm_head(condition).flatten(0, 1).float()  # [B * n_query, vocabulary]
        return F.cross_entropy(logits, said.flatten(), reduction="sum") / n_query

    @torch.no_grad()
    def features(self, drawings: Sequence[Drawing]) -> Tensor:
        """Features of the drawings' images, [B, C, grid, grid], from the cache where they are there."""
        new = [drawing for drawing in drawings if drawing.image is not None]
        encoded: list[Tensor] = []
        if new:
            images = torch.stack([drawing.image for drawing in new if drawing.image is not None]).to(self.device)
            # In one dtype with what comes from the cache.
            encoded = list(self.target.encode(images).to(self.dtype))
        if cache := self.prepare.cache:
            for drawing, features in zip(new, encoded, strict=True):
                if drawing.key:
                    cache.put(drawing.key, features)
        fresh = iter(encoded)
        return torch.stack([next(fresh) if d.features is None else d.features.to(self.device) for d in drawings])

    @torch.no_grad()
    def draw(self, prompts: Sequence[str]) -> Tensor:
        """Preview images RGB in [0, 1], [B, 3, H, W], with the weights as they are; image i is of seed i."""
        with self.autocast():
            return self._draw(prompts)

    def _draw(self, prompts: Sequence[str]) -> Tensor:
        sampling = self.table.sampling
        # The bare prompt " " is what the decoder's guidance leads away from, as in generation.
        texts = [*(chat(INSTRUCTION + prompt) for prompt in prompts), " "]
        ids = [torch.tensor(self.processor.tokenizer(text).input_ids) for text in texts]
        generators = [torch.Generator().manual_seed(seed) for seed in range(len(texts))]
        features = sample_features(self.model, self.model.query_states(ids), generators, sampling)
        if self.table.design == "vae_flow":
            return to_pixels(self.target.module, features[:-1]).float()
        tokens = features.flatten(2).transpose(1, 2).to(self.dtype)  # [B + 1, N, C]
        shown, negative = tokens[:-1], tokens[-1:].expand_as(tokens[:-1])
        (decoder,) = self.decoder
        noise = decoder.draw_noise(generators[:-1], tokens.dtype, tokens.device)
        latents = decoder.sample(shown, negative, noise, sampling.decoder_steps, sampling.decoder_guidance)
        return to_pixels(decoder.vae, latents).float()

    def save(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        weights = subset(state, "model.")
        own = {name: tensor for name, tensor in weights.items() if not name.startswith("backbone.")}
        backbone = self.model.backbone
        checkpoint.save_tensors(own, folder / "generator.safetensors")
        if trained := subset(weights, "backbone."):
            # Weights that were set aside are part of it too.
            whole = {f"{at}.{name}": tensor for at, m in self.aside for name, tensor in m.state_dict().items()}
            whole = subset(whole, "backbone.") | tied(backbone, trained)
            checkpoint.save_backbone(backbone, self.processor, folder, whole)
        checkpoint.write_config(folder, self.model.config, self.table.sampling, self.elsewhere())

    def elsewhere(self) -> dict[checkpoint.PartName, str]:
        """The parts that the checkpoint does not hold, and where they are: at the commit that was used, if it was."""
        folder = Path(self.recipe.checkpoint)
        names: list[checkpoint.PartName] = ["decoder", "eva_clip"]
        if self.table.backbone == "frozen":
            names.append("backbone")
        found: dict[checkpoint.PartName, str] = {}
        for name in names:
            spec = self.recipe.sources.get(name, str(folder))
            if Path(spec).is_dir():
                if not Path(spec).samefile(folder):
                    found[name] = str(Path(spec).resolve())
            else:
                found[name] = self.sources[name].name if name in self.sources else spec
        return found

    def checkpoint_gradients(self) -> None:
        if self.model.dit is not None:
            self.model.dit.gradient_checkpointing = True
        if self.table.backbone != "frozen":
            self.model.backbone.activation_checkpointing_enable()


def source(recipe: Recipe, name: SourceName) -> Located:
    """Where a recipe takes a part from: its ``sources``, or its own checkpoint folder. Downloads what is on the hub."""
    if name not in recipe.sources:
        return Located(Path(recipe.checkpoint))
    spec = recipe.sources[name]
    if name == "backbone":
        return locate(spec, without=DECODER_FILES)
    if name == "decoder" and recipe.model.get("design") == "vae_flow":
        return locate(spec, ("vae/*", "decoder/vae/*", "diffusion-decoder/vae/*"))
    return locate(spec, (*MODEL_FILES, *EVA_CLIP_FILES) if name == "eva_clip" else MODEL_FILES)


def choose_trained(
    backbone: PreTrainedModel, training: Literal["frozen", "trained", "joint"], freeze_vision: bool
) -> None:
    """Mark what is trained of a backbone. RecipeError for joint training of a backbone without eyes."""
    backbone.requires_grad_(training == "joint")
    if training == "trained":  # images and words that are said have no part in the generator's loss
        backbone.get_decoder().requires_grad_(True)
    elif training == "joint":
        vision = getattr(backbone.model, "visual", None) or getattr(backbone.model, "vision_tower", None)
        if vision is None:
            raise RecipeError(f"model: {type(backbone).__name__} sees no images: backbone = 'joint' is not for it")
        vision.requires_grad_(not freeze_vision)


def set_aside(module: nn.Module, prefix: str = "") -> dict[str, nn.Module]:
    """Take the wholly frozen submodules out of a module's registration; they are still found under their names.

    So the optimizer, the state dict, DDP, FSDP and DeepSpeed see what is trained and nothing else. Returns the
    submodules by their full names.
    """
    frozen: dict[str, nn.Module] = {}
    for name, child in list(module.named_children()):
        parameters = list(child.parameters())
        if any(parameter.requires_grad for parameter in parameters):
            frozen |= set_aside(child, f"{prefix}{name}.")
        elif parameters:
            delattr(module, name)
            object.__setattr__(module, name, child)
            frozen[prefix + name] = child
    return frozen


def fsdp_units(part: nn.Module, backbone: PreTrainedModel) -> list[str]:
    """The layers of a trained backbone, to be gathered one by one; all else that is trained is small enough as one."""
    here = {type(module).__name__ for module in part.modules()}
    return sorted(here & set(backbone._no_split_modules or ()))


def per_item(error: Tensor) -> Tensor:
    """The mean over all but the first dimension, [B]."""
    return error.flatten(1).mean(1)


def subset(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def save_diffusers(cls: type[ModelMixin], config: Mapping[str, Any], state: Mapping[str, Tensor], folder: Path) -> None:
    with torch.device("meta"):
        module = cls.from_config(config)
    module.load_state_dict(state, assign=True)
    module.half().save_pretrained(folder)


def tied(backbone: PreTrainedModel, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a backbone with one value for tied weights: averages know a tensor by its first name only."""
    names = {name: first for name, first in backbone.all_tied_weights_keys.items() if first in state}
    return {**state, **{name: state[first] for name, first in names.items()}}


def digest(module: nn.Module) -> str:
    """SHA-256 over the names, dtypes and values of a module's tensors."""
    total = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        total.update(f"{name} {tensor.dtype} ".encode())
        total.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return total.hexdigest()
