"""The bridge to lmms-eval: parity with its own evaluator, and nothing left behind in the process."""

from __future__ import annotations

import importlib.metadata
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
from datasets import Dataset

from benchmarks import harness
from benchmarks.harness import HarnessTask
from benchmarks.types import BenchError, Decoding, Prediction
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
    """In a new interpreter, since another test may have imported lmms-eval before."""
    program = """
        import logging, os, random, sys, warnings
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
        answers = [{"answer": "a", "answer_confidence": "yes", "answer_id": i} for i in range(10)]
        row = {"question": "q", "question_id": 1, "image_id": 1, "answers": answers}
        HarnessTask("vqav2_val", datasets.Dataset.from_list([row])).results(0, "a")
        assert "lmms_eval" in sys.modules
        after = state()
        print([name for name in before if before[name] != after[name]])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


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
        {
            sample.prompt + sample.images[0]().tobytes().hex(): sample.meta["multiple_choice_answer"]
            for sample in samples
        }
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
