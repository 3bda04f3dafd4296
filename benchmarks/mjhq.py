"""MJHQ-30K: how far a model's images lie from 30,000 Midjourney images, by the features of a network (FID).

The rule is that of the card of playgroundai/MJHQ-30K: clean-fid with its defaults between the folder of references and
that of the images drawn from their prompts, over all and per category (profile ``cleanfid-clean``). A verdict holds an
image's features, so one pass serves every metric; those of the references are cached.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Self

import numpy as np
import PIL
from numpy.typing import NDArray
from scipy import special
from tqdm import tqdm

from benchmarks import frechet
from benchmarks.disk import replace_file
from benchmarks.judges.color import ColorSpec
from benchmarks.judges.inception import Clip, Extractor, Inception, Opener, Pixels, Seen, extract, read_image
from benchmarks.paths import within
from benchmarks.types import BenchError, Json, Metric, Prediction, Sample, Score, Verdict
from benchmarks.work import Part, log

#: Seed of the kernel distance's subsets and of FID-infinity's; officially there is none.
SEED = 0
#: Reference images whose features are one file of the cache, and are lost together when a process dies.
BLOCK = 500
#: Images in memory at once, in the networks' input size.
TOGETHER = 32
#: Files that clean-fid takes for images (cleanfid/utils.py, EXTENSIONS); letter case matters there.
SUFFIXES = frozenset(
    (".bmp", ".jpg", ".jpeg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp", ".npy", ".JPEG", ".JPG", ".PNG")
)


@dataclass(frozen=True)
class Prompt:
    """One line of meta_data.json."""

    id: str
    category: str
    text: str
    meta: Mapping[str, Json]

    @property
    def file(self) -> str:
        """Where its image lies in a folder of the official layout, without suffix."""
        return f"{self.category}/{self.id}"


def read_prompts(path: Path) -> list[Prompt]:
    """meta_data.json: an object of id -> {category, prompt}. Raises BenchError for anything else."""
    if not path.is_file():
        raise BenchError(
            f"{path} is not there: run `blip3o-bench data fetch mjhq`, which unpacks mjhq30k_imgs.zip beside it"
        )
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return [Prompt(key, entry["category"], entry["prompt"], {}) for key, entry in entries.items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BenchError(f"{path} is not MJHQ-30K's meta_data.json: {error!r}") from error


# The reference ----------------------------------------------------------------------------------------------------


class Reference:
    """The reference images and their features.

    ``images`` are by name ("category/id") in clean-fid's order, ``digest`` tells their content. Under ``cache``
    features are kept in blocks, which processes make and find in any number and order; without it, in memory.
    """

    def __init__(self, images: Mapping[str, Opener], digest: Callable[[], str], cache: Path | None = None) -> None:
        self.images = images
        self._digest_of = digest
        self.cache = cache
        self._memory: dict[tuple[str, int], NDArray[np.float32]] = {}

    @classmethod
    def folder(cls, root: Path, prompts: Sequence[Prompt], cache: Path) -> Self:
        """The images of ``prompts`` under ``root``. Raises BenchError unless they are all there, and nothing else is.

        clean-fid takes every image below the folder, so one more or less is another reference.
        """
        if not root.is_dir():
            raise BenchError(f"{root} is not a folder: unpack mjhq30k_imgs.zip by `blip3o-bench data fetch mjhq`")
        paths = sorted((path for path in root.rglob("*") if path.suffix in SUFFIXES), key=str)
        found = {path.relative_to(root).with_suffix("").as_posix(): path for path in paths}
        wanted = {prompt.file for prompt in prompts}
        if missing := sorted(wanted - found.keys()):
            raise BenchError(
                f"{root} lacks {len(missing)} of {len(wanted)} reference images, such as {missing[0]}.jpg: "
                "delete the folder, and run `blip3o-bench data fetch mjhq`"
            )
        if len(paths) > len(wanted):
            extra = next((name for name in found if name not in wanted), "two files of one name")
            raise BenchError(f"{root} has {len(paths) - len(wanted)} images too many, such as {extra}: remove them")
        return cls(
            {name: partial(read_image, path) for name, path in found.items()}, lambda: _content(root, paths), cache
        )

    @cached_property
    def digest(self) -> str:
        """sha256 over the images' names and content."""
        return self._digest_of()

    def prepare(self, extractor: Extractor, part: Part) -> None:
        """Make this process's part of the features, as far as the cache lacks them."""
        starts = range(0, len(self.images), BLOCK)[part.rank :: part.world]
        missing = [start for start in starts if not self._is_cached(extractor, start)]
        for start in tqdm(missing, f"features of the references ({extractor.name})", unit="block", disable=None):
            self._block(extractor, start)

    def features(self, extractor: Extractor) -> NDArray[np.float32]:
        """Float32 [n, d] in the order of ``images``; makes what the cache lacks."""
        return np.concatenate([self._block(extractor, start) for start in range(0, len(self.images), BLOCK)])

    def _is_cached(self, extractor: Extractor, start: int) -> bool:
        if self.cache is None:
            return (extractor.name, start) in self._memory
        return self._path(extractor, start).is_file()

    def _block(self, extractor: Extractor, start: int) -> NDArray[np.float32]:
        if self.cache is None:
            key = (extractor.name, start)
            if key not in self._memory:
                self._memory[key] = self._extract(extractor, start)
            return self._memory[key]
        path = self._path(extractor, start)
        if not path.is_file():
            file = io.BytesIO()
            np.save(file, self._extract(extractor, start))
            replace_file(path, [file.getvalue()])
        rows: NDArray[np.float32] = np.load(path)
        return rows

    def _extract(self, extractor: Extractor, start: int) -> NDArray[np.float32]:
        items = list(self.images.items())[start : start + BLOCK]
        rows = []
        for at in range(0, len(items), TOGETHER):
            batch = items[at : at + TOGETHER]
            seen = extract([opener for _, opener in batch], [extractor])
            for (name, _), result in zip(batch, seen, strict=True):
                if isinstance(result, Exception):
                    raise BenchError(f"reference image {name}: {result}; fetch the reference images again")
                rows.append(result.rows[extractor.name])
        return np.stack(rows)

    def _path(self, extractor: Extractor, start: int) -> Path:
        assert self.cache is not None
        return self.cache / self._key(extractor) / f"{start:05}.npy"

    def _key(self, extractor: Extractor) -> str:
        """All that determines the features: the network and its mode, who decodes and resizes, and the images."""
        import cv2

        decoders = f"pillow {PIL.__version__}", f"opencv {cv2.__version__}"
        described = [dict(extractor.describe()), *decoders, self.digest, BLOCK]
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:32]


