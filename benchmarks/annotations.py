"""GenEval's human annotations: what people saw in 1,200 images, and how well a judge's verdicts agree with them.

djghosh13/geneval at af4902f, ``annotations/annotations_<model>.csv``: of each of three models 400 images (100 prompts),
seen by five annotators each, who counted the prompt's objects and told their colors and positions.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy import special

from benchmarks import store
from benchmarks.geneval import TAGS, Metadata, read_results
from benchmarks.intervals import Interval, clustered_mean
from benchmarks.spec import read_spec
from benchmarks.types import BenchError, Json

#: Number of the prompt, number of the image.
Image = tuple[int, int]
ALL = "all images"


@dataclass(frozen=True)
class Annotated:
    """One image; ``votes`` has for each annotator whether all that the prompt asks for is there."""

    image: Image
    tag: str
    votes: tuple[bool, ...]

    @property
    def correct(self) -> bool:
        """What more than half of the annotators say."""
        return 2 * sum(self.votes) > len(self.votes)

    @property
    def agreement(self) -> float:
        """The share of pairs of annotators that say the same."""
        pairs = list(combinations(self.votes, 2))
        return sum(a == b for a, b in pairs) / len(pairs)


@dataclass(frozen=True)
class Judged:
    """What a judge or model made of one image. ``correct`` is None where it was not scored, ``include`` what was asked
    for, where the file has it."""

    tag: str
    correct: bool | None
    include: Json = None


@dataclass(frozen=True)
class Confusion:
    """Images by what people and the judge say, people first: ``yes_no`` are correct for people alone."""

    yes_yes: int
    yes_no: int
    no_yes: int
    no_no: int


@dataclass(frozen=True)
class Kappa:
    """Cohen's kappa in [-1, 1] with its 95 % interval; None where there is nothing that chance leaves open."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Agreement:
    """The judge beside people over the images that it scored; ``missing`` are annotated images that it did not."""

    share: Interval
    kappa: Kappa
    confusion: Confusion
    missing: int


@dataclass(frozen=True)
class TagAgreement:
    """One tag, or all images. ``human`` is the share of images that people find correct, ``between_people`` the share
    of pairs of annotators that agree, ``judge`` is None without a judge. Intervals take the prompt as the unit."""

    tag: str
    images: int
    human: Interval
    between_people: Interval
    judge: Agreement | None


@dataclass(frozen=True)
class Validation:
    """One file of annotations; ``rows`` are the tags in GenEval's order, then all images."""

    annotations: str
    rows: tuple[TagAgreement, ...]


def validate(annotations: Path, metadata: Sequence[Metadata], verdicts: Path | None = None) -> Validation:
    """What people say of the images in one annotation file, and how well ``verdicts`` agree with it.

    ``metadata`` are the official prompts. ``verdicts`` are those of the same images (hub data set
    djghosh/aigen-images): an official results.jsonl, or the folder of a run. Raises BenchError when a file is not what
    it should be, or no annotated image has a verdict.
    """
    images = read_annotations(annotations, metadata)
    judged = None if verdicts is None else read_verdicts(verdicts)
    if judged is not None:
        _check_judged(images, judged, metadata, verdicts)
    rows = [_row(tag, [image for image in images if image.tag == tag], judged) for tag in TAGS]
    return Validation(annotations.stem.removeprefix("annotations_"), (*rows, _row(ALL, images, judged)))


def read_annotations(path: Path, metadata: Sequence[Metadata]) -> list[Annotated]:
    """One annotation file, images in the order of the file. Raises BenchError when it is none."""
    if not path.is_file():
        raise BenchError(f"{path} is not there: take annotations_<model>.csv from djghosh13/geneval")
    # Free text in annotations_if-xl.csv holds bare carriage returns, which every csv reader takes for the end of a row.
    text = path.read_bytes().decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", " ")
    votes: dict[Image, list[bool]] = {}
    for number, row in enumerate(csv.DictReader(io.StringIO(text)), start=1):
        try:
            if None in row.values():
                raise ValueError("it is cut off")  # and would be an annotator who saw nothing
            prompt, image = int(row["Input.prompt_id"]), int(row["Input.image_id"])
            same_prompt = row["Input.caption"] == metadata[prompt]["prompt"]
            vote = all_there(metadata[prompt], row)
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise BenchError(f"{path} row {number} is no annotation of GenEval's prompts: {error!r}") from error
        if not same_prompt:
            raise BenchError(f"{path} row {number} is of another prompt than number {prompt} of the prompt file")
        votes.setdefault((prompt, image), []).append(vote)
    if single := [image for image, all_votes in votes.items() if len(all_votes) < 2]:
        raise BenchError(f"{path} has one annotator for image {single[0]}: was it cut?")
    if not votes:
        raise BenchError(f"{path} holds no annotations")
    return [Annotated(image, metadata[image[0]]["tag"], tuple(seen)) for image, seen in votes.items()]


