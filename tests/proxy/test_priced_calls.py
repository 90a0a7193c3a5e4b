"""What the proxy charges is what the warehouse books: each kind of token, each service tier, prices added meanwhile."""
from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from collector.main import Collector
from farthing import otlp, semconv
from farthing.policy import Facts
from farthing.prices import Price, PriceBook, Rates, Usage
from farthing.settings import Deployment, PriceOverride, Settings
from farthing.warehouse import Warehouse, segment
from proxy.call import Call
from proxy.formats import FORMATS
from proxy.offers import _billable, _tier
from proxy.own_prices import PriceFeed
from proxy.record import encode_span
from proxy.upstream import Client

CHAT, _, RESPONSES, _, MESSAGES = FORMATS
REPORTED = {
    "prompt_tokens": 1000, "completion_tokens": 300,
    "prompt_tokens_details": {"cached_tokens": 200, "audio_tokens": 150, "cached_tokens_details": {"audio_tokens": 50},
                              "cache_write_tokens": 30},
    "completion_tokens_details": {"reasoning_tokens": 10, "audio_tokens": 40},
}  # fmt: skip
TOLD = Usage(input_uncached=670, cache_read=150, cache_write=30, output=260, input_audio=100, cache_audio=50,
             output_audio=40)  # fmt: skip
WRITTEN = {"input_tokens": 5, "cache_read_input_tokens": 7, "cache_creation_input_tokens": 100, "output_tokens": 9,
           "cache_creation": {"ephemeral_5m_input_tokens": 60, "ephemeral_1h_input_tokens": 40},
           "service_tier": "priority"}  # fmt: skip


