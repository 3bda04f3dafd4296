"""A contact sheet of the shapes world: scenes that satisfy GenEval prompts, one row per tag."""

from __future__ import annotations

import random

from PIL import Image, ImageDraw, ImageFont

from benchmarks.shapes.geneval import TAGS, prompts, scene_for
from benchmarks.shapes.scene import render

TILE = 160
GAP = 16
LABEL = 44
HEADING = 26
FONT = 14


def contact_sheet(columns: int = 6, seed: int = 0) -> Image.Image:
    """An RGB picture of ``columns`` scenes of each of the six tags, enlarged, with their prompts beneath."""
    rows = {tag: [metadata for metadata in prompts(columns) if metadata["tag"] == tag] for tag in TAGS}
    width = GAP + columns * (TILE + GAP)
    height = len(TAGS) * (HEADING + TILE + LABEL) + GAP
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(FONT)
    for row, tag in enumerate(TAGS):
        top = row * (HEADING + TILE + LABEL) + GAP // 2
        draw.text((GAP, top), tag, fill="#555", font=font)
        for column, metadata in enumerate(rows[tag]):
            left = GAP + column * (TILE + GAP)
            scene = scene_for(metadata, random.Random(f"{seed}/{metadata['prompt']}"))
            picture = render(scene).resize((TILE, TILE), Image.Resampling.LANCZOS)
            sheet.paste(picture, (left, top + HEADING))
            label = _wrapped(metadata["prompt"].removeprefix("a photo of "), font)
            draw.multiline_text((left, top + HEADING + TILE + 4), label, fill="black", font=font, spacing=2)
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
