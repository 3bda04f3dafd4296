"""Data sets: where they are, fetching, verifying, and a look at the embedded world."""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks.types import BenchError
from blip3o_bench.command_line import DATA_DIR, FILE, write


@click.group(no_args_is_help=False)
def data() -> None:
    """Where the benchmarks' data comes from; fetch it, verify it, look at it."""


@data.command("list")
@DATA_DIR
def data_list(data_dir: Path | None) -> None:
    """Data sets with licence and state."""
    from benchmarks import datasets

    click.echo(f"in {data_dir or datasets.data_dir()}")
    for name, dataset in datasets.DATASETS.items():
        try:
            state = str(datasets.locate(name, data_dir))
        except BenchError:
            state = f"not fetched: {datasets.fetch_command(name, data_dir)}"
        click.echo(f"{name:20} {dataset.licence:36} {state}")


@data.command("fetch")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@DATA_DIR
def data_fetch(names: tuple[str, ...], data_dir: Path | None) -> None:
    """Download data sets; goes on where an earlier download stopped."""
    from benchmarks import datasets

    for name in names:
        click.echo(datasets.fetch(name, data_dir))


@data.command("verify")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@DATA_DIR
def data_verify(names: tuple[str, ...], data_dir: Path | None) -> None:
    """Compare data sets (default: all that were fetched) with their pinned digests."""
    from benchmarks import datasets

    for name in names or datasets.DATASETS:
        if not names and not ((data_dir or datasets.data_dir()) / name).is_dir():
            click.echo(f"{name} is not fetched", err=True)
            continue
        for file, digest in datasets.verify(name, data_dir).items():
            click.echo(f"{name}/{file} {digest}")


@data.command("show")
@click.argument("world", type=click.Choice(["shapes"]))
@click.option("--out", type=FILE, default="sheet.png", show_default=True, help="The PNG to write.")
@click.option("--columns", type=click.IntRange(1, 30), default=6, show_default=True, help="Scenes of each tag.")
@click.option("--seed", type=int, default=0, show_default=True, help="Other seeds show other scenes.")
def data_show(world: str, out: Path, columns: int, seed: int) -> None:
    """Draw a contact sheet: scenes of each GenEval tag with their prompts."""
    import io

    from benchmarks.shapes.sheet import contact_sheet

    buffer = io.BytesIO()
    contact_sheet(columns, seed).save(buffer, "PNG")
    write(out, buffer.getvalue())
    click.echo(out)
