"""The example of docs/plugins.md, installed as site-packages would hold it, and broken ones."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import models, plugins, runner
from benchmarks.catalog import Data
from benchmarks.types import BenchError
from benchmarks.work import Part, Settings
from tests.conftest import ROOT

EXAMPLE = ROOT / "tests" / "plugin_example"


def install(site: Path, name: str, groups: dict[str, dict[str, str]], modules: dict[str, str]) -> None:
    """What an installer leaves in ``site``."""
    info = site / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [
        f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in group_.items())
        for group, group_ in groups.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
    for module, source in modules.items():
        (site / f"{module}.py").write_text(source)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of packages that is searched first, and whose modules are forgotten at the end."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def example(site: Path) -> Path:
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    install(site, project["name"], project["entry-points"], {"gray_plugin": (EXAMPLE / "gray_plugin.py").read_text()})
    return site


def test_the_example_runs_through_the_runner(example: Path, tmp_path: Path) -> None:
    records = runner.run(
        tmp_path / "run",
        [plugins.benchmark("brightness", Data())],
        plugins.model("gray", "51"),
        Settings(suite="paper"),
        Part(),
    )
    assert records is not None
    (record,) = records
    assert record.model == {"name": "gray", "level": 51}
    (metric,) = record.metrics
    assert (metric.value, metric.n, metric.missing) == (51 / 255, 2, 0)


def test_the_page_prints_the_example(example: Path) -> None:
    page = (ROOT / "docs" / "plugins.md").read_text()
    blocks = dict(re.findall(r"```(toml|python)\n(.*?)```", page, re.DOTALL))
    assert blocks == {
        "toml": (EXAMPLE / "pyproject.toml").read_text(),
        "python": (EXAMPLE / "gray_plugin.py").read_text(),
    }


def test_a_plug_in_is_listed_without_being_imported(example: Path) -> None:
    lines = models.table().splitlines()
    (line,) = (line for line in lines if line.startswith("gray:ARGUMENT"))
    assert "plug-in of gray-plugin 1.0" in line
    assert "gray_plugin" not in sys.modules


def test_what_is_not_installed_is_said_so() -> None:
    with pytest.raises(BenchError, match="no installed package brings models named nowhere"):
        plugins.model("nowhere", "")
    with pytest.raises(BenchError, match="no installed package brings benchmarks named nowhere"):
        plugins.benchmark("nowhere", Data())


def test_two_packages_with_one_name_are_both_named(example: Path) -> None:
    install(example, "other-plugin", {"blip3o_bench.models": {"gray": "other:Gray"}}, {})
    with pytest.raises(BenchError, match=r"other-plugin 1\.0") as raised:
        plugins.model("gray", "1")
    assert "gray-plugin 1.0" in str(raised.value)


BROKEN = """
class NotAModel:
    def __init__(self, argument): pass

class Misnamed:
    name = "another"
    def __init__(self, data): pass
"""


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("broken:NotAModel", "made no model: it needs describe, and generate or answer"),
        ("broken:Absent", "cannot be loaded: module 'broken' has no attribute 'Absent'"),
        ("absent:Model", "cannot be loaded: No module named 'absent'"),
    ],
)
def test_a_broken_model_names_its_package(site: Path, value: str, said: str) -> None:
    install(site, "broken-plugin", {"blip3o_bench.models": {"mine": value}}, {"broken": BROKEN})
    with pytest.raises(BenchError, match=r"broken-plugin 1\.0") as raised:
        plugins.model("mine", "")
    assert said in str(raised.value)


def test_a_benchmark_must_bear_its_entry_points_name(site: Path) -> None:
    install(site, "broken-plugin", {"blip3o_bench.benchmarks": {"mine": "broken:Misnamed"}}, {"broken": BROKEN})
    with pytest.raises(BenchError, match="made no benchmark whose name is mine"):
        plugins.benchmark("mine", Data())
