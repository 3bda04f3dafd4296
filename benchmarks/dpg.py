"""DPG-Bench: does an image show what a dense prompt says (Hu et al. 2024, arXiv:2403.05135)?

A judge answers yes or no to a dozen questions about each image; the rules below, which are pure, make scores of that.
``dpg-official`` is dpg_bench/compute_dpg_bench.py of TencentQQGYLab/ELLA at 3c228f1 in a single process, faults
included; ``dpg-corrected`` mends them. Both are always computed; docs/dpg.md lists what differs.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal, Self, TypeAlias, get_args

from PIL import Image

from benchmarks.datasets import git_blob
from benchmarks.images import UNREADABLE, open_image
from benchmarks.intervals import clustered_mean
from benchmarks.judges.vqa import VqaJudge
from benchmarks.paths import within
from benchmarks.types import BenchError, Json, JudgeError, Metric, Prediction, Sample, Score, Verdict

Profile = Literal["dpg-official", "dpg-corrected"]
PROFILES: tuple[Profile, ...] = get_args(Profile)
#: git's name of the official dpg_bench.csv (git hash-object); the file has no other published digest.
OFFICIAL_BLOB = "98457fc9901943f51ff9a30367250fc292533bed"
#: The tiles of an image of four: top left, top right, bottom left, bottom right, as (column, row).
TILES = ((0, 0), (1, 0), (0, 1), (1, 1))


@dataclass(frozen=True)
class Question:
    """One row of dpg_bench.csv.

    ``number`` is its proposition id, ``parents`` those that it depends on, ``about`` the column ``tuple``.
    """

    item: str
    prompt: str
    number: int
    parents: tuple[int, ...]
    broad: str
    detailed: str
    about: str
    text: str


#: The questions of one prompt by proposition id, in the order of the rows.
Questions: TypeAlias = Mapping[int, Question]
#: What the judge said of one crop: question -> reply.
Replies: TypeAlias = Mapping[str, str]


# The rules --------------------------------------------------------------------------------------------------------


class DroppedError(Exception):
    """The official script fails at this prompt, says so and leaves it out."""


@dataclass(frozen=True)
class Outcome:
    """A prompt's score in [0, 1], that of each crop, and the answers (0 or 1) that the categories are means of."""

    value: float
    crops: tuple[float, ...]
    answers: tuple[tuple[Question, float], ...]

    @property
    def by_crop(self) -> list[tuple[tuple[Question, float], ...]]:
        """``answers`` of each crop. Officially all but the last have none."""
        size = len({question.number for question, _ in self.answers})
        chunks = [self.answers[at : at + size] for at in range(0, len(self.answers), size)]
        return [()] * (len(self.crops) - len(chunks)) + chunks


def official_prompts(rows: Sequence[Question]) -> dict[str, Questions]:
    """The script takes the first row for the header, which pandas has taken already: one question is lost.

    A prompt is a run of rows with one item_id; a second run of that id takes the place of the first.
    """
    prompts: dict[str, dict[int, Question]] = {}
    previous = None
    for row in rows[1:]:
        if row.item != previous:
            prompts[row.item] = {}
        prompts[row.item][row.number] = row
        previous = row.item
    return dict(prompts)


def corrected_prompts(rows: Sequence[Question]) -> dict[str, Questions]:
    """Every row counts, wherever it stands; of equal proposition ids of a prompt the last."""
    prompts: dict[str, dict[int, Question]] = {}
    for row in rows:
        prompts.setdefault(row.item, {})[row.number] = row
    return dict(prompts)


def official_outcome(questions: Questions, crops: Sequence[Replies]) -> Outcome:
    """Categories see the last crop only, and its answers as they were given.

    Raises DroppedError when a question depends on one that is not there.
    """
    means = []
    answers: dict[int, float] = {}
    for replies in crops:
        answers = _answers(questions, replies)
        means.append(_mean(_official_zeroed(questions, answers)))
    return Outcome(_mean(means), tuple(means), tuple((questions[n], answer) for n, answer in answers.items()))


def corrected_outcome(questions: Questions, crops: Sequence[Replies]) -> Outcome:
    """Categories see every crop, after what depends on a no is no."""
    zeroed = [_zeroed(questions, _answers(questions, replies)) for replies in crops]
    means = tuple(_mean(list(one.values())) for one in zeroed)
    answers = tuple((question, one[n]) for one in zeroed for n, question in questions.items())
    return Outcome(_mean(means), means, answers)


