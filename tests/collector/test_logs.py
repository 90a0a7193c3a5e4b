"""OTLP logs through every door: what is kept, what is hidden, and what an agent's calls cost."""
from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcLogs
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.resources import Resource

from collector import screen_logs
from farthing import semconv
from farthing.warehouse import Warehouse, sql
from tests.collector.conftest import KEY, NOW_NS, Sender, Serve, api_request, logs_of, sending


def test_an_agent_s_api_request_event_becomes_one_billed_row_at_our_price(sender: Sender) -> None:
    assert sender.post("/v1/logs", logs_of(api_request()), "application/json") == (200, b"{}")
    # 10 * 3 + 3000 * 0.3 + 400 * 3.75 + 20 * 15 = 2730 USD per million; what the sender claims, 99.5, is not booked
    (row,) = sender.rows(
        "SELECT cost_usd, price_state, billed, provider, model, input_tokens, input_uncached, cache_read_tokens, "
        "cache_write_tokens, output_tokens, team, user, session, request_id, service, operation, duration_s, "
        "toUnixTimestamp64Milli(toDateTime64(started_at, 3)) FROM requests WHERE tenant = {tenant}"
    )
    assert row == (
        Decimal("0.002730"), "priced", True, "anthropic", "claude-test-1", 3410, 10, 3000, 400, 20, "platform",
        "hash-of-a-machine", "0a1b", "req_1", "claude-code", "chat", 2.5, NOW_NS // 10**6 - 2500,
    )  # fmt: skip
    ((event, body, claimed),) = sender.rows(
        "SELECT EventName, Body, LogAttributes['cost_usd'] FROM otel_logs WHERE Tenant = {tenant}"
    )
    assert (event, body, claimed) == ("claude_code.api_request", "claude_code.api_request", "99.5")


def test_texts_for_numbers_missing_counts_and_other_events_are_read_as_they_are_meant(sender: Sender) -> None:
    counts = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_creation_tokens")
    texts = dict.fromkeys(counts, "5")
    unknown = api_request(model="claude-unknown-9", request_id="req_3")
    silent = api_request(request_id="req_2")
    for key in ("input_tokens", "output_tokens"):
        del silent["attributes"][key]
    other = {"timeUnixNano": str(NOW_NS), "body": {"stringValue": "claude_code.user_prompt"},
             "attributes": {"event.name": "user_prompt", "prompt": "write to jane@example.com", "prompt_length": 25}}
    sender.post("/v1/logs", logs_of(api_request(**texts), silent, unknown, other), "application/json")
    assert sender.rows(
        "SELECT request_id, input_tokens, output_tokens, price_state FROM requests WHERE tenant = {tenant} "
        "ORDER BY request_id"
    ) == [("req_1", 15, 5, "priced"), ("req_2", None, None, "no_usage"), ("req_3", 3410, 20, "unpriced")]
    ((prompt, length, counted),) = sender.rows(
        "SELECT LogAttributes['prompt'], LogAttributes['prompt.length'], LogAttributes['prompt_length'] "
        "FROM otel_logs WHERE Tenant = {tenant} AND EventName = 'claude_code.user_prompt'"
    )
    assert (prompt, length, counted) == ("", "25", "25")


def test_every_event_is_a_call_of_its_own_and_one_that_is_sent_again_is_not(sender: Sender) -> None:
    trace = {"traceId": "11" * 16, "spanId": "22" * 8}  # of the turn that is under way, not of the call
    events = [
        api_request(**{"event.sequence": 1}), api_request(**{"event.sequence": 2}),
        api_request(**{"event.sequence": 3}) | trace, api_request(**{"event.sequence": 4}) | trace,
    ]  # fmt: skip
    sender.post("/v1/logs", logs_of(*events), "application/json")
    verdicts = "SELECT billed, unbilled_reason, count() FROM requests WHERE tenant = {tenant} GROUP BY ALL ORDER BY ALL"
    assert sender.rows(verdicts) == [(True, "", 4)]
    sender.post("/v1/logs", logs_of(events[0], events[2], api_request(**{"event.sequence": 5})), "application/json")
    assert sender.rows(verdicts) == [(False, "replayed", 2), (True, "", 5)]
    ((trace_id, parents, spans),) = sender.rows(
        "SELECT any(trace_id), groupUniqArray(parent_span_id), uniqExact(span_id) FROM requests "
        "WHERE tenant = {tenant} AND trace_id != ''"
    )
    assert (trace_id, parents, spans) == ("11" * 16, ["22" * 8], 2)


