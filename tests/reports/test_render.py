"""Reports of a small run with a known content, written by the store itself."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.store import Shard, shard_path, write_image, write_records, write_scores
from benchmarks.types import BenchError, Json, Metric, Prediction, RunRecord, Sample, Score, Verdict
from reports.examples import boxes, choose
from reports.render import html, load_records, table, to_json

HOSTILE = '<script>alert("x")</script>'


def record(benchmark: str, metrics: tuple[Metric, ...], judge: Json, suite: str = "toy") -> RunRecord:
    return RunRecord(
        benchmark=benchmark,
        version="1",
        suite=suite,
        profile=f"{benchmark}-official",
        model={"name": "toy <8M>", "sha256": "ab12"},
        judge=judge,
        data={},
        seed=7,
        settings={"steps": 20},
        code={"revision": "v0.1.0"},
        packages={"numpy": "2.4.6"},
        hardware={"cores": 2},
        metrics=metrics,
    )


GENEVAL = record(
    "geneval",
    (
        Metric("overall", 0.75, 0.61, 0.85, n=7, missing=1, chance=0.0),
        Metric("colors", 1.0, None, None, n=1, missing=0),
    ),
    {"detector": {"name": "rtmdet", "held_out": {"scenes": 0.994}}, "color": {"held_out": {"accuracy": 0.9981}}},
)
VQAV2 = record("vqav2", (Metric("exact_match", 0.3, 0.2, 0.45, n=1, missing=0, chance=0.1725),), {})


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


class Page(HTMLParser):
    """All start tags with their attributes, and all text outside ``style``."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] != "style":
            self.text += data

    def all(self, tag: str, kind: str = "") -> list[dict[str, str | None]]:
        return [
            attrs
            for name, attrs in self.tags
            if name == tag and (not kind or kind in (attrs.get("class") or "").split(" "))
        ]


def test_table_shows_every_metric_and_the_judges_accuracy(run: Path) -> None:
    lines = table(load_records(run)).splitlines()
    assert lines[0].startswith("suite: toy")
    assert lines[1].split("  ")[0] == "benchmark"
    cells = [re.split(r"\s{2,}", line) for line in lines[3:6]]
    assert cells == [
        ["geneval", "overall", "0.750", "0.610 to 0.850", "7", "1", "0.000", "geneval-official"],
        ["geneval", "colors", "1.000", "-", "1", "0", "-", "geneval-official"],
        ["vqav2", "exact_match", "0.300", "0.200 to 0.450", "1", "0", "0.172", "vqav2-official"],
    ]
    assert lines[6:] == ["judge of geneval, held out: color accuracy 0.9981, detector scenes 0.994"]


def test_other_units_and_suites() -> None:
    fid = record("mjhq", (Metric("fid", 8.123, None, None, 30000, 0, higher_is_better=False, unit="FID"),), {}, "paper")
    text = table([fid])
    assert text.startswith("suite: paper\n")
    assert "fid (lower is better)   8.12  -" in text
    assert "toy" not in text


def test_json_has_the_form_of_run_json(run: Path) -> None:
    assert json.loads(to_json(load_records(run))) == json.loads((run / "run.json").read_text())


def test_a_run_that_is_absent_or_incomplete_is_a_users_error(run: Path) -> None:
    with pytest.raises(BenchError, match="no run folder"):
        load_records(run / "elsewhere")
    (run / "run.json").unlink()
    with pytest.raises(BenchError, match="no complete run") as error:
        html(run)
    assert "\n" not in str(error.value)


def test_page_is_self_contained_and_escaped(run: Path) -> None:
    source = html(run)
    page = Page(source)
    assert not page.all("script")
    assert not page.all("link")
    links = [attrs[name] for _, attrs in page.tags for name in ("href", "src") if name in attrs]
    assert links
    assert all((link or "").startswith("data:image/") for link in links)
    assert "url(" not in source
    assert f"expected 2 {HOSTILE}, found 1" in page.text
    assert "toy <8M>" in page.text
    assert "0.610 to 0.850" in page.text
    assert "not comparable with published" in page.text


def test_plot_draws_the_interval_where_it_is(run: Path) -> None:
    page = Page(html(run))
    assert [(line["x1"], line["x2"]) for line in page.all("line", "whisker")] == [
        ("61.0%", "85.0%"),
        ("20.0%", "45.0%"),
    ]
    assert [point["cx"] for point in page.all("circle", "point")] == ["75.0%", "100.0%", "30.0%"]
    assert [line["x1"] for line in page.all("line", "chance")] == ["0.0%", "17.25%"]


def test_boxes_lie_over_their_image(run: Path) -> None:
    page = Page(html(run))
    pictures = page.all("svg", "picture")
    assert len(pictures) == 7
    assert {picture["viewbox"] for picture in pictures} == {"0 0 64 64"}
    rects = page.all("rect")
    assert len(rects) == 2 * 7  # each with its halo
    assert {(r["x"], r["y"], r["width"], r["height"]) for r in rects} == {("4.0", "8.0", "20.0", "32.0")}
    assert "ring 0.99" in page.text
    uri = page.all("image")[0]["href"] or ""
    image = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))
    assert image.getpixel((0, 0)) == (0, 0, 128)


def test_examples_have_both_outcomes_and_what_was_not_scored(run: Path) -> None:
    page = Page(html(run))
    assert len(page.all("article", "right")) == 4
    assert len(page.all("article", "wrong")) == 4  # one of them VQAv2's 0.3
    assert len(page.all("article", "scored")) == 1
    assert "the model ran out of memory" in page.text
    assert "a maroon thing" in page.text
    assert "3 of 10 annotators" in page.text


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


def test_a_lost_image_is_named(run: Path) -> None:
    for image in (run / "geneval" / "images").rglob("*.png"):
        image.write_bytes(b"not an image")
    with pytest.raises(BenchError, match=r"geneval/images/.*\.png"):
        html(run)


def test_page_is_the_same_every_time(run: Path) -> None:
    assert html(run) == html(run)


def test_choice_is_seeded_and_spreads_over_groups() -> None:
    scores = [Score(f"{g}/{i}", str(g), "one", float(g % 2)) for g in range(40) for i in range(4)]
    chosen = choose(scores, seed=1)["one"]
    assert [score.value for score in chosen] == [1.0, 1.0, 0.0, 0.0]
    assert len({score.group for score in chosen}) == 4
    assert choose(scores, seed=1)["one"] == chosen
    assert any(choose(scores, seed=other)["one"] != chosen for other in range(2, 6))


@pytest.mark.parametrize("finding", [None, "yes", {"text": "yes"}, {"boxes": {}}])
def test_findings_without_boxes(finding: Json) -> None:
    assert boxes(finding) == ()


def test_reports_import_no_torch() -> None:
    code = "import sys, reports.render, reports.statistics; print({'torch', 'jinja2', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
