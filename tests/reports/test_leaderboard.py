"""A folder of runs as sortable tables."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks.types import BenchError, Json, Metric, RunRecord
from reports.leaderboard import html
from reports.runs import find_runs, kind, kind_names, training_step
from tests.reports.stored import HOSTILE, Page, assert_self_contained, record, store_run


def geneval(value: float | None, **options: Json) -> RunRecord:
    metrics = [Metric("overall", value, 0.1, 0.9, 2212, 3), Metric("colors", 0.25, None, None, 376, 0)]
    return record("geneval", metrics, **{"suite": "paper", **options})


def fid(value: float) -> RunRecord:
    return record("mjhq", [Metric("fid", value, None, None, 30_000, 0, False, "FID")], suite="paper")


def tables(source: str) -> list[list[list[str]]]:
    """The cells' texts, per table and row."""

    def parts(tag: str, text: str) -> list[str]:
        return re.findall(rf"<{tag}[ >].*?</{tag}>", text, re.DOTALL)

    def text(cell: str) -> str:
        return " ".join(re.sub(r"<[^>]+>", " ", cell).split())

    return [
        [[text(cell) for cell in parts("t[hd]", row)] for row in parts("tr", table)] for table in parts("table", source)
    ]


def test_a_suites_table_has_a_line_per_model_best_first(tmp_path: Path) -> None:
    store_run(tmp_path / "a", [geneval(0.5), fid(9.0)], day=1, model="A")
    store_run(tmp_path / "b", [geneval(0.75), fid(7.5)], day=2, model="B")
    store_run(tmp_path / "c", [fid(6.0)], day=3, model="C")
    store_run(tmp_path / "d", [geneval(None)], day=4, model="D")
    suite, benchmark, distances = tables(html(tmp_path))
    assert suite == [
        ["model", "geneval overall geneval-official", "mjhq fid (lower is better) mjhq-official", "seed", "date"],
        ["B b", "0.750 0.100 to 0.900 · 3 missing", "7.50 -", "7", "2026-11-02"],
        ["A a", "0.500 0.100 to 0.900 · 3 missing", "9.00 -", "7", "2026-11-01"],
        ["C c", "", "6.00 -", "7", "2026-11-03"],
        ["D d", "- 0.100 to 0.900 · 3 missing", "", "7", "2026-11-04"],
    ]
    assert benchmark[0] == ["model", "overall", "colors", "seed", "date"]
    assert [row[0] for row in distances] == ["model", "C c", "B b", "A a"]


def test_columns_sort_the_best_to_the_top_and_keep_the_unknown_last(tmp_path: Path) -> None:
    store_run(tmp_path / "a", [geneval(0.5), fid(9.0)])
    store_run(tmp_path / "b", [geneval(None)])
    page = Page(html(tmp_path))
    assert [head["data-first"] for head in page.all("th")[:3]] == ["ascending", "descending", "ascending"]
    values = [cell["data-value"] for cell in page.all("td", "figure")][:4]
    assert values == ["0.5", "9.0", "", ""]


@pytest.mark.parametrize(
    ("other", "names"),
    [
        ({"profile": "geneval-hf"}, ["geneval-official", "geneval-hf"]),
        ({"limit": 24}, ["geneval-official, no limit", "geneval-official, limit 24"]),
        (
            {"judge": {"detector": {"weights_sha256": "ab" * 32}}},
            ["geneval-official, no weights_sha256", "geneval-official, weights_sha256 abababab"],
        ),
    ],
)
def test_unlike_scores_never_share_a_column(tmp_path: Path, other: dict[str, Json], names: list[str]) -> None:
    store_run(tmp_path / "a", [geneval(0.5)], model="A")
    store_run(tmp_path / "b", [geneval(0.75, **other)], model="B")
    suite, *each = tables(html(tmp_path))
    assert suite[0] == ["model", *(f"geneval overall {name}" for name in names), "seed", "date"]
    assert [row[1:3] for row in suite[1:]] == [
        ["0.500 0.100 to 0.900 · 3 missing", ""],
        ["", "0.750 0.100 to 0.900 · 3 missing"],
    ]
    assert [len(table) for table in each] == [2, 2]


