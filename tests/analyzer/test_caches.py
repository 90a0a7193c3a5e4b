"""analyzer/caches.py: four levels of cache in one table, each with what it handed out and saved."""
from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from analyzer import figures, notation
from analyzer.caches import levels
from analyzer.document import Table
from analyzer.window import Window
from farthing import otlp, semconv
from farthing.warehouse.client import Warehouse


@pytest.fixture(scope="module")
def window(noon: datetime) -> Window:
    tenant = f"tenant-{uuid.uuid4().hex[:12]}"
    return Window(tenant, noon - timedelta(hours=1), noon + timedelta(hours=1))


def used(noon: datetime, level: str, name: str, outcome: str, **more: Any) -> bytes:
    """Return the span of a call of a cached function as the SDK writes it."""
    given: dict[str, Any] = {
        semconv.CACHE_LEVEL: level, semconv.CACHE_NAME: name, semconv.CACHE_OUTCOME: outcome, semconv.TEAM: "ads",
    }  # fmt: skip
    at = int(noon.timestamp()) * 10**9 + more.pop("at_ns", 0)
    attributes = otlp.attributes((given | more).items())
    return otlp.span(uuid.uuid4().bytes, uuid.uuid4().bytes[:8], b"", name, (at, at + 10**6), attributes)


@pytest.fixture(scope="module")
def rows(put_calls, put_bodies, noon: datetime, warehouse: Warehouse, window: Window) -> list[Any]:
    """What all tests here look at, and none changes."""
    tenant = window.tenant
    hit = {"attributes": {semconv.CACHE_HIT: "exact"}}
    part = {"attributes": {semconv.OPERATION_NAME: "embeddings", semconv.CACHE_SAVED_INPUT_TOKENS: 90}}
    put_calls(tenant, [
        {"input": 5, "output": 1}, {"input": 5, "output": 1, **hit}, {"input": 5, "output": 1, **hit},
        {"model": "text-embedding-3-small", "input": 10, "output": 0, **part},
    ], scope="farthing.proxy")  # fmt: skip
    put_calls(tenant, [{"input": 5, "output": 1}])  # straight to a provider, past every cache
    kept: dict[str, Any] = {semconv.CACHE_BYTES: 100}
    saved = kept | {semconv.CACHE_SAVED_SECONDS: 1.5, semconv.CACHE_SAVED_NUSD: 2_000_000}
    held, evicted = semconv.CACHE_HELD_BYTES, semconv.CACHE_EVICTED
    spans = [
        used(noon, "tool", "stock", "miss", **kept, **{held: 300, evicted: 2}),
        used(noon, "tool", "stock", "hit", **saved, **{held: 400}, at_ns=10**9),
        used(noon, "tool", "weather", "coalesced", **saved, **{held: 50}),
        used(noon, "tool", "weather", "miss", **kept, **{held: 40, evicted: 1}, at_ns=-(10**9)),
        used(noon, "tool", "send", "skipped", **{held: 0}),
        used(noon, "component", "context", "hit", **kept, **{semconv.CACHE_SAVED_SECONDS: 0.25, held: 7}),
    ]
    put_bodies(tenant, [otlp.traces([("service.name", "shop")], "farthing.cached", "1", spans)])
    return figures.ask(warehouse, window, "cache_levels", teams=[], models=[])


def test_each_level_is_one_row_with_what_is_known_of_it(rows: list[Any]) -> None:
    names = ("level", "lookups", "hits", "partial", "skipped", "served_bytes", "held_bytes", "evicted",
             "unpriced_hits", "saved_s")  # fmt: skip
    assert [tuple(row[name] for name in names) for row in rows] == [
        ("response", 3, 2, 0, 0, None, None, None, 0, None),
        ("embedding", 1, 0, 1, 0, None, None, None, 0, None),
        ("tool", 4, 2, 0, 1, 200, 450, 3, 0, 3.0),
        ("component", 1, 1, 0, 0, 100, 7, 0, 1, 0.25),
    ]
    response, embedding, tool, component = (row["saved_usd"] for row in rows)
    assert (response, embedding) == (2 * Decimal("0.00000135"), 90 * Decimal("0.00000002"))
    assert (tool, component) == (Decimal("0.004"), None)
    assert [row["served_tokens"] for row in rows] == [12, 90, None, None]


def test_tools_are_no_model_calls_and_cost_nothing(rows: list[Any], warehouse: Warehouse, window: Window) -> None:
    assert figures.ask(warehouse, window, "totals", teams=[], models=[])[0]["requests"] == 5


def test_a_team_and_a_model_can_be_chosen(rows: list[Any], warehouse: Warehouse, window: Window) -> None:
    def chosen(**names: Any) -> list[str]:
        found = figures.ask(warehouse, window, "cache_levels", **({"teams": [], "models": []} | names))
        return [row["level"] for row in found]

    assert chosen(teams=["ads"]) == ["tool", "component"]
    assert chosen(models=["gpt-4o-mini"]) == ["response"]


def test_the_report_tells_unknown_savings_and_sizes_as_unknown(
    rows: list[Any], warehouse: Warehouse, window: Window
) -> None:
    section = levels(figures.gather(warehouse, window))
    (table,) = [block for block in section.blocks if isinstance(block, Table)]
    told = [[cell.text for cell in row] for row in table.rows]
    assert told[0][:8] == ["Answers", "3", "2", "66.7 %", "12 tokens", *[notation.UNKNOWN] * 2, "$0.0000027"]
    assert told[1][2] == "0 + 1 in part"
    assert told[2] == ["Tool results", "4", "2", "50.0 %", "200 B", "450 B", "3", "$0.004", "3 s", "1"]
    assert told[3][7:9] == [notation.UNKNOWN, "250 ms"]
