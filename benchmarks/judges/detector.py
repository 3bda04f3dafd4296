"""Object detection through mmdet 3.x, as GenEval's users run it (``init_detector``), in batches."""

from __future__ import annotations

import importlib.util
import pickle
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import numpy as np
from PIL import Image, ImageOps

from benchmarks.judges.weights import WrongDigest, checked_digest
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

    ``config`` is a file; a relative path is one of mmdet's own configs.

    ``checkpoint`` is a .pth or .safetensors file; ``sha256`` (or its first digits) is checked where given.
    ``together`` images of equal size go through at once, never fewer: the last group is filled up. So no result
    depends on what else is looked at; another number may change the last bits.
    """

    config: Path
    checkpoint: Path
    classes: tuple[str, ...]
    sha256: str | None = None
    device: str = "cpu"
    together: int = 1


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


class ObjectDetector(Protocol):
    """Finds objects of the classes it can name: label i is ``classes[i]``."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    def describe(self) -> Mapping[str, Json]: ...

    def detect(self, images: Sequence[Image.Image], floor: float = 0.0) -> list[Detections]:
        """One result per image: all detections with a score above float32(``floor``)."""


def mask2former(checkpoint: Path, classes: Sequence[str], device: str = "cpu") -> DetectorSpec:
    """The paper's detector: Mask2Former Swin-S on COCO, config from the installed mmdet."""
    return DetectorSpec(Path(MASK2FORMER_CONFIG), checkpoint, tuple(classes), MASK2FORMER_SHA256, device)


def config_path(config: Path) -> Path:
    """Where a config is: a relative path is one of the installed mmdet's, which is needed from here on."""
    if config.is_absolute():
        return config
    package = importlib.util.find_spec("mmdet")
    if package is None or package.origin is None:
        raise BenchError("mmdet is not installed: install this project with its judges")
    return Path(package.origin).parent / ".mim" / "configs" / config


@dataclass(frozen=True)
class Detector:
    """Runs the model of ``spec``; it is loaded at the first image."""

    spec: DetectorSpec

    @property
    def classes(self) -> tuple[str, ...]:
        return self.spec.classes

    def describe(self) -> Mapping[str, Json]:
        return {
            "library": "mmdet",
            "config": self.spec.config.name,
            "weights_sha256": self._digest,
            "classes": len(self.spec.classes),
            "together": self.spec.together,
        }

    def detect(self, images: Sequence[Image.Image], floor: float = 0.0) -> list[Detections]:
        """One result per image: all detections with a score above float32(``floor``), in the model's order.

        Raises BenchError when the weights are absent or do not fit the config.
        """
        _, pipeline = self.loaded
        inputs = [pipeline({"img": bgr(image), "img_id": 0}) for image in images]
        alike: dict[tuple[int, ...], list[int]] = {}
        for i, prepared in enumerate(inputs):
            alike.setdefault(tuple(prepared["inputs"].shape), []).append(i)
        found: dict[int, Detections] = {}
        for indices in alike.values():
            for start in range(0, len(indices), self.spec.together):
                members = indices[start : start + self.spec.together]
                filled = [inputs[members[k % len(members)]] for k in range(self.spec.together)]
                found.update(zip(members, self._forward(filled, floor), strict=False))
        return [found[i] for i in range(len(images))]

    def _forward(self, inputs: Sequence[Mapping[str, Any]], floor: float) -> list[Detections]:
        import torch

        batch = {
            "inputs": [one["inputs"] for one in inputs],
            # Results are written into the sample, and one that fills up is there twice.
            "data_samples": [one["data_samples"].clone() for one in inputs],
        }
        with torch.no_grad(), library_warnings_off():
            return [_detections(sample, floor) for sample in self.loaded[0].test_step(batch)]

    @cached_property
    def _digest(self) -> str:
        try:
            return checked_digest(self.spec.checkpoint, self.spec.sha256)
        except WrongDigest as wrong:
            try:
                state = read_state_dict(self.spec.checkpoint)
            except BenchError:
                raise wrong from None
            refuse_mmdet_2(state, self.spec.checkpoint)  # which says more than the digest
            raise

    @cached_property
    def loaded(self) -> tuple[Any, Any]:
        """Model and test pipeline."""
        _ = self._digest  # checked before minutes are spent
        model = build(config_path(self.spec.config), self.spec.device)
        load_weights(model, read_state_dict(self.spec.checkpoint), self.spec.checkpoint)
        return model, pipeline_of(model)


