"""MMBench: circular questions, with and without a judge, and what a judge's failure leaves open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from datasets import Dataset
from PIL import Image

from benchmarks.harness import Profile, mmbench_accuracy
from benchmarks.mmbench import MmBench
from benchmarks.types import BenchError, Verdict
from benchmarks.understanding import Options
from tests.benchmarks.answering import ScriptedJudge, golden_answer, judged, scored, summarized

FRUIT = ("apple", "banana", "cherry")


def rows(questions: int) -> list[dict[str, Any]]:
    """Every question with three rotations of its options; a banana is right."""
    return [
        {
            "index": question + 1_000_000 * rotation,
            "question": f"Which fruit is number {question}",
            "hint": "nan",
            "answer": "ABC"[(1 - rotation) % 3],
            **dict(zip("ABC", FRUIT[rotation:] + FRUIT[:rotation], strict=True)),
            "D": "nan",
            "category": "ocr",
            "L2-category": "perception" if question % 2 else "reasoning",
            "source": "rows",
            "split": "dev",
            "image": Image.new("RGB", (2, 2)),
        }
        for rotation in range(3)
        for question in range(questions)
    ]


def column(questions: int, judge: ScriptedJudge | None = None, profile: Profile = "lmms-0.7.3") -> MmBench:
    return MmBench(Dataset.from_list(rows(questions)), {"name": "rows"}, Options(profile, judge))


def key(question: int, rotation: int) -> str:
    return f"mmbench/{question + 1_000_000 * rotation}"


def test_samples() -> None:
    samples = column(2).samples()
    assert [sample.id for sample in samples[1:3]] == [key(1, 0), key(0, 1)]
    assert [sample.group for sample in samples[1:3]] == ["mmbench/1", "mmbench/0"]
    assert samples[0].prompt == (
        "Which fruit is number 0 There are several options:\nA. apple\nB. banana\nC. cherry\n\n"
        "Answer with the option's letter from the given choices directly."
    )


def test_an_index_that_is_a_text_is_a_number() -> None:
    texts = [{**row, "index": str(row["index"])} for row in rows(2)]
    samples = MmBench(Dataset.from_list(texts), {"name": "rows"}).samples()
    assert [(sample.id, sample.group) for sample in samples] == [(s.id, s.group) for s in column(2).samples()]


def test_a_question_needs_all_its_rotations() -> None:
    mmbench = column(4)
    metrics = scored(mmbench, lambda sample: "A" if sample.id == key(1, 2) else golden_answer(sample))
    assert {name: metric.value for name, metric in metrics.items()} == {
        "gpt_eval_score": 75,
        "gpt_eval_score.perception": 50,
        "gpt_eval_score.reasoning": 100,
    }
    overall = metrics["gpt_eval_score"]
    assert (overall.n, overall.missing, overall.unit) == (12, 0, "percent")
    assert overall.chance == pytest.approx(100 / 27)


def test_the_interval_is_that_of_questions_not_rows() -> None:
    """One of two questions is right: Wilson's interval for n = 2."""
    metric = scored(column(2), lambda sample: golden_answer(sample) if sample.group == "mmbench/0" else "A")
    assert metric["gpt_eval_score"].low == pytest.approx(9.453, abs=1e-3)
    assert metric["gpt_eval_score"].high == pytest.approx(90.547, abs=1e-3)


def test_the_static_mode_is_the_official_one() -> None:
    """Replies that the first rule cannot read and the static one can, or cannot."""
    replies = ["B", "banana", "the letter b I think", "Answer: A maybe", "", "a banana", "A or B", "C.", "(B)"]
    mmbench = column(3)
    samples = mmbench.samples()
    texts = {sample.id: reply for sample, reply in zip(samples, replies, strict=True)}
    metrics = scored(mmbench, lambda sample: texts[sample.id])
    items = [mmbench.harness.results(sample.meta["doc_id"], texts[sample.id])["gpt_eval_score"] for sample in samples]
    official = mmbench_accuracy(items, {}, static=True)
    assert metrics["gpt_eval_score"].value == 100 * official["overall_acc"]
    assert metrics["gpt_eval_score.perception"].value == 100 * official["l2_category_acc"]["perception"]


def test_the_judge_is_asked_only_where_no_letter_is_read() -> None:
    judge = ScriptedJudge({f"{key(0, 1)}/0": "A", f"{key(0, 2)}/0": "I would say C", f"{key(0, 2)}/1": "C"})
    mmbench = column(1, judge)
    replies = {key(0, 0): "B", key(0, 1): "the yellow one", key(0, 2): "the long one"}
    samples = mmbench.samples()
    verdicts = judged(mmbench, samples, lambda sample: replies[sample.id])
    assert [verdict.finding["judge"] for verdict in verdicts[:2]] == [None, "A"]
    assert [asked for asked, _ in judge.asked[:2]] == [f"{key(0, 1)}/0", f"{key(0, 2)}/0"]
    assert summarized(mmbench, samples, verdicts)[1]["gpt_eval_score"].value == 100
    # A stored run is scored again without the judge.
    assert summarized(column(1), samples, verdicts)[1]["gpt_eval_score"].value == 100


