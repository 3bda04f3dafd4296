"""Connections to SQLite (the default: one file, one machine) and PostgreSQL, and the version of their tables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from benchmarks.types import BenchError

if TYPE_CHECKING:
    from alembic.config import Config

#: The newest of migrations/versions. Written here, since alembic takes longer to import than to ask for it.
VERSION = "0001"
#: Seconds that a writer waits for the others, in SQLite.
BUSY_TIMEOUT = 30


def connect(url: str) -> Engine:
    """An engine for ``sqlite:///FILE`` or ``postgresql://USER@HOST/NAME``. Raises BenchError for any other URL."""
    try:
        parsed = make_url(url)
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        if parsed.get_backend_name() not in ("sqlite", "postgresql"):
            raise BenchError(f"a study is kept in sqlite or postgresql, not in {parsed.get_backend_name()}")
        engine = create_engine(parsed, pool_pre_ping=True, pool_size=10, max_overflow=40)
    except (ArgumentError, NoSuchModuleError, ValueError) as error:  # ValueError: a port that is no number
        raise BenchError("not the URL of a database: give sqlite:///FILE or postgresql://USER@HOST/NAME") from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def absolute(url: str) -> str:
    """A URL that means the same from every working directory: that of a SQLite file with its whole path."""
    parsed = connect(url).url
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return url
    return parsed.set(database=str(Path(parsed.database).resolve())).render_as_string(hide_password=False)


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # Python's driver would begin transactions by itself, and too late: only at the first write.
    connection.isolation_level = None
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",  # an acknowledged judgment survives a power cut
        f"busy_timeout={BUSY_TIMEOUT * 1000}",
        "foreign_keys=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads first and writes later fails at once when another has written in between, whatever
    # the busy timeout: writers take the lock at their beginning.
    reading = connection.get_execution_options().get("reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that sees one state of the database and changes nothing."""
    level = {} if engine.dialect.name == "sqlite" else {"isolation_level": "REPEATABLE READ"}
    with engine.connect().execution_options(reading=True, **level) as connection:
        yield connection


def upgrade(engine: Engine) -> None:
    """Create the tables, or bring those of an older version up to date. Raises BenchError without a database."""
    from alembic import command

    with _reachable(engine), engine.begin() as connection:
        config = alembic_config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def check_version(engine: Engine) -> None:
    """Raises BenchError when the tables are not those of this version of the program."""
    with _reachable(engine), reading(engine) as connection:
        table = inspect(connection).has_table("alembic_version")
        found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one() if table else None
    if found is None:
        raise BenchError(f"there is no study in the database {engine.url.render_as_string(hide_password=True)}")
    if found != VERSION:
        raise BenchError(
            f"the study's tables are of version {found}, this program's of {VERSION}: run blip3o-bench study upgrade"
        )


def alembic_config() -> Config:
    """Alembic's settings, for ``upgrade`` and for making a new version with its own commands."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


@contextmanager
def _reachable(engine: Engine) -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        where = engine.url.render_as_string(hide_password=True)
        raise BenchError(f"cannot use the database {where}: {str(error.orig).strip()}") from error
