"""What the benchmarks on real data need: all that is missing is said at once, before anything starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from benchmarks import catalog, datasets
from benchmarks.runner import judge_of
from benchmarks.types import BenchError, Benchmark


@dataclass(frozen=True)
class Needs:
    """``packages`` by the names that they are imported by, and the ``extra`` of this package that brings them.

    ``fetched`` are data sets beside the one that the benchmark looks for itself. ``chat`` says that nothing is scored
    without a ``--judge``.
    """

    packages: tuple[str, ...]
    extra: str
    fetched: tuple[str, ...] = ()
    chat: bool = False


_COLUMN = Needs(("lmms_eval", "datasets"), "understanding")
NEEDS: Mapping[str, Needs] = {
    "geneval": Needs(("mmdet", "open_clip"), "generation", ("geneval", "mask2former-swin-s", "clip-vit-l-14")),
    "dpg": Needs(("modelscope",), "mplug", ("dpg",)),
    "wise": Needs((), "generation", chat=True),
    "mjhq": Needs(("cleanfid", "open_clip"), "generation", ("inception", "clip-vit-b-32")),
    **dict.fromkeys((*catalog.COLUMNS, "vqav2_test"), _COLUMN),
    "mmvet": Needs(_COLUMN.packages, _COLUMN.extra, chat=True),
}


def load_all(
    suite: catalog.Suite, names: Sequence[str], data: catalog.Data, judged: bool = True
) -> tuple[list[Benchmark], dict[str, list[str]]]:
    """The benchmarks that are ready to run and, if ``judged``, to be judged; and what each of the others lacks, with
    what to do."""
    ready: list[Benchmark] = []
    lacking: dict[str, list[str]] = {}
    for name in names:
        found = [] if suite == "toy" or name not in NEEDS or not judged else list(_lacking(name, data))
        try:
            benchmark = catalog.load(suite, name, data)
            if not found:
                if judged:
                    judge_of(benchmark)  # looks for its weights
                ready.append(benchmark)
        except BenchError as error:
            if str(error) not in found:
                found.append(str(error))
        except ModuleNotFoundError:
            if not found:
                raise
        if found:
            lacking[name] = found
    return ready, lacking


def _lacking(name: str, data: catalog.Data) -> Iterator[str]:
    needs = NEEDS[name]
    if packages := absent(name, data):
        other = ", or name another --vqa-judge" if name == "dpg" else ""
        yield f"no package {', '.join(packages)}: pip install 'blip3o-bench[{needs.extra}]'{other}"
    elsewhere = {"mask2former-swin-s": data.detector, "clip-vit-l-14": data.clip}
    for dataset in needs.fetched:
        if elsewhere.get(dataset) is None:
            try:
                datasets.locate(dataset, data.root)
            except BenchError as error:
                yield str(error)
    if needs.chat and data.judge is None:
        yield "no judge: name one with --judge"


def absent(name: str, data: catalog.Data) -> list[str]:
    """Packages that a benchmark needs and that are not installed."""
    of_transformers = data.detector is not None and data.detector.is_dir()
    unused = {"modelscope": data.vqa_judge is not None, "mmdet": of_transformers}
    return [package for package in NEEDS[name].packages if not unused.get(package) and find_spec(package) is None]
