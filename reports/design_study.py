"""The study of designs in small: stored runs -> results, charts, and the page docs/design_study.md.

The runs of an arm and a seed lie in ``ARM/seedN/``: ``drawn-STEP`` and ``answered``, beside ``trained.json`` and the
images ``one-prompt/*.png``, all of one prompt, of the last step. A seed is one measurement: intervals are t-intervals
over seeds, and differences are taken between arms of the same seed, which saw the same examples.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from benchmarks.store import read_records
from benchmarks.types import BenchError, Json
from reports import plots
from reports.compare import signed
from reports.plots import Panel, Point
from reports.runs import headline
from reports.statistics import Estimate, clustered_mean
from reports.tables import Table, as_markdown, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Arms by their names, in the order of the paper's figure 4; the last one is the other way to train the second.
ARMS: Mapping[str, str] = {
    "clip_mse": "CLIP + MSE",
    "clip_flow": "CLIP + flow matching",
    "vae_flow": "VAE + flow matching",
    "joint": "CLIP + flow matching, joint",
}
DESIGNS = ("clip_mse", "clip_flow", "vae_flow")
#: The curves of figure 4: benchmark and score.
CURVES = (("geneval", "overall"), ("dpg", "overall"), ("mjhq", "fid"))
DIVERSITY = ("one prompt", "diversity")
#: What the images of ``one-prompt`` show.
PROMPT = "a photo of a red circle"
Answer = Literal["holds", "does not hold: the opposite does", "cannot be told"]


@dataclass(frozen=True)
class Measured:
    """One score of one training run; ``step`` is None for what is measured at its end only."""

    arm: str
    seed: int
    step: int | None
    benchmark: str
    metric: str
    unit: str
    higher_is_better: bool
    value: float


@dataclass(frozen=True)
class Trained:
    """How an arm was trained: numbers that learn, steps, and examples of a step."""

    parameters: int
    steps: int
    batch_size: int


@dataclass(frozen=True)
class Study:
    measured: tuple[Measured, ...]
    trained: Mapping[str, Trained]  # by arm

    def by_seed(self, arm: str, score: tuple[str, str], step: int | None) -> dict[int, float]:
        return {
            one.seed: one.value
            for one in self.measured
            if one.arm == arm and (one.benchmark, one.metric) == score and one.step == step
        }


def collect(root: Path) -> Study:
    """Everything measured under ``root``. Scores that a run could not give are left out. Raises BenchError."""
    measured: list[Measured] = []
    trained: dict[str, Trained] = {}
    for arm in ARMS:
        for folder in sorted((root / arm).glob("seed*")):
            seed = int(folder.name.removeprefix("seed"))
            for run in sorted(folder.glob("*/run.json")):
                found = re.fullmatch(r"drawn-(\d+)", run.parent.name)
                measured += _scores(run.parent, arm, seed, int(found[1]) if found else None)
            images = sorted(folder.glob("one-prompt/*.png"))
            if images:
                spread = diversity([np.asarray(Image.open(path).convert("RGB")) for path in images])
                measured.append(Measured(arm, seed, None, *DIVERSITY, "levels of 255", True, spread))
            if (stamp := folder / "trained.json").is_file():
                trained[arm] = Trained(**json.loads(stamp.read_text()))
    if not measured:
        raise BenchError(f"{root} holds no runs of the study: make study-design makes them")
    return Study(tuple(measured), trained)


def _scores(run: Path, arm: str, seed: int, step: int | None) -> list[Measured]:
    return [
        Measured(arm, seed, step, record.benchmark, m.name, m.unit, m.higher_is_better, m.value)
        for record in read_records(run)
        for m in (record.metrics if record.benchmark == "geneval" else headline(record))
        if m.value is not None
    ]


def diversity(images: Sequence[np.ndarray]) -> float:
    """Mean over all pairs of images of the root of their mean squared difference, in levels of 255."""
    pairs = combinations([image.astype(np.float64) for image in images], 2)
    return float(np.mean([np.sqrt(np.mean((first - second) ** 2)) for first, second in pairs]))


def read(path: Path) -> Study:
    """A study as ``write`` left it."""
    content = json.loads(path.read_text())
    return Study(
        tuple(Measured(**one) for one in content["measured"]),
        {arm: Trained(**one) for arm, one in content["trained"].items()},
    )


def write(study: Study, path: Path) -> None:
    content: Json = {
        "measured": [asdict(one) for one in study.measured],
        "trained": {arm: asdict(one) for arm, one in study.trained.items()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = json.dumps(content, indent=1).replace("\n   ", " ")  # one measurement to a line
    path.write_text(lines + "\n")


def one_prompt(root: Path, columns: int = 8) -> Image.Image | None:
    """The first images of the one prompt by the first seed of each design, a row per design; None without any."""
    rows = [paths for arm in DESIGNS if (paths := sorted(root.glob(f"{arm}/seed*/one-prompt/*.png"))[:columns])]
    if not rows:
        return None
    tile, gap = 96, 8
    sheet = Image.new("RGB", (columns * (tile + gap) + gap, len(rows) * (tile + gap) + gap), "white")
    for row, paths in enumerate(rows):
        for column, path in enumerate(paths):
            image = Image.open(path).convert("RGB").resize((tile, tile), Image.Resampling.LANCZOS)
            sheet.paste(image, (gap + column * (tile + gap), gap + row * (tile + gap)))
    return sheet


# What it says ---------------------------------------------------------------------------------------------------------


def over_seeds(values: Iterable[float]) -> Estimate:
    """Their mean with a 95 % t-interval; none for a single seed."""
    numbers = list(values)
    return clustered_mean(numbers, range(len(numbers)))


def difference(study: Study, first: str, second: str, score: tuple[str, str], step: int | None) -> Estimate | None:
    """Second minus first over the seeds that both have; None without one."""
    one, another = study.by_seed(first, score, step), study.by_seed(second, score, step)
    seeds = sorted(one.keys() & another.keys())
    if not seeds:
        return None
    # Not paired_difference, which would take scores that are all 0 or 1 for right and wrong answers.
    return clustered_mean([another[seed] - one[seed] for seed in seeds], seeds)


def answer(found: Sequence[tuple[Estimate | None, bool]]) -> Answer:
    """Whether all of the differences are what is claimed: above 0 where the flag says so, else below."""
    signs = []
    for estimate, above in found:
        if estimate is None or estimate.low is None or estimate.high is None:
            return "cannot be told"
        claimed, opposite = (estimate.low > 0, estimate.high < 0)
        signs.append((claimed, opposite) if above else (opposite, claimed))
    if all(claimed for claimed, _ in signs):
        return "holds"
    return "does not hold: the opposite does" if all(opposite for _, opposite in signs) else "cannot be told"


def last_step(study: Study) -> int:
    return max(one.step for one in study.measured if one.step is not None)


def figure(study: Study) -> Figure:
    """The three curves against training steps, mean and interval over seeds."""
    panels = []
    for benchmark, metric in CURVES:
        steps = sorted({m.step for m in study.measured if m.step is not None and m.benchmark == benchmark})
        series: dict[str, list[Point]] = {}
        unit = next((m.unit for m in study.measured if (m.benchmark, m.metric) == (benchmark, metric)), "")
        for arm in DESIGNS:
            for step in steps:
                if values := study.by_seed(arm, (benchmark, metric), step).values():
                    found = over_seeds(values)
                    series.setdefault(ARMS[arm], []).append(Point(step, found.value, found.low, found.high))
        lower = " (lower is better)" if metric == "fid" else ""
        panels.append(
            Panel(f"{benchmark} {metric}{lower}", "toy suite, 95 % over seeds", "training step", unit, series)
        )
    return plots.lines(panels)


def page(study: Study) -> str:
    """docs/design_study.md, from the results alone."""
    last = last_step(study)
    return _PAGE.format(
        seeds=len({one.seed for one in study.measured}),
        prompt=PROMPT,
        rows=", ".join(ARMS[arm] for arm in DESIGNS),
        last=last,
        trained=as_markdown(_trained_table(study)),
        best=number(max(_mean(study, arm, last) for arm in DESIGNS), "fraction"),
        scores=as_markdown(_score_table(study, DESIGNS, [*_curves(last), (DIVERSITY, None)])),
        finding_1=_finding(study, "vae_flow", [(CURVES[0], last, True), (CURVES[1], last, True)]),
        finding_2=_finding(study, "clip_mse", [(DIVERSITY, None, True), (CURVES[2], last, False)]),
        joint=_joint(study),
    )


def _mean(study: Study, arm: str, step: int) -> float:
    """GenEval's overall score; below all others where it was not measured."""
    values = study.by_seed(arm, CURVES[0], step).values()
    return sum(values) / len(values) if values else -1.0


