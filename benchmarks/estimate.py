"""What a run will take, told before it starts: samples, downloads, judge calls; time and disk by a calibration."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from scipy import special

from benchmarks import catalog, datasets, runner, store
from benchmarks.judges.vqa import ChatVqa
from benchmarks.limit import limited
from benchmarks.needs import NEEDS
from benchmarks.subset import Subset, drawn
from benchmarks.types import BenchError, Benchmark, Json, Metric, Model, Prediction, Sample, Score, Verdict
from benchmarks.work import Part, Settings

#: Samples and groups of the scored splits, as their publishers count them; None where they do not.
PUBLISHED: Mapping[str, tuple[int, int | None]] = {
    "geneval": (2212, 553),
    "dpg": (4260, 1065),
    "dpg_grid": (1065, 1065),
    "wise": (1000, 1000),
    "mjhq": (30000, 30000),
    "vqav2": (214354, 40504),
    "mmbench": (4329, 1164),
    "seedbench": (17990, None),
    "mmvet": (218, 200),
    "mme": (2374, 1187),
    "mmmu": (900, 900),
    "realworldqa": (765, 765),
    "textvqa": (5000, 3166),
    "vqav2_test": (447793, 81434),
}
#: Rows of dpg_bench.csv per prompt (docs/dpg.md).
DPG_QUESTIONS = 14392 / 1065
#: Bytes of what ``data fetch`` takes from the hub, to two or three digits, where its cards tell; a data set that was
#: begun to be fetched says it exactly.
HUB_BYTES: Mapping[str, float] = {"vqav2": 33.7e9, "mmmu": 0.35e9, "textvqa": 1.4e9}


@dataclass(frozen=True)
class Seconds:
    """An estimate with its variance, None where too few batches were timed for one, and degrees of freedom."""

    value: float
    variance: float | None
    freedom: float

    def times(self, samples: int) -> Seconds:
        """Of so many samples, where this is of one."""
        return Seconds(self.value * samples, self.variance and self.variance * samples**2, self.freedom)

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 %, by Student's t."""
        if self.variance is None:
            return None
        reach = float(special.stdtrit(self.freedom, 0.975)) * math.sqrt(self.variance)
        return max(0.0, self.value - reach), self.value + reach


@dataclass(frozen=True)
class Estimate:
    """What one benchmark will take. None is not known.

    ``counted`` says that the numbers are those of the data on this disk, otherwise they are the publisher's.
    ``download_bytes`` are still to be fetched, ``judge_calls`` go to the ``--judge`` if each is answered at once;
    ``seconds`` are those of one process on this device, ``image_bytes`` what it draws takes in the run.
    """

    benchmark: str
    samples: int
    groups: int | None
    counted: bool
    download_bytes: int | None
    judge_calls: int
    seconds: Seconds | None = None
    image_bytes: int | None = None


def estimate(
    suite: catalog.Suite, name: str, benchmark: Benchmark | None, data: catalog.Data, limit: int | None
) -> Estimate:
    """Without calibration. ``benchmark`` is None where its data or judge is not there."""
    samples: int
    groups: int | None
    if benchmark is not None:
        chosen = limited(benchmark.samples(), limit)
        samples, groups = len(chosen), len({sample.group for sample in chosen})
    else:
        samples, groups = _published(suite, "dpg_grid" if name == "dpg" and data.grid else name, limit)
    download = 0 if suite == "toy" else _download_bytes(name, benchmark is not None, data.root)
    return Estimate(name, samples, groups, benchmark is not None, download, _judge_calls(suite, name, samples, data))


def _published(suite: catalog.Suite, name: str, limit: int | None) -> tuple[int, int | None]:
    samples, groups = PUBLISHED[name]
    if suite == "ci":
        of = groups or samples
        part = min(of, catalog.CI_GROUPS)
        samples, groups = round(samples * part / of), part
    if limit is None or limit >= samples:
        return samples, groups
    return limit, groups and math.ceil(groups * limit / samples)


