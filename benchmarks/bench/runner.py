"""What the runner costs, with models and judges that cost nothing: ``make bench-runner``.

Time that it adds to a model, rows stored per second, and whole runs and merges of growing size. Each size has a
process of its own, because the peak of memory is that of a process.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from PIL import Image

from benchmarks import runner, store
from benchmarks.predicting import seed_for
from benchmarks.types import Json, Metric, Prediction, Sample, Score, Verdict
from benchmarks.work import Part, Settings

#: Samples of the simulated runs.
SIZES = (10_000, 100_000, 1_000_000)
#: Default of ``blip3o-bench run --batch-size``.
BATCH = 16
#: Rows that are appended to measure their rate.
ROWS = 100_000


@dataclass
class Stub:
    """So many samples, four of a group; the judge reads a number in the reply, the rule averages. All cost nothing."""

    size: int
    task: str = "answer"
    name: str = "stub"
    version: str = "1"
    profile: str = "stub"

    def describe(self) -> Mapping[str, Json]:
        return {"data": {"size": self.size}, "judge": {"name": "stub"}}

    def samples(self) -> list[Sample]:
        return [
            Sample(f"stub/{i // 4:07d}/{i % 4}", f"question {i}", f"stub/{i // 4:07d}", "abcd"[i % 4])
            for i in range(self.size)
        ]

    def judge(self, samples: Sequence[Sample], predictions: Sequence[Prediction], folder: Path) -> list[Verdict]:
        return [Verdict(one.id, {"value": float(one.text or 0.5)}) for one in predictions]

    def summarize(self, samples: Sequence[Sample], verdicts: Mapping[str, Verdict]) -> tuple[list[Score], list[Metric]]:
        scores = [
            Score(sample.id, sample.group, sample.stratum, verdicts[sample.id].finding["value"]) for sample in samples
        ]
        mean = statistics.fmean(score.value or 0.0 for score in scores)
        return scores, [Metric("mean", mean, None, None, len(scores), 0)]

    def export(
        self,
        samples: Sequence[Sample],
        predictions: Mapping[str, Prediction],
        verdicts: Mapping[str, Verdict],
        folder: Path,
        out: Path,
    ) -> None:
        raise NotImplementedError


@dataclass
class StubModel:
    """Takes so many seconds per sample, without using the processor, as a model on another device does."""

    seconds: float = 0.0
    pixels: int = 128

    def describe(self) -> Mapping[str, Json]:
        return {"name": "stub"}

    def answer(self, samples: Sequence[Sample], seeds: Sequence[int]) -> list[str]:
        time.sleep(self.seconds * len(samples))
        return [str(seed % 1000 / 1000) for seed in seeds]

    def generate(self, samples: Sequence[Sample], seeds: Sequence[int]) -> list[Image.Image]:
        time.sleep(self.seconds * len(samples))
        noise = Image.effect_noise((self.pixels, self.pixels), 50).convert("RGB")
        return [noise] * len(samples)


@dataclass
class Stopwatch:
    """Seconds since it was made: on the clock, and of the processor with child processes that have ended."""

    clock: float = field(default_factory=time.perf_counter)
    used: float = field(default_factory=lambda: sum(os.times()[:4]))

    def seconds(self) -> tuple[float, float]:
        return time.perf_counter() - self.clock, sum(os.times()[:4]) - self.used


def bare(benchmark: Stub, model: StubModel, saves: bool) -> tuple[float, float]:
    """Seconds of a loop over model, judge and rule. It writes nothing but the images, those only if it ``saves`` them,
    and flushes nothing."""
    watch = Stopwatch()
    samples = benchmark.samples()
    verdicts: dict[str, Verdict] = {}
    folder = tempfile.TemporaryDirectory()
    for first in range(0, len(samples), BATCH):
        batch = samples[first : first + BATCH]
        seeds = [seed_for(0, sample.id) for sample in batch]
        texts: Sequence[str | None] = [None] * len(batch)
        if benchmark.task == "answer":
            texts = model.answer(batch, seeds)
        else:
            for number, image in enumerate(model.generate(batch, seeds), start=first):
                if saves:
                    image.save(f"{folder.name}/{number}.png")
        predictions = [
            Prediction(sample.id, seed, 0.0, text) for sample, seed, text in zip(batch, seeds, texts, strict=True)
        ]
        verdicts |= {verdict.id: verdict for verdict in benchmark.judge(batch, predictions, Path())}
    benchmark.summarize(samples, verdicts)
    seconds = watch.seconds()
    folder.cleanup()
    return seconds


def with_runner(benchmark: Stub, model: StubModel, root: Path) -> tuple[float, float]:
    """Seconds of the same with the runner, from opening the run to its record."""
    watch = Stopwatch()
    settings = Settings("stub", batch_size=BATCH)
    assert runner.run(root, [benchmark], model, settings, Part()) is not None
    return watch.seconds()


def overhead(benchmark: Stub, model: StubModel, saves: bool = False, times: int = 3) -> str:
    """What the runner adds to the bare loop, measured in turn with it: medians of the shares of its time. That of the
    processor is the one to read where other programs keep the processor busy."""
    clock, processor = [], []
    for _ in range(times):
        alone, used_alone = bare(benchmark, model, saves)
        with tempfile.TemporaryDirectory() as folder:
            ours, used = with_runner(benchmark, model, Path(folder))
        clock.append(ours / alone - 1)
        processor.append((used - used_alone) / alone)
    return f"{statistics.median(clock):.1%} (aim: 2 % at most), of the processor {statistics.median(processor):.1%}"


def rows_per_second(rows: int) -> float:
    """Predictions stored one batch at a time, from the first append to the last flush to the disk."""
    replies = [Prediction(f"stub/{i:07d}", i, 0.005, text="0.123", sha256="0" * 64) for i in range(rows)]
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        with store.Shard(store.shard_path(Path(folder), Prediction, 0)) as shard:
            for first in range(0, rows, BATCH):
                shard.append(replies[first : first + BATCH])
        return rows / (time.perf_counter() - started)


@dataclass(frozen=True)
class Cost:
    """Of one process: seconds on the clock and of the processor, and the most memory that it had, in MB."""

    seconds: float
    processor: float
    mb: float


def measure(what: Literal["run", "merge"], size: int, root: Path) -> Cost:
    """Cost of a run of ``size`` samples in ``root``, or of merging the one that is there."""
    benchmark = Stub(size)
    samples = benchmark.samples() if what == "merge" else []
    watch = Stopwatch()
    if what == "run":
        with_runner(benchmark, StubModel(), root)
    else:
        runner.merge(root / benchmark.name, benchmark, samples)
    seconds, processor = watch.seconds()
    return Cost(seconds, processor, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def _measured(what: Literal["run", "merge"], size: int, root: Path) -> Cost:
    """``measure`` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.bench.runner", what, str(size), str(root)]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    return Cost(**json.loads(printed))