Question = tuple[tuple[str, str], int | None]


def _curves(step: int) -> list[Question]:
    return [(score, step) for score in CURVES]


def _trained_table(study: Study) -> Table:
    rows = tuple(
        (ARMS[arm], f"{one.parameters:,}", str(one.steps), str(one.batch_size)) for arm, one in study.trained.items()
    )
    return Table(("arm", "numbers trained", "steps", "examples a step"), rows, frozenset({1, 2, 3}))


def _score_table(study: Study, arms: Sequence[str], questions: Sequence[Question]) -> Table:
    """A row per score: mean over seeds and interval of each arm, then its difference from CLIP + flow matching."""
    rows = []
    for score, step in questions:
        unit = next((one.unit for one in study.measured if (one.benchmark, one.metric) == score), None)
        if unit is None:
            continue
        cells = [" ".join(score)]
        for arm in arms:
            values = study.by_seed(arm, score, step)
            cells.append(_shown(over_seeds(values.values()), unit, len(values)) if values else "not run")
        cells += [
            _difference_shown(difference(study, arm, "clip_flow", score, step), unit)
            for arm in arms
            if arm != "clip_flow"
        ]
        rows.append(tuple(cells))
    others = [f"CLIP + flow matching minus {ARMS[arm]}" for arm in arms if arm != "clip_flow"]
    header = ("score", *(ARMS[arm] for arm in arms), *others)
    return Table(header, tuple(rows), frozenset(range(1, len(header))))


