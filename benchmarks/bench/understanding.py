"""Our cost per question beside lmms-eval's own evaluator, in one run: ``make bench-understanding``.

The same 2,000 questions of the shapes world, the same task code, a model that opens the images and costs nothing;
then 500 and 2,000 questions about photographs of 1000 x 750 pixels, for the memory that the images take.
Each way runs in a process of its own, because the peak of memory is that of a process.
"""

from __future__ import annotations

import io
import json
import os
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
from benchmarks.work import Part, Settings

#: Scenes of the two sizes that are measured, up to five questions each.
SCENES = (200, 400)
#: Questions about photographs.
PHOTOGRAPHS = (500, 2000)


class Yes:
    """Opens every image and says yes. ``megabytes`` is the most memory of its own that the process had by then."""

    megabytes = 0.0

    def describe(self) -> Mapping[str, Json]:
        return {"name": "yes"}

    def answer(self, samples: Sequence[Sample], seeds: Sequence[int]) -> list[str]:
        for sample in samples:
            for image in sample.images:
                image()
        self.megabytes = max(self.megabytes, _own_megabytes())
        return ["yes"] * len(samples)


def _own_megabytes() -> float:
    """Without the pages of mapped files, which the system takes back when it needs room."""
    status = Path("/proc/self/status").read_text()
    (kilobytes,) = (line.split()[1] for line in status.splitlines() if line.startswith("RssAnon"))
    return int(kilobytes) / 1024


def ours(benchmark: Vqav2, model: Yes | None = None) -> float:
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings("toy", batch_size=16)
        records = runner.run(Path(folder), [benchmark], model or Yes(), settings, Part(0, 1))
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


def measure_photographs(questions: int, folder: Path) -> None:
    """Rows as they are fetched: parquet files, of which datasets keeps a mapped Arrow copy."""
    write_photographs(folder, questions)
    model = Yes()
    benchmark = Vqav2.paper(folder)
    started = time.perf_counter()
    ours(benchmark, model)
    seconds = time.perf_counter() - started
    print(json.dumps({"questions": questions, "seconds": seconds, "mb": model.megabytes}))


def write_photographs(folder: Path, questions: int) -> None:
    import datasets
    from PIL import Image

    buffer = io.BytesIO()
    Image.effect_noise((100, 75), 50).resize((1000, 750)).convert("RGB").save(buffer, "JPEG")
    rows = Vqav2.toy(images=1).rows.remove_columns("image")
    docs = [{**rows[i % len(rows)], "question_id": i, "image": {"bytes": buffer.getvalue()}} for i in range(questions)]
    features = datasets.Features({**rows.features, "image": datasets.Image()})
    folder.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_list(docs, features=features).to_parquet(folder / "validation-00000-of-00001.parquet")


def _result(*arguments: str, cache: str | None = None) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.bench.understanding", *arguments]
    environment = {**os.environ, **({"HF_DATASETS_CACHE": cache} if cache else {})}
    printed = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    result: dict[str, float] = json.loads(printed.strip().splitlines()[-1])
    return result


def main(arguments: Sequence[str]) -> None:
    if arguments and arguments[0] == "photographs":
        measure_photographs(int(arguments[1]), Path(arguments[2]))
        return
    if arguments:
        measure(arguments[0], int(arguments[1]))
        return
    for scenes in SCENES:
        for way in ("ours", "lmms-eval"):
            result = _result(way, str(scenes))
            each = 1000 * result["seconds"] / result["questions"]
            print(
                f"{result['questions']:5} questions  {way:9}  {each:6.2f} ms each  peak {result['mb']:5.0f} MB  "
                f"score {result['score']:.4f}",
                flush=True,
            )
    for questions in PHOTOGRAPHS:
        with tempfile.TemporaryDirectory() as folder:
            result = _result("photographs", str(questions), f"{folder}/vqav2", cache=f"{folder}/cache")
        each = 1000 * result["seconds"] / questions
        print(
            f"{questions:5} photographs  ours  {each:6.2f} ms each  peak {result['mb']:5.0f} MB of its own", flush=True
        )


if __name__ == "__main__":
    main(sys.argv[1:])
