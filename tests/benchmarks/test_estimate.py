"""What a run will take: counts, bytes, and time with its interval."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import catalog, estimate
from benchmarks.estimate import Seconds, rate, total
from benchmarks.judges.chat import Replay
from benchmarks.judges.vqa import ChatVqa
from benchmarks.work import Settings
from tests.fakes import FakeAnswerer, FakeBenchmark, FakeGenerator


def test_the_rate_of_batches_without_the_first() -> None:
    """10 samples in 25 s; the batches are 2 s faster and 2 s slower than that, and exactly as fast."""
    measured = rate([(4, 100.0), (4, 8.0), (4, 12.0), (2, 5.0)])
    assert (measured.value, measured.freedom) == (2.5, 2)
    assert measured.variance == pytest.approx(8 * 3 / 2 / 10**2)
    assert measured.times(10).interval == pytest.approx((25 - 14.905, 25 + 14.905), abs=1e-3)  # t = 4.3027


def test_one_batch_gives_no_interval() -> None:
    assert rate([(4, 8.0)]) == Seconds(2.0, None, 1)
    assert rate([(4, 100.0), (4, 8.0)]).interval is None
    assert total([rate([(4, 8.0)]), Seconds(1.0, 0.5, 3)]) == Seconds(3.0, None, 1)


def test_a_sum_adds_variances_and_has_satterthwaites_freedom() -> None:
    assert total([Seconds(1.0, 2.0, 4), Seconds(2.0, 1.0, 2)]) == Seconds(3.0, 3.0, 9 / (4 / 4 + 1 / 2))
    assert total([Seconds(1.0, 0.0, 1), rate([])]).interval == (1.0, 1.0)


def test_without_data_the_publishers_numbers_stand(tmp_path: Path) -> None:
    judge = Replay(tmp_path / "replies")
    data = catalog.Data(tmp_path, judge=judge, judge_runs=5)
    geneval, wise, mmvet, mmbench, vqav2 = (
        estimate.estimate("paper", name, None, data, None) for name in ("geneval", "wise", "mmvet", "mmbench", "vqav2")
    )
    assert (geneval.samples, geneval.groups, geneval.counted, geneval.judge_calls) == (2212, 553, False, 0)
    assert geneval.download_bytes is None  # OpenMMLab does not tell the detector's size
    assert (wise.samples, wise.judge_calls, wise.download_bytes) == (1000, 1000, 0)  # comes from a checkout
    assert (mmvet.judge_calls, mmbench.judge_calls) == (5 * 218, 4329)
    assert vqav2.download_bytes == 33_700_000_000
    asked = estimate.estimate("paper", "dpg", None, catalog.Data(tmp_path, vqa_judge=ChatVqa(judge)), None)
    grids = estimate.estimate("paper", "dpg", None, catalog.Data(tmp_path, vqa_judge=ChatVqa(judge), grid=512), None)
    assert (asked.samples, asked.judge_calls) == (4260, 4 * 14392)
    assert (grids.samples, grids.judge_calls) == (1065, 4 * 14392)
    limited = estimate.estimate("paper", "vqav2", None, data, 1000)
    assert (limited.samples, limited.groups) == (1000, 189)
    ci = estimate.estimate("ci", "vqav2", None, data, None)
    assert (ci.samples, ci.groups) == (1323, catalog.CI_GROUPS)


def test_what_is_fetched_is_not_fetched_again(tmp_path: Path) -> None:
    folder = tmp_path / "mme"
    folder.mkdir()
    files = [{"name": name, "url": "", "size": size, "sha256": ""} for name, size in (("a", 3), ("b", 5))]
    (folder / "revision.json").write_text(json.dumps({"repo": "", "commit": "0", "files": files}))
    left = [estimate.estimate("paper", "mme", None, catalog.Data(tmp_path), None).download_bytes]
    (folder / "a").write_bytes(b"abc")
    left.append(estimate.estimate("paper", "mme", None, catalog.Data(tmp_path), None).download_bytes)
    assert left == [8, 5]


def test_the_data_on_the_disk_is_counted() -> None:
    plan = estimate.estimate("toy", "fake", FakeBenchmark(groups=6), catalog.Data(), None)
    assert plan == estimate.Estimate("fake", 12, 6, True, 0, 0)
    assert estimate.estimate("toy", "fake", FakeBenchmark(groups=6), catalog.Data(), 3).samples == 4


def test_a_calibration_measures_and_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    benchmark, model = FakeBenchmark(groups=50), FakeGenerator(seconds=0.01)
    plan = estimate.estimate("toy", "fake", benchmark, catalog.Data(), None)
    measured = estimate.calibrated(plan, benchmark, model, Settings("toy", batch_size=4), 12)
    assert len(model.drawn) == len(benchmark.judged) == 12
    assert measured.seconds is not None
    assert measured.seconds.value >= 100 * 0.01
    assert measured.seconds.interval is not None
    assert measured.image_bytes is not None
    assert 5000 < measured.image_bytes < 20000  # 100 images of 8 x 8 pixels
    assert list(tmp_path.iterdir()) == []
    shown = estimate.table([measured], {"fake": 12.34})
    assert shown.splitlines()[2].split()[:6] == ["fake", "100", "50", "12.3", "-", "0"]
    told = json.loads(estimate.as_json([measured], {"fake": 12.34}))
    assert told["seconds"]["value"] == told["benchmarks"][0]["seconds"]["value"] == measured.seconds.value


def test_a_judge_of_many_is_timed_in_thirds() -> None:
    """Else its one look would be the one that loads it."""

    class Together(FakeBenchmark):
        judged_together = 1024

    benchmark = Together(groups=60)
    plan = estimate.estimate("toy", "fake", benchmark, catalog.Data(), None)
    measured = estimate.calibrated(plan, benchmark, FakeGenerator(), Settings("toy", batch_size=4), 24)
    assert measured.seconds is not None
    assert measured.seconds.variance is not None


def test_answers_take_no_disk_and_the_references_of_mjhq_are_not_touched() -> None:
    questions = FakeBenchmark(name="mjhq", task="answer", groups=20)
    plan = estimate.estimate("toy", "mjhq", questions, catalog.Data(), None)
    measured = estimate.calibrated(plan, questions, FakeAnswerer(), Settings("toy", batch_size=2), 4)
    assert (measured.image_bytes, questions.judged) == (0, [])
