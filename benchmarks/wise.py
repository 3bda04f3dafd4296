"""WISE (Niu et al. 2025, arXiv:2503.07265): does an image show what its prompt asks for without naming it?

A chat judge looks at each image beside the prompt's explanation. There are two editions with other prompts, other
ranges of ids, other weights and another scale: ``wise-legacy`` of the paper, ``wise-verified`` of 2026-04. Their
numbers do not compare. Rules are those of PKU-YuanGroup/WISE at eb51174; docs/wise.md lists what surprises.
"""

from __future__ import annotations

import hashlib
import json
import math
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from pathlib import Path
from typing import Literal, Self, TypeAlias

from benchmarks.images import UNREADABLE, open_image
from benchmarks.intervals import Interval, clustered_mean
from benchmarks.judges.chat import Chat, ChatReply, Question, at_once
from benchmarks.paths import within
from benchmarks.types import BenchError, Json, JudgeError, Metric, Prediction, Sample, Score, Verdict
from benchmarks.wise_wording import OWN_WORDING, Profile, Wording, find_wording

Item: TypeAlias = Mapping[str, Json]
#: gpt_eval.py and vllm_eval.py ask up to three times, at temperature 0, where no score can be read in a reply.
TRIES = 3
#: The files of prompts and of scores, and the categories in each.
PARTS = {
    "cultural_common_sense": ("culture",),
    "spatio-temporal_reasoning": ("time", "space"),
    "natural_science": ("biology", "physics", "chemistry"),
}
FIELDS = ("prompt_id", "Prompt", "Explanation", "Category", "Subcategory")
#: The data's names for the six categories. The rewritten legacy prompts call one item Ecology.
NAMES = {
    "Cultural knowledge": "culture",
    "time": "time",
    "Space": "space",
    "Biology": "biology",
    "Ecology": "biology",
    "Physical Knowledge": "physics",
    "Chemistry": "chemistry",
}
CATEGORIES = tuple(dict.fromkeys(NAMES.values()))
#: sha256 of the files with prompts 1-400 at eb51174: these have the same ids and categories in both editions.
CULTURE_FILES = {
    "7a59216c768698280cea37caa574b52f3faf054d73b398b9bb6b3161baf8e3aa": "legacy",
    "4383290c349703776c24cfa864bfa3e065dae2e3f408cf46af702f2b7affea9f": "legacy",
    "23482925266e2784b2ba24b75239fdc6691bf85ae253d2c4aa38b71b45fefa89": "verified",
}


# The rule ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Edition:
    """``ids`` are those of each category, in the order of the official table; ``labels`` what a judge has to give.

    ``suffix`` is what its files of prompts add to the names of PARTS.
    """

    name: Literal["legacy", "verified"]
    ids: Mapping[str, range]
    labels: tuple[str, ...]
    suffix: str
    max_tokens: int

    def category(self, prompt_id: int) -> str | None:
        """By the id, as both Calculate scripts have it; the item's own Category is not looked at."""
        return next((category for category, ids in self.ids.items() if prompt_id in ids), None)

    def weight(self, category: str) -> float:
        """The category's share of the 1000 prompts: the constants of both Calculate scripts."""
        return len(self.ids[category]) / 1000

    def read(self, reply: str) -> dict[str, float]:
        """What of ``labels`` the official parser finds in a judge's reply."""
        return read_legacy(reply) if self.name == "legacy" else read_verified(reply)

    def wiscore(self, labels: Mapping[str, float]) -> float:
        """0 to 1; above 1 where a legacy judge gave more than 2, which its parser lets through."""
        if self.name == "verified":
            return labels["score"]
        return (0.7 * labels["consistency"] + 0.2 * labels["realism"] + 0.1 * labels["aesthetic_quality"]) / 2


def _ids(*last: int) -> dict[str, range]:
    """The ids of each category, given the last one of each."""
    first = (1, *(one + 1 for one in last))
    return {category: range(first[n], last[n] + 1) for n, category in enumerate(CATEGORIES)}


#: gpt_eval.py and the Calculate script of WISE_legacy.
LEGACY = Edition(
    "legacy", _ids(400, 567, 700, 800, 900, 1000), ("consistency", "realism", "aesthetic_quality"), "", 2000
)
#: vllm_eval.py and calculate_verified.py.
VERIFIED = Edition("verified", _ids(400, 520, 640, 760, 880, 1000), ("score",), "_verified", 500)
EDITIONS: Mapping[Profile, Edition] = {"wise-verified": VERIFIED, "wise-legacy": LEGACY, "wise-own": VERIFIED}