def simulate(sizes: Sequence[int]) -> None:
    """Print the cost of runs and merges of growing size."""
    print("  samples  run: us/sample    of CPU   peak MB   merge: s  of CPU  peak MB", flush=True)
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            whole = _measured("run", size, Path(folder))
            merge = _measured("merge", size, Path(folder))
        each, processor = 1e6 * whole.seconds / size, 1e6 * whole.processor / size
        print(
            f"{size:9,} {each:15.1f} {processor:9.1f} {whole.mb:9.0f} {merge.seconds:10.1f} {merge.processor:7.1f} "
            f"{merge.mb:8.0f}",
            flush=True,
        )


def main(arguments: Sequence[str]) -> None:
    if arguments:
        what, size, root = arguments
        if what not in ("run", "merge"):
            raise SystemExit(f"usage: {__file__} [run|merge SAMPLES FOLDER]")
        print(json.dumps(vars(measure("run" if what == "run" else "merge", int(size), Path(root)))))
        return
    text = overhead(Stub(2000), StubModel(seconds=0.005))
    print(f"added to a model of 5 ms per answer: {text}", flush=True)
    for saves, loop in ((False, "a loop that saves no image"), (True, "a loop that saves each as PNG")):
        image = overhead(Stub(128, task="generate"), StubModel(seconds=0.1), saves)
        print(f"added to a model of 100 ms per image of 128 pixels, beside {loop}: {image}", flush=True)
    print(f"rows stored: {rows_per_second(ROWS):,.0f} per second (aim: 20,000)", flush=True)
    print("runs of growing size (aim: merging 1,000,000 within 60 s and 1,000 MB)", flush=True)
    simulate(SIZES)


if __name__ == "__main__":
    main(sys.argv[1:])
