"""Lets torchvision be imported beside a CPU build of torch.

PyPI has CUDA builds of torchvision only. Beside a CPU torch their ``_C.so`` cannot be loaded, and every
``import torchvision`` dies with ``operator torchvision::nms does not exist``. ``install()`` waits until
torchvision looks for its compiled operators; where they cannot be loaded, it declares them, so that
torchvision and what builds on it (timm, open_clip, transformers' processors, lmms-eval) can be imported.
Only ``nms`` computes; any other kernel raises NotImplementedError when it is called.

``torchvision_guard.pth`` calls ``install()`` at every start of an interpreter that has this package
installed. Nothing heavy is imported before torchvision is.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader

TYPE_CHECKING = False  # typing.TYPE_CHECKING; importing typing would cost every interpreter 15 ms
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from torch import Tensor

_HOOKED = "torchvision.extension"  # the module that loads _C.so; torchvision imports it before all its others

# The operators of torchvision 0.28, as its Python code registers gradients and shapes for them.
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, "
    "int sampling_ratio, bool aligned) -> Tensor",
    "qroi_align(Tensor input, Tensor rois, float input_scale, int input_zero_point, float rois_scale, "
    "int rois_zero_point, float spatial_scale, SymInt pooled_height, SymInt pooled_width, int sampling_ratio, "
    "bool aligned) -> Tensor",
    "_roi_align_backward(Tensor grad, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, "
    "SymInt batch_size, SymInt channels, SymInt height, SymInt width, int sampling_ratio, bool aligned) -> Tensor",
    "ps_roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, "
    "int sampling_ratio) -> (Tensor, Tensor)",
    "_ps_roi_align_backward(Tensor grad, Tensor rois, Tensor channel_mapping, float spatial_scale, "
    "SymInt pooled_height, SymInt pooled_width, int sampling_ratio, SymInt batch_size, SymInt channels, "
    "SymInt height, SymInt width) -> Tensor",
    "roi_pool(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width) "
    "-> (Tensor, Tensor)",
    "_roi_pool_backward(Tensor grad, Tensor rois, Tensor argmax, float spatial_scale, SymInt pooled_height, "
    "SymInt pooled_width, SymInt batch_size, SymInt channels, SymInt height, SymInt width) -> Tensor",
    "ps_roi_pool(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width) "
    "-> (Tensor, Tensor)",
    "_ps_roi_pool_backward(Tensor grad, Tensor rois, Tensor channel_mapping, float spatial_scale, "
    "SymInt pooled_height, SymInt pooled_width, SymInt batch_size, SymInt channels, SymInt height, "
    "SymInt width) -> Tensor",
    "deform_conv2d(Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, SymInt stride_h, "
    "SymInt stride_w, SymInt pad_h, SymInt pad_w, SymInt dilation_h, SymInt dilation_w, SymInt groups, "
    "SymInt offset_groups, bool use_mask) -> Tensor",
    "_deform_conv2d_backward(Tensor grad, Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, "
    "SymInt stride_h, SymInt stride_w, SymInt pad_h, SymInt pad_w, SymInt dilation_h, SymInt dilation_w, "
    "SymInt groups, SymInt offset_groups, bool use_mask) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    "_cuda_version() -> int",
)

_libraries: list[object] = []  # a torch.library.Library takes its operators back when it is collected


def install() -> None:
    """Put the hook before the other importers. A second call, or one after ``import torchvision``, does nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder:
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _HOOKED:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.origin is not None:
            spec.loader = _ExtensionLoader(fullname, spec.origin)
        return spec


class _ExtensionLoader(SourceFileLoader):
    """Runs torchvision/extension.py, which itself tries to load ``_C.so``, and steps in where that failed."""

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        import torch

        # Declaring operators beside a loaded _C.so aborts the import. Beside a CUDA or ROCm torch a failure is a
        # wrong pair of versions, which torchvision's own message explains.
        if not module._has_ops() and torch.version.cuda is None and torch.version.hip is None:
            _declare_operators()
            vars(module)["_has_ops"] = lambda: True


def _declare_operators() -> None:
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        library.define(schema)
    library.impl("nms", _nms, "CPU")
    library.impl("_cuda_version", lambda: -1, "CompositeExplicitAutograd")  # -1: built without CUDA
    _libraries.append(library)


def _nms(dets: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Indices of the boxes kept, best score first: (N, 4) corners x1, y1, x2, y2 and (N,) scores -> (K,) int64.

    A box falls when its intersection over union with a kept, better box is above the threshold
    (torchvision/csrc/ops/cpu/nms_kernel.cpp). In numpy, since a loop over small tensors is 25 times slower.
    """
    import numpy as np
    import torch

    order = scores.argsort(descending=True, stable=True).numpy()
    x1, y1, x2, y2 = dets.detach().numpy()[order].T
    areas = (x2 - x1) * (y2 - y1)
    suppressed = np.zeros(len(order), dtype=bool)
    keep = []
    for i in range(len(order)):
        if suppressed[i]:
            continue
        keep.append(order[i])
        rest = slice(i + 1, None)
        width = np.maximum(np.minimum(x2[i], x2[rest]) - np.maximum(x1[i], x1[rest]), 0)
        height = np.maximum(np.minimum(y2[i], y2[rest]) - np.maximum(y1[i], y1[rest]), 0)
        intersection = width * height
        with np.errstate(invalid="ignore", divide="ignore"):  # two empty boxes: 0 / 0 is not above the threshold
            suppressed[rest] |= intersection / (areas[i] + areas[rest] - intersection) > iou_threshold
    return torch.from_numpy(np.asarray(keep, dtype=np.int64))