_LEGACY_LABEL = re.compile(r"\*{0,2}(consistency|realism|aesthetic quality)\*{0,2}\s*:?\s*(\d)", re.IGNORECASE)
_LEGACY_LINE = re.compile(r"^\s*([0-2])\s*$", re.MULTILINE)
_VERIFIED_LABEL = re.compile(r"\*{0,2}score\*{0,2}\s*:?\s*([01])\b", re.IGNORECASE)
_VERIFIED_LINE = re.compile(r"^\s*([01])\s*$", re.MULTILINE)
_THOUGHTS = re.compile(r"<think>.*?</think>", re.DOTALL | re.IGNORECASE)


def read_legacy(reply: str) -> dict[str, float]:
    """extract_scores of WISE_legacy/gpt_eval.py: of a label that stands twice the last counts, and one digit of it.

    Without any label, the first three of at least three lines that are 0, 1 or 2 and nothing else.
    """
    labelled = {label.lower().replace(" ", "_"): float(digit) for label, digit in _LEGACY_LABEL.findall(reply)}
    lines = _LEGACY_LINE.findall(reply)
    if labelled or len(lines) < 3:
        return labelled
    return dict(zip(LEGACY.labels, map(float, lines), strict=False))


def read_verified(reply: str) -> dict[str, float]:
    """vllm_eval.py: the first score counts; without any, the one line that is 0 or 1 and nothing else."""
    reply = _THOUGHTS.sub("", reply)
    found = _VERIFIED_LABEL.findall(reply)[:1] or _VERIFIED_LINE.findall(reply)
    return {"score": float(found[0])} if len(found) == 1 else {}


# The benchmark ----------------------------------------------------------------------------------------------------


