"""Every way to bring another model, on a part of the toy suite: one benchmark that draws, one that asks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from diffusers import StableDiffusionPipeline
from PIL import Image

from benchmarks import runner
from benchmarks.endpoint import ChatEndpoint, ImagesEndpoint
from benchmarks.folder import FolderImages
from benchmarks.geneval import GenEval
from benchmarks.limit import limited
from benchmarks.types import Benchmark, Model
from benchmarks.vqav2 import Vqav2
from benchmarks.work import Part, Settings
from model.adapters import DiffusersPipeline, Janus
from tests.benchmarks.test_endpoint import serving
from tests.model.test_adapters import parts
from tests.model.test_adapters_transformers import janus

LIMIT = 4


def run(out: Path, benchmark: Benchmark, model: Model) -> None:
    """Every sample is scored, and a second start finds nothing left to do."""
    settings = Settings(suite="toy", limit=LIMIT)
    records = runner.run(out, [benchmark], model, settings, Part())
    assert records is not None
    assert records[0].metrics[0].n >= LIMIT
    assert records[0].metrics[0].missing == 0
    shards = sorted(out.rglob("predictions/*.jsonl"))
    before = [path.read_bytes() for path in shards]
    assert runner.run(out, [benchmark], model, settings, Part()) is not None
    assert [path.read_bytes() for path in shards] == before


@pytest.fixture(scope="module")
def geneval() -> GenEval:
    return GenEval.toy()


def diffusers(folder: Path) -> DiffusersPipeline:
    StableDiffusionPipeline(**parts(folder / "words"), requires_safety_checker=False).save_pretrained(folder / "tiny")
    return DiffusersPipeline(str(folder / "tiny"), steps=1, size=16)


def images(folder: Path) -> FolderImages:
    for sample in limited(GenEval.toy().samples(), LIMIT):
        path = folder / f"{sample.meta['file']}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), "gray").save(path)
        (path.parent.parent / "metadata.jsonl").write_text(json.dumps(dict(sample.meta)))
    return FolderImages(folder)


@pytest.mark.parametrize("load", [lambda folder: Janus(str(janus(folder / "tiny"))), diffusers, images])
def test_what_draws_is_scored(geneval: GenEval, tmp_path: Path, load: Callable[[Path], Model]) -> None:
    run(tmp_path / "run", geneval, load(tmp_path))


def test_what_answers_is_scored(tmp_path: Path) -> None:
    run(tmp_path / "run", Vqav2.toy(), Janus(str(janus(tmp_path / "tiny"))))


def test_a_server_is_scored(geneval: GenEval, tmp_path: Path) -> None:
    with serving() as server:
        run(tmp_path / "draws", geneval, ImagesEndpoint(server.address, tmp_path / "draws" / "model.jsonl"))
        run(tmp_path / "answers", Vqav2.toy(), ChatEndpoint(server.address, tmp_path / "answers" / "model.jsonl"))
