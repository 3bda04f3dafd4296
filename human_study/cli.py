"""blip3o-bench study: make a study, serve it, look at it, export it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import click

from benchmarks.options import FiniteRange
from benchmarks.types import BenchError

if TYPE_CHECKING:
    import pandas as pd

    from human_study.folder import Study

FOLDER = click.Path(path_type=Path, file_okay=False)
STUDY = click.argument("folder", metavar="STUDY", type=FOLDER)


@click.group(no_args_is_help=False)
def study() -> None:
    """A human study: annotators compare images of two or more models side by side, in the browser."""


@study.command()
@STUDY
@click.option("--images", "sources", multiple=True, required=True, metavar="NAME=DIR", help="A model's images; repeat.")
@click.option("--prompts", required=True, type=click.Path(path_type=Path), help="Folder of ID.txt, or CSV id,prompt.")
@click.option("--limit", type=click.IntRange(min=1), help="So many prompts, drawn at random.")
@click.option("--title", default="Which image is better?", show_default=True, help="Heading of the first page.")
@click.option("--criteria", type=click.Path(path_type=Path, dir_okay=False), help="TOML; default: the paper's two.")
@click.option("--rounds", type=click.IntRange(min=1), default=1, show_default=True, help="All is judged in each.")
@click.option(
    "--judgments", type=click.IntRange(min=1), default=3, show_default=True, help="Per pair, criterion, round."
)
@click.option("--ties/--no-ties", default=True, show_default=True, help="Whether no preference is a choice.")
@click.option("--gold", type=click.IntRange(min=0), default=10, show_default=True, help="Per criterion.")
@click.option("--gold-from", metavar="NAME", help="The model whose images gold is made of. Default: each in turn.")
@click.option("--qualification", type=click.IntRange(min=0), default=4, show_default=True, help="Per criterion.")
@click.option("--passes", type=click.IntRange(min=0), help="Right answers to qualify. Default: all but one.")
@click.option("--repeat-every", type=click.IntRange(min=0), default=20, show_default=True, help="0: no repeats.")
@click.option(
    "--display", type=click.IntRange(min=64), default=512, show_default=True, help="Pixels of an image's box."
)
@click.option("--pixels", type=click.IntRange(min=16), help="Resample all images to this longer side.")
@click.option(
    "--grid", "grids", multiple=True, metavar="NAME", help="A model whose files are DPG-Bench's 2 x 2 grids; repeat."
)
@click.option("--minimum-view", type=click.IntRange(min=0), default=400, show_default=True, help="Milliseconds.")
@click.option("--lease", type=FiniteRange(min=1), default=20.0, show_default=True, help="Minutes.")
@click.option("--break-every", type=click.IntRange(min=1), default=100, show_default=True, help="Judgments.")
@click.option("--sequential", is_flag=True, help="Show the administrator which model leads, with e-values.")
@click.option("--consent", type=click.Path(path_type=Path, dir_okay=False), help="A text file of your own.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of sides, order, gold and --limit.")
@click.option("--database", help="postgresql://USER@HOST/NAME. Default: SQLite in the folder.")
def create(
    folder: Path,
    sources: tuple[str, ...],
    prompts: Path,
    limit: int | None,
    title: str,
    criteria: Path | None,
    rounds: int,
    judgments: int,
    ties: bool,
    gold: int,
    gold_from: str | None,
    qualification: int,
    passes: int | None,
    repeat_every: int,
    display: int,
    pixels: int | None,
    grids: tuple[str, ...],
    minimum_view: int,
    lease: float,
    break_every: int,
    sequential: bool,
    consent: Path | None,
    seed: int,
    database: str | None,
) -> None:
    """Make a study in the folder STUDY: copy the images, plan who sees what."""
    from human_study import folder as folders
    from human_study import monitor
    from human_study.design import CONSENT, PAPER_CRITERIA, Design

    models = _sources(sources, "--images")
    plan = Design(
        title=title,
        models=tuple(models),
        criteria=folders.read_criteria(criteria) if criteria else PAPER_CRITERIA,
        rounds=rounds,
        judgments_per_pair=judgments,
        ties=ties,
        gold=gold,
        gold_from=gold_from,
        repeat_every=repeat_every,
        qualification=qualification,
        qualification_passes=max(0, qualification - 1) if passes is None else passes,
        minimum_view_ms=minimum_view,
        lease_minutes=lease,
        break_every=break_every,
        display_px=display,
        pixels=pixels,
        grids=grids,
        monitoring="sequential" if sequential else "blind",
        consent=folders.read_text(consent) if consent else CONSENT,
        seed=seed,
    )
    texts = folders.sample_prompts(folders.read_prompts(prompts), limit, seed)
    made = folders.create(folder, plan, texts, models, database, lambda text: click.echo(text, err=True))
    click.echo(f"{monitor.tasks(made.store)[1]} judgments planned in {folder}")
    click.echo(f"next: blip3o-bench study link {folder} NAME; blip3o-bench study serve {folder}", err=True)


def _sources(pairs: tuple[str, ...], option: str) -> dict[str, Path]:
    sources: dict[str, Path] = {}
    for pair in pairs:
        name, equals, path = pair.partition("=")
        if not (name and equals and path) or name in sources:
            raise BenchError(f"{option} takes NAME=DIR with another name for each model, not {pair}")
        sources[name] = Path(path)
    return sources


@study.command()
@click.option("--judgments", type=click.IntRange(min=1), help="Per criterion. Default: what the margin needs.")
@click.option(
    "--margin",
    type=FiniteRange(0, 1, min_open=True),
    default=0.08,
    show_default=True,
    help="Net margin to be found: (wins - losses) / judgments.",
)
@click.option("--prompts", type=click.IntRange(min=1), default=1065, show_default=True, help="Of the study.")
@click.option("--ties", type=FiniteRange(0, 1, max_open=True), default=0.07, show_default=True, help="Share of ties.")
@click.option("--icc", type=FiniteRange(0, 1), default=0.3, show_default=True, help="Of judgments of one prompt.")
@click.option(
    "--criteria", type=click.IntRange(min=1), default=2, show_default=True, help="Tests, for Holm's first step."
)
@click.option(
    "--alpha",
    type=FiniteRange(0, 1, min_open=True, max_open=True),
    default=0.05,
    show_default=True,
    help="Two-sided, of all criteria together.",
)
@click.option(
    "--power",
    type=FiniteRange(0, 1, min_open=True, max_open=True),
    default=0.8,
    show_default=True,
    help="Chance of finding a margin that is there.",
)
@click.option("--seconds", type=FiniteRange(min=0), default=8.0, show_default=True, help="Per judgment.")
def plan(
    judgments: int | None,
    margin: float,
    prompts: int,
    ties: float,
    icc: float,
    criteria: int,
    alpha: float,
    power: float,
    seconds: float,
) -> None:
    """How many judgments a study needs, before collecting any: the margin it can find, and the hours it takes."""
    from human_study import power as planning

    found = planning.plan(judgments, margin, prompts, ties, icc, alpha / criteria, power)
    hours = found.judgments * criteria * seconds / 3600
    click.echo(f"judgments per criterion          {found.judgments}")
    click.echo(f"judgments per prompt             {found.per_prompt:.2f}")
    click.echo(f"design effect 1 + (m - 1) ICC    {found.design_effect:.2f}")
    click.echo(f"smallest net margin found        {_points(found.margin)} (power {power})")
    click.echo(f"were judgments independent       {_points(found.independent_margin)}")
    click.echo(f"hours of {criteria} criteria              {hours:.0f}")


def _points(margin: float) -> str:
    return f"{100 * margin:.1f} points" if margin <= 1 else "none: not even 100 points"


@study.command()
@STUDY
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--admin", is_flag=True, help="For an administrator, who sees progress and judges nothing.")
@click.option(
    "--hours", type=FiniteRange(0, 24 * 366, min_open=True), default=72.0, show_default=True, help="So long it is good."
)
@click.option("--url", default="http://localhost:8501", show_default=True, help="Where annotators reach the server.")
def link(folder: Path, names: tuple[str, ...], admin: bool, hours: float, url: str) -> None:
    """Print a sign-in link, good once, for each annotator NAME; a new name is enrolled."""
    from human_study import folder as folders
    from human_study import links

    opened = folders.open_study(folder)
    role: Literal["annotator", "admin"] = "admin" if admin else "annotator"
    for name in names:
        person = opened.store.enrol(name, role)
        click.echo(f"{name}\t{url.rstrip('/')}/enter#{links.issue(opened.store, opened.key, person.id, hours)}")


@study.command()
@STUDY
@click.option("--port", type=click.IntRange(1, 65535), default=8501, show_default=True)
@click.option("--address", default="127.0.0.1", show_default=True, help="0.0.0.0: reachable from other machines.")
@click.option(
    "--https", is_flag=True, help="Annotators reach it through a proxy by https: cookies are sent there only."
)
@click.option(
    "--sign-in",
    type=click.Choice(("links", "oidc", "local")),
    default="links",
    show_default=True,
    help="oidc: as .streamlit/secrets.toml says, for enrolled addresses. local: whoever uses this machine.",
)
def serve(folder: Path, port: int, address: str, https: bool, sign_in: str) -> None:
    """Serve the study's pages until interrupted."""
    from human_study import folder as folders
    from human_study import server

    if sign_in == "local" and address not in ("127.0.0.1", "localhost", "::1"):
        raise BenchError("--sign-in local serves this machine only: leave out --address, or use links")
    serving = server.Serving(folders.open_study(folder), cast(server.SignIn, sign_in), https)
    server.check(serving, address, port)
    host = f"[{address}]" if ":" in address else address
    click.echo(f"serving {folder} on http://{host}:{port}", err=True)
    server.run(serving, address, port)