class Wise:
    """WISE over items in its schema. Verdicts hold the judge's reply, which the official parser can read."""

    name = "wise"
    version = "eb51174"
    task = "generate"

    def __init__(
        self,
        items: Sequence[Item],
        profile: Profile,
        judge: Chat | None,
        wording: Wording | None,
        data: Mapping[str, Json],
        held_out: Mapping[str, float] | None = None,
    ) -> None:
        """``data`` describes where the items are from, ``held_out`` the judge's own accuracy; both are recorded.

        Without ``judge`` or ``wording`` only stored verdicts can be scored.
        """
        self.items = tuple(items)
        self.profile: str = profile
        self.edition = EDITIONS[profile]
        #: vllm_eval.py sends enable_thinking false, which vLLM takes; the servers of others refuse the field.
        self.thinking = False if profile == "wise-verified" else None
        self.chat = judge
        self.wording = wording
        self.data = data
        self.held_out = held_out

    @classmethod
    def toy(cls) -> Self:
        """The shapes world's items, and a judge that knows it, asked in our own words."""
        from benchmarks.shapes.chat import SceneJudge, held_out_accuracy
        from benchmarks.shapes.wise import items

        rows = items()
        digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
        data = {"items": "shapes", "sha256": digest}
        return cls(rows, "wise-own", SceneJudge(), OWN_WORDING, data, held_out_accuracy())

    @classmethod
    def paper(
        cls,
        source: Path,
        judge: Chat | None,
        profile: Profile = "wise-verified",
        judge_prompt: Path | None = None,
    ) -> Self:
        """The items in ``source``, as ``read_items`` takes it; ``judge_prompt`` as ``find_wording`` does."""
        items, digests = read_items(source, EDITIONS[profile])
        wording = find_wording(profile, judge_prompt) if judge is not None else None
        return cls(items, profile, judge, wording, {"files": digests})

    def describe(self) -> Mapping[str, Json]:
        return {
            "version": self.version,
            "profile": self.profile,
            "data": dict(self.data),
            "judge": {
                "chat": None if self.chat is None else self.chat.describe(),
                "wording": None if self.wording is None else self.wording.describe(),
                "tries": TRIES,
                "max_tokens": self.edition.max_tokens,
                "thinking": self.thinking,
                **({"held_out": dict(self.held_out)} if self.held_out else {}),
            },
            "items": len(self.items),
        }

    def samples(self) -> list[Sample]:
        """One per item: ``wise/0401``."""
        return [
            Sample(
                sample_id := f"wise/{item['prompt_id']:04}",
                item["Prompt"],
                sample_id,
                str(self.edition.category(item["prompt_id"])),
                meta={**item, "file": str(item["prompt_id"])},
            )
            for item in self.items
        ]

    @property
    def judged_together(self) -> int:
        """Enough to keep a chat judge busy to the end of a batch."""
        return 1 if self.chat is None else 4 * self.chat.concurrency

    def judge(self, samples: Sequence[Sample], predictions: Sequence[Prediction], folder: Path) -> list[Verdict]:
        """The judge's first reply that can be read in full, asked for under ``ID/TRY``."""
        if self.chat is None or self.wording is None:
            return [Verdict(sample.id, error="WISE needs a judge: name one with --judge") for sample in samples]
        asks = [
            partial(self._ask, self.chat, self.wording, sample, prediction, folder)
            for sample, prediction in zip(samples, predictions, strict=True)
        ]
        return [
            Verdict(sample.id, error=f"JudgeError: {reply}")
            if isinstance(reply, JudgeError)
            else Verdict(sample.id, {"profile": self.profile, "reply": reply.text})
            for sample, reply in zip(samples, at_once(asks, self.chat.concurrency), strict=True)
        ]

    def _ask(self, chat: Chat, wording: Wording, sample: Sample, prediction: Prediction, folder: Path) -> ChatReply:
        """Raises JudgeError for an image that is none, and where no reply can be read."""
        image = _image_file(prediction, folder)
        said = ""
        for attempt in range(TRIES):
            question = Question(
                wording.told(sample.meta),
                temperature=0.0,
                max_tokens=self.edition.max_tokens,
                key=f"{sample.id}/{attempt}",
                images=(image,),
                system=wording.system,
                thinking=self.thinking,
            )
            reply = chat.ask(question)
            if len(self.edition.read(reply.text)) == len(self.edition.labels):
                return reply
            said = reply.text
        raise JudgeError(f"no score can be read in {TRIES} replies of the judge, the last of them {said[:80]!r}")

    def summarize(self, samples: Sequence[Sample], verdicts: Mapping[str, Verdict]) -> tuple[list[Score], list[Metric]]:
        scores = [self._score(sample, verdicts.get(sample.id)) for sample in samples]
        return scores, metrics(self.edition, scores)

    def _score(self, sample: Sample, verdict: Verdict | None) -> Score:
        if verdict is None or verdict.error is not None:
            reason = "not judged" if verdict is None else str(verdict.error)
            return Score(sample.id, sample.group, sample.stratum, None, reason)
        labels = self._labels(verdict)
        reason = ", ".join(f"{label} {labels[label]:g}" for label in self.edition.labels)
        return Score(sample.id, sample.group, sample.stratum, self.edition.wiscore(labels), reason)

    def _labels(self, verdict: Verdict) -> dict[str, float]:
        """Of a verdict without error. BenchError where it was given under another profile."""
        if verdict.finding["profile"] != self.profile:
            raise BenchError(
                f"{verdict.id} was judged under {verdict.finding['profile']}, which {self.profile} does not take: "
                "judge the images again, or score them under that profile"
            )
        found = self.edition.read(verdict.finding["reply"])
        return {label: found[label] for label in self.edition.labels}  # in this order, whatever that of the reply

    def export(
        self,
        samples: Sequence[Sample],
        predictions: Mapping[str, Prediction],
        verdicts: Mapping[str, Verdict],
        folder: Path,
        out: Path,
    ) -> None:
        """``images/<prompt_id>.png``, and of each part of the data the two files that the official judge writes."""
        (out / "images").mkdir(parents=True, exist_ok=True)
        images: dict[str, Path] = {}
        for sample in samples:
            prediction = predictions.get(sample.id)
            if prediction is not None and prediction.image is not None:
                # .png whatever it is: the official scripts look for no other name, and read the bytes only.
                images[sample.id] = within(out / "images", f"{sample.meta['file']}.png")
                images[sample.id].write_bytes((folder / prediction.image).read_bytes())
        judged = [sample for sample in samples if sample.id in verdicts and verdicts[sample.id].error is None]
        for part, categories in PARTS.items():
            own = [sample for sample in judged if sample.stratum in categories]
            full = [
                {
                    "prompt_id": sample.meta["prompt_id"],
                    "prompt": sample.meta["Prompt"],
                    "key": sample.meta["Explanation"],
                    "image_path": str(images[sample.id]),
                    "evaluation": verdicts[sample.id].finding["reply"],
                }
                for sample in own
            ]
            lines = [score_line(sample.meta, self._labels(verdicts[sample.id])) for sample in own]
            (out / f"{part}_full_results.json").write_text(_json(full, indent=2), encoding="utf-8")
            (out / f"{part}_scores_results.jsonl").write_text("".join(lines), encoding="utf-8")


