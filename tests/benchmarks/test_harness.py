"""The bridge to lmms-eval: parity with its own evaluator, and nothing left behind in the process."""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import random
import subprocess
import sys
import textwrap
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image

from benchmarks import harness
from benchmarks.harness import (
    HarnessTask,
    Profile,
    mmbench_accuracy,
    mmbench_extracted,
    mmbench_inferred,
    mmbench_judge_prompt,
    mmbench_read,
    mmvet_judge_prompt,
    mmvet_read,
)
from benchmarks.types import BenchError, Decoding, JudgeError, Prediction
from benchmarks.vqav2 import Vqav2

ROOT = Path(harness.__file__).parents[1]


def row(answers: Sequence[str], question: str = "What is it?") -> dict[str, Any]:
    return {
        "question": question,
        "question_id": 7,
        "image_id": 1,
        "answers": [
            {"answer": answer, "answer_confidence": "yes", "answer_id": i} for i, answer in enumerate(answers, 1)
        ],
    }


def task(answers: Sequence[str]) -> HarnessTask:
    return HarnessTask("vqav2_val", Dataset.from_list([row(answers)]))


MMBENCH_ROW = {
    "index": 3,
    "question": "What is on the table",
    "hint": "nan",
    "answer": "B",
    "A": "a cup",
    "B": "an apple",
    "C": "a book",
    "D": "nan",
    "category": "ocr",
    "source": "s",
    "L2-category": "perception",
    "comment": "nan",
    "split": "dev",
}
MMVET_ROW = {
    "question_id": "v1_0",
    "image": None,
    "question": "What is x?",
    "answer": "-1<AND>-5",
    "image_source": "web",
    "capability": "ocr,math",
}


def mmmu(count: int, fallback: harness.Fallback = "per-item") -> HarnessTask:
    rows = [
        {
            "id": f"validation_Art_{number}",
            "question": "Which?",
            "options": "['red', 'green', 'blue', 'white']",
            "explanation": "",
            "img_type": "",
            "answer": "B",
            "topic_difficulty": "Easy",
            "question_type": "multiple-choice",
            "subfield": "Art",
        }
        for number in range(count)
    ]
    return HarnessTask("mmmu_val", Dataset.from_list(rows), fallback=fallback)


@pytest.mark.parametrize(("matches", "expected"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_leave_one_out_accuracy(matches: int, expected: float) -> None:
    """k of ten annotators agree: k annotators see k - 1 matches, the others k, and each gives min(1, matches / 3)."""
    answers = ["cat"] * matches + [f"dog{i}" for i in range(10 - matches)]
    assert task(answers).results(0, "cat")["exact_match"] == pytest.approx(expected)


@pytest.mark.parametrize("reply", ["The cat.", " cat\n", "CAT", "a cat"])
def test_normalisation_is_the_tasks_own(reply: str) -> None:
    assert task(["cat"] * 10).results(0, reply)["exact_match"] == 1


def test_the_same_doc_scores_the_same_twice() -> None:
    """VQAv2's process_results rewrites the answers of the doc it is given."""
    vqav2 = task(["two."] * 10)
    assert vqav2.results(0, "2") == vqav2.results(0, "2")
    assert vqav2.docs[0]["answers"][0]["answer"] == "two."


def test_prompt_and_decoding() -> None:
    vqav2 = task(["cat"] * 10)
    assert vqav2.prompt(vqav2.docs[0]) == "What is it?\nAnswer the question using a single word or phrase."
    assert vqav2.decoding == Decoding(max_new_tokens=16, stop=("\n\n",), temperature=0.0)


def test_a_generation_option_without_a_word_for_it_is_refused() -> None:
    vqav2 = task(["cat"] * 10)
    vqav2.task.config.generation_kwargs["num_beams"] = 4
    with pytest.raises(ValueError, match="vqav2_val sets num_beams"):
        _ = vqav2.decoding


def test_an_exception_in_the_rule_comes_at_once_and_as_itself() -> None:
    """lmms-eval tries five times, 2 s apart, and raises RetryError."""
    vqav2 = task(["cat"] * 10)
    start = time.perf_counter()
    with pytest.raises(AttributeError):
        vqav2.results(0, 5)  # type: ignore[arg-type]
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize(
    ("profile", "decoding"),
    [
        ("lmms-0.7.3", Decoding(max_new_tokens=128, stop=("\n\n",), temperature=0.0)),
        ("blip3o-0.3.0", Decoding(max_new_tokens=16, stop=(), temperature=0.0)),
    ],
)
def test_decoding_of_mmmu(profile: Profile, decoding: Decoding) -> None:
    assert HarnessTask("mmmu_val", mmmu(1).docs, profile).decoding == decoding


def test_mmvet_is_sampled_at_a_temperature() -> None:
    """Its YAML says do_sample: false beside temperature 0.2, and the model classes look at the temperature only."""
    assert HarnessTask("mmvet", Dataset.from_list([MMVET_ROW])).decoding.temperature == 0.2


def test_an_unreadable_letter_is_drawn_per_question_whatever_the_order() -> None:
    """lmms-eval draws from one sequence, so that the letters change with the number of processes."""
    task = mmmu(30)
    assert not task.results(0, "(B)")["random_fallback"]
    state = random.getstate()
    forwards = [task.results(doc_id, "hm") for doc_id in range(30)]
    backwards = [task.results(doc_id, "hm") for doc_id in reversed(range(30))]
    assert forwards == backwards[::-1]
    assert all(result["random_fallback"] for result in forwards)
    assert {result["mmmu_acc"]["parsed_pred"][0] for result in forwards} == set("ABCD")
    assert random.getstate() == state


def test_lmms_evals_own_sequence_of_letters_is_kept_for_parity() -> None:
    """random.choice after random.seed(0), as simple_evaluate seeds."""
    task = mmmu(30, fallback="official")
    random.seed(0)
    drawn = [task.results(doc_id, "hm")["mmmu_acc"]["parsed_pred"] for doc_id in range(30)]
    random.seed(0)
    assert drawn == [[random.choice("ABCD")] for _ in range(30)]


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8))


