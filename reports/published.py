"""Published scores, each with its source and profile, and whether a run of ours reproduces them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from benchmarks.types import BenchError, Json, Metric, RunRecord

Unit = Literal["fraction", "percent", "points", "FID"]
Outcome = Literal["reproduced", "not reproduced", "not comparable"]


@dataclass(frozen=True)
class Column:
    """A column of a published table and the metric of ours that measures it.

    ``whole`` has what a metric may rest on when nothing was left out, as (scored, missing) samples. ``obstacle`` says
    why a metric of ours cannot be the published number whatever the run, or is empty.
    """

    title: str
    benchmark: str
    metric: str
    unit: Unit
    whole: tuple[tuple[int, int], ...]
    obstacle: str = ""


@dataclass(frozen=True)
class Published:
    """One published number, as it was printed.

    ``profile`` is None where the source does not say how the number was made; ``obstacle`` as a column's.
    """

    model: str
    column: Column
    printed: str
    source: str
    profile: str | None
    obstacle: str = ""

    @property
    def value(self) -> float:
        return float(self.printed)

    @property
    def rounding(self) -> float:
        """Half a unit of the last printed digit: how far the number may lie from the one that was rounded."""
        return 0.5 * 10.0 ** -len(self.printed.partition(".")[2])


def _all(n: int) -> tuple[tuple[int, int], ...]:
    return ((n, 0),)


#: The columns of Table 1. That seedbench's is seed_image is inferred: its authors print three numbers.
UNDERSTANDING = (
    Column(
        "VQAv2",
        "vqav2",
        "exact_match",
        "percent",
        _all(214_354),
        obstacle="the paper names no split (test-dev is customary, its answers are not public); measured is validation",
    ),
    Column("MMBench", "mmbench", "gpt_eval_score", "percent", _all(4_329)),
    Column("SEED", "seedbench", "seed_image", "percent", _all(14_232)),
    Column("MM-Vet", "mmvet", "gpt_eval_score", "points", _all(218)),
    Column("MME-P", "mme", "mme_perception_score", "points", _all(2_114)),
    Column("MME-C", "mme", "mme_cognition_score", "points", _all(260)),
    Column("MMMU", "mmmu", "mmmu_acc", "percent", _all(900)),
    Column("RWQA", "realworldqa", "exact_match", "percent", _all(765)),
    Column("TextVQA", "textvqa", "exact_match", "percent", _all(5_000)),
)
#: The columns of Table 2: GenEval has 553 prompts with four images, WISE a thousand prompts.
GENEVAL = Column("GenEval", "geneval", "overall", "fraction", _all(2_212))
#: 1,065 prompts with four images or a grid of them; the official script drops the first (benchmarks/dpg.py).
DPG = Column("DPG-Bench", "dpg", "overall", "percent", ((4_256, 4), (1_064, 1)))
WISE = Column("WISE", "wise", "wiscore", "fraction", _all(1_000))
GENERATION = (GENEVAL, DPG, WISE)
MJHQ = Column("MJHQ-30K FID", "mjhq", "fid", "FID", _all(30_000))

GENEVAL_TAGS = (
    GENEVAL,
    *(
        Column(f"GenEval {tag}", "geneval", tag, "fraction", _all(n))
        for tag, n in {
            "single_object": 320,
            "two_object": 396,
            "counting": 320,
            "colors": 376,
            "position": 400,
            "color_attr": 400,
        }.items()
    ),
)


def _wise(counts: Mapping[str, int]) -> tuple[Column, ...]:
    return (
        *(Column(f"WISE {name}", "wise", f"wiscore.{name}", "fraction", _all(n)) for name, n in counts.items()),
        WISE,
    )


_WISE_LEGACY = _wise({"culture": 400, "time": 167, "space": 133, "biology": 100, "physics": 100, "chemistry": 100})
_WISE_VERIFIED = _wise({"culture": 400, "time": 120, "space": 120, "biology": 120, "physics": 120, "chemistry": 120})

PAPER = "arXiv 2505.09568"
RELEASED = "README of github.com/JiuhaiChen/BLIP3o"  # of the checkpoints on the hub

#: What BLIP3-o's authors scored with: lmms-eval for all of Table 1 (their repository, issue 1), the benchmarks' own
#: scripts for Table 2. The other rows are quoted from elsewhere, and the paper does not say under what protocol.
_PROFILES: Mapping[str, str] = {
    **{column.benchmark: "blip3o-0.3.0" for column in UNDERSTANDING},
    "geneval": "geneval-official",
    "dpg": "dpg-official",
    "wise": "wise-legacy",
}

# arXiv 2505.09568, Table 1: VQAv2 MMBench SEED MM-Vet MME-P MME-C MMMU RWQA TextVQA.
_TABLE_1 = {
    "EMU2 Chat 34B": "-    -    62.8 48.5 -      -     34.1 -    66.6",
    "Chameleon 7B": "-    19.8 27.2 8.3  202.7  -     22.4 39.0 0.0",
    "Chameleon 34B": "-    32.7 -    9.7  604.5  -     38.8 39.2 0.0",
    "Seed-X 17B": "63.4 70.1 66.5 43.0 1457.0 -     35.6 -    -",
    "VILA-U 7B": "79.4 66.6 57.1 33.5 1401.8 -     32.2 46.6 48.3",
    "LMFusion 16B": "-    -    72.1 -    1603.7 367.8 41.7 60.0 -",
    "Show-o 1.3B": "69.4 -    -    -    1097.2 -     27.4 -    -",
    "EMU3 8B": "75.1 58.5 68.2 37.2 1243.8 266.1 31.6 57.4 64.7",
    "MetaMorph 8B": "-    75.2 71.8 -    -      -     41.8 58.3 60.5",
    "TokenFlow-XL 14B": "77.6 76.8 72.6 48.2 1551.1 371.1 43.2 56.6 77.6",
    "Janus 1.3B": "77.3 75.5 68.3 34.3 1338.0 -     30.5 -    -",
    "Janus Pro 7B": "-    79.2 72.1 50.0 1567.1 -     41.0 -    -",
    "BLIP3-o 4B": "75.9 78.6 73.8 60.1 1527.7 632.9 46.6 60.4 78.0",
    "BLIP3-o 8B": "83.1 83.5 77.5 66.6 1682.6 647.1 50.6 69.0 83.1",
}

# arXiv 2505.09568, Table 2: GenEval DPG-Bench WISE. "LLaVAFusion" is what it prints for Table 1's LMFusion.
_TABLE_2 = {
    "Chameleon 7B": "0.39 -     -",
    "Seed-X 17B": "0.51 -     -",
    "LLaVAFusion 16B": "0.63 -     -",
    "Show-o 1.3B": "0.68 67.27 0.35",
    "EMU3 8B": "0.66 80.60 0.39",
    "TokenFlow-XL 14B": "0.63 73.38 -",
    "Janus 1.3B": "0.61 79.68 0.18",
    "Janus Pro 7B": "0.80 84.19 0.35",
    "BLIP3-o 4B": "0.81 79.36 0.50",
    "BLIP3-o 8B": "0.84 81.60 0.62",
}

_UNRELEASED = "the paper's 8B also learned from 30 million proprietary images, and its weights are not public"

_RELEASED = {
    "BLIP3-o 4B": "0.81 79.36 0.50",
    "BLIP3-o 8B": "0.83 80.73 0.52",
}

# github.com/djghosh13/geneval, README: overall, then the six tags.
_GENEVAL = {
    "CLIP retrieval": "0.35 0.89 0.22 0.37 0.62 0.03 0.00",
    "minDALL-E": "0.23 0.73 0.11 0.12 0.37 0.02 0.01",
    "Stable Diffusion v1.5": "0.43 0.97 0.38 0.35 0.76 0.04 0.06",
    "Stable Diffusion v2.1": "0.50 0.98 0.51 0.44 0.85 0.07 0.17",
    "Stable Diffusion XL": "0.55 0.98 0.74 0.39 0.85 0.15 0.23",
    "IF-XL": "0.61 0.97 0.74 0.66 0.81 0.13 0.35",
}

# github.com/PKU-YuanGroup/WISE at eb51174, leadboard.md: the six categories, overall.
_WISE_LEADERBOARD = {
    "NanoBanana-Pro": "0.8975 0.8167 0.9333 0.8167 0.8667 0.8750 0.8760",
    "GPT-Image-1.5": "0.8900 0.6917 0.8833 0.8000 0.7583 0.7750 0.8250",
    "BAGEL (w/ CoT)": "0.7800 0.6333 0.5667 0.3750 0.5500 0.5083 0.6280",
    "DeepGen 1.0": "0.6500 0.4100 0.7200 0.3900 0.5900 0.4500 0.5700",
    "FLUX.2-dev": "0.6650 0.5667 0.6583 0.3667 0.5250 0.3750 0.5650",
    "QwenImage": "0.6275 0.5250 0.5583 0.3417 0.4833 0.2500 0.5100",
    "Qwen-Image-2512": "0.5950 0.4750 0.6000 0.3500 0.4917 0.2583 0.4990",
    "Z-Image": "0.5475 0.4667 0.5083 0.3250 0.4750 0.1750 0.4530",
    "FLUX.2-klein-9B": "0.4900 0.3917 0.5500 0.3833 0.4833 0.2250 0.4400",
    "HunyuanImage-3.0": "0.5250 0.3917 0.4833 0.3083 0.4500 0.2417 0.4350",
    "Uniworld_V1": "0.5150 0.4917 0.5500 0.2250 0.4000 0.1667 0.4260",
    "FLUX.1-dev": "0.5225 0.4000 0.5333 0.1750 0.3750 0.2417 0.4160",
    "SD-3.5-large": "0.4900 0.4083 0.4417 0.3000 0.3750 0.2083 0.4040",
    "FLUX.2-klein-4B": "0.4400 0.3667 0.4667 0.3167 0.3917 0.3333 0.4010",
    "SD-3-medium": "0.4700 0.4083 0.4000 0.2000 0.3750 0.2583 0.3850",
    "SD-3.5-medium": "0.4825 0.3750 0.3750 0.1833 0.3917 0.2000 0.3760",
    "FLUX.1-schnell": "0.4650 0.3250 0.4667 0.2083 0.3833 0.1000 0.3640",
    "SD-XL-0.9": "0.4925 0.3667 0.2417 0.2667 0.3333 0.1833 0.3640",
    "Bagel": "0.4125 0.3500 0.3083 0.2000 0.4417 0.2583 0.3520",
    "Janus-Pro-7B": "0.3700 0.3500 0.2833 0.2833 0.4000 0.2333 0.3340",
    "SD-1.5": "0.4450 0.3083 0.2083 0.2083 0.2167 0.1500 0.3090",
    "Janus-1.3B": "0.3175 0.2833 0.1833 0.2250 0.3417 0.1833 0.2730",
    "Janus-Pro-1B": "0.3050 0.2333 0.2333 0.2167 0.3083 0.2000 0.2650",
}

# The same repository, WISE_legacy/README.md: the six categories, overall. Its table mixes two overalls: BAGEL's 0.52
# and OpenUni-B's 0.43 are unweighted means of the six.
_WISE_LEGACY_README = {
    "FLUX.1-dev": "0.48 0.58 0.62 0.42 0.51 0.35 0.50",
    "FLUX.1-schnell": "0.39 0.44 0.50 0.31 0.44 0.26 0.40",
    "PixArt-Alpha": "0.45 0.50 0.48 0.49 0.56 0.34 0.47",
    "playground-v2.5": "0.49 0.58 0.55 0.43 0.48 0.33 0.49",
    "SD-v1-5": "0.34 0.35 0.32 0.28 0.29 0.21 0.32",
    "SD-2-1": "0.30 0.38 0.35 0.33 0.34 0.21 0.32",
    "SD-XL-base-0.9": "0.43 0.48 0.47 0.44 0.45 0.27 0.43",
    "SD-3-medium": "0.42 0.44 0.48 0.39 0.47 0.29 0.42",
    "SD-3.5-medium": "0.43 0.50 0.52 0.41 0.53 0.33 0.45",
    "SD-3.5-large": "0.44 0.50 0.58 0.44 0.52 0.31 0.46",
    "GPT4o": "0.81 0.71 0.89 0.83 0.79 0.74 0.80",
    "DeepGen1.0": "0.72 0.81 0.70 0.67 0.82 0.66 0.73",
    "LongCat-Image": "0.66 0.61 0.72 0.66 0.72 0.49 0.65",
    "NextFlow-RL": "0.63 0.63 0.77 0.58 0.67 0.39 0.62",
    "Qwen-Image": "0.62 0.63 0.77 0.57 0.75 0.40 0.62",
    "UniWorld-V2": "0.60 0.61 0.70 0.53 0.64 0.32 0.58",
    "Hunyuan-Image 3.0": "0.58 0.57 0.70 0.56 0.63 0.31 0.57",
    "BAGEL": "0.44 0.55 0.68 0.44 0.60 0.39 0.52",
    "UniWorld-V1": "0.53 0.55 0.73 0.45 0.59 0.41 0.55",
    "Manzano-3B": "0.42 0.51 0.59 0.45 0.51 0.32 0.46",
    "Manzano-30B": "0.58 0.50 0.65 0.50 0.55 0.32 0.54",
    "OpenUni-B-512": "0.37 0.45 0.58 0.39 0.50 0.30 0.43",
    "OpenUni-L-512": "0.51 0.49 0.64 0.48 0.63 0.35 0.52",
    "OpenUni-L-1024": "0.49 0.53 0.69 0.49 0.56 0.39 0.52",
    "MetaQuery-XL": "0.56 0.55 0.62 0.49 0.63 0.41 0.55",
    "Liquid": "0.38 0.42 0.53 0.36 0.47 0.30 0.41",
    "Emu3": "0.34 0.45 0.48 0.41 0.45 0.27 0.39",
    "Harmon-1.5B": "0.38 0.48 0.52 0.37 0.44 0.29 0.41",
    "Janus-1.3B": "0.16 0.26 0.35 0.28 0.30 0.14 0.23",
    "JanusFlow-1.3B": "0.13 0.26 0.28 0.20 0.19 0.11 0.18",
    "Janus-Pro-1B": "0.20 0.28 0.45 0.24 0.32 0.16 0.26",
    "Janus-Pro-7B": "0.30 0.37 0.49 0.36 0.42 0.26 0.35",
    "Orthus-7B-base": "0.07 0.10 0.12 0.15 0.15 0.10 0.10",
    "Orthus-7B-instruct": "0.23 0.31 0.38 0.28 0.31 0.20 0.27",
    "show-o": "0.28 0.36 0.40 0.23 0.33 0.22 0.30",
    "show-o-512": "0.28 0.40 0.48 0.30 0.46 0.30 0.35",
    "vila-u-7b-256": "0.26 0.33 0.37 0.35 0.39 0.23 0.31",
}

# huggingface.co/datasets/playgroundai/MJHQ-30K, README.
_MJHQ = {"SDXL-1.0-refiner": "9.55", "playground-v2-1024px-aesthetic": "7.07"}

#: The model whose judgments the published number is made of; others give other numbers under the same rules.
_JUDGES: Mapping[tuple[str, str], str] = {
    ("mmvet", "blip3o-0.3.0"): "gpt-4-0613",
    ("dpg", "dpg-official"): "mplug",
    ("wise", "wise-legacy"): "gpt-4o-2024-05-13",
    ("wise", "wise-verified"): "Qwen3.5-35B-A3B",
}

#: Names of models in a run that are other names of published ones.
_ALIASES = {"BLIP3o/BLIP3o-Model-4B": "BLIP3-o 4B", "BLIP3o/BLIP3o-Model-8B": "BLIP3-o 8B"}


@cache
def published() -> tuple[Published, ...]:
    """All published numbers, table by table."""
    return (
        *_of_paper(_TABLE_1, UNDERSTANDING, f"{PAPER}, Table 1"),
        *_of_paper(_TABLE_2, GENERATION, f"{PAPER}, Table 2"),
        *(
            Published(model, column, printed, RELEASED, _PROFILES[column.benchmark])
            for model, column, printed in _cells(_RELEASED, GENERATION)
        ),
        *_of_benchmark(_GENEVAL, GENEVAL_TAGS, "README of github.com/djghosh13/geneval", "geneval-official"),
        *_of_benchmark(
            _WISE_LEADERBOARD,
            _WISE_VERIFIED,
            "leadboard.md of github.com/PKU-YuanGroup/WISE at eb51174",
            "wise-verified",
        ),
        *_of_benchmark(
            _WISE_LEGACY_README,
            _WISE_LEGACY,
            "WISE_legacy/README.md of github.com/PKU-YuanGroup/WISE at d6bfe42",
            "wise-legacy",
        ),
        *_of_benchmark(_MJHQ, (MJHQ,), "card of huggingface.co/datasets/playgroundai/MJHQ-30K", "cleanfid-clean"),
    )


def _cells(table: Mapping[str, str], columns: Sequence[Column]) -> Iterator[tuple[str, Column, str]]:
    for model, line in table.items():
        for column, printed in zip(columns, line.split(), strict=True):
            if printed != "-":
                yield model, column, printed


def _of_paper(table: Mapping[str, str], columns: Sequence[Column], source: str) -> Iterator[Published]:
    for model, column, printed in _cells(table, columns):
        profile = _PROFILES[column.benchmark] if model.startswith("BLIP3-o") else None
        unreleased = model == "BLIP3-o 8B" and column in GENERATION
        yield Published(model, column, printed, source, profile, _UNRELEASED if unreleased else "")


def _of_benchmark(
    table: Mapping[str, str], columns: Sequence[Column], source: str, profile: str
) -> Iterator[Published]:
    for model, column, printed in _cells(table, columns):
        yield Published(model, column, printed, source, profile)


@dataclass(frozen=True)
class Comparison:
    """A measured score beside a published one, both in the published unit.

    ``measured``, ``low``, ``high`` and ``difference`` (measured - published) are None where there is nothing to put
    beside the published number. ``reason`` says why a verdict is "not comparable".
    """

    published: Published
    profile: str
    measured: float | None
    low: float | None
    high: float | None
    difference: float | None
    outcome: Outcome
    reason: str = ""


def against_published(records: Sequence[RunRecord], model: str | None = None) -> list[Comparison]:
    """Every published number of a model beside the metric of ``records`` that measures it, in the order of the records.

    ``model`` names the published model, in any spelling of its letters and digits; without it, each record's own
    model does. Raises BenchError when nothing was published of it for these benchmarks.

    Reproduced means: the published value, give or take its rounding, lies inside the measured 95 % interval. Nothing
    is known of the published number's own error, so this is a one-sample question: "not reproduced" says that the
    sampling error of our samples does not explain the difference, and "reproduced" that it may.
    """
    comparisons = [
        _compare(value, record, metric)
        for record in records
        for metric in record.metrics
        for value in _values(_normal(model or _name_of(record)))
        if (value.column.benchmark, value.column.metric) == (record.benchmark, metric.name)
    ]
    if not comparisons:
        names = dict.fromkeys(value.model for value in published() if value.source.startswith((PAPER, RELEASED)))
        wanted = model or ", ".join(dict.fromkeys(map(_name_of, records)))
        raise BenchError(
            f"nothing is published of {wanted} for these benchmarks; "
            f"name a model of the paper with --published: {', '.join(names)}"
        )
    return comparisons


def _name_of(record: RunRecord) -> str:
    name = str(record.model.get("name", "unnamed"))
    return _ALIASES.get(name.partition("@")[0], name)


def _normal(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _values(model: str) -> list[Published]:
    return [value for value in published() if _normal(value.model) == model]


def _compare(value: Published, record: RunRecord, metric: Metric) -> Comparison:
    if record.suite == "toy":  # a toy score is never shown beside a published one
        return Comparison(value, record.profile, None, None, None, None, "not comparable", "toy suite")
    factor = 100.0 if (metric.unit, value.column.unit) == ("fraction", "percent") else 1.0
    measured, low, high = (None if x is None else factor * x for x in (metric.value, metric.low, metric.high))
    difference = None if measured is None else measured - value.value
    reason = _obstacle(value, record, metric)
    outcome: Outcome = "not comparable"
    if not reason and low is not None and high is not None:
        inside = low - value.rounding <= value.value <= high + value.rounding
        outcome = "reproduced" if inside else "not reproduced"
    return Comparison(value, record.profile, measured, low, high, difference, outcome, reason)


def _obstacle(value: Published, record: RunRecord, metric: Metric) -> str:
    """Why the two numbers cannot be compared, the first reason of several; or ``""``."""
    column = value.column
    limit = record.settings.get("limit")
    judge = _JUDGES.get((record.benchmark, record.profile), "")
    if metric.value is None:
        return "not measured"
    if value.profile is None:
        return "the source does not say how it was measured"
    if value.profile != record.profile:
        return f"other profile: {value.profile} published, {record.profile} measured"
    if value.obstacle or column.obstacle:
        return value.obstacle or column.obstacle
    if "rewrite" in record.settings:  # --rewrite FILE, see benchmarks/rewrite.py
        return "rewritten prompts"
    if judge and not any(judge.lower() in text.lower() for text in _texts(record.judge)):
        return f"other judge: {judge} published"
    if limit is not None:
        return f"a part only: --limit {limit}"
    if (metric.n, metric.missing) not in column.whole:
        if metric.missing:
            return f"{metric.missing} of {metric.n + metric.missing} samples missing"
        return f"other samples: {metric.n} in place of {column.whole[0][0]}"
    if metric.low is None or metric.high is None:
        return "no interval"
    return ""


def _texts(value: Json) -> Iterator[str]:
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)
    elif isinstance(value, str):
        yield value


def is_headline(benchmark: str, metric: str) -> bool:
    """Whether a metric of ours measures a column of the paper's tables or MJHQ's FID."""
    return any((c.benchmark, c.metric) == (benchmark, metric) for c in (*UNDERSTANDING, *GENERATION, MJHQ))
