"""Brings a store's schema up to date: one numbered list of .sql files, for an embedded store, a server and a cluster.

A file that was applied is never edited, which its checksum proves. What is generated (a statement with a `{{name}}` in
it: a view, the dictionary, the table of OTLP bodies) is kept in step with the code instead: when its text changes it is
altered in place, so that a new alias needs no migration. Starts that find nothing to do write nothing and wait for no
one; others take turns by a table that only one of them can create.
"""
from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from farthing import __version__
from farthing.errors import SchemaError, WarehouseError
from farthing.warehouse import sql
from farthing.warehouse.cluster import Cluster, sharded_in

log = logging.getLogger(__name__)

TURN_S = 60.0  # seconds that a start waits for another one that migrates
STALE_S = 600  # seconds after which a turn is taken from one that died; longer than any migration may take
_BOOKS = (
    "CREATE TABLE IF NOT EXISTS schema_migrations (version UInt32, name String, applied_at DateTime64(3), "
    "checksum String DEFAULT '') ENGINE = ReplacingMergeTree ORDER BY version",
    "ALTER TABLE schema_migrations ADD COLUMN IF NOT EXISTS checksum String DEFAULT ''",
    "CREATE TABLE IF NOT EXISTS schema_generated (name String, digest String, made_by String, made_at DateTime64(6)) "
    "ENGINE = ReplacingMergeTree(made_at) ORDER BY name",
)
_GENERATED = re.compile(r"\{\{(?!database\}\})\w+\}\}")
_VIEW = re.compile(r"CREATE MATERIALIZED VIEW (?:IF NOT EXISTS )?(\w+) .*?\bAS\s", re.DOTALL)
_DICTIONARY = re.compile(r"CREATE (?:OR REPLACE )?DICTIONARY (?:IF NOT EXISTS )?(\w+)")
_NULL_TABLE = re.compile(r"CREATE TABLE (?:IF NOT EXISTS )?(\w+)([^(]*)\((.*)\)\s*ENGINE\s*=\s*Null\b", re.DOTALL)


class Store(Protocol):
    """What a migration needs of a store."""

    def command(self, statement: str) -> None: ...

    def rows(self, statement: str) -> Sequence[Sequence[Any]]: ...

    def sync(self) -> None: ...


@dataclass(frozen=True)
class Migration:
    """One numbered file."""

    name: str
    content: str

    @property
    def version(self) -> int:
        return int(self.name[:4])

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.content.encode()).hexdigest()[:32]


def shipped() -> list[Migration]:
    """Return the migrations that this version of the code knows, in order."""
    return [Migration(name, sql.text("schema", name)) for name in sql.names("schema")]


