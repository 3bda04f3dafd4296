"""A run on disk survives torn lines, full disks, second writers and other people's folders."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import store
from benchmarks.spec import Environment, RunSpec, Stage, note_environment, open_run, read_spec
from benchmarks.types import BenchError, Metric, Prediction, RunRecord, Score, Verdict

SPEC = RunSpec(suite="toy", seed=0, limit=None, model={"name": "fake", "digest": "abc"}, benchmarks={})
#: What every benchmark of a run has.
RULES = {"version": "1", "profile": "official"}
HERE = Environment(started="2026-01-01T00:00:00+00:00", code={}, packages={"torch": "2"}, hardware={"cores": 2})


def prediction(number: int, error: str | None = None, text: str | None = "reply") -> Prediction:
    return Prediction(f"fake/{number}", seed=number, seconds=0.5, text=text, error=error)


def shard(folder: Path, rank: int = 0) -> store.Shard:
    return store.Shard(store.shard_path(folder, Prediction, rank))


def test_what_is_appended_is_read_back_by_anyone(tmp_path: Path) -> None:
    awkward = 'line\u2028break\n"quote" \udcff 你好'
    with shard(tmp_path, 0) as first, shard(tmp_path, 1) as second:
        first.append([prediction(1, text=awkward)])
        second.append([prediction(2), prediction(3)])
        assert store.read_predictions(tmp_path) == {
            "fake/1": prediction(1, text=awkward),
            "fake/2": prediction(2),
            "fake/3": prediction(3),
        }
    assert (tmp_path / "predictions" / "rank00000.jsonl").read_bytes().count(b"\n") == 1


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_torn_last_line_is_no_record_and_the_writer_removes_it(tmp_path: Path, cut: int) -> None:
    with shard(tmp_path) as writer:
        writer.append([prediction(1), prediction(2)])
    path = store.shard_path(tmp_path, Prediction, 0)
    path.write_bytes(path.read_bytes()[:-cut])

    assert list(store.read_predictions(tmp_path)) == ["fake/1"]
    with shard(tmp_path) as writer:
        writer.append([prediction(3)])
    assert list(store.read_predictions(tmp_path)) == ["fake/1", "fake/3"]


@pytest.mark.parametrize("bad", [b"{torn", b'"text"', b"[]", b'{"id": "fake/9"}', b"", b"\xff\xfe", b'{"unknown": 1}'])
def test_a_bad_line_in_the_middle_is_named(tmp_path: Path, bad: bytes) -> None:
    with shard(tmp_path) as writer:
        writer.append([prediction(1), prediction(2)])
    path = store.shard_path(tmp_path, Prediction, 0)
    first, second, _ = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([first, bad, second, b""]))

    with pytest.raises(BenchError, match=re.escape(f"{path}, line 2 is damaged")):
        store.read_predictions(tmp_path)


def test_a_row_without_error_wins_and_the_last_of_equals(tmp_path: Path) -> None:
    with shard(tmp_path, 0) as first, shard(tmp_path, 1) as second:
        first.append([prediction(1, error="early"), prediction(2, text="good"), prediction(3, text="old")])
        second.append([prediction(1, error="late"), prediction(2, error="retry failed"), prediction(3, text="new")])
    read = store.read_predictions(tmp_path)
    assert [read[f"fake/{number}"].error for number in (1, 2)] == ["late", None]
    assert [read[f"fake/{number}"].text for number in (2, 3)] == ["good", "new"]


def test_one_writer_per_shard(tmp_path: Path) -> None:
    code = "import sys; from benchmarks import store; store.Shard(__import__('pathlib').Path(sys.argv[1]))"
    path = store.shard_path(tmp_path, Prediction, 0)
    with shard(tmp_path) as writer:
        writer.append([prediction(1)])
        # Reading closes a second descriptor of the file, at which a POSIX lock would be lost.
        store.read_predictions(tmp_path)
        other = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
        assert f"{path} is being written by another process" in other.stderr
        with pytest.raises(BenchError, match="is being written by another process"):
            shard(tmp_path)
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)


def test_a_full_disk_is_one_line_and_loses_no_record(tmp_path: Path) -> None:
    with shard(tmp_path) as writer:
        writer.append([prediction(1)])
    path = store.shard_path(tmp_path, Prediction, 0)
    room = path.stat().st_size + 10
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with shard(tmp_path) as writer:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
        try:
            with pytest.raises(BenchError, match=re.escape(f"cannot write {path}: File too large")):
                writer.append([prediction(2)])
            with pytest.raises(BenchError, match=r"cannot write .*\.png: File too large"):
                store.write_image(tmp_path, "fake/2", bytes(2 * room), ".png")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.stat().st_size == room  # the torn line that the disk still took
    assert not any(file.is_file() for file in (tmp_path / "images").rglob("*"))
    with shard(tmp_path) as writer:
        writer.append([prediction(3)])
    assert list(store.read_predictions(tmp_path)) == ["fake/1", "fake/3"]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchError, match=r"cannot write .*file/spec\.json: "):
        open_run(tmp_path / "file", SPEC, HERE)
    with pytest.raises(BenchError, match=r"cannot write .*rank00000\.jsonl: "):
        shard(tmp_path / "file")


def test_a_run_is_joined_with_the_same_spec_and_keeps_its_first_environment(tmp_path: Path) -> None:
    later = Environment("later", HERE.code, HERE.packages, {"cores": 2, "known": "by one of them only"})
    open_run(tmp_path, SPEC, HERE)
    open_run(tmp_path, SPEC, later)
    note_environment(tmp_path, later, "judge")
    assert read_spec(tmp_path) == (SPEC, HERE)
    assert os.listdir(tmp_path) == ["spec.json"]


def test_a_run_of_other_benchmarks_is_named_by_them(tmp_path: Path) -> None:
    open_run(tmp_path, replace(SPEC, benchmarks={"geneval": RULES, "vqav2": RULES}), HERE)
    with pytest.raises(BenchError, match="is a run of geneval, vqav2, not of geneval; name the same benchmarks or"):
        open_run(tmp_path, replace(SPEC, benchmarks={"geneval": RULES}), HERE)


def test_other_environments_are_recorded_once_for_each_stage(tmp_path: Path) -> None:
    elsewhere = Environment(started="later", code={"revision": "x"}, packages={}, hardware={"cores": 2})
    open_run(tmp_path, SPEC, HERE)
    stages: tuple[Stage, ...] = ("generate", "judge", "judge", "generate")
    for stage in stages:
        note_environment(tmp_path, elsewhere, stage)
    own = {"code": {"revision": "x"}, "packages": {}, "hardware": {"cores": 2}}
    also = ({"stage": "generate", **own}, {"stage": "judge", **own})
    assert read_spec(tmp_path) == (SPEC, replace(HERE, also=also))


def test_a_judge_is_added_by_the_first_that_names_one(tmp_path: Path) -> None:
    asked = replace(SPEC, benchmarks={"fake": RULES, "other": RULES})
    judged = replace(asked, benchmarks={"fake": {**RULES, "judge": {"boxes": (1, 2)}}, "other": RULES})
    open_run(tmp_path / "apart", asked, HERE)
    for spec in (judged, asked, judged):
        open_run(tmp_path / "apart", spec, HERE)
    open_run(tmp_path / "together", judged, HERE)
    open_run(tmp_path / "together", asked, HERE)
    assert [(tmp_path / name / "spec.json").read_bytes() for name in ("apart", "together")] == [
        (tmp_path / "together" / "spec.json").read_bytes()
    ] * 2
    another = replace(asked, benchmarks={**judged.benchmarks, "fake": {**RULES, "judge": {"boxes": [3]}}})
    with pytest.raises(BenchError, match=r"benchmarks.fake.judge.boxes is \[1, 2\] there and \[3\] here"):
        open_run(tmp_path / "apart", another, HERE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 7}, "seed is 0 there and 7 here"),
        ({"limit": 24}, "limit is null there and 24 here"),
        ({"model": {"name": "fake", "digest": "xyz"}}, 'model.digest is "abc" there and "xyz" here'),
        ({"benchmarks": {"fake": {**RULES, "version": "2"}}}, 'benchmarks.fake.version is "1" there and "2" here'),
    ],
)
def test_another_spec_is_refused_and_names_the_field(tmp_path: Path, change: dict[str, object], message: str) -> None:
    asked = replace(SPEC, benchmarks={"fake": RULES})
    open_run(tmp_path, asked, HERE)
    before = (tmp_path / "spec.json").read_bytes()
    other = RunSpec(**{**vars(asked), **change})
    with pytest.raises(BenchError, match=re.escape(message)):
        open_run(tmp_path, other, HERE)
    assert (tmp_path / "spec.json").read_bytes() == before


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"environment": {}}', "{torn", "[" * 100_000])
def test_a_damaged_spec_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "spec.json").write_text(content)
    with pytest.raises(BenchError, match=r"spec\.json is not the spec of a run"):
        open_run(tmp_path, SPEC, HERE)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": "0"},
        {"limit": "3"},
        {"benchmarks": {"../other": RULES}},
        {"benchmarks": {"fake": 1}},
        {"benchmarks": {"fake": {"version": "1"}}},
    ],
)
def test_a_spec_with_impossible_entries_is_one_line(tmp_path: Path, change: dict[str, object]) -> None:
    open_run(tmp_path, SPEC, HERE)
    content = json.loads((tmp_path / "spec.json").read_bytes())
    (tmp_path / "spec.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(BenchError, match=r"spec\.json is not the spec of a run"):
        read_spec(tmp_path)


def test_scores_and_records_are_whole_deterministic_files(tmp_path: Path) -> None:
    scores = [Score("b", "g", "s", None, "unreadable"), Score("a", "g", "s", 0.1 + 0.2)]
    metric = Metric("overall", 0.1, None, None, n=1, missing=1)
    record = RunRecord("fake", "1", "toy", "p", {}, {}, {}, 0, {}, {}, {}, {}, (metric,))
    store.write_scores(tmp_path, scores)
    store.write_records(tmp_path, [record])
    first = [(tmp_path / name).read_bytes() for name in ("scores.jsonl", "run.json")]
    store.write_scores(tmp_path, scores)
    store.write_records(tmp_path, [record])

    assert [(tmp_path / name).read_bytes() for name in ("scores.jsonl", "run.json")] == first
    assert store.read_scores(tmp_path) == scores
    assert store.read_records(tmp_path) == [record]
    assert json.loads(first[1])["records"][0]["benchmark"] == "fake"
    assert sorted(os.listdir(tmp_path)) == ["run.json", "scores.jsonl"]


def test_a_run_that_is_not_complete_or_damaged_has_no_records(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="holds no complete run"):
        store.read_records(tmp_path)
    (tmp_path / "run.json").write_text('{"records": [{"benchmark": 1')
    with pytest.raises(BenchError, match=r"run\.json is damaged"):
        store.read_records(tmp_path)


def test_verdicts_have_their_own_shards(tmp_path: Path) -> None:
    with store.Shard(store.shard_path(tmp_path, Verdict, 2)) as writer:
        writer.append([Verdict("fake/1", {"boxes": [[1.5, 2.0]]}), Verdict("fake/2", error="JudgeError: dark")])
    assert (tmp_path / "verdicts" / "rank00002.jsonl").exists()
    assert store.read_verdicts(tmp_path)["fake/1"].finding == {"boxes": [[1.5, 2.0]]}
    assert store.read_predictions(tmp_path) == {}


def test_images_lie_under_their_sample_id(tmp_path: Path) -> None:
    relative = store.write_image(tmp_path, "geneval/00017/2", b"png", ".png")
    assert relative == "images/geneval/00017/2.png"
    assert (tmp_path / relative).read_bytes() == b"png"


@given(st.lists(st.text(alphabet="a./\\%: é\0", max_size=6), min_size=2, max_size=8, unique=True))
def test_no_id_leaves_the_folder_and_no_two_share_a_file(ids: list[str]) -> None:
    paths = [store.image_path(sample_id, ".png") for sample_id in ids]
    assert len({os.path.normpath(path) for path in paths}) == len(ids)
    for path in paths:
        assert os.path.normpath(path) == path
        assert path.startswith("images/")
        assert path.isascii()
    # A file never stands where another id needs a folder.
    assert not any(other.startswith(path + "/") for path in paths for other in paths)


def test_a_forked_child_that_lives_on_holds_no_lock(tmp_path: Path) -> None:
    """As a worker process does for some seconds when its parent is killed."""
    shard = store.Shard(tmp_path / "rank00000.jsonl")
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(tell, b".")  # what fork has run in the child is over
        time.sleep(60)
        os._exit(0)
    try:
        os.read(told, 1)
        shard.append([Prediction("a", 0, 0.0, text="kept")])  # the child has closed its copy only
        shard.close()
        with store.Shard(tmp_path / "rank00000.jsonl"):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(told)
        os.close(tell)