def _image_file(prediction: Prediction, folder: Path) -> bytes:
    """The bytes of an image that decodes to its last pixel, as they are; else JudgeError."""
    if prediction.image is None:
        raise JudgeError("no image")
    path = folder / prediction.image
    try:
        with open_image(path) as image:
            image.load()
        return path.read_bytes()
    except UNREADABLE as error:
        raise JudgeError(f"{path} is not a readable image: {error}") from error


def metrics(edition: Edition, scores: Sequence[Score]) -> list[Metric]:
    """``wiscore``, the weighted mean of the six categories, then each category; prompts are the unit.

    The official scripts give no overall score where a single prompt is missing. Here it takes a score in each category,
    and ``missing`` says how many prompts it leaves out.
    """
    chance = 0.0 if edition.name == "verified" else None  # a legacy judge may find an empty image realistic
    intervals: dict[str, Interval] = {}
    by_category: list[Metric] = []
    for category in dict.fromkeys(score.stratum for score in scores):
        rows = [score for score in scores if score.stratum == category]
        scored = [(score.value, score.group) for score in rows if score.value is not None]
        intervals[category] = _mean([value for value, _ in scored], [group for _, group in scored])
        missing = len(rows) - len(scored)
        by_category.append(_metric(f"wiscore.{category}", intervals[category], missing, chance))
    total = _weighted_mean(edition, intervals)
    return [_metric("wiscore", total, sum(metric.missing for metric in by_category), chance), *by_category]


def _metric(name: str, interval: Interval, missing: int, chance: float | None) -> Metric:
    return Metric(name, interval.value, interval.low, interval.high, interval.n, missing, chance=chance)


def _mean(values: Sequence[float], groups: Sequence[str]) -> Interval:
    if values and max(values) > 1:  # a judge gave more than its scale has, and the official parser took it
        return Interval(average(values), None, None, len(values), len(set(groups)), "none")
    interval = clustered_mean(values, groups)
    return replace(interval, value=average(values)) if values else interval


def _weighted_mean(edition: Edition, parts: Mapping[str, Interval]) -> Interval:
    """MOVER (Zou & Donner 2008, Stat. Med. 27:1693), as ``intervals.macro_mean``, with the categories' weights."""
    n, clusters = sum(part.n for part in parts.values()), sum(part.clusters for part in parts.values())
    value = overall(edition, {name: part.value for name, part in parts.items() if part.value is not None})
    limits = [
        (edition.weight(name) * (part.value - part.low), edition.weight(name) * (part.high - part.value))
        for name, part in parts.items()
        if part.value is not None and part.low is not None and part.high is not None
    ]
    if value is None or len(limits) < len(parts):
        return Interval(value, None, None, n, clusters, "none")
    below, above = math.hypot(*(low for low, _ in limits)), math.hypot(*(high for _, high in limits))
    return Interval(value, value - below, value + above, n, clusters, "mover")


def average(values: Sequence[float]) -> float:
    return _sum(values) / len(values)


def overall(edition: Edition, averages: Mapping[str, float]) -> float | None:
    """The official score of the categories' averages; None where one of the six is not there."""
    if averages.keys() != edition.ids.keys():
        return None
    return _sum(edition.weight(category) * averages[category] for category in edition.ids)


def _sum(values: Iterable[float]) -> float:
    """From left to right, as sum() did before Python 3.12: to the last bit what the official scripts give."""
    return reduce(operator.add, values, 0.0)


# Official files ---------------------------------------------------------------------------------------------------


def read_items(source: Path, edition: Edition) -> tuple[list[Item], dict[str, str]]:
    """The 1000 items of an edition in the order of their ids, and the sha256 of each file read.

    ``source`` is one JSON file (data_verified/merge.json), or a folder with the edition's three anywhere in it, such as
    a checkout of PKU-YuanGroup/WISE. Raises BenchError where items are missing or are of the other edition.
    """
    paths = [source] if source.is_file() else [_only(source, f"{part}{edition.suffix}.json") for part in PARTS]
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    items = sorted((item for path in paths for item in _items(path)), key=lambda item: item["prompt_id"])
    if [item["prompt_id"] for item in items] != list(range(1, 1001)):
        raise BenchError(f"{source} does not hold each prompt_id from 1 to 1000 once: give the whole of WISE's data")
    foreign = [item for item in items if NAMES.get(item["Category"]) != edition.category(item["prompt_id"])]
    if foreign or any(CULTURE_FILES.get(digest, edition.name) != edition.name for digest in digests.values()):
        raise BenchError(f"{source} is not of WISE's {edition.name} edition: choose the profile of the other one")
    return items, digests


