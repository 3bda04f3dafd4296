"""Train the toy judges: the detector (mmdet) and the color classifier (open_clip).

    python -m benchmarks.shapes.train_judges --out benchmarks/shapes/weights

Both learn from drawings of random scenes that no other seed of the project makes. Most are spoiled the way a
small generator spoils its images (blur, noise, wobbly outlines, off colors, stains), since those are what the
judges will look at. Shapes that are barely there are left unlabelled.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.judges.color import COLORS, ColorClassifier, class_weights, create, object_crop
from benchmarks.judges.detector import Detections, Detector, bgr, build, load_weights, read_state_dict
from benchmarks.shapes import chat, looking
from benchmarks.shapes.judges import CARD, COLOR_WEIGHTS, DETECTOR_WEIGHTS, color_spec, detector_spec
from benchmarks.shapes.scene import BACKGROUND, CANVAS, RGB, SHAPES, SIZES, Color, Scene, Shape, mask, random_scene
from benchmarks.shapes.scene import render as render_scene

Split = Literal["train", "held-out"]
#: float32; OpenCV declares its results wider.
Pixels = NDArray[Any]
#: The ten colors as float32.
TINTS = {color: np.array(rgb, dtype=np.float32) for color, rgb in RGB.items()}

#: Side of the detector's input in pixels (its config doubles the canvas).
INPUT = 128


@dataclass(frozen=True)
class Labelled:
    """One object of a drawing; ``region`` bool [64, 64] is where it covers half a pixel or more."""

    shape: Shape
    color: Color
    region: NDArray[np.bool_]

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom, the last two exclusive."""
        rows, columns = np.flatnonzero(self.region.any(1)), np.flatnonzero(self.region.any(0))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@dataclass(frozen=True)
class Drawing:
    """``pixels`` uint8 [64, 64, 3] RGB and what a judge should see in them."""

    pixels: NDArray[np.uint8]
    objects: tuple[Labelled, ...]


# Drawing ----------------------------------------------------------------------------------------------------------


def clean(scene: Scene) -> Drawing:
    """The scene exactly as the shapes world renders it."""
    objects = []
    for item in scene.objects:
        region = np.zeros((CANVAS, CANVAS), dtype=bool)
        left, top, right, bottom = item.box
        region[top:bottom, left:right] = mask(item.shape, item.size) >= 0.5
        objects.append(Labelled(item.shape, item.color, region))
    return Drawing(np.asarray(render_scene(scene)), tuple(objects))


def cloud(rng: np.random.Generator, cells: int, amplitude: float, channels: int) -> Pixels:
    """Smooth noise [64, 64, channels] of about +- ``amplitude``."""
    coarse = rng.uniform(-amplitude, amplitude, (cells, cells, channels)).astype(np.float32)
    return cv2.resize(coarse, (CANVAS, CANVAS), interpolation=cv2.INTER_CUBIC).reshape(CANVAS, CANVAS, channels)


def cover_of(shape: Shape, size: int, x: float, y: float, wobble: float, rng: np.random.Generator) -> Pixels:
    """Coverage [64, 64] of a shape at (x, y), slightly out of proportion, its outline moved by ``wobble`` pixels."""
    wide, high = size * rng.uniform(0.92, 1.08, 2)
    stamp = np.zeros((CANVAS, CANVAS), dtype=np.float32)
    stamp[:size, :size] = mask(shape, size)
    move = np.array([[wide / size, 0, x], [0, high / size, y]], dtype=np.float32)
    placed = cv2.warpAffine(stamp, move, (CANVAS, CANVAS), flags=cv2.INTER_LINEAR)
    if wobble == 0:
        return placed
    grid_y, grid_x = np.mgrid[:CANVAS, :CANVAS].astype(np.float32)
    shift = cloud(rng, 10, wobble, 2)
    return cv2.remap(placed, grid_x + shift[..., 0], grid_y + shift[..., 1], cv2.INTER_LINEAR)


def places(scene: Scene, rng: np.random.Generator) -> list[tuple[Shape, Color, int, float, float]]:
    """Shape, color, size and position of the objects: as in the scene, or anywhere without touching."""
    if rng.random() < 0.7:
        return [(o.shape, o.color, o.size, o.x + rng.normal(0, 0.5), o.y + rng.normal(0, 0.5)) for o in scene.objects]
    placed: list[tuple[Shape, Color, int, float, float]] = []
    for item in scene.objects:
        for _ in range(30):
            size = int(rng.choice(SIZES))
            x, y = rng.uniform(1, CANVAS - 1 - size * 1.08, 2)
            if all(max(abs(x - px), abs(y - py)) > max(size, ps) * 1.08 + 1 for _, _, ps, px, py in placed):
                placed.append((item.shape, item.color, size, x, y))
                break
    return placed


