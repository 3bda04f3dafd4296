"""Answers that another program gave: a file of them stands in for the model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.types import BenchError, Json, Sample


class FileAnswers:
    """JSON lines, ``{"id": ..., "text": ...}`` or ``{"question_id": ..., "answer": ...}``.

    ``id`` is the sample's, such as ``vqav2/262148000``; ``question_id`` is the data set's own, for one benchmark at a
    time, since two data sets may number alike. MME's own is of two questions: there it is followed by /0 or /1.
    """

    def __init__(self, path: Path) -> None:
        """Raises BenchError when there is no such file, or a line is no answer or contradicts another one."""
        try:
            content = path.read_bytes()
            lines = content.decode("utf-8-sig").split("\n")  # an answer may hold what else splitlines() breaks at
        except OSError as error:
            raise BenchError(f"{path} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise BenchError(f"{path} is no UTF-8: {error}") from error
        self.path = path
        self._sha256 = hashlib.sha256(content).hexdigest()
        self._answers: dict[tuple[str, str], str] = {}
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            key, text = _row(line, f"{path}:{number}")
            if self._answers.setdefault(key, text) != text:
                raise BenchError(f"{path}:{number}: a second, other answer to {key[0]} {key[1]}: leave one of them")
        if not self._answers:
            raise BenchError(f"{path} holds no answer: is it the right file?")

    def describe(self) -> Mapping[str, Json]:
        return {"name": "answers", "path": str(self.path), "answers": len(self._answers), "sha256": self._sha256}

    def check(self, samples: Sequence[Sample]) -> list[str]:
        """Lines for the user, before anything is scored: how many samples have no answer, what answers belong to none.

        Raises BenchError when a ``question_id`` could be of more than one benchmark.
        """
        benchmarks = sorted({sample.id.split("/")[0] for sample in samples})
        if len(benchmarks) > 1 and any(field == "question_id" for field, _ in self._answers):
            raise BenchError(
                f"{self.path} has question_ids, which may be of any benchmark: name one of {', '.join(benchmarks)}"
            )
        lines = []
        errors = [found for sample in samples if isinstance(found := self._find(sample), Exception)]
        if errors:
            lines.append(f"{len(errors)} of {len(samples)} samples will be counted as missing: {errors[0]}")
        known = {key for sample in samples for key in _keys(sample)}
        extra = [key for key in self._answers if key not in known]
        if extra:
            lines.append(f"{len(extra)} answers in {self.path} belong to no sample, such as {' '.join(extra[0])}")
        return lines

    def answer(self, samples: Sequence[Sample], seeds: Sequence[int]) -> list[str | Exception]:
        return [self._find(sample) for sample in samples]

    def _find(self, sample: Sample) -> str | Exception:
        found = [self._answers[key] for key in _keys(sample) if key in self._answers]
        return found[0] if found else LookupError(f"{self.path} has no answer to {sample.id}")


def _keys(sample: Sample) -> list[tuple[str, str]]:
    """What the sample may be called in a file, the surest name first."""
    own = sample.meta.get("question_id")
    return [("id", sample.id)] + ([("question_id", str(own))] if own is not None else [])


def _row(line: str, place: str) -> tuple[tuple[str, str], str]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise BenchError(f"{place} is no JSON: {error}") from error
    fields = row if isinstance(row, dict) else {}
    names = [name for name in ("id", "question_id") if isinstance(fields.get(name), str | int)]
    texts = [fields[name] for name in ("text", "answer") if isinstance(fields.get(name), str)]
    if not names or len(texts) != 1:
        raise BenchError(f'{place} is no answer: write {{"id": "...", "text": "..."}}, or question_id and answer')
    return (names[0], str(fields[names[0]])), texts[0]