def _only(folder: Path, name: str) -> Path:
    paths = sorted(folder.rglob(name))
    if len(paths) != 1:
        found = "is not in" if not paths else f"is {len(paths)} times in"
        raise BenchError(f"{name} {found} {folder}: give a checkout of PKU-YuanGroup/WISE, or the folder of its data")
    return paths[0]


def _items(path: Path) -> list[Item]:
    try:
        items = json.loads(path.read_text(encoding="utf-8"))
        return [{field: item[field] for field in FIELDS} | {"prompt_id": int(item["prompt_id"])} for item in items]
    except (ValueError, KeyError, TypeError) as error:
        raise BenchError(f"{path} is no file of WISE's items: {error!r}") from error


def score_line(item: Item, labels: Mapping[str, float]) -> str:
    """One line of the official scores file."""
    return _json({"prompt_id": item["prompt_id"], "Subcategory": item["Subcategory"], **labels}) + "\n"


def _json(value: Json, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


@dataclass(frozen=True)
class Calculated:
    """What an official Calculate script makes of files of scores.

    ``absent`` are ids without a line; where it holds any, the script stops before it gives a number. ``skipped`` names
    the lines that it leaves out: no JSON, no id, or no score that is valid.
    """

    overall: float | None
    averages: Mapping[str, float]
    counts: Mapping[str, int]
    absent: tuple[int, ...]
    skipped: tuple[str, ...]


Asked = Literal["all", "culture", "space-time", "science"]


def calculate(edition: Edition, files: Sequence[Path], asked: Asked = "all") -> Calculated:
    """The official Calculate script with ``--category asked``, faults included.

    A line that stands twice counts twice; an id is present even where its score is not valid; true and false are
    numbers; legacy scores may lie outside 0 to 2. With another category than all, ids are checked only where one file
    is given. Raises BenchError where the script breaks off with a traceback.
    """
    values: dict[str, list[float]] = {category: [] for category in edition.ids}
    present: set[int] = set()
    skipped: list[str] = []
    for path in files:
        for number, line in enumerate(_lines(path), start=1):
            row = _row(line, f"{path.name}, line {number}")
            prompt_id = None if row is None else row.get("prompt_id")
            category = edition.category(prompt_id) if isinstance(prompt_id, int) else None
            score = None if row is None else _valid_score(edition, row)
            if isinstance(prompt_id, int):
                present.add(prompt_id)
            if category is None or score is None:
                skipped.append(f"{path.name}, line {number}")
            else:
                values[category].append(score)
    expected = {
        "all": tuple(edition.ids),
        "culture": PARTS["cultural_common_sense"],
        "space-time": PARTS["spatio-temporal_reasoning"],
        "science": PARTS["natural_science"],
    }[asked]
    absent = sorted({number for category in expected for number in edition.ids[category]} - present)
    if absent and (asked == "all" or len(files) == 1):
        return Calculated(None, {}, {}, tuple(absent), tuple(skipped))
    averages = {category: average(scores) for category, scores in values.items() if scores}
    counts = {category: len(scores) for category, scores in values.items() if scores}
    total = overall(edition, averages) if asked == "all" else None
    return Calculated(total, averages, counts, (), tuple(skipped))


def _row(line: str, where: str) -> Mapping[str, Json] | None:
    """The object of a line; None where it is no JSON."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    if not isinstance(row, dict):
        raise BenchError(f"{where} is no JSON object: delete that line")
    return row


def _valid_score(edition: Edition, row: Mapping[str, Json]) -> float | None:
    labels = {label: row[label] for label in edition.labels if isinstance(row.get(label), int | float)}
    if len(labels) < len(edition.labels) or (edition.name == "verified" and labels["score"] not in (0, 1)):
        return None
    return edition.wiscore(labels)


def _lines(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8") as file:
            return list(file)
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"cannot read the scores {path}: {error}") from error
