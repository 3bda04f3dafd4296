"""Samples -> predictions: a model's images and answers, stored batch by batch."""

from __future__ import annotations

import gc
import hashlib
import io
import sys
import time
from collections import abc
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

from benchmarks import environment, store
from benchmarks.spec import note_environment, note_out_of_memory
from benchmarks.types import Answerer, Benchmark, Generator, Model, Prediction, Sample
from benchmarks.work import Part, Settings, batches, is_out_of_memory, log, message, progress

#: Images of a batch that are encoded and flushed to the disk at a time. One of 1024 x 1024 pixels takes 0.06 s.
STORED_TOGETHER = 8


@runtime_checkable
class LongestFirst(Protocol):
    """A benchmark that knows which of its samples take long, and which are alike, without opening their images."""

    def longest_first(self, samples: Sequence[Sample]) -> list[Sample]: ...


@runtime_checkable
class ReadsAhead(Protocol):
    """A model that prepares samples while it answers others."""

    def ahead(self, samples: Sequence[Sample], workers: int) -> AbstractContextManager[None]:
        """Within it, ``answer`` is called with ``samples`` in their order; ``workers`` processes prepare them."""


def seed_for(base_seed: int, sample_id: str) -> int:
    """The seed of a sample in [0, 2**63): a hash of the base seed and the id, and of nothing else."""
    digest = hashlib.sha256(f"{base_seed}/{sample_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def predict(
    folder: Path, benchmark: Benchmark, model: Model, own: Sequence[Sample], settings: Settings, part: Part
) -> None:
    """Store a prediction of each of the process's ``own`` samples in its shard of ``folder``; what is stored without
    error is not predicted again. Raises BenchError for a shard that another process writes, and a full disk."""
    with store.Shard(store.shard_path(folder, Prediction, part.rank)) as shard:
        stored = store.read_errors(folder, Prediction)
        pending = [sample for sample in own if sample.id not in stored or stored[sample.id] is not None]
        if isinstance(benchmark, LongestFirst):
            pending = benchmark.longest_first(pending)
        if pending:
            note_environment(folder.parent, environment.current(), "generate")
        done, size = 0, settings.batch_size
        with progress(f"{benchmark.name}: predict", len(own), len(pending), part) as advance:
            while done < len(pending):
                with closing(_in_batches(folder, benchmark, model, pending[done:], size, settings)) as predicted:
                    for rows in predicted:
                        if isinstance(rows, str):
                            size = _halved(folder, benchmark, min(size, len(pending) - done), rows)
                        else:
                            shard.append(rows)
                            advance(len(rows))
                            done += len(rows)


def _in_batches(
    folder: Path, benchmark: Benchmark, model: Model, samples: Sequence[Sample], size: int, settings: Settings
) -> abc.Generator[list[Prediction] | str, None, None]:
    """What ``_predictions`` returns for one batch after another, up to the first that is too large: what a model has
    read ahead is of no use from there on."""
    with _ahead(benchmark, model, samples, settings.workers):
        for batch in batches(samples, size):
            rows = _predictions(folder, benchmark, model, batch, settings.seed)
            yield rows
            if isinstance(rows, str):
                return


def _halved(folder: Path, benchmark: Benchmark, samples: int, said: str) -> int:
    """The size to go on with after a batch of so many ``samples`` that the memory did not hold, which is recorded."""
    note_out_of_memory(folder.parent, benchmark.name, samples, said)
    log(f"{benchmark.name}: no memory for {samples} samples together, on with {samples // 2}: {said}")
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
    return samples // 2


def _ahead(benchmark: Benchmark, model: Model, samples: Sequence[Sample], workers: int) -> AbstractContextManager[None]:
    if benchmark.task == "answer" and samples and isinstance(model, ReadsAhead):
        return model.ahead(samples, workers)
    return nullcontext()


def _predictions(
    folder: Path, benchmark: Benchmark, model: Model, batch: Sequence[Sample], seed: int
) -> list[Prediction] | str:
    """One per sample; or, of several samples that the memory does not hold together, what the model said."""
    seeds = [seed_for(seed, sample.id) for sample in batch]
    start = time.perf_counter()
    results = _results(benchmark, model, batch, seeds)
    seconds = (time.perf_counter() - start) / len(batch)
    if isinstance(results, str):
        return results if len(batch) > 1 else [Prediction(batch[0].id, seeds[0], seconds, error=results)]
    made = [
        (Prediction(sample.id, own_seed, seconds), result)
        for sample, own_seed, result in zip(batch, seeds, results, strict=True)
    ]
    if benchmark.task == "answer":
        return [_prediction(folder, blank, result) for blank, result in made]
    with ThreadPoolExecutor(STORED_TOGETHER) as threads:
        return list(threads.map(lambda one: _prediction(folder, *one), made))


def _results(
    benchmark: Benchmark, model: Model, batch: Sequence[Sample], seeds: Sequence[int]
) -> Sequence[object] | str:
    """What the model returns, or what it says where it has not the memory."""
    try:
        if benchmark.task == "generate":
            return cast(Generator, model).generate(batch, seeds)
        return cast(Answerer, model).answer(batch, seeds)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return message(error)


def _prediction(folder: Path, blank: Prediction, result: object) -> Prediction:
    """Store what the model returned for one sample: the artefact now, so that its record may follow."""
    if isinstance(result, Exception):
        return replace(blank, error=message(result))
    if isinstance(result, str):
        return replace(blank, text=result, sha256=hashlib.sha256(result.encode("utf-8", "surrogatepass")).hexdigest())
    if isinstance(result, Path):
        try:
            data, suffix = _checked_file(result)
        except Exception as error:  # a decoder may raise anything on somebody else's damaged file
            return replace(blank, error=f"{result} is not a readable image: {message(error)}")
    else:
        data, suffix = _png(result), ".png"
    image = store.write_image(folder, blank.id, data, suffix)
    return replace(blank, image=image, sha256=hashlib.sha256(data).hexdigest())


def _checked_file(path: Path) -> tuple[bytes, str]:
    """The bytes of an image file that decodes to its last pixel, and the suffix of its format."""
    from benchmarks.images import open_image

    data = path.read_bytes()
    with open_image(io.BytesIO(data)) as image:
        image.load()
        return data, f".{(image.format or path.suffix.lstrip('.')).lower()}"


def _png(result: object) -> bytes:
    from PIL import Image

    if not isinstance(result, Image.Image):
        raise TypeError(f"a model returned {type(result).__name__}; it must be an image, a path, a text or an error")
    buffer = io.BytesIO()
    # zlib's default, 6, takes four times as long, and saves a fifth of the bytes at most.
    result.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
