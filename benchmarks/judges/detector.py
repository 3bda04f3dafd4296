"""Object detection through mmdet 3.x, as GenEval's users run it: ``init_detector`` and ``inference_detector``."""

from __future__ import annotations

import importlib.util
import pickle
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

from benchmarks.judges.weights import checked_digest
from benchmarks.types import BenchError, Json

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: GenEval's detector under its mmdet 3.x name. The 2.x checkpoint (...-743b7d99.pth) has other state-dict keys.
MASK2FORMER_CONFIG = "mask2former/mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco.py"
MASK2FORMER_CHECKPOINT = "mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco_20220504_001756-c9d0c4f2.pth"
MASK2FORMER_SHA256 = "c9d0c4f2"


@dataclass(frozen=True)
class DetectorSpec:
    """An mmdet model. ``classes[i]`` names label i (the names kept in the checkpoint are not used).

    ``checkpoint`` is a .pth or .safetensors file; ``sha256`` (or its first digits) is checked where given.
    """

    config: Path
    checkpoint: Path
    classes: tuple[str, ...]
    sha256: str | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class Detections:
    """What was found in one image, in the detector's order.

    ``boxes`` float32 [n, 4] as left, top, right, bottom in pixels; ``scores`` float32 [n]; ``labels`` int64 [n];
    ``masks`` bool [n, height, width], None for a detector of boxes only.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    masks: NDArray[np.bool_] | None


def mask2former(checkpoint: Path, classes: Sequence[str], device: str = "cpu") -> DetectorSpec:
    """The paper's detector: Mask2Former Swin-S on COCO, config from the installed mmdet."""
    package = importlib.util.find_spec("mmdet")
    if package is None or package.origin is None:
        raise BenchError("mmdet is not installed: install this project with its judges")
    config = Path(package.origin).parent / ".mim" / "configs" / MASK2FORMER_CONFIG
    return DetectorSpec(config, checkpoint, tuple(classes), MASK2FORMER_SHA256, device)


@dataclass(frozen=True)
class Detector:
    """Runs the model of ``spec``; it is loaded at the first image.

    Images go through one at a time (as ``inference_detector`` does it), so no result depends on its batch.
    """

    spec: DetectorSpec

    def describe(self) -> Mapping[str, Json]:
        return {
            "library": "mmdet",
            "config": self.spec.config.name,
            "weights_sha256": self._digest,
            "classes": len(self.spec.classes),
        }

    def detect(self, images: Sequence[Image.Image]) -> list[Detections]:
        """One result per image. BenchError when the weights are absent or do not fit the config."""
        model, pipeline = self._loaded
        from mmdet.apis import inference_detector

        with _library_warnings_off():
            return [_detections(inference_detector(model, bgr(image), test_pipeline=pipeline)) for image in images]

    @cached_property
    def _digest(self) -> str:
        return checked_digest(self.spec.checkpoint, self.spec.sha256)

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        """Model and test pipeline."""
        assert self._digest
        model = build(self.spec.config, self.spec.device)
        load_weights(model, read_state_dict(self.spec.checkpoint), self.spec.checkpoint)

        from mmcv.transforms import Compose
        from mmdet.utils import get_test_pipeline_cfg

        steps = get_test_pipeline_cfg(model.cfg.copy())
        steps[0].type = "mmdet.LoadImageFromNDArray"
        return model, Compose(steps)


def bgr(image: Image.Image) -> NDArray[np.uint8]:
    """The image as mmcv.imread gives it: upright (EXIF), BGR, uint8 [height, width, 3]."""
    upright = ImageOps.exif_transpose(image).convert("RGB")
    return np.ascontiguousarray(np.asarray(upright)[..., ::-1])


def build(config: Path, device: str) -> Any:
    """A model of mmdet's with random weights, in evaluation mode."""
    from benchmarks.judges import mmcv_ops

    mmcv_ops.install()
    with _library_warnings_off():
        from mmdet.apis import init_detector

        # Weights are loaded by us and strictly: mmengine skips keys that do not fit, which is how a checkpoint
        # of another mmdet version came to score near 0 unnoticed (geneval issues 6, 8 and 21).
        return init_detector(str(config), None, palette="none", device=device)


def read_state_dict(path: Path) -> dict[str, Any]:
    """The tensors of a checkpoint. Raises BenchError for a file that needs arbitrary code to be read."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    import torch

    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise BenchError(
            f"{path} holds more than tensors: where you trust it, keep only its 'state_dict' in a new file"
        ) from error
    state: dict[str, Any] = checkpoint.get("state_dict", checkpoint)
    return state


def load_weights(model: Any, state: Mapping[str, Any], path: Path) -> None:
    """Copy ``state`` into ``model``; every parameter must be there, what else the file holds is ignored."""
    wanted = model.state_dict()
    missing = [name for name, value in wanted.items() if name not in state or state[name].shape != value.shape]
    if missing:
        raise BenchError(
            f"{path} does not fit the detector's config ({len(missing)} of {len(wanted)} tensors, "
            f"first {missing[0]}): a checkpoint of mmdet 2.x does not load into 3.x"
        )
    model.load_state_dict({name: state[name] for name in wanted})


def _detections(sample: Any) -> Detections:
    found = sample.pred_instances.cpu().numpy()
    masks = found.masks.astype(bool) if "masks" in found else None
    return Detections(found.bboxes.astype(np.float32), found.scores.astype(np.float32), found.labels, masks)


@contextmanager
def _library_warnings_off() -> Iterator[None]:
    """mmdet 3.3 calls what newer PyTorch has deprecated, and complains of a model built without a checkpoint.

    Recording, since mmdet puts a filter of its own before ours.
    """
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("ignore")
        yield
