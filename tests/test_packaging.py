from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement

from tests.conftest import ROOT

PACKAGES = ("benchmarks", "blip3o_bench", "model", "human_study", "reports")
MODULES = ("torchvision_guard",)


def run(code: str) -> str:
    """stdout of a new interpreter started outside the checkout."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd="/").stdout.strip()


def test_each_package_is_imported_from_the_checkout() -> None:
    """Names this general can be shadowed by a package that was built with stray folders at its top."""
    names = [*PACKAGES, *MODULES]
    code = f"from importlib.util import find_spec\nfor name in {names}: print(find_spec(name).origin)"
    expected = [str(ROOT / name / "__init__.py") for name in PACKAGES] + [str(ROOT / f"{name}.py") for name in MODULES]
    assert run(code).splitlines() == expected


@pytest.mark.parametrize(
    "module", ["blip3o_bench", "reports", "human_study", "benchmarks.types", "benchmarks.datasets"]
)
def test_light_modules_import_no_torch(module: str) -> None:
    assert run(f"import sys, {module}; print('torch' in sys.modules)") == "False"


def test_interpreter_starts_with_the_torchvision_guard() -> None:
    assert run("import sys; print(any(type(f).__module__ == 'torchvision_guard' for f in sys.meta_path))") == "True"


def test_entry_points_lead_to_callables() -> None:
    ours = {(point.group, point.name): point for point in distribution("blip3o-bench").entry_points}

    assert set(ours) == {("console_scripts", "blip3o-bench"), ("lmms_eval.models", "blip3o")}
    assert all(callable(point.load()) for point in ours.values())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    folder = tmp_path_factory.mktemp("wheel")
    (artifact,) = WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    with zipfile.ZipFile(artifact) as archive:
        yield archive


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_wheel_holds_every_committed_file_of_the_packages(wheel: zipfile.ZipFile) -> None:
    listed = subprocess.run(["git", "ls-files", *PACKAGES], check=True, capture_output=True, text=True, cwd=ROOT).stdout
    committed = {path for path in listed.splitlines() if (ROOT / path).exists()}
    assert committed <= set(wheel.namelist())


def test_wheel_holds_nothing_else(wheel: zipfile.ZipFile) -> None:
    top = {Path(name).parts[0] for name in wheel.namelist()}
    version = distribution("blip3o-bench").version
    modules = {f"{name}.py" for name in MODULES}
    assert top == {*PACKAGES, *modules, "torchvision_guard.pth", f"blip3o_bench-{version}.dist-info"}


def test_wheel_needs_no_torch_without_extras(wheel: zipfile.ZipFile) -> None:
    (metadata,) = (name for name in wheel.namelist() if name.endswith("/METADATA"))
    lines = wheel.read(metadata).decode().splitlines()
    needs = [Requirement(line.removeprefix("Requires-Dist: ")) for line in lines if line.startswith("Requires-Dist: ")]
    base = {need.name for need in needs if need.marker is None}
    assert base == {
        "click",
        "jinja2",
        "krippendorff",
        "markupsafe",
        "matplotlib",
        "numpy",
        "pandas",
        "pillow",
        "scipy",
        "statsmodels",
        "tqdm",
    }