def _answers(questions: Questions, replies: Replies) -> dict[int, float]:
    """Raises BenchError when the judge was asked other questions than these."""
    absent = next((question for question in questions.values() if question.text not in replies), None)
    if absent is not None:
        raise BenchError(f"{absent.item} was not asked {absent.text!r}: judge the images again with these questions")
    # Exactly "yes": the script neither strips a reply nor lowers it.
    return {number: float(replies[question.text] == "yes") for number, question in questions.items()}


def _official_zeroed(questions: Questions, answers: Mapping[int, float]) -> list[float]:
    """In the order of the rows: zeros go on to a question that stands behind its parent, but not to one before it."""
    zeroed = dict(answers)
    for number, question in questions.items():
        for parent in question.parents:
            if parent == 0:  # none
                continue
            if parent not in zeroed:
                raise DroppedError(f"question {number} depends on {parent}, which the official script does not have")
            if zeroed[parent] == 0:
                zeroed[number] = 0.0
                break  # a parent behind this one is not looked up, so it may be missing
    return list(zeroed.values())


def _zeroed(questions: Questions, answers: Mapping[int, float]) -> dict[int, float]:
    """In whatever order the rows are. A parent that is not there cannot fail."""
    zeroed = dict(answers)
    for _ in questions:  # a zero gets one step further in each round
        for number, question in questions.items():
            if any(zeroed.get(parent) == 0 for parent in question.parents):
                zeroed[number] = 0.0
    return zeroed


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def official_categories(question: Question) -> tuple[str, str]:
    """Level 1 and level 2, read from the tuple: "relation - spatial (ball, box, on)"."""
    detailed = question.about.split("(")[0].strip()
    return detailed.split("-")[0].strip(), detailed


def corrected_categories(question: Question) -> tuple[str, str]:
    """Level 1 and level 2 from the columns, which disagree with the tuple here and there."""
    return question.broad, f"{question.broad} - {question.detailed}".strip()


@dataclass(frozen=True)
class Rule:
    """``all_crops``: whether a prompt counts only when none of its crops is missing."""

    prompts: Callable[[Sequence[Question]], dict[str, Questions]]
    outcome: Callable[[Questions, Sequence[Replies]], Outcome]
    categories: Callable[[Question], tuple[str, str]]
    all_crops: bool


RULES: Mapping[Profile, Rule] = {
    # An image of fewer than four would be cut into black crops officially.
    "dpg-official": Rule(official_prompts, official_outcome, official_categories, all_crops=True),
    "dpg-corrected": Rule(corrected_prompts, corrected_outcome, corrected_categories, all_crops=False),
}


# The benchmark ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Judged:
    """A prompt's samples, and what became of it: an outcome, or why there is none."""

    samples: Sequence[Sample]
    crops: Mapping[str, Sequence[Replies]]  # by the id of a sample that was judged
    outcome: Outcome | None
    reason: str = ""

    @property
    def scored(self) -> int:
        return len(self.crops) if self.outcome is not None else 0


