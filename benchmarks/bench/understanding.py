"""Our cost per question beside lmms-eval's own evaluator, in one run: ``make bench-understanding``.

The same 2,000 questions of the shapes world, the same task code, a model that opens the images and costs nothing.
Each way runs in a process of its own, because the peak of memory is that of a process.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import runner
from benchmarks.harness import HarnessTask
from benchmarks.types import Json, Sample
from benchmarks.vqav2 import Vqav2

#: Scenes of the two sizes that are measured, up to five questions each.
SCENES = (200, 400)


class Yes:
    """Opens every image and says yes."""

    def describe(self) -> Mapping[str, Json]:
        return {"name": "yes"}

    def answer(self, samples: Sequence[Sample], seeds: Sequence[int]) -> list[str]:
        for sample in samples:
            for image in sample.images:
                image()
        return ["yes"] * len(samples)


def ours(benchmark: Vqav2) -> float:
    with tempfile.TemporaryDirectory() as folder:
        records = runner.run(Path(folder), [benchmark], Yes(), runner.Settings("toy", batch_size=16), runner.Part(0, 1))
        assert records is not None
        value = records[0].metrics[0].value
        assert value is not None
        return value


def theirs(benchmark: Vqav2) -> float:
    """lmms-eval's simple_evaluate on the same task object; it keeps nothing on disk."""
    from lmms_eval.api.instance import Instance
    from lmms_eval.api.model import lmms
    from lmms_eval.evaluator import simple_evaluate

    class LmmsYes(lmms):
        def generate_until(self, requests: list[Instance]) -> list[str]:
            for request in requests:
                _, _, doc_to_visual, doc_id, task, split = request.args
                doc_to_visual(self.task_dict[task][split][doc_id])
            return ["yes"] * len(requests)

        def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
            raise NotImplementedError

        def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
            raise NotImplementedError

    task = HarnessTask("vqav2_val", benchmark.rows).task
    results = simple_evaluate(model=LmmsYes(), tasks=[task], log_samples=True, process_docs_parallel=1)
    return float(results["results"]["vqav2_val"]["exact_match,none"])


def measure(way: str, scenes: int) -> None:
    benchmark = Vqav2.toy(images=scenes)
    len(benchmark.harness.docs)  # imports lmms-eval
    started = time.perf_counter()
    score = {"ours": ours, "lmms-eval": theirs}[way](benchmark)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"questions": len(benchmark.rows), "seconds": seconds, "mb": peak, "score": score}))


def main(arguments: Sequence[str]) -> None:
    if arguments:
        measure(arguments[0], int(arguments[1]))
        return
    for scenes in SCENES:
        for way in ("ours", "lmms-eval"):
            command = [sys.executable, "-m", "benchmarks.bench.understanding", way, str(scenes)]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            result = json.loads(printed.strip().splitlines()[-1])
            each = 1000 * result["seconds"] / result["questions"]
            print(
                f"{result['questions']:5} questions  {way:9}  {each:6.2f} ms each  peak {result['mb']:5.0f} MB  "
                f"score {result['score']:.4f}",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1:])
