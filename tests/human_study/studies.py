"""Small studies, with and without image files, and annotators that answer by rule."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image
from sqlalchemy import Engine

from human_study import design, folder, store
from human_study.claims import Assignment
from human_study.design import Choice, Design
from human_study.folder import Study
from human_study.store import Store, StoredImage, Vote

#: No gold, qualification, repeats or minimum time: main pairs only.
PLAIN = Design(
    title="test",
    models=("alpha", "beta"),
    judgments_per_pair=2,
    gold=0,
    qualification=0,
    qualification_passes=0,
    repeat_every=0,
    minimum_view_ms=0,
)


def create(engine: Engine, plan: Design = PLAIN, prompts: int = 6) -> Store:
    """A new study; every image has a digest of its own."""
    texts = {f"p{number}": f"prompt number {number}" for number in range(prompts)}
    gold = design.gold_pairs(plan, list(texts))
    names = [(prompt, model, "") for prompt in texts for model in plan.models]
    names += [(pair.prompt, pair.second, pair.criterion or "") for pair, _ in gold]
    images = {name: StoredImage(hashlib.sha256(repr(name).encode()).hexdigest(), 64, 64) for name in names}
    return Store(engine, store.create(engine, plan, texts, images, [pair for pair, _ in gold]))


def vote(assignment: Assignment, choice: Choice = "left", ms: int = 1000) -> Vote:
    return Vote(assignment.id, choice, assignment.submit_uuid, ms_visible=ms, ms_total=ms)


def judge_all(study: Store, annotator: int, choose: Callable[[Assignment], Choice] = lambda _: "left") -> int:
    """Vote until there is nothing more for the annotator; returns the number of votes."""
    votes = 0
    while held := study.work(annotator):
        assert study.submit(annotator, vote(held[0], choose(held[0])))
        votes += 1
    return votes


def choice_for(assignment: int) -> Choice:
    """A choice that follows from the assignment's id alone."""
    choices: tuple[Choice, ...] = ("left", "right", "tie")
    return choices[assignment % 3]


def image_folders(root: Path, models: Sequence[str], prompts: int, sizes: Sequence[int] = (32, 32)) -> dict[str, Path]:
    """A folder of small images for each model, each of one color, and ``root/prompts.csv``."""
    for number, (model, size) in enumerate(zip(models, sizes, strict=True)):
        (root / model).mkdir(parents=True)
        for prompt in range(prompts):
            color = (40 + 150 * number, 7 * prompt % 256, 90)
            Image.new("RGB", (size, size), color).save(root / model / f"p{prompt}.png")
    lines = ["id,prompt", *(f"p{prompt},a square of shade {prompt}" for prompt in range(prompts))]
    (root / "prompts.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {model: root / model for model in models}


def study_with_images(root: Path, plan: Design = PLAIN, prompts: int = 6) -> Study:
    """A study in ``root/study`` of ``image_folders``."""
    sources = image_folders(root / "images", plan.models, prompts)
    return folder.create(root / "study", plan, folder.read_prompts(root / "images" / "prompts.csv"), sources)
