"""GenEval: does an image show the objects, counts, colors and positions of its prompt (Ghosh et al. 2023)?

An object detector and a color classifier look at each image; the rule below, which is pure, decides. It is
evaluate_images.py of djghosh13/geneval at af4902f, including what surprises (profile ``geneval-official``):
docs/geneval.md lists that.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from PIL import Image, ImageOps

from benchmarks.images import UNREADABLE, open_image
from benchmarks.intervals import Interval, clustered_mean, macro_mean
from benchmarks.judges.color import COLORS, ColorClassifier, ColorSpec, object_crop
from benchmarks.judges.detector import Detections, Detector, ObjectDetector, mask2former
from benchmarks.judges.selftest import Known, check_detector, photographs
from benchmarks.judges.transformers_detector import TransformersDetector
from benchmarks.types import BenchError, Json, Metric, Prediction, Sample, Score, Verdict

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmarks.shapes.scene import Shape

#: In the order of the official file.
TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")

Metadata = Mapping[str, Json]

#: ``geneval-transformers`` has the same rule under another detector: not comparable with published scores.
Profile = Literal["geneval-official", "geneval-transformers"]
OFFICIAL: Profile = "geneval-official"
TRANSFORMERS: Profile = "geneval-transformers"
#: Images that are looked at together, whatever the batch size; and those that go through the toy detector at once.
JUDGED_TOGETHER = 16
TOY_TOGETHER = 8


@dataclass(frozen=True)
class GenEvalOptions:
    """The official script's options and their defaults.

    ``max_overlap`` 1.0 switches non-maximum suppression off; ``position_threshold`` is the share of both sizes
    that a distance must exceed.
    """

    threshold: float = 0.3
    counting_threshold: float = 0.9
    max_objects: int = 16
    max_overlap: float = 1.0
    position_threshold: float = 0.1

    def score_threshold(self, tag: str) -> float:
        """In counting the higher threshold holds for every class, asked for or not."""
        return self.counting_threshold if tag == "counting" else self.threshold

    @property
    def floor(self) -> float:
        """No rule with these options looks at a detection with a score of this or less."""
        return min(self.threshold, self.counting_threshold)


@dataclass(frozen=True)
class Found:
    """Objects of one class: ``boxes`` float32 [n, 5] as left, top, right, bottom, score.

    ``color_logits`` float32 [n, 10] where colors were looked at.
    """

    boxes: NDArray[np.float32]
    color_logits: NDArray[np.float32] | None = None

    def take(self, rows: Sequence[int] | slice) -> Found:
        return Found(self.boxes[rows], None if self.color_logits is None else self.color_logits[rows])


@dataclass(frozen=True)
class Outcome:
    """``reason`` has one line per unmet clause; ``details`` are the objects that counted, best score first."""

    correct: bool
    reason: str
    details: Mapping[str, Found] = field(default_factory=dict)


# The rule ---------------------------------------------------------------------------------------------------------


def decide(metadata: Metadata, detections: Mapping[str, Found], options: GenEvalOptions) -> Outcome:
    """Which detections count, and whether they satisfy the prompt."""
    threshold = options.score_threshold(metadata["tag"])
    objects = {name: found.take(kept(found.boxes, threshold, options)) for name, found in detections.items()}
    objects = {name: found for name, found in objects.items() if len(found.boxes)}
    outcome = evaluate(metadata, objects, options.position_threshold)
    return Outcome(outcome.correct, outcome.reason, objects)


def kept(boxes: NDArray[np.float32], threshold: float, options: GenEvalOptions) -> list[int]:
    """Rows of ``boxes`` [n, 5] that count, best score first."""
    scores = boxes[:, 4]
    # Equal scores fall as numpy's default sort leaves them, as in the official script; a stable sort differs.
    order = np.argsort(scores)[::-1]
    # In float32, so that a score of exactly float32(0.3) is rejected.
    candidates = order[scores[order] > np.float32(threshold)][: options.max_objects].tolist()
    if options.max_overlap == 1.0:
        return [int(row) for row in candidates]
    rows: list[int] = []
    for row in candidates:
        if all(iou(boxes[best], boxes[row]) < options.max_overlap for best in rows):
            rows.append(row)
    return rows


def iou(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Intersection over union of two boxes whose right and bottom pixels belong to them."""

    def area(left: np.float32, top: np.float32, right: np.float32, bottom: np.float32) -> np.float32:
        return max(right - left + np.float32(1), np.float32(0)) * max(bottom - top + np.float32(1), np.float32(0))

    shared = area(max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
    union = area(*a[:4]) + area(*b[:4]) - shared
    return float(shared / union) if union else 0.0


def evaluate(metadata: Metadata, objects: Mapping[str, Found], position_threshold: float) -> Outcome:
    """The prompt's clauses over the objects that count (best score first). All failures are collected."""
    failures: list[str] = []
    matched: list[Found | None] = []
    for clause in metadata.get("include", ()):
        name, count = clause["class"], clause["count"]
        # Colors and positions look at the ``count`` most confident objects only.
        found = _of(objects, name).take(slice(count))
        failure = _count_failure(name, count, found)
        if failure is None and "color" in clause:
            failure = _color_failure(name, count, clause["color"], found)
        if failure is None and "position" in clause:
            relation, index = clause["position"]
            failure = _position_failure(name, relation, found, matched[index], position_threshold)
        if failure is not None:
            failures.append(failure)
        matched.append(found if failure is None else None)
    for clause in metadata.get("exclude", ()):
        name, count = clause["class"], clause["count"]
        number = len(_of(objects, name).boxes)
        if number >= count:
            failures.append(f"expected {name}<{count}, found {number}")
    return Outcome(not failures, "\n".join(failures), objects)


def _of(objects: Mapping[str, Found], name: str) -> Found:
    return objects.get(name, Found(np.zeros((0, 5), dtype=np.float32), np.zeros((0, len(COLORS)), dtype=np.float32)))


def _count_failure(name: str, count: int, found: Found) -> str | None:
    number = len(found.boxes)
    return f"expected {name}>={count}, found {number}" if number < count else None


def _color_failure(name: str, count: int, color: str, found: Found) -> str | None:
    if found.color_logits is None:
        raise BenchError(f"the verdict holds no colors of {name!r}: judge the images again with these prompts")
    # argmax takes the first of equal logits, which fp16 does produce: the earlier color wins.
    seen = [COLORS[row.argmax()] for row in found.color_logits]
    number = seen.count(color)
    if number >= count:
        return None
    listed = ", ".join(f"{seen.count(c)} {c}" for c in COLORS if c in seen)
    return f"expected {color} {name}>={count}, found {number} {color}; and {listed}"


def _position_failure(
    name: str, relation: str, found: Found, target: Found | None, position_threshold: float
) -> str | None:
    """Every found object against every object of the target; only the first failing pair is told."""
    if target is None:
        return f"no target for {name} to be {relation}"
    for box in found.boxes:
        for other in target.boxes:
            relations = relative_position(box, other, position_threshold)
            if relation not in relations:
                return f"expected {name} {relation} target, found {' and '.join(relations)} target"
    return None


def relative_position(
    a: NDArray[np.float32], b: NDArray[np.float32], position_threshold: float = 0.1
) -> tuple[str, ...]:
    """How box ``a`` lies to box ``b``: none, one or two of left of, right of, above, below (float32 throughout).

    The distance is first shortened by a share of both sizes, but then divided by its length before that.
    """
    corners = np.stack([a[:4], b[:4]]).reshape(2, 2, 2)  # box, corner, axis
    centers = corners.mean(axis=1)
    sizes = np.abs(corners[:, 1] - corners[:, 0])
    offset = centers[0] - centers[1]
    margin = np.float32(position_threshold) * (sizes[0] + sizes[1])
    revised = np.maximum(np.abs(offset) - margin, 0) * np.sign(offset)
    if np.all(np.abs(revised) < 1e-3):
        return ()
    dx, dy = revised / np.linalg.norm(offset)
    holds = {"left of": dx < -0.5, "right of": dx > 0.5, "above": dy < -0.5, "below": dy > 0.5}
    return tuple(relation for relation, true in holds.items() if true)


# The benchmark ----------------------------------------------------------------------------------------------------


class GenEval:
    """GenEval over any list of prompts with metadata in its schema. Verdicts hold every class's detections."""

    def __init__(
        self,
        metadata: Sequence[Metadata],
        detector: ObjectDetector,
        colors: ColorClassifier,
        data: Mapping[str, Json],
        images_per_prompt: int = 4,
        options: GenEvalOptions = GenEvalOptions(),
        held_out: Mapping[str, float] | None = None,
        known: Sequence[Known] = (),
        profile: Profile = "geneval-official",
    ) -> None:
        """``data`` describes where the prompts are from, ``held_out`` the judges' own accuracy; both are recorded.

        The detector must pass on the images of ``known`` before it scores others.
        """
        self.name = "geneval"
        self.version = "af4902f"
        self.profile: str = profile
        self.task = "generate"
        self.metadata = tuple(metadata)
        self.detector = detector
        self.colors = colors
        self.data = data
        self.images_per_prompt = images_per_prompt
        self.options = options
        self.held_out = held_out
        self.known = tuple(known)
        self.judged_together = JUDGED_TOGETHER

    @classmethod
    def toy(cls, prompts_per_tag: int = 50, images_per_prompt: int = 4) -> Self:
        """The shapes world's prompts and judges."""
        from benchmarks.shapes.geneval import prompts
        from benchmarks.shapes.judges import color_spec, detector_spec, held_out_accuracy
        from benchmarks.shapes.scene import SHAPES

        metadata = prompts(prompts_per_tag)
        text = "\n".join(json.dumps(entry) for entry in metadata)
        data = {"prompts": "shapes", "sha256": hashlib.sha256(text.encode()).hexdigest()}
        return cls(
            metadata,
            Detector(replace(detector_spec(), together=TOY_TOGETHER)),
            ColorClassifier(color_spec()),
            data,
            images_per_prompt,
            held_out=held_out_accuracy(),
            known=[_known_shape(shape) for shape in SHAPES],
        )

    @classmethod
    def paper(
        cls,
        metadata_path: Path,
        object_names_path: Path,
        detector_checkpoint: Path,
        color_spec: ColorSpec,
        device: str = "cpu",
        images_per_prompt: int = 4,
        profile: Profile = OFFICIAL,
    ) -> Self:
        """The official prompts with Mask2Former Swin-S and, as ``color_spec``, CLIP ViT-L/14.

        Under the profile geneval-transformers ``detector_checkpoint`` is the folder of a Mask2Former of transformers.
        """
        names = read_object_names(object_names_path)
        data = {"prompts": metadata_path.name, "sha256": hashlib.sha256(metadata_path.read_bytes()).hexdigest()}
        detector: ObjectDetector
        if profile == TRANSFORMERS:
            detector = TransformersDetector(detector_checkpoint, names, device)
        else:
            detector = Detector(mask2former(detector_checkpoint, names, device))
        return cls(
            read_metadata(metadata_path),
            detector,
            ColorClassifier(color_spec),
            data,
            images_per_prompt,
            known=photographs(),
            profile=profile,
        )

    def describe(self) -> Mapping[str, Json]:
        return {
            "data": dict(self.data),
            "options": asdict(self.options),
            "prompts": len(self.metadata),
            "images_per_prompt": self.images_per_prompt,
        }

    def describe_judge(self) -> Mapping[str, Json]:
        """As the runner asks for it: to know the weights' digests takes the weights."""
        return {
            "detector": self.detector.describe(),
            "color_classifier": self.colors.describe(),
            "self_test": [one.name for one in self.known],
            **({"held_out": dict(self.held_out)} if self.held_out else {}),
        }

    def samples(self) -> list[Sample]:
        """One per image: ``geneval/00017/2`` is image 2 of prompt 17."""
        return [
            Sample(sample_id, entry["prompt"], group, entry["tag"], meta={**entry, "file": _file(sample_id)})
            for index, entry in enumerate(self.metadata)
            for group in [f"geneval/{index:05}"]
            for image in range(self.images_per_prompt)
            for sample_id in [f"{group}/{image}"]
        ]

    def judge(self, samples: Sequence[Sample], predictions: Sequence[Prediction], folder: Path) -> list[Verdict]:
        """Detect in all images at once, then classify the objects of all images at once.

        Raises BenchError when the detector fails its self-test or does not know a class.
        """
        opened = [_opened(prediction, folder) for prediction in predictions]
        images = {i: image for i, image in enumerate(opened) if not isinstance(image, str)}
        if not images:
            return [Verdict(sample.id, error=str(error)) for sample, error in zip(samples, opened, strict=True)]
        self._check_classes(samples)
        detected = self._tested_detector.detect(list(images.values()), self.options.floor)
        found = dict(zip(images, detected, strict=True))
        colors = self._color_logits(samples, images, found)
        return [
            Verdict(sample.id, self._finding(sample.meta, found[i], colors[i]))
            if i in images
            else Verdict(sample.id, error=str(opened[i]))
            for i, sample in enumerate(samples)
        ]

    def _color_logits(
        self, samples: Sequence[Sample], images: Mapping[int, Image.Image], found: Mapping[int, Detections]
    ) -> dict[int, dict[str, Json]]:
        """By image and class, for the classes whose color is asked for; all crops are classified at once."""
        asked = [
            (i, name, rows)
            for i, detections in found.items()
            for name in dict.fromkeys(c["class"] for c in samples[i].meta.get("include", ()) if "color" in c)
            if len(rows := self._rows(detections, name))
        ]
        crops = [crop for i, _, rows in asked for crop in _crops(images[i], found[i], rows)]
        logits = iter(self.colors.logits(crops, [name for _, name, rows in asked for _ in rows]).tolist())
        by_image: dict[int, dict[str, Json]] = {i: {} for i in images}
        for i, name, rows in asked:
            by_image[i][name] = [next(logits) for _ in rows]
        return by_image

    def _check_classes(self, samples: Sequence[Sample]) -> None:
        asked = {clause["class"] for sample in samples for clause in sample.meta.get("include", ())}
        if unknown := sorted(asked - set(self.detector.classes)):
            raise BenchError(f"the prompts ask for {', '.join(unknown)}, which the detector has no class for")

    @cached_property
    def _tested_detector(self) -> ObjectDetector:
        check_detector(self.detector, self.known)
        return self.detector

    def _rows(self, detections: Detections, name: str) -> NDArray[np.intp]:
        """Where the class was found, in the detector's order."""
        return np.flatnonzero(detections.labels == self.detector.classes.index(name))

    def _finding(self, metadata: Metadata, detections: Detections, color_logits: Mapping[str, Json]) -> Json:
        """Boxes above the lower threshold by class, in the detector's order, and colors where they are asked for.

        Masks are kept of the classes that are asked for, for reports; the rule does not look at them.
        """
        boxes = {
            name: np.column_stack([detections.boxes[rows], detections.scores[rows]]).tolist()
            for name in self.detector.classes
            if len(rows := self._rows(detections, name))
        }
        masks = {
            name: [mask_png(detections.masks[i], detections.boxes[i]) for i in self._rows(detections, name)]
            for name in dict.fromkeys(clause["class"] for clause in metadata.get("include", ()))
            if name in boxes and detections.masks is not None
        }
        return {"floor": self.options.floor, "boxes": boxes, "masks": masks, "color_logits": dict(color_logits)}

    def summarize(self, samples: Sequence[Sample], verdicts: Mapping[str, Verdict]) -> tuple[list[Score], list[Metric]]:
        scores = [self._score(sample, verdicts.get(sample.id)) for sample in samples]
        return scores, metrics(scores)

    def _score(self, sample: Sample, verdict: Verdict | None) -> Score:
        if verdict is None or verdict.error is not None:
            reason = "not judged" if verdict is None else str(verdict.error)
            return Score(sample.id, sample.group, sample.stratum, None, reason)
        outcome = self.outcome(sample, verdict)
        return Score(sample.id, sample.group, sample.stratum, float(outcome.correct), outcome.reason)

    def outcome(self, sample: Sample, verdict: Verdict) -> Outcome:
        """The rule over one verdict without error. BenchError where it was stored under a higher threshold."""
        if verdict.finding["floor"] > self.options.floor:
            raise BenchError(
                f"verdicts hold detections above {verdict.finding['floor']} only, the rule asks for "
                f"{self.options.floor}: judge the images again"
            )
        return decide(sample.meta, detections_of(verdict.finding), self.options)

    def export(
        self,
        samples: Sequence[Sample],
        predictions: Mapping[str, Prediction],
        verdicts: Mapping[str, Verdict],
        folder: Path,
        out: Path,
    ) -> None:
        """``images/`` in the layout that evaluate_images.py reads, and its ``results.jsonl``."""
        drawn = {s.id: folder / image for s in samples if s.id in predictions and (image := predictions[s.id].image)}
        write_layout(out / "images", [sample for sample in samples if sample.id in drawn], list(drawn.values()))
        rows = [
            result(f"{sample.meta['file']}.png", _entry(sample), self.outcome(sample, verdicts[sample.id]))
            for sample in samples
            if sample.id in verdicts and verdicts[sample.id].error is None
        ]
        (out / "results.jsonl").write_text(results_jsonl(rows), encoding="utf-8")


def _known_shape(shape: Shape) -> Known:
    from benchmarks.shapes.scene import Object, Scene, render

    drawn = Object(shape, "blue", (0, 0), 3, 4, 26)
    return Known(lambda: render(Scene((drawn,))), shape, drawn.box)


def _opened(prediction: Prediction, folder: Path) -> Image.Image | str:
    """The image, upright, or why it cannot be looked at."""
    if prediction.image is None:
        return "no image"
    path = folder / prediction.image
    try:
        with open_image(path) as file:
            return ImageOps.exif_transpose(file).convert("RGB")
    except UNREADABLE as error:
        return f"{path} is not a readable image: {error}"


def mask_png(mask: NDArray[np.bool_], box: NDArray[np.float32]) -> str:
    """What of ``mask`` [height, width] lies in the whole pixels that ``box`` touches: a one-bit PNG in base64."""
    left, top = np.maximum(np.floor(box[:2]), 0).astype(int)
    right, bottom = np.ceil(box[2:4]).astype(int)
    buffer = io.BytesIO()
    # At least one pixel: an empty mask has an empty box.
    Image.fromarray(mask[top : max(bottom, top + 1), left : max(right, left + 1)]).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _crops(image: Image.Image, detections: Detections, rows: NDArray[np.intp]) -> list[Image.Image]:
    masks = detections.masks
    return [object_crop(image, detections.boxes[i], None if masks is None else masks[i]) for i in rows]


def detections_of(finding: Json) -> dict[str, Found]:
    """A verdict's finding as arrays; the floats in it are float32 values, so nothing is lost."""
    logits = finding["color_logits"]
    return {
        name: Found(
            np.array(rows, dtype=np.float32).reshape(-1, 5),
            np.array(logits[name], dtype=np.float32) if name in logits else None,
        )
        for name, rows in finding["boxes"].items()
    }


def metrics(scores: Sequence[Score]) -> list[Metric]:
    """``overall`` (unweighted mean of the tags that were scored), then each tag; prompts are the unit."""
    tags = list(dict.fromkeys(score.stratum for score in scores))
    intervals: list[Interval] = []
    by_tag: list[Metric] = []
    for tag in tags:
        rows = [score for score in scores if score.stratum == tag]
        pairs = [(score.value, score.group) for score in rows if score.value is not None]
        if pairs:
            interval = clustered_mean([value for value, _ in pairs], [group for _, group in pairs])
            intervals.append(interval)
            by_tag.append(_metric(tag, interval, len(pairs), len(rows) - len(pairs)))
        else:
            by_tag.append(Metric(tag, None, None, None, 0, len(rows), chance=0.0))
    n, missing = sum(m.n for m in by_tag), sum(m.missing for m in by_tag)
    # A tag without scores leaves the mean silently, as in summary_scores.py.
    overall = _metric("overall", macro_mean(intervals), n, missing) if intervals else None
    return [overall or Metric("overall", None, None, None, 0, missing, chance=0.0), *by_tag]


def _metric(name: str, interval: Interval, n: int, missing: int) -> Metric:
    return Metric(name, interval.value, interval.low, interval.high, n, missing, chance=0.0)


# Official files ---------------------------------------------------------------------------------------------------


def read_metadata(path: Path) -> list[Metadata]:
    """evaluation_metadata.jsonl: one JSON object per line with tag, include, prompt and optional exclude."""
    entries: list[Metadata] = []
    for number, line in enumerate(_lines(path), start=1):
        try:
            entry = json.loads(line)
            _ = entry["tag"], entry["prompt"], entry["include"]
            for clause in (*entry["include"], *entry.get("exclude", ())):
                _ = clause["class"], clause["count"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise BenchError(f"{path} line {number} is not GenEval metadata: {error!r}") from error
        entries.append(entry)
    if not entries:
        raise BenchError(f"{path} is empty: GenEval's metadata has one line per prompt")
    return entries


def read_object_names(path: Path) -> tuple[str, ...]:
    """object_names.txt: the detector's labels in order. Three differ from COCO's own names."""
    return tuple(line.strip() for line in _lines(path))


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise BenchError(f"{path} is not there: fetch GenEval's data or give its path")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BenchError(f"cannot read {path}: {error}") from error
    # A prompt may hold what else splitlines() breaks at.
    return text.removesuffix("\n").split("\n") if text else []


@dataclass(frozen=True)
class Result:
    """One line of the official results.jsonl. ``metadata`` is the JSON text that prompts are told apart by."""

    filename: str
    tag: str
    prompt: str
    correct: bool
    reason: str
    metadata: str
    details: str


def result(filename: str, metadata: Metadata, outcome: Outcome) -> Result:
    details = {name: found.boxes.tolist() for name, found in outcome.details.items()}
    return Result(
        filename,
        metadata["tag"],
        metadata["prompt"],
        outcome.correct,
        outcome.reason,
        json.dumps(metadata),
        json.dumps(details),
    )


def results_jsonl(results: Iterable[Result]) -> str:
    """The official results file, to the byte: pandas writes no spaces and escapes the slash."""
    return "".join(json.dumps(asdict(row), separators=(",", ":")).replace("/", "\\/") + "\n" for row in results)


def read_results(path: Path) -> list[Result]:
    """An official results.jsonl, whoever wrote it. Raises BenchError at a line that is none."""
    rows = []
    for number, line in enumerate(_lines(path), start=1):
        try:
            row = json.loads(line)
            rows.append(Result(**{column.name: row[column.name] for column in fields(Result)}))
            if rows[-1].correct not in (True, False):
                raise ValueError(f"correct is {rows[-1].correct!r}")
        except (ValueError, KeyError, TypeError) as error:
            raise BenchError(f"{path} line {number} is not a line of GenEval's results.jsonl: {error!r}") from error
    if not rows:
        raise BenchError(f"{path} is empty: GenEval's results.jsonl has one line per image")
    return rows


def scores_of(results: Sequence[Result]) -> list[Score]:
    """For ``metrics``; prompts are told apart by their metadata, as in summary_scores.py."""
    return [Score(row.filename, row.metadata, row.tag, float(row.correct), row.reason) for row in results]


def summary_text(results: Sequence[Result]) -> str:
    """What the official summary_scores.py prints. A prompt counts as correct when any of its images is."""
    by_prompt = _correct_by(results, lambda row: row.metadata)
    by_tag = _correct_by(results, lambda row: row.tag)
    images = float(np.mean([row.correct for row in results]))
    prompts = float(np.mean([any(values) for values in by_prompt.values()]))
    means = {tag: float(np.mean(values)) for tag, values in by_tag.items()}
    lines = [
        "Summary",
        "=======",
        f"Total images: {len(results)}",
        f"Total prompts: {len(by_prompt)}",
        f"% correct images: {images:.2%}",
        f"% correct prompts: {prompts:.2%}",
        "",
        "Task breakdown",
        "==============",
        *(f"{tag:<16} = {means[tag]:.2%} ({sum(values)} / {len(values)})" for tag, values in by_tag.items()),
        "",
        f"Overall score (avg. over tasks): {float(np.mean(list(means.values()))):.5f}",
    ]
    return "\n".join(lines) + "\n"


def _correct_by(results: Iterable[Result], key: Callable[[Result], str]) -> dict[str, list[bool]]:
    groups: dict[str, list[bool]] = {}
    for row in results:
        groups.setdefault(key(row), []).append(row.correct)
    return groups


def _file(sample_id: str) -> str:
    """``geneval/00017/2`` lies at ``00017/samples/00002`` in the official layout, and is a .png there."""
    _, prompt, image = sample_id.split("/")
    return f"{prompt}/samples/{int(image):05}"


def _entry(sample: Sample) -> Metadata:
    """The prompt's line of evaluation_metadata.jsonl."""
    return {key: value for key, value in sample.meta.items() if key != "file"}


def write_layout(root: Path, samples: Sequence[Sample], images: Sequence[Path]) -> None:
    """Copy images into the official layout, with each prompt's metadata.jsonl beside its samples folder."""
    for sample, image in zip(samples, images, strict=True):
        target = root / f"{sample.meta['file']}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(image.read_bytes())
        (target.parent.parent / "metadata.jsonl").write_text(json.dumps(_entry(sample)) + "\n", encoding="utf-8")
