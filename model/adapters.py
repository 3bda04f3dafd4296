"""Other models behind the same methods as a BLIP3-o: pipelines of diffusers, and models of transformers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor, BatchFeature, GenerationMixin

from model import checkpoint
from model.generate import Asked, Prompted, UnreadableImageError, one_thread, open_images
from model.hub import MODEL_FILES, Located, locate
from model.tensors import CheckpointError, read_json

#: What a model of transformers is read from; *.model is a tokenizer of sentencepiece.
TRANSFORMERS_FILES = (*MODEL_FILES, "*.model")

#: What a pipeline is read from; a repository may also hold all of it in one file at its root, and in other precisions.
FILES = ("*.json", "*.txt", "*.model", "*/*.safetensors")
WITHOUT = ("*.fp16.*", "*.bf16.*", "*.non_ema.*", "*onnx*", "*openvino*")

Dtype = Literal["float32", "float16", "bfloat16"]


class _Loaded:
    """What is known of any model from a folder or the hub."""

    source: Located
    device: str
    dtype: Dtype

    @cached_property
    def digest(self) -> str:
        return checkpoint.digest(self.source.folder)

    def describe(self) -> Mapping[str, Any]:
        return {
            "name": self.source.name if self.source.repo else self.source.folder.name,
            "sha256": self.digest,
            "device": self.device,
            "dtype": self.dtype,
        }


class DiffusersPipeline(_Loaded):
    """Draws with any text-to-image pipeline of diffusers."""

    def __init__(
        self,
        spec: str,
        device: str = "cpu",
        dtype: Dtype = "float32",
        steps: int | None = None,
        guidance: float | None = None,
        size: int | None = None,
        together: int = 1,
    ) -> None:
        """``spec`` is a folder, or owner/name[@revision] on the hub. None leaves a setting to the pipeline.

        ``size`` is that of both sides in pixels. Prompts go through in groups of exactly ``together`` (the last one is
        filled up); more than one may change the last bits, and with a text encoder that pads to the longest prompt of
        a group also more than those, so it is recorded. Raises CheckpointError when there is no such pipeline, or it
        draws from something else than a prompt.
        """
        self.source: Located = locate(spec, FILES, WITHOUT)
        self.device = device
        self.dtype = dtype
        self.together = together
        self.pipeline = _load(self.source, dtype).to(device)
        self.pipeline.set_progress_bar_config(disable=True)
        given = {"num_inference_steps": steps, "guidance_scale": guidance, "height": size, "width": size}
        known = inspect.signature(self.pipeline.__call__).parameters
        refused = [name for name, value in given.items() if value is not None and name not in known]
        lacking = [name for name in ("prompt", "generator") if name not in known]
        if refused or lacking:
            raise CheckpointError(
                f"{spec} is a {type(self.pipeline).__name__}, which takes no {', '.join(lacking or refused)}"
            )
        self.settings = {name: value for name, value in given.items() if value is not None}
        self._defaults = {name: known[name].default for name in given if name in known and name not in self.settings}

    def describe(self) -> Mapping[str, Any]:
        return {
            **super().describe(),
            "pipeline": type(self.pipeline).__name__,
            "together": self.together,
            **self._defaults,
            **self.settings,
        }

    @torch.inference_mode()
    def generate(self, samples: Sequence[Prompted], seeds: Sequence[int]) -> list[Image.Image | Exception]:
        """One image per sample, from a generator with its own seed; an error where the safety checker blackened it."""
        drawn: list[Image.Image | Exception] = []
        for start in range(0, len(samples), self.together):
            members = range(start, min(start + self.together, len(samples)))
            filled = [members[k % len(members)] for k in range(self.together)]
            result = self.pipeline(
                prompt=[samples[i].prompt for i in filled],
                # On the CPU, as diffusers advises, so that every device starts from the same noise.
                generator=[torch.Generator("cpu").manual_seed(seeds[i]) for i in filled],
                output_type="pil",
                **self.settings,
            )
            blackened = getattr(result, "nsfw_content_detected", None) or [False] * self.together
            images = [
                RuntimeError("the pipeline's safety checker blackened the image") if black else image
                for image, black in zip(result.images, blackened, strict=True)
            ]
            drawn += images[: len(members)]
        return drawn


def _load(source: Located, dtype: Dtype) -> Any:
    try:
        return DiffusionPipeline.from_pretrained(
            source.folder, dtype=getattr(torch, dtype), use_safetensors=True, local_files_only=True
        )
    except (OSError, ValueError, ImportError, AttributeError) as error:  # a class that this diffusers has not, or needs
        raise CheckpointError(f"{source.name} is not a pipeline of diffusers: {error}") from error


class ImageTextToText(_Loaded):
    """Answers with any image-text-to-text model of transformers: Qwen2.5-VL, LLaVA, Chameleon, Emu3-Chat and others."""

    #: The ``model_type`` that a class is for; None is any.
    model_type: ClassVar[str | None] = None

    def __init__(self, spec: str, device: str = "cpu", dtype: Dtype = "float32") -> None:
        """``spec`` is a folder, or owner/name[@revision] on the hub; code that a repository brings along is never run.

        Raises CheckpointError when there is no such model.
        """
        self.source: Located = locate(spec, TRANSFORMERS_FILES)
        self.device = device
        self.dtype = dtype
        config = read_json(self.source.folder / "config.json")
        kind = config.get("model_type")
        if self.model_type not in (None, kind):
            raise CheckpointError(f"{spec} is of the type {kind}, not {self.model_type}: try transformers:{spec}")
        if config.get("is_encoder_decoder"):
            raise CheckpointError(f"{spec} is an encoder-decoder, which cannot be asked here")
        try:
            self.processor = AutoProcessor.from_pretrained(
                self.source.folder, local_files_only=True, trust_remote_code=False
            )
            model = AutoModelForImageTextToText.from_pretrained(
                self.source.folder,
                dtype=getattr(torch, dtype),
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
            )
        except (OSError, ValueError, ImportError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(f"{self.source.name} cannot be loaded by transformers: {reason}") from error
        self.model = model.to(device).eval()

    def describe(self) -> Mapping[str, Any]:
        return {**super().describe(), "model": type(self.model).__name__}

    @one_thread()
    @torch.inference_mode()
    def answer(self, samples: Sequence[Asked], seeds: Sequence[int]) -> list[str | Exception]:
        """One reply per sample, cut at its first stop string, or why its images cannot be looked at.

        One at a time, since padding may change a reply. Greedy at temperature 0, otherwise sampled from the whole
        vocabulary with the sample's own seed; the rest of the model's generation_config.json holds.
        """
        return [self._reply(sample, seed) for sample, seed in zip(samples, seeds, strict=True)]

    def _reply(self, sample: Asked, seed: int) -> str | Exception:
        images = open_images(sample)
        if isinstance(images, UnreadableImageError):
            return images
        try:
            inputs = self._conversation(sample.prompt, images)
        except ValueError as error:  # a processor's, such as an image that is too narrow for its patches
            return error
        decoding = sample.decoding
        sampling: dict[str, Any] = {"do_sample": False}
        if decoding.temperature > 0:
            torch.manual_seed(seed)
            # Where nobody sets top_k, transformers keeps the 50 likeliest tokens only.
            sampling = {"do_sample": True, "temperature": decoding.temperature, "top_k": 0, "top_p": 1.0}
        tokens = self._continue(inputs, max_new_tokens=decoding.max_new_tokens, **sampling)
        reply: str = self.processor.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for stop in decoding.stop:
            reply = reply.split(stop)[0]
        return reply

    def _continue(self, inputs: BatchFeature, **decoding: Any) -> Tensor:
        """Prompt and reply, [1, L]."""
        return self.model.generate(**inputs, **decoding)

    def _conversation(self, prompt: str, images: Sequence[Image.Image]) -> BatchFeature:
        """One turn of a user, images first; without a chat template, the images' tokens before the prompt."""
        if self.processor.chat_template is None:
            text = self.processor.image_token * len(images) + prompt
            inputs = self.processor(text=[text], images=list(images) or None, return_tensors="pt")
        else:
            inputs = self.processor.apply_chat_template(
                _turn(prompt, images), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
            )
        return self._placed(inputs)

    def _placed(self, inputs: BatchFeature) -> BatchFeature:
        return inputs.to(self.device, getattr(torch, self.dtype))  # only what is no integer changes its type