def _download_bytes(name: str, is_here: bool, root: Path | None) -> int | None:
    fetched = set(NEEDS[name].fetched) if name in NEEDS else set()
    wanted = fetched | ({name} & datasets.DATASETS.keys() if not is_here else set())
    sizes = [_bytes_left(one, root or datasets.data_dir()) for one in sorted(wanted)]
    return None if None in sizes else sum(size or 0 for size in sizes)


def _bytes_left(name: str, root: Path) -> int | None:
    dataset, folder = datasets.DATASETS[name], root / name
    try:
        datasets.locate(name, root)
        return 0
    except BenchError:
        pass
    files: Sequence[tuple[str, int | None]]
    if isinstance(dataset, datasets.Dataset):
        files = [(file.name, file.size) for file in dataset.files]
    else:
        try:
            pinned = json.loads((folder / "revision.json").read_text())
            files = [(file["name"], file["size"]) for file in pinned["files"]]
        except (OSError, ValueError):
            return int(HUB_BYTES[name]) if name in HUB_BYTES else None
    sizes = [size for file, size in files if not (folder / file).is_file()]
    return None if None in sizes else sum(size or 0 for size in sizes)


def _judge_calls(suite: catalog.Suite, name: str, samples: int, data: catalog.Data) -> int:
    """One for each image of WISE and for each run of MM-Vet; at most one for each reply of MMBench, with a judge; the
    mean number of questions for each image of DPG-Bench, where the judge answers them."""
    if name == "dpg" and isinstance(data.vqa_judge, ChatVqa):
        return round(samples * DPG_QUESTIONS * (4 if data.grid else 1))
    if name == "mmbench":
        return samples if data.judge is not None else 0
    if suite == "toy" and (name == "wise" or data.judge is None):
        return 0
    return {"wise": 1, "mmvet": data.judge_runs}.get(name, 0) * samples


# Calibration ------------------------------------------------------------------------------------------------------


