"""Answers by vLLM, with a stand-in for the package that keeps what it is called with."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from model.blip3o import SYSTEM
from model.generate import UnreadableImageError
from model.tensors import CheckpointError
from model.vllm_backend import VllmUnderstanding
from tests.model.test_generate import Decoding, Request, noise_image


@dataclass(frozen=True)
class SamplingParams:
    """The fields of vLLM's that are set, with its defaults."""

    max_tokens: int | None = 16
    temperature: float = 1.0
    stop: list[str] | None = None
    seed: int | None = None
    repetition_penalty: float = 1.0


@dataclass
class Llm:
    """Answers with the number of images."""

    model: str
    dtype: str
    limit_mm_per_prompt: dict[str, int]
    calls: list[tuple[list[dict[str, Any]], list[SamplingParams]]] = field(default_factory=list)

    def generate(
        self, prompts: list[dict[str, Any]], sampling_params: list[SamplingParams], *, use_tqdm: bool = True
    ) -> list[Any]:
        assert not use_tqdm
        self.calls.append((prompts, sampling_params))
        counts = [len(prompt.get("multi_modal_data", {}).get("image", ())) for prompt in prompts]
        return [SimpleNamespace(outputs=[SimpleNamespace(text=f"{count} images")]) for count in counts]


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> list[Llm]:
    """The models that were loaded."""
    loaded: list[Llm] = []

    def load(**options: Any) -> Llm:
        loaded.append(Llm(**options))
        return loaded[-1]

    module = ModuleType("vllm")
    vars(module).update(LLM=load, SamplingParams=SamplingParams, __version__="0.22.1")
    monkeypatch.setitem(sys.modules, "vllm", module)
    return loaded


@pytest.fixture(scope="module")
def backbone(checkpoint: Path) -> Path:
    """A Qwen2.5-VL as transformers saves it."""
    return checkpoint / "backbone"


def test_what_vllm_is_asked(vllm: list[Llm], backbone: Path) -> None:
    model = VllmUnderstanding(str(backbone))
    (llm,) = vllm
    assert (llm.model, llm.dtype, llm.limit_mm_per_prompt) == (str(backbone), "bfloat16", {"image": 8, "video": 0})
    asked = [
        Request("Two?", (partial(noise_image, 1), partial(noise_image, 2)), Decoding(16, ("\n\n",))),
        Request("None?", (), Decoding(1024, (), 0.2)),
    ]
    assert model.answer(asked, [5, 6]) == ["2 images", "0 images"]
    ((prompts, sampling),) = llm.calls
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    assert prompts[0]["prompt"] == (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{image * 2}Two?<|im_end|>\n<|im_start|>assistant\n"
    )
    seen = prompts[0]["multi_modal_data"]["image"]
    assert [np.array_equal(np.asarray(one), np.asarray(noise_image(i))) for i, one in enumerate(seen, 1)] == [True] * 2
    assert set(prompts[1]) == {"prompt"}
    # Greedy without a seed; sampled with the sample's own.
    assert sampling == [SamplingParams(16, 0.0, ["\n\n"], None), SamplingParams(1024, 0.2, [], 6)]


def test_the_record_names_backend_and_version(vllm: list[Llm], backbone: Path) -> None:
    described = VllmUnderstanding(str(backbone)).describe()
    assert (described["backend"], described["backend_version"], described["dtype"]) == ("vllm", "0.22.1", "bfloat16")
    assert described["name"] == "backbone"
    assert len(described["sha256"]) == 64


def test_an_image_that_does_not_decode_costs_its_own_question_only(vllm: list[Llm], backbone: Path) -> None:
    def damaged() -> Image.Image:
        raise OSError("image file is truncated")

    model = VllmUnderstanding(str(backbone))
    good = Request("?", (partial(noise_image, 0),))
    first, second, third = model.answer([good, Request("?", (damaged,)), good], [0, 0, 0])
    assert (first, third) == ("1 images", "1 images")
    assert isinstance(second, UnreadableImageError)
    assert str(second) == "OSError: image file is truncated"
    assert len(model.answer([Request("?", (damaged,))], [0])) == 1
    assert len(vllm[0].calls) == 1  # nothing was left to ask


def test_without_vllm(monkeypatch: pytest.MonkeyPatch, backbone: Path) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(CheckpointError, match="vLLM is not installed: `pip install vllm`"):
        VllmUnderstanding(str(backbone))


def test_a_blip3o_is_refused_before_anything_is_loaded(vllm: list[Llm], checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="is no stock Qwen"):
        VllmUnderstanding(str(checkpoint))
    assert vllm == []


def test_the_checkpoints_repetition_penalty_holds(vllm: list[Llm], backbone: Path, tmp_path: Path) -> None:
    """transformers merges generation_config.json by itself."""
    shutil.copytree(backbone, tmp_path / "model")
    path = tmp_path / "model" / "generation_config.json"
    for told, penalty in (({"repetition_penalty": 1.05}, 1.05), ({}, 1.0)):
        path.write_text(json.dumps(told))
        VllmUnderstanding(str(tmp_path / "model")).answer([Request("?")], [0])
        assert vllm[-1].calls[-1][1][0].repetition_penalty == penalty
