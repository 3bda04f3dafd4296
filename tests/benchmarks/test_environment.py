"""What a record says about where a run happened."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest

from benchmarks import environment


def test_the_versions_of_python_and_of_what_makes_numbers() -> None:
    packages = environment.current().packages
    assert packages["python"] == platform.python_version()
    assert packages["pillow"].count(".") >= 1
    assert packages.keys() <= {"python", *environment.PACKAGES}


def test_variables_that_decide_on_the_last_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    for name in environment.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert environment.determinism() == {}  # and torch is not imported for it
    assert "torch" not in sys.modules
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    assert environment.current().hardware["determinism"] == {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}


def test_torchs_switches_where_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = SimpleNamespace(
        backends=SimpleNamespace(
            cpu=SimpleNamespace(get_cpu_capability=lambda: "AVX2"),
            cudnn=SimpleNamespace(benchmark=False, deterministic=True),
        ),
        are_deterministic_algorithms_enabled=lambda: True,
        get_float32_matmul_precision=lambda: "highest",
    )
    monkeypatch.setitem(sys.modules, "torch", stand_in)
    found = environment.determinism()
    assert (found["cpu_capability"], found["deterministic_algorithms"]) == ("AVX2", True)
    assert (found["cudnn_benchmark"], found["cudnn_deterministic"]) == (False, True)
    assert found["float32_matmul_precision"] == "highest"


@pytest.mark.slow
def test_torch_has_these_switches() -> None:
    import torch  # noqa: F401

    assert environment.determinism()["float32_matmul_precision"] == "highest"


def test_a_checkout_with_changes_is_dirty(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    assert environment._git_revision(tmp_path / "no checkout") is None
    git("init")
    (tmp_path / "file").write_text("a")
    git("add", "file")
    git("commit", "-m", "first")
    clean = environment._git_revision.__wrapped__(tmp_path)
    (tmp_path / "file").write_text("b")
    assert environment._git_revision.__wrapped__(tmp_path) == f"{clean}-dirty"


@pytest.mark.parametrize(
    ("asked", "gpus", "rank", "place", "chosen"),
    [
        ("auto", 2, "3", "cuda", [1]),
        ("cuda", 8, "3", "cuda", [3]),
        ("cpu", 8, "3", "cpu", []),
        ("auto", 0, "3", "cpu", []),
        ("cuda", 0, "0", "cuda", []),  # torch says what is wrong, when it is used
    ],
)
def test_each_process_of_a_machine_has_its_gpu(
    monkeypatch: pytest.MonkeyPatch,
    asked: Literal["auto", "cpu", "cuda"],
    gpus: int,
    rank: str,
    place: str,
    chosen: list[int],
) -> None:
    set_to: list[int] = []
    cuda = SimpleNamespace(is_available=lambda: gpus > 0, device_count=lambda: gpus, set_device=set_to.append)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda, __spec__=object()))
    monkeypatch.setenv("LOCAL_RANK", rank)
    assert environment.torch_device(asked) == place
    assert set_to == chosen
