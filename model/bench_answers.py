"""Who should prepare the images of questions: ``python -m model.bench_answers [WORKERS...]``.

64 questions about photographs of 1000 x 750 pixels at Qwen2.5-VL's size, cut into patches by the model itself, by a
thread ahead of it, and by worker processes. A pause stands for a model that computes on another device.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image
from transformers import BatchFeature

from model.generate import UPSTREAM_PIXELS, Decoding, Understanding, load_answerer

QUESTIONS, BATCH = 64, 16
PAUSES = (0.0, 0.05, 0.1)  # seconds


@dataclass(frozen=True)
class Greedy:
    max_new_tokens: int = 1
    stop: tuple[str, ...] = ()
    temperature: float = 0.0


@dataclass(frozen=True)
class Question:
    prompt: str
    images: tuple[Callable[[], Image.Image], ...]
    decoding: Decoding = Greedy()


class Pausing(Understanding):
    """The toy's processor, at the size of photographs, before a model that takes ``pause`` seconds per question."""

    pause = 0.0

    def _replies(self, inputs: Sequence[BatchFeature], decoding: Decoding, seed: int) -> list[str]:
        time.sleep(self.pause)
        return ["yes"] * len(inputs)


def seconds_each(model: Pausing, questions: Sequence[Question], ahead: AbstractContextManager[None]) -> float:
    start = time.perf_counter()
    with ahead:
        for first in range(0, len(questions), BATCH):
            batch = questions[first : first + BATCH]
            model.answer(batch, [0] * len(batch))
    return (time.perf_counter() - start) / len(questions)


def main(arguments: Sequence[str]) -> None:
    toy = load_answerer(str(Path(__file__).parent / "toy"))
    model = Pausing(toy.source, toy.model, toy.processor, toy.profile)
    model.processor.image_processor.size = UPSTREAM_PIXELS
    file = io.BytesIO()
    Image.effect_noise((100, 75), 50).resize((1000, 750)).convert("RGB").save(file, "JPEG")
    data = file.getvalue()
    questions = [Question("?", (partial(Image.open, io.BytesIO(data)),)) for _ in range(QUESTIONS)]
    for pause in PAUSES:
        model.pause = pause
        ways: list[tuple[str, AbstractContextManager[None]]] = [("itself", nullcontext())]
        ways += [("a thread", model.ahead(questions))]
        ways += [(f"{count} processes", model.ahead(questions, int(count))) for count in arguments or ("1", "2")]
        for name, ahead in ways:
            each = seconds_each(model, questions, ahead)
            print(f"model {1000 * pause:4.0f} ms  prepared by {name:12}  {1000 * each:6.1f} ms each", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
