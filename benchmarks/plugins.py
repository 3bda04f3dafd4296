"""Models and benchmarks of other packages, by the entry points that these declare.

A package is imported when the user names its model or benchmark, and not before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from benchmarks.types import Answerer, BenchError, Benchmark, Generator

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from benchmarks.catalog import Data

Group = Literal["models", "benchmarks"]


def found(group: Group) -> dict[str, EntryPoint]:
    """Name -> entry point of ``blip3o_bench.models`` or ``blip3o_bench.benchmarks``.

    Raises BenchError where two packages declare one name.
    """
    from importlib.metadata import entry_points  # a fifth of the start-up, and --help needs none

    points: dict[str, EntryPoint] = {}
    for point in entry_points(group=f"blip3o_bench.{group}"):
        other = points.setdefault(point.name, point)
        if other.value != point.value:
            raise BenchError(
                f"{package(other)} and {package(point)} both bring {group} named {point.name}: uninstall one of them"
            )
    return points


def package(point: EntryPoint) -> str:
    """Name and version of the package that declares it."""
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.module


def model(name: str, argument: str) -> Generator | Answerer:
    """The model of a plug-in: its factory called with what the user wrote behind the colon.

    Raises BenchError where there is no such plug-in, and where what it makes is no model.
    """
    point, factory = _factory("models", name)
    made: Generator | Answerer = factory(argument)
    if not hasattr(made, "describe") or not (hasattr(made, "generate") or hasattr(made, "answer")):
        raise BenchError(f"{point.value} of {package(point)} made no model: it needs describe, and generate or answer")
    return made


def benchmark(name: str, data: Data) -> Benchmark:
    """The benchmark of a plug-in: its factory called with what our own get. Raises BenchError as ``model`` does."""
    point, factory = _factory("benchmarks", name)
    made: Benchmark = factory(data)
    if getattr(made, "name", None) != name:  # the run's folder, by which it is found again
        raise BenchError(f"{point.value} of {package(point)} made no benchmark whose name is {name}")
    return made


def _factory(group: Group, name: str) -> tuple[EntryPoint, Callable[..., Any]]:
    point = found(group).get(name)
    if point is None:
        raise BenchError(f"no installed package brings {group} named {name}: install it, or correct the name")
    try:
        return point, point.load()
    except (ImportError, AttributeError) as error:
        raise BenchError(f"{package(point)}, which brings {name}, cannot be loaded: {error}") from error
