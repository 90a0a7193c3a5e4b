"""farthing/warehouse/price_rule.py: whatever is reported, the warehouse's price is the ledger's to the nano-dollar."""
from __future__ import annotations

import uuid
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farthing import otlp, semconv
from farthing.tariff import Price, Rates, Reported, SizeTier, service_tier
from farthing.warehouse import Warehouse, segment
from farthing.warehouse.price_store import Period, PriceStore

DAY = date(2026, 11, 18)
NOON_NS = int(datetime(2026, 11, 18, 12, tzinfo=timezone.utc).timestamp()) * 10**9
FACTS = (  # in the order of the fields of Reported
    semconv.USAGE_INPUT_TOKENS, semconv.USAGE_OUTPUT_TOKENS, semconv.USAGE_CACHE_READ_TOKENS,
    semconv.USAGE_CACHE_WRITE_TOKENS, semconv.CACHE_WRITE_1H_TOKENS, semconv.AUDIO_INPUT_TOKENS,
    semconv.CACHED_AUDIO_TOKENS, semconv.AUDIO_OUTPUT_TOKENS,
)  # fmt: skip
KINDS = (
    "input_uncached", "cache_read_tokens", "cache_write_tokens", "output_tokens - output_audio_tokens",
    "cache_write_1h_tokens", "input_audio_tokens", "cache_audio_tokens", "output_audio_tokens",
)  # fmt: skip

rates = st.builds(Rates, *[st.integers(0, 10**12)] * len(Rates._fields))
sizes = st.lists(st.integers(1, 3000), max_size=3, unique=True).map(sorted)
tokens = st.integers(0, 2000)
reports = st.builds(Reported, tokens, tokens, *[st.one_of(st.just(0), tokens)] * 6)
words = st.sampled_from(["", "default", "auto", "standard", "flex", " Priority", "batch", "scale"])
own_tiers = st.sets(st.sampled_from(["", "flex", "priority", "batch"]))


@st.composite
def priced_models(draw: st.DrawFn) -> list[Price]:
    """The prices of one model: some service tiers, some of them with size tiers."""
    name = f"m-{uuid.uuid4().hex[:12]}"
    return [
        Price("test", name, draw(rates), f"made up {tier}", tier,
              tiers=tuple(SizeTier(over, draw(rates)) for over in draw(sizes)))
        for tier in draw(own_tiers)
    ]  # fmt: skip


def span(
    model: str, reported: Reported, tier: str = "", at_ns: int = NOON_NS, more: dict[str, otlp.Value] | None = None
) -> bytes:
    attributes: list[tuple[str, otlp.Value]] = [
        (semconv.OPERATION_NAME, "chat"), (semconv.PROVIDER_NAME, "test"), (semconv.REQUEST_MODEL, model),
        (semconv.USAGE_SOURCE, "provider"),  # so that 0 is a count, not the absence of one
        *((name, value) for name, value in zip(FACTS, tuple(reported), strict=True)),
        *(more or {}).items(),
    ]  # fmt: skip
    if tier:
        attributes.append((semconv.OPENAI_RESPONSE_SERVICE_TIER, tier))
    ids = uuid.uuid4().bytes, uuid.uuid4().bytes[:8], b""
    return otlp.span(*ids, "chat", (at_ns, at_ns + 1), otlp.attributes(attributes))


def store(warehouse: Warehouse, folder: Path, tenant: str, spans: list[bytes]) -> None:
    body = otlp.traces([("service.name", "shop")], "test", "1", spans)
    path = folder / f"{uuid.uuid4().hex}.otlp"
    path.write_bytes(segment.frame(tenant, body, NOON_NS // 10**6, b"d" * 16))
    warehouse.insert_otlp(path, path.stem)


def rows(warehouse: Warehouse, tenant: str, columns: str) -> list[tuple[Any, ...]]:
    found = warehouse.query(
        f"SELECT {columns} FROM requests WHERE tenant = {{tenant:String}} ORDER BY started_at, span_id", tenant=tenant
    )
    return [tuple(row.values()) for row in found]


def usd(nusd: int) -> Decimal:
    return Decimal(nusd).scaleb(-9)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(priced_models(), min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(0, 5), reports, words), min_size=20, max_size=120),
)
def test_any_usage_costs_the_same_in_sql_and_in_python(
    warehouse: Warehouse, tmp_path: Path, models: list[list[Price]], calls: list[tuple[int, Reported, str]]
) -> None:
    tenant = f"tenant-{uuid.uuid4().hex[:12]}"
    warehouse.put_prices([price for prices in models for price in prices])
    spans, expected = [], []
    for number, (which, reported, word) in enumerate(calls):
        prices = models[which % len(models)]
        name = prices[0].model if prices else "nobody-has-a-price"
        spans.append(span(name, reported, word, NOON_NS + number * 1000))
        price = next((one for one in prices if one.service_tier == service_tier(word)), None)
        cost = None if price is None else usd(price.cost_nusd(reported.usage()))
        expected.append((*reported.usage(), service_tier(word), cost, price.version if price else ""))
    store(warehouse, tmp_path, tenant, spans)
    found = rows(warehouse, tenant, f"{', '.join(KINDS)}, service_tier, cost_usd, price_version")
    assert found == expected
    for price in (price for prices in models for price in prices):
        for _, reported, _ in calls:
            usage = reported.usage()
            assert price.cost_nusd(usage) <= price.bound_nusd(usage.input, usage.output_total)


