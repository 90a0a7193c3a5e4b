"""Model calls in the one warehouse of all tests, kept apart by tenant name.

Rows come in as they do in production: OTLP bodies, stamped with tenant and time, priced, inserted as a segment.
"""
from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timezone
from typing import Any

import pytest

from farthing import otlp, semconv
from farthing.prices import PriceBook
from farthing.warehouse import Warehouse, segment
from tests.sums import refresh

NOON = datetime(2026, 11, 20, 12, tzinfo=timezone.utc)

PutBodies = Callable[[str, Iterable[bytes]], None]
PutCalls = Callable[..., None]


@pytest.fixture(scope="session")
def put_bodies(warehouse: Warehouse, tmp_path_factory: pytest.TempPathFactory) -> PutBodies:
    """Insert OTLP bodies for a tenant, priced from the public book."""
    folder, book = tmp_path_factory.mktemp("segments"), PriceBook()

    def put(tenant: str, bodies: Iterable[bytes]) -> None:
        path = folder / f"{uuid.uuid4().hex}.otlp"
        path.write_bytes(b"".join(_record(body, tenant) for body in bodies))
        models = warehouse.unseen_models(path)
        warehouse.put_prices(price for provider, model in models for price in book.history(provider, model))
        warehouse.insert_otlp(path, path.name)
        refresh(warehouse, tenant)

    return put


@pytest.fixture(scope="session")
def put_calls(put_bodies: PutBodies) -> PutCalls:
    """Insert model calls: `put_calls("tenant", [{"team": "search", "input": 10, ...}, ...])`."""

    def put(tenant: str, calls: Sequence[dict[str, Any]], scope: str = "test") -> None:
        put_bodies(tenant, [otlp.traces([("service.name", "shop")], scope, "1", [_span(call) for call in calls])])

    return put


@pytest.fixture(scope="session")
def noon() -> datetime:
    """When calls happen that name no time."""
    return NOON


@pytest.fixture
def tenant() -> str:
    """A tenant of this test alone."""
    return f"tenant-{uuid.uuid4().hex[:12]}"


def _record(body: bytes, tenant: str) -> bytes:
    return segment.frame(tenant, body, time.time_ns() // 1_000_000, segment.digest(tenant, body))


def _span(call: dict[str, Any]) -> bytes:
    started = call.get("at", NOON)
    start_ns = int(started.timestamp() * 1_000) * 1_000_000
    given = {
        semconv.OPERATION_NAME: "chat",
        semconv.PROVIDER_NAME: call.get("provider", "openai"),
        semconv.REQUEST_MODEL: call.get("model", "gpt-4o-mini"),
        semconv.USAGE_INPUT_TOKENS: call.get("input"),
        semconv.USAGE_OUTPUT_TOKENS: call.get("output"),
        semconv.TEAM: call.get("team"),
        semconv.REQUEST_HASH: call.get("hash"),
        "gen_ai.request.temperature": call.get("temperature"),
        **call.get("attributes", {}),
    }
    attributes = otlp.attributes((key, value) for key, value in given.items() if value is not None)
    end_ns = start_ns + int(call.get("seconds", 0.5) * 1e9)
    return otlp.span(uuid.uuid4().bytes, uuid.uuid4().bytes[:8], b"", "chat", (start_ns, end_ns), attributes)
