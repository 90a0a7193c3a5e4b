"""farthing/warehouse/migrate.py and cluster.py: one list of files, for one store or a cluster, applied once."""
from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator

import pytest

from farthing.errors import SchemaError, WarehouseError
from farthing.warehouse import Warehouse, generated, migrate, sql
from farthing.warehouse.cluster import Cluster, sharded_in
from farthing.warehouse.migrate import Migration, Migrator, shipped

TABLE = "-- A table.\nCREATE TABLE IF NOT EXISTS t (a UInt32, b String DEFAULT 'x; -- y') ENGINE = MergeTree ORDER BY a"
SOURCE = "CREATE TABLE IF NOT EXISTS t_in ({{columns}}) ENGINE = Null"
VIEW = "CREATE MATERIALIZED VIEW IF NOT EXISTS t_mv TO t AS\n{{select}}"
FILES = [Migration("0001_t.sql", TABLE), Migration("0002_in.sql", SOURCE), Migration("0003_mv.sql", VIEW)]
VALUES = {"columns": "a UInt32", "select": "SELECT a + 1 AS a FROM t_in"}


class Database:
    """A database of its own in the store at hand."""

    def __init__(self, warehouse: Warehouse) -> None:
        self.name = f"migrate_{uuid.uuid4().hex}"
        self.dsn = warehouse.dsn
        self.is_shared = warehouse.path is None
        self._warehouse = warehouse
        self._local = threading.local()
        self.commands: list[str] = []
        warehouse.command(f"CREATE DATABASE {self.name}")

    @property
    def _client(self) -> object:
        if not hasattr(self._local, "client"):
            self._local.client = self._warehouse._connect()
            self._local.client.database = self.name
        return self._local.client

    def command(self, statement: str) -> None:
        self.commands.append(statement)
        try:
            self._client.command(statement)  # type: ignore[attr-defined]
        except Exception as error:
            raise WarehouseError(str(error)) from error

    def rows(self, statement: str) -> list[list[object]]:
        return self._client.query(statement).result_rows  # type: ignore[attr-defined]

    def sync(self) -> None:
        return

    def migrate(self, files: list[Migration] = FILES, **values: str) -> None:
        Migrator(self, VALUES | values, self.name, is_shared=self.is_shared, migrations=files).run()