def paint(canvas: Pixels, cover: Pixels, tint: Pixels) -> None:
    canvas *= 1 - cover[..., None]
    canvas += tint * cover[..., None]


def stain(canvas: Pixels, rng: np.random.Generator) -> None:
    """What a generator leaves behind and nobody would name: faded shapes, specks and clouds of color."""
    colors = list(TINTS.values())
    if rng.random() < 0.5:
        canvas += cloud(rng, 6, rng.uniform(2, 18), 3)
    for _ in range(rng.choice([0, 0, 1, 2])):
        size = int(rng.choice(SIZES))
        x, y = rng.uniform(-4, CANVAS + 4 - size, 2)
        cover = cover_of(SHAPES[rng.integers(len(SHAPES))], size, x, y, 1.0, rng)
        paint(canvas, cover * rng.uniform(0.1, 0.35), colors[rng.integers(len(colors))])
    for _ in range(rng.choice([0, 0, 1, 3])):
        cover = np.zeros((CANVAS, CANVAS), dtype=np.float32)
        center, axes = rng.integers(0, CANVAS, 2), rng.integers(1, 4, 2)
        cv2.ellipse(cover, center.tolist(), axes.tolist(), float(rng.uniform(0, 180)), 0, 360, 1.0, -1)
        paint(canvas, cv2.GaussianBlur(cover, (0, 0), 0.7), colors[rng.integers(len(colors))])
    if rng.random() < 0.3:
        fog = np.clip(cloud(rng, 7, 1.0, 1)[..., 0] - 0.3, 0, 0.4)
        paint(canvas, fog, colors[rng.integers(len(colors))])


def spoiled(scene: Scene, rng: np.random.Generator) -> Drawing:
    """The scene as an imperfect generator might draw it."""
    canvas: Pixels = np.empty((CANVAS, CANVAS, 3), dtype=np.float32)
    canvas[:] = np.array(BACKGROUND) + rng.normal(0, 4)
    stain(canvas, rng)
    wobble = float(rng.choice([0.0, rng.uniform(0, 1.5)]))
    objects = []
    for shape, color, size, x, y in places(scene, rng):
        cover = cover_of(shape, size, x, y, wobble, rng)
        tint = TINTS[color] + rng.normal(0, 7, 3).astype(np.float32) + cloud(rng, 5, 10, 3)
        paint(canvas, cover * rng.uniform(0.88, 1.0), tint)
        objects.append(Labelled(shape, color, cover >= 0.5))
    if rng.random() < 0.5:
        canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.3, 1.0))
    if rng.random() < 0.5:
        canvas += rng.normal(0, rng.uniform(1, 8), canvas.shape).astype(np.float32)
    if rng.random() < 0.5:
        canvas = canvas * rng.uniform(0.93, 1.07) + rng.uniform(-6, 6)
    return Drawing(np.clip(np.rint(canvas), 0, 255).astype(np.uint8), tuple(objects))


def nothing(rng: np.random.Generator) -> Drawing:
    """A canvas of any color with stains, or plain noise: what a generator draws that has not learnt yet."""
    canvas: Pixels = np.empty((CANVAS, CANVAS, 3), dtype=np.float32)
    canvas[:] = rng.uniform(0, 255, 3) if rng.random() < 0.7 else rng.choice([0.0, 153.0, 255.0])
    if rng.random() < 0.5:
        stain(canvas, rng)
    if rng.random() < 0.3:
        canvas += cloud(rng, int(rng.choice([3, 8, 16])), rng.uniform(20, 120), 3)
    if rng.random() < 0.4:
        canvas += rng.normal(0, rng.uniform(1, 80), canvas.shape).astype(np.float32)
    return Drawing(np.clip(np.rint(canvas), 0, 255).astype(np.uint8), ())


def scene_of(split: Split, index: int) -> Scene:
    return random_scene(random.Random(f"judges/{split}/{index}"))


def training_drawing(index: int) -> Drawing:
    """A quarter of the drawings are clean, so that the judges are sharp on renders too; a tenth show nothing."""
    rng = np.random.default_rng([1, index])
    scene = scene_of("train", index)
    kind = rng.random()
    if kind < 0.25:
        return clean(scene)
    return spoiled(scene, rng) if kind < 0.9 else nothing(rng)


# Detector ---------------------------------------------------------------------------------------------------------


