"""These tests see the guard at work where torch is a CPU build, and torchvision's own operators elsewhere."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

import torchvision_guard

torchvision_guard.install()


def run(code: str) -> str:
    """stdout of a new interpreter, whose start installs the guard through the .pth file."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def iou(a: list[float], b: list[float]) -> float:
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0.0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (areas - width * height)


def greedy(boxes: Tensor, scores: Tensor, threshold: float) -> list[int]:
    """Non-maximum suppression by its definition, one pair at a time."""
    corners, kept = boxes.tolist(), list[int]()
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i].item()):
        if all(iou(corners[i], corners[j]) <= threshold for j in kept):
            kept.append(i)
    return kept


def test_nms_keeps_what_the_definition_keeps() -> None:
    from torchvision.ops import nms

    generator = torch.Generator().manual_seed(0)
    for threshold in (0.0, 0.3, 0.7):
        boxes = torch.rand(60, 4, generator=generator, dtype=torch.float64)
        boxes[:, 2:] += boxes[:, :2]
        scores = torch.rand(60, generator=generator, dtype=torch.float64)
        expected = greedy(boxes, scores, threshold)
        assert 1 < len(expected) < 60
        assert nms(boxes, scores, threshold).tolist() == expected


def test_nms_at_the_threshold_on_ties_and_on_empty_boxes() -> None:
    from torchvision.ops import nms

    half = torch.tensor([[0.0, 0.0, 2.0, 1.0], [0.0, 0.0, 1.0, 1.0]])  # IoU exactly 1/2
    assert nms(half, torch.tensor([0.9, 0.8]), 0.5).tolist() == [0, 1]
    assert nms(half, torch.tensor([0.9, 0.8]), 0.49).tolist() == [0]
    assert nms(half, torch.tensor([0.9, 0.9]), 0.49).tolist() == [0]
    assert nms(torch.zeros(2, 4), torch.zeros(2), 0.5).tolist() == [0, 1]
    none = nms(torch.zeros(0, 4), torch.zeros(0), 0.5)
    assert (none.shape, none.dtype) == ((0,), torch.int64)


@pytest.mark.parametrize(
    "modules",
    [
        "torchvision.transforms.v2, torchvision.models",
        pytest.param("open_clip, transformers.models.qwen2_5_vl.processing_qwen2_5_vl", marks=pytest.mark.slow),
    ],
)
def test_a_new_interpreter_imports_torchvision_and_what_stands_on_it(modules: str) -> None:
    code = f"import {modules}, torchvision; print(torchvision.extension._has_ops())"
    assert run(code) == "True"


def test_start_of_an_interpreter_imports_nothing_heavy() -> None:
    code = (
        "import sys, torchvision_guard as guard;"
        "guard.install(); guard.install();"
        "print(sum(isinstance(f, guard._Finder) for f in sys.meta_path), sorted({'torch', 'typing'} & {*sys.modules}))"
    )
    assert run(code) == "1 []"


def test_operators_are_not_declared_beside_a_cuda_torch() -> None:
    """There a failure to load means unlike versions, and torchvision's own message must stay."""
    code = (
        "import torch; torch.version.cuda = '13.0'\n"
        "try:\n    import torchvision\n    print(torchvision.extension._has_ops())\n"
        "except RuntimeError as error:\n    print(error)"
    )
    assert run(code) == ("True" if torch.version.cuda else "operator torchvision::nms does not exist")