@study.command()
@STUDY
def status(folder: Path) -> None:
    """Progress, agreement and each annotator's work; says nothing of which model leads."""
    from human_study import folder as folders
    from human_study import monitor

    store = folders.open_study(folder).store
    done, total = monitor.tasks(store)
    click.echo(f"{done} of {total} judgments")
    for criterion in monitor.agreement(store):
        equal = "" if criterion.equal is None else f", {criterion.equal:.0%} equal votes"
        click.echo(f"{criterion.title}: {criterion.pairs} pairs with several votes{equal}")
    for report in monitor.annotators(store):
        seconds = "" if report.median_seconds is None else f", {report.median_seconds:.1f} s each"
        speed = " (fast)" if report.fast else ""
        click.echo(
            f"{report.person.name}: {report.judgments} judgments{seconds}{speed}, gold {report.gold_right} of "
            f"{report.gold_asked} right, repeats {report.repeats_same} of {report.repeats} the same"
        )


@study.command()
@click.argument("folder", metavar="[STUDY]", type=FOLDER, required=False)
@click.option(
    "--judgments", type=click.Path(path_type=Path, dir_okay=False), help="CSV or .parquet of another tool, for STUDY."
)
@click.option("--model", "lead", metavar="NAME", help="A positive margin is in this model's favour.")
@click.option(
    "--gold", type=FiniteRange(0, 1), help="Also without annotators who passed a smaller share; fix it before."
)
@click.option("--run", "runs", multiple=True, metavar="MODEL=RUN", help="Automatic scores of the model; repeat.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the permutations.")
@click.option("--json", "form", flag_value="json", help="Every number with all its digits.")
@click.option("--markdown", "form", flag_value="markdown", help="For a README.")
@click.option("--html", "page", type=click.Path(path_type=Path, dir_okay=False), help="Write one self-contained page.")
@click.option("--figure", type=click.Path(path_type=Path, dir_okay=False), help="Votes as bars (.pdf .svg .png).")
def results(
    folder: Path | None,
    judgments: Path | None,
    lead: str | None,
    gold: float | None,
    runs: tuple[str, ...],
    seed: int,
    form: Literal["json", "markdown"] | None,
    page: Path | None,
    figure: Path | None,
) -> None:
    """Which model is preferred, by how much, and how sure that is: of a study, or of another tool's judgments."""
    from reports import study as analysis
    from reports.study import render

    planned: dict[str, int] = {}
    if judgments is not None and folder is None:
        table = analysis.read(judgments)
    elif folder is not None and judgments is None:
        from human_study import folder as folders
        from human_study import monitor

        opened = folders.open_study(folder)
        table = _judgments(opened)
        criteria = opened.store.design.criteria
        planned = {criterion.key: monitor.tasks(opened.store)[1] // len(criteria) for criterion in criteria}
    else:
        raise BenchError("name the folder of a study, or --judgments FILE")
    scores = analysis.read_runs(_sources(runs, "--run"))
    found = analysis.analyse(table, lead, gold, planned, scores, seed)
    if page is not None:
        _write(page, render.html(found, f"Human study {page.stem if folder is None else folder.resolve().name}"))
    if figure is not None:
        from reports import plots
        from reports.study.figure import figure as drawn

        plots.save(drawn(found.comparisons), figure)
    match form:
        case "json":
            click.echo(found.to_json())
        case "markdown":
            click.echo(render.markdown(found))
        case None:
            click.echo(render.text(found))


def _judgments(opened: Study) -> pd.DataFrame:
    import pandas as pd

    from human_study import export as exporting

    return pd.DataFrame(exporting.rows(opened.store), columns=list(exporting.COLUMNS), dtype=object)


def _write(path: Path, page: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise BenchError(f"cannot write {path}: {error.strerror}") from error


@study.command()
@STUDY
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="FILE.csv or FILE.parquet.")
def export(folder: Path, out: Path) -> None:
    """Write every judgment, with the models' names, to a table; also while the study is served."""
    from human_study import export as exporting
    from human_study import folder as folders

    rows = exporting.write(folders.open_study(folder).store, out)
    click.echo(f"{rows} rows in {out}")


@study.command()
@STUDY
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="A new SQLite file.")
def backup(folder: Path, out: Path) -> None:
    """Copy the study's SQLite database as it is at this moment; also while the study is served."""
    from human_study import export as exporting
    from human_study import folder as folders

    exporting.backup(folders.open_study(folder).store, out)
    click.echo(out)


@study.command()
@STUDY
def verify(folder: Path) -> None:
    """Check the audit log's chain, the judgments against it, and the images against their digests."""
    from human_study import export as exporting
    from human_study import folder as folders

    exporting.verify(folders.open_study(folder))
    click.echo("every judgment and image is as it was stored")


@study.command()
@STUDY
def upgrade(folder: Path) -> None:
    """Bring the tables of a study from an older version up to date."""
    from human_study import folder as folders

    folders.upgrade(folder)
    click.echo("up to date")
