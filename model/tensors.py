"""Named tensors in files: know their shapes without reading them, read those wanted into a module that has no memory.

A module is built with ``empty()`` around it, then ``fill`` gives each parameter its tensor, cast one by one: the peak
is the module and one tensor, whatever else the files hold.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

#: How many tensors an error names.
NAMED = 5


class CheckpointError(Exception):
    """A checkpoint that cannot be found, read or written: one line that names the file and says what to do."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file; what ``read`` returns may lie in the file until it is copied."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]


def empty() -> AbstractContextManager[None]:
    """Modules built inside have parameters without memory; their buffers, such as rotary frequencies, are real."""
    return init_empty_weights(include_buffers=False)


def stored_tensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file, or of a folder's ``model.safetensors`` or the shards that its index names.

    Raises CheckpointError when a file is missing, cut short or not what the index says.
    """
    if path.suffix == ".safetensors":
        return _tensors_of_file(path)
    index = path / "model.safetensors.index.json"
    if not index.is_file():
        return _tensors_of_file(path / "model.safetensors")
    places: dict[str, str] | None = read_json(index).get("weight_map")
    if not places:
        raise CheckpointError(f"{index} names no shards: fetch it again")
    stored: dict[str, StoredTensor] = {}
    for shard in sorted(set(places.values())):
        stored |= _tensors_of_file(path / shard)
    if lost := sorted(places.keys() - stored.keys()):
        raise CheckpointError(f"{path / places[lost[0]]} lacks {_some(lost)}, which {index.name} says it holds")
    return stored


def _tensors_of_file(path: Path) -> dict[str, StoredTensor]:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing")
    try:
        with safe_open(path, "pt") as file:
            return {
                name: StoredTensor(tuple(file.get_slice(name).get_shape()), partial(_read, path, name))
                for name in file.keys()  # noqa: SIM118  (it is no mapping)
            }
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged or cut short ({error}): fetch it again") from error


def _read(path: Path, name: str) -> Tensor:
    # Opened for each tensor, because pages that were read count as memory as long as the file is mapped.
    with safe_open(path, "pt") as file:
        return file.get_tensor(name)


def named(stored: Mapping[str, StoredTensor], prefix: str) -> dict[str, StoredTensor]:
    """The tensors under a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in stored.items() if name.startswith(prefix)}


def names(module: nn.Module) -> list[str]:
    """Names of the tensors that a module's state holds; one that is there twice (tied) has its first name only."""
    first: dict[int, str] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        first.setdefault(id(tensor), name)
    return list(first.values())


def fill(
    module: nn.Module,
    stored: Mapping[str, StoredTensor],
    source: Path,
    wanted: Iterable[str] | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> None:
    """Replace the tensors of ``module`` named in ``wanted`` (all by default) by the stored ones.

    CheckpointError names what is missing, unexpected, misshapen or of whole numbers in place of fractions; ``source``
    is the file or folder it names.
    """
    wanted = names(module) if wanted is None else list(wanted)
    state = module.state_dict()
    check(stored, {name: tuple(state[name].shape) for name in wanted}, source)
    filled = {}
    for name in wanted:
        tensor = stored[name].read()
        if tensor.is_floating_point() != state[name].is_floating_point():  # whole numbers of a quantised weight, say
            refuse([f"{name} is of {tensor.dtype} instead of {state[name].dtype}"], source)
        # Copied even where neither dtype nor device changes: a tensor in a mapped file need not be aligned.
        filled[name] = tensor.to(device, dtype, copy=True)
    module.load_state_dict(filled, strict=False, assign=True)


def check(stored: Mapping[str, StoredTensor], shapes: Mapping[str, tuple[int, ...]], source: Path) -> None:
    """Raise CheckpointError unless ``stored`` holds exactly the tensors of ``shapes``."""
    refuse(
        [f"{name} is missing" for name in shapes if name not in stored]
        + [
            f"{name} is {list(stored[name].shape)} instead of {list(shape)}"
            for name, shape in shapes.items()
            if name in stored and stored[name].shape != shape
        ]
        + [f"{name} is unexpected" for name in stored if name not in shapes],
        source,
    )


def refuse(problems: list[str], source: Path) -> None:
    """Raise CheckpointError if there are problems; it names the first few and counts the others."""
    if problems:
        raise CheckpointError(f"{source} does not fit its configuration: {_some(problems, '; ')}")


def _some(items: list[str], separator: str = ", ") -> str:
    more = f" and {len(items) - NAMED} more" if len(items) > NAMED else ""
    return separator.join(items[:NAMED]) + more


def save_tensors(tensors: Mapping[str, Tensor], path: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write tensors to a safetensors file in ``dtype``, atomically."""
    stored = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    save_file(stored, temporary)
    os.replace(temporary, path)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; CheckpointError when it is missing or none."""
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON ({error}): fetch it again") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds no JSON object: fetch it again")
    return data


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all, also when several processes write it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    temporary.write_bytes(content)
    os.replace(temporary, path)


def _temporary(path: Path) -> Path:
    return path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