def test_all_frames_of_a_seedbench_video_and_none_in_its_docs() -> None:
    row = {
        "question": "What happens?",
        "choice_a": "a",
        "choice_b": "b",
        "choice_c": "c",
        "choice_d": "d",
        "answer": "A",
        "data_type": "video",
        "question_id": "1",
    }
    columns = Features({**{name: Value("string") for name in row}, "image": List(ImageFeature())})
    seed = HarnessTask("seedbench", Dataset.from_list([{**row, "image": [noise()] * 3}], features=columns))
    assert seed.docs.column_names == list(row)
    assert [image.size for image in seed.images(0)] == [(48, 32)] * 3
    assert seed.results(0, "A") == {
        metric: {"pred": "A", "answer": "A", "question_id": "1"} for metric in ("seed_video", "seed_all")
    }


def test_the_papers_images_are_jpeg() -> None:
    """Pillow's default quality of 75 changes noise a good deal, and nothing is changed under lmms-eval's profile."""
    rows = Dataset.from_list([{**row(["a"] * 10), "image": noise()}]).cast_column("image", ImageFeature())
    (as_stored,) = HarnessTask("vqav2_val", rows).images(0)
    (as_jpeg,) = HarnessTask("vqav2_val", rows, "blip3o-0.3.0").images(0)
    assert np.array_equal(np.asarray(as_stored), np.asarray(noise()))
    buffer = io.BytesIO()
    noise().save(buffer, "JPEG")
    assert np.array_equal(np.asarray(as_jpeg), np.asarray(Image.open(buffer)))
    assert not np.array_equal(np.asarray(as_jpeg), np.asarray(noise()))


def test_the_paper_had_no_static_mmbench() -> None:
    with pytest.raises(BenchError, match="use profile lmms-0"):
        HarnessTask("mmbench_en_dev_static", Dataset.from_list([MMBENCH_ROW]), "blip3o-0.3.0")


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("B", "B"),
        (" The answer is (C).\n", "C"),
        ("It is an apple", "B"),
        ("A cup and a book stand there", None),
        ("", None),
        ("a banana", "D"),  # three options, and "nan" in place of the fourth
    ],
)
def test_mmbench_reads_a_letter_without_a_judge(reply: str, letter: str | None) -> None:
    assert mmbench_inferred(MMBENCH_ROW, reply) == letter


def test_mmbench_judges_reply() -> None:
    assert mmbench_judge_prompt(MMBENCH_ROW, " something round ").endswith(
        "Question: What is on the table?\nOptions: There are several options: \n"
        "A. a cup\nB. an apple\nC. a book\nD. nan\n\nAnswer: something round\nYour output: "
    )
    assert mmbench_read(MMBENCH_ROW, " B.") == "B"
    assert mmbench_read(MMBENCH_ROW, "E") == "E"
    assert mmbench_read(MMBENCH_ROW, "I cannot tell") is None


def test_mmbenchs_static_rule_takes_a_letter_from_anywhere() -> None:
    assert mmbench_inferred(MMBENCH_ROW, "<answer>B</answer>") is None
    assert mmbench_extracted(MMBENCH_ROW, "<answer>B</answer>") == "B"
    assert mmbench_extracted(MMBENCH_ROW, "no idea") is None


