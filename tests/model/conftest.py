from pathlib import Path

import pytest

from tests.model import tiny


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole tiny checkpoint with random weights. Read only."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny.build(folder / "checkpoint", folder / "work")
    return folder / "checkpoint"
