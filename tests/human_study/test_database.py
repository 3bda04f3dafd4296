from __future__ import annotations

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text

from benchmarks.types import BenchError
from human_study import database
from human_study.tables import Base
from tests.human_study.studies import create


def test_the_migrations_make_the_tables_that_the_program_expects(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_the_version_is_that_of_the_newest_migration() -> None:
    assert ScriptDirectory.from_config(database.alembic_config()).get_current_head() == database.VERSION


def test_a_database_without_tables_is_refused(url: str) -> None:
    engine = database.connect(url)
    with pytest.raises(BenchError, match="there is no study in the database"):
        database.check_version(engine)
    engine.dispose()


def test_upgrading_again_changes_nothing(engine: Engine) -> None:
    study = create(engine)
    database.upgrade(engine)
    database.check_version(engine)
    with study.reading() as connection:
        assert connection.execute(text("SELECT count(*) FROM study")).scalar_one() == 1


def test_every_sqlite_connection_is_safe_and_patient(tmp_path: Path) -> None:
    engine = database.connect(f"sqlite:///{tmp_path}/study.db")
    pragmas = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30_000}
    with database.reading(engine) as first, database.reading(engine) as second:
        for connection in (first, second):
            assert {name: connection.execute(text(f"PRAGMA {name}")).scalar_one() for name in pragmas} == pragmas


def test_a_password_is_never_shown(tmp_path: Path) -> None:
    url = f"postgresql://study:secret-word@/nothing?host={tmp_path}"
    with pytest.raises(BenchError, match="cannot use the database") as error:
        database.upgrade(database.connect(url))
    assert "secret-word" not in str(error.value)