def _shown(found: Estimate, unit: str, seeds: int) -> str:
    limits = f" ({number(found.low, unit)} to {number(found.high, unit)})" if found.low is not None else ""
    return f"{number(found.value, unit)}{limits}, {seeds} seed{'s' * (seeds > 1)}"


def _difference_shown(found: Estimate | None, unit: str) -> str:
    if found is None:
        return "-"
    limits = f" ({signed(found.low, unit)} to {signed(found.high, unit)})" if found.low is not None else ""
    return signed(found.value, unit) + limits


def _finding(study: Study, other: str, claims: Sequence[tuple[tuple[str, str], int | None, bool]]) -> Answer:
    """Whether CLIP + flow matching differs from the ``other`` design as claimed; True claims a higher score."""
    return answer([(difference(study, other, "clip_flow", score, step), above) for score, step, above in claims])


def _joint(study: Study) -> str:
    steps = [one.step for one in study.measured if one.arm == "joint" and one.step is not None]
    if not steps:
        return "Joint training was not run."
    asked = sorted({(m.benchmark, m.metric) for m in study.measured if m.step is None and m.benchmark != DIVERSITY[0]})
    questions: list[Question] = [*_curves(max(steps)), *((score, None) for score in asked)]
    table = as_markdown(_score_table(study, ("clip_flow", "joint"), questions))
    return f"After {max(steps)} steps of both:\n\n{table}"


_PAGE = """\
# The paper's comparison of designs, in small

Written by `make study-design` from [results.json](design_study/results.json). Section 3.3 of the paper trains three
designs of image generation on one backbone and compares them along their training (figure 4). Here they are trained on
the shapes world, {seeds} seeds each. The scores are the toy suite's: not comparable with published ones, nor, because
prompts and images are fewer, with `make demo`'s.

{trained}

* All arms see the same drawings in the same order (three in four a prompt of GenEval's tags single_object, counting and
  colors, one in four a dense caption as in DPG-Bench), with the same schedule, average and, but for joint training,
  number of steps. The designs train equally many numbers, within 2 %: the language model in CLIP + MSE, a transformer
  of 3 layers and the queries in the other two, whose backbone is frozen. The transformer has 16 tokens in both.
  Recipes: `model/recipes/design/toy/`.
* The backbone is what `model/recipes/toy/backbone.toml` trains: it has learned to understand only, as the paper's has,
  and no target had a part in that. Encoder, decoder and VAE are the toy model's.
* Noise levels and their shift were chosen by runs of CLIP + flow matching alone (seed 1, 400 steps, the same prompts:
  GenEval 0.125 against 0.021), and nothing was chosen for the other designs: this may favour CLIP + flow matching.
* GenEval is asked for the three trained tags (22 prompts, 2 images each), DPG-Bench for 16 captions, and the FID is
  that of the toy detector's features over 60 images: small samples, so that a point of a curve costs seconds.
* Diversity: 16 images of "{prompt}" by the last weights; the root mean square difference of two,
  over all pairs. It says nothing of whether they show what was asked for, and noise has it, too.
* A seed is one measurement. Intervals are 95 % t-intervals over seeds, those of differences over pairs of runs with the
  same seed. They do not cover another choice of prompts.

![scores against training steps](design_study/curves.png)

## After {last} steps

{scores}

The best of the designs has a GenEval score of {best} here; where all are near 0, their differences say little.

![images of one prompt](design_study/one_prompt.png)

(8 images of "{prompt}" by the first seed of each design, from above:
{rows}.)

* **Finding 1** of the paper, that CLIP features are learned more effectively than a VAE's latents (here: CLIP + flow
  matching is above VAE + flow matching in GenEval and in DPG-Bench): **{finding_1}** here.
* **Finding 2**, that flow matching gives more diverse and better images than MSE (here: CLIP + flow matching is above
  CLIP + MSE in diversity, and has a lower FID): **{finding_2}** here.

"Holds" asks that all intervals of the differences exclude zero on the side claimed. The paper's curves, of some 25
million images, have no intervals; these runs end far earlier, where the losses still fall.

## Sequential against joint training

Sequential: the frozen backbone of CLIP + flow matching above. Joint: the same recipe, but the backbone learns too, from
the drawings and from a conversation beside every four of them; so more is trained, and a step takes longer. It ends at
a step of the same schedule at which its sequential arm was scored, too. Each column of understanding is asked for about
100 questions. A frozen backbone answers the same whatever the seed.

{joint}
"""
