"""The pair page's own element: both images, the buttons and the keys, in the browser."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import streamlit as st

from human_study.claims import Assignment
from human_study.design import Design

HERE = Path(__file__).parent


@cache
def _component() -> Callable[..., Any]:
    html, css, js = ((HERE / f"pair.{suffix}").read_text(encoding="utf-8") for suffix in ("html", "css", "js"))
    return st.components.v2.component("study_pair", html=html, css=css, js=js)


def show(design: Design, held: list[Assignment], can_undo: bool, on_choice: Callable[[int, str], None]) -> None:
    """Show the first of the held pairs, and have the browser fetch the images of the next.

    ``on_choice`` is called with the pair's assignment and the key under which the session state has the choice.
    """
    now, *ahead = held
    # The pair is in the key: with one key for all pairs, the second of two clicks falls on the pair that follows.
    key = f"choice-{now.id}-{now.submit_uuid}"
    _component()(
        key=key,
        data={
            "assignment": now.id,
            "submit_uuid": now.submit_uuid,
            "left": image_url(now.left_token),
            "right": image_url(now.right_token),
            "next": [image_url(token) for pair in ahead for token in (pair.left_token, pair.right_token)],
            "prompt": now.prompt if design.criterion(now.criterion).show_prompt else None,
            "ties": design.ties,
            "can_undo": can_undo,
            "minimum_view_ms": design.minimum_view_ms,
            "display_px": design.display_px,
        },
        on_choice_change=lambda: on_choice(now.id, key),
    )


def image_url(token: str) -> str:
    return f"/img/{token}"
