"""A stand-in for mmcv's compiled module ``mmcv._ext``, so that mmdet runs on mmcv-lite without a compiler.

mmcv's Python operators look their kernels up in ``mmcv._ext``. Detection needs three of them; each exists in
PyTorch or torchvision. Scores, boxes and masks of RTMDet and Mask2Former equal those of a compiled mmcv.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from torch import Tensor

_EXTENSION = "mmcv._ext"


def install() -> None:
    """Make ``import mmdet.apis`` work. Call before mmdet is imported; does nothing where mmcv is compiled.

    torchvision is guarded too, since its operators are used here.
    """
    import torchvision_guard

    torchvision_guard.install()
    if _EXTENSION in sys.modules or importlib.util.find_spec(_EXTENSION) is not None:
        return
    sys.modules[_EXTENSION] = _Extension(_EXTENSION)


class _Extension(ModuleType):
    """Has every operator's name, as mmcv asserts at import; those without an implementation raise when called."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, loader=None)
        self.nms = nms
        self.ms_deform_attn_forward = ms_deform_attn_forward
        self.roi_align_forward = roi_align_forward

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*_: object, **__: object) -> NoReturn:
            raise NotImplementedError(
                f"mmcv operator {name!r} needs compiled code: install mmcv 2.1.0 in place of mmcv-lite"
            )

        return missing


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the boxes [n, 4] that stay, best score first. ``offset`` 1 counts the right and bottom pixel in."""
    import torchvision

    # With offset 1 mmcv adds 1 to every width and height; moving the far corner does the same.
    corners = boxes + boxes.new_tensor([0, 0, offset, offset])
    kept: Tensor = torchvision.ops.nms(corners, scores, iou_threshold)
    return kept


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Deformable attention [batch, queries, channels] by mmcv's own PyTorch version.

    The level starts follow from the shapes, and the step only splits the compiled kernel's work.
    """
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    attended: Tensor = multi_scale_deformable_attn_pytorch(
        value, value_spatial_shapes, sampling_locations, attention_weights
    )
    return attended


def roi_align_forward(
    features: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Write the pooled ``rois`` [n, 5] into ``output`` [n, channels, height, width]. Average pooling only."""
    import torchvision

    if pool_mode != 1:
        raise NotImplementedError("mmcv operator 'roi_align_forward' is here for average pooling only")
    size = (aligned_height, aligned_width)
    output.copy_(torchvision.ops.roi_align(features, rois, size, spatial_scale, sampling_ratio, aligned))
