"""One client of the warehouse, embedded chDB or a ClickHouse server, always through `clickhouse_connect`.

A chDB folder belongs to one process. Clients hold a lock, so each thread gets its own. Every question is a `.sql` file
that binds `tenant`; there is no way to ask without one.
"""
from __future__ import annotations

import fcntl
import logging
import threading
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote, urlsplit

from farthing.disk import free_bytes, sync_filesystem
from farthing.errors import WarehouseError
from farthing.prices import Price
from farthing.warehouse import repair, view
from farthing.warehouse.rollup import Boundary

log = logging.getLogger(__name__)

_CHDB = "chdb://"
_LIMITS = {  # of one question; a page must never take the store down
    "max_execution_time": 30,
    "max_result_rows": 100_000,
    "max_memory_usage": 2 * 1024**3,
    "max_bytes_before_external_group_by": 1024**3,  # past it groups go to the disk instead of failing the question
}
_INSERT = {  # of a segment: one thread and fixed blocks, so that every attempt cuts it into the same ones
    "insert_deduplicate": 1,
    "deduplicate_blocks_in_dependent_materialized_views": 1,
    "async_insert": 0,
    "max_insert_threads": 1,
    "max_threads": 1,
    "max_block_size": 65_409,
    "min_insert_block_size_rows": 1_048_449,
    "min_insert_block_size_bytes": 268_402_944,
    "max_partitions_per_insert_block": 0,
    "input_format_allow_errors_num": 0,
}
_UPKEEP = {  # of the collector's own work: it may take long, but not the memory of the process
    "max_bytes_before_external_group_by": 512 * 1024**2,
    "log_comment": "farthing/upkeep",
}


@cache
def _text(folder: str, name: str) -> str:
    return resources.files("farthing.warehouse").joinpath(folder, name).read_text("utf-8")


