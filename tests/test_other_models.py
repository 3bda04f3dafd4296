"""Other people's models on the whole toy suite through the command line: each is scored in every column that it can."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from diffusers import StableDiffusionPipeline

from benchmarks import catalog
from benchmarks.limit import limited
from benchmarks.shapes.reference import Oracle
from blip3o_bench import main
from tests.benchmarks.test_endpoint import serving
from tests.model.test_adapters import parts
from tests.model.test_adapters_transformers import janus

LIMIT = 4
SUITE = catalog.SUITES["toy"]


@pytest.fixture(scope="module", autouse=True)
def _judges_are_loaded_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        once = functools.cache(lambda suite, name: load(suite, name, catalog.Data()))
        load = catalog.load
        patch.setattr(catalog, "load", lambda suite, name, data: once(suite, name))
        yield


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def scored(model: str, out: Path, *options: object) -> list[str]:
    """The benchmarks in the record, of which no sample may be missing; and a second start has nothing to do."""
    command = ("run", "--suite", "toy", "--limit", LIMIT, "--model", model, "--out", out, "--json", *options)
    done = call(*command)
    assert done.exit_code == 0, done.stderr
    records = json.loads(done.stdout)["records"]
    for record in records:
        n, missing = record["metrics"][0]["n"], record["metrics"][0]["missing"]
        lost = 2 if record["benchmark"] == "dpg" else 0  # both images of the prompt that the official script loses
        assert n + missing >= LIMIT, record["benchmark"]
        assert missing == lost, record["benchmark"]
    predictions = {path: path.read_bytes() for path in out.rglob("predictions/*.jsonl")}
    assert call(*command).stdout == done.stdout
    assert {path: path.read_bytes() for path in out.rglob("predictions/*.jsonl")} == predictions
    return [record["benchmark"] for record in records]


def test_janus_draws_and_answers(tmp_path: Path) -> None:
    folder = janus(tmp_path / "tiny")
    config = json.loads((folder / "generation_config.json").read_text())
    config["exponential_decay_length_penalty"] = [4, 2.0]  # random weights do not come to an end
    (folder / "generation_config.json").write_text(json.dumps(config))
    assert scored(f"janus:{folder}", tmp_path / "run") == list(SUITE)


def test_a_pipeline_of_diffusers_draws(tmp_path: Path) -> None:
    tiny = StableDiffusionPipeline(**parts(tmp_path / "words"), requires_safety_checker=False)
    tiny.save_pretrained(tmp_path / "tiny")
    drawn = scored(f"diffusers:{tmp_path / 'tiny'}", tmp_path / "run", "--steps", 1, "--size", 16)
    assert drawn == list(catalog.DRAWING)


def test_a_folder_of_images_is_scored(tmp_path: Path) -> None:
    """All four layouts in one folder."""
    folder = tmp_path / "images"
    for name in catalog.DRAWING:
        samples = limited(catalog.load("toy", name, catalog.Data()).samples(), LIMIT)
        for sample, image in zip(samples, Oracle().generate(samples, [0] * len(samples)), strict=True):
            path = folder / f"{sample.meta['file']}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
            if name == "geneval":
                (path.parent.parent / "metadata.jsonl").write_text(json.dumps(dict(sample.meta)))
    assert scored(f"folder:{folder}", tmp_path / "run") == list(catalog.DRAWING)


def test_a_server_draws_and_another_answers(tmp_path: Path) -> None:
    with serving() as server:
        assert scored(f"openai-images:{server.address}", tmp_path / "draws") == list(catalog.DRAWING)
        assert scored(f"openai-chat:{server.address}", tmp_path / "answers") == list(catalog.COLUMNS)


@pytest.mark.parametrize(
    ("model", "column"),
    [
        ("diffusers:owner/name", "vqav2"),
        ("folder:images", "mme"),
        ("openai-images:http://localhost:1/v1#m", "textvqa"),
        ("openai-chat:http://localhost:1/v1#m", "geneval"),
        ("transformers:owner/name", "wise"),
        ("answers:file.jsonl", "dpg"),
    ],
)
def test_a_column_that_is_asked_for_and_out_of_reach_is_refused(model: str, column: str, tmp_path: Path) -> None:
    """Before anything is loaded."""
    done = call("run", column, "--suite", "toy", "--model", model, "--out", tmp_path / "run")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == f"error: the model {model} cannot do {column}: leave it out or choose another model\n"
    assert not (tmp_path / "run").exists()
