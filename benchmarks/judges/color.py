"""GenEval's color classifier: zero-shot CLIP on the cut-out object (evaluate_images.py of djghosh13/geneval)."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from benchmarks.datasets import OPENAI_CLIP
from benchmarks.judges.weights import checked_digest
from benchmarks.server import brief
from benchmarks.types import BenchError, Json

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: In GenEval's order; on a tie of logits the earlier color wins.
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
#: Always "a", also before a vowel.
TEMPLATES = ("a photo of a {color} {name}", "a photo of a {color}-colored {name}", "a photo of a {color} object")
#: Crops go through the image tower in groups of exactly as many, the last one filled up, because the shape of a matrix
#: product decides the order in which it is summed: so no result depends on what else is classified.
GROUP = 8
#: #999, painted over everything outside the object's mask.
PAINT = (153, 153, 153)


@dataclass(frozen=True)
class ColorSpec:
    """An open_clip model. ``model_config`` is a JSON file for a model that open_clip does not ship.

    ``weights`` is a state dict on disk; ``sha256`` (or its first digits) is checked where given.
    """

    model: str
    weights: Path
    sha256: str | None = None
    model_config: Path | None = None
    device: str = "cpu"


def object_crop(
    image: Image.Image,
    box: Sequence[float],
    mask: NDArray[np.bool_] | None,
    paint: tuple[int, int, int] | None = PAINT,
    crop: bool = True,
) -> Image.Image:
    """Cut an object out: ``paint`` over what its ``mask`` [height, width] leaves out, then crop to ``box`` (pixels).

    Without a mask or paint the crop is plain. Raises ValueError when mask and image differ in size.
    """
    image = image.convert("RGB")
    if mask is not None and paint is not None:
        if mask.shape != (image.height, image.width):
            raise ValueError(f"mask {mask.shape} is not of the image's size {(image.height, image.width)}")
        image = Image.composite(image, Image.new("RGB", image.size, paint), Image.fromarray(mask))
    if not crop:
        return image
    left, top, right, bottom = (float(edge) for edge in box[:4])  # Pillow 13 takes no arrays; it rounds them itself
    return image.crop((left, top, right, bottom))


@dataclass(frozen=True)
class ColorClassifier:
    """Logits of the ten colors for cut-out objects. The model is loaded at the first call."""

    spec: ColorSpec
    _class_weights: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def half_precision(self) -> bool:
        """The official script runs under CUDA autocast (fp16), where exact ties occur; elsewhere fp32."""
        return self.spec.device.startswith("cuda")

    def describe(self) -> Mapping[str, Json]:
        return {
            "library": "open_clip",
            "model": self.spec.model,
            "weights_sha256": self._digest,
            "precision": "fp16-autocast" if self.half_precision else "fp32",
            "templates": list(TEMPLATES),
        }

    def logits(self, crops: Sequence[Image.Image], names: str | Sequence[str]) -> NDArray[np.float32]:
        """100 x cosine similarity of each crop to each color of its class, float32 [crops, 10].

        ``names`` is the class of all crops, or one for each.
        """
        import torch

        names = [names] * len(crops) if isinstance(names, str) else names
        rows: list[NDArray[np.float32]] = []
        with torch.inference_mode(), self._autocast():
            for start in range(0, len(crops), GROUP):
                features = self._features(crops[start : start + GROUP])
                rows += [
                    (100.0 * one[None] @ self.weights_of(name))[0].float().cpu().numpy()
                    for one, name in zip(features, names[start : start + GROUP], strict=True)
                ]
        return np.stack(rows) if rows else np.zeros((0, len(COLORS)), dtype=np.float32)

    def _features(self, crops: Sequence[Image.Image]) -> Any:
        """Unit embeddings of at most GROUP crops, [crops, dim]."""
        import torch

        model, preprocess, _ = self.loaded
        pixels = [preprocess(crop) for crop in crops]
        filled = torch.stack([pixels[k % len(pixels)] for k in range(GROUP)])
        features = model.encode_image(filled.to(self.spec.device))[: len(crops)]
        return features / features.norm(dim=-1, keepdim=True)

    def weights_of(self, name: str) -> Any:
        """One column per color: the mean of the templates' unit embeddings, made unit again [dim, 10]."""
        if name not in self._class_weights:
            self._class_weights[name] = class_weights(self.loaded[0], self.loaded[2], name, self.spec.device)
        return self._class_weights[name]

    def _autocast(self) -> Any:
        import torch

        return torch.autocast(torch.device(self.spec.device).type, enabled=self.half_precision)

    @cached_property
    def _digest(self) -> str:
        return checked_digest(self.spec.weights, self.spec.sha256)

    @cached_property
    def loaded(self) -> tuple[Any, Any, Any]:
        """Model, preprocessing and tokenizer."""
        _ = self._digest  # checked before anything is loaded
        return create(self.spec, self.spec.weights)


def create(spec: ColorSpec, weights: Path | None) -> tuple[Any, Any, Any]:
    """open_clip's model in evaluation mode, its preprocessing for inference and its tokenizer.

    Without ``weights`` the model is random. They may be OpenAI's own file, a TorchScript archive, which holds code:
    one whose sha256 is neither OpenAI's nor that of ``spec`` is refused with a BenchError, as is a file that does not
    hold the model's weights.
    """
    import torchvision_guard

    torchvision_guard.install()
    import open_clip

    if spec.model_config is not None:
        open_clip.add_model_config(spec.model_config)
    archive = weights if weights is not None and _is_torchscript(weights) else None
    if archive is not None and checked_digest(archive, None) not in {*OPENAI_CLIP, spec.sha256}:
        raise BenchError(f"{archive} holds code (TorchScript) and is not OpenAI's file: give a plain state dict")
    with warnings.catch_warnings():
        if archive is not None:
            warnings.simplefilter("ignore")  # torch.load says that it hands over to torch.jit.load, now deprecated
        try:
            model, _, preprocess = open_clip.create_model_and_transforms(
                spec.model,
                pretrained=None if weights is None else str(weights),
                device=spec.device,
                weights_only=archive is None,  # torch.jit.load has no such mode
            )
        except Exception as error:  # a damaged file may break the reader anywhere
            if weights is None:
                raise
            raise BenchError(f"{weights} cannot be loaded as weights of {spec.model}: {brief(error)}") from error
    return model.eval(), preprocess, open_clip.get_tokenizer(spec.model)


def _is_torchscript(path: Path) -> bool:
    """As torch.load tells: a zip file with constants beside the data."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def class_weights(model: Any, tokenizer: Any, name: str, device: str) -> Any:
    """CLIP_benchmark's zero-shot weights for the ten colors of a class, [dim, 10]."""
    texts = [template.format(color=color, name=name) for color in COLORS for template in TEMPLATES]
    embedded = model.encode_text(tokenizer(texts).to(device))
    embedded = embedded / embedded.norm(dim=-1, keepdim=True)
    mean = embedded.reshape(len(COLORS), len(TEMPLATES), -1).mean(dim=1)
    return (mean / mean.norm(dim=-1, keepdim=True)).T
