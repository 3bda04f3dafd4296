"""The table of models."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.models import MODELS, table
from tests.conftest import ROOT


def test_each_kind_can_do_something_and_has_a_prefix_of_its_own() -> None:
    assert all(kind.draws or kind.answers for kind in MODELS)
    assert len({kind.prefix for kind in MODELS}) == len(MODELS)


def test_the_table_tells_what_each_can_do() -> None:
    rows = {line.split()[0]: line.split()[1:3] for line in table().splitlines()}
    assert rows["model"] == ["draws", "answers"]
    assert rows["janus:NAME"] == ["yes", "yes"]
    assert rows["diffusers:NAME"] == ["yes", "-"]
    assert rows["answers:FILE"] == ["-", "yes"]


def test_the_page_names_every_kind() -> None:
    page = (ROOT / "docs" / "models.md").read_text()
    assert [kind.spec for kind in MODELS if f"`{kind.spec}`" not in page] == []


def test_the_table_needs_no_torch() -> None:
    code = "import sys; from benchmarks.models import table; table(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "False\n"
