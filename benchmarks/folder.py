"""Images that another program made: a folder in a benchmark's own layout stands in for the model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from benchmarks.types import BenchError, Json, Sample

#: In upper or lower case. The official GenEval script reads .png only.
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


class FolderImages:
    """The image of a sample is ``root / sample.meta["file"]`` with one of SUFFIXES.

    The benchmark sets ``meta["file"]``: ``00017/samples/00002`` in GenEval, the item's id in DPG-Bench, the prompt's
    number in WISE, ``category/id`` in MJHQ-30K.
    """

    def __init__(self, root: Path) -> None:
        """Raises BenchError when ``root`` is no folder or holds no image."""
        if not root.is_dir():
            raise BenchError(f"{root} is not a folder: give the one that holds the images")
        self.root = root
        self._files: dict[str, list[Path]] = {}
        for path in sorted(root.rglob("*")):
            if path.suffix.lower() in SUFFIXES and path.is_file():
                self._files.setdefault(path.relative_to(root).with_suffix("").as_posix(), []).append(path)
        if not self._files:
            raise BenchError(f"{root} holds no image ({', '.join(SUFFIXES)}): is it the right folder?")

    def describe(self) -> Mapping[str, Json]:
        return {"name": "folder", "path": str(self.root), "images": len(self._files), "sha256": self._digest}

    @cached_property
    def _digest(self) -> str:
        """sha256 over names and bytes of all images, so that a run is of these images and no others."""
        total = hashlib.sha256()
        for paths in self._files.values():
            for path in paths:
                total.update(f"{path.relative_to(self.root)}\0".encode())
                with path.open("rb") as file:
                    total.update(hashlib.file_digest(file, "sha256").digest())
        return total.hexdigest()

    def check(self, samples: Sequence[Sample]) -> list[str]:
        """Lines for the user, before anything is scored: how many samples have no image, what files belong to none.

        Raises BenchError when the folder was made with another list of prompts.
        """
        lines = []
        errors = [found for sample in samples if isinstance(found := self._find(sample), Exception)]
        if errors:
            lines.append(f"{len(errors)} of {len(samples)} samples will be counted as missing: {errors[0]}")
        extra = sorted(self._files.keys() - {_place(sample) for sample in samples})
        if extra:
            lines.append(
                f"{len(extra)} images in {self.root} belong to no sample and are not scored, "
                f"such as {self._files[extra[0]][0]}"
            )
        return lines

    def generate(self, samples: Sequence[Sample], seeds: Sequence[int]) -> list[Path | Exception]:
        """The files (whether they are images, the runner looks when it copies them), or why there is none.

        Raises BenchError when the folder was made with another list of prompts.
        """
        return [self._find(sample) for sample in samples]

    def _find(self, sample: Sample) -> Path | Exception:
        place = _place(sample)
        paths = self._files.get(place, [])
        if not paths:
            return FileNotFoundError(f"{self.root / place} ({', '.join(SUFFIXES)}) is not there")
        if len(paths) > 1:
            return ValueError(f"{paths[0]} and {paths[1].name} are both there: which one?")
        if sample.id.startswith("geneval/"):  # the shapes world's MJHQ-30K has such metadata too, but no such layout
            beside = paths[0].parent.parent / "metadata.jsonl"
            if not beside.is_file():
                return FileNotFoundError(f"{beside} is not there")
            _check_metadata(beside, sample)
        return paths[0]


def _place(sample: Sample) -> str:
    if "file" not in sample.meta:
        raise BenchError(f"{sample.id.split('/')[0]} does not say where its images lie: it cannot take folder:DIR")
    return str(sample.meta["file"])


def _check_metadata(path: Path, sample: Sample) -> None:
    """GenEval only: the prompt's wording may differ (rewritten prompts), what is asked for may not."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))  # one object, as the official json.load takes it
    except ValueError as error:
        raise BenchError(f"{path} is not one JSON object: {error}") from error
    asked = ("tag", "include", "exclude")
    if not isinstance(stored, dict) or any(stored.get(key) != sample.meta.get(key) for key in asked):
        raise BenchError(
            f"{path.parent} is for another prompt than {sample.prompt!r}: the images were made from another list of "
            "prompts, or in another order"
        )
