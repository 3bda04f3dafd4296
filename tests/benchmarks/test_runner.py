"""One record whatever the number of processes, the batch size and the interruptions."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks import environment, runner, store
from benchmarks.limit import limited
from benchmarks.predicting import seed_for
from benchmarks.types import BenchError, Json, Prediction, Sample, Verdict
from benchmarks.work import Part, Settings
from tests.fakes import FakeAnswerer, FakeBenchmark, FakeGenerator

SETTINGS = Settings(suite="toy", batch_size=2)
ALONE = Part()
ROOT = Path(__file__).parents[2]


def result(root: Path) -> tuple[bytes, bytes, object]:
    """What must not depend on how a run was made: both score files and the metrics."""
    records = json.loads((root / "run.json").read_bytes())["records"]
    scores = [(root / name / "scores.jsonl").read_bytes() for name in ("fake", "other")]
    return scores[0], scores[1], [record["metrics"] for record in records]


def processes(root: Path, world: int, *options: str) -> list[subprocess.Popen[str]]:
    return [
        subprocess.Popen(
            [sys.executable, "-m", "tests.fakes", str(root), *options],
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": str(world)},
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]


def finish(started: list[subprocess.Popen[str]]) -> list[str]:
    """Wait for processes, which must exit with 0; returns what each wrote to stderr."""
    logs = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [0] * len(started), logs
    return logs


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes, object]:
    """The run of one process."""
    root = tmp_path_factory.mktemp("alone")
    benchmarks = [FakeBenchmark(), FakeBenchmark(name="other")]
    assert runner.run(root, benchmarks, FakeGenerator(), SETTINGS, ALONE) is not None
    return result(root)


def test_seeds_depend_on_base_seed_and_id_alone() -> None:
    digest = hashlib.sha256(b"0/geneval/00017/2").digest()
    assert seed_for(0, "geneval/00017/2") == int.from_bytes(digest[:8], "big") // 2
    seeds = {seed_for(base, f"geneval/{number:05d}/0") for base in (0, 1) for number in range(500)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_the_record_holds_what_was_run(tmp_path: Path) -> None:
    records = runner.run(tmp_path, [FakeBenchmark()], FakeGenerator(), SETTINGS, ALONE)
    assert records == store.read_records(tmp_path)
    assert records is not None
    (record,) = records
    assert (record.benchmark, record.suite, record.profile, record.seed) == ("fake", "toy", "fake-official", 0)
    assert record.model == {"name": "fake", "digest": "0"}
    assert record.data == {"groups": 6}
    assert record.judge == {"name": "reader"}
    assert record.settings == {"strata": ["a", "b", "c"], "limit": None}
    assert record.hardware["cores"] == environment.usable_cores()
    assert "pillow" in record.packages
    # Scores by hand: the image's red is the seed modulo 256.
    values = [seed_for(0, sample.id) % 256 / 255 >= 0.5 for sample in FakeBenchmark().samples()]
    assert record.metrics[0].value == pytest.approx(sum(values) / 12)
    assert [score.value for score in store.read_scores(tmp_path / "fake")] == values


def test_predictions_keep_seed_and_digest_of_their_image(tmp_path: Path) -> None:
    runner.run(tmp_path, [FakeBenchmark()], FakeGenerator(), SETTINGS, ALONE)
    stored = store.read_predictions(tmp_path / "fake")
    assert len(stored) == 12
    for prediction in stored.values():
        assert prediction.seed == seed_for(0, prediction.id)
        assert prediction.image == f"images/{prediction.id}.png"
        data = (tmp_path / "fake" / prediction.image).read_bytes()
        assert prediction.sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_another_batch_size_gives_the_same_run(
    tmp_path: Path, expected: tuple[bytes, bytes, object], batch_size: int
) -> None:
    settings = Settings(suite="toy", batch_size=batch_size)
    runner.run(tmp_path, [FakeBenchmark(), FakeBenchmark(name="other")], FakeGenerator(), settings, ALONE)
    assert result(tmp_path) == expected


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_processes_an_hour_apart_share_a_run(
    tmp_path: Path, expected: tuple[bytes, bytes, object], order: tuple[int, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    benchmarks = [FakeBenchmark(), FakeBenchmark(name="other")]
    for rank in order[:-1]:
        assert runner.run(tmp_path, benchmarks, FakeGenerator(), SETTINGS, Part(rank, 3)) is None
        assert "samples are missing, such as fake/" in capsys.readouterr().err
        assert not (tmp_path / "run.json").exists()
    assert runner.run(tmp_path, benchmarks, FakeGenerator(), SETTINGS, Part(order[-1], 3)) is not None
    assert result(tmp_path) == expected


def test_two_processes_at_once_give_the_same_run(tmp_path: Path, expected: tuple[bytes, bytes, object]) -> None:
    logs = finish(processes(tmp_path, 2))
    assert "predict 6 of 6 samples (rank 1 of 2)" in logs[1]
    assert result(tmp_path) == expected


@pytest.mark.parametrize("world", [1, 3])
def test_kill_9_and_resume_with_any_world_size(
    tmp_path: Path, expected: tuple[bytes, bytes, object], world: int
) -> None:
    shard = tmp_path / "fake" / "predictions" / "rank00000.jsonl"
    killed = processes(tmp_path, 2, "--seconds", "0.1")
    deadline = time.monotonic() + 60
    while not (shard.exists() and shard.read_bytes().count(b"\n") >= 2):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for process in killed:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    done = store.read_predictions(tmp_path / "fake")
    assert 2 <= len(done) < 12
    assert not (tmp_path / "run.json").exists()

    logs = finish(processes(tmp_path, world))
    left = sum(int(log.split("fake: predict ")[1].split()[0]) for log in logs)
    assert left == 12 - len(done)
    assert result(tmp_path) == expected


def test_ctrl_c_loses_only_the_batch_in_flight(tmp_path: Path, expected: tuple[bytes, bytes, object]) -> None:
    benchmarks = [FakeBenchmark(), FakeBenchmark(name="other")]
    with pytest.raises(KeyboardInterrupt):
        runner.run(tmp_path, benchmarks, FakeGenerator(crash_after=5), SETTINGS, ALONE)
    assert len(store.read_predictions(tmp_path / "fake")) == 4
    again = FakeGenerator()
    runner.run(tmp_path, benchmarks, again, SETTINGS, ALONE)
    assert len(again.drawn) == 24 - 4
    assert result(tmp_path) == expected


def test_a_complete_run_is_not_done_again(tmp_path: Path) -> None:
    benchmarks = [FakeBenchmark(), FakeBenchmark(name="other")]
    runner.run(tmp_path, benchmarks, FakeGenerator(), SETTINGS, ALONE)
    judged, again = Counter(benchmarks[0].judged), FakeGenerator()
    record = (tmp_path / "run.json").read_bytes()
    runner.run(tmp_path, benchmarks, again, SETTINGS, ALONE)
    assert again.drawn == []
    assert Counter(benchmarks[0].judged) == judged
    assert (tmp_path / "run.json").read_bytes() == record


def test_a_lost_shard_is_done_again(tmp_path: Path, expected: tuple[bytes, bytes, object]) -> None:
    benchmarks = [FakeBenchmark(), FakeBenchmark(name="other")]
    for rank in range(2):
        runner.run(tmp_path, benchmarks, FakeGenerator(), SETTINGS, Part(rank, 2))
    (tmp_path / "fake" / "predictions" / "rank00001.jsonl").unlink()
    with pytest.raises(BenchError, match="6 of 12 samples are missing, such as fake/00000/1"):
        runner.rescore(tmp_path, benchmarks)
    runner.run(tmp_path, benchmarks, FakeGenerator(), SETTINGS, ALONE)
    assert result(tmp_path) == expected


def test_what_a_model_could_not_do_is_missing_and_retried(
    tmp_path: Path, expected: tuple[bytes, bytes, object], capsys: pytest.CaptureFixture[str]
) -> None:
    benchmarks = [FakeBenchmark(), FakeBenchmark(name="other")]
    failing = FakeGenerator(fails={"fake/00001/0": RuntimeError("too dark")})
    records = runner.run(tmp_path, benchmarks, failing, SETTINGS, ALONE)
    assert records is not None
    assert (records[0].metrics[0].n, records[0].metrics[0].missing) == (11, 1)
    score = store.read_scores(tmp_path / "fake")[2]
    assert (score.id, score.value, score.reason) == ("fake/00001/0", None, "RuntimeError: too dark")
    assert "fake/00001/0" not in store.read_verdicts(tmp_path / "fake")
    assert "1 of 12 samples could not be scored" in capsys.readouterr().err

    again = FakeGenerator()
    runner.run(tmp_path, benchmarks, again, SETTINGS, ALONE)
    assert again.drawn == ["fake/00001/0"]
    assert result(tmp_path) == expected


@pytest.mark.parametrize("batch_size", [1, 4])
def test_what_a_judge_refuses_is_missing_and_retried(
    tmp_path: Path, expected: tuple[bytes, bytes, object], batch_size: int
) -> None:
    settings = Settings(suite="toy", batch_size=batch_size)
    benchmarks = [FakeBenchmark(refuse={"fake/00002/1"}), FakeBenchmark(name="other")]
    records = runner.run(tmp_path, benchmarks, FakeGenerator(), settings, ALONE)
    assert records is not None
    assert (records[0].metrics[0].n, records[0].metrics[0].missing) == (11, 1)
    assert store.read_scores(tmp_path / "fake")[5].reason == "JudgeError: cannot look at it"

    benchmarks[0].refuse.clear()
    benchmarks[0].judged.clear()
    runner.run(tmp_path, benchmarks, FakeGenerator(), settings, ALONE)
    assert benchmarks[0].judged == ["fake/00002/1"]
    assert result(tmp_path) == expected


def test_files_are_copied_verbatim_and_damaged_ones_are_missing(tmp_path: Path) -> None:
    good, jpeg, torn = tmp_path / "good.png", tmp_path / "photo.JPG", tmp_path / "torn.png"
    Image.new("RGB", (40, 30), (200, 0, 0)).save(good, compress_level=9)
    Image.new("RGB", (40, 30), (200, 0, 0)).save(jpeg, "JPEG")
    buffer = io.BytesIO()
    Image.effect_noise((40, 30), 50).save(buffer, "PNG")
    torn.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    files = {
        "fake/00000/0": good,
        "fake/00000/1": jpeg,
        "fake/00001/0": torn,
        "fake/00001/1": tmp_path / "absent.png",
    }
    run = tmp_path / "run"
    records = runner.run(run, [FakeBenchmark(groups=2)], FakeGenerator(files=files), SETTINGS, ALONE)

    stored = store.read_predictions(run / "fake")
    assert (run / "fake" / "images/fake/00000/0.png").read_bytes() == good.read_bytes()
    assert stored["fake/00000/1"].image == "images/fake/00000/1.jpeg"
    for sample_id in ("fake/00001/0", "fake/00001/1"):
        error = stored[sample_id].error
        assert error is not None
        assert error.startswith(f"{files[sample_id]} is not a readable image: ")
    assert records is not None
    assert (records[0].metrics[0].n, records[0].metrics[0].missing) == (2, 2)


def test_answers_are_stored_as_text(tmp_path: Path) -> None:
    records = runner.run(tmp_path, [FakeBenchmark(task="answer")], FakeAnswerer(), SETTINGS, ALONE)
    assert records is not None
    stored = store.read_predictions(tmp_path / "fake")
    assert all(prediction.text == str(prediction.seed % 1000 / 1000) for prediction in stored.values())
    assert not (tmp_path / "fake" / "images").exists()


def test_rescoring_applies_another_rule_to_what_the_judge_saw(tmp_path: Path) -> None:
    runner.run(tmp_path, [FakeBenchmark(task="answer")], FakeAnswerer(), SETTINGS, ALONE)
    strict = FakeBenchmark(task="answer", threshold=0.9, profile="fake-strict")
    (record,) = runner.rescore(tmp_path, [strict])
    assert strict.judged == []
    values = [verdict.finding["value"] >= 0.9 for verdict in store.read_verdicts(tmp_path / "fake").values()]
    assert record.metrics[0].value == sum(values) / 12
    assert (record.profile, record.model) == ("fake-strict", {"name": "fake answers"})
    assert store.read_records(tmp_path) == [record]


def test_another_seed_or_model_may_not_enter_a_run(tmp_path: Path) -> None:
    runner.run(tmp_path, [FakeBenchmark()], FakeGenerator(), SETTINGS, ALONE)
    with pytest.raises(BenchError, match=r"seed is 0 there and 1 here"):
        runner.run(tmp_path, [FakeBenchmark()], FakeGenerator(), Settings(suite="toy", seed=1), ALONE)
    with pytest.raises(BenchError, match=r'model.digest is "0" there and "1" here'):
        runner.run(tmp_path, [FakeBenchmark()], FakeGenerator(digest="1"), SETTINGS, ALONE)
    with pytest.raises(BenchError, match=r"benchmarks.fake.data.groups is 6 there and 7 here"):
        runner.run(tmp_path, [FakeBenchmark(groups=7)], FakeGenerator(), SETTINGS, ALONE)


def test_a_second_process_of_the_same_rank_is_refused(tmp_path: Path) -> None:
    with (
        store.Shard(store.shard_path(tmp_path / "fake", Prediction, 0)),
        pytest.raises(BenchError, match="give each process its own RANK"),
    ):
        runner.run(tmp_path, [FakeBenchmark()], FakeGenerator(), SETTINGS, ALONE)


def test_part_comes_from_the_environment() -> None:
    assert Part.from_environment({}) == Part(0, 1)
    assert Part.from_environment({"RANK": "3", "WORLD_SIZE": "4"}) == Part(3, 4)


@pytest.mark.parametrize(("rank", "world"), [("2", "2"), ("-1", "2"), ("x", "2"), ("0", "0"), ("0", "")])
def test_nonsense_in_the_environment_is_a_users_error(rank: str, world: str) -> None:
    with pytest.raises(BenchError, match=f"RANK={rank} and WORLD_SIZE={world} do not fit"):
        Part.from_environment({"RANK": rank, "WORLD_SIZE": world})


def samples_of(strata: str, per_group: int) -> list[Sample]:
    """One group per letter, which names its stratum."""
    return [
        Sample(f"{position}/{number}", "", group=str(position), stratum=stratum)
        for position, stratum in enumerate(strata)
        for number in range(per_group)
    ]


@pytest.mark.parametrize(
    ("strata", "limit", "groups"),
    [
        ("aaabbbccc", 12, "036"),  # three groups of four, one of each stratum
        ("aaabbbccc", 13, "0136"),  # rounded up to a whole group
        ("aaabbbccc", 1, "0"),
        ("abbbbbb", 16, "0123"),  # a stratum that has run out
        ("aaaaa", 8, "01"),
        ("aabb", 99, "0123"),
    ],
)
def test_a_limit_takes_whole_groups_of_every_stratum(strata: str, limit: int, groups: str) -> None:
    samples = samples_of(strata, per_group=4)
    assert limited(samples, limit) == [sample for sample in samples if sample.group in groups]


def test_a_limited_run_is_not_the_whole_run(tmp_path: Path) -> None:
    limited = Settings(suite="toy", limit=5, batch_size=2)
    records = runner.run(tmp_path, [FakeBenchmark()], FakeGenerator(), limited, ALONE)
    assert records is not None
    assert records[0].metrics[0].n == 6
    assert {score.stratum for score in store.read_scores(tmp_path / "fake")} == {"a", "b", "c"}
    with pytest.raises(BenchError, match="limit is 5 there and null here"):
        runner.run(tmp_path, [FakeBenchmark()], FakeGenerator(), SETTINGS, ALONE)


# What benchmarks and models may say beyond their protocols


@dataclass
class Sorted(FakeBenchmark):
    """Its samples take the longer the later they come; its judge sees several at once, and can be another one."""

    judge_name: str = "reader"
    judged_together: int = 5
    judge_batches: list[int] = field(default_factory=list)

    def describe(self) -> Mapping[str, Json]:
        return {**super().describe(), "judge": {"name": self.judge_name}}

    def longest_first(self, samples: Sequence[Sample]) -> list[Sample]:
        return list(reversed(samples))

    def judge(self, samples: Sequence[Sample], predictions: Sequence[Prediction], folder: Path) -> Sequence[Verdict]:
        self.judge_batches.append(len(samples))
        return super().judge(samples, predictions, folder)


def test_the_longest_come_first_and_change_nothing(tmp_path: Path) -> None:
    plain = runner.run(tmp_path / "plain", [FakeBenchmark()], FakeGenerator(), SETTINGS, ALONE)
    model = FakeGenerator()
    ordered = runner.run(tmp_path / "ordered", [Sorted()], model, SETTINGS, ALONE)
    assert model.drawn == [sample.id for sample in reversed(FakeBenchmark().samples())]
    scores = [(tmp_path / name / "fake" / "scores.jsonl").read_bytes() for name in ("plain", "ordered")]
    assert scores[0] == scores[1]
    assert plain is not None
    assert ordered is not None
    assert plain[0].metrics == ordered[0].metrics


@pytest.mark.parametrize(("batch_size", "batches"), [(2, [5, 5, 2]), (6, [6, 6])])
def test_a_judge_sees_as_many_as_it_can_keep_busy_with(tmp_path: Path, batch_size: int, batches: list[int]) -> None:
    benchmark = Sorted()
    runner.run(tmp_path, [benchmark], FakeGenerator(), Settings("toy", batch_size=batch_size), ALONE)
    assert benchmark.judge_batches == batches


@dataclass
class Reader(FakeAnswerer):
    """Keeps what it was told to prepare, and whether it still was preparing when asked."""

    announced: list[tuple[list[str], int]] = field(default_factory=list)
    ahead_of: list[str] = field(default_factory=list)

    @contextmanager
    def ahead(self, samples: Sequence[Sample], workers: int) -> Iterator[None]:
        self.ahead_of = [sample.id for sample in samples]
        self.announced.append((self.ahead_of, workers))
        yield
        self.ahead_of = []

    def answer(self, samples: Sequence[Sample], seeds: Sequence[int]) -> Sequence[str]:
        assert set(self.ahead_of) >= {sample.id for sample in samples}
        return super().answer(samples, seeds)


def test_a_model_is_told_what_it_will_be_asked(tmp_path: Path) -> None:
    model = Reader()
    settings = Settings(suite="toy", batch_size=2, workers=3)
    for _ in range(2):  # the second time nothing is left to ask
        runner.run(tmp_path, [Sorted(task="answer")], model, settings, ALONE)
    assert model.announced == [([sample.id for sample in reversed(FakeBenchmark().samples())], 3)]


# Another judge


def test_another_judge_looks_at_the_stored_predictions(tmp_path: Path) -> None:
    before = runner.run(tmp_path, [Sorted(), FakeBenchmark(name="other")], FakeGenerator(), SETTINGS, ALONE)
    old = {rank.name: rank.read_bytes() for rank in (tmp_path / "fake" / "verdicts").iterdir()}
    again, other = Sorted(judge_name="second reader"), FakeBenchmark(name="other")
    with pytest.raises(BenchError, match=r'judge.name is "reader" there and "second reader" here'):
        runner.run(tmp_path, [again, other], FakeGenerator(), SETTINGS, ALONE)
    records = runner.rejudge(tmp_path, [again, other], 2, ALONE)
    assert records == store.read_records(tmp_path)
    assert records is not None
    assert before is not None
    assert Counter(again.judged) == Counter(sample.id for sample in again.samples())
    assert other.judged == []  # its judge is the same
    assert [record.judge for record in records] == [{"name": "second reader"}, {"name": "reader"}]
    assert [record.metrics for record in records] == [record.metrics for record in before]
    (entry,) = records[0].code["rejudged"]
    assert entry["judges_before"] == {"fake": {"name": "reader"}}
    assert entry["code"] == environment.code()
    # What the first judge said is kept beside, and the run goes on under the second one.
    assert {rank.name: rank.read_bytes() for rank in (tmp_path / "fake" / "verdicts-1").iterdir()} == old
    assert runner.run(tmp_path, [again, other], FakeGenerator(), SETTINGS, ALONE) == records
    assert runner.rejudge(tmp_path, [Sorted(), other], 2, ALONE) is not None
    assert (tmp_path / "fake" / "verdicts-2").is_dir()
    assert len(store.read_records(tmp_path)[0].code["rejudged"]) == 2


def test_processes_share_the_work_of_another_judge(tmp_path: Path) -> None:
    runner.run(tmp_path, [Sorted()], FakeGenerator(), SETTINGS, ALONE)
    halves = [Sorted(judge_name="second"), Sorted(judge_name="second")]
    assert runner.rejudge(tmp_path, halves[:1], 2, Part(0, 2)) is None
    assert not (tmp_path / "run.json").exists()
    assert runner.rejudge(tmp_path, halves[1:], 2, Part(1, 2)) is not None
    assert [len(half.judged) for half in halves] == [6, 6]
    assert len(list((tmp_path / "fake").glob("verdicts*"))) == 2


def test_a_judge_that_is_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    runner.run(tmp_path, [Sorted()], FakeGenerator(), SETTINGS, ALONE)

    class Stopped(Sorted):
        def judge(self, *arguments: Any) -> Sequence[Verdict]:
            if self.judge_batches:
                raise KeyboardInterrupt
            return super().judge(*arguments)

    with pytest.raises(KeyboardInterrupt):
        runner.rejudge(tmp_path, [Stopped(judge_name="second")], 2, ALONE)
    rest = Sorted(judge_name="second")
    assert runner.rejudge(tmp_path, [rest], 2, ALONE) is not None
    assert len(rest.judged) == 7


def test_a_judge_that_was_replaced_meanwhile_writes_nothing(tmp_path: Path) -> None:
    class Overtaken(Sorted):
        def samples(self) -> Sequence[Sample]:
            if again and not again[0].judged:
                runner.rejudge(tmp_path, again, 2, Part(0, 2))
            return super().samples()

    again: list[Sorted] = []
    runner.run(tmp_path, [Overtaken()], FakeGenerator(), SETTINGS, ALONE)
    again.append(Sorted(judge_name="second"))
    late = Overtaken()
    with pytest.raises(BenchError, match="another process has replaced the judge of fake"):
        runner.run(tmp_path, [late], FakeGenerator(), SETTINGS, ALONE)
    assert (len(again[0].judged), late.judged) == (6, [])


def test_only_judges_may_be_replaced_and_only_in_a_whole_run_that_nobody_writes(tmp_path: Path) -> None:
    second = Sorted(judge_name="second")
    with pytest.raises(KeyboardInterrupt):
        runner.run(tmp_path, [Sorted()], FakeGenerator(crash_after=4), SETTINGS, ALONE)
    with pytest.raises(BenchError, match=r"no prediction yet \(8 of fake\), such as fake/.*--stage generate first"):
        runner.rejudge(tmp_path, [second], 2, ALONE)
    runner.run(tmp_path, [Sorted()], FakeGenerator(), SETTINGS, ALONE)
    record = (tmp_path / "run.json").read_bytes()
    with pytest.raises(BenchError, match=r'profile is "fake-official" there and "strict" here'):
        runner.rejudge(tmp_path, [Sorted(judge_name="second", profile="strict")], 2, ALONE)
    with (
        store.Shard(store.shard_path(tmp_path / "fake", Verdict, 0)),
        pytest.raises(BenchError, match="is being written by another process"),
    ):
        runner.rejudge(tmp_path, [second], 2, ALONE)
    assert (tmp_path / "run.json").read_bytes() == record
    assert second.judged == []
