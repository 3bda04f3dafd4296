"""Other models behind the same methods as a BLIP3-o: text-to-image pipelines of diffusers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from diffusers import DiffusionPipeline
from PIL import Image

from model import checkpoint
from model.generate import Prompted
from model.hub import Located, locate
from model.tensors import CheckpointError

#: What a pipeline is read from; a repository may also hold all of it in one file at its root, and in other precisions.
FILES = ("*.json", "*.txt", "*.model", "*/*.safetensors")
WITHOUT = ("*.fp16.*", "*.bf16.*", "*.non_ema.*", "*onnx*", "*openvino*")

Dtype = Literal["float32", "float16", "bfloat16"]


class DiffusersPipeline:
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

    @cached_property
    def digest(self) -> str:
        return checkpoint.digest(self.source.folder)

    def describe(self) -> Mapping[str, Any]:
        return {
            "name": self.source.name if self.source.repo else self.source.folder.name,
            "sha256": self.digest,
            "pipeline": type(self.pipeline).__name__,
            "device": self.device,
            "dtype": self.dtype,
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
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{source.name} is not a pipeline of diffusers: {error}") from error
