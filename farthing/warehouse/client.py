"""One client of the warehouse, embedded chDB or a ClickHouse server, always through `clickhouse_connect`.

A chDB folder belongs to one process. Clients hold a lock, so each thread gets its own. Every question is a `.sql` file
that binds `tenant`; there is no way to ask without one. A server is first spoken to when it is needed, so that one that
is away stops nobody's start.
"""
from __future__ import annotations

import logging
import threading
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from farthing.disk import sync_filesystem
from farthing.errors import WarehouseError
from farthing.prices import Price
from farthing.warehouse import dsn as address
from farthing.warehouse import embedded, generated, insert, price_book, repair, sql
from farthing.warehouse.cluster import Cluster, sharded_in
from farthing.warehouse.lane import TRACES, Lane
from farthing.warehouse.migrate import Migrator, shipped
from farthing.warehouse.rollup import Boundary

log = logging.getLogger(__name__)

_LIMITS = {  # of one question; a page must never take the store down
    "max_execution_time": 30,
    "max_rows_to_read": 2_000_000_000,
    "max_result_rows": 100_000,
    "max_memory_usage": 2 * 1024**3,
    "max_bytes_before_external_group_by": 1024**3,  # past it groups go to the disk instead of failing the question
    "compile_expressions": 0,  # each question has other constants: none uses what another compiled [10 % of its CPU]
}
_UPKEEP: Mapping[str, object] = {  # of the collector's own work: it may take long, but not the memory of the process
    "max_bytes_before_external_group_by": 512 * 1024**2,
    "log_comment": "farthing/upkeep",
}
_LARGE = 500 * 1024**2  # bytes of a process past which an embedded store gives back what it freed
_MOST = 800 * 1024**2  # likewise before an insert, with what that is going to take [4 µs of CPU a span, if each did so]
_OF_AN_INSERT = 7  # bytes that an insert holds at its height for each byte of its segment
_SYNCHRONOUS: Mapping[str, object] = {"async_insert": 0}  # what is inserted is there when the call returns


