"""Nodes that torchrun starts share a run by its folder alone, and one that dies costs its unfinished samples only."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from benchmarks import runner
from benchmarks.bench import multinode
from benchmarks.work import Part, Settings
from blip3o_bench import main
from tests.conftest import ROOT
from tests.fakes import FakeAnswerer, FakeBenchmark, FakeGenerator

BLOCKS = re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / "scale.md").read_text(), re.DOTALL)


def test_a_node_is_killed_and_one_process_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert multinode.demonstrate(("tests.fakes", "--seconds", "0.2"), tmp_path) == []
    told = capsys.readouterr().out.splitlines()
    # Of 24 samples node 0 has the half; node 1 was killed after its first batch of two, or a little later.
    (done,) = (int(line.split(": ")[1].split()[0]) for line in told if line.startswith("node 0 has done its part"))
    assert 14 <= done < 24
    assert told[-1] == f"it did the {24 - done} samples that were missing"
    ranks = {path.name for path in tmp_path.glob("shared/fake/predictions/*")}
    assert ranks == {"rank00000.jsonl", "rank00001.jsonl"}


def test_a_command_that_fails_is_no_success(tmp_path: Path) -> None:
    with pytest.raises(multinode.DemoError, match=r"exited with 2:(.|\n)*No such option"):
        multinode.demonstrate(("tests.fakes", "--no-such-option"), tmp_path)


def test_every_byte_is_compared(tmp_path: Path) -> None:
    benchmarks = [FakeBenchmark(), FakeBenchmark(name="asked", task="answer")]
    for name in ("one", "other"):
        model = _Both()
        runner.run(tmp_path / name, benchmarks, model, Settings("toy"), Part())
    one, other = tmp_path / "one", tmp_path / "other"
    assert multinode.differences(one, other) == []

    picture = other / "fake" / "images" / "fake" / "00000" / "0.png"
    picture.write_bytes(picture.read_bytes() + b"\0")
    (other / "fake" / "images" / "more.png").touch()
    scores = other / "asked" / "scores.jsonl"
    scores.write_bytes(scores.read_bytes().replace(b"1.0", b"0.0", 1))
    (other / "asked" / "verdicts" / "rank00000.jsonl").write_bytes(b"")
    verdicts = {f"asked: Verdict asked/{group:05d}/{number}" for group in range(6) for number in range(2)}
    files = {"asked/scores.jsonl", "fake/images/fake/00000/0.png", "fake/images/more.png"}
    assert multinode.differences(one, other) == sorted(verdicts | files)


class _Both(FakeGenerator, FakeAnswerer):
    """Draws and answers."""


SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
for task in 0 1 2; do SLURM_PROCID=$task SLURM_LOCALID=$task SLURM_NTASKS=3 "$@"; done
"""


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a batch script: an srun of three tasks, and a blip3o-bench that tells what it was given."""
    for name, script in (("srun", SRUN), ("blip3o-bench", '#!/bin/bash\necho "$RANK/$WORLD_SIZE/$LOCAL_RANK: $*"\n')):
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    array = {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_COUNT": "16"}
    return {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_CPUS_PER_TASK": "12", **array}


def test_the_batch_scripts_give_each_process_its_part(slurm: dict[str, str]) -> None:
    together, array = (block for block in BLOCKS if "#SBATCH" in block)

    def printed(script: str) -> list[str]:
        command = ["bash", "-eu", "-c", script]
        return subprocess.run(command, env=slurm, capture_output=True, text=True, check=True).stdout.splitlines()

    assert printed(together) == [f"{rank}/3/{rank}: run --model NAME --out RUN" for rank in range(3)]
    assert printed(array.replace("export", "export LOCAL_RANK=0")) == ["5/16/0: run --model NAME --out RUN"]


def test_the_commands_of_the_page_are_understood() -> None:
    lines = [line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
    calls = [re.split(r"blip3o[-_]bench run", line)[1] for line in lines if re.search(r"blip3o[-_]bench run", line)]
    assert len(calls) >= 10
    for call in calls:
        given = main.commands["run"].make_context("run", shlex.split(call.rstrip("'"), comments=True))
        assert given.params["out"] == Path("RUN")