def all_there(metadata: Metadata, row: Mapping[str, str]) -> bool:
    """Whether one annotator saw all that the prompt asks for.

    Object k of a row is clause k of ``include``. A count of 5 means five or more. Colors are a choice of several, of
    which the wanted one must be one. The position is that of object 1 to object 0, apart for x and y.
    """
    for k, clause in enumerate(metadata["include"]):
        if _count(row, k) < clause["count"]:
            return False
        if "color" in clause and clause["color"] not in row[f"Answer.task-color-{k}"].split("|"):
            return False
        if "position" in clause:
            direction = clause["position"][0].removesuffix(" of")
            if direction not in (row["Answer.task-position-x"], row["Answer.task-position-y"]):
                return False
    classes = [clause["class"] for clause in metadata["include"]]
    return all(_count(row, classes.index(clause["class"])) < clause["count"] for clause in metadata.get("exclude", ()))


def _count(row: Mapping[str, str], k: int) -> int:
    """Written as 2 or 2.0; empty where the object was not asked about."""
    return int(float(row[f"Answer.task-count-{k}"] or 0))


def read_verdicts(path: Path) -> dict[Image, Judged]:
    """Verdicts by image: from an official results.jsonl, or from the scores of a run's folder. Raises BenchError."""
    if path.is_dir():
        if read_spec(path)[0].suite == "toy":
            raise BenchError(f"{path} is a run of the toy suite, whose prompts are not those that people annotated")
        found = {
            score.id.partition("/")[2]: Judged(score.stratum, None if score.value is None else score.value >= 0.5)
            for score in store.read_scores(path / "geneval")
        }
    else:
        found = {
            _in_layout(row.filename, path): Judged(row.tag, row.correct, _include(row.metadata))
            for row in read_results(path)
        }
    return {(int(prompt), int(image)): one for place, one in found.items() for prompt, image in [place.split("/")]}


def _include(metadata: str) -> Json:
    try:
        return json.loads(metadata)["include"]
    except (ValueError, LookupError, TypeError):  # the official scripts take any text
        return None


def _in_layout(filename: str, source: Path) -> str:
    found = re.search(r"(\d+)/samples/(\d+)\.", filename)
    if found is None:
        raise BenchError(f"{source}: {filename} is not in GenEval's layout, NNNNN/samples/NNNNN.png")
    return f"{found[1]}/{found[2]}"


def _check_judged(
    images: Sequence[Annotated], judged: Mapping[Image, Judged], metadata: Sequence[Metadata], source: Path | None
) -> None:
    common = [image for image in images if image.image in judged]
    if not common:
        raise BenchError(f"{source} has no verdict of an annotated image: were they made of djghosh/aigen-images?")
    for image in common:
        one, number = judged[image.image], image.image[0]
        if one.tag != image.tag:
            raise BenchError(
                f"{source} has prompt {number} as {one.tag}, the annotations as {image.tag}: "
                "it is of another list of prompts"
            )
        if one.include not in (None, metadata[number]["include"]):
            raise BenchError(
                f"{source} asks for other objects in prompt {number} than the annotations: "
                "it is of another list of prompts"
            )


def _row(tag: str, images: Sequence[Annotated], judged: Mapping[Image, Judged] | None) -> TagAgreement:
    groups = [_prompt(image) for image in images]
    return TagAgreement(
        tag,
        len(images),
        clustered_mean([float(image.correct) for image in images], groups),
        clustered_mean([image.agreement for image in images], groups),
        None if judged is None else _agreement(images, judged),
    )