def _content(root: Path, paths: Sequence[Path]) -> str:
    total = hashlib.sha256()
    for path in paths:
        total.update(f"{path.relative_to(root)}\0".encode())
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


# The benchmark ----------------------------------------------------------------------------------------------------


class Mjhq:
    """FID over all images and per category, KID, FID-infinity, and the Fréchet distance of CLIP features.

    A verdict holds the image's size and its features, float32 in base64: 11 kB for Inception's 2048.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        reference: Reference,
        extractor: Extractor,
        data: Mapping[str, Json],
        clip: Extractor | None = None,
        size: tuple[int, int] = (1024, 1024),
        profile: str = "cleanfid-clean",
    ) -> None:
        """``extractor`` gives FID and KID, ``clip`` the other distance; images should have ``size`` pixels."""
        self.name = "mjhq"
        self.version = "15b0a659"
        self.profile = profile
        self.task = "generate"
        # clean-fid sorts paths: the order of a float32 mean counts in its last bits.
        self.prompts = sorted(prompts, key=lambda prompt: f"{prompt.file}.jpg")
        self.reference = reference
        self.extractor = extractor
        self.clip = clip
        self.data = data
        self.size = size
        self.judged_together = TOGETHER
        self._reference_is_ready = False

    @classmethod
    def toy(cls, per_category: int = 96) -> Self:
        """Scenes of the shapes world, and features of its detector."""
        from benchmarks.shapes import mjhq as shapes

        prompts = shapes.prompts(per_category)
        reference = Reference(shapes.references(prompts), lambda: shapes.digest(prompts))
        data = {"prompts": "shapes", "per_category": per_category}
        return cls(prompts, reference, shapes.ShapesFeatures(), data, None, shapes.SIZE, "shapes-detector")

    @classmethod
    def paper(cls, root: Path, inception: Path, clip: Path | None, cache: Path, device: str = "cpu") -> Self:
        """meta_data.json and mjhq30k_imgs/ under ``root``, clean-fid's Inception, and CLIP ViT-B/32 where given."""
        prompts = read_prompts(root / "meta_data.json")
        return cls(
            prompts,
            Reference.folder(root / "mjhq30k_imgs", prompts, cache),
            Inception(inception, device=device),
            {"prompts": "playgroundai/MJHQ-30K", "sha256": _content(root, [root / "meta_data.json"])},
            None if clip is None else Clip(ColorSpec("ViT-B-32-quickgelu", clip, device=device)),
        )

    @property
    def extractors(self) -> list[Extractor]:
        return [self.extractor] if self.clip is None else [self.extractor, self.clip]

    def describe(self) -> Mapping[str, Json]:
        return {
            "data": {**self.data, "reference_sha256": self.reference.digest},
            "prompts": len(self.prompts),
            "size": list(self.size),
            "seed_of_subsets": SEED,
        }

    def describe_judge(self) -> Mapping[str, Json]:
        """As the runner asks for it: to know the weights' digests takes the weights."""
        return {extractor.name: dict(extractor.describe()) for extractor in self.extractors}

    def samples(self) -> list[Sample]:
        """One per prompt, in the order of clean-fid's files."""
        return [
            Sample(
                f"mjhq/{prompt.file}",
                prompt.text,
                f"mjhq/{prompt.file}",
                prompt.category,
                meta={**prompt.meta, "file": prompt.file},
            )
            for prompt in self.prompts
        ]

    def judge(self, samples: Sequence[Sample], predictions: Sequence[Prediction], folder: Path) -> list[Verdict]:
        """Features of the images. The first call makes this process's part of the references' where they are new."""
        if not self._reference_is_ready:
            for extractor in self.extractors:
                self.reference.prepare(extractor, Part.from_environment())
            self._reference_is_ready = True
        openers = [partial(_open, folder, prediction) for prediction in predictions]
        seen = extract(openers, self.extractors)
        return [_verdict(sample.id, result) for sample, result in zip(samples, seen, strict=True)]

    def summarize(self, samples: Sequence[Sample], verdicts: Mapping[str, Verdict]) -> tuple[list[Score], list[Metric]]:
        """Metrics over all images that have features. One image has no score of its own: every value is None."""
        pair = self._pair(self.extractor, samples, verdicts)
        metrics = [*_fid(pair), _kid(pair)]
        if self.clip is not None:
            clip_pair = self._pair(self.clip, samples, verdicts)
            metrics.append(_metric("fd_clip", clip_pair, _distance(clip_pair)))
        metrics.append(self._other_size(samples, verdicts))
        if without := [metric.name for metric in metrics if metric.value is None]:
            log(f"mjhq: no value for {', '.join(without)}: a distance needs more images than it has features")
        return [self._score(sample, verdicts.get(sample.id)) for sample in samples], metrics

    def _pair(self, extractor: Extractor, samples: Sequence[Sample], verdicts: Mapping[str, Verdict]) -> Pair:
        counted = [sample for sample in samples if sample.id in verdicts]
        reference = self.reference.features(extractor)
        drawn = np.empty((len(counted), reference.shape[1]), np.float32)
        for row, sample in zip(drawn, counted, strict=True):
            row[:] = _features(verdicts[sample.id], extractor.name)
        return Pair(
            drawn,
            np.array([sample.stratum for sample in counted], dtype=str),
            reference,
            np.array([name.partition("/")[0] for name in self.reference.images]),
            Counter(sample.stratum for sample in samples),
        )

    def _other_size(self, samples: Sequence[Sample], verdicts: Mapping[str, Verdict]) -> Metric:
        """The share of images that have not the size of the prompts' own; clean-fid resizes whatever it gets."""
        sizes = [tuple(verdicts[sample.id].finding["size"]) for sample in samples if sample.id in verdicts]
        share = sum(size != self.size for size in sizes) / len(sizes) if sizes else None
        return Metric("other_size", share, None, None, len(sizes), len(samples) - len(sizes), higher_is_better=False)

    def _score(self, sample: Sample, verdict: Verdict | None) -> Score:
        reason = "not judged"
        if verdict is not None:
            width, height = verdict.finding["size"]
            wanted = f"{self.size[0]} x {self.size[1]}"
            reason = "" if (width, height) == self.size else f"{width} x {height} pixels instead of {wanted}; counted"
        return Score(sample.id, sample.group, sample.stratum, None, reason)

    def export(
        self,
        samples: Sequence[Sample],
        predictions: Mapping[str, Prediction],
        verdicts: Mapping[str, Verdict],
        folder: Path,
        out: Path,
    ) -> None:
        """``images/category/id`` with a suffix: a folder that clean-fid's compute_fid takes."""
        for sample in samples:
            prediction = predictions.get(sample.id)
            if prediction is None or prediction.image is None:
                continue
            source = folder / prediction.image
            target = within(out / "images", f"{sample.meta['file']}{source.suffix}")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def _open(folder: Path, prediction: Prediction) -> Pixels:
    if prediction.image is None:
        raise FileNotFoundError("the prediction has no image")
    return read_image(folder / prediction.image)


