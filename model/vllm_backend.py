"""Stock Qwen2.5-VL backbones answered by vLLM: the same prompts as ``generate.Understanding``, other arithmetic.

vLLM schedules a whole batch itself, so that the last bits of a reply depend on what else is asked: the record names
backend and version. It was written from vLLM's offline interface (``LLM.generate`` with images) and has never run
against it here; the tests put a stand-in in its place.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from model import checkpoint
from model.blip3o import IMAGE, chat
from model.generate import Asked, UnreadableImageError, open_images
from model.hub import locate
from model.tensors import CheckpointError, read_json

#: The most images of one question: SEED-Bench's videos have eight frames. vLLM reserves memory for as many.
MAX_IMAGES = 8
DTYPE = "bfloat16"


class VllmUnderstanding:
    """Questions about images -> answers."""

    def __init__(self, spec: str) -> None:
        """``spec`` is a folder, or owner/name[@revision] on the hub.

        Raises CheckpointError when vLLM is not installed, or there is no such model or it is no Qwen2.5-VL.
        """
        try:
            vllm = importlib.import_module("vllm")
        except ModuleNotFoundError as error:
            if error.name != "vllm":
                raise
            raise CheckpointError(
                "vLLM is not installed: `pip install vllm` in an environment of its own, since it pins torch"
            ) from error
        self._vllm = vllm
        self.source = locate(spec)
        config = self.source.folder / "config.json"
        kind = read_json(config).get("model_type") if config.is_file() else None
        if kind != "qwen2_5_vl":
            raise CheckpointError(f"{spec} is no stock Qwen2.5-VL (model_type {kind}): leave out --backend vllm")
        self._llm = vllm.LLM(
            model=str(self.source.folder), dtype=DTYPE, limit_mm_per_prompt={"image": MAX_IMAGES, "video": 0}
        )

    @cached_property
    def _repetition_penalty(self) -> float:
        path = self.source.folder / "generation_config.json"
        return float(read_json(path).get("repetition_penalty") or 1.0) if path.is_file() else 1.0

    @cached_property
    def digest(self) -> str:
        return checkpoint.digest(self.source.folder)

    def describe(self) -> Mapping[str, Any]:
        return {
            "name": self.source.name if self.source.repo else self.source.folder.name,
            "sha256": self.digest,
            "backend": "vllm",
            "backend_version": self._vllm.__version__,
            "dtype": DTYPE,
        }

    def answer(self, samples: Sequence[Asked], seeds: Sequence[int]) -> list[str | Exception]:
        """One reply per sample, cut at its first stop string, or why its images cannot be opened."""
        replies: dict[int, str | Exception] = {}
        prompts, sampling = [], []
        for i, (sample, seed) in enumerate(zip(samples, seeds, strict=True)):
            images = open_images(sample)
            if isinstance(images, UnreadableImageError):
                replies[i] = images
                continue
            text = chat(IMAGE * len(images) + sample.prompt)
            prompts.append({"prompt": text, "multi_modal_data": {"image": images}} if images else {"prompt": text})
            decoding = sample.decoding
            sampling.append(
                self._vllm.SamplingParams(
                    max_tokens=decoding.max_new_tokens,
                    temperature=decoding.temperature,
                    stop=list(decoding.stop),
                    seed=seed if decoding.temperature > 0 else None,
                    # transformers takes the checkpoint's by itself; explicit parameters of vLLM have none.
                    repetition_penalty=self._repetition_penalty,
                )
            )
        asked = [i for i in range(len(samples)) if i not in replies]
        if asked:
            outputs = self._llm.generate(prompts, sampling, use_tqdm=False)
            replies.update((i, output.outputs[0].text) for i, output in zip(asked, outputs, strict=True))
        return [replies[i] for i in range(len(samples))]