def _turn(prompt: str, images: Sequence[Image.Image] = ()) -> list[dict[str, Any]]:
    pictures = [{"type": "image", "image": image} for image in images]
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": prompt}]}]


def _image(pixels: Tensor) -> Image.Image:
    """[H, W, 3] in [-1, 1] -> an image, cut off to whole levels as DeepSeek's and BAAI's scripts do."""
    levels = ((pixels.float() + 1) / 2 * 255).clamp(0, 255)
    return Image.fromarray(levels.to(torch.uint8).cpu().numpy())


class Janus(ImageTextToText):
    """Janus and Janus-Pro, as converted for transformers: they answer, and they draw."""

    model_type = "janus"

    def __init__(self, spec: str, device: str = "cpu", dtype: Dtype = "float32", guidance: float | None = None) -> None:
        """As ``ImageTextToText``. ``guidance`` defaults to 5, as in generation_inference.py of deepseek-ai/Janus."""
        if guidance is not None and guidance <= 1:
            # transformers 5.23 then keeps both halves of the batch, and fails at the first token.
            raise CheckpointError(f"Janus draws with a guidance above 1 only, not {guidance}")
        super().__init__(spec, device, dtype)
        self.guidance = 5.0 if guidance is None else guidance
        # Which token opens an image is written into generation_config.json by the conversion script alone.
        special = dict(getattr(self.model.generation_config, "generation_kwargs", None) or {})
        special.setdefault("boi_token_id", self.processor.tokenizer.boi_token_id)
        self.model.generation_config.generation_kwargs = special

    def describe(self) -> Mapping[str, Any]:
        return {**super().describe(), "guidance": self.guidance}

    def _continue(self, inputs: BatchFeature, **decoding: Any) -> Tensor:
        # Janus's own generate() does no more for text, and warns of its own default length at every reply.
        return GenerationMixin.generate(self.model, **inputs, guidance_scale=None, **decoding)

    @one_thread()
    @torch.inference_mode()
    def generate(self, samples: Sequence[Prompted], seeds: Sequence[int]) -> list[Image.Image]:
        """One image per sample, each drawn alone with its own seed."""
        return [self._draw(sample.prompt, seed) for sample, seed in zip(samples, seeds, strict=True)]

    def _draw(self, prompt: str, seed: int) -> Image.Image:
        text = self.processor.apply_chat_template(_turn(prompt), add_generation_prompt=True)
        inputs = self._placed(self.processor(text=[text], generation_mode="image", return_tensors="pt"))
        torch.manual_seed(seed)
        tokens = self.model.generate(
            **inputs,
            generation_mode="image",
            guidance_scale=self.guidance,
            # The whole distribution, as deepseek-ai/Janus generation_inference.py: softmax(logits / 1), multinomial.
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
        )
        (pixels,) = self.model.decode_image_tokens(tokens)  # [H, W, 3]
        return _image(pixels)