def test_toy_and_paper_never_share_a_table(tmp_path: Path) -> None:
    store_run(tmp_path / "a", [geneval(0.5)])
    store_run(tmp_path / "b", [geneval(0.75, suite="toy")])
    source = html(tmp_path)
    assert [len(table) for table in tables(source)] == [2, 2, 2, 2]
    assert "not comparable with published scores" in source


def test_the_page_is_self_contained_escaped_and_links_to_reports(tmp_path: Path) -> None:
    store_run(tmp_path / "x & y" / "run", [geneval(0.5)], model=HOSTILE)
    (tmp_path / "x & y" / "run" / "report.html").write_text("")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "spec.json").write_text("{}")
    source = html(tmp_path)
    assert_self_contained(source)
    page = Page(source)
    assert HOSTILE in page.text
    assert {link["href"] for link in page.all("a")} == {"x%20%26%20y/run/report.html"}
    assert "broken" in page.text
    assert "is not the spec of a run" in page.text
    assert source == html(tmp_path)


def test_runs_are_found_at_any_depth_and_not_within_runs(tmp_path: Path) -> None:
    store_run(tmp_path / "b" / "deep", [geneval(0.5)])
    store_run(tmp_path / "a", [geneval(0.5)])
    store_run(tmp_path / "a" / "geneval" / "inner", [geneval(0.5)])
    assert [run.name for run in find_runs(tmp_path)[0]] == ["a", "b/deep"]
    assert [run.name for run in find_runs(tmp_path / "a")[0]] == ["a"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(BenchError, match="holds no complete run"):
        find_runs(tmp_path / "empty")


@pytest.mark.parametrize("started", ["yesterday", "", None, 5])
def test_a_run_without_a_date_is_left_out(tmp_path: Path, started: Json) -> None:
    for name in ("a", "b"):
        store_run(tmp_path / name, [geneval(0.5)])
    spec = json.loads((tmp_path / "b" / "spec.json").read_text())
    spec["environment"]["started"] = started
    (tmp_path / "b" / "spec.json").write_text(json.dumps(spec))
    runs, left_out = find_runs(tmp_path)
    assert [run.name for run in runs] == ["a"]
    assert "does not say when the run was started" in left_out["b"]


def test_dates_of_several_time_zones_are_in_utc(tmp_path: Path) -> None:
    store_run(tmp_path / "a", [geneval(0.5)])
    spec = tmp_path / "a" / "spec.json"
    spec.write_text(spec.read_text().replace("12:00:00+00:00", "01:30:00+02:00"))
    assert find_runs(tmp_path)[0][0].started.isoformat() == "2026-10-31T23:30:00+00:00"
    spec.write_text(spec.read_text().replace("+02:00", ""))
    assert find_runs(tmp_path)[0][0].started.tzinfo is not None


def test_the_model_the_seed_and_the_machine_do_not_set_kinds_apart() -> None:
    one, other = geneval(0.5), geneval(0.75, model="other")
    other = RunRecord(**{**other.__dict__, "seed": 8, "hardware": {"cores": 64}, "packages": {}, "code": {}})
    assert kind(one) == kind(other)
    assert kind_names([kind(one), kind(other)]) == {kind(one): "geneval-official"}


@pytest.mark.parametrize(
    ("model", "run", "step"),
    [("clip-flow/step-003200", "x", 3200), ("m", "checkpoint_64", 64), ("step1/step2", "step-3", 2), ("m", "x", None)],
)
def test_a_training_step_is_read_from_names(tmp_path: Path, model: str, run: str, step: int | None) -> None:
    store_run(tmp_path / run, [geneval(0.5)], model=model)
    (stored,), _ = find_runs(tmp_path)
    assert training_step(stored, stored.records[0]) == step