@given(reports)
def test_the_kinds_are_disjoint_and_sum_to_the_totals(reported: Reported) -> None:
    usage = reported.usage()
    assert min(usage) >= 0
    assert (usage.input, usage.output_total) == (reported.input, reported.output)


def test_a_size_tier_holds_for_the_whole_call_from_the_first_token_beyond_it() -> None:
    price = Price("test", "m", Rates.of(10**9, 0), "own", tiers=(
        SizeTier(100, Rates.of(2 * 10**9, 0)), SizeTier(1000, Rates.of(3 * 10**9, 0)),
    ))  # fmt: skip
    costs = [price.cost_nusd(Reported(tokens).usage()) for tokens in (100, 101, 1000, 1001)]
    assert costs == [100_000, 202_000, 2_000_000, 3_003_000]


@pytest.mark.parametrize(
    ("attribute", "kind"),
    [
        ("gen_ai.usage.details.ephemeral_1h_input_tokens", "cache_write_1h_tokens"),
        ("llm.token_count.prompt_details.audio", "input_audio_tokens"),
        ("gen_ai.usage.audio.input_tokens", "input_audio_tokens"),
        ("gen_ai.usage.details.input_audio_tokens", "input_audio_tokens"),
        ("llm.token_count.completion_details.audio", "output_audio_tokens"),
        ("gen_ai.usage.completion_tokens_details.audio_tokens", "output_audio_tokens"),
    ],
)
def test_the_kinds_arrive_under_the_names_that_emitters_give_them(
    warehouse: Warehouse, tmp_path: Path, attribute: str, kind: str
) -> None:
    tenant = f"tenant-{uuid.uuid4().hex[:12]}"
    given = [(semconv.OPERATION_NAME, "chat"), (semconv.USAGE_INPUT_TOKENS, 100), (semconv.USAGE_OUTPUT_TOKENS, 50)]
    attributes = otlp.attributes([*given, (attribute, 7)])
    one = otlp.span(uuid.uuid4().bytes, uuid.uuid4().bytes[:8], b"", "chat", (NOON_NS, NOON_NS + 1), attributes)
    store(warehouse, tmp_path, tenant, [one])
    assert rows(warehouse, tenant, kind) == [(7,)]


@pytest.mark.parametrize(
    ("given", "tier"),
    [
        ({"openai.response.service_tier": "flex", "openai.request.service_tier": "auto"}, "flex"),
        ({"gen_ai.openai.response.service_tier": "priority"}, "priority"),
        ({"gen_ai.openai.request.service_tier": "flex"}, "flex"),
        ({"openai.response.service_tier": "default", "openai.request.service_tier": "priority"}, ""),
        ({"gen_ai.request.service_tier": "auto"}, ""),
        ({"farthing.service_tier": "batch", "openai.response.service_tier": "default"}, "batch"),
    ],
)
def test_what_was_served_goes_before_what_was_asked_for(
    warehouse: Warehouse, tmp_path: Path, given: dict[str, str], tier: str
) -> None:
    tenant = f"tenant-{uuid.uuid4().hex[:12]}"
    store(warehouse, tmp_path, tenant, [span("m", Reported(1, 1), more=dict(given))])
    assert rows(warehouse, tenant, "service_tier") == [(tier,)]


