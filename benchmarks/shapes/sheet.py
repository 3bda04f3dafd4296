"""Contact sheets: scenes of the shapes world that satisfy GenEval prompts, and what a model draws of all prompts."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from benchmarks.shapes.geneval import TAGS, prompts, scene_for
from benchmarks.shapes.scene import render
from benchmarks.shapes.training import HELD_OUT
from benchmarks.types import Sample

TILE = 160
GAP = 16
LABEL = 44
HEADING = 26
FONT = 14
LINE = FONT + 4
#: Of the text beneath a tile that shows what no training example did.
NEW = "#b3261f"


@dataclass(frozen=True)
class Tile:
    """A picture and its prompt; ``held_out`` where the prompt asks for something that is held out of training."""

    image: Image.Image
    prompt: str
    held_out: bool = False


def contact_sheet(columns: int = 6, seed: int = 0) -> Image.Image:
    """An RGB picture of ``columns`` scenes of each of the six tags, enlarged, with their prompts beneath."""
    return _sheet(
        {
            tag: [
                Tile(render(scene_for(metadata, random.Random(f"{seed}/{metadata['prompt']}"))), metadata["prompt"])
                for metadata in prompts(columns)
                if metadata["tag"] == tag
            ]
            for tag in TAGS
        },
        columns,
    )


def rows_of(samples: Mapping[str, Sequence[Sample]], columns: int = 8) -> dict[str, list[Sample]]:
    """Samples by benchmark -> ``columns`` of them for each row of a sheet, a quarter of which are held out.

    GenEval has a row for each tag, the others have one each. Prompts differ as far as there are so many; of what is
    all held out, the row is spread over the whole.
    """
    rows: dict[str, list[Sample]] = {}
    for name, of in samples.items():
        for sample in of:
            rows.setdefault(sample.stratum if name == "geneval" else name, []).append(sample)
    return {name: _chosen(every, columns) for name, every in rows.items()}


def _chosen(every: Sequence[Sample], columns: int) -> list[Sample]:
    first: dict[str, Sample] = {}
    for sample in every:
        first.setdefault(sample.prompt, sample)
    new = [sample for sample in first.values() if is_held_out(sample)]
    if len(new) == len(first):
        return new[:: max(1, len(new) // columns)][:columns]
    new = new[: columns // 4]
    known = [sample for sample in first.values() if not is_held_out(sample)]
    again = [sample for sample in every if first[sample.prompt] is not sample and not is_held_out(sample)]
    return [*(known + again)[: columns - len(new)], *new]


def is_held_out(sample: Sample) -> bool:
    """Whether a prompt names an object that is never drawn in training, or joins a fact to a held-out companion."""
    # All of WISE's prompts in the evaluation do the latter.
    return "Explanation" in sample.meta or any(f"{color} {shape}" in sample.prompt for shape, color in HELD_OUT)


def drawn_sheet(rows: Mapping[str, Sequence[Tile]]) -> Image.Image:
    """An RGB picture of the rows' tiles with headings and whole prompts; prompts that are held out stand in red."""
    return _sheet(rows, max(len(tiles) for tiles in rows.values()), "in red: what is held out of training")


def _sheet(rows: Mapping[str, Sequence[Tile]], columns: int, note: str = "") -> Image.Image:
    font = ImageFont.load_default(FONT)
    labels = {
        name: [_wrapped(tile.prompt.removeprefix("a photo of "), font) for tile in tiles]
        for name, tiles in rows.items()
    }
    beneath = {
        name: max([LABEL, *(LINE * (text.count("\n") + 1) + 8 for text in texts)]) for name, texts in labels.items()
    }
    width = GAP + columns * (TILE + GAP)
    height = sum(HEADING + TILE + beneath[name] for name in rows) + GAP
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    top = GAP // 2
    draw.text((width - GAP, top), note, fill=NEW, font=font, anchor="ra")
    for name, tiles in rows.items():
        draw.text((GAP, top), name, fill="#555", font=font)
        for column, (tile, label) in enumerate(zip(tiles, labels[name], strict=True)):
            left = GAP + column * (TILE + GAP)
            picture = tile.image.resize((TILE, TILE), Image.Resampling.LANCZOS)
            sheet.paste(picture, (left, top + HEADING))
            color = NEW if tile.held_out else "black"
            draw.multiline_text((left, top + HEADING + TILE + 4), label, fill=color, font=font, spacing=2)
        top += HEADING + TILE + beneath[name]
    return sheet


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Break a text into lines no wider than a tile."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= TILE:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)
