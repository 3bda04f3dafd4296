"""Our FID beside clean-fid's own way, in one run: ``python -m benchmarks.bench.fid`` (7 minutes of processor time).

First the Fréchet distance alone, at 2048 features; then FID of 2,000 synthetic 1024-pixel JPEGs against as many
references, end to end. Without ``--inception`` a small random network stands in for it, so the time is that of
decoding, resizing and the distance, as beside a GPU. clean-fid has a process per core for them, and then the 12 that
are its default; ours has a thread per core.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks import frechet
from benchmarks.environment import usable_cores
from benchmarks.judges.inception import INCEPTION_FILE, Inception, extract, read_image
from benchmarks.mjhq import TOGETHER, Prompt, Reference
from benchmarks.work import Part

Result = TypeVar("Result")

DIMENSION = 2048
SIDE = 1024
#: The processes that clean-fid starts by default (fid.compute_fid).
DEFAULT_WORKERS = 12


def stand_in(folder: Path) -> Path:
    """A small random network with the interface of inception-2015-12-05.pt: ``layers`` on [n, 3, 299, 299]."""
    import torch
    from torch import nn

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.AvgPool2d(36, 36), nn.Conv2d(3, DIMENSION, 8), nn.ReLU())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers(x)  # type: ignore[no-any-return]

    torch.manual_seed(0)
    path = folder / INCEPTION_FILE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(Network().eval()).save(str(path))
    return path


def synthetic_features(count: int, seed: int) -> NDArray[np.float32]:
    """Not negative and correlated, as Inception's are; float32 [count, 2048]."""
    mixing = np.random.default_rng(0).normal(size=(DIMENSION, DIMENSION)) / np.sqrt(DIMENSION)
    mixing *= np.exp(-4 * np.arange(DIMENSION) / DIMENSION)[:, None]
    drawn = np.random.default_rng(seed).normal(size=(count, DIMENSION)) @ mixing
    features: NDArray[np.float64] = np.maximum((1 + 0.05 * seed) * drawn + 0.1 * seed, 0)
    return features.astype(np.float32)


def compare_distances() -> None:
    from cleanfid.fid import frechet_distance as theirs

    for name, counts in {"full rank": (3000, 3000), "1,000 images, singular": (1000, 3000)}.items():
        a, b = (frechet.moments(synthetic_features(n, seed)) for seed, n in enumerate(counts, start=1))
        ours, cost = timed(frechet.frechet_distance, a, b)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # scipy's, about sqrtm's disp
            official, official_cost = timed(theirs, a.mean, a.covariance, b.mean, b.covariance)
        report(f"Frechet distance, {name}", cost, official_cost)
        print(f"    difference {ours - official:+.1e}", flush=True)


def compare_end_to_end(count: int, folder: Path, inception: Path | None) -> None:
    """FID of ``count`` images against as many references, whose features are at hand, and with theirs computed too."""
    import torch
    from cleanfid.fid import frechet_distance, get_folder_features
    from cleanfid.inception_torchscript import InceptionV3W

    weights = inception or stand_in(folder)
    prompts = [Prompt(f"{number:05}", "synthetic", "", {}) for number in range(count)]
    for name, seed in (("references", 1), ("drawn", 2)):
        draw(folder / name, prompts, seed)

    # clean-fid first: ours sets up the memory of the whole process, which would help both.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's about TorchScript, scipy's about sqrtm's disp
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)  # of more workers than cores
        network = InceptionV3W(str(weights.parent), download=False)

        def their_moments(name: str, workers: int) -> frechet.Moments:
            options = {"num_workers": workers, "batch_size": 32, "device": torch.device("cpu"), "verbose": False}
            return frechet.moments(get_folder_features(str(folder / name), network, **options))

        stored, official_cold = timed(their_moments, "references", usable_cores())

        def their_fid(workers: int) -> float:
            own = their_moments("drawn", workers)
            return float(frechet_distance(own.mean, own.covariance, stored.mean, stored.covariance))

        official, official_cost = timed(their_fid, usable_cores())
        _, default_cost = timed(their_fid, DEFAULT_WORKERS)

    extractor = Inception(weights, sha256=None)
    reference = Reference.folder(folder / "references", prompts, folder / "cache")
    _, cold = timed(reference.prepare, extractor, Part())
    ours, cost = timed(our_fid, reference, extractor, folder / "drawn", prompts)
    report(f"FID of {count} images, references cached by both", cost, official_cost)
    report(f"    clean-fid with its {DEFAULT_WORKERS} processes", cost, default_cost)
    report(f"FID of {count} images, clean-fid's two folders", cost, official_cold + official_cost)
    report(f"FID of {count} images, references by both", cold + cost, official_cold + official_cost)
    print(f"    ours {ours:.9f}  clean-fid {official:.9f}  difference {ours - official:+.1e}", flush=True)


def our_fid(reference: Reference, extractor: Inception, folder: Path, prompts: Sequence[Prompt]) -> float:
    """As the benchmark judges and sums up, but for its rule that there must be more images than features."""
    rows = []
    for start in range(0, len(prompts), TOGETHER):
        batch = prompts[start : start + TOGETHER]
        for seen in extract([partial(read_image, folder / f"{p.file}.jpg") for p in batch], [extractor]):
            if isinstance(seen, Exception):
                raise seen
            rows.append(seen.rows[extractor.name])
    return frechet.frechet_distance(frechet.moments(np.stack(rows)), frechet.moments(reference.features(extractor)))


def draw(root: Path, prompts: Sequence[Prompt], seed: int) -> None:
    """Smooth color fields under a little noise: about as large as a photograph's JPEG."""
    rng = np.random.default_rng(seed)
    grain = rng.normal(0, 6 + seed, (SIDE, SIDE, 3))
    for prompt in prompts:
        field = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((SIDE, SIDE))
        pixels = np.asarray(field) + np.roll(grain, int(rng.integers(SIDE)), axis=int(rng.integers(2)))
        path = root / f"{prompt.file}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path, quality=90)


@dataclass(frozen=True)
class Cost:
    """Seconds on the wall, and of all processors together, children included: the latter hold beside other work."""

    wall: float
    cpu: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.wall + other.wall, self.cpu + other.cpu)


def timed(work: Callable[..., Result], *arguments: object) -> tuple[Result, Cost]:
    wall, cpu = time.perf_counter(), _processor_seconds()
    result = work(*arguments)
    return result, Cost(time.perf_counter() - wall, _processor_seconds() - cpu)


def _processor_seconds() -> float:
    return sum(os.times()[:4])


def report(what: str, ours: Cost, theirs: Cost) -> None:
    print(
        f"{what:50}  ours {ours.wall:6.1f} s, CPU {ours.cpu:6.1f} s   clean-fid {theirs.wall:6.1f} s, "
        f"CPU {theirs.cpu:6.1f} s   {theirs.wall / ours.wall:4.1f}x, CPU {theirs.cpu / ours.cpu:4.1f}x",
        flush=True,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=2000, help="of each of the two sets")
    parser.add_argument("--inception", type=Path, help=f"clean-fid's {INCEPTION_FILE}, in place of the stand-in")
    options = parser.parse_args(arguments)
    compare_distances()
    with tempfile.TemporaryDirectory() as folder:
        compare_end_to_end(options.images, Path(folder), options.inception)


if __name__ == "__main__":
    main()
