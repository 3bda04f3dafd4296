"""What a study asks: who is shown which pair, on which side, in which order. Pure functions of the design's seed.

A *pair* is two models' images of one prompt. A *task* is one judgment of a pair that the study wants: a criterion, a
round and a slot (0 ... judgments per pair - 1). Criteria never mix within a round. The side on which a model stands
belongs to the task and is planned here, so that it is balanced before anyone has voted: over all tasks of a
criterion and round, over the slots of a pair, and over its rounds.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, cycle
from typing import Literal

from benchmarks.types import BenchError, Json

#: main: counts for the result. gold: one image is known to be better. repeat: a main pair again, sides swapped.
#: qualification: gold before the main pairs; who fails too many of them gets no main pairs. example: gold on the page
#: of instructions, never judged.
Kind = Literal["main", "gold", "repeat", "qualification", "example"]
Choice = Literal["left", "right", "tie", "skip"]
Monitoring = Literal["blind", "sequential"]

#: Sides are permuted within blocks of so many judgments of one annotator.
BLOCK = 4
#: A repeated pair was first judged at least so many judgments ago.
REPEAT_GAP = 10
CONSENT = (
    "Taking part is voluntary and you may stop at any time. Your choices and how long they took are stored under a "
    "pseudonym and may be published. Images were made by computer programs and may be odd or unpleasant; skip any "
    "that you do not wish to judge."
)


@dataclass(frozen=True)
class Criterion:
    """One question about a pair. ``show_prompt``: whether annotators see the text the images were made from."""

    key: str
    title: str
    instruction: str
    show_prompt: bool


#: The instructions of BLIP3-o's human study, word for word (arXiv:2505.09568, section 5.4). Whether its annotators
#: saw the prompt for visual quality is not stated; here they see it where it is needed.
PAPER_CRITERIA = (
    Criterion(
        "visual_quality",
        "Visual Quality",
        "All images were generated from the same text input using different methods. Please select the BEST image you "
        "prefer based on visual appeal, such as layout, clarity, object shapes, and overall cleanliness.",
        show_prompt=False,
    ),
    Criterion(
        "prompt_alignment",
        "Prompt Alignment",
        "All images were generated from the same text input using different methods. Please select the image with the "
        "BEST image-text content alignment.",
        show_prompt=True,
    ),
)


@dataclass(frozen=True)
class Design:
    """Everything that decides what annotators see, beside the images and prompts themselves.

    The defaults follow the paper where it says what was done (two criteria, about 3,000 judgments of each on about
    1,000 prompts: three of a pair); ``ties=False`` is its forced choice.
    """

    title: str
    models: tuple[str, ...]
    criteria: tuple[Criterion, ...] = PAPER_CRITERIA
    rounds: int = 1
    judgments_per_pair: int = 3  # per criterion and round
    ties: bool = True
    gold: int = 10  # gold pairs of each criterion, shown once to every annotator
    gold_from: str | None = None  # the model whose images gold is made of; None: each in turn
    gold_every: int = 20  # one gold pair among so many, while there are any
    repeat_every: int = 20  # one repeated pair among so many; 0: none
    qualification: int = 4  # gold pairs before the main ones, for each annotator
    qualification_passes: int = 3  # so many of them must be right
    minimum_view_ms: int = 400  # from both images being loaded to the first vote that is taken
    lease_minutes: float = 20.0  # how long a pair is kept for an annotator who does nothing
    break_every: int = 100  # judgments between reminders to rest
    display_px: int = 512  # width and height of an image's box on the page
    pixels: int | None = None  # longer side that all images are resampled to; None: every model's own
    grids: tuple[str, ...] = ()  # models whose files are DPG-Bench's grids of two by two images; the first is shown
    monitoring: Monitoring = "blind"
    consent: str = CONSENT
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises BenchError for a design that cannot be carried out."""
        keys = [criterion.key for criterion in self.criteria]
        for wrong, message in (
            (len(self.models) < 2, "a study compares two models or more"),
            (len(set(self.models)) < len(self.models), f"models need different names: {', '.join(self.models)}"),
            (not keys or len(set(keys)) < len(keys), "criteria need different keys, and there must be one"),
            (self.gold_from not in (None, *self.models), f"gold cannot be made of {self.gold_from}: no such model"),
            (not set(self.grids) <= set(self.models), f"grids of {', '.join(self.grids)}: name models of the study"),
            (self.rounds < 1 or self.judgments_per_pair < 1, "rounds and judgments per pair start at 1"),
            (min(self.gold, self.qualification, self.repeat_every) < 0, "gold, repeats and qualification start at 0"),
            (self.gold_every < 1 or self.break_every < 1, "gold and breaks come every 1 judgments at most"),
            (not 0 <= self.qualification_passes <= self.qualification, "more qualification pairs to pass than asked"),
            (self.lease_minutes <= 0 or self.minimum_view_ms < 0, "lease and viewing time must be positive"),
            (self.pixels is not None and self.pixels < 16, "images are resampled to 16 pixels or more"),
        ):
            if wrong:
                raise BenchError(f"this design cannot be carried out: {message}")

    def criterion(self, key: str) -> Criterion:
        return next(criterion for criterion in self.criteria if criterion.key == key)

    def to_json(self) -> Json:
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Json]) -> Design:
        criteria = tuple(Criterion(**criterion) for criterion in data["criteria"])
        lists = {name: tuple(data.get(name, ())) for name in ("models", "grids")}
        return Design(**{**data, **lists, "criteria": criteria})