class DpgBench:
    """DPG-Bench over any questions in its schema.

    A prompt has ``images_per_prompt`` images, each a sample of its own, of which image k is crop k; or with ``grid``
    one image of two by two tiles of ``grid`` pixels each, as the official script takes it.
    """

    name = "dpg"
    version = "3c228f1"
    task = "generate"

    def __init__(
        self,
        rows: Sequence[Question],
        judge: VqaJudge,
        data: Mapping[str, Json],
        *,
        profile: Profile = "dpg-official",
        grid: int | None = None,
        images_per_prompt: int = 4,
        chance: float | None = None,
    ) -> None:
        """``data`` describes where the rows are from; ``chance`` is a blank image's score in percent, where known."""
        self.rows = tuple(rows)
        self.vqa = judge
        self.data = data
        self.profile: str = profile
        self.grid = grid
        self.images_per_prompt = images_per_prompt
        self.chance = chance
        self._asked: dict[str, dict[str, None]] = {}  # the distinct questions of an item, under either rule
        for row in self.rows:
            self._asked.setdefault(row.item, {})[row.text] = None

    @classmethod
    def toy(cls, prompts: int = 200, images_per_prompt: int = 2, profile: Profile = "dpg-official") -> Self:
        """The shapes world's captions and judge."""
        from benchmarks.shapes.dpg import rows
        from benchmarks.shapes.looking import ShapesVqa

        table = rows(prompts)
        digest = hashlib.sha256(json.dumps(table).encode()).hexdigest()
        return cls(
            questions(table, "the toy suite"),
            ShapesVqa(),
            {"prompts": "shapes", "sha256": digest},
            profile=profile,
            images_per_prompt=images_per_prompt,
            chance=0.0,  # every question is about an object
        )

    @classmethod
    def paper(
        cls,
        path: Path,
        judge: VqaJudge,
        *,
        profile: Profile = "dpg-official",
        grid: int | None = None,
        images_per_prompt: int = 4,
    ) -> Self:
        """The rows of dpg_bench.csv, or of another file with its columns, which the record then calls so.

        Raises BenchError when ``path`` holds none.
        """
        if not path.is_file():
            raise BenchError(f"{path} is not there: fetch DPG-Bench's dpg_bench.csv or give its path")
        content = path.read_bytes()
        blob = git_blob(content)
        data = {"prompts": path.name, "git_blob": blob, "official": blob == OFFICIAL_BLOB}
        try:
            rows = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline="")))
        except (UnicodeDecodeError, csv.Error) as error:
            raise BenchError(f"{path} is no CSV file in UTF-8: fetch DPG-Bench's dpg_bench.csv again") from error
        return cls(
            questions(rows, str(path)), judge, data, profile=profile, grid=grid, images_per_prompt=images_per_prompt
        )

    def describe(self) -> Mapping[str, Json]:
        images = {"grid": self.grid} if self.grid else {"images_per_prompt": self.images_per_prompt}
        return {"data": dict(self.data), "judge": self.vqa.describe(), "prompts": len(self._asked), **images}

    def samples(self) -> list[Sample]:
        """``dpg/ITEM`` for a grid, else ``dpg/ITEM/2`` for image 2 of a prompt.

        ``meta["file"]`` is the image's name in a folder, without suffix: ``ITEM``, or ``ITEM/2`` of several images.
        """
        prompts = {row.item: row.prompt for row in reversed(self.rows)}  # as the first row has it
        return [
            Sample(
                f"{group}/{index}" if self.grid is None else group,
                prompts[item],
                group,
                meta={"item_id": item, "file": f"{item}/{index}" if self._images > 1 else item},
            )
            for item in self._asked
            for group in [f"dpg/{item}"]
            for index in range(self._images)
        ]

    @property
    def _images(self) -> int:
        return 1 if self.grid is not None else self.images_per_prompt

    def judge(self, samples: Sequence[Sample], predictions: Sequence[Prediction], folder: Path) -> list[Verdict]:
        """A finding holds the replies of each crop by question."""
        return [self._look(sample, p, folder) for sample, p in zip(samples, predictions, strict=True)]

    def _look(self, sample: Sample, prediction: Prediction, folder: Path) -> Verdict:
        if prediction.image is None:
            return Verdict(sample.id, error="no image")
        item, path = sample.meta["item_id"], folder / prediction.image
        try:
            image = _read(path)
        except UNREADABLE as error:
            return Verdict(sample.id, error=f"{path} is not a readable image: {error}")
        asked = list(self._asked[item])
        crops: list[dict[str, str]] = []
        try:
            first = 0 if self.grid is not None else int(sample.id.rsplit("/", 1)[1])
            for number, crop in enumerate(self._crops(image, path), start=first):
                replies = self.vqa.answer(crop, asked, key=f"{item}/{number}")
                crops.append({q: _usable(reply) for q, reply in zip(asked, replies, strict=True)})
        except JudgeError as error:
            return Verdict(sample.id, error=f"JudgeError: {error}")
        return Verdict(sample.id, {"crops": crops})

    def _crops(self, image: Image.Image, path: Path) -> list[Image.Image]:
        """Raises JudgeError for a grid of another size: the official script would cut black crops from it."""
        if self.grid is None:
            return [image]
        side = self.grid
        if image.size != (2 * side, 2 * side):
            raise JudgeError(
                f"{path} is {image.width} x {image.height}, but a grid of two by two images of {side} pixels is "
                f"{2 * side} x {2 * side}: give the resolution of one image"
            )
        return [image.crop((x * side, y * side, (x + 1) * side, (y + 1) * side)) for x, y in TILES]

    def summarize(self, samples: Sequence[Sample], verdicts: Mapping[str, Verdict]) -> tuple[list[Score], list[Metric]]:
        """Scores under the run's own profile, and the metrics of both: those of the other one bear its name."""
        own, other = sorted(PROFILES, key=lambda profile: profile != self.profile)
        judged = self._judged(own, samples, verdicts)
        scores = {score.id: score for one in judged.values() for score in self._scores(own, one)}
        metrics = self._metrics(own, judged)
        metrics += self._metrics(other, self._judged(other, samples, verdicts), prefix=f"{other}.")
        return [scores[sample.id] for sample in samples], metrics

    def _judged(
        self, profile: Profile, samples: Sequence[Sample], verdicts: Mapping[str, Verdict]
    ) -> dict[str, _Judged]:
        """By item."""
        prompts = RULES[profile].prompts(self.rows)
        items: dict[str, list[Sample]] = {}
        for sample in samples:
            items.setdefault(sample.meta["item_id"], []).append(sample)
        return {item: self._prompt(profile, prompts.get(item), own, verdicts) for item, own in items.items()}

    def _prompt(
        self, profile: Profile, asked: Questions | None, samples: Sequence[Sample], verdicts: Mapping[str, Verdict]
    ) -> _Judged:
        rule = RULES[profile]
        crops = {
            s.id: verdicts[s.id].finding["crops"] for s in samples if s.id in verdicts and verdicts[s.id].error is None
        }
        if not crops or (rule.all_crops and len(crops) < len(samples)):
            reason = f"{len(samples) - len(crops)} of the prompt's {len(samples)} images were not judged"
            return _Judged(samples, crops, None, reason)
        if asked is None:
            return _Judged(samples, crops, None, "the official script has no question of this prompt")
        try:
            outcome = rule.outcome(asked, [replies for own in crops.values() for replies in own])
        except DroppedError as error:
            return _Judged(samples, crops, None, str(error))
        return _Judged(samples, crops, outcome)

    def _scores(self, profile: Profile, judged: _Judged) -> list[Score]:
        """A sample's value is the mean of its own crops; its reason lists what was not answered yes, by category.

        Its parts are the answers that the categories of both levels are means of.
        """
        if judged.outcome is None:
            return [Score(s.id, s.group, s.stratum, None, judged.reason) for s in judged.samples]
        crops = iter(zip(judged.outcome.crops, judged.outcome.by_crop, strict=True))
        of = RULES[profile].categories
        categories = {question.text: of(question)[1] for question, _ in judged.outcome.answers}
        scores = []
        for sample in judged.samples:
            own = judged.crops.get(sample.id)
            if own is None:
                scores.append(Score(sample.id, sample.group, sample.stratum, None, "not judged"))
                continue
            unmet = dict.fromkeys(
                f"{categories[asked]}: {asked} {reply}"
                for replies in own
                for asked, reply in replies.items()
                if reply != "yes" and asked in categories
            )
            means, answered = zip(*(next(crops) for _ in own), strict=True)
            parts = _parts(chain.from_iterable(answered), of)
            scores.append(Score(sample.id, sample.group, sample.stratum, _mean(means), "\n".join(unmet), parts))
        return scores

    def _metrics(self, profile: Profile, judged: Mapping[str, _Judged], prefix: str = "") -> list[Metric]:
        """``overall``, then the categories of level 1, then those of level 2, in alphabetical order; in percent."""
        categories = RULES[profile].categories
        levels: tuple[dict[str, set[str]], ...] = ({}, {})  # the items of each category
        for row in self.rows:
            for level, category in zip(levels, categories(row), strict=True):
                if row.item in judged:
                    level.setdefault(category, set()).add(row.item)
        answers: dict[tuple[str, str], list[float]] = {}  # by category and item
        for item, one in judged.items():
            for question, answer in one.outcome.answers if one.outcome else ():
                for category in categories(question):
                    answers.setdefault((category, item), []).append(answer)
        overall = {item: [one.outcome.value] for item, one in judged.items() if one.outcome}
        metrics = [self._metric(f"{prefix}overall", overall, judged)]
        for level in levels:
            for category, items in sorted(level.items()):
                own = {item: one for item, one in judged.items() if item in items}
                values = {item: answers[category, item] for item in own if (category, item) in answers}
                metrics.append(self._metric(f"{prefix}{category}", values, own))
        return metrics

    def _metric(self, name: str, values: Mapping[str, Sequence[float]], judged: Mapping[str, _Judged]) -> Metric:
        """The mean of ``values``, which are grouped by item; intervals take the prompt as the unit."""
        flat = [(value, item) for item, own in values.items() for value in own]
        interval = clustered_mean([value for value, _ in flat], [item for _, item in flat])
        value, low, high = (None if x is None else 100 * x for x in (interval.value, interval.low, interval.high))
        n = sum(judged[item].scored for item in values)
        asked = sum(len(one.samples) for one in judged.values())
        return Metric(name, value, low, high, n, asked - n, unit="percent", chance=self.chance)

    def export(
        self,
        samples: Sequence[Sample],
        predictions: Mapping[str, Prediction],
        verdicts: Mapping[str, Verdict],
        folder: Path,
        out: Path,
    ) -> None:
        """``images/ITEM.png``, four images of a prompt in one, and ``results.txt`` as the official script writes it.

        A prompt that lacks an image is left out. Raises BenchError when its images cannot make a grid.
        """
        (out / "images").mkdir(parents=True, exist_ok=True)
        judged = self._judged("dpg-official", samples, verdicts)
        files: dict[str, Path] = {}
        for item, one in judged.items():
            images = [predictions[s.id].image for s in one.samples if s.id in predictions]
            paths = [folder / image for image in images if image is not None]
            if len(paths) == len(one.samples):
                files[item] = self._export_image(item, paths, out / "images")
        lines = [
            ", ".join([str(files[item].relative_to(out)), *map(str, (*one.outcome.crops, one.outcome.value))])
            for item, one in judged.items()
            if one.outcome is not None and item in files
        ]
        summary = results_summary("images", self._metrics("dpg-official", judged))
        (out / "results.txt").write_text("".join(f"{line}\n" for line in lines) + summary, encoding="utf-8")

    def _export_image(self, item: str, paths: Sequence[Path], out: Path) -> Path:
        target = within(out, f"{item}{paths[0].suffix if len(paths) == 1 else '.png'}")
        if len(paths) == 1:
            target.write_bytes(paths[0].read_bytes())
        else:
            grid_of([_read(path) for path in paths], item).save(target)
        return target


