"""What the commands share: errors as one line, kinds of options, and options that belong together."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import click

from benchmarks.options import FiniteRange
from benchmarks.types import BenchError, printable

F = TypeVar("F", bound=Callable[..., Any])

PRICE = FiniteRange(min=0)
FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)
FILE_THERE = click.Path(path_type=Path, dir_okay=False, exists=True)

DATA_DIR = click.option("--data-dir", type=FOLDER, help="Folder of fetched data sets. Default: see data list.")


class CommandLine(click.Group):
    """Turns every user's error of any command into one line and exit code 2."""

    def invoke(self, ctx: click.Context) -> None:
        try:
            super().invoke(ctx)
        except BenchError as error:
            _fail(ctx, str(error))
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx else ctx.command_path
            _fail(ctx, f"{error.format_message().rstrip('.')}; see {path} --help")
        except ModuleNotFoundError as error:
            # Only a package that is wholly absent is the user's affair; a missing module of one is a bug.
            if error.name is None or "." in error.name:
                raise
            _fail(ctx, f"the package {error.name} is not installed: run pip install 'blip3o-bench[all]'")
        except KeyboardInterrupt:
            click.echo("interrupted; what is stored is kept, and the same command resumes", err=True)
            ctx.exit(130)


def _fail(ctx: click.Context, message: str) -> None:
    click.echo("error: " + printable(" ".join(message.split())), err=True)
    ctx.exit(2)


def options_as(cls: type, parameter: str, *options: Callable[[F], F]) -> Callable[[F], F]:
    """Options of the command line that a command gets as one value, ``parameter``, of the dataclass ``cls``."""

    def packed(command: F) -> F:
        @functools.wraps(command)
        def unpacked(**given: object) -> object:
            own = {field.name: given.pop(field.name) for field in dataclasses.fields(cls)}
            return command(**{parameter: cls(**own)}, **given)

        decorated = cast(F, unpacked)
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return packed


def write(path: Path, content: bytes) -> None:
    """Write a file that the user asked for. Raises BenchError where that cannot be done."""
    _write(path, content, "wb")


def append(path: Path, content: bytes) -> None:
    """Add to a file, as ``write`` does."""
    _write(path, content, "ab")


def _write(path: Path, content: bytes, mode: Literal["wb", "ab"]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open(mode) as file:
            file.write(content)
    except OSError as error:
        raise BenchError(f"cannot write {path}: {error.strerror}") from error
