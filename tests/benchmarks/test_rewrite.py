"""Rewritten prompts: the model sees them, nobody else does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from benchmarks import geneval
from benchmarks.geneval import GenEval
from benchmarks.rewrite import Rewritten
from benchmarks.types import BenchError, Benchmark, Metric, Prediction, Sample, Score, Verdict
from tests.fakes import FakeBenchmark

PROMPTS = [f"prompt {group}" for group in range(6)]


def file(tmp_path: Path, content: object, lines: bool = False) -> Path:
    path = tmp_path / "new.json"
    rows = content if lines and isinstance(content, list) else [content]
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("key", ["rewritten_prompt", "detailed_caption"])
@pytest.mark.parametrize("layout", ["map", "list", "lines"])
def test_every_layout_gives_the_same_prompts(tmp_path: Path, layout: str, key: str) -> None:
    new = {prompt: f"a détailed {prompt}" for prompt in PROMPTS}
    rows = [{"index": i, "prompt": prompt, key: new[prompt]} for i, prompt in enumerate(PROMPTS)]
    path = file(tmp_path, new if layout == "map" else rows, lines=layout == "lines")
    samples = Rewritten(FakeBenchmark(), path).samples()
    assert [sample.prompt for sample in samples] == [new[own.prompt] for own in FakeBenchmark().samples()]
    assert [(s.id, s.group, s.stratum) for s in samples] == [
        (s.id, s.group, s.stratum) for s in FakeBenchmark().samples()
    ]


def test_only_a_newline_ends_a_line(tmp_path: Path) -> None:
    """JSON takes the separators of Unicode inside a text, and language models write them."""
    rows = [{"prompt": prompt, "rewritten_prompt": f"{prompt}\u2028in \x85detail"} for prompt in PROMPTS]
    text = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n"
    (tmp_path / "new.jsonl").write_text(text, encoding="utf-8")
    samples = Rewritten(FakeBenchmark(), tmp_path / "new.jsonl").samples()
    assert {sample.prompt for sample in samples} == {row["rewritten_prompt"] for row in rows}


@dataclass
class Watched(FakeBenchmark):
    """Remembers the prompts that its judge, its rule and its export are given."""

    prompts: dict[str, list[str]] = field(default_factory=dict)

    def judge(self, samples: Sequence[Sample], predictions: Sequence[Prediction], folder: Path) -> Sequence[Verdict]:
        self.prompts["judge"] = [sample.prompt for sample in samples]
        return []

    def summarize(self, samples: Sequence[Sample], verdicts: Mapping[str, Verdict]) -> tuple[list[Score], list[Metric]]:
        self.prompts["summarize"] = [sample.prompt for sample in samples]
        return [], []

    def export(
        self,
        samples: Sequence[Sample],
        predictions: Mapping[str, Prediction],
        verdicts: Mapping[str, Verdict],
        folder: Path,
        out: Path,
    ) -> None:
        self.prompts["export"] = [sample.prompt for sample in samples]


def test_judge_and_rule_keep_the_benchmark_s_own_prompts(tmp_path: Path) -> None:
    own = Watched()
    benchmark: Benchmark = Rewritten(own, file(tmp_path, dict.fromkeys(PROMPTS, "new")))
    some = [sample for sample in benchmark.samples() if sample.stratum == "b"]
    benchmark.judge(some, [], tmp_path)
    benchmark.summarize(some, {})
    benchmark.export(some, {}, {}, tmp_path, tmp_path)
    expected = [sample.prompt for sample in own.samples() if sample.stratum == "b"]
    assert own.prompts == dict.fromkeys(("judge", "summarize", "export"), expected)
    assert {sample.prompt for sample in some} == {"new"}


def test_as_many_samples_are_judged_at_once_as_without(tmp_path: Path) -> None:
    path = file(tmp_path, {entry["prompt"]: "new" for entry in GenEval.toy(1).metadata})
    assert Rewritten(GenEval.toy(1), path).judged_together == GenEval.toy(1).judged_together
    assert Rewritten(FakeBenchmark(), file(tmp_path, dict.fromkeys(PROMPTS, "new"))).judged_together == 1


def test_the_file_is_part_of_the_record(tmp_path: Path) -> None:
    path = file(tmp_path, {prompt: prompt if prompt == "prompt 0" else "new" for prompt in PROMPTS})
    described = Rewritten(FakeBenchmark(), path).describe()
    rewrite = described["rewrite"]
    assert {**FakeBenchmark().describe(), "rewrite": rewrite} == described
    assert (rewrite["file"], rewrite["prompts"], rewrite["changed"]) == ("new.json", 6, 5)
    path.write_text(path.read_text() + "\n")
    assert Rewritten(FakeBenchmark(), path).describe()["rewrite"]["sha256"] != rewrite["sha256"]


def test_prompts_that_are_missing_are_one_error(tmp_path: Path) -> None:
    path = file(tmp_path, {**dict.fromkeys(PROMPTS[:3], "new"), "prompt 3": ""})
    with pytest.raises(BenchError, match=r"rewrites 3 of 6 prompts of fake; it lacks, for example, 'prompt 3'"):
        Rewritten(FakeBenchmark(), path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "line 1 is not JSON"),
        ('{"prompt": "a", "detailed_caption": "b"}\nno', "line 2 is not JSON"),
        ("[1]", "line 1 has neither"),
        ('{"prompt": "a"}', "line 1 has neither"),
        ("{}", "line 1 has neither"),
        ('{"prompt": "a", "detailed_caption": 3}', "line 1 has neither"),
        ('[{"prompt": "a", "detailed_caption": "b"}, {"prompt": "a", "detailed_caption": "c"}]', "'a' in two ways"),
    ],
)
def test_a_file_in_no_such_layout_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "new.json").write_text(content)
    with pytest.raises(BenchError, match=message):
        Rewritten(FakeBenchmark(), tmp_path / "new.json")


def test_an_absent_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="cannot read"):
        Rewritten(FakeBenchmark(), tmp_path / "none.json")


def test_geneval_s_prompts_by_what_they_ask_for(bench_data: Path, tmp_path: Path) -> None:
    """The layout of BAGEL's long prompts: the official metadata with other wording, in whatever order."""
    metadata = geneval.read_metadata(bench_data / "geneval" / "evaluation_metadata.jsonl")
    toy = GenEval.toy(1)
    benchmark = GenEval(metadata, toy.detector, toy.colors, {}, images_per_prompt=1)
    lines = [{**entry, "prompt": f"In detail: {entry['prompt']}"} for entry in reversed(metadata)]
    rewritten = Rewritten(benchmark, file(tmp_path, lines, lines=True))
    assert [sample.prompt for sample in rewritten.samples()] == [f"In detail: {entry['prompt']}" for entry in metadata]
    assert rewritten.describe()["rewrite"]["changed"] == 553
    with pytest.raises(BenchError, match="552 of 553"):
        Rewritten(benchmark, file(tmp_path, lines[1:], lines=True))
