"""What flows through the suite: Sample -> Prediction -> Verdict -> Score -> Metric -> RunRecord.

A verdict is what an expensive judge *saw* (boxes, logits, replies); a score is what a cheap, pure rule
makes of it. They are apart so that a stored run can be scored again under another rule on a laptop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from PIL import Image

#: JSON-ready data: str, int, float, bool, None, and lists and dicts of them.
Json = Any


class BenchError(Exception):
    """A user's error: one line that says what is wrong and what to do. The command line exits with 2."""


class JudgeError(Exception):
    """A judge could not look at a prediction. The sample is counted as missing, never scored 0."""


def printable(text: str) -> str:
    """``text`` as a line that a terminal may show: what would steer it (escapes, newlines, marks that turn the
    direction of writing) and half surrogates stand as their escapes, such as ``\\x1b``."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


@dataclass(frozen=True)
class Decoding:
    """How an answer is to be decoded, as the benchmark's own task file says. Temperature 0 is greedy."""

    max_new_tokens: int = 128
    stop: tuple[str, ...] = ()
    temperature: float = 0.0


@dataclass(frozen=True)
class Sample:
    """One thing to ask of a model.

    ``id`` is stable for ever and unique in the benchmark; ``group`` is the unit of resampling (the prompt
    for GenEval's four images, the image for VQAv2); ``stratum`` the category that is reported on its own.
    ``images`` are opened only when called.
    """

    id: str
    prompt: str
    group: str
    stratum: str = ""
    images: tuple[Callable[[], Image.Image], ...] = ()
    decoding: Decoding = Decoding()
    meta: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True)
class Prediction:
    """What a model made of one sample: a text, or an image file inside the run. ``error`` says why not."""

    id: str
    seed: int
    seconds: float
    text: str | None = None
    image: str | None = None  # path relative to the benchmark's folder in the run
    sha256: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class Verdict:
    """What the judge saw in one prediction; ``finding`` is the benchmark's own JSON."""

    id: str
    finding: Json = None
    error: str | None = None


#: One for all scores: a million empty ones would take 64 MB.
_NO_PARTS: Mapping[str, Sequence[float]] = {}


@dataclass(frozen=True)
class Score:
    """The rule applied to one verdict. ``value`` is None when there was nothing to score, never 0 for that.

    ``parts`` are for metrics that average several values of a sample, as DPG-Bench's categories do its answers: by
    the metric's name, their sum (each in [0, 1]) and their number. Such a metric is the mean over all samples' values.
    """

    id: str
    group: str
    stratum: str
    value: float | None
    reason: str = ""
    parts: Mapping[str, Sequence[float]] = field(default_factory=lambda: _NO_PARTS)


@dataclass(frozen=True)
class Metric:
    """One number of a benchmark with its 95 % interval. ``low`` and ``high`` are None where n cannot give one.

    ``n`` counts scored samples, ``missing`` those that were asked for and could not be scored.
    ``chance`` is what a model scores that does not look, where the benchmark defines it.
    """

    name: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    missing: int
    higher_is_better: bool = True
    unit: str = "fraction"
    chance: float | None = None


@dataclass(frozen=True)
class RunRecord:
    """All that is known about one complete run of one benchmark; ``run.json`` holds one per benchmark."""

    benchmark: str
    version: str
    suite: str
    profile: str
    model: Mapping[str, Json]
    judge: Mapping[str, Json]
    data: Mapping[str, Json]
    seed: int
    settings: Mapping[str, Json]
    code: Mapping[str, Json]
    packages: Mapping[str, str]
    hardware: Mapping[str, Json]
    metrics: tuple[Metric, ...]


class Generator(Protocol):
    """Draws images. One result per sample: an image, a file of somebody else's, or the error that stopped it."""

    def describe(self) -> Mapping[str, Json]:
        """Name, digest of the weights and every setting that changes the output."""

    def generate(self, samples: Sequence[Sample], seeds: Sequence[int]) -> Sequence[Image.Image | Path | Exception]: ...


class Answerer(Protocol):
    """Answers questions about images; one reply per sample."""

    def describe(self) -> Mapping[str, Json]: ...

    def answer(self, samples: Sequence[Sample], seeds: Sequence[int]) -> Sequence[str | Exception]: ...


Model = Generator | Answerer


class Benchmark(Protocol):
    """One benchmark: what is asked, what the judge sees, and the rule."""

    name: str
    version: str
    profile: str
    task: str  # "generate" or "answer"

    def describe(self) -> Mapping[str, Json]:
        """Data digests, judge digests and settings: everything beside the model that determines the numbers."""

    def samples(self) -> Sequence[Sample]: ...

    def judge(self, samples: Sequence[Sample], predictions: Sequence[Prediction], folder: Path) -> Sequence[Verdict]:
        """Look at predictions without error (files lie under ``folder``). Expensive; JudgeError per sample goes
        into the verdict's ``error``."""

    def summarize(self, samples: Sequence[Sample], verdicts: Mapping[str, Verdict]) -> tuple[list[Score], list[Metric]]:
        """The pure rule: one score per sample in sample order (value None without a verdict), then the metrics."""

    def export(
        self,
        samples: Sequence[Sample],
        predictions: Mapping[str, Prediction],
        verdicts: Mapping[str, Verdict],
        folder: Path,
        out: Path,
    ) -> None:
        """Write what is stored without error to ``out``, in the layout that the benchmark's own scripts read.

        ``folder`` is the benchmark's in the run.
        """