@pytest.fixture(params=["embedded_warehouse", "served_warehouse"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    warehouse: Warehouse = request.getfixturevalue(request.param)
    made = Database(warehouse)
    yield made
    warehouse.command(f"DROP DATABASE {made.name}")


@pytest.fixture
def shared_database(served_warehouse: Warehouse) -> Iterator[Database]:
    """One that other processes may migrate too."""
    made = Database(served_warehouse)
    yield made
    served_warehouse.command(f"DROP DATABASE {made.name}")


def test_what_is_applied_is_noted_and_not_applied_again(database: Database) -> None:
    database.migrate()
    noted = database.rows("SELECT version, name, length(checksum) FROM schema_migrations ORDER BY version")
    assert noted == [(1, "0001_t.sql", 32), (2, "0002_in.sql", 32), (3, "0003_mv.sql", 32)]
    database.commands.clear()
    database.migrate()
    assert database.commands == []
    database.command("INSERT INTO t_in SETTINGS async_insert = 0 VALUES (1)")
    assert database.rows("SELECT a, b FROM t") == [(2, "x; -- y")]


def test_a_file_that_was_edited_after_it_was_applied_is_refused(database: Database) -> None:
    database.migrate()
    edited = [Migration("0001_t.sql", TABLE.replace("UInt32", "UInt64")), *FILES[1:]]
    said = r"0001_t\.sql was applied with other text .* write the change as a new number"
    with pytest.raises(SchemaError, match=said):
        database.migrate(edited)


def test_a_store_that_a_newer_version_made_is_refused(database: Database) -> None:
    database.migrate([*FILES, Migration("0004_new.sql", "CREATE TABLE n (a Int8) ENGINE = Memory")])
    with pytest.raises(SchemaError, match=r"has the migration 0004_new.sql, .* knows those up to 0003"):
        database.migrate()


def test_a_store_of_the_time_before_checksums_is_taken_over(database: Database) -> None:
    old = "(version UInt32, name String, applied_at DateTime64(3)) ENGINE = ReplacingMergeTree ORDER BY version"
    database.command(f"CREATE TABLE schema_migrations {old}")
    for migration in FILES:
        database.command(migration.content.replace("{{columns}}", "a UInt32").replace("{{select}}", VALUES["select"]))
        values = f"({migration.version}, '{migration.name}', now64(3))"
        database.command(f"INSERT INTO schema_migrations SETTINGS async_insert = 0 VALUES {values}")
    database.migrate()
    database.migrate()
    with pytest.raises(SchemaError, match="other text"):
        database.migrate([Migration("0001_t.sql", TABLE + " "), *FILES[1:]])


def test_a_view_whose_text_changes_is_altered_and_no_row_is_missed_or_doubled(database: Database) -> None:
    database.migrate()
    database.migrate(columns="a UInt32, c String", select="SELECT a + 10 AS a, c AS b FROM t_in")
    database.command("INSERT INTO t_in SETTINGS async_insert = 0 VALUES (1, 'new')")
    assert database.rows("SELECT a, b FROM t") == [(11, "new")]
    database.commands.clear()
    database.migrate(columns="a UInt32, c String", select="SELECT a + 10 AS a, c AS b FROM t_in")
    assert database.commands == []


def test_a_view_may_use_a_column_that_a_later_file_adds(database: Database) -> None:
    added = Migration("0004_c.sql", "ALTER TABLE t ADD COLUMN IF NOT EXISTS c UInt8;\n-- and one more\nSELECT 1")
    database.migrate([*FILES, added], select="SELECT a, toUInt8(7) AS c FROM t_in")
    database.command("INSERT INTO t_in SETTINGS async_insert = 0 VALUES (1)")
    assert database.rows("SELECT a, c FROM t") == [(1, 7)]


def test_an_older_version_does_not_take_back_what_a_newer_one_generated(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "__version__", "99.0.0")
    database.migrate(select="SELECT a + 2 AS a FROM t_in")
    monkeypatch.undo()
    database.commands.clear()
    database.migrate()
    assert database.commands == []


def test_many_starts_at_once_apply_each_file_once(shared_database: Database) -> None:
    database = shared_database
    once = [*FILES, Migration("0004_fill.sql", "INSERT INTO t (a) SETTINGS async_insert = 0 VALUES (5)")]
    failed: list[BaseException] = []

    def start() -> None:
        try:
            database.migrate(once)
        except BaseException as error:  # noqa: BLE001 - shown below
            failed.append(error)

    threads = [threading.Thread(target=start) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert database.rows("SELECT a FROM t") == [(5,)]
    assert ("schema_turn",) not in database.rows("SHOW TABLES")


def test_a_turn_that_a_dead_process_left_is_waited_for_and_then_taken(
    shared_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = shared_database
    began = int(time.time()) - 100
    database.command(f"CREATE TABLE schema_turn (holder String) ENGINE = Memory COMMENT '{began}'")
    monkeypatch.setattr(migrate, "TURN_S", 0.6)
    with pytest.raises(WarehouseError, match="another process is migrating"):
        database.migrate()
    monkeypatch.setattr(migrate, "STALE_S", 90)
    database.migrate()
    assert database.rows("SELECT count() FROM t") == [(0,)]


# What becomes of the statements on a cluster. No cluster runs here: ClickHouse's own parser reads each of them.


@pytest.fixture(scope="module")
def statements() -> list[str]:
    values = {**generated.values("chdb:///none"), "database": "default"}
    found: list[str] = []
    for statement in (one for migration in shipped() for one in sql.statements(migration.content)):
        for _ in range(2):
            for key, value in values.items():
                statement = statement.replace("{{" + key + "}}", value)
        found.append(statement)
    return found


@pytest.fixture
def formatted(embedded_warehouse: Warehouse) -> Callable[[str], str]:
    """What ClickHouse's parser understands, on one line; an error where it is no SQL."""

    def run(statement: str) -> str:
        client = embedded_warehouse._client()
        return client.query("SELECT formatQuerySingleLine({s:String})", parameters={"s": statement}).result_rows[0][0]

    return run


def test_every_statement_of_the_list_is_valid_on_a_cluster_and_runs_on_every_node(
    statements: list[str], formatted: Callable[[str], str]
) -> None:
    cluster = Cluster("many", "default", sharded_in(statements))
    assert {"otel_traces", "requests"} <= cluster.sharded and not cluster.sharded & {"price_book", "findings"}
    for statement in statements:
        for rendered in cluster.render(statement):
            said = formatted(rendered)
            assert said.startswith("INSERT") or " ON CLUSTER many" in said, said
            assert "ENGINE = MergeTree" not in said and "ENGINE = ReplacingMergeTree" not in said
            assert "non_replicated" not in said


def test_a_sharded_table_is_a_local_one_with_a_distributed_one_over_it(
    statements: list[str], formatted: Callable[[str], str]
) -> None:
    cluster = Cluster("many", "default", sharded_in(statements))
    (source,) = [one for one in statements if one.startswith("CREATE TABLE IF NOT EXISTS requests ")]
    local, over = map(formatted, cluster.render(source))
    assert local.startswith("CREATE TABLE IF NOT EXISTS requests_local ON CLUSTER many (")
    assert "ReplicatedMergeTree('/clickhouse/tables/{shard}/default/requests_local', '{replica}')" in local
    assert "replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800" in local
    assert over == (
        "CREATE TABLE IF NOT EXISTS requests ON CLUSTER many AS requests_local "
        "ENGINE = Distributed('many', 'default', 'requests_local', rand())"
    )


def test_views_read_and_write_the_rows_of_their_own_node(
    statements: list[str], formatted: Callable[[str], str]
) -> None:
    cluster = Cluster("many", "default", sharded_in(statements))
    views = [formatted(*cluster.render(one)) for one in statements if "MATERIALIZED VIEW" in one]
    assert [one.split(" AS ")[0] for one in views[:2]] == [
        "CREATE MATERIALIZED VIEW IF NOT EXISTS otel_traces_mv ON CLUSTER many TO otel_traces_local",
        "CREATE MATERIALIZED VIEW IF NOT EXISTS requests_mv ON CLUSTER many TO requests_local",
    ]
    assert "FROM otlp_in" in views[0] and "FROM otel_traces_local" in views[1]
    (changed,) = cluster.render("ALTER TABLE requests_mv MODIFY QUERY SELECT a FROM otel_traces WHERE b")
    assert formatted(changed) == (
        "ALTER TABLE requests_mv ON CLUSTER many (MODIFY QUERY SELECT a FROM otel_traces_local WHERE b)"
    )


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        (
            "ALTER TABLE requests ADD COLUMN IF NOT EXISTS x UInt8",
            ["ALTER TABLE requests_local ON CLUSTER c (ADD COLUMN IF NOT EXISTS `x` UInt8)",
             "ALTER TABLE requests ON CLUSTER c (ADD COLUMN IF NOT EXISTS `x` UInt8)"],
        ),
        (
            "ALTER TABLE requests DROP PARTITION ID '202601'",
            ["ALTER TABLE requests_local ON CLUSTER c (DROP PARTITION ID '202601')"],
        ),
        ("ALTER TABLE price_book ADD COLUMN y UInt8", ["ALTER TABLE price_book ON CLUSTER c (ADD COLUMN `y` UInt8)"]),
        ("DELETE FROM requests WHERE a = 1", ["DELETE FROM requests_local ON CLUSTER c WHERE a = 1"]),
        ("SYSTEM RELOAD DICTIONARY prices", ["SYSTEM RELOAD DICTIONARY ON CLUSTER c prices"]),
        ("DROP VIEW IF EXISTS requests_mv SYNC", ["DROP VIEW IF EXISTS requests_mv ON CLUSTER c SYNC"]),
        ("DETACH TABLE requests_mv SYNC", ["DETACH TABLE requests_mv ON CLUSTER c SYNC"]),
        ("DROP TABLE requests", ["DROP TABLE requests_local ON CLUSTER c", "DROP TABLE requests ON CLUSTER c"]),
        (
            "CREATE OR REPLACE DICTIONARY p (a UInt64, b UInt64) PRIMARY KEY a SOURCE(CLICKHOUSE(TABLE 't')) "
            "LAYOUT(FLAT()) LIFETIME(0)",
            ["CREATE OR REPLACE DICTIONARY p ON CLUSTER c (`a` UInt64, `b` UInt64) PRIMARY KEY a "
             "SOURCE(CLICKHOUSE(TABLE 't')) LIFETIME(MIN 0 MAX 0) LAYOUT(FLAT())"],
        ),
        (
            "CREATE TABLE r (k UInt8, s AggregateFunction(sum, UInt64)) ENGINE = AggregatingMergeTree() ORDER BY k",
            ["CREATE TABLE r_local ON CLUSTER c (`k` UInt8, `s` AggregateFunction(sum, UInt64)) "
             "ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{shard}/db/r_local', '{replica}') ORDER BY k",
             "CREATE TABLE r ON CLUSTER c AS r_local ENGINE = Distributed('c', 'db', 'r_local', rand())"],
        ),
        (
            "CREATE TABLE findings (v UInt8) ENGINE = ReplacingMergeTree(v) ORDER BY v",
            ["CREATE TABLE findings ON CLUSTER c (`v` UInt8) ENGINE = ReplicatedReplacingMergeTree("
             "'/clickhouse/tables/all/db/findings', '{shard}-{replica}', v) ORDER BY v"],
        ),
    ],
)  # fmt: skip
def test_a_change_reaches_what_it_is_about(
    statement: str, expected: list[str], formatted: Callable[[str], str]
) -> None:
    cluster = Cluster("c", "db", frozenset({"requests", "r"}))
    assert [formatted(one) for one in cluster.render(statement)] == expected