class Emu3(ImageTextToText):
    """Emu3, as converted for transformers. Emu3-Gen draws, Emu3-Chat answers: two checkpoints of one architecture."""

    model_type = "emu3"

    def __init__(
        self,
        spec: str,
        device: str = "cpu",
        dtype: Dtype = "float32",
        guidance: float | None = None,
        size: int | None = None,
    ) -> None:
        """As ``ImageTextToText``. ``guidance`` defaults to 3, and ``size``, the side in pixels, to 720.

        Both are those of image_generation.py of baaivision/Emu3. Its additions to the prompt and its negative prompt
        are left out: a benchmark's prompt is drawn as it is, against an empty one.
        """
        super().__init__(spec, device, dtype)
        self.guidance = 3.0 if guidance is None else guidance
        self.size = size or 720

    def describe(self) -> Mapping[str, Any]:
        return {**super().describe(), "guidance": self.guidance, "size": self.size}

    @one_thread()
    @torch.inference_mode()
    def generate(self, samples: Sequence[Prompted], seeds: Sequence[int]) -> list[Image.Image]:
        """One image per sample, each drawn alone with its own seed."""
        return [self._draw(sample.prompt, seed) for sample, seed in zip(samples, seeds, strict=True)]

    def _draw(self, prompt: str, seed: int) -> Image.Image:
        inputs, negative = self._to_draw(prompt), self._to_draw("")
        height, width = inputs.pop("image_sizes")[0]
        start = inputs["input_ids"].shape[1]

        def allowed(batch: int, tokens: Tensor) -> list[int]:
            return self._allowed(len(tokens) - start, height, width)

        torch.manual_seed(seed)
        tokens = self.model.generate(
            **inputs,
            max_new_tokens=(width + 1) * height + 3,
            prefix_allowed_tokens_fn=allowed,
            negative_prompt_ids=negative["input_ids"],
            negative_prompt_attention_mask=negative["attention_mask"],
            guidance_scale=self.guidance,
            do_sample=True,
            temperature=1.0,
            top_k=2048,  # baaivision/Emu3 image_generation.py
            top_p=1.0,
        )
        (pixels,) = self.model.decode_image_tokens(image_tokens=tokens[:, start:], height=height, width=width)
        return _image(pixels.permute(1, 2, 0))  # from [3, H, W]

    def _allowed(self, position: int, height: int, width: int) -> list[int]:
        """The tokens that may stand so far behind the prompt: rows of image tokens, each with its end, then the end.

        The layout is the one that BAAI's utils_emu3.py in baaivision/Emu3 constrains a drawing to.
        """
        row, column = divmod(position, width + 1)
        mapping, tokenizer = self.model.model.vocabulary_mapping, self.processor.tokenizer
        if row == height:
            return [(tokenizer.eof_token_id, tokenizer.eoi_token_id, tokenizer.eos_token_id)[column]]
        return [mapping.eol_token_id] if column == width else mapping.image_tokens

    def _to_draw(self, prompt: str) -> BatchFeature:
        return self._placed(
            self.processor(
                text=[prompt], return_for_image_generation=True, image_area=self.size**2, return_tensors="pt"
            )
        )
