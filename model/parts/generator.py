"""Generation: the latent queries and what draws from their states, in the paper's three designs."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn
from transformers import PreTrainedModel, ProcessorMixin

from model import checkpoint, flow
from model.blip3o import INSTRUCTION, Blip3o, Template, chat
from model.config import Blip3oConfig, Design, DiTConfig, Sampling, text_width
from model.data import Draws, Example, Source, Unreadable, pixels
from model.decoder import Decoder, to_latents, to_pixels
from model.eva_clip import EvaClip, normalize
from model.feature_cache import FeatureCache
from model.generate import sample_features
from model.hub import pinned
from model.parts.backbone import Conversation, Converse, given, talk_counts, talk_losses, tied
from model.parts.base import Loss, Part, per_item, source, subset
from model.recipe import Recipe, RecipeError, SourceName, from_table

#: A condition is dropped for this share of the samples, so that guidance has something to steer away from.
CONDITION_DROPOUT = 0.1

#: Upstream's ``model_max_length``: the prompt, [IMG] and the queries together.
MAX_LENGTH = 512


@dataclass(frozen=True)
class GeneratorModel:
    """The generator's settings.

    ``backbone`` says what trains it: nothing (the sequential training of the published models), the generator's
    loss, or that and questions about images (joint training). ``prompt`` is upstream's sequence of training, which
    closes the assistant's empty turn before the queries and is cut at 512 tokens, or that of inference, which does
    neither. ``gate``, ``query_scale``, ``echo``, ``sketch`` and ``label`` help small models: gates of the
    cross-attention that are open from the start, smaller queries, and the weights of ``Generator.echo_loss``, of
    ``Generator.sketch_loss`` and, in joint training, of ``backbone.answer_loss`` on the image tokens' labels.
    ``levels`` is at how many noise levels, one in each equal part of the scale, the flow of one drawing is learned at
    once: where the backbone learns too, its share of a step is most of it. ``shift`` above 1 learns more at high noise
    (``flow.shifted``), where the prompt decides what is drawn.
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
    sketch: float = 0.0
    label: float = 0.0
    levels: int = 1
    shift: float = 1.0

    def __post_init__(self) -> None:
        """Raises ValueError for what cannot be."""
        if min(self.n_query, self.levels) < 1:
            raise ValueError("n_query and levels start at 1")
        if not self.shift > 0 or min(self.echo, self.sketch, self.label) < 0:
            raise ValueError("shift must be positive, and no loss may have a negative weight")


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
    template: Template
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
        return Drawing(self.ids(chat(INSTRUCTION + example.caption, self.template)), image, features, example.key)

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
        # What is not read here is named in the checkpoint all the same, and must not be another tomorrow.
        self.unread: dict[SourceName, str] = {
            name: pinned(spec)
            for name, spec in recipe.sources.items()
            if name in ("decoder", "eva_clip") and name not in used and not Path(spec).is_dir()
        }
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
            backbone, self.processor = checkpoint.join_vision(
                self.sources["backbone"].folder, source(recipe, "vision").folder
            )
        else:
            backbone, self.processor = checkpoint.load_backbone(
                self.sources["backbone"].folder, dtype if table.backbone == "frozen" else torch.float32
            )
        config = Blip3oConfig(table.n_query, table.design, dit)
        self.model = Blip3o(backbone, config, self.processor.tokenizer.convert_tokens_to_ids("[IMG]"))
        if "generator" in recipe.sources:
            checkpoint.load_generation(self.model, source(recipe, "generator").folder)
        if table.sketch and table.n_query != self.target.grid**2:
            raise RecipeError(f"model: sketch needs n_query = {self.target.grid**2}, one for each feature")
        if table.label and table.backbone != "joint":
            raise RecipeError("model: label needs backbone = 'joint', which learns from conversations")
        self.sketch = nn.Linear(text_width(backbone.config), self.target.channels) if table.sketch else None
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
        template = self.model.template
        suffix = template.behind if upstream else ""
        self.closing = len(self.processor.tokenizer(template.closing + suffix, add_special_tokens=False).input_ids)
        self.prepare = PrepareGenerator(
            self.processor,
            Converse(self.processor, labelled=bool(table.label)) if table.backbone == "joint" else None,
            template,
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
        names = ["mse" if self.table.design == "clip_mse" else "flow"]
        names += ["echo"] * bool(self.table.echo) + ["sketch"] * bool(self.table.sketch)
        counts = dict.fromkeys(names, drawn)
        if self.table.backbone == "joint":
            counts |= talk_counts(given([item.conversation for item in items]), bool(self.table.label))
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
            if self.sketch is not None:
                totals["sketch"] = self.table.sketch * self.sketch_loss(clean, condition)
        losses = {name: Loss(total, len(drawings)) for name, total in totals.items()}
        if self.table.backbone == "joint" and (asked := given([item.conversation for item in items])):
            losses |= talk_losses(self.model.backbone, asked, self.table.label)
        return losses

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
        n = self.table.levels
        # Upstream's order of draws: noise, level, dropout.
        drawn = [(draws.normal(clean.shape[1:]), (i + draws.uniform()) / n, draws.uniform()) for i in range(n)]
        noise, level, kept = (torch.cat([one[rows] for one in of]).to(self.device) for of in zip(*drawn, strict=True))
        sigma = flow.shifted(flow.noise_levels(level), self.table.shift)  # [n * B]
        clean, condition = (torch.cat([x] * n) for x in (clean.float(), condition))
        noisy, wanted = flow.add_noise(clean, noise, sigma)
        seen = condition * (kept >= CONDITION_DROPOUT).view(-1, 1, 1)
        predicted = self.model.dit(noisy, sigma * flow.LEVELS, seen)
        return per_item(F.mse_loss(predicted.float(), wanted, reduction="none")).sum() / n

    def sketch_loss(self, clean: Tensor, condition: Tensor) -> Tensor:
        """Squared error of the features that a linear head, which is thrown away, reads off the query of their place.

        It shows the queries directly what their words look like and where; through the transformer's cross-attention
        a small model learns that late.
        """
        assert self.sketch is not None
        sketched = self.sketch(condition)  # [B, N, C]
        return per_item(F.mse_loss(sketched.float(), clean.float().flatten(2).mT, reduction="none")).sum()

    def echo_loss(self, condition: Tensor, prompts: Sequence[Tensor]) -> Tensor:
        """Cross-entropy of the caption's last tokens, each named by one query's state, of which there may be more;
        summed over prompts.

        A large backbone's states tell the words by themselves; a small one has to be taught to pass them on.
        """
        n = min(condition.shape[1], *(len(ids) - self.closing for ids in prompts))
        said = torch.stack([ids[-self.closing - n : -self.closing] for ids in prompts])  # [B, n]
        logits = self.model.backbone.lm_head(condition[:, :n]).flatten(0, 1).float()  # [B * n, vocabulary]
        return F.cross_entropy(logits, said.flatten(), reduction="sum") / n

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
        texts = [*(chat(INSTRUCTION + prompt, self.model.template) for prompt in prompts), " "]
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
                found[name] = self.sources[name].name if name in self.sources else self.unread[name]
        return found

    def checkpoint_gradients(self) -> None:
        if self.model.dit is not None:
            self.model.dit.gradient_checkpointing = True
        if self.table.backbone != "frozen":
            self.model.backbone.activation_checkpointing_enable()


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


def digest(module: nn.Module) -> str:
    """SHA-256 over the names, dtypes and values of a module's tensors."""
    total = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        total.update(f"{name} {tensor.dtype} ".encode())
        total.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return total.hexdigest()
