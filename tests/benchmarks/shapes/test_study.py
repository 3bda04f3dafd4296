"""What the study of designs trains and scores on."""

from __future__ import annotations

from benchmarks.shapes import geneval, study
from benchmarks.shapes.training import HELD_OUT


def test_drawings_have_prompts_of_one_kind_of_object_none_of_them_held_out() -> None:
    prompts = {study.drawing(1, index).caption for index in range(300)}
    assert prompts < {metadata["prompt"] for metadata in geneval.prompts(60) if metadata["tag"] in study.TAGS}
    assert not any(prompt.endswith(f" {color} {shape}") for prompt in prompts for shape, color in HELD_OUT)
    again = study.drawing(1, 7)
    assert again.image.tobytes() == study.drawing(1, 7).image.tobytes()
    assert again.image.tobytes() != study.drawing(2, 7).image.tobytes()


def test_the_benchmarks_ask_for_the_trained_tags_and_have_enough_images_for_a_distance() -> None:
    tags, dpg, mjhq = study.benchmarks()
    assert {sample.stratum for sample in tags.samples()} == set(study.TAGS)
    assert [benchmark.name for benchmark in (dpg, mjhq)] == ["dpg", "mjhq"]
    assert len(mjhq.samples()) > 48  # features
