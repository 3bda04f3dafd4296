"""Which benchmarks there are. A benchmark's own module is imported when its factory is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from benchmarks.types import Benchmark

if TYPE_CHECKING:
    from benchmarks.harness import Profile
    from benchmarks.judges.chat import Chat
    from benchmarks.understanding import Options, Understanding

Suite = Literal["toy", "paper"]
#: Prompts and rules of the questions about images; the first is the default.
PROFILES: tuple[Profile, ...] = ("lmms-0.7.3", "blip3o-0.3.0")


@dataclass(frozen=True)
class Data:
    """Where real data lies, and how it is judged.

    ``root`` is the folder of fetched data sets; ``detector`` and ``clip`` are GenEval's judges where they are
    elsewhere; ``profile`` is that of the questions about images, ``judge`` answers MMBench and MM-Vet, which
    asks it ``judge_runs`` times.
    """

    root: Path | None = None
    detector: Path | None = None
    clip: Path | None = None
    profile: Profile = "lmms-0.7.3"
    judge: Chat | None = None
    judge_runs: int = 1


def _toy_geneval(data: Data) -> Benchmark:
    from benchmarks.geneval import GenEval

    return GenEval.toy()


def _paper_geneval(data: Data) -> Benchmark:
    import torch

    from benchmarks.datasets import data_dir, locate
    from benchmarks.geneval import GenEval
    from benchmarks.judges.color import ColorSpec

    prompts = locate("geneval", data.root)
    # The judges' weights are looked for when the first image is judged: rescoring and reports do without.
    root = data.root or data_dir()
    detector = data.detector or root / "mask2former-swin-s" / _weights("mask2former-swin-s")
    clip = data.clip or root / "clip-vit-l-14" / _weights("clip-vit-l-14")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return GenEval.paper(
        prompts / "evaluation_metadata.jsonl",
        prompts / "object_names.txt",
        detector,
        ColorSpec("ViT-L-14-quickgelu", clip, device=device),
        device,
    )


def _weights(name: str) -> str:
    """The one file of a data set whose files are listed here."""
    from benchmarks.datasets import DATASETS, Dataset

    dataset = DATASETS[name]
    assert isinstance(dataset, Dataset)
    return dataset.files[0].name


#: The columns of questions about images, in the order of the paper's Table 1; MME gives two of them.
COLUMNS = ("vqav2", "mmbench", "seedbench", "mmvet", "mme", "mmmu", "realworldqa", "textvqa")


def _column(name: str) -> type[Understanding]:
    from benchmarks.mmbench import MmBench
    from benchmarks.mme import Mme
    from benchmarks.mmmu import Mmmu
    from benchmarks.mmvet import MmVet
    from benchmarks.realworldqa import RealWorldQa
    from benchmarks.seedbench import SeedBench
    from benchmarks.textvqa import TextVqa
    from benchmarks.vqav2 import Vqav2, Vqav2Test

    columns = (Vqav2, MmBench, SeedBench, MmVet, Mme, Mmmu, RealWorldQa, TextVqa, Vqav2Test)
    return next(column for column in columns if column.name == name)


def _options(data: Data) -> Options:
    from benchmarks.understanding import Options

    return Options(data.profile, data.judge, data.judge_runs)


def _toy_column(name: str, data: Data) -> Benchmark:
    from benchmarks.shapes.chat import WordJudge

    options = _options(data)
    if name == "mmvet" and options.judge is None:  # the one that cannot do without
        options = replace(options, judge=WordJudge())
    return _column(name).toy(options)


def _paper_column(name: str, data: Data) -> Benchmark:
    from benchmarks.datasets import data_dir

    return _column(name).paper((data.root or data_dir()) / name, _options(data))


BENCHMARKS: Mapping[tuple[Suite, str], Callable[[Data], Benchmark]] = {
    ("toy", "geneval"): _toy_geneval,
    **{("toy", name): partial(_toy_column, name) for name in COLUMNS},
    ("paper", "geneval"): _paper_geneval,
    **{("paper", name): partial(_paper_column, name) for name in (*COLUMNS, "vqav2_test")},
}

#: The benchmarks of a suite, in the order in which they run and are reported. vqav2_test, which gives no score, is in
#: none.
SUITES: Mapping[Suite, tuple[str, ...]] = {
    "toy": ("geneval", *COLUMNS),
    "paper": ("geneval", *COLUMNS),
}
