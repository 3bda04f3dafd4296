"""The judges that ``--judge`` and ``--vqa-judge`` name, and what they may cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from benchmarks import catalog
from benchmarks.environment import torch_device
from benchmarks.options import FiniteRange
from benchmarks.types import BenchError
from blip3o_bench.command_line import FILE, FILE_THERE, PRICE, options_as
from blip3o_bench.models import located

if TYPE_CHECKING:
    from benchmarks.judges.chat import Chat
    from benchmarks.judges.vqa import VqaJudge
    from model.generate import Device


@dataclass(frozen=True)
class JudgeOptions:
    """Who judges, and what that may cost."""

    judge_spec: str | None
    judge_model: str | None
    judge_runs: int
    judge_concurrency: int
    judge_prices: tuple[float, float] | None
    max_judge_cost: float | None
    judge_timeout: float
    judge_prompt: Path | None
    vqa_judge: str | None
    detector: Path | None
    clip: Path | None


JUDGE_OPTIONS = options_as(
    JudgeOptions,
    "judging",
    click.option(
        "--judge",
        "judge_spec",
        metavar="JUDGE",
        help="Judges replies of MMBench and MM-Vet and images of WISE: the URL of an OpenAI-compatible server "
        "(http://.../v1), local:FOLDER (or a name on the hub), replay:FILE of a judge's replies.",
    ),
    click.option("--judge-model", help="The server's name of the model that judges."),
    click.option(
        "--judge-runs", type=click.IntRange(min=1), default=1, show_default=True, help="Judgments per MM-Vet reply."
    ),
    click.option(
        "--judge-concurrency",
        type=click.IntRange(min=1),
        default=16,
        show_default=True,
        help="Requests that a judge's server gets at once.",
    ),
    click.option(
        "--judge-prices",
        type=(PRICE, PRICE),
        metavar="IN OUT",
        help="US dollars per million tokens of prompt and reply.",
    ),
    click.option("--max-judge-cost", type=PRICE, help="US dollars; needs --judge-prices."),
    click.option(
        "--judge-timeout",
        type=FiniteRange(min=0, max=86_400),
        default=600,
        show_default=True,
        help="Seconds for a sample; what takes longer is missing until the command is given again. 0: no limit.",
    ),
    click.option(
        "--judge-prompt",
        type=FILE_THERE,
        help="WISE's wording: a script of its repository, or a text with {Prompt} and {Explanation}.",
    ),
    click.option(
        "--vqa-judge",
        metavar="JUDGE",
        help="Answers DPG-Bench's questions: mplug (needs modelscope; the default), local:FOLDER (or a name on the "
        "hub) of a transformers model, judge for the one of --judge, replay:FILE.csv.",
    ),
    click.option(
        "--detector",
        type=click.Path(path_type=Path),
        help="GenEval's Mask2Former; a folder is one of transformers, which is another profile and not comparable.",
    ),
    click.option("--clip", type=FILE, help="GenEval's CLIP ViT-L/14 of OpenAI."),
)


def judged(
    data: catalog.Data, judging: JudgeOptions, device: Device, profiles: Sequence[str], folder: Path, fetch: bool = True
) -> catalog.Data:
    """``data`` with the judges that are named; a server's replies are kept in ``folder``. Raises BenchError.

    Without ``fetch`` a judge on the hub is only named, and cannot judge.
    """
    judge = _judge(judging, folder, device, fetch)
    return replace(
        data,
        device=device,
        profiles=catalog.choose(profiles),
        judge=judge,
        judge_runs=judging.judge_runs,
        judge_prompt=judging.judge_prompt,
        vqa_judge=_vqa_judge(judging.vqa_judge, judge, device, fetch),
    )


def concerned(judging: JudgeOptions, names: Sequence[str]) -> list[str]:
    """Those of the benchmarks that the judges named are for. Raises BenchError when there is none."""
    given: Mapping[str, object] = {
        **dict.fromkeys(("mmbench", "mmvet", "wise"), judging.judge_spec),
        "dpg": judging.vqa_judge,
        "geneval": judging.detector or judging.clip,
    }
    found = [name for name in names if given.get(name) is not None]
    if not found:
        raise BenchError(
            f"name the judge that --rejudge brings (--judge, --vqa-judge, --detector, --clip), or the benchmarks, of "
            f"{', '.join(names)}"
        )
    return found


def _judge(given: JudgeOptions, out: Path, device: Device, fetch: bool = True) -> Chat | None:
    """The judge that ``--judge`` names; a server's replies are kept in the run. Raises BenchError."""
    if given.judge_spec is None:
        if given.judge_model or given.judge_prices or given.max_judge_cost is not None:
            raise BenchError("--judge-model, --judge-prices and --max-judge-cost belong to --judge")
        return None
    from benchmarks.judges.chat import Endpoint, LocalModel, Replay
    from benchmarks.server import Prices

    kind, _, rest = given.judge_spec.partition(":")
    if kind == "replay":
        return Replay(Path(rest))
    if kind == "local":
        return LocalModel(*_located(rest, fetch), torch_device(device))
    if given.judge_model is None:
        raise BenchError("--judge is the address of a server: name its model with --judge-model")
    return Endpoint(
        given.judge_spec,
        given.judge_model,
        out / "judge.jsonl",
        prices=Prices(*given.judge_prices) if given.judge_prices else None,
        max_cost=given.max_judge_cost,
        concurrency=given.judge_concurrency,
    )


def _located(spec: str, fetch: bool) -> tuple[Path, str]:
    if fetch or Path(spec).is_dir() or spec.count("/") != 1:  # and so neither is a judge, which is told
        return located(spec)
    click.echo(f"the judge {spec} is to be fetched from the hub", err=True)
    return Path(spec), spec


def _vqa_judge(spec: str | None, judge: Chat | None, device: Device, fetch: bool = True) -> VqaJudge | None:
    """The judge that ``--vqa-judge`` names; None is left to the suite. Raises BenchError."""
    if spec is None:
        return None
    from benchmarks.judges.vqa import ChatModelVqa, ChatVqa, Mplug, ReplayVqa, local_judge

    kind, _, rest = spec.partition(":")
    if kind == "replay":
        return ReplayVqa(Path(rest))
    if kind == "local":
        place, name = _located(rest, fetch)
        return local_judge(place, name, torch_device(device)) if place.is_dir() else ChatModelVqa(place, name)
    if spec == "mplug":
        return Mplug(device=torch_device(device))
    if spec == "judge" and judge is not None:
        return ChatVqa(judge)
    raise BenchError("--vqa-judge is mplug, local:FOLDER, replay:FILE.csv, or judge beside a --judge")


def tell_cost(judge: Chat | None) -> None:
    """What a judge behind a server took, on standard error."""
    from benchmarks.judges.chat import Endpoint

    if isinstance(judge, Endpoint):
        click.echo(f"judge: {judge.usage()}", err=True)
