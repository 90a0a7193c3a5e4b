"""collector/flush.py and commit.py: every segment once, in order, however often it is tried."""
from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from collector.commit import GroupCommit
from collector.flush import MAX_TRIES, Flusher
from collector.pricing import Pricing
from collector.spool import Spool
from farthing import otlp, semconv
from farthing.errors import WarehouseError
from farthing.prices import PriceBook
from farthing.warehouse import Warehouse, insert, segment
from tests.collector_bodies import span_with_ids
from tests.conftest import STORES

AT = 1_795_000_000_000_000_000  # 2026-11-18
DAY_NS = 86_400 * 10**9


@pytest.fixture(params=[*STORES[:2], pytest.param(STORES[2], marks=pytest.mark.proof)])
def warehouse(request: pytest.FixtureRequest) -> Warehouse:
    """Each kind of store in turn."""
    return request.getfixturevalue(request.param)


def body(spans: int) -> bytes:
    attributes = otlp.attributes([(semconv.OPERATION_NAME, "chat"), (semconv.REQUEST_MODEL, "any")])
    ids = [(uuid.uuid4().bytes, uuid.uuid4().bytes[:8]) for _ in range(spans)]
    made = [otlp.span(*pair, b"", "chat", (10**18, 10**18), attributes) for pair in ids]
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


def stored_with(warehouse: Warehouse, tmp_path: Path, columns: str, *bodies: bytes) -> list[tuple[object, ...]]:
    """Spool and flush bodies; return columns of `requests`, and be sure that nothing waits or was buried."""
    tenant = uuid.uuid4().hex
    spool = Spool(tmp_path, 10**9)
    put(spool, tenant, list(bodies))
    flushing = flusher(spool, warehouse)
    flushing.flush()
    assert (flushing.failures, flushing.dead_letters, flushing.last_error) == (0, 0, "")
    assert stored(warehouse, tenant)[0] == len(bodies)
    query = f"SELECT {columns} FROM requests WHERE tenant = '{tenant}' ORDER BY span_id"
    return warehouse._client().query(query).result_rows


def one(
    *values: tuple[str, otlp.Value], window: tuple[int, int] = (AT, AT + 10**9), n: int = 1, name: str = "chat"
) -> bytes:
    given = [(semconv.OPERATION_NAME, "chat"), (semconv.REQUEST_MODEL, "any"), *values]
    span = otlp.span(uuid.uuid4().bytes, n.to_bytes(8, "big"), b"", name, window, otlp.attributes(given))
    return otlp.traces([("service.name", "shop")], "test", "1", [span])


def test_spans_of_many_days_in_one_segment_land_together(warehouse: Warehouse, tmp_path: Path) -> None:
    bodies = [one(window=(AT - day * DAY_NS, AT - day * DAY_NS + 1), n=day + 1) for day in range(400)]
    assert len(set(stored_with(warehouse, tmp_path, "toDate(started_at)", *bodies))) == 400


def test_times_beyond_reason_land_where_they_can_be_found(warehouse: Warehouse, tmp_path: Path) -> None:
    starts = [0, 1, 2**63 - 1, 2**64 - 1]
    bodies = [one(window=(at, AT), n=n + 1) for n, at in enumerate(starts)]
    names = "toString(toYear(started_at)), started_at = received_at, duration_s = 0"
    year = str(time.gmtime().tm_year)
    assert stored_with(warehouse, tmp_path, names, *bodies) == [
        (year, True, True),  # no start: booked when it came
        ("1970", False, False), ("2262", False, True), ("2262", False, True),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "settled"),
    [
        ("abc", None),
        ("9" * 40, None),
        ("", None),
        (1_500_000_000, Decimal("1.5")),
        (2**63 - 1, Decimal("9223372036.854775807")),
    ],
)
def test_a_settled_amount_that_is_none_is_unknown(
    value: otlp.Value, settled: Decimal | None, warehouse: Warehouse, tmp_path: Path
) -> None:
    assert stored_with(warehouse, tmp_path, "settled_usd", one((semconv.SETTLED_NUSD, value))) == [(settled,)]


