"""What metrics and logs have in common: limits, keys, secrets, the spools."""
from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from farthing import otlp, semconv
from farthing.warehouse import Warehouse
from tests.collector.conftest import KEY, Sender, Serve, api_request, logs_of, sending


def test_a_crowd_of_points_is_refused_before_it_is_parsed(sender: Sender) -> None:
    points = otlp.field(0x2A, b"\x0a\x00" * 60_000)
    metrics = otlp.field(0x0A, otlp.field(0x12, otlp.field(0x12, otlp.field(0x0A, b"gen_ai.x") + points)))
    logs = otlp.field(0x0A, otlp.field(0x12, b"\x12\x00" * 60_000))
    for path, body in (("/v1/metrics", metrics), ("/v1/logs", logs)):
        status, answer = sender.post(path, body)
        assert status == 413 and b"more than 50000" in answer
    document = {"resourceLogs": [{"scopeLogs": [{"logRecords": [{}] * 60_000}]}]}
    assert sender.post("/v1/logs", json.dumps(document).encode(), "application/json")[0] == 413


@pytest.mark.parametrize("path", ["/v1/metrics", "/v1/logs"])
@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"\x0a\xff", "application/x-protobuf"),
        (b"garbage", "application/x-protobuf"),
        (b'{"resourceLogs": 1, "resourceMetrics": 1}', "application/json"),
        (b"[" * 100_000, "application/json"),
        (b"[]", "application/json"),
    ],
)
def test_a_body_that_is_no_request_is_refused_and_nothing_is_kept(
    sender: Sender, path: str, body: bytes, kind: str
) -> None:
    assert sender.post(path, body, kind)[0] == 400
    assert sender.status()["refused_bodies"] == {"400": 1} and sender.status()["spool_bytes"] == 0


CANARY = "sk-proj-cAnArYcAnArYcAnArY00 canary.bird@example.com 4111 1111 1111 1111"


@pytest.mark.parametrize("keeps_content", [False, True])
def test_no_secret_reaches_the_disk_in_whichever_place_of_metrics_and_logs_it_was_sent(
    warehouse: Warehouse, serve: Serve, tmp_path: Path, keeps_content: bool
) -> None:
    with sending(warehouse, serve, tmp_path, store_content=keeps_content, flush_interval_s=3600) as sender:
        assert sender.post("/v1/metrics", canary_metrics())[0] == 200
        assert sender.post("/v1/logs", canary_logs())[0] == 200
        held = b"".join(path.read_bytes() for path in tmp_path.rglob("*.otlp"))
        assert held and b"[secret]" in held
        assert sender.rows("SELECT count() FROM otel_metrics WHERE tenant = {tenant}") == [(2,)]
        assert sender.rows("SELECT count() FROM otel_logs WHERE Tenant = {tenant}") == [(1,)]
        stored = sender.rows(
            "SELECT toString(tuple(*)) FROM otel_metrics WHERE tenant = {tenant} "
            "UNION ALL SELECT toString(tuple(*)) FROM otel_logs WHERE Tenant = {tenant}"
        )
    everything = [held, *(row[0].encode() for row in stored)]
    everything += [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    needles = (b"cAnArY", b"canary.bird", b"1111 1111 1111")
    assert [needle for needle in needles for content in everything if needle in content] == []


def say(pairs: Any, *keys: str) -> None:
    for key in keys:
        pairs.add(key=key).value.string_value = CANARY


def canary_metrics() -> bytes:
    request = ExportMetricsServiceRequest()
    one = request.resource_metrics.add(schema_url=CANARY)
    say(one.resource.attributes, "service.name", "process.command_line", CANARY)
    scope = one.scope_metrics.add(schema_url=CANARY)
    scope.scope.name = scope.scope.version = CANARY
    say(scope.scope.attributes, "gen_ai.tool.name")
    metric = scope.metrics.add(name="gen_ai.x", description=CANARY, unit=CANARY)
    say(metric.metadata, "gen_ai.tool.name")
    point = metric.gauge.data_points.add(as_int=1)
    say(point.attributes, "model", "note", "gen_ai.input.messages", "gen_ai.tool.name", f"gen_ai.{CANARY}")
    say(point.exemplars.add().filtered_attributes, "note")
    more = scope.metrics.add(name="gen_ai.y").histogram.data_points.add(count=1)
    more.attributes.add(key="gen_ai.list").value.array_value.values.add().string_value = CANARY
    scope.metrics.add(name=f"gen_ai.{CANARY}").gauge.data_points.add(as_int=1)
    return request.SerializeToString()


def canary_logs() -> bytes:
    request = ExportLogsServiceRequest()
    one = request.resource_logs.add(schema_url=CANARY)
    say(one.resource.attributes, "service.name", "process.command_line")
    scope = one.scope_logs.add(schema_url=CANARY)
    scope.scope.name = scope.scope.version = CANARY
    record = scope.log_records.add(event_name="claude_code.x", severity_text=CANARY)
    record.body.kvlist_value.values.add(key=CANARY).value.string_value = CANARY
    say(record.attributes, "prompt", "model", "note", "error", "gen_ai.input.messages", f"gen_ai.{CANARY}")
    inner = record.attributes.add(key="gen_ai.output.messages").value.array_value.values.add().kvlist_value
    inner.values.add(key=CANARY).value.string_value = CANARY
    return request.SerializeToString()


def test_logs_and_metrics_need_the_ingest_key_too(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KEY, semconv.HEADER_TENANT_KEY, "wrong")
    for path in ("/v1/metrics", "/v1/logs"):
        assert sender.post(path, b"")[0] == 401


def test_an_empty_request_is_a_success(sender: Sender) -> None:
    assert sender.post("/v1/metrics", b"") == (200, b"") and sender.post("/v1/logs", b"") == (200, b"")
    assert ExportLogsServiceResponse.FromString(b"").partial_success.rejected_log_records == 0
    assert sender.status()["spool_bytes"] == 0


def test_the_same_body_sent_again_is_stored_once(sender: Sender) -> None:
    body = logs_of(api_request())
    for _ in range(3):
        assert sender.post("/v1/logs", body, "application/json")[0] == 200
    assert sender.rows("SELECT count() FROM requests WHERE tenant = {tenant}") == [(1,)]
    assert sender.status()["duplicate_bodies"] == 2


def test_a_full_spool_of_logs_leaves_the_traces_their_room(
    warehouse: Warehouse, serve: Serve, tmp_path: Path
) -> None:
    with sending(warehouse, serve, tmp_path, spool_max_bytes=4000, flush_interval_s=3600) as sender:
        answers = [sender.post("/v1/logs", logs_of(api_request(request_id=f"req_{n}")), "application/json")[0]
                   for n in range(9)]  # fmt: skip
        assert answers[0] == 200 and answers[-1] == 503
        span = otlp.span(uuid.uuid4().bytes, uuid.uuid4().bytes[:8], b"", "chat", (1, 2), b"")
        assert sender.post("/v1/traces", otlp.traces([], "test", "1", [span]))[0] == 200
