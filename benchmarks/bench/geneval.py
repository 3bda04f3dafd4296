"""GenEval scoring beside the official way, one image at a time: ``python -m benchmarks.bench.geneval [mask2former]``.

Official is what evaluate_images.py does: mmdet's ``inference_detector`` for each image, all masks copied, then CLIP for
the crops of one class of one image. Ours is the benchmark's own ``judge``. Same images on disk, same judges, same rule.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from benchmarks.geneval import GenEval
from benchmarks.judges.color import ColorClassifier, object_crop
from benchmarks.judges.detector import Detections, Detector, bgr, build, library_warnings_off, mask2former, pipeline_of
from benchmarks.shapes.geneval import scene_for
from benchmarks.shapes.scene import render
from benchmarks.types import Json, Prediction, Sample, Verdict

Result = TypeVar("Result")


def side_by_side(ways: Sequence[Callable[[], Result]], repeat: int) -> tuple[list[float], list[Result]]:
    """Seconds of processor time of each way, the least of ``repeat`` turns, and what it returned.

    In turn, so that other work on the machine is shared; processor time of one thread, so that waiting counts for none.
    """
    seconds, results = [float("inf")] * len(ways), [way() for way in ways]
    for _ in range(repeat):
        for k, way in enumerate(ways):
            start = time.process_time()
            way()
            seconds[k] = min(seconds[k], time.process_time() - start)
    return seconds, results


def detect_one_at_a_time(detector: Detector, images: Sequence[Image.Image]) -> list[Detections]:
    model, pipeline = detector.loaded  # which makes mmdet importable
    from mmdet.apis import inference_detector

    found = []
    for image in images:
        seen = inference_detector(model, bgr(image), test_pipeline=pipeline).pred_instances.cpu().numpy()
        found.append(Detections(seen.bboxes, seen.scores, seen.labels, seen.masks.astype(bool)))
    return found


def officially(bench: GenEval, samples: Sequence[Sample], files: Sequence[Path]) -> list[Verdict]:
    """Findings in the form of ours, so that the same rule takes them."""
    assert isinstance(bench.detector, Detector)
    verdicts = []
    for sample, path in zip(samples, files, strict=True):
        image = Image.open(path).convert("RGB")
        (found,) = detect_one_at_a_time(bench.detector, [image])
        finding: dict[str, Json] = {"floor": bench.options.floor, "boxes": {}, "color_logits": {}}
        for label, name in enumerate(bench.detector.classes):
            rows = np.flatnonzero((found.labels == label) & (found.scores > np.float32(bench.options.floor)))
            if len(rows):
                finding["boxes"][name] = np.column_stack([found.boxes[rows], found.scores[rows]]).tolist()
            if len(rows) and any(c["class"] == name and "color" in c for c in sample.meta["include"]):
                masks = found.masks
                crops = [object_crop(image, found.boxes[i], None if masks is None else masks[i]) for i in rows]
                finding["color_logits"][name] = _classify(bench.colors, crops, name).tolist()
        verdicts.append(Verdict(sample.id, finding))
    return verdicts


def _classify(colors: ColorClassifier, crops: Sequence[Image.Image], name: str) -> Any:
    """The crops of one class of one image in one batch, as large as there are crops."""
    import torch

    model, preprocess, _ = colors.loaded
    with torch.inference_mode():
        features = model.encode_image(torch.stack([preprocess(crop) for crop in crops]))
        features = features / features.norm(dim=-1, keepdim=True)
        return (100.0 * features @ colors.weights_of(name)).numpy()


def toy(prompts_per_tag: int = 10) -> None:
    """The embedded judges on the embedded prompts."""
    bench = GenEval.toy(prompts_per_tag)
    samples, rng = bench.samples(), random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.png" for number in range(len(samples))]
        for sample, path in zip(samples, files, strict=True):
            render(scene_for(sample.meta, rng)).save(path)
        predictions = [Prediction(s.id, 0, 0.0, image=path.name) for s, path in zip(samples, files, strict=True)]
        together = bench.judged_together

        def ours() -> list[Verdict]:
            starts = range(0, len(samples), together)
            parts = [(samples[i : i + together], predictions[i : i + together]) for i in starts]
            return [verdict for some, drawn in parts for verdict in bench.judge(some, drawn, Path(folder))]

        (plain_seconds, our_seconds), (plain, batched) = side_by_side(
            [lambda: officially(bench, samples, files), ours], repeat=5
        )
    outcomes = [
        (bench.outcome(sample, a), bench.outcome(sample, b))
        for sample, a, b in zip(samples, plain, batched, strict=True)
    ]
    equal = sum((a.correct, a.reason) == (b.correct, b.reason) for a, b in outcomes)
    print(f"toy judges, {len(samples)} images: {_rates(plain_seconds, our_seconds, len(samples))}")
    print(f"  equal decisions and reasons: {equal} of {len(samples)}; largest difference {_difference(plain, batched)}")


def swin(images: int = 1, masks: int = 8) -> None:
    """GenEval's own detector with random weights: what it finds means nothing, what it costs does.

    ``masks`` detections per image are above the threshold, as on a real image.
    """
    detector = Detector(mask2former(Path("random weights"), tuple(str(i) for i in range(80))))
    model = build(detector.spec.config, "cpu")
    detector.__dict__["loaded"] = model, pipeline_of(model)  # in place of weights from a file
    rng = np.random.default_rng(0)
    noise = [Image.fromarray(rng.integers(0, 255, (512, 512, 3), dtype=np.uint8)) for _ in range(images)]
    with library_warnings_off():
        (warm,) = detect_one_at_a_time(detector, noise[:1])
        floor = float(np.sort(warm.scores)[-masks - 1])
        (plain_seconds, our_seconds), (plain, ours) = side_by_side(
            [lambda: detect_one_at_a_time(detector, noise), lambda: detector.detect(noise, floor)], repeat=1
        )
    equal = all(
        np.array_equal(a.scores[rows], b.scores) and np.array_equal(a.boxes[rows], b.boxes)
        for a, b in zip(plain, ours, strict=True)
        for rows in [a.scores > np.float32(floor)]
    )
    print(f"Mask2Former Swin-S, random weights, {images} images: {_rates(plain_seconds, our_seconds, images)}")
    print(f"  equal in every bit: {equal}")


def _rates(plain: float, ours: float, number: int) -> str:
    return f"{number / plain:.2f} images/s officially, {number / ours:.2f} ours, ratio {plain / ours:.2f}"


def _difference(plain: Sequence[Verdict], ours: Sequence[Verdict]) -> str:
    """Of boxes in pixels, of scores, of logits."""
    boxes = [
        np.abs(np.array(a.finding["boxes"][name]) - np.array(b.finding["boxes"][name])).max(axis=0)
        for a, b in zip(plain, ours, strict=True)
        for name in a.finding["boxes"]
    ]
    logits = [
        np.abs(np.array(a.finding["color_logits"][name]) - np.array(b.finding["color_logits"][name])).max()
        for a, b in zip(plain, ours, strict=True)
        for name in a.finding["color_logits"]
    ]
    worst = np.max(boxes, axis=0)
    return f"{worst[:4].max():.1e} pixels, {worst[4]:.1e} of a score, {max(logits):.1e} of a logit"


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    if sys.argv[1:] == ["mask2former"]:  # minutes per image
        swin()
    else:
        toy()
