"""A warehouse on a server that is away, comes back, or is killed: what was acknowledged arrives once."""
from __future__ import annotations

import http.client
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from collector.flush import Flusher
from collector.main import Collector
from collector.pricing import Pricing
from collector.spool import Spool
from farthing.errors import SchemaError, WarehouseError
from farthing.prices import PriceBook
from farthing.settings import IngestKey, Settings
from farthing.warehouse import Warehouse, insert, segment
from farthing.warehouse.lane import Lane
from tests.clickhouse_http import ClickHouse
from tests.collector_bodies import trace_body
from tests.until import until

Serve = Callable[[Collector], AbstractContextManager[int]]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ClickHouse]:
    made = ClickHouse(tmp_path / "clickhouse")
    yield made
    made.stop()


def ask(port: int, method: str, path: str, body: bytes = b"") -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    headers = {"content-type": "application/x-protobuf", "x-farthing-key": "k"}
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    answer = response.read()
    connection.close()
    assert response.status == 200, answer
    return json.loads(answer) if answer else None


def counted(warehouse: Warehouse, tenant: str) -> tuple[int, int]:
    spans = warehouse.rows(f"SELECT count() FROM otel_traces WHERE Tenant = '{tenant}'")[0][0]
    return spans, warehouse.rows(f"SELECT count() FROM requests WHERE tenant = '{tenant}'")[0][0]


def settings_of(tmp_path: Path, server: ClickHouse, tenant: str) -> Settings:
    return Settings(
        data_dir=tmp_path / "home", warehouse=server.dsn, collector_grpc_port=0, flush_interval_s=0.1,
        ingest_keys=(IngestKey("k", tenant),),
    )  # fmt: skip


def test_a_server_that_is_down_at_the_start_and_goes_away_later_costs_nothing(
    server: ClickHouse, tmp_path: Path, serve: Serve
) -> None:
    tenant = uuid.uuid4().hex
    warehouse = Warehouse(server.dsn)
    with serve(Collector(settings_of(tmp_path, server, tenant), warehouse)) as port:
        for _ in range(3):
            ask(port, "POST", "/v1/traces", trace_body(5))
        until(lambda: "does not open" in ask(port, "GET", "/v1/status")["last_error"])
        server.start()
        until(lambda: ask(port, "GET", "/v1/status")["retention"]["ran_at"] != "")
        ask(port, "POST", "/v1/flush")
        assert counted(warehouse, tenant) == (15, 15)
        server.kill()
        for _ in range(3):
            ask(port, "POST", "/v1/traces", trace_body(5))
        failures = ask(port, "GET", "/v1/status")["flush_failures"]
        until(lambda: ask(port, "GET", "/v1/status")["flush_failures"] > failures)
        server.start()
        until(lambda: counted(warehouse, tenant) == (30, 30))
        assert ask(port, "GET", "/v1/status")["dead_letters"] == 0
    warehouse.close()


def test_a_server_that_is_killed_again_and_again_under_ingest_has_every_span_once(
    server: ClickHouse, tmp_path: Path, serve: Serve
) -> None:
    tenant, sent, stop = uuid.uuid4().hex, list[int](), threading.Event()
    warehouse = Warehouse(server.dsn)
    server.start()
    with serve(Collector(settings_of(tmp_path, server, tenant), warehouse)) as port:

        def post() -> None:
            while not stop.is_set():
                ask(port, "POST", "/v1/traces", trace_body(50))
                sent.append(50)
                time.sleep(0.01)

        sender = threading.Thread(target=post)
        sender.start()
        for pause in (0.3, 0.55, 0.8):
            time.sleep(pause)
            server.kill()
            time.sleep(0.2)
            server.start()
        until(lambda: sum(sent) > 500, "enough is sent")
        stop.set()
        sender.join()
        until(lambda: counted(warehouse, tenant) == (sum(sent), sum(sent)))
        assert ask(port, "GET", "/v1/status")["dead_letters"] == 0
    warehouse.close()


