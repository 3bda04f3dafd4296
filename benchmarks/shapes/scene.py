"""The shapes world: scenes of one to four shapes on a 64-pixel canvas, some with words, and how they are drawn.

The canvas has two rows and two columns of cells; an object lies somewhere inside one cell. All sizes and
positions are whole pixels, so a shape's anti-aliased mask is drawn once and reused.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Shape = Literal["circle", "square", "triangle", "star", "cross", "ring"]
Color = Literal["red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white"]

SHAPES: tuple[Shape, ...] = get_args(Shape)
#: GenEval's ten colors, in its order (evaluate_images.py; on a tie of logits the earlier color wins).
COLORS: tuple[Color, ...] = get_args(Color)
RGB: dict[Color, tuple[int, int, int]] = {
    "red": (220, 30, 30),
    "orange": (255, 140, 0),
    "yellow": (250, 230, 40),
    "green": (30, 160, 60),
    "blue": (40, 80, 220),
    "purple": (130, 40, 170),
    "pink": (255, 130, 190),
    "brown": (120, 70, 30),
    "black": (20, 20, 20),
    "white": (250, 250, 250),
}
#: GenEval paints everything outside an object's mask #999 before it classifies the color.
BACKGROUND = (153, 153, 153)
CANVAS = 64
CELL = 32
SIZES = (20, 22, 24, 26)
#: Cells as (row, column), in reading order.
CELLS = ((0, 0), (0, 1), (1, 0), (1, 1))
CELL_NAMES = dict(zip(CELLS, ("top left", "top right", "bottom left", "bottom right"), strict=True))
#: Pixels that one letter of Pillow's bitmap font takes: five letters fit into a cell, ten across the canvas.
LETTER = (6, 11)
_OVERSAMPLE = 8


@dataclass(frozen=True)
class Object:
    """A shape of ``size`` pixels whose top left corner is at (``x``, ``y``), inside ``cell`` (row, column)."""

    shape: Shape
    color: Color
    cell: tuple[int, int]
    x: int
    y: int
    size: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom in pixels; right and bottom are exclusive."""
        return self.x, self.y, self.x + self.size, self.y + self.size


@dataclass(frozen=True)
class Text:
    """One line of letters whose top left corner is at (``x``, ``y``); wide letters reach one pixel further left."""

    text: str
    color: Color
    x: int
    y: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom in pixels; right and bottom are exclusive."""
        return self.x, self.y, self.x + LETTER[0] * len(self.text), self.y + LETTER[1]


@dataclass(frozen=True)
class Scene:
    """Up to four objects in distinct cells, and lines of text that keep clear of them; both empty: bare canvas."""

    objects: tuple[Object, ...]
    texts: tuple[Text, ...] = ()


def place(items: Sequence[tuple[Shape, Color]], cells: Sequence[tuple[int, int]], rng: random.Random) -> Scene:
    """Put each (shape, color) somewhere inside its cell, one pixel or more from the cell's edge."""
    objects = []
    for (shape, color), cell in zip(items, cells, strict=True):
        size = rng.choice(SIZES)
        row, column = cell
        x = column * CELL + rng.randint(1, CELL - 1 - size)
        y = row * CELL + rng.randint(1, CELL - 1 - size)
        objects.append(Object(shape, color, cell, x, y, size))
    return Scene(tuple(objects))


def random_scene(rng: random.Random, count: int | None = None) -> Scene:
    """A scene of ``count`` (default: one to four) objects of any shape and color in distinct cells."""
    count = rng.randint(1, 4) if count is None else count
    items = [(rng.choice(SHAPES), rng.choice(COLORS)) for _ in range(count)]
    return place(items, rng.sample(CELLS, count), rng)


@cache
def mask(shape: Shape, size: int) -> np.ndarray:
    """Coverage of each pixel by the shape, float32 in [0, 1], [size, size]."""
    side = size * _OVERSAMPLE
    image = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(image)
    last = side - 1
    if shape == "circle":
        draw.ellipse((0, 0, last, last), fill=255)
    elif shape == "ring":
        draw.ellipse((0, 0, last, last), fill=255)
        inset = side * 0.28
        draw.ellipse((inset, inset, last - inset, last - inset), fill=0)
    elif shape == "square":
        margin = side * 0.06
        draw.rectangle((margin, margin, last - margin, last - margin), fill=255)
    elif shape == "triangle":
        draw.polygon([(last / 2, 0), (last, last), (0, last)], fill=255)
    elif shape == "cross":
        low, high = side * 0.33, last - side * 0.33
        draw.rectangle((low, 0, high, last), fill=255)
        draw.rectangle((0, low, last, high), fill=255)
    else:
        points = []
        for i in range(10):
            radius = (0.53 if i % 2 == 0 else 0.23) * side
            angle = math.pi * (i / 5 - 0.5)
            points.append((last / 2 + radius * math.cos(angle), side * 0.53 + radius * math.sin(angle)))
        draw.polygon(points, fill=255)
    return np.asarray(image.resize((size, size), Image.Resampling.BOX), dtype=np.float32) / 255


def render(scene: Scene) -> Image.Image:
    """Draw a scene as a 64 x 64 RGB image."""
    canvas = np.empty((CANVAS, CANVAS, 3), dtype=np.float32)
    canvas[:] = BACKGROUND
    for item in scene.objects:
        left, top, right, bottom = item.box
        cover = mask(item.shape, item.size)[..., None]
        patch = canvas[top:bottom, left:right]
        patch[:] = patch * (1 - cover) + np.asarray(RGB[item.color], dtype=np.float32) * cover
    image = Image.fromarray(np.rint(canvas).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for line in scene.texts:
        # The bitmap font has no anti-aliasing: the same pixels under every version of FreeType. Pillow cuts off the
        # first pixel of a wide letter at the line's start, so a blank goes before it.
        draw.text((line.x - LETTER[0], line.y), f" {line.text}", RGB[line.color], ImageFont.load_default_imagefont())
    return image
