"""The rows of a warehouse as files, and files as rows again: one Native file, zstd, for each partition of each table.

Both ways are the same for an embedded store and a server. A checksum stands for the rows of a table whatever their
order; it is taken before and after the rows are read, so that what is written is known to be one state of the table.
"""
from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from farthing.errors import BackupError
from farthing.warehouse import sql

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_TRIES = 5  # readings of a table that changes meanwhile
_INSERT: Mapping[str, object] = {"insert_deduplicate": 0, "async_insert": 0, "max_partitions_per_insert_block": 0}


class Store(Protocol):
    """What a dump needs of a store."""

    @property
    def path(self) -> Path | None: ...

    @property
    def client(self) -> Any: ...

    def rows(self, statement: str) -> Any: ...

    def change(self, statement: str) -> None: ...

    def sync(self) -> None: ...


@dataclass(frozen=True)
class Content:
    """What a table holds, as far as two of them must agree."""

    rows: int
    checksum: str  # sum of the hashes of the rows, unsigned 64 bits
    cost_usd: str  # sum of the column, exact; empty where the table has none


@dataclass(frozen=True)
class Table:
    """A table of a dump."""

    name: str
    columns: tuple[str, ...]
    content: Content
    files: tuple[str, ...]  # relative to the dump

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(entry: Mapping[str, Any]) -> Table:
        return Table(
            entry["name"], tuple(entry["columns"]), Content(**entry["content"]), tuple(entry["files"])
        )  # fmt: skip


def write(store: Store, folder: Path) -> list[Table]:
    """Write every table of the store below `folder`.

    Raises:
        WarehouseError: the store refused.
        BackupError: a table does not stand still.
    """
    return [_write_table(store, folder, name, final) for name, final in _tables(store)]


def load(store: Store, folder: Path, tables: Sequence[Table]) -> None:
    """Fill an empty, migrated store from a dump, and prove that it holds the same.

    Raises:
        WarehouseError: the store refused.
        BackupError: a table holds something else than the dump says.
    """
    tables_here = "FROM system.tables WHERE database = currentDatabase()"
    views = [str(row[0]) for row in store.rows(f"SELECT name {tables_here} AND engine = 'MaterializedView'")]
    finals = dict(_tables(store))
    for name in views:
        store.change(f"DETACH TABLE {name} SYNC")  # they would book every span a second time
    try:
        for table in tables:
            for name in table.files:
                _load_file(store, table, folder / name)
            held = content(store, table.name, finals[table.name])
            if held != table.content:
                raise BackupError(f"{table.name} holds {held} after the restore, and the backup says {table.content}")
    finally:
        for name in views:
            store.change(f"ATTACH TABLE {name}")
    for name in ("prices", "servers"):
        store.change(f"SYSTEM RELOAD DICTIONARY {name}")
    store.sync()


def content(store: Store, table: str, final: str) -> Content:
    """Return what a table holds."""
    has_cost = "cost_usd" in _columns(store, table)
    cost = "toString(sum(cost_usd))" if has_cost else "''"
    ((rows, checksum, cost_usd),) = store.rows(
        f"SELECT count(), toString(sum(cityHash64(formatRowNoNewline('RowBinary', *)))), {cost} FROM {table} {final}"
    )
    return Content(int(rows), str(checksum), str(cost_usd))


def row_counts(store: Store) -> dict[str, int]:
    """Return how many rows each table holds."""
    return {name: int(store.rows(f"SELECT count() FROM {name}")[0][0]) for name, _ in _tables(store)}


def _tables(store: Store) -> list[tuple[str, str]]:
    """Return each table that keeps rows, with FINAL where merges change what it holds."""
    found = store.rows(
        "SELECT name, if(engine IN ('MergeTree', 'ReplicatedMergeTree', 'Distributed'), '', 'FINAL') "
        "FROM system.tables "
        "WHERE database = currentDatabase() AND (engine LIKE '%MergeTree' OR engine = 'Distributed') "
        "AND NOT endsWith(name, '_local') AND NOT startsWith(name, 'schema_') AND NOT startsWith(name, '.inner') "
        "ORDER BY name"
    )
    return [(str(name), str(final)) for name, final in found]


def _columns(store: Store, table: str) -> tuple[str, ...]:
    found = store.rows(
        f"SELECT name FROM system.columns WHERE database = currentDatabase() AND table = '{table}' "
        "AND default_kind NOT IN ('MATERIALIZED', 'ALIAS', 'EPHEMERAL') ORDER BY position"
    )
    return tuple(str(row[0]) for row in found)


def _write_table(store: Store, folder: Path, name: str, final: str) -> Table:
    columns = _columns(store, name)
    held = content(store, name, final)
    for _ in range(_TRIES):
        files = _write_files(store, folder, name, final)
        before, held = held, content(store, name, final)
        if before == held:
            return Table(name, columns, held, files)
    raise BackupError(f"{name} changes faster than it can be read; stop what writes it, or try again")


def _write_files(store: Store, folder: Path, name: str, final: str) -> tuple[str, ...]:
    (folder / name).mkdir(parents=True, exist_ok=True)
    for old in (folder / name).iterdir():
        old.unlink()
    files: list[str] = []
    for (partition,) in store.rows(f"SELECT DISTINCT _partition_id AS p FROM {name} ORDER BY p"):
        path = folder / name / f"{partition}.native.zst"
        select = f"SELECT * FROM {name} {final} WHERE _partition_id = {sql.literal(str(partition))}"
        with store.client.raw_stream(select, fmt="Native") as stream, zstd.open(path, "wb", level=3) as out:
            for chunk in iter(lambda: stream.read(1 << 20), b""):
                out.write(chunk)
        files.append(str(path.relative_to(folder)))
    return tuple(files)


def _load_file(store: Store, table: Table, path: Path) -> None:
    columns = ", ".join(f"`{column}`" for column in table.columns)
    if store.path is not None:
        source = f"FROM INFILE {sql.literal(str(path))} COMPRESSION 'zstd' SETTINGS {sql.pairs(_INSERT)}"
        store.client.command(f"INSERT INTO {table.name} ({columns}) {source} FORMAT Native")
        return
    with path.open("rb") as block:
        store.client.raw_insert(
            table.name, list(table.columns), block, fmt="Native", compression="zstd", settings=dict(_INSERT)
        )
