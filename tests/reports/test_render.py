"""The page of a small run with a known content, written by the store itself."""

from __future__ import annotations

import base64
import io
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.store import Shard, shard_path, write_image, write_records, write_scores
from benchmarks.types import BenchError, Metric, Prediction, Sample, Score, Verdict
from reports.published import against_published
from reports.render import html, load_records
from tests.reports.stored import HOSTILE, Page, assert_self_contained, record

GENEVAL = record(
    "geneval",
    (
        Metric("overall", 0.75, 0.61, 0.85, n=7, missing=1, chance=0.0),
        Metric("colors", 1.0, None, None, n=1, missing=0),
    ),
    {"detector": {"name": "rtmdet", "held_out": {"scenes": 0.994}}, "color": {"held_out": {"accuracy": 0.9981}}},
)
VQAV2 = record("vqav2", (Metric(f"exact_match{HOSTILE}", 0.3, 0.2, 0.45, n=1, missing=0, chance=0.1725),))


def png(color: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), color).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """GenEval with eight images of two strata, one of them without an image; VQAv2 with one graded reply."""
    root = tmp_path / "demo"
    folder = root / "geneval"
    scores, predictions, verdicts = [], [], []
    for index in range(8):
        name = f"geneval/{index // 2:05d}/{index % 2}"
        stratum = "counting" if index < 4 else "colors"
        if index == 7:
            predictions.append(Prediction(name, seed=index, seconds=0.1, error="the model ran out of memory"))
            scores.append(Score(name, name[:-2], stratum, None))
            continue
        image = write_image(folder, name, png("navy"), ".png")
        predictions.append(Prediction(name, seed=index, seconds=0.1, image=image))
        verdicts.append(Verdict(name, {"boxes": {"ring": [[4.0, 8.0, 24.0, 40.0, 0.987]], HOSTILE: []}}))
        right = index % 2 == 0
        scores.append(Score(name, name[:-2], stratum, float(right), "" if right else f"expected 2 {HOSTILE}, found 1"))
    with Shard(shard_path(folder, Prediction, 0)) as shard:
        shard.append(predictions)
    with Shard(shard_path(folder, Verdict, 0)) as shard:
        shard.append(verdicts)
    write_scores(folder, scores)

    folder = root / "vqav2"
    with Shard(shard_path(folder, Prediction, 0)) as shard:
        shard.append([Prediction("vqav2/1", seed=1, seconds=0.1, text="a maroon thing")])
    write_scores(folder, [Score("vqav2/1", "1", "other", 0.3, "3 of 10 annotators")])
    write_records(root, [GENEVAL, VQAV2])
    return root


def test_a_run_that_is_absent_or_incomplete_is_a_users_error(run: Path) -> None:
    with pytest.raises(BenchError, match="no run folder"):
        load_records(run / "elsewhere")
    (run / "run.json").unlink()
    with pytest.raises(BenchError, match="no complete run") as error:
        html(run)
    assert "\n" not in str(error.value)


def test_page_is_self_contained_and_escaped(run: Path) -> None:
    source = html(run, comparisons=against_published([GENEVAL], "BLIP3-o 8B"))
    assert_self_contained(source)
    page = Page(source)
    assert f"expected 2 {HOSTILE}, found 1" in page.text
    assert f"exact_match{HOSTILE}" in page.text  # in the chart and the table
    assert "toy <8M>" in page.text
    assert "0.610 to 0.850" in page.text
    assert "not comparable with published" in page.text
    assert "detector scenes 0.994" in page.text


def test_every_benchmark_has_a_chart_whose_text_is_text(run: Path) -> None:
    page = Page(html(run))
    charts = page.all("svg", "chart")
    assert [chart["aria-label"] for chart in charts] == [
        "scores and intervals of geneval, fraction",
        "scores and intervals of vqav2, fraction",
    ]
    assert all("viewbox" in chart and "width" not in chart for chart in charts)  # the page's width decides


def test_parts_of_a_sum_have_a_chart_of_their_own(run: Path) -> None:
    points = [
        Metric("mme_perception_score", 1500, 1400, 1600, 2, 0, unit="points"),
        Metric("mme_perception_score.count", 150, 100, 200, 1, 0, unit="points"),
        Metric("mme_cognition_score", 500, 400, 600, 1, 0, unit="points"),
    ]
    write_records(run, [record("geneval", points)])
    charts = Page(html(run)).all("svg", "chart")
    assert [(chart["aria-label"] or "").rpartition(", ")[2] for chart in charts] == [
        "points",
        "parts of mme_perception_score",
    ]


def test_the_head_of_the_page_has_the_scores_of_the_papers_tables(run: Path) -> None:
    write_records(run, [GENEVAL, record("vqav2", [Metric("overall", 0.1, None, None, 1, 0)])])
    links = [link["href"] for link in Page(html(run)).all("a")]
    assert links == ["#geneval", "#vqav2"]  # of a benchmark without such a score, its first


