"""The control database: SQLite in one file, or PostgreSQL; one way to open it, one way to write a transaction.

On SQLite a write transaction begins IMMEDIATE (a deferred one may fail at its first write) and a commit is on the disk
when it returns (WAL, synchronous=FULL). On PostgreSQL a server that does not wait for its disk is told to.
"""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Column, Connection, Engine, Select, Table, create_engine, event, func, insert, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, SQLAlchemyError

from farthing.errors import FarthingError, LedgerError, SettingsError
from policies.migrations import migrate

BUSY_TIMEOUT_MS = 10_000  # how long a writer waits for another one


def open_database(url: str) -> Engine:
    """Open the control database and bring its schema up to date; `dispose()` the engine at the end.

    Raises:
        SettingsError: the URL cannot be read, or its driver is not installed.
        LedgerError: the database does not answer.
    """
    try:
        engine = create_engine(url, pool_pre_ping=True)
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        what = f"control_db={_shown(url)!r}: {error}"
        raise SettingsError(f"{what}; write sqlite:///PATH or postgresql+psycopg://USER@HOST/NAME") from None
    if engine.dialect.name == "sqlite":
        _prepare_sqlite(engine)
    else:
        event.listen(engine, "connect", _on_postgresql_connect)
    try:
        with writing(engine) as connection:
            migrate(connection)
    except LedgerError:
        engine.dispose()
        raise
    except SQLAlchemyError as error:
        engine.dispose()
        raise LedgerError(f"control_db={_shown(url)!r} cannot be opened: {error}") from error
    return engine


def _shown(url: str) -> str:
    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return "?"


def _prepare_sqlite(engine: Engine) -> None:
    database = engine.url.database
    if not database or database == ":memory:":
        raise SettingsError("control_db: an in-memory database loses the ledger; name a file, sqlite:///PATH")
    Path(database).absolute().parent.mkdir(parents=True, exist_ok=True)
    event.listen(engine, "connect", _on_sqlite_connect)
    event.listen(engine, "begin", _on_sqlite_begin)


def _on_sqlite_connect(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions are begun below, not by the driver
    for pragma in (f"busy_timeout={BUSY_TIMEOUT_MS}", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _on_postgresql_connect(connection: Any, _record: object) -> None:
    on = "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
    connection.execute(on)
    connection.commit()


def _on_sqlite_begin(connection: Connection) -> None:
    write = connection.get_execution_options().get("write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """Run one write transaction: committed at the end, rolled back on an error."""
    with engine.connect().execution_options(write=True) as connection, connection.begin():
        yield connection


@contextmanager
def changing(engine: Engine, clash: FarthingError) -> Iterator[Connection]:
    """Run one write transaction whose failures have our names.

    Raises:
        FarthingError: `clash`, because another change came first.
        LedgerError: the database failed; nothing was written.
    """
    try:
        with writing(engine) as connection:
            yield connection
    except IntegrityError:
        raise clash from None
    except SQLAlchemyError as error:
        raise LedgerError(f"the control database cannot be written: {error}") from error


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Lend a connection to read with.

    Raises:
        LedgerError: the database failed.
    """
    try:
        with engine.connect() as connection:
            yield connection
    except SQLAlchemyError as error:
        raise LedgerError(f"the control database cannot be read: {error}") from error


def rows(engine: Engine, query: Select[Any]) -> list[dict[str, Any]]:
    """Return all rows of a query, each by the names of its columns.

    Raises:
        LedgerError: the database failed.
    """
    with reading(engine) as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


def next_number(connection: Connection, column: Column[int]) -> int:
    """Return the number that follows the highest of a column; the caller holds the write transaction."""
    return connection.execute(select(func.coalesce(func.max(column), 0))).scalar_one() + 1


def append(connection: Connection, table: Table, row: dict[str, Any]) -> None:
    """Add a row to a table that numbers its entries and never changes them."""
    connection.execute(insert(table).values(entry=next_number(connection, table.c.entry), **row))
