"""Mask2Former through transformers. Its published COCO weights are another training run than GenEval's detector."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

from benchmarks.judges.detector import Detections
from benchmarks.server import brief
from benchmarks.types import BenchError, Json

if TYPE_CHECKING:
    from torch import Tensor

#: Pairs of query and class that are looked at (``max_per_image`` of GenEval's detector config).
TOP = 100


@dataclass(frozen=True)
class TransformersDetector:
    """The model and image processor in ``folder``; ``classes[i]`` names label i. Loaded at the first image.

    Images go through one at a time, so no result depends on its batch.
    """

    folder: Path
    classes: tuple[str, ...]
    device: str = "cpu"

    def describe(self) -> Mapping[str, Json]:
        return {
            "library": "transformers",
            "config": "Mask2Former",
            "weights_sha256": self._digest,
            "classes": len(self.classes),
        }

    def detect(self, images: Sequence[Image.Image], floor: float = 0.0) -> list[Detections]:
        """One result per image: all detections with a score above float32(``floor``). BenchError: no such model."""
        import torch

        _ = self._loaded
        with torch.no_grad():
            return [self._detect(ImageOps.exif_transpose(image).convert("RGB"), floor) for image in images]

    def _detect(self, image: Image.Image, floor: float) -> Detections:
        model, processor = self._loaded
        inputs = processor(images=image, return_tensors="pt").to(self.device)
        seen = model(**inputs)
        resized = inputs["pixel_mask"][0].nonzero().amax(0) + 1  # without what the processor padded
        return instances(
            seen.class_queries_logits[0],
            seen.masks_queries_logits[0],
            tuple(inputs["pixel_values"].shape[-2:]),
            (int(resized[0]), int(resized[1])),
            (image.height, image.width),
            floor,
        )

    @cached_property
    def _digest(self) -> str:
        files = sorted(self.folder.glob("*.safetensors"))
        if not files:
            raise BenchError(f"{self.folder} holds no *.safetensors: give the folder of a Mask2Former of transformers")
        total = hashlib.sha256()
        for path in [*files, *sorted(self.folder.glob("*.json"))]:
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
        return total.hexdigest()

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        """Model and image processor."""
        _ = self._digest  # checked before anything is loaded
        import torchvision_guard

        torchvision_guard.install()
        from transformers import AutoConfig, AutoImageProcessor, Mask2FormerForUniversalSegmentation

        try:
            config = AutoConfig.from_pretrained(self.folder, trust_remote_code=False)
            if config.model_type != "mask2former" or config.num_labels != len(self.classes):
                raise BenchError(
                    f"{self.folder} holds a {config.model_type} of {config.num_labels} classes: "
                    f"a mask2former of {len(self.classes)} is needed, trained for instances of COCO"
                )
            model = Mask2FormerForUniversalSegmentation.from_pretrained(self.folder)
            processor = AutoImageProcessor.from_pretrained(self.folder, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise BenchError(f"cannot load the detector {self.folder}: {brief(error)}") from error
        return model.to(self.device).eval(), processor


def instances(
    class_logits: Tensor,
    mask_logits: Tensor,
    padded: tuple[int, int],
    resized: tuple[int, int],
    original: tuple[int, int],
    floor: float,
) -> Detections:
    """Queries -> detections, as MaskFormerFusionHead of mmdet 3.3 does it (``predict``, ``instance_postprocess``).

    ``class_logits`` [queries, classes + 1], the last is background; ``mask_logits`` [queries, h, w]. Sizes are
    (height, width): of the network's input, of the image in it, of the image itself.
    """
    import torch
    import torch.nn.functional as F

    classes = class_logits.shape[1] - 1
    scores = class_logits.float().softmax(-1)[:, :-1].flatten()
    best = torch.topk(scores, min(TOP, len(scores)), sorted=False).indices
    # A detection's score is this times the mask's mean certainty, which is at most 1: the others cannot pass.
    best = best[scores[best] > float(np.float32(floor))]
    masks = mask_logits[best // classes].float()[:, None]
    masks = F.interpolate(masks, size=padded, mode="bilinear", align_corners=False)[..., : resized[0], : resized[1]]
    masks = F.interpolate(masks, size=original, mode="bilinear", align_corners=False)[:, 0]
    inside = masks > 0
    certainty = (masks.sigmoid() * inside).flatten(1).sum(1) / (inside.flatten(1).sum(1) + 1e-6)
    found = scores[best] * certainty
    keep = found > float(np.float32(floor))
    inside = inside[keep]
    return Detections(
        np.array([_box(mask) for mask in inside.cpu().numpy()], dtype=np.float32).reshape(-1, 4),
        found[keep].cpu().numpy(),
        (best[keep] % classes).cpu().numpy(),
        inside.cpu().numpy(),
    )


def _box(mask: np.ndarray[Any, np.dtype[np.bool_]]) -> tuple[int, int, int, int]:
    """Around all that is set (there is something, or the score would be 0); right and bottom lie one beyond it."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
