"""MJHQ-30K: the folder of references, verdicts, sums over any processes, and clean-fid's own number."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmarks import mjhq, runner, store
from benchmarks.bench.fid import stand_in
from benchmarks.judges.inception import Inception, Pixels, read_image
from benchmarks.mjhq import Mjhq, Prompt, Reference, read_prompts
from benchmarks.types import BenchError, Json, Metric, RunRecord, Sample
from benchmarks.work import Part, Settings

CATEGORIES = ("animals", "art")


@dataclass
class Means:
    """Six features: mean and spread of each channel after clean-fid's resize."""

    version: int = 0
    name: str = "means"
    looked: int = 0

    def describe(self) -> Mapping[str, Json]:
        return {"version": self.version}

    def load(self) -> None:
        pass

    def prepare(self, pixels: Pixels) -> NDArray[np.float32]:
        return Inception(Path("not loaded")).prepare(pixels)

    def features(self, prepared: NDArray[np.float32]) -> NDArray[np.float32]:
        self.looked += 1
        row: NDArray[np.float32] = means(prepared[None])[0]
        return row


def means(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """[n, 3, 299, 299] -> [n, 6]."""
    rows: NDArray[np.float32] = np.concatenate([pixels.mean(axis=(2, 3)), pixels.std(axis=(2, 3))], axis=1)
    return rows


def prompts(per_category: int = 20) -> list[Prompt]:
    return [Prompt(f"{n:03}", category, f"{category} {n}", {}) for category in CATEGORIES for n in range(per_category)]


def picture(seed: int, size: tuple[int, int] = (40, 40)) -> Image.Image:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, 3) + rng.normal(0, rng.uniform(5, 40), (size[1], size[0], 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def write_references(root: Path, of: Sequence[Prompt]) -> Path:
    for seed, prompt in enumerate(of):
        path = root / f"{prompt.file}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(seed).save(path)
    return root


@dataclass
class Painter:
    """Draws by seed. ``fails`` and ``small`` are files; ``drawn`` counts."""

    fails: frozenset[str] = frozenset()
    small: frozenset[str] = frozenset()

    def describe(self) -> Mapping[str, Json]:
        return {"name": "painter"}

    def generate(self, samples: Sequence[Sample], seeds: Sequence[int]) -> list[Image.Image | Exception]:
        return [self._draw(sample.meta["file"], seed) for sample, seed in zip(samples, seeds, strict=True)]

    def _draw(self, file: str, seed: int) -> Image.Image | Exception:
        if file in self.fails:
            return RuntimeError("no image today")
        return picture(seed, (20, 20) if file in self.small else (40, 40))


def benchmark(root: Path, per_category: int = 20, version: int = 0) -> Mjhq:
    of = prompts(per_category)
    folder = root / "references"
    if not folder.exists():
        write_references(folder, of)
    return Mjhq(of, Reference.folder(folder, of, root / "cache"), Means(version), {}, size=(40, 40))


def run(root: Path, bench: Mjhq, painter: Painter | None = None, limit: int | None = None) -> RunRecord:
    records = runner.run(root, [bench], painter or Painter(), Settings("toy", limit=limit), Part())
    assert records is not None
    return records[0]


def by_name(record: RunRecord) -> dict[str, Metric]:
    return {metric.name: metric for metric in record.metrics}


# The number


def test_fid_and_kid_are_clean_fids_of_the_two_folders(tmp_path: Path) -> None:
    import torch
    from cleanfid.fid import compute_fid, get_folder_features, kernel_distance

    def extractor(batch: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(means(batch.numpy()))

    bench = benchmark(tmp_path)
    found = by_name(run(tmp_path / "run", bench))
    stored = tmp_path / "run" / "mjhq"
    bench.export(bench.samples(), store.read_predictions(stored), {}, stored, tmp_path / "out")
    options = {"num_workers": 0, "device": torch.device("cpu"), "verbose": False}
    for name, below in (("fid", ""), ("fid.art", "art")):
        folders = [str(root / below) for root in (tmp_path / "references", tmp_path / "out" / "images")]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # scipy's, about sqrtm's disp
            expected = compute_fid(*folders, custom_feat_extractor=extractor, **options)
        assert found[name].value == pytest.approx(expected, abs=1e-8), name
    drawn, references = (
        get_folder_features(str(root), extractor, batch_size=1, **options)
        for root in (tmp_path / "out" / "images", tmp_path / "references")
    )
    state = np.random.get_state()
    np.random.seed(mjhq.SEED)
    expected = kernel_distance(drawn, references)
    np.random.set_state(state)
    assert found["kid"].value == pytest.approx(1000 * expected, abs=1e-6)


def test_numbers_do_not_depend_on_processes_order_or_interruption(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", benchmark(tmp_path))
    monkeys = [Mjhq(prompts(), benchmark(tmp_path).reference, Means(), {}, size=(40, 40)) for _ in range(2)]
    settings = Settings("toy", batch_size=3)
    shared = tmp_path / "shared"
    assert runner.run(shared, [monkeys[1]], Painter(), settings, Part(1, 2)) is None
    # A process that was killed while it wrote a verdict leaves a torn line, and another number of processes goes on.
    shard = next((shared / "mjhq" / "verdicts").glob("*.jsonl"))
    shard.write_bytes(shard.read_bytes()[:-100])
    records = runner.run(shared, [monkeys[0]], Painter(), settings, Part(0, 1))
    assert records is not None
    assert records[0].metrics == whole.metrics
    scores = [(root / "mjhq" / "scores.jsonl").read_bytes() for root in (tmp_path / "whole", shared)]
    assert scores[0] == scores[1]


def test_features_survive_the_verdict_to_the_bit(tmp_path: Path) -> None:
    bench = benchmark(tmp_path)
    run(tmp_path / "run", bench)
    folder = tmp_path / "run" / "mjhq"
    predictions, verdicts = store.read_predictions(folder), store.read_verdicts(folder)
    for sample in bench.samples()[:3]:
        image = predictions[sample.id].image
        assert image is not None
        expected = Means().features(Means().prepare(read_image(folder / image)))
        np.testing.assert_array_equal(mjhq._features(verdicts[sample.id], "means"), expected)


def test_samples_stand_in_the_order_of_clean_fids_files(tmp_path: Path) -> None:
    shuffled = [prompts()[index] for index in np.random.default_rng(0).permutation(40)]
    bench = Mjhq(shuffled, Reference({}, str), Means(), {})
    files = [sample.meta["file"] for sample in bench.samples()]
    assert files == [prompt.file for prompt in prompts()]
    assert bench.samples()[0].id == "mjhq/animals/000"


# What does not count, or not as it should


def test_missing_images_are_counted_and_never_scored(tmp_path: Path) -> None:
    record = run(tmp_path / "run", benchmark(tmp_path), Painter(fails=frozenset({"art/003", "art/011"})))
    found = by_name(record)
    assert [(found[name].n, found[name].missing) for name in ("fid", "fid.art", "fid.animals", "kid")] == [
        (38, 2),
        (18, 2),
        (20, 0),
        (38, 2),
    ]
    scores = {score.id: score for score in store.read_scores(tmp_path / "run" / "mjhq")}
    assert scores["mjhq/art/003"].reason == "RuntimeError: no image today"
    assert {score.value for score in scores.values()} == {None}


def test_unreadable_images_and_features_that_are_not_finite_are_no_verdicts(tmp_path: Path) -> None:
    class Broken(Means):
        def features(self, prepared: NDArray[np.float32]) -> NDArray[np.float32]:
            row = super().features(prepared)
            return row * np.float32(np.nan) if row[0] > 128 else row

    bench = benchmark(tmp_path)
    broken = Mjhq(bench.prompts, bench.reference, Broken(), {}, size=(40, 40))
    broken._reference_is_ready = True
    folder = tmp_path / "run" / "mjhq"
    run(tmp_path / "run", bench)
    samples, predictions = bench.samples(), store.read_predictions(folder)
    image = predictions[samples[0].id].image
    assert image is not None
    (folder / image).write_bytes(b"no image")
    verdicts = broken.judge(samples, [predictions[sample.id] for sample in samples], folder)
    assert verdicts[0].error is not None
    assert "cannot identify image file" in verdicts[0].error
    not_finite = [verdict for verdict in verdicts if verdict.error == "ValueError: features of means are not finite"]
    seen = [verdict for verdict in verdicts if verdict.error is None]
    assert 0 < len(not_finite) < 39
    assert len(seen) == 39 - len(not_finite)


def test_another_size_is_counted_and_told(tmp_path: Path) -> None:
    small = frozenset({"art/003", "animals/000"})
    found = by_name(run(tmp_path / "run", benchmark(tmp_path), Painter(small=small)))
    assert found["other_size"].value == pytest.approx(2 / 40)
    assert found["fid"].n == 40
    scores = {score.id: score for score in store.read_scores(tmp_path / "run" / "mjhq")}
    assert scores["mjhq/art/003"].reason == "20 x 20 pixels instead of 40 x 40; counted"
    assert scores["mjhq/art/004"].reason == ""


def test_no_distance_for_no_more_images_than_features(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Twelve images in two categories, six features: over all there is a distance, in a category there is none."""
    record = run(tmp_path / "run", benchmark(tmp_path), limit=12)
    found = by_name(record)
    assert found["fid"].value is not None
    assert [(found[f"fid.{c}"].value, found[f"fid.{c}"].low, found[f"fid.{c}"].n) for c in CATEGORIES] == [
        (None, None, 6),
        (None, None, 6),
    ]
    assert found["kid"].value is not None
    told = "mjhq: no value for fid.animals, fid.art: a distance needs more images than it has features"
    assert told in capsys.readouterr().err.splitlines()


def test_nothing_drawn_at_all(tmp_path: Path) -> None:
    everything = frozenset(prompt.file for prompt in prompts())
    record = run(tmp_path / "run", benchmark(tmp_path), Painter(fails=everything))
    assert [(metric.value, metric.n) for metric in record.metrics] == [(None, 0)] * len(record.metrics)
    assert by_name(record)["fid"].missing == 40


def test_images_all_alike_have_a_distance_without_interval(tmp_path: Path) -> None:
    class Same(Painter):
        def generate(self, samples: Sequence[Sample], seeds: Sequence[int]) -> list[Image.Image | Exception]:
            return [picture(0) for _ in samples]

    found = by_name(run(tmp_path / "run", benchmark(tmp_path), Same()))
    assert found["fid"].value is not None
    assert (found["fid"].low, found["fid"].high) == (None, None)


def test_a_second_network_adds_its_distance_and_must_have_looked(tmp_path: Path) -> None:
    bench = benchmark(tmp_path)
    both = Mjhq(bench.prompts, bench.reference, Means(), {}, clip=Means(version=1, name="clip"), size=(40, 40))
    found = by_name(run(tmp_path / "both", both))
    assert found["fd_clip"].value == found["fid"].value
    assert found["fd_clip"].low == found["fid"].low
    run(tmp_path / "one", bench)
    with pytest.raises(BenchError, match="no features of clip: judge the images again"):
        runner.rescore(tmp_path / "one", [both])


# The reference


def test_reference_features_are_computed_once_for_all_runs(tmp_path: Path) -> None:
    first, second, other = benchmark(tmp_path), benchmark(tmp_path), benchmark(tmp_path, version=1)
    for number, bench in enumerate((first, second, other)):
        run(tmp_path / str(number), bench)
    looked = [bench.extractor.looked for bench in (first, second, other) if isinstance(bench.extractor, Means)]
    assert looked == [80, 40, 80]
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_processes_share_the_references_and_finish_each_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mjhq, "BLOCK", 7)  # 40 images: five blocks of 7, one of 5
    alone = benchmark(tmp_path / "alone").reference.features(Means())
    reference, first, second = benchmark(tmp_path).reference, Means(), Means()
    reference.prepare(first, Part(1, 2))
    assert first.looked == 7 + 7 + 5
    np.testing.assert_array_equal(reference.features(second), alone)
    assert second.looked == 40 - first.looked
    blocks = sorted(path.name for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert blocks == [f"{start:05}.npy" for start in range(0, 40, 7)]


def test_changed_references_are_another_reference(tmp_path: Path) -> None:
    before = benchmark(tmp_path).reference.digest
    picture(99).save(tmp_path / "references" / "art" / "000.png")
    assert benchmark(tmp_path).reference.digest != before


def test_reference_folder_must_hold_the_prompts_images_and_no_others(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="is not a folder: unpack"):
        Reference.folder(tmp_path / "references", prompts(), tmp_path)
    folder = write_references(tmp_path / "references", prompts())
    (folder / "readme.txt").write_text("not an image")
    assert list(Reference.folder(folder, prompts(), tmp_path).images) == [prompt.file for prompt in prompts()]
    picture(0).save(folder / "art" / "extra.JPG", "JPEG")
    with pytest.raises(BenchError, match="1 images too many, such as art/extra"):
        Reference.folder(folder, prompts(), tmp_path)
    (folder / "art" / "extra.JPG").rename(folder / "art" / "000.jpg")
    with pytest.raises(BenchError, match="two files of one name"):
        Reference.folder(folder, prompts(), tmp_path)
    (folder / "art" / "000.jpg").unlink()
    (folder / "art" / "000.png").unlink()
    with pytest.raises(BenchError, match="lacks 1 of 40 reference images, such as art/000"):
        Reference.folder(folder, prompts(), tmp_path)


def test_a_broken_reference_image_stops_the_run(tmp_path: Path) -> None:
    bench = benchmark(tmp_path)
    (tmp_path / "references" / "art" / "000.png").write_bytes(b"no image")
    with pytest.raises(BenchError, match="reference image art/000: cannot identify"):
        run(tmp_path / "run", bench)


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    bench = benchmark(tmp_path)
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(BenchError, match="cannot write"):
        run(tmp_path / "run", bench)


# The official files


def test_prompts_of_the_official_file(tmp_path: Path) -> None:
    path = tmp_path / "meta_data.json"
    path.write_text(json.dumps({"00ab": {"category": "art", "prompt": "a tree"}}))
    assert read_prompts(path) == [Prompt("00ab", "art", "a tree", {})]
    path.write_text(json.dumps({"00ab": {"category": "art"}}))
    with pytest.raises(BenchError, match="is not MJHQ-30K's meta_data"):
        read_prompts(path)
    path.write_text("[]")
    with pytest.raises(BenchError, match="is not MJHQ-30K's meta_data"):
        read_prompts(path)
    with pytest.raises(BenchError, match="is not there"):
        read_prompts(tmp_path / "absent.json")


def test_the_paper_suite_with_a_stand_in_for_inception(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real loading, resizing and storing; 2048 features of 40 images have a kernel distance only."""
    weights = stand_in(tmp_path)
    of = prompts()
    write_references(tmp_path / "mjhq30k_imgs", of)
    meta = {prompt.id + prompt.category: {"category": prompt.category, "prompt": prompt.text} for prompt in of}
    for prompt in of:  # ids of the official file are unique over categories
        path = tmp_path / "mjhq30k_imgs" / f"{prompt.file}.png"
        path.rename(path.with_stem(prompt.id + prompt.category))
    (tmp_path / "meta_data.json").write_text(json.dumps(meta))
    bench = Mjhq.paper(tmp_path, weights, None, tmp_path / "cache")
    with pytest.raises(BenchError, match="have sha256"):
        bench.describe_judge()
    bench.extractor = Inception(weights, None)
    record = run(tmp_path / "run", bench)
    found = by_name(record)
    assert (record.profile, record.judge["inception"]["mode"]) == ("cleanfid-clean", "clean")
    assert found["fid"].value is None
    assert found["kid"].value is not None
    assert found["other_size"].value == 1.0
    row = (tmp_path / "run" / "mjhq" / "verdicts" / "rank00000.jsonl").read_text().splitlines()[0]
    assert len(row) < 11_200
