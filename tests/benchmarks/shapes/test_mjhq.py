"""MJHQ's stand-in: floor and ceiling lie where the features say."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from benchmarks import frechet, runner
from benchmarks.judges.inception import Pixels, Seen, extract
from benchmarks.mjhq import Mjhq
from benchmarks.shapes.mjhq import CATEGORIES, SIZE, ShapesFeatures, digest, prompts, references
from benchmarks.shapes.reference import Blank, Oracle
from benchmarks.types import Generator, Metric
from benchmarks.work import Part, Settings

#: Fewer than the suite's, for time; more than there are features.
PER_CATEGORY = 60


def test_prompts_are_stable_and_stratified() -> None:
    found = prompts(5)
    assert found == prompts(5)
    assert Counter(prompt.category for prompt in found) == dict.fromkeys(CATEGORIES, 5)
    assert prompts(9)[:5] == found[:5]
    assert all(prompt.meta["prompt"] == prompt.text for prompt in found)


def test_references_differ_between_seeds_and_digests_between_sets() -> None:
    few = prompts(2)
    first, second = ([opener() for opener in references(few, seed).values()] for seed in (0, 1))
    assert all((a != b).any() for a, b in zip(first, second, strict=True))
    assert digest(few) == digest(prompts(2)) != digest(prompts(3))


def features(images: Iterable[Pixels]) -> NDArray[np.float32]:
    rows = []
    for seen in extract([image.copy for image in images], [ShapesFeatures()]):
        assert isinstance(seen, Seen)
        rows.append(seen.rows["shapes"])
    return np.stack(rows)


def blur(pixels: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(1)))


def test_features_do_not_depend_on_what_else_is_looked_at() -> None:
    images = [opener() for opener in references(prompts(2)).values()]
    together = features(images)
    assert together.shape == (len(images), 48)
    np.testing.assert_array_equal(together[3], features(images[3:4])[0])


def metrics(model: Generator, folder: Path) -> dict[str, Metric]:
    records = runner.run(folder, [Mjhq.toy(PER_CATEGORY)], model, Settings("toy", batch_size=96), Part())
    assert records is not None
    return {metric.name: metric for metric in records[0].metrics}


def test_oracle_is_as_near_as_another_reference_and_blank_far_away(tmp_path: Path) -> None:
    of = Mjhq.toy(PER_CATEGORY).prompts
    one, other = (features(opener() for opener in references(of, seed).values()) for seed in (0, 1))
    between_references = frechet.frechet_distance(frechet.moments(one), frechet.moments(other))
    blurred = features(blur(opener()) for opener in references(of, 1).values())
    soft = frechet.frechet_distance(frechet.moments(blurred), frechet.moments(one))
    oracle, blank = metrics(Oracle(), tmp_path / "oracle"), metrics(Blank(), tmp_path / "blank")

    fid = oracle["fid"]
    assert fid.value is not None
    assert fid.low is not None
    assert fid.high is not None
    assert 0.5 * between_references < fid.value < 1.5 * between_references
    assert soft > 2 * between_references
    assert blank["fid"].value is not None
    assert blank["fid"].value > 100 * between_references
    assert fid.low < fid.value < fid.high < soft
    assert (fid.n, fid.missing) == (len(of), 0)
    assert oracle["other_size"].value == 0
    for category in CATEGORIES:
        near, far = oracle[f"fid.{category}"].value, blank[f"fid.{category}"].value
        assert near is not None
        assert far is not None
        assert 20 * near < far


@pytest.mark.parametrize("tag", CATEGORIES.values())
def test_the_oracle_draws_what_the_prompts_ask_for(tag: str) -> None:
    prompt = next(prompt for prompt in prompts(1) if prompt.meta["tag"] == tag)
    sample = next(s for s in Mjhq.toy(1).samples() if s.stratum == prompt.category)
    image = Oracle().generate([sample], [random.Random(0).getrandbits(32)])[0]
    assert image.size == SIZE
    assert sample.meta["file"] == prompt.file