def _verdict(sample_id: str, result: Seen | Exception) -> Verdict:
    if isinstance(result, Exception):
        return Verdict(sample_id, error=f"{type(result).__name__}: {result}")
    rows = {name: base64.b64encode(row.astype("<f4").tobytes()).decode("ascii") for name, row in result.rows.items()}
    return Verdict(sample_id, {"size": list(result.size), "features": rows})


def _features(verdict: Verdict, name: str) -> NDArray[np.float32]:
    try:
        encoded = verdict.finding["features"][name]
    except KeyError:
        raise BenchError(f"verdicts hold no features of {name}: judge the images again with it") from None
    return np.frombuffer(base64.b64decode(encoded), "<f4")


# The metrics ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """Features of drawn and of reference images, float32 [n, d], and the category of each; ``asked`` by category."""

    drawn: NDArray[np.float32]
    drawn_categories: NDArray[np.str_]
    reference: NDArray[np.float32]
    reference_categories: NDArray[np.str_]
    asked: Mapping[str, int]

    @property
    def missing(self) -> int:
        return sum(self.asked.values()) - len(self.drawn)

    @property
    def is_full_rank(self) -> bool:
        """More images than features on both sides; else a covariance has no full rank and the distance no meaning."""
        return bool(min(len(self.drawn), len(self.reference)) > self.reference.shape[1])

    def of(self, category: str) -> Pair:
        drawn, reference = self.drawn_categories == category, self.reference_categories == category
        return Pair(
            self.drawn[drawn],
            self.drawn_categories[drawn],
            self.reference[reference],
            self.reference_categories[reference],
            {category: self.asked[category]},
        )


