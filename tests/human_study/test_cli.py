from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from benchmarks.types import BenchError
from human_study import folder, links, power
from human_study.cli import study
from tests.human_study.studies import image_folders, judge_all


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(study, [str(argument) for argument in arguments], catch_exceptions=False)


def create(root: Path, *options: str) -> Path:
    sources = image_folders(root / "images", ("a", "b"), 6)
    images = [part for model, path in sources.items() for part in ("--images", f"{model}={path}")]
    small = ["--gold", "1", "--qualification", "0"]
    done = run("create", root / "study", *images, "--prompts", root / "images" / "prompts.csv", *small, *options)
    assert done.exit_code == 0
    assert done.stdout == f"36 judgments planned in {root / 'study'}\n"
    return root / "study"


def test_from_images_to_a_table_of_judgments(tmp_path: Path) -> None:
    options = ["--title", "Mine", "--no-ties", "--pixels", "48", "--grid", "a", "--sequential", "--seed", "7"]
    made = create(tmp_path, *options)
    opened = folder.open_study(made)
    plan = opened.store.design
    assert (plan.title, plan.ties, plan.pixels, plan.monitoring, plan.seed) == ("Mine", False, 48, "sequential", 7)
    assert plan.grids == ("a",)
    assert plan.criteria[0].instruction.startswith("All images were generated from the same text input")

    line = run("link", made, "ann", "--url", "https://study.example.org/").stdout
    found = re.fullmatch(r"ann\thttps://study\.example\.org/enter#(\S+)\n", line)
    assert found is not None
    person = links.person(opened.store, links.redeem(opened.store, opened.key, found.group(1)))
    assert person is not None
    assert (person.name, person.role) == ("ann", "annotator")
    judge_all(opened.store, person.id)

    status = run("status", made).stdout.splitlines()
    assert status[0] == "12 of 36 judgments"
    assert status[-1].startswith("ann: 12 judgments, 1.0 s each, gold ")
    out = tmp_path / "judgments.csv"
    assert re.fullmatch(rf"\d+ rows in {out}\n", run("export", made, "--out", out).stdout)
    with out.open(newline="") as file:
        assert sum(row["kind"] == "main" for row in csv.DictReader(file)) == 12
    assert run("backup", made, "--out", tmp_path / "copy.db").stdout == f"{tmp_path / 'copy.db'}\n"
    assert run("verify", made).stdout == "every judgment and image is as it was stored\n"
    assert run("upgrade", made).stdout == "up to date\n"


def test_results_are_the_same_from_the_study_and_from_its_exports(tmp_path: Path) -> None:
    made = create(tmp_path)
    store = folder.open_study(made).store
    judge_all(store, store.enrol("ann").id)
    judge_all(store, store.enrol("bob").id, lambda shown: "tie" if shown.id % 2 else "right")
    page, figure = tmp_path / "out" / "page.html", tmp_path / "out" / "figure.svg"
    found = json.loads(run("results", made, "--json", "--html", page, "--figure", figure, "--model", "b").stdout)
    assert [criterion.pop("planned") for criterion in found["criteria"]] == [18, 18]
    assert found["models"] == ["b", "a"]
    assert "prompt_alignment" in page.read_text()
    assert "<svg" in figure.read_text()
    for name in ("judgments.csv", "judgments.parquet"):
        run("export", made, "--out", tmp_path / name)
        exported = json.loads(run("results", "--judgments", tmp_path / name, "--json", "--model", "b").stdout)
        assert [criterion.pop("planned") for criterion in exported["criteria"]] == [None, None]
        assert exported == found
    assert run("results", made).stdout.startswith("Result\n\nvisual_quality: ")
    assert run("results", made, "--markdown").stdout.startswith("## Result\n")
    both: list[str | Path] = [made, "--judgments", tmp_path / "judgments.csv"]
    for arguments in ([], both):
        with pytest.raises(BenchError, match="name the folder of a study, or --judgments FILE"):
            run("results", *arguments)


def test_an_administrators_link(tmp_path: Path) -> None:
    made = create(tmp_path)
    run("link", made, "boss", "--admin")
    assert [(person.name, person.role) for person in folder.open_study(made).store.people()] == [("boss", "admin")]


def test_users_errors_of_create(tmp_path: Path) -> None:
    for images in (["a"], ["a="], ["=x"], ["a=x", "a=y"]):
        options = [part for image in images for part in ("--images", image)]
        with pytest.raises(BenchError, match="another name for each model"):
            run("create", tmp_path / "study", *options, "--prompts", tmp_path)


def test_whoever_uses_another_machine_cannot_be_signed_in_as_local(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="this machine only"):
        run("serve", create(tmp_path), "--sign-in", "local", "--address", "0.0.0.0")


def test_every_command_has_help() -> None:
    for name, command in study.commands.items():
        assert command.help, name
        assert run(name, "--help").exit_code == 0


def test_the_plan_of_a_study_like_the_papers() -> None:
    lines = run("plan", "--judgments", "3000", "--prompts", "1000", "--ties", "0.07", "--icc", "0.5", "--criteria", "1")
    # The design numbers of 3,000 judgments: 5.1 points without ties were they independent, 7.0 at design effect 2
    # with 7 % ties.
    assert "design effect 1 + (m - 1) ICC    2.00" in lines.stdout
    assert "smallest net margin found        7.0 points" in lines.stdout


@pytest.mark.parametrize("icc", [0.0, 0.2, 0.45])
def test_the_judgments_planned_find_the_margin_and_one_less_does_not(icc: float) -> None:
    planned = power.plan(None, 0.08, 1000, 0.07, icc, 0.05, 0.8)
    assert planned.margin <= 0.08
    assert power.plan(planned.judgments - 1, 0.08, 1000, 0.07, icc, 0.05, 0.8).margin > 0.08


def test_needed_judgments_of_independent_ones() -> None:
    # (1.960 + 0.842)^2 0.93 / 0.05^2 = 2,920 judgments for 5 points, with 7 % ties.
    assert power.plan(None, 0.05, 10**6, 0.07, 0.3, 0.05, 0.8).judgments == 2920


def test_a_margin_that_no_number_of_judgments_finds() -> None:
    with pytest.raises(BenchError, match="take more prompts"):
        power.plan(None, 0.05, 500, 0.07, 0.45, 0.05, 0.8)


@pytest.mark.parametrize(
    "arguments",
    [
        ("link", "study", "ann", "--hours", "nan"),
        ("create", "study", "--images", "a=a", "--prompts", "p.csv", "--lease", "inf"),
        ("plan", "--prompts", "100", "--margin", "nan"),
    ],
)
def test_numbers_without_end_are_refused(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert "is not a finite number" in done.stderr


def test_a_plan_that_finds_nothing_says_so() -> None:
    lines = run("plan", "--judgments", "3", "--prompts", "100", "--icc", "0.3", "--criteria", "1")
    assert "smallest net margin found        none: not even 100 points" in lines.stdout