class Migrator:
    """Applies the list to one store."""

    def __init__(
        self,
        store: Store,
        values: Mapping[str, str],
        database: str,
        cluster: str = "",
        is_shared: bool = False,
        migrations: Sequence[Migration] | None = None,
    ) -> None:
        """Read the list.

        Args:
            values: what stands for each `{{name}}` in a statement.
            cluster: its name in `system.clusters`; empty = a single store.
            is_shared: other processes may migrate the same store.
        """
        self._store = store
        self._values = {**values, "database": database}
        self._is_shared = is_shared
        self._migrations = list(shipped() if migrations is None else migrations)
        all_statements = [one for migration in self._migrations for one in sql.statements(migration.content)]
        self._cluster = Cluster(cluster, database, sharded_in(all_statements)) if cluster else None
        self._generated = {name: one for one in all_statements if (name := _generated_name(one))}

    def run(self) -> None:
        """Apply what is missing.

        Raises:
            SchemaError: the store was made by a newer version, or an applied file was edited.
            WarehouseError: the store refused a statement, or another process has been migrating for too long.
        """
        if self._has_books() and not self._pending() and not self._outdated():
            return
        with self._turn():
            for statement in _BOOKS:
                self._run(statement)
            for migration in self._pending():
                self._apply(migration)
            for name, rendered in self._outdated().items():
                self._bring_up(name, rendered)
        self._store.sync()

    def _has_books(self) -> bool:
        tables = {str(row[0]) for row in self._store.rows("SHOW TABLES")}
        if not tables >= {"schema_migrations", "schema_generated"}:
            return False
        columns = "SELECT count() FROM system.columns WHERE database = currentDatabase()"
        ((checksums,),) = self._store.rows(f"{columns} AND table = 'schema_migrations' AND name = 'checksum'")
        return bool(checksums)

    def _pending(self) -> list[Migration]:
        """Return what is to be applied, noting the checksums that an earlier version did not keep."""
        applied = {
            int(row[0]): (str(row[1]), str(row[2]))
            for row in self._store.rows(
                "SELECT version, argMax(name, applied_at), argMax(checksum, checksum != '') "
                "FROM schema_migrations GROUP BY version"
            )
        }
        known = {migration.version: migration for migration in self._migrations}
        for version, (name, checksum) in sorted(applied.items()):
            _refuse_if_other(known.get(version), version, name, checksum, max(known, default=0))
            if not checksum:
                self._note(known[version])
        return [migration for migration in self._migrations if migration.version not in applied]

    def _apply(self, migration: Migration) -> None:
        for statement in sql.statements(migration.content):
            if not _generated_name(statement):  # such a one is made last, by `_bring_up`, when its columns are there
                self._run(self._rendered(statement))
        self._store.sync()  # a power cut must not leave the note without the table
        self._note(migration)
        log.info("applied %s", migration.name)

    def _note(self, migration: Migration) -> None:
        values = f"{migration.version}, '{migration.name}', now64(3), '{migration.checksum}'"
        self._store.command(f"INSERT INTO schema_migrations (version, name, applied_at, checksum) VALUES ({values})")

    def _outdated(self) -> dict[str, str]:
        """Return what is generated and does not stand in the store as it should: name -> statement."""
        noted = {
            str(row[0]): (str(row[1]), str(row[2]))
            for row in self._store.rows(
                "SELECT name, argMax(digest, made_at), argMax(made_by, made_at) FROM schema_generated GROUP BY name"
            )
        }
        there = {str(row[0]) for row in self._store.rows("SHOW TABLES")}
        outdated: dict[str, str] = {}
        for name, statement in sorted(self._generated.items(), key=_comes_late):
            rendered = self._rendered(statement)
            digest, made_by = noted.get(name, ("", ""))
            if name in there and (digest == _digest(rendered) or _is_newer(made_by)):
                continue
            outdated[name] = rendered
        return outdated

    def _bring_up(self, name: str, rendered: str) -> None:
        is_there = name in {str(row[0]) for row in self._store.rows("SHOW TABLES")}
        for statement in _changes(rendered) if is_there else [rendered]:
            self._run(statement)
        self._store.sync()
        values = f"'{name}', '{_digest(rendered)}', '{__version__}', now64(6)"
        self._store.command(f"INSERT INTO schema_generated (name, digest, made_by, made_at) VALUES ({values})")
        log.info("%s stands as this version generates it", name)

    def _rendered(self, statement: str) -> str:
        for _ in range(2):  # a generated text may name the database
            for key, value in self._values.items():
                statement = statement.replace("{{" + key + "}}", value)
        return statement

    def _run(self, statement: str) -> None:
        for one in self._cluster.render(statement) if self._cluster else [statement]:
            self._store.command(one)

    @contextmanager
    def _turn(self) -> Generator[None]:
        """Let one process at a time change a shared store."""
        if not self._is_shared:
            yield
            return
        taken, dropped = self._turn_statements()
        deadline = time.monotonic() + TURN_S
        while not self._take(taken):
            if self._is_stale():
                log.warning("a migration that began %d s ago did not end; its turn is taken", STALE_S)
                self._store.command(dropped)
            elif time.monotonic() > deadline:
                raise WarehouseError("another process is migrating the store; this start tries again")
            else:
                time.sleep(0.5)
        try:
            yield
        finally:
            self._store.command(dropped)

    def _turn_statements(self) -> tuple[str, str]:
        """Return what takes the turn and what gives it back; creating a table, or a Keeper path, is atomic."""
        table, since = "CREATE TABLE schema_turn (holder String)", f"COMMENT '{int(time.time())}'"
        if self._cluster is None:
            return f"{table} ENGINE = Memory {since}", "DROP TABLE IF EXISTS schema_turn SYNC"
        keeper = f"'/clickhouse/tables/all/{self._cluster.database}/schema_turn', 'turn'"
        drop = f"DROP TABLE IF EXISTS schema_turn ON CLUSTER {self._cluster.name} SYNC"
        return f"{table} ENGINE = ReplicatedMergeTree({keeper}) ORDER BY holder {since}", drop

    def _take(self, statement: str) -> bool:
        try:
            self._store.command(statement)
        except WarehouseError as error:
            if re.search(r"Code: (57|253)\b", str(error)):  # the table, or its replica in Keeper, is there already
                return False
            raise
        return True

    def _is_stale(self) -> bool:
        tables = f"clusterAllReplicas('{self._cluster.name}', system.tables)" if self._cluster else "system.tables"
        ((stale,),) = self._store.rows(
            f"SELECT count() FROM {tables} WHERE name = 'schema_turn' AND database = currentDatabase() "
            f"AND toUInt64OrZero(comment) < {int(time.time()) - STALE_S}"
        )
        return bool(stale)


