"""Which benchmarks there are. A benchmark's own module is imported when its factory is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from benchmarks import plugins
from benchmarks.environment import torch_device
from benchmarks.types import BenchError, Benchmark

if TYPE_CHECKING:
    from benchmarks.dpg import Profile as DpgProfile
    from benchmarks.geneval import Profile as GenEvalProfile
    from benchmarks.harness import Profile
    from benchmarks.judges.chat import Chat
    from benchmarks.judges.vqa import VqaJudge
    from benchmarks.understanding import Options, Understanding
    from benchmarks.wise_wording import Profile as WiseProfile

#: ``ci`` is a fixed part of ``paper``, see ``benchmarks.subset``.
Suite = Literal["toy", "paper", "ci"]


@dataclass(frozen=True)
class Profiles:
    """Prompts and rules of the questions about images, of DPG-Bench and of WISE; FID has one. GenEval's follows from
    its detector, and is here for a stored run, which may have none any more."""

    understanding: Profile = "lmms-0.7.3"
    dpg: DpgProfile = "dpg-official"
    wise: WiseProfile = "wise-verified"
    geneval: GenEvalProfile = "geneval-official"


#: Profile -> the field of ``Profiles`` that it is for.
PROFILES: Mapping[str, str] = {
    "lmms-0.7.3": "understanding",
    "blip3o-0.3.0": "understanding",
    "dpg-official": "dpg",
    "dpg-corrected": "dpg",
    "wise-verified": "wise",
    "wise-legacy": "wise",
    "wise-own": "wise",
}


def choose(names: Sequence[str], stored: str = "") -> Profiles:
    """The profiles of ``names``; ``stored`` is taken where none of them is of its kind, and is none of ours for some
    benchmarks. Raises BenchError for two of a kind."""
    chosen: dict[str, str] = {}
    for name in names:
        field = PROFILES[name]
        if field in chosen:
            raise BenchError(f"{chosen[field]} and {name} are profiles of the same benchmarks: choose one")
        chosen[field] = name
    if stored in PROFILES:
        chosen.setdefault(PROFILES[stored], stored)
    if stored == "geneval-transformers":
        chosen["geneval"] = stored
    return Profiles(**chosen)  # type: ignore[arg-type]  # PROFILES says which is for which


@dataclass(frozen=True)
class Data:
    """Where real data lies, and how it is judged.

    ``root`` is the folder of fetched data sets; ``detector`` and ``clip`` are GenEval's judges where they are
    elsewhere. ``judge`` answers MMBench, MM-Vet, which asks it ``judge_runs`` times, and WISE, whose wording may be in
    ``judge_prompt``. ``vqa_judge`` answers DPG-Bench; ``grid`` is the side in pixels of a tile of its images. Judges
    run on ``device``, as ``torch_device`` reads it.
    """

    root: Path | None = None
    detector: Path | None = None
    clip: Path | None = None
    profiles: Profiles = Profiles()
    judge: Chat | None = None
    judge_runs: int = 1
    judge_prompt: Path | None = None
    vqa_judge: VqaJudge | None = None
    grid: int | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"


def _toy_geneval(data: Data) -> Benchmark:
    from benchmarks.geneval import GenEval

    return GenEval.toy()


def _paper_geneval(data: Data) -> Benchmark:
    from benchmarks.datasets import data_dir, locate
    from benchmarks.geneval import GenEval
    from benchmarks.judges.color import ColorSpec

    prompts = locate("geneval", data.root)
    # The judges' weights are looked for when the first image is judged: rescoring and reports do without.
    root = data.root or data_dir()
    detector = data.detector or root / "mask2former-swin-s" / _weights("mask2former-swin-s")
    clip = data.clip or root / "clip-vit-l-14" / _weights("clip-vit-l-14")
    device = torch_device(data.device)
    return GenEval.paper(
        prompts / "evaluation_metadata.jsonl",
        prompts / "object_names.txt",
        detector,
        ColorSpec("ViT-L-14-quickgelu", clip, device=device),
        device,
        profile="geneval-transformers" if detector.is_dir() else data.profiles.geneval,
    )


def _weights(name: str) -> str:
    """The one file of a data set whose files are listed here."""
    from benchmarks.datasets import DATASETS, Dataset

    dataset = DATASETS[name]
    assert isinstance(dataset, Dataset)
    return dataset.files[0].name


def _toy_mjhq(data: Data) -> Benchmark:
    from benchmarks.mjhq import Mjhq

    return Mjhq.toy()


def _paper_mjhq(data: Data) -> Benchmark:
    from benchmarks.datasets import data_dir
    from benchmarks.mjhq import Mjhq

    root = data.root or data_dir()
    return Mjhq.paper(
        root / "mjhq",
        root / "inception" / _weights("inception"),
        root / "clip-vit-b-32" / _weights("clip-vit-b-32"),
        root / "features",
        torch_device(data.device),
    )


#: The benchmarks of images that the model draws.
DRAWING = ("geneval", "dpg", "wise", "mjhq")
#: The columns of questions about images, in the order of the paper's Table 1; MME gives two of them.
COLUMNS = ("vqav2", "mmbench", "seedbench", "mmvet", "mme", "mmmu", "realworldqa", "textvqa")


#: The suite ``ci`` leaves MJHQ-30K out: a Fréchet distance of few images is another number, without a score per image.
CI = ("geneval", "dpg", "wise", *COLUMNS)
#: Groups of samples (prompts, images, questions with all rotations) of each benchmark in the suite ``ci``; all of them
#: where there are fewer. docs/suites.md states what loss so many can find.
CI_GROUPS = 250


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

    return Options(data.profiles.understanding, data.judge, data.judge_runs)


def _toy_column(name: str, data: Data) -> Benchmark:
    from benchmarks.shapes.chat import WordJudge

    options = _options(data)
    if name == "mmvet" and options.judge is None:  # the one that cannot do without
        options = replace(options, judge=WordJudge())
    return _column(name).toy(options)


def _paper_column(name: str, data: Data) -> Benchmark:
    from benchmarks.datasets import data_dir

    return _column(name).paper((data.root or data_dir()) / name, _options(data))


def _toy_dpg(data: Data) -> Benchmark:
    from benchmarks.dpg import DpgBench

    return DpgBench.toy(profile=data.profiles.dpg)


def _paper_dpg(data: Data) -> Benchmark:
    from benchmarks.datasets import locate
    from benchmarks.dpg import DpgBench
    from benchmarks.judges.vqa import Mplug

    rows = locate("dpg", data.root) / "dpg_bench.csv"
    judge = data.vqa_judge or Mplug(device=torch_device(data.device))
    return DpgBench.paper(rows, judge, profile=data.profiles.dpg, grid=data.grid)


def _toy_wise(data: Data) -> Benchmark:
    from benchmarks.wise import Wise

    return Wise.toy()


def _paper_wise(data: Data) -> Benchmark:
    from benchmarks.datasets import data_dir
    from benchmarks.wise import Wise

    return Wise.paper((data.root or data_dir()) / "wise", data.judge, data.profiles.wise, data.judge_prompt)


def _ci(name: str, data: Data) -> Benchmark:
    from benchmarks.subset import Subset

    return Subset(BENCHMARKS["paper", name](data), CI_GROUPS)


BENCHMARKS: Mapping[tuple[Suite, str], Callable[[Data], Benchmark]] = {
    ("toy", "geneval"): _toy_geneval,
    ("toy", "dpg"): _toy_dpg,
    ("toy", "wise"): _toy_wise,
    ("toy", "mjhq"): _toy_mjhq,
    **{("toy", name): partial(_toy_column, name) for name in COLUMNS},
    ("paper", "geneval"): _paper_geneval,
    ("paper", "dpg"): _paper_dpg,
    ("paper", "wise"): _paper_wise,
    ("paper", "mjhq"): _paper_mjhq,
    **{("paper", name): partial(_paper_column, name) for name in (*COLUMNS, "vqav2_test")},
    **{("ci", name): partial(_ci, name) for name in CI},
}

#: The benchmarks of a suite, in the order in which they run and are reported. vqav2_test, which gives no score, is in
#: none.
SUITES: Mapping[Suite, tuple[str, ...]] = {
    "toy": (*DRAWING, *COLUMNS),
    "paper": (*DRAWING, *COLUMNS),
    "ci": CI,
}

#: Samples of each benchmark in the suite that the command line calls toy-quick: the toy suite, limited.
QUICK = 32


def task(name: str) -> Literal["generate", "answer"] | None:
    """What a benchmark of ours asks of a model; None of others."""
    if name in DRAWING:
        return "generate"
    return "answer" if name in (*COLUMNS, "vqav2_test") else None


def load(suite: Suite, name: str, data: Data) -> Benchmark:
    """Ours, or a plug-in's where we have none of that name. Raises BenchError."""
    ours = BENCHMARKS.get((suite, name))
    return ours(data) if ours else plugins.benchmark(name, data)