def event(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def test_a_chat_answer_tells_audio_what_was_cached_of_it_and_the_service_tier() -> None:
    answer = {"id": "x", "choices": [{"finish_reason": "stop"}], "usage": REPORTED, "service_tier": "flex"}
    told = CHAT.told(json.dumps(answer).encode())
    assert told is not None and (told.usage, told.service_tier) == (TOLD, "flex")
    relay = CHAT.relay(CHAT.read(b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": true}'))
    relay.feed(event(answer | {"choices": []}) + b"data: [DONE]\n\n")
    assert (relay.usage, relay.service_tier) == (TOLD, "flex")


@pytest.mark.parametrize("said", [None, 5, {"name": "flex"}, "x" * 33])
def test_a_service_tier_that_is_no_short_word_is_none_and_spoils_nothing(said: object) -> None:
    told = CHAT.told(json.dumps({"choices": [], "usage": REPORTED, "service_tier": said}).encode())
    assert told is not None and (told.usage, told.service_tier) == (TOLD, "")


def test_a_message_tells_what_is_kept_for_an_hour() -> None:
    expected = Usage(input_uncached=5, cache_read=7, cache_write=60, output=9, cache_write_1h=40)
    told = MESSAGES.told(json.dumps({"id": "x", "stop_reason": "end_turn", "usage": WRITTEN}).encode())
    assert told is not None and (told.usage, told.service_tier) == (expected, "priority")
    relay = MESSAGES.relay(MESSAGES.read(
        b'{"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}], "stream": true}'
    ))  # fmt: skip
    relay.feed(event({"type": "message_start", "message": {"id": "x", "usage": WRITTEN | {"output_tokens": 1}}}))
    relay.feed(event({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 9}}))
    assert (relay.usage, relay.service_tier) == (expected, "priority")


def test_a_response_tells_its_service_tier() -> None:
    told = RESPONSES.told(b'{"status": "completed", "service_tier": "flex", "usage": {"input_tokens": 1}}')
    assert told is not None and told.service_tier == "flex"


@pytest.mark.parametrize("tier", ["", "default", "flex", "scale"])
def test_the_warehouse_books_a_call_as_the_ledger_was_charged(
    warehouse: Warehouse, tmp_path: Path, tier: str
) -> None:
    tenant, model = f"tenant-{uuid.uuid4().hex[:12]}", f"m-{uuid.uuid4().hex[:12]}"
    rates = Rates(*(10**9 + 7 * number for number in range(8)))
    prices = [Price("test", model, rates, "own"), Price("test", model, Rates(*(r // 3 for r in rates)), "own", "flex")]
    warehouse.put_prices(prices)
    call = Call("req_1", uuid.uuid4().bytes, uuid.uuid4().bytes[:8], b"", Facts(tenant), "chat", asked_model=model)
    call.deployment = Deployment(model, "http://x", "test")
    call.usage = Usage(*(100 + 11 * number for number in range(8)))
    call.service_tier, call.ended_ns = tier, call.started_ns + 1
    call.price = {"": prices[0], "default": prices[0], "flex": prices[1]}.get(tier)
    body = otlp.traces((("service.name", "proxy"),), semconv.PROXY_SCOPE, "1", [encode_span(call)])
    path = tmp_path / "one.otlp"
    path.write_bytes(segment.frame(tenant, body, call.started_ns // 10**6, b"d" * 16))
    warehouse.insert_otlp(path, tenant)
    columns = "cost_usd, input_tokens, output_tokens"
    (row,) = warehouse.query(f"SELECT {columns} FROM requests WHERE tenant = {{tenant:String}}", tenant=tenant)
    cost = call.cost_nusd()
    assert row["cost_usd"] == (None if cost is None else Decimal(cost).scaleb(-9))
    assert (row["input_tokens"], row["output_tokens"]) == (call.usage.input, call.usage.output_total)


def billable(prices: list[Price], **more: object) -> list[str]:
    asked = CHAT.read(json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}]} | more).encode())
    by_tier = {price.service_tier: price for price in prices}
    tier = _tier(asked, Deployment("m", metered=True), by_tier, is_offline=False)
    return [price.service_tier for price in _billable(asked, by_tier, tier)]


@pytest.mark.parametrize(("tiers", "asked", "is_offline", "tier"), [
    (["", "batch"], "", True, "batch"), (["", "batch"], "flex", True, "batch"), ([""], "", True, ""),
    (["", "batch"], "", False, ""), (["", "batch"], "flex", False, ""), (["", "batch"], "batch", False, ""),
    (["", "batch", "flex"], "flex", False, "flex"), (["", "batch", "flex"], "batch", False, ""),
])  # fmt: skip
def test_our_own_servers_price_lines_of_batches_alone_as_such(
    tiers: list[str], asked: str, is_offline: bool, tier: str
) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}]} | ({"service_tier": asked} if asked else {})
    prices = {name: Price("test", "m", Rates.of(1, 1), "own", name) for name in tiers}
    assert _tier(CHAT.read(json.dumps(body).encode()), Deployment("m"), prices, is_offline) == tier


def test_a_hold_covers_every_service_tier_that_the_provider_may_choose() -> None:
    made = [Price("test", "m", Rates.of(1, 1), "own", tier) for tier in ("", "flex", "priority", "batch", "fast")]
    assert billable(made) == billable(made, service_tier="auto") == ["", "flex", "priority"]
    assert billable(made, service_tier="default") == [""]
    assert billable(made, service_tier="flex") == ["flex", ""]
    assert billable(made[:1], service_tier="flex") == [""]  # a server that knows no tiers
    assert billable([made[0], made[2]], service_tier="flex") == billable([]) == []  # such a deployment is left out


def test_a_worker_takes_over_a_price_that_somebody_adds_and_keeps_it(
    warehouse: Warehouse, serve: Callable[[Collector], AbstractContextManager[int]], tmp_path: Path
) -> None:
    model, kept = f"m-{uuid.uuid4().hex[:12]}", tmp_path / "proxy" / "prices.json"
    collector = Collector(Settings(data_dir=tmp_path, collector_grpc_port=0), warehouse)
    with serve(collector) as port:
        collector._pricing.add(PriceOverride("vllm", model, input="0.5", output="1"), "ann", "")
        assert asyncio.run(known_price(f"http://127.0.0.1:{port}", kept, model)) == 5 * 10**8
    assert asyncio.run(known_price(f"http://127.0.0.1:{port}", kept, model)) == 5 * 10**8  # the collector is gone


async def known_price(url: str, kept: Path, model: str) -> int | None:
    book, client = PriceBook(), Client()
    feed = PriceFeed(client, url, "", kept, book.add)
    await feed.start()
    await feed.stop()
    client.close()
    price = book.at("vllm", model, datetime.now(timezone.utc).date())
    return price.rates.input if price else None
