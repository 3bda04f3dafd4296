"""Commands about stored runs: report, verify, compare, gate, leaderboard, history, export, validate."""

from __future__ import annotations

import os
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import click

from benchmarks import catalog
from benchmarks.types import BenchError, Benchmark
from blip3o_bench import selection
from blip3o_bench.command_line import DATA_DIR, FILE, FOLDER, append, write
from blip3o_bench.models import TOY_CHECKPOINT


@click.command()
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--html", "as_html", is_flag=True, help="Also write RUN/report.html.")
@click.option("--json", "form", flag_value="json", help="Print JSON.")
@click.option("--csv", "form", flag_value="csv", help="Print CSV, with every digit.")
@click.option("--markdown", "form", flag_value="markdown", help="Print a Markdown table.")
@click.option("--latex", "form", flag_value="latex", help="Print a LaTeX table (needs booktabs).")
@click.option("--against", type=click.Choice(("paper",)), help="Print the scores beside published ones.")
@click.option("--published", metavar="MODEL", help="With --against: the published model. Default: the run's own.")
@click.option("--figure", type=FILE, help="With --against: its chart (.pdf .svg .png).")
@DATA_DIR
def report(
    folder: Path,
    as_html: bool,
    form: Literal["json", "csv", "markdown", "latex"] | None,
    against: Literal["paper"] | None,
    published: str | None,
    figure: Path | None,
    data_dir: Path | None,
) -> None:
    """Print the scores of a complete run; --html writes a page with charts and examples.

    A file in place of RUN is GenEval's official results.jsonl: its official summary, and intervals.
    """
    from reports import plots, render, tables
    from reports.published import against_published

    if folder.is_file():
        if as_html or form or against or published or figure:
            raise BenchError(f"{folder} is a file of GenEval, of which only the summary is printed: give no option")
        _report_results(folder)
        return

    if (published or figure) and against is None:
        raise BenchError("--published and --figure belong to --against paper")
    records = render.load_records(folder)
    comparisons = against_published(records, published) if against else []
    shown = tables.comparison_table(comparisons) if against else tables.score_table(records)
    match form:
        case "json":
            click.echo(tables.comparisons_json(comparisons) if against else tables.to_json(records))
        case "csv":
            click.echo(tables.comparisons_csv(comparisons) if against else tables.scores_csv(records))
        case "markdown":
            click.echo(tables.as_markdown(shown))
        case "latex":
            click.echo(tables.as_latex(shown))
        case None:
            click.echo(tables.as_text(shown) if against else tables.table(records))
    if figure:
        drawn = render.published_figure(comparisons)
        if drawn is None:
            raise BenchError("nothing of this run stands beside a published number; see the table for the reasons")
        plots.save(drawn, figure)
        click.echo(f"written: {figure}", err=True)
    if as_html:
        page = folder / "report.html"
        write(page, render.html(folder, selection.samples_of(records, data_dir), comparisons).encode())
        click.echo(f"written: {page}", err=True)


def _report_results(path: Path) -> None:
    from benchmarks import geneval
    from reports.tables import interval, number

    results = geneval.read_results(path)
    click.echo(geneval.summary_text(results))
    for metric in geneval.metrics(geneval.scores_of(results)):
        click.echo(f"{metric.name:14} {number(metric.value, metric.unit)}  {interval(metric)}")


@click.command()
@click.argument("folder", metavar="RUN", type=FOLDER)
@click.option("--weights", type=FOLDER, help="Folder of the model's weights, to compare their digest too.")
@DATA_DIR
@click.pass_context
def verify(ctx: click.Context, folder: Path, weights: Path | None, data_dir: Path | None) -> None:
    """Compute a run's digests, counts and scores again; name what differs, and exit 1 if anything does."""
    from benchmarks import verify as verifying
    from benchmarks.spec import read_spec

    spec, _ = read_spec(folder)
    benchmarks: dict[str, Benchmark | BenchError] = {}
    for name in spec.benchmarks:
        try:
            (benchmarks[name],) = selection.stored_benchmarks(folder, catalog.Data(data_dir), (), [name])
        except BenchError as error:
            benchmarks[name] = error
        except ModuleNotFoundError as error:
            benchmarks[name] = BenchError(f"the package {error.name} is not installed")
    found = verifying.verify(folder, benchmarks, _weights_digest(spec.model, weights))
    for difference in found.differences:
        click.echo(difference)
    for left_out in found.left_out:
        click.echo(f"not checked: {left_out}", err=True)
    told = f"differences: {len(found.differences)}" if found.differences else "nothing differs"
    click.echo(f"{folder}: {found.samples} predictions of {', '.join(spec.benchmarks)}: {told}")
    ctx.exit(1 if found.differences else 0)


def _weights_digest(model: Mapping[str, Any], weights: Path | None) -> str | None:
    """Of the weights named, or of the toy's where they are those of the run: another version has others."""
    if weights is None and model.get("name") != "toy":
        return None
    if weights is not None and not weights.is_dir():
        raise BenchError(f"{weights} is not a folder")
    from model import checkpoint

    digest = checkpoint.digest(weights or TOY_CHECKPOINT)
    return digest if weights is not None or digest == model.get("sha256") else None