def _refuse_if_other(known: Migration | None, version: int, name: str, checksum: str, newest: int) -> None:
    """Refuse a store that this code must not touch.

    Raises:
        SchemaError: always where the applied migration is not the one of this code.
    """
    if known is None:
        raise SchemaError(
            f"warehouse: the store has the migration {name}, and this version of Farthing ({__version__}) knows those "
            f"up to {newest:04d}; start the newer version again, or restore a backup of before the update"
        )
    if checksum and checksum != known.checksum:
        raise SchemaError(
            f"warehouse: {known.name} was applied with other text (checksum {checksum}, now {known.checksum}); "
            "an applied migration is never edited: put its text back and write the change as a new number"
        )


def _generated_name(statement: str) -> str:
    """Return what a generated statement makes, or ''."""
    if not _GENERATED.search(statement):
        return ""
    match = _VIEW.match(statement) or _DICTIONARY.match(statement) or _NULL_TABLE.match(statement)
    return match.group(1) if match else ""


def _comes_late(generated: tuple[str, str]) -> bool:
    """Tell whether it is no dictionary: views look things up in those."""
    return _DICTIONARY.match(generated[1]) is None


def _changes(rendered: str) -> list[str]:
    """Return what turns an earlier form of what `rendered` creates into this one, with no moment without it."""
    if match := _VIEW.match(rendered):
        return [f"ALTER TABLE {match.group(1)} MODIFY QUERY {rendered[match.end() :]}"]
    if match := _DICTIONARY.match(rendered):
        return [f"CREATE OR REPLACE DICTIONARY {match.group(1)}{rendered[match.end() :]}"]
    match = _NULL_TABLE.match(rendered)
    assert match is not None
    columns = _top_level(match.group(3))
    added = [f"ALTER TABLE {match.group(1)} ADD COLUMN IF NOT EXISTS {column}" for column in columns]
    return added + [f"ALTER TABLE {match.group(1)} MODIFY COLUMN {column}" for column in columns]


def _top_level(columns: str) -> list[str]:
    """Cut a list of columns at its outermost commas."""
    found, depth, start = list[str](), 0, 0
    for at, character in enumerate(columns):
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            found.append(columns[start:at].strip())
            start = at + 1
    return [*found, columns[start:].strip()]


def _digest(rendered: str) -> str:
    return hashlib.sha256(rendered.encode()).hexdigest()[:32]


def _is_newer(version: str) -> bool:
    """Tell whether a later version made it: during a rolling update an old process must not take it back."""

    def key(text: str) -> tuple[int, ...]:
        return tuple(int(number) for number in re.findall(r"\d+", text)[:3])

    return key(version) > key(__version__)
