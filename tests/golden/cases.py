"""Where golden cases lie: the folder that GOLDEN_DIR names, or tests/golden/cases."""

from __future__ import annotations

import gzip
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

ROOT = Path(os.environ.get("GOLDEN_DIR") or Path(__file__).parent / "cases")


def case_file(name: str) -> bytes:
    """The bytes of ``name`` (e.g. generation/geneval_run.json), stored plain or gzip-compressed; skips if absent."""
    path = ROOT / name
    if path.is_file():
        return path.read_bytes()
    packed = path.with_name(path.name + ".gz")
    if packed.is_file():
        return gzip.decompress(packed.read_bytes())
    pytest.skip(f"golden case {path} is not there")


def load_json(name: str) -> Any:
    return json.loads(case_file(name))


def load_tensors(name: str) -> dict[str, Any]:
    """All entries of a .pt file."""
    import torch  # tests of statistics run without it

    entries: dict[str, Any] = torch.load(io.BytesIO(case_file(name)), weights_only=True)
    return entries


def load_arrays(name: str) -> dict[str, NDArray[Any]]:
    """All arrays of an .npz file."""
    with np.load(io.BytesIO(case_file(name))) as arrays:
        return dict(arrays)
