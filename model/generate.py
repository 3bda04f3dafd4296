"""A BLIP3-o at work: prompts -> images, questions about images -> answers.

``load`` returns an object that fits the benchmarks' Generator and Answerer protocols without importing them.
"""

from __future__ import annotations

import dataclasses
import os
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import BatchFeature, GenerationConfig, ProcessorMixin

from model import checkpoint, flow
from model.blip3o import IMAGE, INSTRUCTION, Blip3o, chat
from model.config import Sampling
from model.data import pixels
from model.decoder import Decoder, to_pixels
from model.dit import Context
from model.eva_clip import EvaClip, normalize
from model.hub import DECODER_FILES, Located, locate
from model.tensors import CheckpointError

#: ``exact``: float32, the timesteps that training saw. ``upstream``: the published pipeline's arithmetic: float16
#: backbone and transformer with whole timesteps, bfloat16 decoder, noise drawn on the device in these dtypes; and its
#: bounds to the sizes of images in questions.
Profile = Literal["exact", "upstream"]

#: ``auto`` takes a GPU if there is one; of several GPUs, each of a machine's processes takes its own.
Device = Literal["auto", "cpu", "cuda"]

#: Of backbone and transformer, and of UNet and VAE.
_DTYPES: dict[Profile, tuple[torch.dtype, torch.dtype]] = {
    "exact": (torch.float32, torch.float32),
    "upstream": (torch.float16, torch.bfloat16),
}

#: Prompts and images go through the network in groups of exactly as many (the last one is filled up), because the
#: shape of a matrix product decides the order in which it is summed: so an image does not depend on its batch.
GROUP = 8
#: Prompts are padded to a multiple of this many tokens, for the same reason.
TOKENS = 32

#: The bounds that upstream's model class for lmms-eval (models/blip3o.py) sets to the pixels of a question's image, as
#: lmms-eval's own for Qwen2.5-VL does. The published processor has 56 * 56 and 28 * 28 * 16384.
UPSTREAM_PIXELS = {"shortest_edge": 256 * 28 * 28, "longest_edge": 1605632}

RECONSTRUCT = "Please reconstruct the given image."
#: Upstream squeezes an image to this size before its backbone sees it: 256 image tokens.
RECONSTRUCTED_SIZE = 448


@contextmanager
def one_thread() -> Iterator[None]:
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


class UnreadableImageError(Exception):
    """An image of a question cannot be opened; says why."""