def _parts(
    answers: Iterable[tuple[Question, float]], categories: Callable[[Question], tuple[str, str]]
) -> dict[str, list[float]]:
    """Sum and number of the answers of each category, of both levels."""
    parts: dict[str, list[float]] = {}
    for question, answer in answers:
        for category in categories(question):
            total, number = parts.get(category, (0.0, 0))
            parts[category] = [total + answer, number + 1]
    return parts


def _read(path: Path) -> Image.Image:
    with open_image(path) as file:
        return file.convert("RGB")


def _usable(reply: str | JudgeError) -> str:
    if isinstance(reply, JudgeError):
        raise reply
    return reply


# Files ------------------------------------------------------------------------------------------------------------


def questions(rows: Iterable[Mapping[str, str | None]], source: str) -> list[Question]:
    """The rows of dpg_bench.csv, of which ``keywords`` is not needed.

    Raises BenchError, naming the row of ``source``, for one that lacks a column or whose dependency is no list of
    proposition ids; and for no row at all.
    """
    table = []
    for number, row in enumerate(rows, start=1):
        try:
            table.append(_question(row))
        except (KeyError, ValueError, AttributeError) as error:
            raise BenchError(
                f"{source}, question {number} ({row.get('item_id')}) is none of DPG-Bench: {error!r}; "
                "its columns are those of dpg_bench.csv"
            ) from error
    if not table:
        raise BenchError(f"{source} holds no questions: its columns are those of dpg_bench.csv")
    return table


