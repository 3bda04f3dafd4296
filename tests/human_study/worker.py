"""A process that judges, for the tests of many at once."""

from __future__ import annotations

import os
from pathlib import Path

from human_study import database
from human_study.store import Store
from tests.human_study.studies import choice_for, vote


def judge(url: str, study_id: str, annotator: int, told: Path) -> None:
    """Judge until there is no more. Every vote that the store has acknowledged becomes a line of ``told``."""
    store = Store(database.connect(url), study_id)
    out = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    while held := store.work(annotator):
        choice = choice_for(held[0].id)
        store.submit(annotator, vote(held[0], choice))
        os.write(out, f"{held[0].id} {choice}\n".encode())  # unbuffered: a kill after it loses nothing