def test_numbers_that_are_none_are_unknown_and_void_no_sum(warehouse: Warehouse, tmp_path: Path) -> None:
    keys = (semconv.ENGINE_SECONDS, semconv.RESPONSE_TTFC, "gen_ai.request.temperature")
    odd = zip(keys, (float("nan"), float("inf"), float("nan")), strict=True)
    plain = zip(keys, (0.5, 0.25, 1.0), strict=True)
    found = stored_with(warehouse, tmp_path, "engine_s, ttft_s, temperature", one(*odd, n=1), one(*plain, n=2))
    assert found == [(None, None, None), (0.5, 0.25, 1.0)]


@pytest.mark.parametrize("tokens", [-1, 2**32, 2**62, "12x", float("nan")])
def test_a_token_count_that_cannot_be_is_missing(tokens: otlp.Value, warehouse: Warehouse, tmp_path: Path) -> None:
    made = one((semconv.USAGE_INPUT_TOKENS, tokens))
    assert stored_with(warehouse, tmp_path, "input_tokens, usage_source, cost_usd", made) == [(None, "missing", None)]


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(otlp.traces([], "", "", [span_with_ids(b"", b"", at_ns=AT)]), id="no ids, no resource"),
        pytest.param(otlp.traces([], "", "", [span_with_ids(b"x" * 40, b"y", b"z" * 3, AT)]), id="odd ids"),
        pytest.param(one(("long", "x" * 3_000_000)), id="a long value"),
        pytest.param(one(name="ch@t").replace(b"ch@t", b"ch\xfft"), id="a name that is not UTF-8"),
        pytest.param(one(("same", "1"), ("same", "2"), (semconv.TEAM, "a"), (semconv.TEAM, "b")), id="keys twice"),
        pytest.param(one((semconv.POLICIES, "[no"), (semconv.PREFIX_HASHES, '{"a":')), id="JSON that is none"),
    ],
)
def test_odd_spans_land(made: bytes, warehouse: Warehouse, tmp_path: Path) -> None:
    stored_with(warehouse, tmp_path, "1", made)


def test_a_segment_in_several_blocks_is_stored_once_however_often(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"max_block_size": 2, "min_insert_block_size_rows": 1, "min_insert_block_size_bytes": 1}
    monkeypatch.setattr("farthing.warehouse.insert._INSERT", insert._INSERT | small)
    tenant, spool = uuid.uuid4().hex, Spool(tmp_path, 10**9)
    put(spool, tenant, [body(1) for _ in range(9)])
    spool.rotate()
    warehouse.command("SYSTEM STOP MERGES")  # which would make the parts one before they are counted
    try:
        for _ in range(3):
            warehouse.insert_otlp(spool.closed()[0].path, spool.closed()[0].token)
        ((parts,),) = warehouse.rows(f"SELECT uniqExact(_part) FROM otel_traces WHERE Tenant = '{tenant}'")
    finally:
        warehouse.command("SYSTEM START MERGES")
    assert parts > 1
    assert stored(warehouse, tenant) == (9, 9)


@pytest.mark.parametrize("lost", ["rows of both tables", "rows of one table", "the memory of the token"])
def test_what_a_power_cut_took_from_the_store_is_made_good_by_the_next_start(
    warehouse: Warehouse, tmp_path: Path, lost: str
) -> None:
    tenant, spool = uuid.uuid4().hex, Spool(tmp_path, 10**9)
    put(spool, tenant, [body(3), body(4)])
    flusher(spool, warehouse).flush()
    if lost != "the memory of the token":
        warehouse.change(f"DELETE FROM requests WHERE tenant = '{tenant}'")
    if lost == "rows of both tables":
        warehouse.change(f"DELETE FROM otel_traces WHERE Tenant = '{tenant}'")
    if lost == "the memory of the token":
        path = spool.closed()[0].path
        path.rename(path.with_name("0-other.otlp"))
    after = flusher(Spool(tmp_path, 10**9), warehouse)
    after.flush()
    assert (stored(warehouse, tenant), after.failures) == ((7, 7), 0)