@pytest.mark.parametrize(
    ("provider", "address", "lands_as"),
    [
        ("openai", "", "openai"),
        ("openai", "api.openai.com", "openai"),
        ("openai", "eu.api.openai.com", "openai"),
        ("openai", "https://api.openai.com/v1/", "openai"),
        ("openai", "http://llm.internal:8000/v1/api.openai.com/v1", "self-hosted"),
        ("openai", "10.0.0.7", "self-hosted"),
        ("openai", "localhost", "self-hosted"),
        ("openai", "llm.internal", "self-hosted"),
        ("openai", "api.openai.com.example.org", "self-hosted"),
        ("openai", "notopenai.com", "self-hosted"),
        ("anthropic", "api.openai.com", "self-hosted"),
        ("aws.bedrock", "bedrock-runtime.eu-west-1.amazonaws.com", "aws.bedrock"),
        ("azure.ai.openai", "shop.openai.azure.com", "azure.ai.openai"),
        ("gcp.gemini", "generativelanguage.googleapis.com", "gcp.gemini"),
        ("vllm", "10.0.0.7", "vllm"),
        ("farthing", "127.0.0.1", "farthing"),
    ],
)
def test_a_public_provider_s_name_at_another_address_is_somebody_s_own(
    warehouse: Warehouse, tmp_path: Path, provider: str, address: str, lands_as: str
) -> None:
    tenant = f"tenant-{uuid.uuid4().hex[:12]}"
    given = [(semconv.OPERATION_NAME, "chat"), (semconv.PROVIDER_NAME, provider), (semconv.SERVER_ADDRESS, address)]
    ids = uuid.uuid4().bytes, uuid.uuid4().bytes[:8], b""
    store(warehouse, tmp_path, tenant, [otlp.span(*ids, "c", (NOON_NS, NOON_NS), otlp.attributes(given))])
    assert rows(warehouse, tenant, "provider") == [(lands_as,)]


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(priced_models(), priced_models(), st.lists(st.tuples(reports, words), min_size=30, max_size=60))
def test_repricing_gives_each_row_of_the_period_its_new_price_and_leaves_the_others(
    warehouse: Warehouse, tmp_path: Path, before: list[Price], after: list[Price], calls: list[tuple[Reported, str]]
) -> None:
    tenant, name = f"tenant-{uuid.uuid4().hex[:12]}", f"m-{uuid.uuid4().hex[:12]}"
    prices = PriceStore(warehouse)
    first = datetime(2026, 11, 18, 12, tzinfo=timezone.utc)
    period = Period(first + timedelta(seconds=10), first + timedelta(seconds=20), name)

    def booked(made: list[Price]) -> list[Price]:
        return [Price("test", name, one.rates, one.version, one.service_tier, tiers=one.tiers) for one in made]

    prices.replace("test", name, booked(before))
    store(warehouse, tmp_path, tenant, [
        span(name, reported, word, NOON_NS + number * 10**9, {semconv.SETTLED_NUSD: 77})
        for number, (reported, word) in enumerate(calls)
    ])  # fmt: skip
    whole = "* EXCEPT (tags, policies, prefix_hashes)"
    old = rows(warehouse, tenant, whole)
    prices.replace("test", name, booked(after))
    foreseen = prices.compare(period)
    prices.reprice(period)
    new = rows(warehouse, tenant, whole)
    assert new[:10] == old[:10] and new[20:] == old[20:]
    costs = rows(warehouse, tenant, "cost_usd, price_version, price_state, settled_usd")[10:20]
    for (reported, word), found in zip(calls[10:20], costs, strict=True):
        price = next((one for one in after if one.service_tier == service_tier(word)), None)
        cost = None if price is None else usd(price.cost_nusd(reported.usage()))
        state = "unpriced" if price is None else "priced"
        assert found == (cost, price.version if price else "", state, usd(77))
    assert sum(row["rows"] for row in foreseen) == 10
    assert sum(row["new_usd"] or 0 for row in foreseen) == sum(cost or 0 for cost, *_ in costs)
    assert sum(row["changed"] for row in prices.compare(period)) == 0
    prices.reprice(period)
    assert rows(warehouse, tenant, whole) == new


def test_input_that_a_cache_spared_is_saved_beside_what_the_rest_cost(warehouse: Warehouse, tmp_path: Path) -> None:
    tenant = f"tenant-{uuid.uuid4().hex[:12]}"
    warehouse.put_prices([Price("test", "partly-cached", Rates.of(10**9, 0), "own")])
    spared = {semconv.CACHE_SAVED_INPUT_TOKENS: 6}
    whole = {semconv.CACHE_HIT: "embedding"}
    stored = [span("partly-cached", Reported(3), at_ns=NOON_NS + n * 1000, more=dict(more))
              for n, more in enumerate(({}, spared, whole))]  # fmt: skip
    stored.append(span("nobody-has-a-price", Reported(3), at_ns=NOON_NS + 9000, more=dict(spared)))
    store(warehouse, tmp_path, tenant, stored)
    found = rows(warehouse, tenant, "cost_usd, saved_usd, saved_input_tokens")
    assert found == [
        (usd(3000), None, 0), (usd(3000), usd(6000), 6), (usd(0), usd(3000), 0), (None, None, 6)
    ]  # fmt: skip