def test_the_judge_may_find_no_option_meant() -> None:
    metrics = scored(column(1, ScriptedJudge(otherwise="E")), "a cute teddy bear")
    assert (metrics["gpt_eval_score"].value, metrics["gpt_eval_score"].missing) == (0, 0)


@pytest.mark.parametrize("otherwise", [None, "I cannot tell", "A B C", "2"])
def test_a_failing_judge_leaves_a_question_open_unless_it_is_lost_already(otherwise: str | None) -> None:
    """Question 0: all other rotations right. Question 1: one is wrong, so that no judge can help it."""
    judge = ScriptedJudge(otherwise=otherwise)
    mmbench = column(2, judge)
    replies = {key(0, 0): "the yellow one", key(1, 0): "the yellow one", key(1, 1): "C"}
    samples = mmbench.samples()
    verdicts = judged(mmbench, samples, lambda sample: replies.get(sample.id, golden_answer(sample)))
    errors = [verdict.error for verdict in verdicts if verdict.error]
    assert len(errors) == 2
    assert "500" in errors[0] or "cannot be read" in errors[0]
    _, metrics = summarized(mmbench, samples, verdicts)
    metric = metrics["gpt_eval_score"]
    assert (metric.value, metric.n, metric.missing) == (0, 3, 3)
    assert len(judge.asked) == (2 if otherwise is None else 6)  # three tries at garbage


def test_without_a_judge_the_authors_profile_leaves_open_what_it_would_have_asked() -> None:
    mmbench = column(2, profile="blip3o-0.3.0")
    assert mmbench.task_name == "mmbench_en_dev"
    replies = {key(0, 0): "the yellow one"}
    metric = scored(mmbench, lambda sample: replies.get(sample.id, golden_answer(sample)))["gpt_eval_score"]
    assert (metric.value, metric.n, metric.missing) == (100, 3, 3)


def test_a_run_in_the_static_mode_is_not_scored_as_if_a_judge_had_been_asked() -> None:
    samples = column(1).samples()
    verdicts = judged(column(1), samples, "the yellow one")
    with pytest.raises(BenchError, match=r"mmbench/0 was run in MMBench's static mode: run it again"):
        summarized(column(1, profile="blip3o-0.3.0"), samples, verdicts)


def test_the_record_names_mode_and_judge() -> None:
    assert column(1).describe()["judge"]["task"] == "mmbench_en_dev_static"
    described = column(1, ScriptedJudge()).describe()["judge"]
    assert (described["task"], described["chat"]) == ("mmbench_en_dev", {"kind": "scripted"})


def test_a_judge_may_be_added_to_a_run_in_the_static_mode() -> None:
    """The model is asked the same in both."""
    static, judging = column(2), column(2, ScriptedJudge())
    assert (static.task_name, judging.task_name) == ("mmbench_en_dev_static", "mmbench_en_dev")
    for one, other in zip(static.samples(), judging.samples(), strict=True):
        assert (one.id, one.prompt, one.decoding) == (other.id, other.prompt, other.decoding)


def test_export_is_lmms_evals_table(tmp_path: Path) -> None:
    """Its evaluator reads it back and finds the same score, in the judged mode too where no letter is missing."""
    mmbench = column(2)
    samples = mmbench.samples()
    verdicts: dict[str, Verdict] = {
        verdict.id: verdict
        for verdict in judged(mmbench, samples, lambda s: golden_answer(s) + ".\n" if s.group == "mmbench/0" else "B")
    }
    mmbench.export(samples, {}, verdicts, tmp_path, tmp_path)
    table = pd.read_excel(tmp_path / "submission.xlsx", keep_default_na=False)
    fields = "index question answer prediction hint source split category L2-category A B C D E"
    assert table.columns.tolist() == fields.split()
    assert table["index"].tolist() == [0, 1, 1_000_000, 1_000_001, 2_000_000, 2_000_001]
    assert table["prediction"].tolist() == ["B.", "B", "A.", "B", "C.", "B"]
    official = mmbench_accuracy(table.to_dict("records"), {}, static=True)
    ours = summarized(mmbench, samples, list(verdicts.values()))[1]["gpt_eval_score"]
    assert 100 * official["overall_acc"] == ours.value == 50