def test_a_body_that_the_warehouse_refuses_is_cut_out_and_the_others_land(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant, spool = uuid.uuid4().hex, Spool(tmp_path, 10**9)
    broken = body(1) + b"\x0f"  # whole as a record, no protobuf: there is no wire type 7
    put(spool, tenant, [body(2), broken, body(5)])
    flushing = flusher(spool, warehouse)
    for _ in range(MAX_TRIES + 1):
        flushing.flush()
    assert (stored(warehouse, tenant), flushing.dead_letters) == ((7, 7), 1)
    (grave,) = (tmp_path / "dead-letter").iterdir()
    assert [segment.body_digest_of(grave.read_bytes())] == [segment.digest(tenant, broken)]


def test_an_error_of_the_store_never_costs_a_segment(warehouse: Warehouse, tmp_path: Path) -> None:
    tenant, spool = uuid.uuid4().hex, Spool(tmp_path, 10**9)
    put(spool, tenant, [body(2)])
    flushing = flusher(spool, warehouse)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warehouse, "insert_otlp", refuse("Code: 241. DB::Exception: Memory limit exceeded"))
        for _ in range(3 * MAX_TRIES):
            flushing.flush()
        patch.setattr(warehouse, "insert_otlp", refuse("Code: 9999. DB::Exception: nobody knows"))
        for _ in range(3 * MAX_TRIES):
            flushing.flush()
    assert (flushing.dead_letters, len(spool.closed())) == (0, 1)
    flushing.flush()
    assert stored(warehouse, tenant) == (2, 2)


def refuse(message: str) -> Callable[..., None]:
    def insert(*_: object) -> None:
        raise WarehouseError(f"warehouse: {message}")

    return insert


def test_a_model_whose_price_could_not_be_written_is_looked_up_again(warehouse: Warehouse, tmp_path: Path) -> None:
    spool = Spool(tmp_path, 10**9)
    tenant = uuid.uuid4().hex
    model = [(semconv.PROVIDER_NAME, "openai"), (semconv.RESPONSE_MODEL, "gpt-4.1-nano")]
    put(spool, tenant, [one(*model, (semconv.USAGE_INPUT_TOKENS, 1))])
    flushing = flusher(spool, warehouse)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warehouse, "put_prices", lambda _prices: refuse("away")(tmp_path, ""))
        flushing.flush()
    flushing.flush()
    found = warehouse._client().query(f"SELECT price_state FROM requests WHERE tenant = '{tenant}'").result_rows
    assert found == [("priced",)]


def test_a_model_of_one_segment_is_priced_with_the_provider_of_another_call_there(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    """The span of an agent counts too: it names what its calls use, and may come before them."""
    spool, tenant = Spool(tmp_path, 10**9), uuid.uuid4().hex
    flushing = flusher(spool, warehouse)
    providers = ("azure.ai.openai", "openai")
    agent, chat = (semconv.OPERATION_NAME, "create_agent"), (semconv.OPERATION_NAME, "chat")
    model, used = (semconv.REQUEST_MODEL, "gpt-4.1"), (semconv.USAGE_INPUT_TOKENS, 1)
    put(spool, tenant, [spans_of([(agent, (semconv.PROVIDER_NAME, providers[0])), (agent, model)])])
    flushing.flush()
    put(spool, tenant, [spans_of([(chat, (semconv.PROVIDER_NAME, one), model, used) for one in providers])])
    flushing.flush()
    found = f"SELECT provider, price_state FROM requests WHERE tenant = '{tenant}' ORDER BY provider"
    assert [*map(tuple, warehouse.rows(found))] == [(one, "priced") for one in providers]


def spans_of(attributes: list[tuple[tuple[str, otlp.Value], ...]]) -> bytes:
    """Return a body of one span for each of these."""
    spans = [
        otlp.span(uuid.uuid4().bytes, uuid.uuid4().bytes[:8], b"", "chat", (AT, AT + 10**9), otlp.attributes(given))
        for given in attributes
    ]
    return otlp.traces([("service.name", "shop")], "test", "1", spans)


def test_a_large_process_gives_back_what_it_freed_before_an_insert(
    embedded_warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path, 10**9)
    put(spool, uuid.uuid4().hex, [body(4000) for _ in range(3)])
    flushing = flusher(spool, embedded_warehouse)
    monkeypatch.setattr("farthing.warehouse.client._MOST", 0)
    purges: list[str] = []
    command = embedded_warehouse.command
    monkeypatch.setattr(embedded_warehouse, "command", lambda statement: (purges.append(statement), command(statement)))
    flushing.flush()
    assert (flushing.failures, purges.count("SYSTEM JEMALLOC PURGE")) == (0, 1)
