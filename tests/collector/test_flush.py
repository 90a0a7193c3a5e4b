"""collector/flush.py and commit.py: every segment once, in order, however often it is tried."""
from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

from collector.commit import GroupCommit
from collector.flush import MAX_TRIES, Flusher
from collector.pricing import Pricing
from collector.spool import Spool
from farthing import otlp, semconv
from farthing.prices import PriceBook
from farthing.warehouse import Warehouse


def body(spans: int) -> bytes:
    attributes = otlp.attributes([(semconv.OPERATION_NAME, "chat"), (semconv.REQUEST_MODEL, "any")])
    made = [otlp.span(uuid.uuid4().bytes, uuid.uuid4().bytes[:8], b"", "chat", (10**18, 10**18), attributes) for _ in range(spans)]
    return otlp.traces([("service.name", "shop")], "test", "1", made)


def stored(warehouse: Warehouse, tenant: str) -> tuple[int, int]:
    client = warehouse._client()
    spans = client.query(f"SELECT count() FROM otel_traces WHERE Tenant = '{tenant}'").result_rows[0][0]
    requests = client.query(f"SELECT count() FROM requests WHERE tenant = '{tenant}'").result_rows[0][0]
    return spans, requests


def put(spool: Spool, tenant: str, bodies: list[bytes]) -> None:
    async def send() -> None:
        commit = GroupCommit(spool)
        await asyncio.gather(*(commit.put(tenant, one) for one in bodies))

    asyncio.run(send())


def flusher(spool: Spool, warehouse: Warehouse) -> Flusher:
    return Flusher(spool, warehouse, Pricing(warehouse, PriceBook()), interval_s=3600)


def test_a_segment_that_is_replayed_after_a_crash_is_stored_once(warehouse: Warehouse, tmp_path: Path) -> None:
    tenant = uuid.uuid4().hex
    spool = Spool(tmp_path, 10**9)
    put(spool, tenant, [body(3), body(4)])
    flusher(spool, warehouse).flush()  # and then, before anything is forgotten, the process dies
    after = Spool(tmp_path, 10**9)
    flusher(after, warehouse).flush()
    assert len(after.closed()) == 1
    assert stored(warehouse, tenant) == (7, 7)


def test_a_poison_segment_is_buried_and_the_next_one_goes_on(warehouse: Warehouse, tmp_path: Path) -> None:
    tenant = uuid.uuid4().hex
    spool = Spool(tmp_path, 10**9)
    spool.append([b"\x05not p"])
    spool.rotate()
    put(spool, tenant, [body(2)])
    flushing = flusher(spool, warehouse)
    for _ in range(MAX_TRIES + 1):
        flushing.flush()
    assert flushing.dead_letters == 1
    assert [path.read_bytes() for path in (tmp_path / "dead-letter").iterdir()] == [b"\x05not p"]
    assert stored(warehouse, tenant) == (2, 2)


def test_a_body_in_flight_twice_is_written_once(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 10**9)
    same = body(1)
    put(spool, "acme", [same, same, same, body(1)])
    spool.rotate()
    assert len(spool.recent_digests(60)) == 2


def test_what_is_inserted_is_forgotten_only_after_a_sync(warehouse: Warehouse, tmp_path: Path) -> None:
    spool = Spool(tmp_path, 10**9)
    put(spool, uuid.uuid4().hex, [body(1)])
    flushing = flusher(spool, warehouse)
    flushing.start()
    flushing.flush()
    assert len(spool.closed()) == 1
    flushing.stop()
    assert spool.closed() == []