def test_mmbench_asks_its_judge_and_draws_without_one() -> None:
    """All rotations of a question must be right."""
    rows = [{**MMBENCH_ROW, "index": 3 + turn * 1_000_000} for turn in range(2)]
    task = HarnessTask("mmbench_en_dev", Dataset.from_list(rows))
    items = [task.results(doc_id, reply)["gpt_eval_score"] for doc_id, reply in enumerate(["B", "something round"])]
    prompt = mmbench_judge_prompt(rows[1], "something round")
    assert task.aggregate("gpt_eval_score", items, {prompt: "B"}) == 100
    assert task.aggregate("gpt_eval_score", items, {prompt: "C"}) == 0
    state = random.getstate()
    assert mmbench_accuracy(items, {}) == mmbench_accuracy(items, {})  # drawn, by a seed of its own
    assert random.getstate() == state


@pytest.mark.parametrize(
    ("judge_reply", "score"),
    [
        ("0.5", 0.5),
        (" 1.0 because", 1.0),
        ("0", 0.0),
        ("2", None),
        ("-0.1", None),
        ("nan", None),
        ("Correctness: 0.5", None),
        ("", None),
    ],
)
def test_mmvets_judge_is_read_or_missing(judge_reply: str, score: float | None) -> None:
    assert mmvet_read(judge_reply) == score


def test_mmvet_is_scored_by_its_judges_reply() -> None:
    mmvet = HarnessTask("mmvet", Dataset.from_list([MMVET_ROW]))
    assert mmvet.images(0) == []
    assert mmvet_judge_prompt(MMVET_ROW, " x = -1 ").endswith("\nWhat is x? | -1 <AND> -5 | x = -1 |")
    item = mmvet.results(0, "x = -1", "0.5")["gpt_eval_score"]
    assert (item["score"], item["pred_answer"]) == (0.5, "x = -1")
    assert mmvet.aggregate("gpt_eval_score", [item]) == 50
    with pytest.raises(ValueError, match="scored by what its judge said"):
        mmvet.results(0, "x = -1")


def test_a_judges_number_out_of_range_ends() -> None:
    """At "2" lmms-eval asks its judge for ever; at words it waits 20 s, asks eight times and scores 0."""
    mmvet = HarnessTask("mmvet", Dataset.from_list([MMVET_ROW]))
    start = time.perf_counter()
    with pytest.raises(JudgeError, match=r"v1_0: the judge's score is not within 0\.\.1: '2'"):
        mmvet.results(0, "x = -1", "2")
    assert mmvet.results(0, "x = -1", "quite good")["gpt_eval_score"]["score"] == 0
    assert time.perf_counter() - start < 1


def test_no_rows() -> None:
    with pytest.raises(BenchError, match="vqav2_val has no rows"):
        HarnessTask("vqav2_val", Dataset.from_list([]))


def test_another_version_of_lmms_eval_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.7.2")
    with pytest.raises(BenchError, match=r"lmms-eval 0\.7\.2 is installed.*pip install lmms-eval==0\.7\.3"):
        task(["cat"] * 10)


def test_without_lmms_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", absent)
    with pytest.raises(BenchError, match=r"pip install 'blip3o-bench\[understanding\]'"):
        task(["cat"] * 10)


def test_nothing_is_left_behind_in_the_process(tmp_path: Path) -> None:
    """In a new interpreter, since another test may have imported lmms-eval before; without a judge's key, and with
    a file .env beside, which lmms-eval would read."""
    docs = {
        "vqav2_val": ("exact_match", row(["a"] * 10)),
        "mmmu_val": ("mmmu_acc", mmmu(1).docs[0]),
        "mmvet": ("gpt_eval_score", MMVET_ROW),
        "mmbench_en_dev": ("gpt_eval_score", MMBENCH_ROW),
    }
    program = """
        import json, logging, os, random, sys, warnings
        import datasets, loguru, torch, transformers
        from PIL import ImageFile
        from benchmarks.harness import HarnessTask

        def state():
            return {
                "warnings": list(warnings.filters),
                "truncated images": ImageFile.LOAD_TRUNCATED_IMAGES,
                "environment": dict(os.environ),
                "random": random.getstate(),
                "torch": torch.get_rng_state().tolist(),
                "logging": (logging.root.level, list(logging.root.handlers)),
                "loguru": str(loguru.logger),
                "files": os.listdir(),
            }

        assert "lmms_eval" not in sys.modules
        before = state()
        for name, (metric, doc) in json.loads(sys.argv[1]).items():
            task = HarnessTask(name, datasets.Dataset.from_list([doc]))
            task.aggregate(metric, [task.results(0, "hm", "1")[metric]])
        assert "lmms_eval" in sys.modules
        after = state()
        print([name for name in before if before[name] != after[name]])
    """
    (tmp_path / ".env").write_text("OPENAI_API_KEY=secret")
    environment = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), json.dumps(docs)],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout.strip(), done.stderr, done.returncode) == ("[]", "", 0)


