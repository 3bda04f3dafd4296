"""A study on disk: study.json, images/, the key that signs its links, and study.db unless a server keeps the tables."""

from __future__ import annotations

import csv
import json
import os
import random
import secrets
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Engine
from tqdm import tqdm

from benchmarks.types import BenchError
from human_study import database, design, images, store
from human_study.design import Criterion, Design
from human_study.store import Store, StoredImage

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Study:
    """An open study."""

    folder: Path
    store: Store
    key: bytes

    def image(self, sha256: str) -> Path:
        return images.path(self.folder, sha256)


def read_prompts(source: Path) -> dict[str, str]:
    """Prompts by id: of a folder of ID.txt files (DPG-Bench's), or a CSV file with columns id and prompt.

    Raises BenchError for anything else, for ids given twice and for empty prompts.
    """
    try:
        if source.is_dir():
            rows = [(file.stem, file.read_text(encoding="utf-8")) for file in sorted(source.glob("*.txt"))]
        else:
            with source.open(encoding="utf-8-sig", newline="") as file:
                rows = [(row["id"], row["prompt"]) for row in csv.DictReader(file)]
    except OSError as error:
        raise BenchError(f"cannot read prompts from {source}: {error.strerror}") from error
    except (KeyError, UnicodeDecodeError, csv.Error) as error:
        raise BenchError(f"{source} must be a folder of ID.txt files, or a CSV file with columns id,prompt") from error
    prompts: dict[str, str] = {}
    for key, text in rows:
        if not key or not (text and text.strip()) or key in prompts:
            raise BenchError(f"{source}: every prompt needs a text and an id of its own; see {key!r}")
        prompts[key] = text.strip()
    if not prompts:
        raise BenchError(f"no prompts in {source}")
    return prompts


def read_text(source: Path) -> str:
    """A text file. Raises BenchError when it cannot be read."""
    try:
        return source.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"cannot read {source}: {error}") from error


def read_criteria(source: Path) -> tuple[Criterion, ...]:
    """Criteria of a TOML file: tables [[criterion]] with key, title, instruction and show_prompt."""
    try:
        criteria = tuple(Criterion(**table) for table in tomllib.loads(read_text(source))["criterion"])
        for one in criteria:
            if not all(isinstance(text, str) and text.strip() for text in (one.key, one.title, one.instruction)):
                raise ValueError("the first three are texts")
            if not isinstance(one.show_prompt, bool):
                raise ValueError("show_prompt is true or false")
        return criteria
    except (KeyError, TypeError, ValueError) as error:  # ValueError: also what is not TOML
        raise BenchError(
            f"{source} needs tables [[criterion]] with key, title, instruction and show_prompt ({error})"
        ) from error


def sample_prompts(prompts: Mapping[str, str], number: int | None, seed: int) -> dict[str, str]:
    """So many prompts (None: all), drawn by the seed, in their own order."""
    if number is None or number >= len(prompts):
        return dict(prompts)
    chosen = set(random.Random(seed).sample(list(prompts), number))
    return {key: text for key, text in prompts.items() if key in chosen}


def create(
    folder: Path,
    plan: Design,
    prompts: Mapping[str, str],
    sources: Mapping[str, Path],
    database_url: str | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Study:
    """Make a study of the models' folders of images, and its tables in the database (default: a file in ``folder``).

    ``tell`` gets what the user should know. Raises BenchError when the folder has a study, or images are missing.
    """
    description = folder / "study.json"
    if description.exists():
        raise BenchError(f"{folder} holds a study already; use another folder")
    files = {model: images.by_prompt(sources[model]) for model in plan.models}
    for model, found in files.items():
        missing = [key for key in prompts if key not in found]
        if missing:
            raise BenchError(
                f"{len(missing)} of {len(prompts)} prompts have no image in {sources[model]}, such as {missing[0]}"
            )
    # Before any work, since they may refuse the number of prompts and the database.
    gold = design.gold_pairs(plan, list(prompts))
    database_url = database.absolute(database_url) if database_url else None
    engine = database.connect(database_url or _default_url(folder))
    stored = _prepare_images(folder, plan, prompts, files, gold)
    _tell_sizes(plan, stored, tell)
    database.upgrade(engine)
    study_id = store.create(engine, plan, prompts, stored, [pair for pair, _ in gold])
    _write_private(folder / "key", secrets.token_bytes(32))
    # Last: a folder with study.json is a whole study. Private, since a database's URL may have a password.
    _write_private(description, json.dumps({"id": study_id, "database": database_url}).encode())
    return open_study(folder)


def open_study(folder: Path) -> Study:
    """The study in a folder. Raises BenchError when there is none, or its tables are of another version."""
    study_id, engine, key = _read(folder)
    return Study(folder, Store(engine, study_id), key)


def upgrade(folder: Path) -> None:
    """Bring the tables of a study that an older version made up to date."""
    database.upgrade(_read(folder)[1])


def _read(folder: Path) -> tuple[str, Engine, bytes]:
    try:
        description = json.loads((folder / "study.json").read_bytes())
        url = description["database"] or _default_url(folder)
        return description["id"], database.connect(url), (folder / "key").read_bytes()
    except FileNotFoundError as error:
        raise BenchError(f"{folder} holds no study: make one with blip3o-bench study create") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BenchError(f"cannot read the study in {folder}: {error}") from error


def _prepare_images(
    folder: Path,
    plan: Design,
    prompts: Mapping[str, str],
    files: Mapping[str, Mapping[str, Path]],
    gold: list[tuple[design.Pair, str]],
) -> dict[tuple[str, str, str], StoredImage]:
    """Write all images of the study, by (prompt id, model or gold's worse image, gold's criterion or nothing)."""

    def load(model: str, prompt: str) -> Image.Image:
        return images.load(files[model][prompt], plan.pixels, grid=model in plan.grids)

    wanted = [(prompt, model) for model in plan.models for prompt in prompts]
    stored = {
        (prompt, model, ""): images.save(load(model, prompt), folder)
        for prompt, model in tqdm(wanted, "images", unit="image", disable=None)
    }
    for pair, other in gold:
        criterion = plan.criterion(str(pair.criterion))
        worse = load(pair.first, other)
        if not criterion.show_prompt:
            worse = images.spoilt(worse, seed=f"{plan.seed}/{pair.prompt}")
        stored[pair.prompt, pair.second, criterion.key] = images.save(worse, folder)
    return stored


def _tell_sizes(plan: Design, stored: Mapping[tuple[str, str, str], StoredImage], tell: Callable[[str], None]) -> None:
    sizes: dict[str, set[tuple[int, int]]] = {model: set() for model in plan.models}
    for (_, model, criterion), image in stored.items():
        if not criterion:
            sizes[model].add((image.width, image.height))
    if len(set(map(frozenset, sizes.values()))) > 1:
        each = ", ".join(f"{model} {' '.join(f'{w}x{h}' for w, h in sorted(of)[:3])}" for model, of in sizes.items())
        tell(
            f"the models' images differ in size ({each}): shown in boxes of {plan.display_px} px they may still be "
            "told apart by sharpness; --pixels N resamples all to one size, --grid NAME takes the first of the four "
            "images in each of a model's DPG-Bench grids"
        )


def _default_url(folder: Path) -> str:
    return f"sqlite:///{folder.resolve()}/study.db"


def _write_private(path: Path, data: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
