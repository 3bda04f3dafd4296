"""Suites through the command line: a dry run, and what is missing before anything starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from benchmarks import catalog
from blip3o_bench import main, models
from blip3o_bench.run import DISAGREEING
from reports.statistics.power import minimal_detectable_effect, paired_binary_standard_error
from tests.conftest import ROOT
from tests.fakes import FakeBenchmark, FakeGenerator


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_a_dry_run_without_any_data_tells_what_the_paper_suite_takes(tmp_path: Path) -> None:
    """Nothing is loaded or written; the model need not be there."""
    out = tmp_path / "run"
    options = ("--suite", "paper", "--data-dir", tmp_path / "data", "--out", out, "--dry-run")
    done = call("run", "--model", "BLIP3o/BLIP3o-Model-8B", *options, "--json")
    assert done.exit_code == 0, done.stderr
    plans = {one["benchmark"]: one for one in json.loads(done.stdout)["benchmarks"]}
    assert tuple(plans) == catalog.SUITES["paper"]
    assert sum(one["samples"] for one in plans.values()) == 283_402
    assert sum(one["judge_calls"] for one in plans.values()) == 1218
    # (z(.95) + z(.80)) * sqrt(0.2 / 553) = 2.4865 * 0.019017
    assert plans["geneval"]["detectable"] == pytest.approx(4.729, abs=1e-3)
    assert plans["mjhq"]["detectable"] is None
    assert "wise: no judge: name one with --judge" in done.stderr
    assert not out.exists()
    shown = call("run", "--model", "BLIP3o/BLIP3o-Model-8B", *options)
    assert [line.split()[0] for line in shown.stdout.splitlines()[2:-2]] == list(plans)
    assert shown.stderr == done.stderr


def test_everything_that_a_run_lacks_is_said_before_it_starts(tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ("--suite", "paper", "--data-dir", tmp_path / "data", "--out", out)
    done = call("run", "mmvet", "mme", "--model", "BLIP3o/BLIP3o-Model-8B", *options)
    assert (done.exit_code, done.stdout) == (2, "")
    mmvet, data, mme, error = done.stderr.splitlines()
    assert mmvet == "mmvet: no judge: name one with --judge"
    assert data.startswith("mmvet: no MM-Vet in ")
    assert mme.startswith("mme: no MME in ")
    assert error == "error: 2 of 2 benchmarks lack something: get what is named above"
    assert not out.exists()


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch) -> FakeGenerator:
    model = FakeGenerator()
    monkeypatch.setitem(catalog.BENCHMARKS, ("paper", "fake"), lambda data: FakeBenchmark())
    monkeypatch.setitem(catalog.SUITES, "paper", ("fake", "mme"))
    monkeypatch.setattr(models, "load_model", lambda *given: model)
    return model


def test_a_calibration_needs_everything_and_writes_nothing(tmp_path: Path, generator: FakeGenerator) -> None:
    out = tmp_path / "run"
    options = ("--suite", "paper", "--model", "owner/name", "--data-dir", tmp_path, "--out", out, "--dry-run")
    done = call("run", *options, "--calibrate", 4)
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1] == (
        "error: 1 of 2 benchmarks lack something: get what is named above, or run the others: fake"
    )
    done = call("run", "fake", *options, "--calibrate", 4, "--batch-size", 1)
    assert done.exit_code == 0, done.stderr
    assert len(generator.drawn) == 4
    assert done.stdout.splitlines()[2].split()[:4] == ["fake", "12", "6", "45.4"]  # 2.4865 * sqrt(0.2 / 6)
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--calibrate", "4"], "--calibrate belongs to --dry-run"),
        (["--dry-run", "--rescore"], "exclude each other"),
    ],
)
def test_a_dry_run_is_of_a_new_run(options: list[str], message: str, tmp_path: Path) -> None:
    done = call("run", "--out", tmp_path / "run", *options)
    assert done.exit_code == 2
    assert message in done.stderr


def test_the_page_states_the_loss_that_the_ci_suite_finds() -> None:
    errors = [paired_binary_standard_error(catalog.CI_GROUPS, share) for share in (0.1, DISAGREEING, 0.4)]
    few, usual, many = (f"{100 * minimal_detectable_effect(error, sides=1):.1f}" for error in errors)
    row = f"| {catalog.CI_GROUPS} (each benchmark of `ci`) | {few} | **{usual}** | {many} |"
    assert row in (ROOT / "docs" / "suites.md").read_text()