class Warehouse:
    """The open warehouse of one process."""

    def __init__(self, dsn: str, repair: bool = True, cluster: str = "") -> None:
        """Open the warehouse; `chdb:///path` embeds it, any other DSN names a server.

        An embedded store that does not open is set aside and made anew, unless `repair` is off. `cluster` is its name
        in the server's `system.clusters`; the DSN then names one node of it.

        Raises:
            WarehouseError: the folder is in use by another process, or does not open.
        """
        self.dsn = dsn
        self.cluster = cluster
        self.recovered_from: Path | None = None  # where a store that did not open was set aside
        self._is_to_salvage = False
        self._local = threading.local()
        self._clients: list[Any] = []
        self._lock = threading.Lock()
        self._migrating = threading.Lock()
        self._closed = False
        self.boundary = Boundary(self)
        self._database = ""  # as the store names it, once it was asked
        if self.path is not None:
            self._open_folder(self.path, repair)

    @property
    def path(self) -> Path | None:
        """The folder of an embedded store, None for a server."""
        return address.folder_of(self.dsn)

    @property
    def database(self) -> str:
        """The database that the tables lie in."""
        self._database = self._database or str(self.rows("SELECT currentDatabase()")[0][0])
        return self._database

    def migrate(self) -> None:
        """Bring the schema up to date; safe to repeat.

        Raises:
            SchemaError: the store was made by a newer version, or an applied migration was edited.
            WarehouseError: the store is away or refused a statement.
        """
        values = generated.values(self.dsn)
        with self._migrating:
            Migrator(self, values, self.database, self.cluster, is_shared=self.path is None).run()
            if self.path is None:
                insert.drop_old_stages(self)
            elif self._is_to_salvage and self.recovered_from is not None:
                self._is_to_salvage = False
                parts = repair.salvage(self._run, self.recovered_from)
                log.error("%d whole parts of %s were taken over into the new store", parts, self.recovered_from)
                self.sync()

    def ask(self, question: str, *, tenant: str, part: str, **values: object) -> list[dict[str, Any]]:
        """Answer `queries/<question>.sql` for one tenant; `part` names the asker in the query log.

        Raises:
            WarehouseError: the store refused, or a limit on time, rows or memory was reached.
        """
        statement = sql.asked("queries", f"{question}.sql")
        if "{rolled_until:" in statement:
            values = self.boundary.bounds(values) | values
        settings: dict[str, object] = {**_LIMITS, "log_comment": f"farthing/{part}/{question}"}
        if self.cluster:
            settings["distributed_product_mode"] = "global"  # a subquery sees the rows of all shards
        with self._errors(f"question {question}"):
            result = self.client.query(statement, parameters={"tenant": tenant, **values}, settings=settings)
        return [dict(zip(result.column_names, row, strict=True)) for row in result.result_rows]

    def rows(self, statement: str) -> Sequence[Sequence[Any]]:
        """Return the rows of a statement of our own; what people ask goes through `ask`."""
        with self._errors(_head(statement)):
            return self.client.query(statement).result_rows

    def command(self, statement: str) -> None:
        """Run one statement that returns nothing, on the server that is spoken to."""
        is_insert = statement.startswith("INSERT") and self.path is None
        with self._errors(_head(statement)):
            self.client.command(statement, settings=dict(_SYNCHRONOUS) if is_insert else None)

    def change(self, statement: str, **values: object) -> None:
        """Run one statement that changes a table, on every node of a cluster, however long it takes."""
        for one in self._cluster.render(statement) if self._cluster else [statement]:
            with self._errors(_head(one)):
                self.client.command(one, parameters=values or None)

    def query(self, statement: str, **values: object) -> list[dict[str, Any]]:
        """Answer a statement about the rows of all tenants: for what keeps the store, never for a page."""
        with self._errors(_head(statement)):
            result = self.client.query(statement, parameters=values)
        return [dict(zip(result.column_names, row, strict=True)) for row in result.result_rows]

    def look(self, step: str, **values: object) -> Sequence[Sequence[Any]]:
        """Return the rows of `upkeep/<step>.sql`, which sees every tenant and is no question of a reader's."""
        statement = sql.asked("upkeep", f"{step}.sql")
        with self._errors(f"upkeep {step}"):
            return self.client.query(statement, parameters=values, settings=dict(_UPKEEP)).result_rows

    def work(self, step: str, **values: object) -> None:
        """Run `upkeep/<step>.sql`, which changes rows."""
        statement = sql.asked("upkeep", f"{step}.sql")
        for one in self._cluster.render(sql.bare(statement)) if self._cluster else [statement]:
            with self._errors(f"upkeep {step}"):
                self.client.command(one, parameters=values, settings=dict(_UPKEEP))

    def insert_binary(self, table: str, rows: bytes) -> None:
        """Insert rows that are packed as RowBinary, which costs a tenth of `insert`."""
        with self._errors(f"insert into {table}"):
            self.client.raw_insert(table, insert_block=rows, fmt="RowBinary")

    def insert(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Insert prepared rows."""
        with self._errors(f"insert into {table}"):
            self.client.insert(table, rows, column_names=list(columns), settings=dict(_SYNCHRONOUS))

    def insert_otlp(self, segment: Path, token: str, lane: Lane = TRACES) -> None:
        """Insert a file of length-delimited OTLP bodies, once, however often it is asked with the same token."""
        with self._errors(f"insert of {segment.name}"):
            insert.insert(self, segment, token, lane)

    def insert_otlp_again(self, segment: Path, token: str, lane: Lane = TRACES) -> None:
        """Insert a file that an earlier attempt may have inserted, wholly, in part or not; the rows decide."""
        with self._errors(f"comparison with {segment.name}"):
            insert.insert_again(self, segment, token, lane)

    def check_otlp(self, segment: Path, lane: Lane = TRACES) -> None:
        """Do what an insert of a file of OTLP bodies would do, and store nothing.

        Raises:
            WarehouseError: the insert would be refused.
        """
        with self._errors(f"check of {segment.name}"):
            insert.check(self, segment, lane)

    def names(self, segment: Path, lane: Lane = TRACES) -> set[tuple[str, str, bool]]:
        """Return the distinct (provider, model, whether it is a model call's) in a file of OTLP bodies."""
        with self._errors(f"models of {segment.name}"):
            return insert.names(self, segment, lane)

    def unseen_models(self, segment: Path, lane: Lane = TRACES) -> list[tuple[str, str]]:
        """Return the distinct (provider, model) of the model calls in a file of OTLP bodies."""
        named = self.names(segment, lane)
        return sorted({(provider, model) for provider, model, is_call in named if is_call and model})

    def put_prices(self, prices: Iterable[Price]) -> None:
        """Add prices to the book and make the views see them."""
        rows = [price_book.row_of(price) for price in prices]
        if rows:
            self.insert("price_book", price_book.COLUMNS, rows)
        self.change("SYSTEM RELOAD DICTIONARY prices")

    def sync(self) -> None:
        """Wait until all that was inserted is on the disk (embedded store); a server looks after its own."""
        if self.path is not None:
            sync_filesystem(self.path)

    def give_back_memory(self) -> None:
        """Return to the system what an embedded store has freed, once the process is large; else it keeps it."""
        self._purge_past(_LARGE)

    def make_room_for(self, segment_bytes: int) -> None:
        """Do so only where an insert of that size would make the process larger than it may become."""
        self._purge_past(_MOST - _OF_AN_INSERT * segment_bytes)

    def _purge_past(self, most: int) -> None:
        if self.path is not None and embedded.resident_bytes() > most:
            self.command("SYSTEM JEMALLOC PURGE")

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for client in self._clients:
                client.close()
            self._clients.clear()

    @property
    def client(self) -> Any:
        """The `clickhouse_connect` client of this thread."""
        return self._client()

    @cached_property
    def _cluster(self) -> Cluster | None:
        if not self.cluster:
            return None
        created = [one for migration in shipped() for one in sql.statements(migration.content)]
        return Cluster(self.cluster, self.database, sharded_in(created))

    def _run(self, statement: str) -> Sequence[Sequence[Any]]:
        if statement.startswith("SELECT"):
            return self.rows(statement)
        self.command(statement)
        return []

    def _client(self) -> Any:
        client = getattr(self._local, "client", None)
        if client is None:
            client = self._local.client = self._connect()
        return client

    def _connect(self) -> Any:
        import clickhouse_connect

        if self._closed:
            raise WarehouseError("the warehouse is closed")
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # A session would make a server's queries wait for one another; an embedded store knows none.
            options: dict[str, Any] = {} if self.path else {"autogenerate_session_id": False}
            client = cast(Any, clickhouse_connect).get_client(dsn=self.dsn, **options)
        except Exception as error:
            where = address.public(self.dsn)
            raise WarehouseError(f"warehouse {where} does not open: {_first_line(error)}") from error
        with self._lock:
            self._clients.append(client)
        return client

    def _open_folder(self, path: Path, repair: bool) -> None:
        embedded.refuse_if_in_use(path)
        try:
            self._client()
        except WarehouseError as error:
            if not repair or not path.exists() or embedded.is_full(path):
                raise
            self.recovered_from = embedded.set_aside(path, "broken")
            self._is_to_salvage = True
            log.error("%s; set aside as %s, a new store is filled from the spool", error, self.recovered_from)
            self._client()

    @contextmanager
    def _errors(self, doing: str) -> Generator[None]:
        from clickhouse_connect.driver.exceptions import ClickHouseError

        try:
            yield
        except (ClickHouseError, OSError) as error:
            raise WarehouseError(f"warehouse: {doing}: {_first_line(error)}") from error


def _head(statement: str) -> str:
    return statement.strip().split("\n", 1)[0][:80]


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0][:500]
