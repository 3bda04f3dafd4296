"""Tables of a few known metrics in each format."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import asdict

from benchmarks.types import Metric
from reports.published import against_published
from reports.tables import (
    Table,
    as_latex,
    as_markdown,
    as_text,
    comparison_table,
    comparisons_csv,
    comparisons_json,
    score_table,
    scores_csv,
    table,
    to_json,
)
from tests.reports.stored import record

JUDGE = {"detector": {"name": "rtmdet", "held_out": {"scenes": 0.994}}, "color": {"held_out": {"accuracy": 0.9981}}}
GENEVAL = record(
    "geneval",
    (
        Metric("overall", 0.75, 0.61, 0.85, n=7, missing=1, chance=0.0),
        Metric("colors", 1.0, None, None, n=1, missing=0),
    ),
    JUDGE,
)
FID = record("mjhq", (Metric("fid", 8.123, None, None, 30000, 0, higher_is_better=False, unit="FID"),), suite="paper")


def test_the_terminal_shows_every_metric_and_the_judges_accuracy() -> None:
    lines = table([GENEVAL]).splitlines()
    assert lines[0].startswith("suite: toy")
    assert [re.split(r"\s{2,}", line) for line in (lines[1], *lines[3:5])] == [
        ["benchmark", "metric", "score", "95 % interval", "n", "missing", "chance", "profile"],
        ["geneval", "overall", "0.750", "0.610 to 0.850", "7", "1", "0.000", "geneval-official"],
        ["geneval", "colors", "1.000", "-", "1", "0", "-", "geneval-official"],
    ]
    assert lines[5:] == ["judge of geneval, held out: detector scenes 0.994, color accuracy 0.9981"]


def test_other_units_and_suites() -> None:
    text = table([FID])
    assert text.startswith("suite: paper\n")
    assert "fid (lower is better)   8.12  -" in text
    assert "toy" not in text


HOSTILE = Table(("a|b", "50 %"), (("x_1 & *y*\n<b>", "\\{3}^~#$"),), frozenset({1}), ("a note_1",))


def test_markdown_cells_are_text() -> None:
    assert as_markdown(HOSTILE).splitlines() == [
        r"a note\_1",
        "",
        r"| a\|b | 50 % |",
        "| --- | ---: |",
        r"| x\_1 \& \*y\* \<b\> | \\\{3\}^\~\#$ |",
    ]


def test_latex_cells_are_text() -> None:
    assert as_latex(HOSTILE).splitlines() == [
        "% a note_1",
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"a\textbar{}b & 50 \% \\",
        r"\midrule",
        r"x\_1 \& {*}y{*} \textless{}b\textgreater{} & \textbackslash{}\{3\}\textasciicircum{}\textasciitilde{}\#\$ \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_a_row_that_begins_with_a_bracket_is_no_option_of_the_one_before() -> None:
    rows = as_latex(Table(("a",), (("[1ex]",), ("*",)), frozenset())).splitlines()
    assert rows[4:6] == [r"{[}1ex] \\", r"{*} \\"]


def test_text_without_rows_is_its_head() -> None:
    assert as_text(Table(("a", "b"), (), frozenset())) == "a  b\n-  -"


def test_csv_has_every_digit_and_empty_cells_for_the_unknown() -> None:
    rows = list(csv.DictReader(io.StringIO(scores_csv([GENEVAL, FID]))))
    assert [row["metric"] for row in rows] == ["overall", "colors", "fid"]
    assert (rows[2]["value"], rows[2]["low"], rows[2]["higher_is_better"]) == ("8.123", "", "False")
    assert (rows[0]["model"], rows[0]["benchmark"], rows[0]["seed"]) == ("toy <8M>", "geneval", "7")


def test_json_has_the_records() -> None:
    assert json.loads(to_json([GENEVAL]))["records"] == json.loads(json.dumps([asdict(GENEVAL)]))


def test_comparisons_show_both_numbers_in_the_published_unit() -> None:
    mmmu = record("mmmu", [Metric("mmmu_acc", 0.478, 0.446, 0.511, 900, 0)], suite="paper", profile="blip3o-0.3.0")
    comparisons = against_published([mmmu, record("geneval", [GENEVAL.metrics[0]])], "BLIP3-o 4B")
    rows = comparison_table(comparisons).rows
    assert rows[0] == (
        *("MMMU", "BLIP3-o 4B", "47.80", "46.6", "+1.20", "44.60 to 51.10", "reproduced"),
        "arXiv 2505.09568, Table 1",
    )
    assert rows[1][:7] == ("GenEval", "BLIP3-o 4B", "-", "0.81", "-", "-", "not comparable: toy suite")
    (first, second, third) = json.loads(comparisons_json(comparisons))["comparisons"]
    assert (first["measured"], first["published"], first["verdict"]) == (47.8, 46.6, "reproduced")
    assert (second["measured"], second["reason"], third["published"]) == (None, "toy suite", 0.81)
    (line, *_) = csv.DictReader(io.StringIO(comparisons_csv(comparisons)))
    assert (line["metric"], line["published"], line["published_profile"]) == ("mmmu_acc", "46.6", "blip3o-0.3.0")


def test_score_table_is_what_the_formats_share() -> None:
    assert "| geneval | overall | 0.750 |" in as_markdown(score_table([GENEVAL]))
    assert r"geneval & overall & 0.750 & 0.610 to 0.850 & 7 & 1 & 0.000 & geneval-official \\" in as_latex(
        score_table([GENEVAL])
    )
