"""A tiny pipeline of diffusers with random weights, built here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from model.adapters import DiffusersPipeline
from model.tensors import CheckpointError


@dataclass(frozen=True)
class Asked:
    prompt: str


def tokenizer(folder: Path) -> CLIPTokenizer:
    """Letters, apart and at the end of a word."""
    words = [letter + end for letter in "abcdefghijklmnopqrstuvwxyz" for end in ("", "</w>")]
    vocabulary = {word: i for i, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16)


def parts(folder: Path) -> dict[str, Any]:
    torch.manual_seed(0)
    text = CLIPTextConfig(
        vocab_size=54,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=52,
        eos_token_id=53,
    )
    return {
        "unet": UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 8),
            layers_per_block=1,
            norm_num_groups=2,
            cross_attention_dim=16,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=2,
        ),
        "vae": AutoencoderKL(block_out_channels=(8,), latent_channels=4, norm_num_groups=2, sample_size=8),
        "text_encoder": CLIPTextModel(text),
        "tokenizer": tokenizer(folder),
        "scheduler": DDIMScheduler(num_train_timesteps=20, steps_offset=1, clip_sample=False),
        "safety_checker": None,
        "feature_extractor": None,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pipeline")
    StableDiffusionPipeline(**parts(root / "words"), requires_safety_checker=False).save_pretrained(root / "tiny")
    return root / "tiny"


def pixels(images: list[Image.Image | Exception]) -> list[Any]:
    assert all(isinstance(image, Image.Image) for image in images)
    return [np.asarray(image) for image in images]


def test_an_image_depends_on_its_prompt_and_seed_alone(folder: Path) -> None:
    pipeline = DiffusersPipeline(str(folder), steps=2, size=16, together=2)
    asked = [Asked("a cat"), Asked("dogs"), Asked("a cat")]
    drawn = pixels(pipeline.generate(asked, [1, 1, 2]))
    assert drawn[0].shape == (16, 16, 3)
    (alone,) = pixels(pipeline.generate([Asked("a cat")], [2]))
    np.testing.assert_array_equal(alone, drawn[2])
    assert not np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


def test_the_description_names_every_setting(folder: Path) -> None:
    described = DiffusersPipeline(str(folder), steps=2, guidance=3.0).describe()
    assert described == {
        "name": "tiny",
        "sha256": described["sha256"],
        "pipeline": "StableDiffusionPipeline",
        "device": "cpu",
        "dtype": "float32",
        "together": 1,
        "num_inference_steps": 2,
        "guidance_scale": 3.0,
        "height": None,
        "width": None,
    }
    assert len(described["sha256"]) == 64
    assert DiffusersPipeline(str(folder)).describe()["guidance_scale"] == 7.5  # the pipeline's own


def test_guidance_and_steps_reach_the_pipeline(folder: Path) -> None:
    images = [
        pixels(DiffusersPipeline(str(folder), steps=steps, guidance=guidance).generate([Asked("a cat")], [1]))[0]
        for steps, guidance in ((2, 1.0), (3, 1.0), (2, 9.0))
    ]
    assert not np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])


def test_an_image_that_the_safety_checker_blackened_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = DiffusersPipeline(str(folder), steps=1)

    def check(image: Any, device: Any, dtype: Any) -> tuple[Any, list[bool]]:
        return image, [True, False][: len(image)]

    monkeypatch.setattr(pipeline.pipeline, "run_safety_checker", check)
    pipeline.together = 2
    black, kept = pipeline.generate([Asked("a"), Asked("b")], [1, 2])
    assert isinstance(black, RuntimeError)
    assert "safety checker" in str(black)
    assert isinstance(kept, Image.Image)


def test_what_is_no_pipeline_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a pipeline of diffusers"):
        DiffusersPipeline(str(tmp_path))
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / "model_index.json").write_text('{"_class_name": "NewerPipeline"}')
    with pytest.raises(CheckpointError, match=r"is not a pipeline of diffusers: .* no attribute NewerPipeline"):
        DiffusersPipeline(str(tmp_path / "newer"))
    with pytest.raises(CheckpointError, match="neither a folder nor owner/name"):
        DiffusersPipeline("nowhere")
    StableDiffusionImg2ImgPipeline(**parts(tmp_path / "words"), requires_safety_checker=False).save_pretrained(
        tmp_path / "edit"
    )
    with pytest.raises(CheckpointError, match="takes no height, width"):
        DiffusersPipeline(str(tmp_path / "edit"), size=16)