@click.command()
@click.argument("first", metavar="A", type=FOLDER)
@click.argument("second", metavar="B", type=FOLDER)
@click.option("--force", is_flag=True, help="Compare runs that are not alike; what differs is printed.")
@click.option("--html", "page", type=FILE, help="Also write a page with flips.")
@click.option("--json", "as_json", is_flag=True, help="Print every digit and all flipped samples.")
@DATA_DIR
def compare(first: Path, second: Path, force: bool, page: Path | None, as_json: bool, data_dir: Path | None) -> None:
    """Compare two complete runs: B - A of every metric, with interval and test."""
    from reports import compare as comparing

    found = comparing.compare(first, second, force)
    click.echo(comparing.to_json(found) if as_json else comparing.text(found))
    if page:
        write(page, comparing.html(found, selection.samples_of(found.records, data_dir)).encode("utf-8", "replace"))
        click.echo(f"written: {page}", err=True)


@click.command()
@click.argument("new", metavar="NEW", type=FOLDER)
@click.option("--baseline", type=FOLDER, required=True, help="The run that it must not be worse than.")
@click.option(
    "--policy", "policy_file", type=FILE, help="Rules and margins (docs/ci.md). Default: 2 points everywhere."
)
@click.option("--junit", "junit_file", type=FILE, help="Also write JUnit XML.")
@click.option("--json", "as_json", is_flag=True, help="Print the verdict with every digit.")
@click.pass_context
def gate(
    ctx: click.Context, new: Path, baseline: Path, policy_file: Path | None, junit_file: Path | None, as_json: bool
) -> None:
    """Exit 0 if NEW is no worse than the baseline, 1 if it is, 2 if that cannot be told."""
    from reports import ci
    from reports import gate as gating

    try:
        found = gating.gate(new, baseline, gating.read_policy(policy_file) if policy_file else None)
        click.echo(gating.to_json(found) if as_json else gating.text(found))
        if junit_file:
            write(junit_file, ci.junit(found).encode())
        if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
            append(Path(summary), ci.github_summary(found).encode())
        if os.environ.get("GITHUB_ACTIONS") == "true" and (told := ci.github_annotations(found)):
            click.echo(told, err=True)  # standard output may be JSON
    except BenchError:
        raise
    except Exception:  # Python would end with 1, which says "worse"
        traceback.print_exc()
        ctx.exit(2)
    ctx.exit(found.exit_code)


@click.command()
@click.argument("folder", metavar="FOLDER", type=FOLDER)
def leaderboard(folder: Path) -> None:
    """Write FOLDER/leaderboard.html, one sortable page of all complete runs below the folder."""
    from reports import leaderboard as board

    page = folder / "leaderboard.html"  # in the folder: it links to the runs' own pages
    write(page, board.html(folder).encode())
    click.echo(page)


@click.command()
@click.argument("folder", metavar="FOLDER", type=FOLDER)
@click.option("--against", type=click.Choice(("step", "date")), help="Default: the training step where all have one.")
@click.option("--figure", type=FILE, help="Also the charts (.pdf .svg .png).")
@click.option("--out", type=FILE, help="Default: FOLDER/history.html.")
def history(folder: Path, against: Literal["step", "date"] | None, figure: Path | None, out: Path | None) -> None:
    """Write one page with the scores of all complete runs below a folder against training step or date."""
    from reports import history as scores
    from reports import plots

    page = out or folder / "history.html"
    write(page, scores.html(folder, against).encode())
    click.echo(page)
    if figure:
        plots.save(scores.figure(folder, against), figure)
        click.echo(figure)


@click.command()
@click.argument("folder", metavar="RUN", type=FOLDER)
@click.option("--out", type=FOLDER, required=True, help="Gets one folder per benchmark.")
@DATA_DIR
def export(folder: Path, out: Path, data_dir: Path | None) -> None:
    """Write a complete run in the layouts that the benchmarks' own scripts read."""
    from benchmarks import store
    from benchmarks.limit import limited

    for record in store.read_records(folder):
        suite = cast(catalog.Suite, record.suite)
        benchmark = catalog.load(suite, record.benchmark, selection.data_of(record, data_dir))
        own = folder / benchmark.name
        samples = limited(benchmark.samples(), record.settings["limit"])
        try:
            benchmark.export(samples, store.read_predictions(own), store.read_verdicts(own), own, out / benchmark.name)
        except OSError as error:
            raise BenchError(f"cannot write {out / benchmark.name}: {error.strerror}") from error
        click.echo(out / benchmark.name)


@click.command()
@click.argument("benchmark", type=click.Choice(["geneval"]))
@click.option("--annotations", type=FILE, multiple=True, help="Default: all three files.")
@click.option(
    "--verdicts",
    type=click.Path(path_type=Path, exists=True),
    help="Of the annotated images: a run, or an official results.jsonl.",
)
@DATA_DIR
def validate(benchmark: str, annotations: tuple[Path, ...], verdicts: Path | None, data_dir: Path | None) -> None:
    """Compare verdicts with the public annotations of people."""
    from benchmarks import annotations as people
    from benchmarks import datasets, geneval

    if verdicts and len(annotations) != 1:
        raise BenchError("--verdicts are of one model's images: name its --annotations FILE")
    files = annotations or sorted(datasets.locate("geneval-annotations", data_dir).glob("annotations_*.csv"))
    metadata = geneval.read_metadata(datasets.locate("geneval", data_dir) / "evaluation_metadata.jsonl")
    click.echo(people.table([people.validate(file, metadata, verdicts) for file in files]))
