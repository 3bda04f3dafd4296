"""Real parts from end to end: the toy checkpoint, mmdet, open_clip and lmms-eval, through runner and command line."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from benchmarks import geneval, runner, store
from benchmarks.folder import FolderImages
from benchmarks.geneval import GenEval
from benchmarks.judges.color import ColorClassifier
from benchmarks.judges.detector import Detector, DetectorSpec
from benchmarks.shapes.geneval import scene_for
from benchmarks.shapes.judges import color_spec, detector_spec
from benchmarks.shapes.reference import Oracle
from benchmarks.shapes.scene import SHAPES, render
from benchmarks.types import Benchmark, Prediction, Sample
from benchmarks.vqav2 import Vqav2
from benchmarks.work import Part, Settings
from blip3o_bench import main
from blip3o_bench.models import TOY_CHECKPOINT
from model.generate import Unified, load

LIMIT = 12


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def toy() -> Unified:
    return load(str(TOY_CHECKPOINT))


@pytest.fixture(scope="module")
def suite() -> list[Benchmark]:
    return [GenEval.toy(), Vqav2.toy()]


def written(root: Path) -> dict[str, bytes]:
    """Scores and images of a run."""
    files = [*root.glob("*/images/**/*.png"), *root.glob("*/scores.jsonl")]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def test_the_toy_model_scores_alike_however_it_is_split(
    toy: Unified, suite: Sequence[Benchmark], tmp_path: Path
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    runner.run(one, suite, toy, Settings("toy", limit=LIMIT, batch_size=16), Part())
    assert runner.run(two, suite, toy, Settings("toy", limit=LIMIT, batch_size=5), Part(1, 2)) is None
    runner.run(two, suite, toy, Settings("toy", limit=LIMIT, batch_size=3), Part(0, 2))
    assert written(one) == written(two)
    assert {"geneval/scores.jsonl", "vqav2/scores.jsonl"} < written(one).keys()


def test_an_exported_run_scores_the_same_as_a_folder_of_images(tmp_path: Path) -> None:
    first, export, second = tmp_path / "first", tmp_path / "export", tmp_path / "second"
    limit = ("--limit", str(LIMIT))
    assert call("run", "geneval", "--model", "oracle", "--out", first, *limit).exit_code == 0
    assert call("export", first, "--out", export).exit_code == 0
    folder = f"folder:{export / 'geneval' / 'images'}"
    assert call("run", "geneval", "--suite", "toy", "--model", folder, "--out", second, *limit).exit_code == 0
    scores = store.read_scores(first / "geneval")
    assert store.read_scores(second / "geneval") == scores
    results = geneval.read_results(export / "geneval" / "results.jsonl")
    assert [row.correct for row in results] == [score.value == 1 for score in scores]


def test_answers_are_exported_as_the_vqa_server_takes_them(tmp_path: Path) -> None:
    assert call("run", "vqav2", "--model", "oracle", "--out", tmp_path / "run", "--limit", "5").exit_code == 0
    assert call("export", tmp_path / "run", "--out", tmp_path / "export").exit_code == 0
    answers = json.loads((tmp_path / "export/vqav2/submission.json").read_text())
    gold = {s.meta["question_id"]: s.meta["answer"] for s in Vqav2.toy().samples()}
    assert len(answers) >= 5
    assert all(gold[row["question_id"]] == row["answer"] for row in answers)


def test_a_folder_is_scored_against_the_official_prompts(bench_data: Path, tmp_path: Path) -> None:
    """The toy detector under six COCO names: official metadata, real mmdet and open_clip, right and wrong images."""
    names = dict(zip(SHAPES, ("frisbee", "tv", "kite", "vase", "clock", "donut"), strict=True))
    shapes = {name: shape for shape, name in names.items()}
    toy = detector_spec()
    detector = Detector(DetectorSpec(toy.config, toy.checkpoint, tuple(names[shape] for shape in SHAPES)))
    metadata = geneval.read_metadata(bench_data / "geneval" / "evaluation_metadata.jsonl")
    benchmark = GenEval(metadata, detector, ColorClassifier(color_spec()), {}, images_per_prompt=2)
    samples = benchmark.samples()

    def drawable(sample: Sample) -> bool:
        clauses = sample.meta["include"]
        return all(c["class"] in shapes for c in clauses) and sum(c["count"] for c in clauses) <= 4

    drawn = [sample for sample in samples if drawable(sample)]
    assert {sample.stratum for sample in drawn} >= {"single_object", "counting", "colors"}
    files = []
    for number, sample in enumerate(drawn):
        right = sample.id.endswith("/0")
        include = [{**clause, "class": shapes[clause["class"]]} for clause in sample.meta["include"]]
        scene = scene_for({**sample.meta, "include": include}, random.Random(number))
        files.append(tmp_path / f"{number}.png")
        render(scene if right else type(scene)(scene.objects[1:])).save(files[-1])  # the second image lacks an object
    geneval.write_layout(tmp_path / "folder", drawn, files)

    model = FolderImages(tmp_path / "folder")
    records = runner.run(tmp_path / "run", [benchmark], model, Settings("paper"), Part())
    assert records is not None
    values = {score.id: score.value for score in store.read_scores(tmp_path / "run" / "geneval")}
    assert len(values) == 2 * len(metadata)
    assert all(values[sample.id] == float(sample.id.endswith("/0")) for sample in drawn)
    overall = records[0].metrics[0]
    assert (overall.n, overall.missing) == (len(drawn), len(samples) - len(drawn))


def test_an_image_lost_from_a_run_is_not_scored_as_wrong(suite: Sequence[Benchmark], tmp_path: Path) -> None:
    benchmark = suite[0]
    sample = benchmark.samples()[0]
    prediction = Prediction(sample.id, seed=0, seconds=0.0, image="images/lost.png")
    (verdict,) = benchmark.judge([sample], [prediction], tmp_path)
    assert verdict.error is not None
    scores, _ = benchmark.summarize([sample], {})
    assert scores[0].value is None


def test_the_oracle_is_the_ceiling(suite: Sequence[Benchmark], tmp_path: Path) -> None:
    records = runner.run(tmp_path, suite, Oracle(), Settings("toy", limit=LIMIT), Part())
    assert records is not None
    assert [record.metrics[0].value for record in records] == [1.0, 1.0]
