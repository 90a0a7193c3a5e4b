"""`servers` in farthing.toml: calls that another one bills than their spans name, priced in the batch they come in."""
from __future__ import annotations

import uuid
from collections.abc import Iterable
from pathlib import Path

from farthing import otlp, semconv
from farthing.settings import Server
from farthing.warehouse import Warehouse
from tests.collector.conftest import Serve, sending

NOW_NS = 1_795_000_000_000_000_000
# service, address, provider, model asked for, model that answered; provider it is booked under, where its price is from
CALLS = {
    "a relay": ("shop", "http://gateway.internal:4000/v1", "openai", "gpt-4o", "", "openai", "genai-prices"),
    "another host": ("shop", "notgateway.internal", "openai", "gpt-4o", "", "self-hosted", ""),
    "a gateway that tells no address": ("mesh", "", "openai", "gpt-4o", "", "self-hosted", ""),
    "its public models": ("mesh", "", "openai", "gpt-4.1", "", "openai", "genai-prices"),
    "a model by the name that answered": ("mesh", "", "openai", "fast", "claude-test-1", "anthropic", "own"),
    "a reseller, met for the first time": ("desk", "", "openai", "gpt-4o-mini", "", "azure.ai.openai", "genai"),
}  # fmt: skip
SERVERS = (
    Server(address="gateway.internal", billed_by="*"),
    Server(service="mesh", model="gpt-4o"),
    Server(service="mesh", model="claude-test-*", billed_by="anthropic"),
    Server(service="desk", provider="openai", billed_by="azure.ai.openai"),
)


def body(calls: Iterable[tuple[str, ...]]) -> bytes:
    made: list[bytes] = []
    for number, (service, address, provider, asked, answered, *_) in enumerate(calls):
        attributes = otlp.attributes([
            (semconv.OPERATION_NAME, "chat"), (semconv.PROVIDER_NAME, provider), (semconv.SERVER_ADDRESS, address),
            (semconv.REQUEST_MODEL, asked), (semconv.RESPONSE_MODEL, answered),
            (semconv.USAGE_INPUT_TOKENS, 1000), (semconv.USAGE_OUTPUT_TOKENS, 10),
        ])  # fmt: skip
        at = NOW_NS + number * 1000
        one = otlp.span(uuid.uuid4().bytes, uuid.uuid4().bytes[:8], b"", "chat", (at, at), attributes)
        made.append(otlp.traces([("service.name", service)], "test", "1", [one]))
    return b"".join(made)  # messages one after the other are one


def test_a_call_is_billed_by_the_first_server_that_fits_and_priced_in_its_batch(
    warehouse: Warehouse, serve: Serve, tmp_path: Path
) -> None:
    with sending(warehouse, serve, tmp_path, servers=SERVERS) as sender:
        assert sender.post("/v1/traces", body(CALLS.values()))[0] == 200
        told = "provider, price_version, isNotNull(cost_usd)"
        found = sender.rows(f"SELECT {told} FROM requests WHERE tenant = {{tenant}} ORDER BY started_at")
    for (name, (*_, provider, version)), row in zip(CALLS.items(), found, strict=True):
        assert (name, row[0], row[2]) == (name, provider, bool(version)) and row[1].startswith(version), row


def test_rules_that_were_taken_back_are_gone_with_the_next_start(
    warehouse: Warehouse, serve: Serve, tmp_path: Path
) -> None:
    with sending(warehouse, serve, tmp_path / "a", servers=SERVERS):
        pass
    with sending(warehouse, serve, tmp_path / "b") as sender:
        assert sender.post("/v1/traces", body([CALLS["a relay"], CALLS["a gateway that tells no address"]]))[0] == 200
        found = sender.rows("SELECT provider FROM requests WHERE tenant = {tenant} ORDER BY started_at")
    assert found == [("self-hosted",), ("openai",)]