def _question(row: Mapping[str, str | None]) -> Question:
    values = {name: value or "" for name, value in row.items()}
    if not values["question_natural_language"].strip():  # as of a row that was cut off
        raise ValueError("no question")
    return Question(
        item=values["item_id"],
        prompt=values["text"],
        number=int(values["proposition_id"]),
        parents=tuple(int(parent) for parent in values["dependency"].split(",")),
        broad=values["category_broad"].strip(),
        detailed=values["category_detailed"].strip(),
        about=values["tuple"],
        text=values["question_natural_language"],
    )


def grid_of(images: Sequence[Image.Image], item: str) -> Image.Image:
    """Up to four square images of one size as one image of two by two. BenchError names ``item`` for others."""
    side = images[0].width
    if any(image.size != (side, side) for image in images) or len(images) > len(TILES):
        sizes = ", ".join(f"{image.width} x {image.height}" for image in images)
        raise BenchError(f"the images of {item} ({sizes}) make no grid: it takes up to four square ones of one size")
    grid = Image.new("RGB", (2 * side, 2 * side))
    for image, (x, y) in zip(images, TILES, strict=False):
        grid.paste(image, (x * side, y * side))
    return grid


def results_summary(model: str, metrics: Sequence[Metric]) -> str:
    """The block at the end of the official result file, whose categories are in no certain order: here, by name."""
    overall, *categories = metrics
    lines = [f"Model: {model}"]
    for title, detailed in (("L1", False), ("L2", True)):
        lines.append(f"{title} category scores:")
        lines += [f"\t{one.name}: {one.value}" for one in categories if ("-" in one.name) is detailed]
    return "\n".join([*lines, f"DPG-Bench score: {overall.value}"]) + "\n"
