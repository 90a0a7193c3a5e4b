"""collector/main.py over HTTP: what a sender is told is what the warehouse holds."""
from __future__ import annotations

import gzip
import http.client
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from decimal import Decimal
from pathlib import Path

import pytest

from collector.main import Collector
from farthing import otlp, semconv
from farthing.settings import IngestKey, PriceOverride, Settings
from farthing.warehouse import Warehouse

OTLP = {"content-type": "application/x-protobuf"}
Serve = Callable[[Collector], AbstractContextManager[int]]


class Sender:
    """Posts bodies for a tenant of its own."""

    def __init__(self, port: int, tenant: str) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self.tenant = tenant

    def post(self, body: bytes, path: str = "/v1/traces", **headers: str) -> tuple[int, bytes, str]:
        extra = {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection.request("POST", path, body, {**OTLP, semconv.HEADER_TENANT_KEY: "key-of-test", **extra})
        response = self.connection.getresponse()
        return response.status, response.read(), response.headers.get("retry-after", "")


@pytest.fixture
def sender(warehouse: Warehouse, serve: Serve, tmp_path: Path) -> Iterator[Sender]:
    tenant = f"tenant-{uuid.uuid4().hex[:12]}"
    settings = Settings(
        data_dir=tmp_path,
        ingest_keys=(IngestKey("key-of-test", tenant),),
        prices=(PriceOverride("farthing", "tiny", input="0.25", output="1.5"),),
        spool_max_bytes=4_000_000,
        max_body_bytes=1_000_000,
    )
    with serve(Collector(settings, warehouse)) as port:
        sending = Sender(port, tenant)
        yield sending
        sending.connection.close()


def body_of(calls: int, model: str = "tiny", provider: str = "farthing") -> bytes:
    attributes = otlp.attributes([
        (semconv.OPERATION_NAME, "chat"),
        (semconv.PROVIDER_NAME, provider),
        (semconv.REQUEST_MODEL, model),
        (semconv.USAGE_INPUT_TOKENS, 11),
        (semconv.USAGE_OUTPUT_TOKENS, 3),
        (semconv.TEAM, "search"),
    ])
    spans = [
        otlp.span(uuid.uuid4().bytes, uuid.uuid4().bytes[:8], b"", "chat", (1_795_000_000_000_000_000, 1_795_000_001_000_000_000), attributes)
        for _ in range(calls)
    ]
    return otlp.traces([("service.name", "shop")], "test", "1", spans)


def rows(sender: Sender, warehouse: Warehouse, column: str = "count()") -> list[tuple[object, ...]]:
    status, _, _ = sender.post(b"", "/v1/flush")
    assert status == 200
    found = warehouse._client().query(f"SELECT {column} FROM requests WHERE tenant = '{sender.tenant}'")
    return found.result_rows


def test_an_accepted_body_becomes_priced_rows(sender: Sender, warehouse: Warehouse) -> None:
    assert sender.post(body_of(4)) == (200, b"", "")
    # 11 * 0.25 + 3 * 1.5 = 7.25 USD per million calls
    assert rows(sender, warehouse, "count(), sum(cost_usd), any(team), any(price_state)") == [
        (4, Decimal("0.000029000"), "search", "priced")
    ]


def test_a_gzipped_body_is_the_same(sender: Sender, warehouse: Warehouse) -> None:
    assert sender.post(gzip.compress(body_of(3)), content_encoding="gzip")[0] == 200
    assert rows(sender, warehouse) == [(3,)]


def test_the_same_body_sent_again_is_acknowledged_and_stored_once(sender: Sender, warehouse: Warehouse) -> None:
    body = body_of(2)
    assert [sender.post(body)[0] for _ in range(3)] == [200, 200, 200]
    assert rows(sender, warehouse) == [(2,)]


def test_a_model_without_a_price_is_unpriced_and_not_free(sender: Sender, warehouse: Warehouse) -> None:
    sender.post(body_of(1, model="gpt-4o"))  # a public model's name, self-hosted: never priced as the public one
    assert rows(sender, warehouse, "cost_usd, price_state") == [(None, "unpriced")]


def test_a_public_model_first_seen_in_a_body_is_priced_in_it(sender: Sender, warehouse: Warehouse) -> None:
    sender.post(body_of(1, model="gpt-4o-mini", provider="openai"))
    assert rows(sender, warehouse, "cost_usd, price_state") == [(Decimal("0.00000345"), "priced")]


@pytest.mark.parametrize(
    ("body", "headers", "status", "says"),
    [
        (b"garbage", {}, 400, b"not protobuf"),
        (body_of(2)[:-1], {}, 400, b"cut short"),
        (gzip.compress(b"\0" * 2_000_000), {"content_encoding": "gzip"}, 413, b"when decompressed"),
        (b"\0" * 1_000_001, {}, 413, b"larger than 1000000 bytes"),
        (b"{}", {"content_type": "application/json"}, 415, b"application/x-protobuf"),
        (body_of(1), {semconv.HEADER_TENANT_KEY: "wrong"}, 401, b"unknown"),
    ],
)
def test_a_bad_body_is_refused_with_a_status_that_says_why(
    sender: Sender, warehouse: Warehouse, body: bytes, headers: dict[str, str], status: int, says: bytes
) -> None:
    got, answer, _ = sender.post(body, **headers)
    assert got == status and says in answer and answer[0] == 0x08  # a google.rpc.Status begins with its code
    assert rows(sender, warehouse) == [(0,)]


def test_a_full_spool_asks_for_a_retry_and_keeps_nothing_of_the_body(sender: Sender, warehouse: Warehouse) -> None:
    statuses = [sender.post(body_of(3000)) for _ in range(8)]
    full = [answer for answer in statuses if answer[0] == 503]
    accepted = sum(1 for answer in statuses if answer[0] == 200)
    assert full and all(retry == "1" for _, _, retry in full)
    assert rows(sender, warehouse) == [(accepted * 3000,)]


def test_an_unknown_path_names_the_known_ones(sender: Sender) -> None:
    status, answer, _ = sender.post(b"", "/v1/logs")
    assert status == 404 and b"/v1/traces" in answer
