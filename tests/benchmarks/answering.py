"""What tests of the columns of questions about images share: replies to every sample, and judges that are scripts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.judges.chat import ChatReply, Question
from benchmarks.types import Json, JudgeError, Metric, Prediction, Sample, Score, Verdict
from benchmarks.understanding import Understanding

Reply = str | Callable[[Sample], str]


def predictions(samples: Sequence[Sample], reply: Reply) -> list[Prediction]:
    return [
        Prediction(sample.id, 0, 0.0, text=reply if isinstance(reply, str) else reply(sample)) for sample in samples
    ]


def judged(column: Understanding, samples: Sequence[Sample], reply: Reply) -> list[Verdict]:
    return list(column.judge(samples, predictions(samples, reply), Path()))


def summarized(
    column: Understanding, samples: Sequence[Sample], verdicts: Sequence[Verdict]
) -> tuple[list[Score], dict[str, Metric]]:
    """As the runner has it: the rule sees verdicts without error only."""
    usable = {verdict.id: verdict for verdict in verdicts if verdict.error is None}
    scores, metrics = column.summarize(samples, usable)
    assert len({metric.name for metric in metrics}) == len(metrics)
    return scores, {metric.name: metric for metric in metrics}


def scored(column: Understanding, reply: Reply) -> dict[str, Metric]:
    samples = column.samples()
    return summarized(column, samples, judged(column, samples, reply))[1]


def golden_answer(sample: Sample) -> str:
    return str(sample.meta["answer"])


@dataclass
class ScriptedJudge:
    """Replies by the key of a question, else ``otherwise``; without that there is no reply. Counts what it is asked."""

    replies: Mapping[str, str] = field(default_factory=dict)
    otherwise: str | None = None
    asked: list[tuple[str, float]] = field(default_factory=list)
    concurrency: int = 1

    def describe(self) -> Mapping[str, Json]:
        return {"kind": "scripted"}

    def ask(self, question: Question) -> ChatReply:
        self.asked.append((question.key, question.temperature))
        reply = self.replies.get(question.key, self.otherwise)
        if reply is None:
            raise JudgeError("the server answered 500")
        return ChatReply(reply, prompt_tokens=0, completion_tokens=0, cost=None)