class Understanding:
    """Questions about images -> answers, by the backbone's own generate()."""

    def __init__(
        self, source: Located, model: Blip3o, processor: ProcessorMixin, profile: Profile, together: int = 1
    ) -> None:
        """``together`` is how many questions are answered at once; it can change the last bits, so it is recorded."""
        self.source = source
        self.model = model.eval().requires_grad_(False)
        self.processor = processor
        self.profile = profile
        self.together = together
        self._ahead: Iterator[tuple[Asked, BatchFeature | UnreadableImageError]] | None = None

    @property
    def device(self) -> torch.device:
        return self.model.latent_queries.device

    @cached_property
    def digest(self) -> str:
        return checkpoint.digest(self.source.folder)

    def describe(self) -> Mapping[str, Any]:
        name = self.source.name if self.source.repo else self.source.folder.name
        return {
            "name": name,
            "sha256": self.digest,
            "profile": self.profile,
            "device": self.device.type,
            "answers_together": self.together,
        }

    @contextmanager
    def ahead(self, samples: Sequence[Asked], workers: int = 0) -> Iterator[None]:
        """Open the images of ``samples`` and cut them into patches while others are answered.

        ``answer`` must be given the same samples in the same order. They are prepared by so many worker processes, or
        by one thread; about twice ``together`` of them are in memory at a time. The processes are forked, since
        neither a data set nor a task of lmms-eval goes through pickle, and hand their tensors over in /dev/shm.
        """
        prepared = self._in_workers(samples, workers) if workers else self._in_thread(samples)
        self._ahead = zip(samples, prepared, strict=True)
        try:
            yield
        finally:
            self._ahead = None

    @one_thread()
    @torch.inference_mode()
    def answer(self, samples: Sequence[Asked], seeds: Sequence[int]) -> list[str | Exception]:
        """One reply per sample, cut at its first stop string, or why its images cannot be opened.

        Greedy at temperature 0; otherwise sampled with the sample's own seed, one at a time. Greedy questions whose
        images have the same sizes go through the model in groups of exactly ``together`` (the last one is filled up),
        padded by their own length: so a reply does not depend on the batch.
        """
        replies: dict[int, str | Exception] = {}
        alike: dict[Hashable, list[tuple[int, BatchFeature]]] = {}
        for i, prepared in enumerate(self._prepared(samples)):
            decoding = samples[i].decoding
            if isinstance(prepared, UnreadableImageError):
                replies[i] = prepared
            elif self.together == 1 or decoding.temperature > 0:
                replies[i] = self._replies([prepared], decoding, seeds[i])[0]
            else:
                group = alike.setdefault(_shape(prepared, decoding), [])
                group.append((i, prepared))
                if len(group) == self.together:
                    replies.update(self._replies_together(group, decoding))
                    group.clear()
        for group in alike.values():
            if group:
                replies.update(self._replies_together(group, samples[group[0][0]].decoding))
        return [replies[i] for i in range(len(samples))]

    def _prepared(self, samples: Sequence[Asked]) -> Iterator[BatchFeature | UnreadableImageError]:
        for sample in samples:
            if self._ahead is None:
                yield self._prepare(sample)
                continue
            announced, prepared = next(self._ahead)
            if announced is not sample:
                raise ValueError("within ahead(), answer() must be given the samples that were announced, in order")
            yield prepared

    def _prepare(self, sample: Asked) -> BatchFeature | UnreadableImageError:
        images = open_images(sample)
        if isinstance(images, UnreadableImageError):
            return images
        text = chat(IMAGE * len(images) + sample.prompt)
        try:
            return self.processor(text=[text], images=[images] if images else None, return_tensors="pt")
        except ValueError as error:  # Qwen's, for an image narrower than 1:200
            return UnreadableImageError(str(error))

    def _in_thread(self, samples: Sequence[Asked]) -> Iterator[BatchFeature | UnreadableImageError]:
        with ThreadPoolExecutor(max_workers=1) as thread:
            waiting: deque[Future[BatchFeature | UnreadableImageError]] = deque()
            for sample in samples:
                waiting.append(thread.submit(self._prepare, sample))
                if len(waiting) > self.together:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _in_workers(self, samples: Sequence[Asked], workers: int) -> Iterator[BatchFeature | UnreadableImageError]:
        loader = DataLoader(
            _Prepared(self._prepare, samples),
            batch_size=None,
            num_workers=workers,
            collate_fn=_same,
            prefetch_factor=1 + self.together // workers,
            multiprocessing_context="fork",
            generator=torch.Generator(),  # not the global one, which sampled replies draw from
        )
        return iter(loader)

    def _replies_together(
        self, group: Sequence[tuple[int, BatchFeature]], decoding: Decoding
    ) -> Mapping[int, str | Exception]:
        filled = [group[i % len(group)][1] for i in range(self.together)]
        replies = self._replies(filled, decoding, 0)
        return {i: reply for (i, _), reply in zip(group, replies, strict=False)}

    def _replies(self, inputs: Sequence[BatchFeature], decoding: Decoding, seed: int) -> list[str]:
        sampled = decoding.temperature > 0
        if sampled:
            torch.manual_seed(seed)
        tokenizer = self.processor.tokenizer
        config = GenerationConfig(
            max_new_tokens=decoding.max_new_tokens,
            do_sample=sampled,
            temperature=decoding.temperature if sampled else None,
            # Upstream's model class for lmms-eval passes the task's top_p, 1, and leaves top_k to the checkpoint's
            # generation_config.json, without which transformers keeps the 50 likeliest tokens.
            top_p=1.0 if sampled else None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        batch = inputs[0] if len(inputs) == 1 else _collate(inputs, tokenizer.pad_token_id)
        tokens = self.model.backbone.generate(**batch.to(self.device), generation_config=config)
        texts: list[str] = tokenizer.batch_decode(tokens[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        for stop in decoding.stop:
            texts = [text.split(stop)[0] for text in texts]
        return texts


def open_images(sample: Asked) -> list[Image.Image] | UnreadableImageError:
    """The images of a question, RGB."""
    try:
        return [open_image().convert("RGB") for open_image in sample.images]
    except Exception as error:  # a decoder may raise anything on a damaged image, and what pickle cannot carry
        return UnreadableImageError(f"{type(error).__name__}: {error}")


@dataclasses.dataclass(frozen=True)
class _Prepared(Dataset[BatchFeature | UnreadableImageError]):
    """What worker processes are asked for, by position."""

    prepare: Callable[[Asked], BatchFeature | UnreadableImageError]
    samples: Sequence[Asked]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> BatchFeature | UnreadableImageError:
        return self.prepare(self.samples[index])


def _same(item: BatchFeature) -> BatchFeature:
    return item


def _shape(inputs: BatchFeature, decoding: Decoding) -> Hashable:
    """What questions must have in common to go through the model together."""
    grids = inputs.get("image_grid_thw")
    sizes = () if grids is None else tuple(grids.flatten().tolist())
    return _rounded_up(inputs["input_ids"].shape[1]), sizes, decoding.max_new_tokens, decoding.stop


def _collate(inputs: Sequence[BatchFeature], padding: int) -> BatchFeature:
    """One batch of questions: tokens padded on the left to a multiple of TOKENS, images behind each other."""
    length = _rounded_up(max(one["input_ids"].shape[1] for one in inputs))
    joined = {}
    for name in inputs[0]:
        rows = [one[name] for one in inputs]
        if name in ("input_ids", "attention_mask", "mm_token_type_ids"):  # [1, L] each
            value = padding if name == "input_ids" else 0
            rows = [F.pad(row, (length - row.shape[1], 0), value=value) for row in rows]
        joined[name] = torch.cat(rows)
    return BatchFeature(joined)


def _rounded_up(length: int) -> int:
    return -(-length // TOKENS) * TOKENS


class Unified(Understanding):
    """The whole model: it answers, and it draws."""

    def __init__(
        self,
        source: Located,
        model: Blip3o,
        processor: ProcessorMixin,
        decoder: Decoder | AutoencoderKL,
        sampling: Sampling,
        profile: Profile,
        group: int = GROUP,
        together: int = 1,
    ) -> None:
        super().__init__(source, model, processor, profile, together)
        self.decoder = decoder.eval().requires_grad_(False)
        self.sampling = sampling
        self.group = group

    @property
    def sees(self) -> bool:
        """Whether the backbone takes images, which a language model alone does not."""
        return hasattr(self.processor, "image_processor")

    def describe(self) -> Mapping[str, Any]:
        return {**super().describe(), "sampling": dataclasses.asdict(self.sampling)}

    @one_thread()
    @torch.inference_mode()
    def generate(self, samples: Sequence[Prompted], seeds: Sequence[int]) -> list[Image.Image]:
        """One image per sample. Each sample's noise comes from a generator with its own seed."""
        prompts = list(dict.fromkeys(sample.prompt for sample in samples))
        states = dict(zip(prompts, self.conditions(prompts), strict=True))
        return self.draw(torch.stack([states[sample.prompt] for sample in samples]), seeds)

    def conditions(self, prompts: Sequence[str]) -> Tensor:
        """States of the latent queries behind each prompt, [B, n_query, width]."""
        ids = [self._tokens(chat(INSTRUCTION + prompt, self.model.template)) for prompt in prompts]
        buckets: dict[int, list[int]] = {}
        for i, prompt in enumerate(ids):
            buckets.setdefault(len(prompt) // TOKENS, []).append(i)  # [IMG] makes it one longer
        states: dict[int, Tensor] = {}
        for indices in buckets.values():
            for group, filled in self._groups(indices):
                hidden = self.model.query_states([ids[i] for i in filled], multiple_of=TOKENS)
                states.update(zip(group, hidden[: len(group)], strict=True))
        return torch.stack([states[i] for i in range(len(ids))])

    def draw(self, conditions: Tensor, seeds: Sequence[int]) -> list[Image.Image]:
        """Conditions [B, n_query, width] and a seed each -> images."""
        images: list[Image.Image] = []
        for group, filled in self._groups(range(len(conditions))):
            generators = [self._generator(seeds[i]) for i in filled]
            features = self.features(conditions[filled], generators)
            images += _images(self._decode(features, generators)[: len(group)])
        return images

    @one_thread()
    @torch.inference_mode()
    def reconstruct(self, images: Sequence[Image.Image], seeds: Sequence[int]) -> list[Image.Image]:
        """Each image as the whole model sees and draws it again: through the backbone's own eyes.

        The published weights know this one instruction with images; they were not trained to edit.
        """
        if self.model.backbone.config.model_type != "qwen2_5_vl":
            raise CheckpointError(f"{self.source.name}: only a Qwen2.5-VL draws an image again through its own eyes")
        text = chat(IMAGE + RECONSTRUCT)
        states: list[Tensor] = []
        for image in images:
            squeezed = image.convert("RGB").resize((RECONSTRUCTED_SIZE, RECONSTRUCTED_SIZE))
            batch = self.processor(text=[text], images=[[squeezed]], return_tensors="pt").to(self.device)
            seen = self.model.image_features(
                batch["pixel_values"].to(self.model.latent_queries.dtype), batch["image_grid_thw"]
            )
            states.append(self.model.query_states([batch["input_ids"][0]], seen)[0])
        return self.draw(torch.stack(states), seeds)

    @one_thread()
    @torch.inference_mode()
    def decode_images(self, images: Sequence[Image.Image], seeds: Sequence[int]) -> list[Image.Image]:
        """Each image from its own EVA-CLIP features: the best that the decoder can do. Guidance leads away from black.

        An image is squeezed to the encoder's size, not cropped. Raises CheckpointError when there is no encoder, or the
        decoder does not take its features.
        """
        if isinstance(self.decoder, AutoencoderKL):
            raise CheckpointError(f"{self.source.name} draws from a VAE's latents, not from EVA-CLIP's features")
        encoder = self.encoder
        size = encoder.config.image_size
        decoded: list[Image.Image] = []
        for group, filled in self._groups(range(len(images))):
            squeezed = [images[i].convert("RGB").resize((size, size), Image.Resampling.BICUBIC) for i in filled]
            features = encoder.features(normalize(pixels(squeezed, size).to(self.device)))
            black = encoder.features(torch.zeros(1, 3, size, size, device=self.device))  # zeros of normalised pixels
            generators = [self._generator(seeds[i]) for i in filled]
            decoded += _images(self._decode(features, generators, _as_tokens(black))[: len(group)])
        return decoded

    def features(self, conditions: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Query states [B, n_query, width] -> the map that the decoder takes, [B, C, grid, grid]."""
        return sample_features(self.model, conditions, generators, self.sampling, self.profile == "upstream")

    @cached_property
    def encoder(self) -> EvaClip:
        """EVA-CLIP, which drawing from prompts does without."""
        return checkpoint.load_eva_clip(self.source.folder, device=self.device).eval().requires_grad_(False)

    @cached_property
    def negative(self) -> Tensor:
        """What the decoder's guidance leads away from: the features [1, N, C] of the bare prompt " ".

        Upstream samples them once in a process, with whatever random state the first image left behind; under
        GenEval's seeding that is the second draw of seed 42, and so it is here for every run.
        """
        generator = self._generator(42)
        feature_noise(self.model, generator)
        states = self.model.query_states([self._tokens(" ")])
        return _as_tokens(self.features(states, [generator]))

    def _decode(
        self, features: Tensor, generators: Sequence[torch.Generator], negative: Tensor | None = None
    ) -> Tensor:
        """A map [B, C, grid, grid] -> RGB in [0, 1], [B, 3, H, W]."""
        if isinstance(self.decoder, AutoencoderKL):
            return to_pixels(self.decoder, features.to(self.decoder.dtype))
        dtype = self.decoder.unet.dtype
        tokens = _as_tokens(features).to(dtype)
        if negative is None:
            negative = self.negative if self.sampling.decoder_guidance != 1 else tokens[:1]
        noise = self.decoder.draw_noise(generators, dtype, self.device)
        sampling = self.sampling
        latents = self.decoder.sample(
            tokens,
            negative.to(dtype).expand_as(tokens),
            noise,
            sampling.decoder_steps,
            sampling.decoder_guidance,
        )
        return to_pixels(self.decoder.vae, latents)

    def _groups(self, indices: Sequence[int]) -> Iterator[tuple[Sequence[int], list[int]]]:
        """Up to ``group`` indices each, as they are and filled up with the same ones."""
        for start in range(0, len(indices), self.group):
            members = indices[start : start + self.group]
            yield members, [members[i % len(members)] for i in range(self.group)]

    def _tokens(self, text: str) -> Tensor:
        return torch.tensor(self.processor.tokenizer(text).input_ids)

    def _generator(self, seed: int) -> torch.Generator:
        device = self.device if self.profile == "upstream" else "cpu"
        return torch.Generator(device).manual_seed(seed)


class Drawer:
    """What a model can do whose backbone sees no images: it draws, and answers nothing."""

    def __init__(self, whole: Unified) -> None:
        self.generate, self.describe = whole.generate, whole.describe


def sample_features(
    model: Blip3o,
    states: Tensor,
    generators: Sequence[torch.Generator],
    sampling: Sampling,
    integer_timesteps: bool = False,
) -> Tensor:
    """Query states [B, n_query, width] -> EVA-CLIP features, or VAE latents, [B, C, grid, grid].

    One generator per sample draws its noise; guidance steers away from states of zeros. Under CLIP + MSE the
    features are the projected states, and nothing is drawn.
    """
    config = model.config.dit
    if model.projector is not None:
        return model.projector(states).transpose(1, 2).unflatten(2, (config.grid, config.grid))
    dit = model.dit
    assert dit is not None
    noise = torch.cat([feature_noise(model, generator) for generator in generators])
    context = dit.context(states)
    if sampling.guidance == 1:
        return flow.sample(lambda x, t: dit.velocity(x, t, context), noise, sampling.steps, integer_timesteps)
    both = Context.cat(dit.context(torch.zeros_like(states[:1])).expand(len(states)), context)

    def velocity(x: Tensor, timestep: Tensor) -> Tensor:
        null, conditional = dit.velocity(torch.cat([x, x]), torch.cat([timestep, timestep]), both).chunk(2)
        return flow.guided(conditional, null, sampling.guidance)

    return flow.sample(velocity, noise, sampling.steps, integer_timesteps)


def feature_noise(model: Blip3o, generator: torch.Generator) -> Tensor:
    """Unit noise for one image [1, C, grid, grid], on the model's device; in the model's dtype if drawn there."""
    queries, config = model.latent_queries, model.config.dit
    shape = (1, config.channels, config.grid, config.grid)
    dtype = queries.dtype if generator.device.type == queries.device.type else torch.float32
    return torch.randn(shape, generator=generator, dtype=dtype, device=generator.device).to(queries)


def _as_tokens(features: Tensor) -> Tensor:
    """A map [B, C, h, w] -> tokens [B, h * w, C] in reading order."""
    return features.flatten(2).transpose(1, 2)


def _images(rgb: Tensor) -> list[Image.Image]:
    """RGB in [0, 1], [B, 3, H, W] -> images."""
    rounded = (rgb.float() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu()
    return [Image.fromarray(array.numpy()) for array in rounded]


def load_answerer(spec: str, profile: Profile = "exact", device: Device = "cpu", together: int = 1) -> Understanding:
    """Read what answering needs, from a folder or ``owner/name[@revision]`` on the hub.

    It answers ``together`` questions at once. Raises CheckpointError, which names what is missing or does not fit.
    """
    source = locate(spec, without=DECODER_FILES)
    model, processor = _load_blip3o(source, profile, _place(device))
    return Understanding(source, model, processor, profile, together)


def load(
    spec: str, profile: Profile = "exact", device: Device = "cpu", group: int = GROUP, together: int = 1
) -> Unified:
    """Read a whole checkpoint, from a folder or ``owner/name[@revision]`` on the hub.

    It draws in groups of ``group`` images, which cost the same when there are fewer, and answers ``together`` questions
    at once. Raises CheckpointError, which names what is missing or does not fit.
    """
    source = locate(spec)
    decoder_dtype = _DTYPES[profile][1]
    place = _place(device)
    model, processor = _load_blip3o(source, profile, place)
    config, sampling = checkpoint.read_config(source.folder)
    decoder: Decoder | AutoencoderKL
    if config.design == "vae_flow":
        decoder = checkpoint.load_vae(source.folder, decoder_dtype, place)
    else:
        decoder = checkpoint.load_decoder(source.folder, decoder_dtype, place)
    return Unified(source, model, processor, decoder, sampling, profile, group, together)


def _load_blip3o(source: Located, profile: Profile, place: torch.device) -> tuple[Blip3o, ProcessorMixin]:
    model, processor = checkpoint.load_blip3o(source.folder, _DTYPES[profile][0], place)
    if profile == "upstream" and checkpoint.layout(source.folder) == "published":
        processor.image_processor.size = UPSTREAM_PIXELS
    return model, processor


def _place(device: Device) -> torch.device:
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % max(1, torch.cuda.device_count()))
