from pathlib import Path

from PIL import Image, ImageStat

from benchmarks.catalog import Data
from benchmarks.types import Json, Metric, Prediction, Sample, Score, Verdict


class Gray:
    def __init__(self, argument: str) -> None:
        self.level = int(argument)

    def describe(self) -> dict[str, Json]:
        return {"name": "gray", "level": self.level}

    def generate(self, samples: list[Sample], seeds: list[int]) -> list[Image.Image]:
        return [Image.new("L", (8, 8), self.level) for _ in samples]


class Brightness:
    name, version, profile, task = "brightness", "1", "brightness-1", "generate"

    def __init__(self, data: Data) -> None:
        self.prompts = ["a bright day", "a dark night"]

    def describe(self) -> dict[str, Json]:
        return {"data": {"prompts": self.prompts}}

    def samples(self) -> list[Sample]:
        return [Sample(f"brightness/{i}", prompt, group=f"{i}") for i, prompt in enumerate(self.prompts)]

    def judge(self, samples: list[Sample], predictions: list[Prediction], folder: Path) -> list[Verdict]:
        levels = [ImageStat.Stat(Image.open(folder / str(one.image)).convert("L")).mean[0] for one in predictions]
        return [Verdict(one.id, level / 255) for one, level in zip(predictions, levels, strict=True)]

    def summarize(self, samples: list[Sample], verdicts: dict[str, Verdict]) -> tuple[list[Score], list[Metric]]:
        found = {name: verdict.finding for name, verdict in verdicts.items()}
        scores = [Score(sample.id, sample.group, "", found.get(sample.id)) for sample in samples]
        values = [score.value for score in scores if score.value is not None]
        mean = sum(values) / len(values) if values else None
        return scores, [Metric("brightness", mean, None, None, len(values), len(scores) - len(values))]