class ScriptedAnswerer:
    """Right, wrong, or right with a full stop: a matter of the question's text alone."""

    device = "cpu"

    def __init__(self, answers: dict[str, str]) -> None:
        self.answers = answers  # prompt and image bytes -> the right answer

    def answer(self, samples: Sequence[Any], seeds: Sequence[int]) -> list[str]:
        return [self._answer(sample) for sample in samples]

    def _answer(self, sample: Any) -> str:
        (open_image,) = sample.images
        right = self.answers[sample.prompt + open_image().tobytes().hex()]
        assert sample.decoding.max_new_tokens == 16
        assert tuple(sample.decoding.stop) == ("\n\n",)
        return (right, "zebra", f" The {right}.")[len(sample.prompt) % 3]


@pytest.fixture
def random_state_kept() -> Iterator[None]:
    """lmms-eval's evaluator seeds everything."""
    import torch

    state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    random.setstate(state)
    np.random.set_state(numpy_state)
    torch.set_rng_state(torch_state)


@pytest.mark.usefixtures("random_state_kept")
def test_parity_with_lmms_evals_own_evaluator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same model through ``simple_evaluate`` (by its plugin's name) and through our benchmark."""
    benchmark = Vqav2.toy(images=8)
    samples = benchmark.samples()
    answerer = ScriptedAnswerer(
        {sample.prompt + sample.images[0]().tobytes().hex(): sample.meta["answer"] for sample in samples}
    )

    predictions = [
        Prediction(sample.id, 0, 0.0, text=reply)
        for sample, reply in zip(samples, answerer.answer(samples, [0] * len(samples)), strict=True)
    ]
    verdicts = {verdict.id: verdict for verdict in benchmark.judge(samples, predictions, tmp_path)}
    scores, (metric, *_) = benchmark.summarize(samples, verdicts)

    official = evaluated_by_lmms_eval(benchmark, answerer, monkeypatch)
    assert metric.value == official["results"]["vqav2_val"]["exact_match,none"]
    assert [score.value for score in scores] == [item["exact_match"] for item in official["samples"]["vqav2_val"]]
    assert [sample.prompt for sample in samples] == [item["arguments"][0] for item in official["samples"]["vqav2_val"]]
    assert {score.value for score in scores} == {0.0, 1.0}  # the script is right and wrong


def evaluated_by_lmms_eval(benchmark: Vqav2, answerer: ScriptedAnswerer, monkeypatch: pytest.MonkeyPatch) -> Any:
    with warnings.catch_warnings():
        from lmms_eval.evaluator import simple_evaluate
        from lmms_eval.models import MODEL_REGISTRY_V2
        from lmms_eval.tasks import TaskManager

        from model.lmms_plugin import manifests

        generate = ModuleType("model.generate")
        generate.load_answerer = lambda spec, device: answerer  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "model.generate", generate)
        for manifest in manifests():
            MODEL_REGISTRY_V2.register_manifest(manifest)  # what an installed entry point does
        return simple_evaluate(
            model="blip3o",
            model_args="checkpoint=scripted",
            tasks=[benchmark.harness.task],
            task_manager=TaskManager(include_defaults=False),  # or it reads all 1,980 tasks first
            log_samples=True,
            process_docs_parallel=1,
        )


def test_the_plugin_reads_generation_kwargs_of_other_tasks() -> None:
    with warnings.catch_warnings():  # importing lmms-eval silences all warnings
        from model.lmms_plugin import Decoding as PluginDecoding
        from model.lmms_plugin import decoding

    mme = {"max_new_tokens": 16, "temperature": 0, "top_p": 1.0, "num_beams": 1, "do_sample": False, "until": ["\n\n"]}
    assert decoding(mme) == PluginDecoding(16, ("\n\n",), 0.0)
    assert decoding({"until": "ASSISTANT:", "image_aspect_ratio": "original"}) == PluginDecoding(
        128, ("ASSISTANT:",), 0.0
    )
    for refused in ({"num_beams": 5}, {"temperature": 0.2, "top_p": 0.9}, {"repetition_penalty": 1.2}):
        with pytest.raises(ValueError, match="not supported by blip3o"):
            decoding(refused)
