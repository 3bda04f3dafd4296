"""Rewritten prompts (``--rewrite FILE``): the model sees them, the judge and the rule keep the benchmark's own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.types import BenchError, Benchmark, Json, Sample
from benchmarks.wrapped import Wrapped

#: Keys under which a line may hold the new prompt, beside "prompt", the benchmark's own. detailed_caption is that of
#: BLIP3-o's geneval_prompt.jsonl.
NEW = ("rewritten_prompt", "detailed_caption")


class Rewritten(Wrapped):
    """A benchmark whose prompts a file rewrites, all of them. The file is a part of what the run records."""

    def __init__(self, benchmark: Benchmark, path: Path) -> None:
        """``path`` is JSON, ``{prompt: new prompt}``, or JSON lines in one of two layouts:

        ``{"prompt": ..., "rewritten_prompt" or "detailed_caption": ...}``, or GenEval's metadata with the new prompt
        in place of its own (BAGEL's evaluation_metadata_long.jsonl), told apart by what is asked for.

        Raises BenchError when it is none of these, or lacks a prompt.
        """
        super().__init__(benchmark)
        self._originals = {sample.id: sample for sample in benchmark.samples()}
        new = _read(path)
        self._prompts = {
            sample_id: new.get(_asked(sample.meta)) or new.get(sample.prompt, "")
            for sample_id, sample in self._originals.items()
        }
        prompts = {sample.prompt for sample in self._originals.values()}
        lacking = {self._originals[sample_id].prompt for sample_id, prompt in self._prompts.items() if not prompt}
        if lacking:
            raise BenchError(
                f"{path} rewrites {len(prompts) - len(lacking)} of {len(prompts)} prompts of {benchmark.name}; "
                f"it lacks, for example, {min(lacking)!r}"
            )
        self._described = {
            "file": path.name,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "prompts": len(prompts),
            "changed": len({s.prompt for s in self._originals.values() if self._prompts[s.id] != s.prompt}),
        }

    def describe(self) -> Mapping[str, Json]:
        return {**super().describe(), "rewrite": self._described}

    def samples(self) -> list[Sample]:
        return [replace(sample, prompt=self._prompts[sample.id]) for sample in self._originals.values()]

    def own(self, samples: Sequence[Sample]) -> list[Sample]:
        return [self._originals[sample.id] for sample in samples]


def _read(path: Path) -> dict[str, str]:
    """Prompt, or what is asked for in its place (see ``_asked``), -> new prompt."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"cannot read {path}: {error}") from error
    pairs = [pair for number, entry in _entries(text, path) for pair in _pairs(entry, path, number)]
    new: dict[str, str] = {}
    for key, prompt in pairs:
        if new.setdefault(key, prompt) != prompt:
            raise BenchError(f"{path} rewrites {key!r} in two ways")
    return new


def _entries(text: str, path: Path) -> Iterable[tuple[int, Json]]:
    try:
        return [(1, json.loads(text))]
    except ValueError:  # more than one line, or no JSON at all
        pass
    entries = []
    for number, line in enumerate(text.split("\n"), start=1):  # a prompt may hold what else splitlines() breaks at
        if not line.strip():
            continue
        try:
            entries.append((number, json.loads(line)))
        except ValueError as error:
            raise BenchError(f"{path} line {number} is not JSON: {error}") from error
    return entries


def _pairs(entry: Json, path: Path, number: int) -> list[tuple[str, str]]:
    if isinstance(entry, list):
        return [pair for one in entry for pair in _pairs(one, path, number)]
    if isinstance(entry, dict) and isinstance(entry.get("prompt"), str):
        new = next((entry[key] for key in NEW if key in entry), None)
        if isinstance(new, str):
            return [(entry["prompt"], new)]
        if "include" in entry:
            return [(_asked(entry), entry["prompt"])]
    elif isinstance(entry, dict) and entry and all(isinstance(new, str) for new in entry.values()):
        return list(entry.items())
    raise BenchError(f"{path} line {number} has neither a prompt with {' or '.join(NEW)}, nor GenEval's metadata")


def _asked(metadata: Mapping[str, Json]) -> str:
    """What a line of GenEval's metadata asks for, without its wording."""
    return json.dumps([metadata.get(key) for key in ("tag", "include", "exclude")])
