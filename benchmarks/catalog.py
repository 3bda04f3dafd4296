"""Which benchmarks there are. A benchmark's own module is imported when its factory is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.types import Benchmark

Suite = Literal["toy", "paper"]


@dataclass(frozen=True)
class Data:
    """Where real data lies: the folder of fetched data sets, and GenEval's judges where they are elsewhere."""

    root: Path | None = None
    detector: Path | None = None
    clip: Path | None = None


def _toy_geneval(data: Data) -> Benchmark:
    from benchmarks.geneval import GenEval

    return GenEval.toy()


def _paper_geneval(data: Data) -> Benchmark:
    import torch

    from benchmarks.datasets import DATASETS, data_dir, locate
    from benchmarks.geneval import GenEval
    from benchmarks.judges.color import ColorSpec

    prompts = locate("geneval", data.root)
    # The judges' weights are looked for when the first image is judged: rescoring and reports do without.
    root = data.root or data_dir()
    detector = data.detector or root / "mask2former-swin-s" / DATASETS["mask2former-swin-s"].files[0].name
    clip = data.clip or root / "clip-vit-l-14" / DATASETS["clip-vit-l-14"].files[0].name
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return GenEval.paper(
        prompts / "evaluation_metadata.jsonl",
        prompts / "object_names.txt",
        detector,
        ColorSpec("ViT-L-14-quickgelu", clip, device=device),
        device,
    )


def _toy_vqav2(data: Data) -> Benchmark:
    from benchmarks.vqav2 import Vqav2

    return Vqav2.toy()


def _paper_vqav2(data: Data) -> Benchmark:
    from benchmarks.datasets import data_dir
    from benchmarks.vqav2 import Vqav2

    return Vqav2.paper((data.root or data_dir()) / "vqav2")


BENCHMARKS: Mapping[tuple[Suite, str], Callable[[Data], Benchmark]] = {
    ("toy", "geneval"): _toy_geneval,
    ("toy", "vqav2"): _toy_vqav2,
    ("paper", "geneval"): _paper_geneval,
    ("paper", "vqav2"): _paper_vqav2,
}

#: The benchmarks of a suite, in the order in which they run and are reported.
SUITES: Mapping[Suite, tuple[str, ...]] = {
    "toy": ("geneval", "vqav2"),
    "paper": ("geneval", "vqav2"),
}
