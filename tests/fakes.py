"""A small benchmark and models that need no weights, for tests of everything around them.

``python -m tests.fakes OUT`` runs them, so that a test can start several processes and kill one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
from PIL import Image

from benchmarks import runner
from benchmarks.types import Json, JudgeError, Metric, Prediction, Sample, Score, Verdict
from benchmarks.work import Part, Settings


@dataclass
class FakeBenchmark:
    """Two questions per group; a score is a number that the judge read from the prediction.

    ``refuse`` are ids at which the judge raises; ``threshold`` is the rule, which a stored run can change.
    """

    name: str = "fake"
    task: str = "generate"
    groups: int = 6
    strata: tuple[str, ...] = ("a", "b", "c")
    threshold: float = 0.5
    refuse: set[str] = field(default_factory=set)
    version: str = "1"
    profile: str = "fake-official"
    judged: list[str] = field(default_factory=list)

    def describe(self) -> Mapping[str, Json]:
        return {"data": {"groups": self.groups}, "judge": {"name": "reader"}, "strata": list(self.strata)}

    def samples(self) -> Sequence[Sample]:
        per_stratum = -(-self.groups // len(self.strata))
        return [
            Sample(
                id=f"{self.name}/{group:05d}/{number}",
                prompt=f"prompt {group}",
                group=f"{self.name}/{group:05d}",
                stratum=self.strata[group // per_stratum],
            )
            for group in range(self.groups)
            for number in range(2)
        ]

    def judge(self, samples: Sequence[Sample], predictions: Sequence[Prediction], folder: Path) -> Sequence[Verdict]:
        for sample in samples:
            if sample.id in self.refuse:
                raise JudgeError("cannot look at it")
        self.judged.extend(sample.id for sample in samples)
        return [Verdict(prediction.id, {"value": _read(prediction, folder)}) for prediction in predictions]

    def summarize(self, samples: Sequence[Sample], verdicts: Mapping[str, Verdict]) -> tuple[list[Score], list[Metric]]:
        scores = [
            Score(
                sample.id,
                sample.group,
                sample.stratum,
                float(verdicts[sample.id].finding["value"] >= self.threshold) if sample.id in verdicts else None,
            )
            for sample in samples
        ]
        values = [score.value for score in scores if score.value is not None]
        mean = sum(values) / len(values) if values else None
        return scores, [Metric("overall", mean, None, None, len(values), len(scores) - len(values))]

    def export(
        self,
        samples: Sequence[Sample],
        predictions: Mapping[str, Prediction],
        verdicts: Mapping[str, Verdict],
        folder: Path,
        out: Path,
    ) -> None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "ids.txt").write_text("\n".join(sample.id for sample in samples if sample.id in verdicts))


def _read(prediction: Prediction, folder: Path) -> float:
    if prediction.image is None:
        return float(prediction.text or "nan")
    with Image.open(folder / prediction.image) as image:
        color = image.convert("RGB").getpixel((0, 0))
    assert isinstance(color, tuple)
    return color[0] / 255


@dataclass
class FakeGenerator:
    """Paints one color per seed, or returns the exception that ``fails`` holds for the sample.

    ``crash_after``: after so many samples it raises KeyboardInterrupt, as a user's Ctrl-C does.
    """

    digest: str = "0"
    fails: Mapping[str, Exception] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    crash_after: int | None = None
    seconds: float = 0.0
    drawn: list[str] = field(default_factory=list)

    def describe(self) -> Mapping[str, Json]:
        return {"name": "fake", "digest": self.digest}

    def generate(self, samples: Sequence[Sample], seeds: Sequence[int]) -> Sequence[Image.Image | Path | Exception]:
        return [self._draw(sample, seed) for sample, seed in zip(samples, seeds, strict=True)]

    def _draw(self, sample: Sample, seed: int) -> Image.Image | Path | Exception:
        if self.crash_after is not None and len(self.drawn) >= self.crash_after:
            raise KeyboardInterrupt
        time.sleep(self.seconds)
        self.drawn.append(sample.id)
        if sample.id in self.fails:
            return self.fails[sample.id]
        return self.files.get(sample.id) or Image.new("RGB", (8, 8), (seed % 256, seed // 256 % 256, 0))


@dataclass
class FakeAnswerer:
    """Answers a number in [0, 1) that depends on the seed alone."""

    def describe(self) -> Mapping[str, Json]:
        return {"name": "fake answers"}

    def answer(self, samples: Sequence[Sample], seeds: Sequence[int]) -> Sequence[str]:
        return [str(seed % 1000 / 1000) for seed in seeds]


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--batch-size", type=int, default=2)
@click.option("--groups", type=int, default=6)
@click.option("--seconds", type=float, default=0.0, help="Time that each image takes.")
def main(out: Path, batch_size: int, groups: int, seconds: float) -> None:
    """Run two fake benchmarks with RANK and WORLD_SIZE of the environment."""
    runner.run(
        out,
        [FakeBenchmark(groups=groups), FakeBenchmark(name="other", groups=groups)],
        FakeGenerator(seconds=seconds),
        Settings(suite="toy", batch_size=batch_size),
        Part.from_environment(),
    )


if __name__ == "__main__":
    main()