@dataclass(frozen=True)
class Pair:
    """Two images of one prompt; in gold and qualification pairs the first is known to be better."""

    prompt: str  # its id
    first: str  # model names, or names of gold's artefacts
    second: str
    criterion: str | None = None  # of gold, which is made for one; main pairs serve all
    kind: Kind = "main"


@dataclass(frozen=True)
class Task:
    """One judgment that the study wants of ``pairs[pair]``; ``swapped``: the pair's second image stands left."""

    pair: int
    criterion: str
    round: int
    slot: int
    swapped: bool
    order: int  # tasks are handed out in this order: all first slots, then all second ones


@dataclass(frozen=True)
class Block:
    """The tasks of one criterion in one round, which annotators do in one go."""

    criterion: str
    round: int


def pairs(prompts: Sequence[str], models: Sequence[str]) -> list[Pair]:
    """All pairs of models on every prompt."""
    return [Pair(prompt, first, second) for prompt in prompts for first, second in combinations(models, 2)]


def tasks(design: Design, of: Sequence[Pair]) -> list[Task]:
    """All main tasks, with their sides and order."""
    planned = []
    for criterion in design.criteria:
        first_sides = _first_sides(of, design.seed, criterion.key)
        for round_ in range(design.rounds):
            order = list(range(len(of)))
            _rng(design.seed, "order", criterion.key, round_).shuffle(order)
            for position, pair in enumerate(order):
                for slot in range(design.judgments_per_pair):
                    swapped = first_sides[pair] ^ bool((slot + round_) % 2)
                    planned.append(Task(pair, criterion.key, round_, slot, swapped, slot * len(of) + position))
    return planned


def _first_sides(of: Sequence[Pair], *key: object) -> list[bool]:
    """Whether each pair's first slot is swapped. Half are, for every pair of models, so that each of three models
    stands left as often as right."""
    planned: Counter[tuple[str, str]] = Counter()
    sides = []
    for pair in of:
        models = pair.first, pair.second
        sides.append(side_at(planned[models], "first side", models, *key))
        planned[models] += 1
    return sides


def side_at(position: int, *key: object) -> bool:
    """Whether the pair at this position is swapped: two of every four in a row are, in random order."""
    block = [True, False] * (BLOCK // 2)
    _rng("side", position // BLOCK, *key).shuffle(block)
    return block[position % BLOCK]


def blocks(design: Design, annotator: int) -> list[Block]:
    """The blocks in the order of the ``annotator``-th annotator: each begins with another criterion in turn."""
    start = annotator % len(design.criteria)
    order = design.criteria[start:] + design.criteria[:start]
    return [Block(criterion.key, round_) for round_ in range(design.rounds) for criterion in order]


def kind_at(design: Design, annotator: int, block: Block, position: int) -> Kind:
    """What the annotator's ``position``-th judgment of a block should be; gold or main where it cannot be had."""

    def drawn(kind: Kind, every: int) -> bool:
        start, offset = divmod(position, every)
        return offset == _rng(design.seed, kind, annotator, block, start).randrange(every)

    if design.repeat_every and drawn("repeat", design.repeat_every):
        return "repeat"
    return "gold" if design.gold and drawn("gold", design.gold_every) else "main"


def gold_pairs(design: Design, prompts: Sequence[str]) -> list[tuple[Pair, str]]:
    """Gold, qualification and example pairs of every criterion, each with the prompt its worse image is made from.

    The worse image of a criterion that shows the prompt is the same model's image of another prompt; of one that
    does not, it is the better image spoilt. The better image is always the pair's first: with prompt, this trusts the
    model to follow its prompts. Raises BenchError when there are too few prompts.
    """
    wanted = design.gold + design.qualification
    if wanted > len(prompts) or (wanted and len(prompts) < 2):
        raise BenchError(
            f"{wanted} gold and qualification pairs of each criterion need as many prompts, and two at least, not "
            f"{len(prompts)}: ask for fewer"
        )
    made = []
    for criterion in design.criteria:
        rng = _rng(design.seed, "gold", criterion.key)
        models = cycle([design.gold_from] if design.gold_from else rng.sample(design.models, len(design.models)))
        qualification: list[Kind] = ["qualification"] * design.qualification
        gold: list[Kind] = ["gold"] * design.gold
        example: list[Kind] = ["example"] if len(prompts) > max(wanted, 1) else []
        kinds = qualification + gold + example
        for prompt, model, kind in zip(rng.sample(list(prompts), len(kinds)), models, kinds, strict=False):
            other = rng.choice([name for name in prompts if name != prompt]) if criterion.show_prompt else prompt
            worse = f"{model} of another prompt" if criterion.show_prompt else f"{model} spoilt"
            made.append((Pair(prompt, model, worse, criterion.key, kind), other))
    return made


def draw(count: int, *key: object) -> int:
    """One of 0 ... count - 1, the same for the same key."""
    return _rng("draw", *key).randrange(count)


def _rng(*key: object) -> random.Random:
    """Seeded by a hash of the key alone: no process, version or hash seed changes it."""
    return random.Random(hashlib.sha256(repr(key).encode()).digest())