def _fid(pair: Pair) -> list[Metric]:
    """FID over all, extrapolated to infinitely many images, and in each category."""
    overall = _distance(pair)
    limit = None
    if overall is not None:
        limit = frechet.frechet_limit(pair.drawn, frechet.moments(pair.reference), SEED, overall.error)
    return [
        _metric("fid", pair, overall),
        _metric("fid_infinity", pair, limit, lowest=-math.inf),
        *(_metric(f"fid.{category}", part := pair.of(category), _distance(part)) for category in pair.asked),
    ]


def _distance(pair: Pair) -> frechet.Estimate | None:
    """The Fréchet distance with its standard error, where both covariances can have full rank."""
    if not pair.is_full_rank:
        return None
    reference = frechet.moments(pair.reference)
    strata = np.unique(pair.drawn_categories, return_inverse=True)[1]
    return frechet.Estimate(
        frechet.frechet_distance(frechet.moments(pair.drawn), reference),
        frechet.frechet_error(pair.drawn, reference, strata),
    )


def _kid(pair: Pair) -> Metric:
    """KID, for which few images suffice; times 1000, as papers mostly give it."""
    if min(len(pair.drawn), len(pair.reference)) < 2:
        return _metric("kid", pair, None, unit="KID x 1000")
    value = frechet.kernel_distance(pair.drawn, pair.reference, SEED)
    error = frechet.kernel_error(pair.drawn, pair.reference)
    thousandfold = frechet.Estimate(1000 * value, None if error is None else 1000 * error)
    return _metric("kid", pair, thousandfold, lowest=-math.inf, unit="KID x 1000")


def _metric(name: str, pair: Pair, estimate: frechet.Estimate | None, lowest: float = 0.0, unit: str = "FID") -> Metric:
    """The interval is the value -+ 1.96 standard errors, not below ``lowest``."""
    value = low = high = None
    if estimate is not None:
        value = estimate.value
        if estimate.error is not None:
            half = float(special.ndtri(0.975)) * estimate.error
            low, high = max(lowest, value - half), value + half
    return Metric(name, value, low, high, len(pair.drawn), pair.missing, higher_is_better=False, unit=unit)
