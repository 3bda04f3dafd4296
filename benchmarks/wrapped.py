"""A benchmark in place of another one, of which it changes something: a part of its samples, or their prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.predicting import LongestFirst
from benchmarks.runner import judge_of
from benchmarks.types import Benchmark, Json, Metric, Prediction, Sample, Score, Verdict


class Wrapped:
    """Does all as ``benchmark`` does it, which gets ``own(samples)`` for samples."""

    def __init__(self, benchmark: Benchmark) -> None:
        self.benchmark = benchmark
        self.name = benchmark.name
        self.version = benchmark.version
        self.profile = benchmark.profile
        self.task = benchmark.task

    def own(self, samples: Sequence[Sample]) -> Sequence[Sample]:
        """The benchmark's own samples for these, which are of ``self.samples()``."""
        return samples

    @property
    def judged_together(self) -> int:
        """As the runner asks for it."""
        return int(getattr(self.benchmark, "judged_together", 1))

    def longest_first(self, samples: Sequence[Sample]) -> list[Sample]:
        """As the runner asks for it."""
        return self.benchmark.longest_first(samples) if isinstance(self.benchmark, LongestFirst) else list(samples)

    def describe(self) -> Mapping[str, Json]:
        return self.benchmark.describe()

    def describe_judge(self) -> Json:
        """As the runner asks for it."""
        return judge_of(self.benchmark)

    def samples(self) -> Sequence[Sample]:
        return self.benchmark.samples()

    def judge(self, samples: Sequence[Sample], predictions: Sequence[Prediction], folder: Path) -> Sequence[Verdict]:
        return self.benchmark.judge(self.own(samples), predictions, folder)

    def summarize(self, samples: Sequence[Sample], verdicts: Mapping[str, Verdict]) -> tuple[list[Score], list[Metric]]:
        return self.benchmark.summarize(self.own(samples), verdicts)

    def export(
        self,
        samples: Sequence[Sample],
        predictions: Mapping[str, Prediction],
        verdicts: Mapping[str, Verdict],
        folder: Path,
        out: Path,
    ) -> None:
        self.benchmark.export(self.own(samples), predictions, verdicts, folder, out)
