"""farthing/warehouse: five instrumentations land as the same truth, priced to the nano-dollar."""
from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from farthing import otlp, semconv
from farthing.errors import WarehouseError
from farthing.prices import Price, PriceBook, Rates, SizeTier, Usage
from farthing.warehouse import Warehouse, client, segment, sql
from tests.conftest import STORES
from tests.sums import refresh

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "otlp"
AT = 1_795_000_000_000_000_000  # 2026-11-18
TIERED = Price(
    "test", "tiered", Rates.of(1_250_000_000, 10_000_000_001, 125_000_000, 1_562_500_000), "own",
    tiers=(SizeTier(200, Rates.of(2_500_000_000, 15_000_000_003, 250_000_000, 3_125_000_000)),),
)  # fmt: skip


@pytest.fixture(params=STORES)
def warehouse(request: pytest.FixtureRequest) -> Warehouse:
    """Each kind of store in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def tenant() -> str:
    return f"tenant-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def put(warehouse: Warehouse, tenant: str, tmp_path: Path) -> Callable[[Iterable[bytes]], None]:
    """Store OTLP bodies as the collector does."""

    def store(bodies: Iterable[bytes]) -> None:
        path = tmp_path / f"{uuid.uuid4().hex}.otlp"
        path.write_bytes(b"".join(segment.frame(tenant, one, AT // 10**6, b"d" * 16) for one in bodies))
        book = PriceBook()
        prices = [price for pair in warehouse.unseen_models(path) for price in book.history(*pair)]
        warehouse.put_prices([*prices, TIERED])
        warehouse.insert_otlp(path, path.stem)
        refresh(warehouse, tenant)

    return store


def body(*values: tuple[str, otlp.Value], operation: str = "chat", scope: str = "test", error: str = "") -> bytes:
    given = [(semconv.OPERATION_NAME, operation), *values]
    ids = uuid.uuid4().bytes, uuid.uuid4().bytes[:8], b""
    span = otlp.span(*ids, "chat", (AT, AT + 10**9), otlp.attributes(given), error=error)
    return otlp.traces([("service.name", "shop")], scope, "1", [span])


def columns(warehouse: Warehouse, tenant: str, names: str) -> list[tuple[object, ...]]:
    return (
        warehouse._client()
        .query(f"SELECT {names} FROM requests WHERE tenant = '{tenant}' ORDER BY span_id")
        .result_rows
    )


SUMS = (
    "sum(input_tokens), sum(output_tokens), sum(cache_read_tokens), sum(reasoning_tokens), "
    "countIf(outcome = 'error')"
)
TRUTH = {  # in, out, cached, reasoning, errors: what each instrumentation reports of the same nine calls
    "genai-openai-content0": (607, 200, 320, 80, 1),
    "openllmetry-content0": (607, 200, 320, 64, 1),
    "openai-v2-content0": (487, 160, 0, None, 1),
}


@pytest.mark.parametrize("dialect", TRUTH)
def test_a_dialect_lands_as_its_truth(
    dialect: str, warehouse: Warehouse, tenant: str, put: Callable[..., None], shared: Callable[[str], Path]
) -> None:
    put([shared(f"fixtures/otlp/{dialect}/traces-00.bin").read_bytes()])
    assert columns_sum(warehouse, tenant, SUMS) == TRUTH[dialect]


@pytest.mark.parametrize(
    ("dialect", "truth"), [("openinference", (607, 200, 320, 80, 1)), ("openlit", (641, 208, 320, 16, 1))]
)
def test_a_dialect_of_another_family_lands_as_its_truth(
    dialect: str, truth: tuple[int, ...], warehouse: Warehouse, tenant: str, put: Callable[..., None]
) -> None:
    put([(FIXTURES / f"{dialect}.bin").read_bytes()])
    assert columns_sum(warehouse, tenant, SUMS) == truth
    kinds = "input_uncached + cache_read_tokens + cache_write_tokens"
    assert columns_sum(warehouse, tenant, f"countIf({kinds} != input_tokens), uniq(provider)") == (0, 1)


def columns_sum(warehouse: Warehouse, tenant: str, names: str) -> tuple[object, ...]:
    return warehouse._client().query(f"SELECT {names} FROM requests WHERE tenant = '{tenant}'").result_rows[0]


@pytest.mark.parametrize("usage", [Usage(100, 50, 30, 7), Usage(100, 60, 60, 7), Usage(0, 0, 0, 0), Usage(1, 0, 0, 1)])
def test_the_warehouse_prices_as_the_ledger_does(
    usage: Usage, warehouse: Warehouse, tenant: str, put: Callable[..., None]
) -> None:
    put([body(
        (semconv.PROVIDER_NAME, "test"), (semconv.REQUEST_MODEL, "tiered"), (semconv.USAGE_INPUT_TOKENS, usage.input),
        (semconv.USAGE_CACHE_READ_TOKENS, usage.cache_read), (semconv.USAGE_CACHE_WRITE_TOKENS, usage.cache_write),
        (semconv.USAGE_OUTPUT_TOKENS, usage.output), (semconv.USAGE_SOURCE, "provider"),
    )])  # fmt: skip
    expected = Decimal(TIERED.cost_nusd(usage)).scaleb(-9)
    assert columns(warehouse, tenant, "cost_usd, price_state, input_uncached") == [
        (expected, "priced", usage.input_uncached)
    ]


def test_a_call_is_priced_as_what_answered_else_as_what_was_asked_for(
    warehouse: Warehouse, tenant: str, put: Callable[..., None]
) -> None:
    put([body(
        (semconv.PROVIDER_NAME, "openai"), (semconv.REQUEST_MODEL, "gpt-4o-mini"), (semconv.RESPONSE_MODEL, "my-alias"),
        (semconv.USAGE_INPUT_TOKENS, 1_000_000), (semconv.USAGE_OUTPUT_TOKENS, 0),
    )])  # fmt: skip
    assert columns(warehouse, tenant, "model, response_model, cost_usd") == [
        ("gpt-4o-mini", "my-alias", Decimal("0.15"))
    ]


def test_unknown_usage_is_null_and_says_so(warehouse: Warehouse, tenant: str, put: Callable[..., None]) -> None:
    put([body((semconv.PROVIDER_NAME, "openai"), (semconv.REQUEST_MODEL, "gpt-4o-mini"))])
    names = "input_tokens, output_tokens, cost_usd, usage_source, price_state"
    assert columns(warehouse, tenant, names) == [(None, None, None, "missing", "no_usage")]


def test_spans_that_are_no_model_call_carry_no_money(
    warehouse: Warehouse, tenant: str, put: Callable[..., None]
) -> None:
    tokens = (semconv.USAGE_INPUT_TOKENS, 10)
    put([body(tokens, operation=name) for name in ("invoke_agent", "execute_tool", "fetch_response")])
    assert columns(warehouse, tenant, "operation") == []


def test_tags_and_marks_of_the_sdk_arrive(warehouse: Warehouse, tenant: str, put: Callable[..., None]) -> None:
    put([body(
        (semconv.TEAM, "search"), (semconv.USER, "ann"), (semconv.TAG_PREFIX + "tier", "batch"),
        (semconv.BILLED, False),
        (semconv.UNBILLED_REASON, "proxy"), (semconv.POLICIES, ("a", "b")),
    )])  # fmt: skip
    names = "team, user, tags, billed, unbilled_reason, policies"
    assert columns(warehouse, tenant, names) == [("search", "ann", {"tier": "batch"}, False, "proxy", ["a", "b"])]


def test_a_question_is_answered_for_one_tenant_alone(
    warehouse: Warehouse, tenant: str, put: Callable[..., None]
) -> None:
    put([body((semconv.TEAM, "search"))])
    window = {"since": datetime(2026, 11, 1, tzinfo=timezone.utc), "until": datetime(2026, 12, 1, tzinfo=timezone.utc)}
    for asked, expected in ((tenant, 1), (f"not-{tenant}", 0)):
        (row,) = warehouse.ask("totals", tenant=asked, part="test", teams=[], models=[], **window)
        assert row["requests"] == expected


def test_every_question_binds_the_tenant() -> None:
    folder = Path(__file__).resolve().parents[2] / "farthing" / "warehouse" / "queries"
    files = sorted(folder.glob("*.sql"))
    assert len(files) >= 10
    for path in files:
        text = path.read_text("utf-8")
        assert text.startswith("-- "), path.name
        asked = ("requests", "hourly", "hourly_latency", "hourly_unpriced", "findings", "otel_metrics")
        whole = sql.asked("queries", path.name)
        tables = sum(len(re.findall(rf"FROM {table}\b", whole)) for table in asked)
        assert whole.count("tenant = {tenant:String}") == tables, path.name


def test_a_store_that_another_process_has_open_is_refused_in_one_line(tmp_path: Path) -> None:
    import fcntl

    (tmp_path / "store").mkdir()
    with (tmp_path / "store" / "status").open("wb") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(WarehouseError, match="in use by another process"):
            Warehouse(f"chdb://{tmp_path / 'store'}")


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("UTC", (2026, 10, 25), 24),
        ("Europe/Berlin", (2026, 10, 25), 25),
        ("Europe/Berlin", (2026, 3, 29), 23),
        ("Asia/Kolkata", (2026, 3, 29), 24),
    ],
)
def test_a_day_begins_at_local_midnight_and_has_the_hours_that_it_has(
    zone: str, day: tuple[int, int, int], hours: int, warehouse: Warehouse, tenant: str, put: Callable[..., None]
) -> None:
    midnight = datetime(*day, tzinfo=ZoneInfo(zone))
    first = int(midnight.timestamp())
    attributes = otlp.attributes([(semconv.OPERATION_NAME, "chat"), (semconv.REQUEST_MODEL, "m")])
    moments = [(first + 1800 + 3600 * n) * 10**9 for n in range(-3, hours + 3)]
    spans = [
        otlp.span(uuid.uuid4().bytes, uuid.uuid4().bytes[:8], b"", "chat", (at, at), attributes) for at in moments
    ]
    put([otlp.traces([("service.name", "shop")], "test", "1", spans)])
    window = {"since": midnight - timedelta(days=2), "until": midnight + timedelta(days=3), "step": 86_400, "tz": zone}
    days = warehouse.ask("over_time", tenant=tenant, part="test", teams=[], models=[], **window)
    assert [row["requests"] for row in days] == [3, hours, 3]
    assert days[1]["bucket"] == first


@pytest.mark.parametrize(
    ("limit", "value", "code"),
    [
        ("max_rows_to_read", 1, 158),
        ("max_memory_usage", 1, 241),
        ("max_execution_time", 0.000_001, 159),
        ("max_result_rows", 1, 396),
    ],
)
def test_a_question_past_a_limit_is_refused(
    limit: str, value: float, code: int, warehouse: Warehouse, tenant: str, put: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    put([body((semconv.REQUEST_MODEL, f"m{n}"), (semconv.TEAM, f"t{n}")) for n in range(20)])
    window = {"since": datetime(2026, 11, 1, tzinfo=timezone.utc), "until": datetime(2026, 12, 1, tzinfo=timezone.utc)}
    asked = {"tenant": tenant, "part": "test", "teams": [], "models": [], "limit": 1000, **window}
    assert len(warehouse.ask("cost_by_model", **asked)) == 20
    monkeypatch.setitem(client._LIMITS, limit, value)
    with pytest.raises(WarehouseError, match=rf"question cost_by_model: .*Code: {code}\b"):
        warehouse.ask("cost_by_model", **asked)
    monkeypatch.undo()
    assert len(warehouse.ask("cost_by_model", **asked)) == 20


def test_a_question_tells_the_store_s_log_who_asks(
    warehouse: Warehouse, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    statement = "SELECT getSetting('log_comment') AS comment, {tenant:String} AS tenant"
    monkeypatch.setattr(client.sql, "asked", lambda folder, name: statement)
    answer = warehouse.ask("totals", tenant=tenant, part="dashboard")
    assert answer == [{"comment": "farthing/dashboard/totals", "tenant": tenant}]


def test_the_store_keeps_no_logs_of_its_own_that_could_grow(embedded_warehouse: Warehouse) -> None:
    embedded_warehouse.rows("SELECT sum(number) FROM numbers(1000)")
    embedded_warehouse.command("SYSTEM FLUSH LOGS")
    tables = "SELECT name FROM system.tables WHERE database = 'system' AND engine LIKE '%MergeTree'"
    assert embedded_warehouse.rows(tables) == []


def test_what_token_policies_cut_is_asked_by_kind_and_shadow_apart(
    warehouse: Warehouse, tenant: str, put: Callable[[Iterable[bytes]], None]
) -> None:
    cut = {"before": 900, "after": 300, "cut.history": 500, "cut.whitespace": 100, "turns_cut": 7}
    facts = ((semconv.TEAM, "search"), (semconv.REQUEST_MODEL, "m"))
    own = tuple((semconv.TOKENS_PREFIX + name, value) for name, value in cut.items())
    shadow = ((f"{semconv.TOKENS_SHADOW_PREFIX}before", 900), (f"{semconv.TOKENS_SHADOW_PREFIX}refused", 1))
    put([body(*facts, *own), body(*facts, *own, *shadow), body(*facts)])
    since = datetime.fromtimestamp(AT / 1e9, timezone.utc)
    rows = warehouse.ask(
        "tokens_cut", tenant=tenant, part="test", since=since, until=since + timedelta(hours=1), limit=10
    )
    names = ("is_shadow", "requests", "refused", "tokens_before", "tokens_after", "history", "whitespace", "turns")
    assert [tuple(row[name] for name in names) for row in rows] == [
        (False, 2, 0, 1800, 600, 1000, 200, 14), (True, 1, 1, 900, 0, 0, 0, 0),
    ]  # fmt: skip


def test_a_merge_builds_the_indexes_of_attributes_that_an_insert_leaves_out(
    embedded_warehouse: Warehouse, tenant: str, tmp_path: Path
) -> None:
    received = datetime(2031, 1, 1, 12, tzinfo=timezone.utc)  # a partition of its own
    path = tmp_path / f"{uuid.uuid4().hex}.otlp"
    sent = body((semconv.REQUEST_MODEL, "tiered"))
    path.write_bytes(segment.frame(tenant, sent, int(received.timestamp() * 1000), b"d" * 16))
    embedded_warehouse.insert_otlp(path, path.stem)
    size = (
        "SELECT sum(secondary_indices_uncompressed_bytes) FROM system.parts "
        "WHERE table = 'otel_traces' AND active AND partition = '2031-01-01'"
    )
    ((inserted,),) = embedded_warehouse.rows(size)
    embedded_warehouse.command("OPTIMIZE TABLE otel_traces PARTITION '2031-01-01' FINAL")
    ((merged,),) = embedded_warehouse.rows(size)
    embedded_warehouse.command("ALTER TABLE otel_traces DROP PARTITION '2031-01-01'")
    embedded_warehouse.command("ALTER TABLE requests DROP PARTITION 203101")
    assert 0 < inserted < merged


def test_a_call_s_virtual_key_is_a_column_of_its_row(
    warehouse: Warehouse, tenant: str, put: Callable[[Iterable[bytes]], None]
) -> None:
    facts = ((semconv.TEAM, "search"), (semconv.REQUEST_MODEL, "m"))
    put([body(*facts, (semconv.KEY, "search-prod")), body(*facts)])
    asked = "SELECT api_key FROM requests WHERE tenant = {tenant:String} ORDER BY api_key"
    rows = warehouse.query(asked, tenant=tenant)
    assert [row["api_key"] for row in rows] == ["", "search-prod"]
