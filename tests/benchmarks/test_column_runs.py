"""Whole runs of the columns: kills, processes, batches, damaged images, memory."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import time
import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from datasets import Dataset, concatenate_datasets
from datasets import Image as ImageFeature
from PIL import Image

from benchmarks import runner, store
from benchmarks.mme import Mme
from benchmarks.mmmu import Mmmu
from benchmarks.seedbench import SeedBench
from benchmarks.types import BenchError, Json, Sample
from benchmarks.understanding import Options, Understanding
from benchmarks.vqav2 import Vqav2
from benchmarks.work import Part, Settings

ALONE = Part()


def part_of(column: type[Understanding], questions: int) -> Understanding:
    return column(column.toy().rows.select(range(questions)), {"name": "rows"})


@dataclass
class Counting:
    """Answers by the question's name and the image's pixels, and writes the name of each question to a file."""

    log: Path
    seconds: float = 0.0
    batches: list[list[str]] = field(default_factory=list)

    def describe(self) -> Mapping[str, Json]:
        return {"name": "counting"}

    def answer(self, samples: Sequence[Sample], seeds: Sequence[int]) -> list[str | Exception]:
        self.batches.append([sample.id for sample in samples])
        replies = [self._reply(sample) for sample in samples]
        time.sleep(self.seconds)
        return replies

    def _reply(self, sample: Sample) -> str | Exception:
        try:
            pixels = sum(sum(image().tobytes()) for image in sample.images)
        except OSError as error:
            return error
        with self.log.open("a") as log:
            log.write(sample.id + "\n")
        return "no" if (len(sample.id) + pixels) % 3 else "yes"  # MMMU: no letter, so that one is drawn


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def run(root: Path, columns: Sequence[Understanding], model: Counting, batch_size: int = 4, part: Part = ALONE) -> None:
    runner.run(root, columns, model, Settings("toy", batch_size=batch_size), part)


def result(root: Path) -> list[object]:
    return [(root / record.benchmark / "scores.jsonl").read_bytes() for record in store.read_records(root)] + [
        record.metrics for record in store.read_records(root)
    ]


@pytest.fixture(scope="module")
def columns() -> list[Understanding]:
    """One with pairs of questions, and the one that draws letters."""
    return [part_of(Mme, 24), part_of(Mmmu, 24)]


@pytest.fixture(scope="module")
def expected(columns: list[Understanding], tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    root = tmp_path_factory.mktemp("expected")
    run(root, columns, Counting(root / "log"))
    assert len(set(lines(root / "log"))) == len(lines(root / "log")) == 48
    return result(root)


@pytest.mark.parametrize("batch_size", [1, 7, 100])
@pytest.mark.parametrize("world", [1, 3])
def test_scores_depend_on_neither_processes_nor_batches(
    columns: list[Understanding], expected: list[object], tmp_path: Path, world: int, batch_size: int
) -> None:
    log = tmp_path / "log"
    for rank in range(world):
        run(tmp_path, columns, Counting(log), batch_size, Part(rank, world))
    assert result(tmp_path) == expected
    assert len(set(lines(log))) == len(lines(log)) == 48


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("world", [1, 3])
def test_after_kill_9_nothing_that_was_stored_is_answered_again(
    columns: list[Understanding], expected: list[object], tmp_path: Path, world: int
) -> None:
    slow = Counting(tmp_path / "killed", seconds=0.05)
    child = multiprocessing.get_context("fork").Process(target=run, args=(tmp_path, columns, slow))
    child.start()
    shard = tmp_path / "mmmu" / "predictions" / "rank00000.jsonl"  # the second column
    deadline = time.monotonic() + 60
    while not (shard.exists() and shard.read_bytes().count(b"\n") >= 8):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    stored = {name for column in columns for name in store.read_predictions(tmp_path / column.name)}
    killed, resumed = lines(tmp_path / "killed"), tmp_path / "resumed"
    assert 24 + 8 <= len(stored) < 48
    assert len(set(killed)) == len(killed) <= len(stored) + 4  # the batch in flight

    for rank in range(world):
        run(tmp_path, columns, Counting(resumed), part=Part(rank, world))
    again = lines(resumed)
    assert len(set(again)) == len(again)
    assert set(again) == {sample.id for column in columns for sample in column.samples()} - stored
    assert result(tmp_path) == expected


def test_answers_to_other_prompts_images_or_settings_are_not_reused(tmp_path: Path) -> None:
    column = part_of(Vqav2, 4)
    run(tmp_path, [column], Counting(tmp_path / "log"))
    asked = Vqav2(column.rows.map(lambda row: {"question": row["question"] + "?"}), {"name": "rows"})
    set_otherwise = Vqav2(column.rows, {"name": "rows"}, Options("blip3o-0.3.0"))
    elsewhere = Vqav2(column.rows, {"name": "rows", "pixels_sha256": "of other images"})
    for other, named in ((asked, "sha256"), (set_otherwise, "profile"), (elsewhere, "pixels_sha256")):
        with pytest.raises(BenchError, match=named):
            run(tmp_path, [other], Counting(tmp_path / "log"))
    assert len(lines(tmp_path / "log")) == 4


def jpeg(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((width, height), 50).convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()


def with_images(column: type[Understanding], files: Sequence[bytes]) -> Understanding:
    rows = column.toy().rows.select(range(len(files)))
    images = [{"bytes": data, "path": None} for data in files]
    encoded = Dataset.from_dict({"image": images}).cast_column("image", ImageFeature())
    return column(concatenate_datasets([rows.remove_columns("image"), encoded], axis=1), {"name": "rows"})


def test_large_images_come_first_and_like_sizes_together(tmp_path: Path) -> None:
    """Also where a file is no image: that is the model's to say."""
    sizes = [(40, 30), (300, 200), (30, 40), (200, 300), (40, 30), (300, 200), (30, 40), (200, 300)]
    column = with_images(Vqav2, [jpeg(*size) for size in sizes[:-1]] + [b"no image"])
    samples = column.samples()
    assert [column.harness.image_sizes(doc_id) for doc_id in (0, 3, 7)] == [[(40, 30)], [(200, 300)], []]
    model = Counting(tmp_path / "log")
    run(tmp_path, [column], model, batch_size=2)
    by_name = {sample.id: size for sample, size in zip(samples, [*sizes[:-1], None], strict=True)}
    asked = [by_name[name] for batch in model.batches for name in batch]
    assert asked == [(200, 300), *[(300, 200)] * 2, *[(30, 40)] * 2, *[(40, 30)] * 2, None]
    assert [score.id for score in store.read_scores(tmp_path / "vqav2")] == [sample.id for sample in samples]


