"""Everything that is missing is said at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import catalog, needs
from benchmarks.judges.chat import Replay
from benchmarks.judges.vqa import ReplayVqa
from benchmarks.types import BenchError
from tests.fakes import FakeBenchmark

NO_JUDGE = "no judge: name one with --judge"


def lacking(name: str, data: catalog.Data, judged: bool = True) -> list[str]:
    ready, found = needs.load_all("paper", [name], data, judged)
    assert bool(ready) != bool(found)
    return found.get(name, [])


def test_each_benchmark_of_the_suite_has_an_entry_and_packages_of_ours() -> None:
    assert set(catalog.SUITES["paper"]) <= needs.NEEDS.keys()
    assert [
        name for name in catalog.SUITES["paper"] if name != "dpg" and list(needs.absent(name, catalog.Data()))
    ] == []


def test_geneval_lacks_three_things_at_once(tmp_path: Path) -> None:
    found = lacking("geneval", catalog.Data(tmp_path))
    assert [line.rpartition("run `")[2] for line in found] == [
        f"blip3o-bench data fetch {name} --data-dir {tmp_path}`"
        for name in ("geneval", "mask2former-swin-s", "clip-vit-l-14")
    ]
    (tmp_path / "clip.pt").touch()
    elsewhere = lacking("geneval", catalog.Data(tmp_path, clip=tmp_path / "clip.pt"))
    assert elsewhere == found[:2]


def test_a_judge_and_the_data_are_missed_together(tmp_path: Path) -> None:
    found = lacking("mmvet", catalog.Data(tmp_path))
    assert found[0] == NO_JUDGE
    assert found[1].startswith(f"no MM-Vet in {tmp_path / 'mmvet'}: run `blip3o-bench data fetch mmvet")
    assert lacking("mmvet", catalog.Data(tmp_path), judged=False) == found[1:]
    assert lacking("mmvet", catalog.Data(tmp_path, judge=Replay(tmp_path / "replies"))) == found[1:]


def test_the_official_judge_of_dpg_is_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "find_spec", lambda package: None)
    found = lacking("dpg", catalog.Data(tmp_path))
    assert found[0] == "no package modelscope: pip install 'blip3o-bench[mplug]', or name another --vqa-judge"
    assert lacking("dpg", catalog.Data(tmp_path, vqa_judge=ReplayVqa(tmp_path / "replies.csv"))) == found[1:]


def test_what_is_ready_is_told_from_what_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(data: catalog.Data) -> FakeBenchmark:
        raise BenchError("the disk is gone")

    monkeypatch.setitem(catalog.BENCHMARKS, ("paper", "fake"), lambda data: FakeBenchmark())
    monkeypatch.setitem(catalog.BENCHMARKS, ("paper", "broken"), broken)
    ready, found = needs.load_all("paper", ["broken", "fake"], catalog.Data(tmp_path))
    assert [benchmark.name for benchmark in ready] == ["fake"]
    assert found == {"broken": ["the disk is gone"]}