def test_events_that_an_earlier_version_took_for_copies_are_billed_again(sender: Sender, warehouse: Warehouse) -> None:
    columns = ("tenant", "started_at", "received_at", "billed", "unbilled_reason", "span_id")
    at = datetime(2026, 3, 3, 10, 20, tzinfo=UTC)
    rows = [(sender.tenant, at, at, False, "replayed", ""), (sender.tenant, at, at, False, "replayed", "ab" * 8)]
    warehouse.insert("requests", columns, rows)
    for statement in sql.statements(sql.text("schema", "0056_events_are_calls.sql")):
        warehouse.change(statement)
    verdicts = "SELECT span_id, billed, unbilled_reason FROM requests WHERE tenant = {tenant} ORDER BY span_id"
    assert sender.rows(verdicts) == [("", True, ""), ("ab" * 8, False, "replayed")]
    stale = "SELECT DISTINCT note FROM upkeep WHERE note = 'stale' AND hour = '2026-03-03 10:00:00'"
    assert warehouse.rows(stale) == [("stale",)]


AGENTS = {
    "gemini": (
        {"event.name": "gemini_cli.api_response", "model": "gemini-2.5-flash", "input_token_count": 12000,
         "cached_content_token_count": 8000, "output_token_count": 350, "thoughts_token_count": 420,
         "tool_token_count": 30, "total_token_count": 12800, "duration_ms": 900, "session.id": "g"},
        ("gemini-2.5-flash", 12030, 4030, 8000, 770, 420, "g"),
    ),
    "codex": (
        {"event.name": "codex.sse_event", "event.kind": "response.completed", "model": "gpt-5",
         "input_token_count": 100, "cached_token_count": 40, "output_token_count": 10, "reasoning_token_count": 5,
         "tool_token_count": 110, "conversation.id": "c"},
        ("gpt-5", 100, 60, 40, 10, 5, "c"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("agent", AGENTS)
def test_other_agents_calls_are_billed_once_by_their_own_counting(sender: Sender, agent: str) -> None:
    attributes, truth = AGENTS[agent]
    beside = [
        {"event.name": "codex.sse_event", "event.kind": "response.created", "model": "gpt-5"},
        {"event.name": "codex.api_request", "model": "gpt-5"},
        {"event.name": "gemini_cli.api_request", "model": "gemini-2.5-flash"},
        {"event.name": "gen_ai.client.inference.operation.details", semconv.USAGE_INPUT_TOKENS: 12000},
    ]
    records = [{"timeUnixNano": str(NOW_NS), "attributes": one} for one in [attributes, *beside]]
    assert sender.post("/v1/logs", logs_of(*records, scope="agent"), "application/json") == (200, b"{}")
    assert sender.rows(
        "SELECT model, input_tokens, input_uncached, cache_read_tokens, output_tokens, reasoning_tokens, session "
        "FROM requests WHERE tenant = {tenant} AND price_state = 'priced' AND cost_usd > 0"
    ) == [truth]
    assert sender.rows("SELECT count() FROM requests WHERE tenant = {tenant}") == [(1,)]
    assert sender.rows("SELECT count() FROM otel_logs WHERE Tenant = {tenant}") == [(5,)]


def test_an_e_mail_address_names_the_user_where_the_operator_allows_it(
    warehouse: Warehouse, serve: Serve, tmp_path: Path
) -> None:
    with sending(warehouse, serve, tmp_path, allowed_attributes="user.email") as sender:
        sender.post("/v1/logs", logs_of(api_request()), "application/json")
        assert sender.rows("SELECT user FROM requests WHERE tenant = {tenant}") == [("jane@example.com",)]


@pytest.mark.parametrize("door", ["http", "gzip", "grpc"])
def test_the_sdk_s_log_exporter_delivers(sender: Sender, door: str) -> None:
    exporter: Any
    if door == "grpc":
        exporter = GrpcLogs(endpoint=f"http://127.0.0.1:{sender.grpc_port}", insecure=True, headers=tuple(KEY.items()))
    else:
        zipped = Compression.Gzip if door == "gzip" else Compression.NoCompression
        exporter = OTLPLogExporter(
            endpoint=f"http://127.0.0.1:{sender.port}/v1/logs", headers=KEY, compression=zipped
        )
    provider = LoggerProvider(Resource({"service.name": "claude-code"}), shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    given = api_request()["attributes"]
    record = LogRecord(
        timestamp=NOW_NS, body="claude_code.api_request", severity_number=SeverityNumber.INFO, attributes=given
    )
    provider.get_logger("com.anthropic.claude_code.events", "2.1.0").emit(record)
    provider.shutdown()
    assert sender.rows("SELECT cost_usd FROM requests WHERE tenant = {tenant}") == [(Decimal("0.002730"),)]
    assert sender.rows("SELECT SeverityNumber, ScopeVersion FROM otel_logs WHERE Tenant = {tenant}") == [(9, "2.1.0")]


def test_logs_of_nobody_s_concern_are_rejected_and_gpu_faults_are_kept(sender: Sender) -> None:
    fault = "NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, name=python, GPU has fallen off the bus."
    records = [
        {"body": {"stringValue": fault}, "attributes": {"hw.id": "GPU-1", "hw.type": "gpu"}},
        {"body": {"stringValue": fault}},
        {"body": {"stringValue": "user jane@example.com logged in"}, "attributes": {"http.route": "/"}},
    ]
    status, answer = sender.post("/v1/logs", logs_of(*records), "application/json")
    assert status == 200 and json.loads(answer)["partialSuccess"]["rejectedLogRecords"] == "2"
    ((body, unit, length),) = sender.rows(
        "SELECT Body, LogAttributes['hw.id'], LogAttributes['otel.log.body.length'] "
        "FROM otel_logs WHERE Tenant = {tenant}"
    )
    assert (body, unit, int(length)) == ("NVRM: Xid (PCI:0000:3b:00): 79", "GPU-1", len(fault))
    assert sender.status()["rejected"] == {screen_logs.OTHERS: 2} and sender.status()["stored"]["logs"] == 1


def test_a_log_record_keeps_its_trace_and_loses_ids_that_are_none(sender: Sender) -> None:
    good = {"traceId": "ab" * 16, "spanId": "cd" * 8, "flags": 1, "eventName": "gen_ai.x"}
    sender.post("/v1/logs", logs_of(good, {**good, "traceId": "ab", "spanId": ""}), "application/json")
    found = sender.rows("SELECT TraceId, SpanId, TraceFlags FROM otel_logs WHERE Tenant = {tenant} ORDER BY TraceId")
    assert found == [("", "", 1), ("ab" * 16, "cd" * 8, 1)]


def test_no_prompt_of_captured_logs_reaches_the_disk(sender: Sender, shared: Callable[[str], Path]) -> None:
    body = shared("fixtures/otlp/genai-openai-content1/logs-03.bin").read_bytes()
    assert b"jane@example.com" in body
    parsed = ExportLogsServiceRequest.FromString(body)
    sent = sum(len(scope.log_records) for one in parsed.resource_logs for scope in one.scope_logs)
    assert sender.post("/v1/logs", body) == (200, b"")
    spooled = b"".join(path.read_bytes() for path in sender.folder.rglob("*.otlp"))
    assert spooled and b"jane@example.com" not in spooled and b"Hello from mock" not in spooled
    ((count, leaked, measured, models),) = sender.rows(
        "SELECT count(), countIf(toString(tuple(*)) LIKE '%jane@%'), "
        "countIf(LogAttributes['gen_ai.input.messages.length'] != ''), "
        "countIf(LogAttributes['gen_ai.request.model'] != '') "
        "FROM otel_logs WHERE Tenant = {tenant}"
    )
    assert (count, leaked, models) == (sent, 0, sent) and measured > 0
    assert sender.rows("SELECT count() FROM requests WHERE tenant = {tenant}") == [(0,)]  # spans carry that money


def test_content_is_kept_where_that_is_wanted_and_no_secret_with_it(
    warehouse: Warehouse, serve: Serve, tmp_path: Path, shared: Callable[[str], Path]
) -> None:
    body = shared("fixtures/otlp/genai-openai-content1/logs-03.bin").read_bytes()
    with sending(warehouse, serve, tmp_path, store_content=True) as sender:
        sender.post("/v1/logs", body)
        said = {"stringValue": "the key is sk-proj-cAnArYcAnArYcAnArY00"}
        sender.post("/v1/logs", logs_of({"eventName": "gen_ai.x", "body": said}), "application/json")
        ((messages, leaked, bodies),) = sender.rows(
            "SELECT anyIf(LogAttributes['gen_ai.input.messages'] AS m, m LIKE '%email%'), "
            "countIf(toString(tuple(*)) LIKE '%jane@%' OR toString(tuple(*)) LIKE '%cAnArY%'), "
            "anyIf(Body, EventName = 'gen_ai.x') FROM otel_logs WHERE Tenant = {tenant}"
        )
    assert leaked == 0 and "[email]" in messages and json.loads(messages) and bodies == "the key is [secret]"