def test_published_numbers_stand_beside_measured_ones(run: Path) -> None:
    measured = record("geneval", [Metric("overall", 0.8, 0.78, 0.82, 2212, 0)], suite="paper")
    page = Page(html(run, comparisons=against_published([measured], "BLIP3-o 4B")))
    assert "Beside published numbers" in page.text
    assert "highest: BLIP3-o 8B 0.84" in page.text
    assert "reproduced" in page.text
    assert page.all("svg", "chart")[0]["aria-label"] == "measured scores beside published ones"
    toy = Page(html(run, comparisons=against_published([GENEVAL], "BLIP3-o 4B")))
    assert "not comparable: toy suite" in toy.text
    assert "highest" not in toy.text
    assert "Beside published numbers" not in Page(html(run)).text


def test_boxes_lie_over_their_image(run: Path) -> None:
    page = Page(html(run))
    pictures = page.all("svg", "picture")
    assert len(pictures) == 7
    assert {picture["viewbox"] for picture in pictures} == {"0 0 64 64"}
    rects = Counter((rect["x"], rect["y"], rect["width"], rect["height"]) for rect in page.all("rect"))
    assert rects["4.0", "8.0", "20.0", "32.0"] == 2 * 7  # each with its halo
    assert "ring 0.99" in page.text
    uri = page.all("image")[0]["href"] or ""
    image = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))
    assert image.getpixel((0, 0)) == (0, 0, 128)


def test_examples_have_every_outcome_and_say_of_how_many(run: Path) -> None:
    page = Page(html(run))
    cards = [(card["data-outcome"], card["data-category"]) for card in page.all("article")]
    assert cards == [
        *[("wrong", "counting")] * 2,
        *[("right", "counting")] * 2,
        *[("wrong", "colors")] * 1,
        *[("not scored", "colors")] * 1,
        *[("right", "colors")] * 2,
        ("wrong", "other"),  # VQAv2's 0.3
    ]
    assert "3 of 3 wrong, 1 of 1 not scored, 4 of 4 right" in page.text
    assert "the model ran out of memory" in page.text
    assert "a maroon thing" in page.text
    assert "3 of 10 annotators" in page.text


def test_a_gallery_can_be_filtered_by_category_and_outcome(run: Path) -> None:
    page = Page(html(run))
    assert [option["value"] for option in page.all("option")] == ["", "counting", "colors"]  # VQAv2's has one category
    boxes = [box["value"] for box in page.all("input")]
    assert boxes == ["wrong", "not scored", "right", "wrong"]


def test_the_judges_questions_and_replies_are_shown(run: Path) -> None:
    crops = [{"Is it red?": "yes", HOSTILE: "no"}, {"Is it red?": "no", HOSTILE: "no"}]
    with Shard(shard_path(run / "vqav2", Verdict, 0)) as shard:
        shard.append([Verdict("vqav2/1", {"crops": crops, "reply": "Score: 0"})])
    source = html(run)
    text = Page(source).text
    assert "Is it red?yes, no" in text
    assert f"{HOSTILE}no, no" in text
    assert "judge: Score: 0" in text
    assert_self_contained(source)


def test_samples_add_prompt_gold_and_input_image_of_shown_examples_only(run: Path) -> None:
    def never() -> Image.Image:
        raise AssertionError("opened an image that is not shown")

    gold = {"answer": "dark red"}
    shown = Sample("vqav2/1", "What color?", "1", "other", (lambda: Image.new("RGB", (640, 320), "teal"),), meta=gold)
    page = Page(html(run, {"vqav2": [shown, Sample("vqav2/2", "Why?", "2", "other", (never,))]}))
    assert "What color?" in page.text
    assert "dark red" in page.text
    assert "0 0 640 320" in [picture["viewbox"] for picture in page.all("svg", "picture")]
    jpeg = [image["href"] or "" for image in page.all("image") if "jpeg" in (image["href"] or "")]
    assert len(jpeg) == 1
    assert Image.open(io.BytesIO(base64.b64decode(jpeg[0].partition(",")[2]))).size == (512, 256)


def test_a_lost_image_is_named_in_its_place(run: Path) -> None:
    damaged, lost, *_ = sorted((run / "geneval" / "images").rglob("*.png"))
    damaged.write_bytes(b"not an image")
    lost.unlink()
    page = Page(html(run))
    assert f"the image {damaged.relative_to(run / 'geneval')} cannot be read" in page.text
    assert f"the image {lost.relative_to(run / 'geneval')} is not there" in page.text
    assert str(run) not in page.text
    assert len(page.all("svg", "picture")) == 5


def test_half_a_character_in_a_reply_is_shown_as_such(run: Path) -> None:
    """Tokens of a small model may be half of an emoji, which no file in UTF-8 can hold."""
    with Shard(shard_path(run / "vqav2", Prediction, 0)) as shard:
        shard.append([Prediction("vqav2/1", seed=1, seconds=0.1, text="half \ud83d of it")])
    assert b"half ? of it" in html(run).encode()


def test_page_is_the_same_every_time(run: Path) -> None:
    assert html(run) == html(run)


def test_reports_import_no_torch() -> None:
    code = (
        "import sys, reports.render, reports.history, reports.leaderboard; "
        "print({'torch', 'jinja2', 'scipy', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