def bgr(image: Image.Image) -> NDArray[np.uint8]:
    """The image as mmcv.imread gives it: upright (EXIF), BGR, uint8 [height, width, 3]."""
    upright = ImageOps.exif_transpose(image).convert("RGB")
    return np.ascontiguousarray(np.asarray(upright)[..., ::-1])


def build(config: Path, device: str) -> Any:
    """A model of mmdet's with random weights, in evaluation mode."""
    from benchmarks.judges import mmcv_ops

    mmcv_ops.install()
    with library_warnings_off():
        from mmdet.apis import init_detector

        # Weights are loaded by us and strictly: mmengine skips keys that do not fit, which is how a checkpoint
        # of another mmdet version came to score near 0 unnoticed (geneval issues 6, 8 and 21).
        return init_detector(str(config), None, palette="none", device=device)


def pipeline_of(model: Any) -> Any:
    """What prepares an array [height, width, 3] for the model, as inference_detector does."""
    from mmcv.transforms import Compose
    from mmdet.utils import get_test_pipeline_cfg

    steps = get_test_pipeline_cfg(model.cfg.copy())
    steps[0].type = "mmdet.LoadImageFromNDArray"
    return Compose(steps)


def read_state_dict(path: Path) -> dict[str, Any]:
    """The tensors of a checkpoint; what else a .pth file holds is passed over, and no code of it is run.

    Raises BenchError when it is none.
    """
    import torch

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        # torch's own weights_only refuses a file for one numpy scalar in its training history.
        restricted: Any = SimpleNamespace(__name__="restricted", Unpickler=_TensorsOnly, load=_load_tensors_only)
        checkpoint = torch.load(path, map_location="cpu", weights_only=False, pickle_module=restricted)
        state: dict[str, Any] = checkpoint.get("state_dict", checkpoint)
    except Exception as error:  # a damaged file may break the reader anywhere
        raise BenchError(f"{path} is not a checkpoint of PyTorch ({error}): fetch it again") from error
    return state


class _Inert:
    """In place of an object of a checkpoint that is no tensor."""

    def __init__(self, *args: object, **kwargs: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...

    def __setitem__(self, key: object, value: object) -> None: ...

    def append(self, value: object) -> None: ...


class _TensorsOnly(pickle.Unpickler):
    """Imports only what tensors are made of."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _OF_TENSORS or (module == "torch" and name.endswith("Storage")):
            return super().find_class(module, name)
        return _Inert


_OF_TENSORS = (
    ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
)


def _load_tensors_only(file: BinaryIO, **options: Any) -> Any:
    return _TensorsOnly(file, **options).load()


def load_weights(model: Any, state: Mapping[str, Any], path: Path) -> None:
    """Copy ``state`` into ``model``; every parameter must be there, what else the file holds is ignored."""
    refuse_mmdet_2(state, path)
    wanted = model.state_dict()
    missing = [name for name, value in wanted.items() if name not in state or state[name].shape != value.shape]
    if missing:
        raise BenchError(
            f"{path} does not fit the detector's config ({len(missing)} of {len(wanted)} tensors are missing or of "
            f"another shape, first {missing[0]}): give the checkpoint that was trained with it"
        )
    model.load_state_dict({name: state[name] for name in wanted})


def refuse_mmdet_2(names: Iterable[str], path: Path) -> None:
    """Transformer layers of mmdet 2.x keep lists, ``attentions.0`` and ``ffns.0``; those of 3.x have one of each."""
    if any(re.search(r"\.layers\.\d+\.(attentions|ffns)\.\d+\.", name) for name in names):
        raise BenchError(f"{path} is a checkpoint of mmdet 2.x: take the one for 3.x, {MASK2FORMER_CHECKPOINT}")


def _detections(sample: Any, floor: float) -> Detections:
    found = sample.pred_instances
    # Before the copy from the device: of a hundred masks in full size a few are wanted.
    found = found[found.scores > float(np.float32(floor))].cpu().numpy()
    masks = found.masks.astype(bool) if "masks" in found else None
    return Detections(found.bboxes.astype(np.float32), found.scores.astype(np.float32), found.labels, masks)


@contextmanager
def library_warnings_off() -> Iterator[None]:
    """mmdet 3.3 calls what newer PyTorch has deprecated, and complains of a model built without a checkpoint.

    Recording, since mmdet puts a filter of its own before ours.
    """
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("ignore")
        yield