class ConfidentClassLoss(torch.nn.Module):
    """Cross-entropy to 1 for every assigned prior, where RTMDet's own loss aims at the box's IoU.

    GenEval counts objects above a score of 0.9: the score has to mean "this is one", not "its box is tight".
    ``focus`` is the exponent of focal loss, which finds the few objects sooner but keeps scores from 1.
    """

    def __init__(self, focus: float) -> None:
        super().__init__()
        self.focus = focus

    def forward(
        self, logits: torch.Tensor, target: tuple[torch.Tensor, torch.Tensor], weight: torch.Tensor, avg_factor: float
    ) -> torch.Tensor:
        """``logits`` [n, classes]; ``target`` labels [n] (background = classes) and IoUs, which are not used."""
        classes = logits.shape[1]
        wanted = torch.nn.functional.one_hot(target[0], classes + 1)[:, :classes].to(logits)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        return (loss * (wanted - logits.detach().sigmoid()).abs() ** self.focus).sum() / avg_factor


def detector_batch(drawings: Sequence[Drawing]) -> dict[str, Any]:
    """mmdet's training input: BGR uint8 [3, 128, 128] and annotations at that size."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    scale = INPUT // CANVAS
    inputs, samples = [], []
    for drawing in drawings:
        large = cv2.resize(bgr(Image.fromarray(drawing.pixels)), (INPUT, INPUT), interpolation=cv2.INTER_LINEAR)
        inputs.append(torch.from_numpy(large.transpose(2, 0, 1).copy()))
        regions = [cv2.resize(o.region.astype(np.uint8), (INPUT, INPUT), interpolation=0) for o in drawing.objects]
        sample = DetDataSample(metainfo={"img_shape": (INPUT, INPUT), "ori_shape": (CANVAS, CANVAS)})
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor([o.box for o in drawing.objects], dtype=torch.float32).reshape(-1, 4) * scale,
            labels=torch.tensor([SHAPES.index(o.shape) for o in drawing.objects], dtype=torch.long),
            masks=BitmapMasks(np.array(regions, dtype=np.uint8).reshape(-1, INPUT, INPUT), INPUT, INPUT),
        )
        samples.append(sample)
    return {"inputs": inputs, "data_samples": samples}


def train_detector(steps: int, sure_steps: int, batch: int, start: Path | None) -> Any:
    """``steps`` with focal loss, then ``sure_steps`` with plain cross-entropy, which brings scores near 0 and 1.

    With ``start``, weights that exist, only the latter are run.
    """
    from mmengine.logging import MMLogger

    torch.manual_seed(0)
    model = build(detector_spec().config, "cpu")
    MMLogger.get_current_instance().setLevel("WARNING")  # it reports every tensor that it initialises
    model.init_weights()
    model.train().to(memory_format=torch.channels_last)

    def loss_of(indices: Iterable[int]) -> torch.Tensor:
        data = model.data_preprocessor(detector_batch([training_drawing(i) for i in indices]), True)
        data["inputs"] = data["inputs"].to(memory_format=torch.channels_last)
        terms = model(**data, mode="loss").values()
        return torch.stack([torch.stack(list(t)).sum() if isinstance(t, list) else t for t in terms]).sum()

    if start is not None:
        load_weights(model, read_state_dict(start), start)
    else:
        model.bbox_head.loss_cls = ConfidentClassLoss(focus=1.0)
        descend(model, loss_of, range(steps), batch, 3e-3, "detector")
    model.bbox_head.loss_cls = ConfidentClassLoss(focus=0.0)
    descend(model, loss_of, range(steps, steps + sure_steps), batch, 1e-3, "detector, sure")
    return model.eval()


# Color classifier -------------------------------------------------------------------------------------------------


def color_crops(drawing: Drawing, rng: np.random.Generator) -> list[tuple[Image.Image, Labelled]]:
    """The drawing's objects cut out as GenEval does it, by boxes and masks that are a little off."""
    image = Image.fromarray(drawing.pixels)
    crops = []
    for item in drawing.objects:
        soft = cv2.GaussianBlur(item.region.astype(np.float32), (0, 0), 1.2)
        region = soft > rng.uniform(0.25, 0.75)
        box = np.clip(np.array(item.box) + rng.normal(0, 1, 4), 0, CANVAS)
        crops.append((object_crop(image, box.tolist(), region), item))
    return crops


def train_color(steps: int, batch: int) -> Any:
    """Cross-entropy over the ten colors of the object's class, with the same prompts as at test time."""
    torch.manual_seed(0)
    model, preprocess, tokenizer = create(color_spec(), None)
    model.train()

    def loss_of(indices: Iterable[int]) -> torch.Tensor:
        crops = [crop for i in indices for crop in color_crops(training_drawing(i), np.random.default_rng([2, i]))]
        pixels = torch.stack([preprocess(crop) for crop, _ in crops])
        features = model.encode_image(pixels, normalize=True)
        weights = torch.stack([class_weights(model, tokenizer, shape, "cpu") for shape in SHAPES])
        of_class = weights[[SHAPES.index(item.shape) for _, item in crops]]
        logits = 100.0 * torch.einsum("nd,ndc->nc", features, of_class)
        return torch.nn.functional.cross_entropy(logits, torch.tensor([COLORS.index(o.color) for _, o in crops]))

    descend(model, loss_of, range(steps), batch, 1e-3, "color")
    return model.eval()