def _prompt(image: Annotated) -> str:
    return str(image.image[0])


def _agreement(images: Sequence[Annotated], judged: Mapping[Image, Judged]) -> Agreement:
    said = [(image, judged[image.image].correct) for image in images if image.image in judged]
    scored = [(image, verdict) for image, verdict in said if verdict is not None]
    people, judge = [image.correct for image, _ in scored], [verdict for _, verdict in scored]
    groups = [_prompt(image) for image, _ in scored]
    cells = Counter(zip(people, judge, strict=True))
    return Agreement(
        clustered_mean([float(a == b) for a, b in zip(people, judge, strict=True)], groups),
        cohen_kappa(people, judge, groups),
        Confusion(cells[True, True], cells[True, False], cells[False, True], cells[False, False]),
        len(images) - len(scored),
    )


def cohen_kappa(a: Sequence[bool], b: Sequence[bool], groups: Sequence[str], confidence: float = 0.95) -> Kappa:
    """Cohen's kappa (1960) of two raters, with an interval for values that depend on each other within a group.

    kappa = (o - e) / (1 - e) of the observed agreement o and that expected by chance, e. Its variance is linearised
    (Fleiss, Cohen & Everitt 1969, Psychol. Bull. 72:323, which this equals for groups of one, up to n / (n - 1)) and
    cluster-robust (CR1); Student's t with groups - 1 degrees of freedom, limits cut at -1 and 1.

    The value is None where e is 1 or there are no values; low and high are None with fewer than two groups, or where
    nothing is left to estimate a variance from: full agreement, or one rater who says the same of everything.
    """
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if not len(x) == len(y) == len(groups):
        raise ValueError(f"{len(x)} and {len(y)} values but {len(groups)} groups")
    if not len(x):
        return Kappa(None, None, None)
    p, q = x.mean(), y.mean()
    expected = p * q + (1 - p) * (1 - q)
    if expected == 1:
        return Kappa(None, None, None)
    agree = (x == y).astype(np.float64)
    value = float((agree.mean() - expected) / (1 - expected))
    # d kappa = (d o - (1 - kappa) d e) / (1 - e), where e changes with both raters' rates.
    change = (2 * q - 1) * (x - p) + (2 * p - 1) * (y - q)
    residual = (agree - agree.mean() - (1 - value) * change) / (1 - expected)
    names, group = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < 2 or np.abs(residual).max() < 1e-9:
        return Kappa(value, None, None)
    sums = np.bincount(group, weights=residual)
    error = math.sqrt(len(names) / (len(names) - 1) * float(np.sum(sums**2))) / len(x)
    half = float(special.stdtrit(len(names) - 1, (1 + confidence) / 2)) * error
    return Kappa(value, max(-1.0, value - half), min(1.0, value + half))


def table(validations: Iterable[Validation]) -> str:
    """One block of text per file of annotations."""
    return "\n\n".join(_block(validation) for validation in validations)


def _block(validation: Validation) -> str:
    with_judge = any(row.judge is not None for row in validation.rows)
    lines = [f"images of {validation.annotations}: shares with 95 % intervals, prompts as the unit"]
    header = f"{'tag':<14} {'images':>6}  {'people: correct':<22}  {'people agree':<22}"
    lines.append(
        header + ("  judge agrees           kappa                    y/y  y/n  n/y  n/n  missing" if with_judge else "")
    )
    for row in validation.rows:
        line = f"{row.tag:<14} {row.images:>6}  {_span(row.human):<22}  {_span(row.between_people):<22}"
        if row.judge is not None:
            cells = row.judge.confusion
            line += (
                f"  {_span(row.judge.share):<22} {_span(row.judge.kappa):<24}"
                f"{cells.yes_yes:>4} {cells.yes_no:>4} {cells.no_yes:>4} {cells.no_no:>4} {row.judge.missing:>8}"
            )
        lines.append(line.rstrip())
    if with_judge:
        lines.append("y/n: correct for people, not for the judge")
    return "\n".join(lines)


def _span(of: Interval | Kappa) -> str:
    if of.value is None:
        return "-"
    return f"{of.value:.3f}" if of.low is None else f"{of.value:.3f}  {of.low:.3f} to {of.high:.3f}"