class _Timed(Subset):
    """Some samples in a random order, and how long the judge looks at each batch. No rule is applied.

    MJHQ-30K's judge is left out: before its first look it makes the features of 30,000 references.
    """

    def __init__(self, benchmark: Benchmark, samples: int) -> None:
        everything = benchmark.samples()
        groups = len({sample.group for sample in everything})
        super().__init__(benchmark, max(1, min(groups, math.ceil(samples * groups / len(everything)))))
        self.looks: list[tuple[int, float]] = []

    @property
    def judged_together(self) -> int:
        """A third at most: the first look loads the judge, and two more tell how far they differ."""
        return min(super().judged_together, max(1, len(self.samples()) // 3))

    def longest_first(self, samples: Sequence[Sample]) -> list[Sample]:
        return sorted(samples, key=lambda sample: drawn(sample.id))

    def judge(self, samples: Sequence[Sample], predictions: Sequence[Prediction], folder: Path) -> Sequence[Verdict]:
        if self.name == "mjhq":
            return [Verdict(sample.id) for sample in samples]
        start = perf_counter()
        verdicts = super().judge(samples, predictions, folder)
        self.looks.append((len(samples), perf_counter() - start))
        return verdicts

    def summarize(self, samples: Sequence[Sample], verdicts: Mapping[str, Verdict]) -> tuple[list[Score], list[Metric]]:
        return [Score(sample.id, sample.group, sample.stratum, None) for sample in samples], []


def calibrated(plan: Estimate, benchmark: Benchmark, model: Model, settings: Settings, samples: int) -> Estimate:
    """``plan`` with time and disk: about so many samples are run, judged and thrown away."""
    timed = _Timed(benchmark, samples)
    with TemporaryDirectory() as temporary:
        runner.run(Path(temporary), [timed], model, replace(settings, limit=None), Part())
        folder = Path(temporary) / benchmark.name
        made = list(store.read_predictions(folder).values())
        images = [(folder / one.image).stat().st_size for one in made if one.image is not None]
    batches = [made[start : start + settings.batch_size] for start in range(0, len(made), settings.batch_size)]
    answered = [(len(batch), sum(one.seconds for one in batch)) for batch in batches]
    return replace(
        plan,
        seconds=total([rate(answered), rate(timed.looks)]).times(plan.samples),
        image_bytes=round(sum(images) / len(images) * plan.samples) if images else 0,
    )


def rate(batches: Sequence[tuple[int, float]]) -> Seconds:
    """Of one sample, from (samples, seconds) of each batch. The first one warms up: it counts only where it is alone.

    A ratio estimate, whose variance is that of the batches' residuals from the common rate (Cochran 1977, Sampling
    Techniques, 6.4).
    """
    counted = batches[1:] or batches
    samples, k = sum(n for n, _ in counted), len(counted)
    if not counted:
        return Seconds(0.0, 0.0, 1)
    mean = math.fsum(seconds for _, seconds in counted) / samples
    if k < 2:
        return Seconds(mean, None, 1)
    squares = math.fsum((seconds - mean * n) ** 2 for n, seconds in counted)
    return Seconds(mean, squares * k / (k - 1) / samples**2, k - 1)


def total(parts: Sequence[Seconds]) -> Seconds:
    """The sum of independent parts; degrees of freedom by Satterthwaite (1946, Biometrics Bulletin 2:110)."""
    value = math.fsum(part.value for part in parts)
    known = [(part.variance, part.freedom) for part in parts if part.variance is not None]
    if len(known) < len(parts):
        return Seconds(value, None, 1)
    variance = math.fsum(own for own, _ in known)
    spread = math.fsum(own**2 / freedom for own, freedom in known)
    return Seconds(value, variance, variance**2 / spread if spread else 1)


# For readers and machines -----------------------------------------------------------------------------------------


def table(plans: Sequence[Estimate], detectable: Mapping[str, float]) -> str:
    """One line per benchmark, then all; ``detectable`` is in points of 100."""
    header = ("benchmark", "samples", "groups", "detectable", "download", "judge calls", "images on disk", "time")
    rows = [
        (
            one.benchmark,
            f"{'' if one.counted else 'about '}{one.samples}",
            "unknown" if one.groups is None else str(one.groups),
            f"{detectable[one.benchmark]:.1f}" if one.benchmark in detectable else "-",
            _size(one.download_bytes),
            str(one.judge_calls),
            "-" if one.seconds is None else _size(one.image_bytes),
            _time(one.seconds),
        )
        for one in plans
    ]
    rows.append(
        (
            "all",
            str(sum(one.samples for one in plans)),
            "",
            "",
            _size(_sum([one.download_bytes for one in plans])),
            str(sum(one.judge_calls for one in plans)),
            "-" if plans and plans[0].seconds is None else _size(_sum([one.image_bytes for one in plans])),
            _time(_whole(plans)),
        )
    )
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (header, tuple("-" * width for width in widths), *rows)
    ]
    return "\n".join(line.rstrip() for line in lines)


def as_json(plans: Sequence[Estimate], detectable: Mapping[str, float]) -> str:
    """Every digit; ``seconds`` with ``low`` and ``high``."""

    def told(seconds: Seconds | None) -> Json:
        if seconds is None:
            return None
        low, high = seconds.interval or (None, None)
        return {"value": seconds.value, "low": low, "high": high}

    rows = [{**asdict(one), "seconds": told(one.seconds), "detectable": detectable.get(one.benchmark)} for one in plans]
    return json.dumps({"benchmarks": rows, "seconds": told(_whole(plans))}, indent=1)


def _whole(plans: Sequence[Estimate]) -> Seconds | None:
    known = [one.seconds for one in plans if one.seconds is not None]
    return total(known) if plans and len(known) == len(plans) else None


def _sum(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _size(count: int | None) -> str:
    if count is None:
        return "unknown"
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB" if count else "-"


def _time(seconds: Seconds | None) -> str:
    if seconds is None:
        return "-"
    unit, name = next(
        (unit, name) for unit, name in ((3600, "h"), (60, "min"), (1, "s")) if seconds.value >= unit or unit == 1
    )
    spread = " to ".join(f"{limit / unit:.1f}" for limit in seconds.interval or ())
    return f"{seconds.value / unit:.1f} {name}" + (f" ({spread})" if spread else "")