def test_longer_prompts_come_first_among_like_images() -> None:
    column = part_of(Vqav2, 40)
    ordered = column.longest_first(column.samples())
    assert [len(sample.prompt) for sample in ordered] == sorted((len(s.prompt) for s in ordered), reverse=True)
    assert sorted(sample.id for sample in ordered) == sorted(sample.id for sample in column.samples())


def test_sizes_of_several_images_in_a_row() -> None:
    assert SeedBench.toy().harness.image_sizes(0) == [(64, 64)] * len(SeedBench.toy().samples()[0].images)
    mmmu = Mmmu.toy()
    several = next(sample for sample in mmmu.samples() if len(sample.images) > 1)
    assert mmmu.harness.image_sizes(several.meta["doc_id"]) == [(64, 64)] * len(several.images)


@pytest.mark.parametrize("damaged", [jpeg(200, 100)[:1500], b"", b"<html>not found</html>"])
def test_an_image_that_does_not_decode_is_missing_with_its_reason(tmp_path: Path, damaged: bytes) -> None:
    """In MME the other question about the image is missing with it, since a pair is scored together."""
    column = with_images(Mme, [jpeg(40, 30)] * 3 + [damaged] + [jpeg(40, 30)] * 4)
    run(tmp_path, [column], Counting(tmp_path / "log"))
    (record,) = store.read_records(tmp_path)
    scores = store.read_scores(tmp_path / "mme")
    assert [score.value is None for score in scores] == [number == 3 for number in range(8)]
    assert "Error: " in scores[3].reason
    category = next(metric for metric in record.metrics if metric.missing == 2)
    assert category.n == 6
    assert category.value is not None


@dataclass
class Living:
    """Keeps no image, and counts how many of those it has seen are still in memory."""

    seen: list[weakref.ref[Image.Image]] = field(default_factory=list)
    most: int = 0

    def describe(self) -> Mapping[str, Json]:
        return {"name": "living"}

    def answer(self, samples: Sequence[Sample], seeds: Sequence[int]) -> list[str]:
        for sample in samples:
            for open_image in sample.images:
                self.seen.append(weakref.ref(open_image()))
            self.most = max(self.most, sum(one() is not None for one in self.seen))
        return ["yes"] * len(samples)


def test_no_image_is_kept_for_later_questions(tmp_path: Path) -> None:
    model = Living()
    column = Vqav2.toy()
    runner.run(tmp_path, [column], model, Settings("toy", batch_size=64), ALONE)
    assert len(model.seen) == len(column.samples()) > 200
    assert model.most <= 2


def test_scores_need_no_other_columns_than_those_that_are_named(tmp_path: Path) -> None:
    """So a data set that lacks one is refused at the start, and one that has them all runs to its end."""
    for column in (Mme, Mmmu, SeedBench, Vqav2):
        whole = column.toy()
        kept = column(whole.rows.select_columns(list(column.columns)).select(range(8)), {"name": "rows"})
        run(tmp_path / column.name, [kept], Counting(tmp_path / "log"))
        assert all(score.value is not None for score in store.read_scores(tmp_path / column.name / column.name))
    assert Counter(name.split("/")[0] for name in lines(tmp_path / "log")).total() == 32
