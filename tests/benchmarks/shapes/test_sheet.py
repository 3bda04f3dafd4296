"""Contact sheets of what a model draws."""

from __future__ import annotations

import numpy as np
from PIL import Image

from benchmarks.shapes import sheet
from benchmarks.types import Sample


def sample(number: int, prompt: str, stratum: str = "colors") -> Sample:
    return Sample(f"s/{number}", prompt, group=f"s/{number}", stratum=stratum)


def test_a_row_has_distinct_prompts_and_a_quarter_of_what_is_held_out() -> None:
    known = [sample(number, f"a photo of {number // 2} stars") for number in range(20)]
    new = [sample(30 + number, f"a photo of a pink circle {number}") for number in range(3)]
    rows = sheet.rows_of({"geneval": [*known, *new, sample(50, "two", "counting")], "dpg": known[:4]})
    assert [one.id for one in rows["colors"]] == ["s/0", "s/2", "s/4", "s/6", "s/8", "s/10", "s/30", "s/31"]
    assert [one.id for one in rows["dpg"]] == ["s/0", "s/2", "s/1", "s/3"]  # there are no more prompts
    assert [one.id for one in rows["counting"]] == ["s/50"]


def test_a_row_that_is_all_held_out_is_spread() -> None:
    of = [sample(number, f"a pink circle {number}") for number in range(20)]
    (row,) = sheet.rows_of({"dpg": of}, columns=4).values()
    assert [one.id for one in row] == ["s/0", "s/5", "s/10", "s/15"]


def test_held_out_is_told_by_the_words_and_by_wise() -> None:
    assert sheet.is_held_out(sample(0, "three pink circles to the left of a star"))
    assert not sheet.is_held_out(sample(0, "a pink star and a red circle"))
    assert sheet.is_held_out(Sample("w", "a ripe banana", group="w", meta={"Explanation": "..."}))


def test_long_prompts_make_their_row_higher_and_new_ones_red() -> None:
    tile = sheet.Tile(Image.new("RGB", (64, 64), "blue"), "star")
    long = sheet.Tile(tile.image, "word " * 40, held_out=True)
    low, high = sheet.drawn_sheet({"a": [tile, tile]}), sheet.drawn_sheet({"a": [tile, long]})
    assert low.size == (2 * (sheet.TILE + sheet.GAP) + sheet.GAP, sheet.HEADING + sheet.TILE + sheet.LABEL + sheet.GAP)
    assert high.height > low.height
    beneath = sheet.HEADING + sheet.TILE
    red = [np.all(np.asarray(one)[beneath:] == (179, 38, 31), axis=2).any() for one in (low, high)]
    assert red == [False, True]