def test_a_store_for_another_version_stops_the_start_because_waiting_does_not_help(
    server: ClickHouse, tmp_path: Path
) -> None:
    server.start()
    warehouse = Warehouse(server.dsn)
    warehouse.migrate()
    warehouse.command("INSERT INTO schema_migrations VALUES (9999, '9999_later.sql', now64(3), 'x')")
    with pytest.raises(SchemaError, match=r"9999_later\.sql"):
        Collector(settings_of(tmp_path, server, "t"), warehouse).open()
    warehouse.close()


def segment_of(tmp_path: Path, tenant: str, spans: int) -> Path:
    path = tmp_path / f"{uuid.uuid4().hex}.otlp"
    bodies = [trace_body(spans) for _ in range(3)]
    path.write_bytes(b"".join(segment.frame(tenant, one, time.time_ns() // 10**6, b"d" * 16) for one in bodies))
    return path


@pytest.fixture(params=["served_warehouse", "clustered_warehouse"])
def remote(request: pytest.FixtureRequest) -> Warehouse:
    """Each kind of store that is not ours alone."""
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("window", ["remembered", "forgotten"])
@pytest.mark.parametrize("stored", ["nothing", "one table", "all", "all twice"])
def test_the_rows_decide_what_an_attempt_with_an_unknown_end_left(
    remote: Warehouse, tmp_path: Path, window: str, stored: str
) -> None:
    tenant = uuid.uuid4().hex
    path = segment_of(tmp_path, tenant, 4)
    first = path.stem if window == "remembered" else "another-token-for-the-same-rows"
    remote.insert_otlp(path, f"{first}{tenant}" if window == "forgotten" else first)
    if stored == "all twice":
        remote.insert_otlp(path, f"{tenant}-again")
    if stored in ("nothing", "one table"):
        remote.change(f"DELETE FROM requests WHERE tenant = '{tenant}'")
    if stored == "nothing":
        remote.change(f"DELETE FROM otel_traces WHERE Tenant = '{tenant}'")
    remote.insert_otlp_again(path, path.stem)
    assert counted(remote, tenant) == (12, 12)
    remote.insert_otlp_again(path, path.stem)
    assert counted(remote, tenant) == (12, 12)
    tables = [str(row[0]) for row in remote.rows("SHOW TABLES")]
    assert [name for name in tables if name.startswith(("otlp_stage", "otlp_again"))] == []


def test_an_answer_that_is_lost_makes_the_next_attempt_compare(
    served_warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant, spool = uuid.uuid4().hex, Spool(tmp_path, 10**9)
    now = time.time_ns() // 10**6
    spool.append([segment.frame(tenant, trace_body(3), now, b"d" * 16)])
    flushing = Flusher(spool, served_warehouse, Pricing(served_warehouse, PriceBook()), 3600)
    real = insert.insert

    def stored_but_not_answered(store: insert.Store, path: Path, token: str, lane: Lane) -> None:
        real(store, path, token, lane)
        monkeypatch.setattr(insert, "insert", real)
        raise WarehouseError("the connection was reset")

    monkeypatch.setattr(insert, "insert", stored_but_not_answered)
    flushing.flush()
    assert (flushing.failures, counted(served_warehouse, tenant)) == (1, (3, 3))
    monkeypatch.setattr(insert, "insert", lambda *_: pytest.fail("it is stored already"))
    flushing.flush()
    assert (flushing.failures, counted(served_warehouse, tenant)) == (1, (3, 3))


def test_stages_that_a_crash_left_are_dropped_once_they_are_old(
    served_warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = f"otlp_stage_{int(time.time())}_dead"
    served_warehouse.command(f"CREATE TABLE {stage} (a UInt8) ENGINE = Memory")
    served_warehouse.migrate()
    assert (stage,) in served_warehouse.rows("SHOW TABLES")
    monkeypatch.setattr(insert, "_STAGE_KEPT_S", -5)
    served_warehouse.migrate()
    assert (stage,) not in served_warehouse.rows("SHOW TABLES")
