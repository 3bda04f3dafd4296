"""Which judge an option names, where it runs, and what it is for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import catalog
from benchmarks.judges.chat import LocalModel
from benchmarks.judges.vqa import MPLUG, Mplug
from benchmarks.types import BenchError
from blip3o_bench import judges
from model.generate import Device

NONE: dict[str, Any] = dict.fromkeys(field for field in judges.JudgeOptions.__dataclass_fields__)
GIVEN = judges.JudgeOptions(**NONE)


def test_mplug_is_the_published_model_on_the_device_that_was_asked_for() -> None:
    judge = judges._vqa_judge("mplug", None, "cpu")
    assert judge == Mplug(MPLUG, "cpu")
    assert judge.describe()["model"] == MPLUG


def test_a_local_judge_runs_on_the_device_that_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judges, "torch_device", lambda asked: {"cpu": "cpu", "auto": "cuda"}[asked])
    places: tuple[tuple[Device, str], ...] = (("cpu", "cpu"), ("auto", "cuda"))
    for asked, place in places:
        judge = judges._judge(replace(GIVEN, judge_spec=f"local:{tmp_path}"), tmp_path, asked)
        assert isinstance(judge, LocalModel)
        assert judge.device == place


def test_a_judge_is_for_the_benchmarks_that_ask_it() -> None:
    run = ["geneval", "dpg", "mmvet", "vqav2"]
    assert judges.concerned(replace(GIVEN, judge_spec="replay:x"), run) == ["mmvet"]
    assert judges.concerned(replace(GIVEN, vqa_judge="mplug", clip=Path("clip.pt")), run) == ["geneval", "dpg"]
    with pytest.raises(BenchError, match="or the benchmarks, of geneval, dpg, mmvet, vqav2"):
        judges.concerned(GIVEN, run)


@pytest.mark.parametrize(
    "given", [replace(GIVEN, judge_spec="local:owner/name"), replace(GIVEN, vqa_judge="local:owner/name")]
)
def test_a_dry_run_fetches_no_judge(
    given: judges.JudgeOptions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(judges, "located", lambda spec: pytest.fail(f"{spec} was fetched"))
    data = judges.judged(catalog.Data(), given, "cpu", (), tmp_path, fetch=False)
    assert (data.judge or data.vqa_judge) is not None