class Warehouse:
    """The open warehouse of one process."""

    def __init__(self, dsn: str, repair: bool = True) -> None:
        """Open the warehouse; `chdb:///path` embeds it, any other DSN names a server.

        An embedded store that does not open is set aside and made anew, unless `repair` is off.

        Raises:
            WarehouseError: the folder is in use by another process, or the server does not answer.
        """
        self.dsn = dsn
        self.recovered_from: Path | None = None  # where a store that did not open was set aside
        self._is_to_salvage = False
        self._local = threading.local()
        self._clients: list[Any] = []
        self._lock = threading.Lock()
        self._closed = False
        self.boundary = Boundary(self)
        if self.path is not None:
            _refuse_if_in_use(self.path)
        try:
            self._client()
        except WarehouseError as error:
            if not repair or self.path is None or not self.path.exists() or _is_full(self.path):
                raise
            self._set_aside(error)
        self.database = str(self._client().query("SELECT currentDatabase()").result_rows[0][0])

    @property
    def path(self) -> Path | None:
        """The folder of an embedded store, None for a server."""
        return Path(self.dsn.removeprefix(_CHDB)) if self.dsn.startswith(_CHDB) else None

    def migrate(self) -> None:
        """Bring the schema up to date; safe to repeat."""
        self.command(
            "CREATE TABLE IF NOT EXISTS schema_migrations (version UInt32, name String, applied_at DateTime64(3)) "
            "ENGINE = ReplacingMergeTree ORDER BY version"
        )
        done = {row[0] for row in self._client().query("SELECT version FROM schema_migrations").result_rows}
        for name in _migrations():
            version = int(name[:4])
            if version in done:
                continue
            for statement in self._render(_text("schema", name)).split("\n;\n"):
                self.command(statement)
            self.sync()  # a power cut must not leave the note without the table
            self.command(f"INSERT INTO schema_migrations VALUES ({version}, '{name}', now64(3))")
        if self._is_to_salvage and self.recovered_from is not None:
            self._is_to_salvage = False
            parts = repair.salvage(self._rows, self.recovered_from)
            log.error("%d whole parts of %s were taken over into the new store", parts, self.recovered_from)
        self.sync()

    def _render(self, statement: str) -> str:
        values = {
            "otlp_structure": view.OTLP_STRUCTURE,
            "explode_spans": view.explode_spans(),
            "normalise_requests": view.normalise_requests(),
            "login": _login(self.dsn),
        }
        for key, value in values.items():
            statement = statement.replace("{{" + key + "}}", value)
        return statement.replace("{{database}}", self.database)

    def ask(self, question: str, *, tenant: str, part: str, **values: object) -> list[dict[str, Any]]:
        """Answer `queries/<question>.sql` for one tenant; `part` names the asker in the query log.

        Raises:
            WarehouseError: the store refused, or a limit on time, rows or memory was reached.
        """
        statement = _text("queries", f"{question}.sql")
        if "{rolled_until:" in statement:
            values = self.boundary.bounds(values) | values
        settings = {**_LIMITS, "log_comment": f"farthing/{part}/{question}"}
        with self._errors(f"question {question}"):
            result = self._client().query(statement, parameters={"tenant": tenant, **values}, settings=settings)
        return [dict(zip(result.column_names, row, strict=True)) for row in result.result_rows]

    def look(self, step: str, **values: object) -> Sequence[Sequence[Any]]:
        """Return the rows of `upkeep/<step>.sql`, which sees every tenant and is no question of a reader's."""
        statement = _text("upkeep", f"{step}.sql").replace("{{keys}}", _text("upkeep", "keys.sql"))
        with self._errors(f"upkeep {step}"):
            return self._client().query(statement, parameters=values, settings=_UPKEEP).result_rows

    def work(self, step: str, **values: object) -> None:
        """Run `upkeep/<step>.sql`, which changes rows."""
        with self._errors(f"upkeep {step}"):
            self._client().command(_text("upkeep", f"{step}.sql"), parameters=values, settings=_UPKEEP)

    def command(self, statement: str) -> None:
        """Run one statement that returns nothing."""
        with self._errors(statement.strip().split("\n", 1)[0][:80]):
            self._client().command(statement)

    def insert(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Insert prepared rows."""
        with self._errors(f"insert into {table}"):
            self._client().insert(table, rows, column_names=list(columns), settings={"async_insert": 0})

    def insert_binary(self, table: str, rows: bytes) -> None:
        """Insert rows that are packed as RowBinary, which costs a tenth of `insert`."""
        with self._errors(f"insert into {table}"):
            self._client().raw_insert(table, insert_block=rows, fmt="RowBinary")

    def insert_otlp(self, segment: Path, token: str) -> None:
        """Insert a file of length-delimited OTLP bodies, once, however often it is asked with the same token."""
        settings = {"insert_deduplication_token": token, **_INSERT, **_protobuf(self.path is not None)}
        with self._errors(f"insert of {segment.name}"):
            if self.path is None:
                block = segment.read_bytes()
                self._client().raw_insert("otlp_in", insert_block=block, fmt="Protobuf", settings=settings)
                return
            source = f"FROM INFILE {_literal(str(segment))} SETTINGS {_pairs(settings)}"
            self._client().command(f"INSERT INTO otlp_in {source} FORMAT Protobuf")

    def insert_otlp_again(self, segment: Path, token: str) -> None:
        """Insert a file that an earlier process may have inserted, wholly, in part or not.

        A server remembers the token. An embedded store may have lost rows and kept their token, or the other way
        round, so the rows decide, and the token is a new one.
        """
        if self.path is None:
            self.insert_otlp(segment, token)
            return
        with self._errors(f"comparison with {segment.name}"):
            if repair.is_stored(self._rows, _file(segment), _pairs(_protobuf(is_embedded=True))):
                return
        self.insert_otlp(segment, f"{token}-{time.time_ns()}")

    def check_otlp(self, segment: Path) -> None:
        """Do what an insert of a file of OTLP bodies would do, and store nothing.

        Raises:
            WarehouseError: the insert would be refused.
        """
        with self._errors(f"check of {segment.name}"), self._source(segment) as (source, settings):
            spans = view.explode_spans(source)
            requests = view.normalise_requests(f"({spans})").replace("{{database}}", self.database)
            for statement in (spans, requests):
                self._client().command(f"SELECT * FROM ({statement}) {settings} FORMAT Null")

    def unseen_models(self, segment: Path) -> list[tuple[str, str]]:
        """Return the distinct (provider, model) of the model calls in a file of OTLP bodies."""
        with self._errors(f"models of {segment.name}"), self._source(segment) as (source, settings):
            rows = self._rows(f"{view.unseen_models(source)} {settings}")
        return sorted({(row[0], row[1]) for row in rows})

    @contextmanager
    def _source(self, segment: Path) -> Generator[tuple[str, str]]:
        """Yield SQL that reads a file of OTLP bodies, and the settings that it needs."""
        if self.path is not None:
            yield _file(segment), f"SETTINGS {_pairs(_protobuf(is_embedded=True))}"
            return
        stage = f"otlp_stage_{threading.get_ident()}"
        self.command(f"CREATE TABLE IF NOT EXISTS {stage} ({view.OTLP_STRUCTURE}) ENGINE = Memory")
        try:
            block = segment.read_bytes()
            self._client().raw_insert(stage, insert_block=block, fmt="Protobuf", settings=_protobuf(is_embedded=False))
            yield stage, ""
        finally:
            self.command(f"DROP TABLE IF EXISTS {stage}")

    def put_prices(self, prices: Iterable[Price]) -> None:
        """Add prices to the book and make the views see them."""
        rows = [_price_row(price) for price in prices]
        if rows:
            self.insert("price_book", _PRICE_COLUMNS, rows)
        self.command("SYSTEM RELOAD DICTIONARY prices")

    def price_rows(self) -> list[dict[str, Any]]:
        """Return the price book as it stands."""
        with self._errors("price book"):
            result = self._client().query("SELECT * FROM price_book FINAL ORDER BY provider, model, valid_from")
        return [dict(zip(result.column_names, row, strict=True)) for row in result.result_rows]

    def sync(self) -> None:
        """Wait until all that was inserted is on the disk (embedded store); a server looks after its own."""
        if self.path is not None:
            sync_filesystem(self.path)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for client in self._clients:
                client.close()
            self._clients.clear()

    def _rows(self, statement: str) -> Sequence[Sequence[Any]]:
        client = self._client()
        if statement.startswith("SELECT"):
            return client.query(statement).result_rows
        client.command(statement)
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
            raise WarehouseError(f"warehouse {_public_dsn(self.dsn)} does not open: {_first_line(error)}") from error
        with self._lock:
            self._clients.append(client)
        return client

    def _set_aside(self, error: WarehouseError) -> None:
        assert self.path is not None
        aside = self.path.with_name(f"{self.path.name}.broken-{datetime.now():%Y%m%dT%H%M%S}")
        self.path.rename(aside)
        self.recovered_from = aside
        self._is_to_salvage = True
        log.error("%s; set aside as %s, a new store is filled from the spool", error, aside)
        self._client()

    @contextmanager
    def _errors(self, doing: str) -> Any:
        from clickhouse_connect.driver.exceptions import ClickHouseError

        try:
            yield
        except (ClickHouseError, OSError) as error:
            raise WarehouseError(f"warehouse: {doing}: {_first_line(error)}") from error


_PRICE_COLUMNS = (
    "provider", "model", "valid_from", "valid_to", "input", "cache_read", "cache_write", "output",
    "tier_over", "tier_input", "tier_cache_read", "tier_cache_write", "tier_output", "version",
)  # fmt: skip


def _price_row(price: Price) -> tuple[object, ...]:
    tier = price.tier_rates or price.rates
    return (
        price.provider, price.model, price.valid_from, price.valid_to,
        price.rates.input, price.rates.cache_read, price.rates.cache_write, price.rates.output,
        price.tier_over, tier.input, tier.cache_read, tier.cache_write, tier.output, price.version,
    )  # fmt: skip


def _migrations() -> list[str]:
    folder = resources.files("farthing.warehouse").joinpath("schema")
    return sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))


def _protobuf(is_embedded: bool) -> Mapping[str, object]:
    """Return the settings that name the OTLP schema; text for a server, which then needs no file of ours.

    Embedded, the text would be cached as a file in the working folder, so the file itself is named.
    """
    if is_embedded:
        return {"format_schema": f"{resources.files('farthing.warehouse').joinpath('schema', 'otlp.proto')}:TracesData"}
    return {
        "format_schema_source": "string",
        "format_schema": _text("schema", "otlp.proto"),
        "format_schema_message_name": "TracesData",
    }


def _pairs(settings: Mapping[str, object]) -> str:
    return ", ".join(f"{key} = {_literal(value)}" for key, value in settings.items())


def _file(segment: Path) -> str:
    return f"file({_literal(str(segment))}, Protobuf, '{view.OTLP_STRUCTURE}')"


def _literal(value: object) -> str:
    if isinstance(value, str):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return str(value)


def _refuse_if_in_use(path: Path) -> None:
    """ClickHouse locks `<path>/status`; chDB itself reports a locked folder like a broken one."""
    status = path / "status"
    if not status.exists():
        return
    with status.open("rb") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise WarehouseError(
                f"the warehouse {path} is in use by another process; stop that one, "
                "or set FARTHING_DATA_DIR to another folder"
            ) from None
        fcntl.flock(handle, fcntl.LOCK_UN)


def _is_full(path: Path) -> bool:
    """Tell whether the store may not open for want of room; such a one is whole."""
    return free_bytes(path) < 16 * 2**20


def _login(dsn: str) -> str:
    """Return how a server's dictionary logs in to its own server: as the DSN does."""
    parts = urlsplit(dsn)
    if dsn.startswith(_CHDB) or not parts.username:
        return ""
    return f"USER {_literal(unquote(parts.username))} PASSWORD {_literal(unquote(parts.password or ''))} "


def _public_dsn(dsn: str) -> str:
    head, at, tail = dsn.rpartition("@")
    return f"{head.split('://', 1)[0]}://…@{tail}" if at else dsn


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0][:500]