# Both -------------------------------------------------------------------------------------------------------------


def descend(
    model: torch.nn.Module,
    loss_of: Callable[[Iterable[int]], torch.Tensor],
    steps: range,
    batch: int,
    rate: float,
    name: str,
) -> None:
    """AdamW under a one-cycle rate; step i sees the drawings i * batch to (i + 1) * batch - 1."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=len(steps), pct_start=0.1)
    start = time.perf_counter()
    for step in steps:
        loss = loss_of(range(step * batch, (step + 1) * batch))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        schedule.step()
        if step % 20 == 0 or step == steps[-1]:
            print(f"{name} step {step} loss {loss.item():.4f} {time.perf_counter() - start:.0f} s", file=sys.stderr)


def save(model: torch.nn.Module, path: Path) -> None:
    """fp16, but for the running statistics of batch normalisation, which leave its range."""
    from safetensors.torch import save_file

    state = {
        # Copies: RTMDet's levels share tensors, which safetensors does not take.
        name: value.to(torch.float16 if _half(name, value) else value.dtype).clone(
            memory_format=torch.contiguous_format
        )
        for name, value in model.state_dict().items()
    }
    save_file(state, path)


def _half(name: str, value: torch.Tensor) -> bool:
    return value.is_floating_point() and "running_" not in name


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def exact(drawing: Drawing, found: Detections, threshold: float) -> bool:
    """Every object is found once with IoU > 0.5 and nothing else is, above the threshold."""
    kept = [
        (SHAPES[label], box)
        for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True)
        if score > threshold
    ]
    if len(kept) != len(drawing.objects):
        return False
    return all(any(shape == o.shape and iou(box, o.box) > 0.5 for shape, box in kept) for o in drawing.objects)


def card(out: Path, scenes: int) -> dict[str, Any]:
    """Accuracy of the stored weights on held-out drawings, through the code that judges with them."""
    detector, classifier = Detector(detector_spec(out)), ColorClassifier(color_spec(out))
    rng = np.random.default_rng([3])
    result: dict[str, Any] = {"held_out_scenes": scenes}
    kinds: dict[str, list[Drawing]] = {
        "clean": [clean(scene_of("held-out", i)) for i in range(scenes)],
        "spoiled": [spoiled(scene_of("held-out", i), rng) for i in range(scenes)],
        "empty": [nothing(rng) for _ in range(scenes)],
    }
    for kind, drawings in kinds.items():
        start = time.perf_counter()
        found = detector.detect([Image.fromarray(drawing.pixels) for drawing in drawings])
        result[f"{kind}_seconds_per_image"] = round((time.perf_counter() - start) / len(drawings), 4)
        for threshold in (0.3, 0.9):
            right = sum(exact(d, f, threshold) for d, f in zip(drawings, found, strict=True))
            result[f"{kind}_exact_scene_above_{threshold}"] = right / len(drawings)
    for kind in ("clean", "spoiled"):
        crops = [crop for drawing in kinds[kind] for crop in color_crops(drawing, rng)]
        right = sum(COLORS[classifier.logits([crop], o.shape)[0].argmax()] == o.color for crop, o in crops)
        result[f"{kind}_color_accuracy"] = right / len(crops)
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train the toy judges on drawings of the shapes world.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the weights and their cards")
    parser.add_argument("--detector-steps", type=int, default=900, help="batches of 32 with focal loss")
    parser.add_argument("--sure-steps", type=int, default=300, help="batches of 32 with cross-entropy, after those")
    parser.add_argument("--color-steps", type=int, default=300, help="batches of 32")
    parser.add_argument("--only", choices=("detector", "sure", "color", "card"), help="take the rest from --out")
    parser.add_argument("--held-out", type=int, default=500, help="scenes for the cards")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    detector = options.out / DETECTOR_WEIGHTS
    if options.only in (None, "color"):
        save(train_color(options.color_steps, 32), options.out / COLOR_WEIGHTS)
    if options.only in (None, "detector", "sure"):
        start = detector if options.only == "sure" else None
        save(train_detector(options.detector_steps, options.sure_steps, 32, start), detector)
    scenes, looker = options.held_out, looking.Looker(options.out)
    for name, figures in (
        (CARD, card(options.out, scenes)),
        (looking.CARD, {"scenes": scenes, "exact": looking.held_out(looker, scenes)}),
        (chat.CARD, {"scenes": scenes, "right": chat.held_out(chat.SceneJudge(looker), scenes)}),
    ):
        text = json.dumps(figures, indent=2)
        (options.out / name).write_text(text + "\n")
        print(text)


if __name__ == "__main__":
    main()
