"""MM-Vet: the mean over a judge's runs, their noise, and judges that fail."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import Dataset
from PIL import Image

from benchmarks.harness import mmvet_judge_prompt
from benchmarks.mmvet import MmVet
from benchmarks.understanding import Options
from tests.benchmarks.answering import ScriptedJudge, judged, scored, summarized

CAPABILITIES = ("rec", "ocr,math", "rec,know")


def column(judge: ScriptedJudge | None, runs: int = 1) -> MmVet:
    """Three questions; the second and the third are about the same image."""
    rows = [
        {
            "question_id": f"v1_{number}",
            "image": Image.new("RGB", (2, 2), "red" if number == 0 else "blue"),
            "question": f"What is x in {number}?",
            "answer": "-1<AND>-5",
            "image_source": "rows",
            "capability": capability,
        }
        for number, capability in enumerate(CAPABILITIES)
    ]
    return MmVet(Dataset.from_list(rows), {"name": "rows"}, Options(judge=judge, judge_runs=runs))


def test_samples() -> None:
    one, two, three = column(None).samples()
    assert one.prompt.endswith("best answer to the following question: \n\nWhat is x in 0?")
    assert (one.id, one.stratum) == ("mmvet/v1_0", "rec")
    assert one.group != two.group == three.group
    assert (one.decoding.temperature, one.decoding.max_new_tokens) == (0.2, 1024)


def test_score_and_capabilities() -> None:
    judge = ScriptedJudge({"mmvet/v1_0/0/0": "1.0", "mmvet/v1_1/0/0": "0.3 partly", "mmvet/v1_2/0/0": "0"})
    metrics = scored(column(judge), "x = 3")
    assert {name: metric.value for name, metric in metrics.items()} == pytest.approx(
        {
            "gpt_eval_score": 130 / 3,
            "gpt_eval_score.rec": 50,
            "gpt_eval_score.ocr": 30,
            "gpt_eval_score.know": 0,
            "gpt_eval_score.math": 30,
        }
    )
    assert {metric.unit for metric in metrics.values()} == {"points"}
    assert [temperature for _, temperature in judge.asked] == [0, 0, 0]


def test_several_runs_give_a_mean_and_its_noise() -> None:
    """Runs of 60, 90 and 90 points: mean 80, standard deviation sqrt(300)."""
    replies = {f"mmvet/v1_{number}/{run}/0": ("0.6", "0.9", "0.9")[run] for number in range(3) for run in range(3)}
    metrics = scored(column(ScriptedJudge(replies), runs=3), "x = 3")
    assert metrics["gpt_eval_score"].value == pytest.approx(80)
    noise = metrics["judge_noise"]
    assert noise.value == pytest.approx(300**0.5)
    assert (noise.low, noise.higher_is_better, noise.n) == (None, False, 3)


@pytest.mark.parametrize("garbage", ["2", "Correctness: 0.5", "-0.1", "nan", "I cannot say"])
def test_garbage_is_asked_again_and_then_missing(garbage: str) -> None:
    """At a 2, lmms-eval asks for ever; at words, it scores 0 in the end."""
    judge = ScriptedJudge({"mmvet/v1_1/0/2": "0.7"}, otherwise=garbage)
    mmvet = column(judge)
    samples = mmvet.samples()
    verdicts = judged(mmvet, samples, "x = 3")
    assert [verdict.error is None for verdict in verdicts] == [False, True, False]
    assert verdicts[0].error == f"JudgeError: the judge's reply cannot be read: {garbage!r}"
    metric = summarized(mmvet, samples, verdicts)[1]["gpt_eval_score"]
    assert (metric.value, metric.n, metric.missing) == (70, 1, 2)
    tries = [temperature for asked, temperature in judge.asked if asked.startswith("mmvet/v1_0/")]
    assert tries == [0.0, 0.5, 1.0, 1.5]


def test_one_failed_run_makes_a_question_missing() -> None:
    replies = {f"mmvet/v1_{number}/{run}/0": "1.0" for number in range(3) for run in range(2)}
    del replies["mmvet/v1_2/1/0"]
    mmvet = column(ScriptedJudge(replies), runs=2)
    verdicts = judged(mmvet, mmvet.samples(), "x = -1 or x = -5")
    assert [verdict.error for verdict in verdicts] == [None, None, "JudgeError: the server answered 500"]


def test_without_a_judge_everything_is_missing_with_the_reason() -> None:
    mmvet = column(None)
    verdicts = judged(mmvet, mmvet.samples(), "x = 3")
    assert {verdict.error for verdict in verdicts} == {"MM-Vet needs a judge: name one with --judge"}
    assert mmvet.describe()["judge"]["chat"] is None


def test_a_stored_run_is_scored_again_without_a_judge() -> None:
    mmvet = column(ScriptedJudge(otherwise="0.5"), runs=2)
    verdicts = judged(mmvet, mmvet.samples(), "x = 3")
    assert mmvet.describe()["judge"]["runs"] == 2
    rescored = summarized(column(None), mmvet.samples(), verdicts)[1]
    assert rescored["gpt_eval_score"].value == 50
    assert rescored["judge_noise"].value == 0


def test_export_is_what_the_authors_script_reads(tmp_path: Path) -> None:
    """mm-vet_evaluator.py (github.com/yuweihao/MM-Vet) joins results[question_id] to the question and the answer."""
    mmvet = column(ScriptedJudge(otherwise="0.5"))
    samples = mmvet.samples()
    verdicts = {verdict.id: verdict for verdict in judged(mmvet, samples, "x = 3")}
    mmvet.export(samples, {}, verdicts, tmp_path, tmp_path)
    results = json.loads((tmp_path / "submission.json").read_text())
    assert list(results) == ["v1_0", "v1_1", "v1_2"]
    for row in mmvet.rows:
        graded = " | ".join(
            [row["question"], row["answer"].replace("<AND>", " <AND> "), results[row["question_id"]], ""]
        )
        assert mmvet_judge_prompt(row, "x = 3").endswith("\n" + graded.rstrip(" "))
