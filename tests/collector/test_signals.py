"""OTLP metrics and logs through every door: what is kept, what is hidden, what is counted, what it is worth."""
from __future__ import annotations

import http.client
import json
import socket
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcLogs
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcMetrics
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.metrics import Observation
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

from collector import screen_logs, screen_metrics
from collector.main import Collector
from farthing import semconv
from farthing.settings import IngestKey, PriceOverride, Settings
from farthing.warehouse import Warehouse

Serve = Callable[[Collector], AbstractContextManager[int]]
KEY = {semconv.HEADER_TENANT_KEY: "key-of-test"}
NOW_NS = 1_795_000_000_000_000_000


class Sender:
    """Posts bodies for a tenant of its own and asks what became of them."""

    def __init__(self, port: int, settings: Settings, collector: Collector, warehouse: Warehouse) -> None:
        self.port, self.grpc_port, self.collector = port, settings.collector_grpc_port, collector
        self.tenant, self.folder, self._warehouse = settings.ingest_keys[0].tenant, settings.data_dir, warehouse

    def post(self, path: str, body: bytes, content_type: str = "application/x-protobuf") -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("POST", path, body, {"content-type": content_type, **KEY})
        response = connection.getresponse()
        answer = response.status, response.read()
        connection.close()
        return answer

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Flush and return the rows of a statement in which {tenant} stands for this tenant."""
        assert self.post("/v1/flush", b"")[0] == 200
        return self._warehouse._client().query(statement.replace("{tenant}", f"'{self.tenant}'")).result_rows

    def ask(self, question: str, **values: object) -> list[dict[str, Any]]:
        assert self.post("/v1/flush", b"")[0] == 200
        window = {"since": datetime(2026, 1, 1, tzinfo=UTC), "until": datetime(2027, 1, 1, tzinfo=UTC)}
        return self._warehouse.ask(question, tenant=self.tenant, part="test", **{**window, **values})

    def status(self) -> dict[str, Any]:
        return dict(self.collector.status())


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def sending(warehouse: Warehouse, serve: Serve, data_dir: Path, **rules: Any) -> Iterator[Sender]:
    settings = Settings(
        data_dir=data_dir,
        ingest_keys=(IngestKey("key-of-test", f"tenant-{uuid.uuid4().hex[:12]}"),),
        prices=(PriceOverride("anthropic", "claude-test-1", "3", "15", cache_read="0.3", cache_write="3.75"),),
        collector_grpc_port=free_port(),
        **rules,
    )
    collector = Collector(settings, warehouse)
    with serve(collector) as port:
        yield Sender(port, settings, collector, warehouse)


@pytest.fixture
def sender(warehouse: Warehouse, serve: Serve, tmp_path: Path) -> Iterator[Sender]:
    with sending(warehouse, serve, tmp_path) as made:
        yield made


# ---- metrics


CAPTURED = {"genai-openai": (607, 200), "openai-v2": (487, 160), "openllmetry": (487, 160)}


@pytest.mark.parametrize(("dialect", "truth"), CAPTURED.items())
def test_a_cumulative_total_that_is_exported_twice_counts_once(
    sender: Sender, shared: Callable[[str], Path], dialect: str, truth: tuple[int, int]
) -> None:
    sent = 0
    for name in ("metrics-01.bin", "metrics-02.bin"):
        body = shared(f"fixtures/otlp/{dialect}-content0/{name}").read_bytes()
        sent += points_in(ExportMetricsServiceRequest.FromString(body))
        assert sender.post("/v1/metrics", body) == (200, b"")
    usage = {"input": 0, "output": 0}
    for row in sender.ask("token_usage_from_metrics"):
        assert row["provider"] == "openai" and row["model"]
        usage[row["token_type"]] += row["tokens"]
    assert (usage["input"], usage["output"]) == truth
    assert sender.rows("SELECT count() FROM otel_metrics WHERE tenant = {tenant}") == [(sent,)]
    assert sender.rows("SELECT count() FROM requests WHERE tenant = {tenant}") == [(0,)]
    assert sender.status()["stored"] == {"traces": 0, "metrics": sent, "logs": 0}


def points_in(request: ExportMetricsServiceRequest) -> int:
    metrics = [m for one in request.resource_metrics for scope in one.scope_metrics for m in scope.metrics]
    return sum(len(getattr(metric, metric.WhichOneof("data")).data_points) for metric in metrics)


def meters(sender: Sender, door: str, **options: Any) -> tuple[MeterProvider, PeriodicExportingMetricReader]:
    exporter: Any
    if door == "grpc":
        address = f"http://127.0.0.1:{sender.grpc_port}"
        exporter = GrpcMetrics(endpoint=address, insecure=True, headers=tuple(KEY.items()), **options)
    else:
        zipped = Compression.Gzip if door == "gzip" else Compression.NoCompression
        url = f"http://127.0.0.1:{sender.port}/v1/metrics"
        exporter = OTLPMetricExporter(endpoint=url, headers=KEY, compression=zipped, **options)
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=3_600_000)
    provider = MeterProvider([reader], Resource({"service.name": "engine"}), shutdown_on_exit=False)
    return provider, reader


@pytest.mark.parametrize("door", ["http", "gzip", "grpc"])
def test_the_sdk_s_metrics_of_every_kind_arrive(sender: Sender, door: str) -> None:
    provider, _ = meters(sender, door)
    meter = provider.get_meter("vllm")
    gpu = {"hw.id": "GPU-1", "hw.type": "gpu", "hw.driver_note": "said by nobody"}
    meter.create_observable_gauge("hw.gpu.utilization", [lambda _: [Observation(0.75, gpu)]], "1")
    meter.create_up_down_counter("nv_requests_running").add(3, {"model_name": "llama", "secret_note": "x"})
    tokens = meter.create_counter("tgi_generated_tokens", "{token}")
    seconds = meter.create_histogram("gen_ai.server.request.duration", "s")
    for count in (100, 40):
        tokens.add(count, {"model_name": "llama"})
        seconds.record(count / 100, {"gen_ai.request.model": "llama"})
        assert provider.force_flush()
    provider.shutdown()  # exports once more
    found = sender.rows(
        "SELECT name, kind, temporality, monotonic, max(value), max(sum), any(model), any(gpu_uuid), count(), "
        "any(service), any(scope), any(unit), any(has(mapKeys(attributes), 'secret_note')) "
        "FROM otel_metrics WHERE tenant = {tenant} GROUP BY name, kind, temporality, monotonic ORDER BY name"
    )
    assert found == [
        ("gen_ai.server.request.duration", "histogram", "cumulative", False, None, 1.4, "llama", "", 3, "engine",
         "vllm", "s", False),
        ("hw.gpu.utilization", "gauge", "", False, 0.75, None, "", "GPU-1", 3, "engine", "vllm", "1", False),
        ("nv_requests_running", "sum", "cumulative", False, 3, None, "llama", "", 3, "engine", "vllm", "", False),
        ("tgi_generated_tokens", "sum", "cumulative", True, 140, None, "llama", "", 3, "engine", "vllm", "{token}",
         False),
    ]  # fmt: skip
    assert sender.status()["metric_series"] == 4


def over_time(sender: Sender, name: str, **values: object) -> dict[str, Any]:
    """Return the one bucket of a metric over the whole window."""
    given = {"name": name, "step": 10**9, "services": [], "models": [], **values}
    (row,) = sender.ask("metric_over_time", **given)
    return row


@pytest.mark.parametrize("temporality", [AggregationTemporality.DELTA, AggregationTemporality.CUMULATIVE])
def test_growth_is_the_same_by_delta_and_by_cumulative_exports(
    sender: Sender, temporality: AggregationTemporality
) -> None:
    preferred = dict.fromkeys((Counter, Histogram), temporality)
    provider, _ = meters(sender, "http", preferred_temporality=preferred)
    tokens = provider.get_meter("test").create_counter("claude_code.token.usage")
    sizes = provider.get_meter("test").create_histogram("gen_ai.client.token.usage")
    for count in (100, 40, 7):
        tokens.add(count, {"type": "input", "model": "claude-test-1"})
        sizes.record(count, {"gen_ai.token.type": "input"})
        assert provider.force_flush()
    provider.shutdown()
    assert over_time(sender, "claude_code.token.usage")["growth"] == 147
    assert (sized := over_time(sender, "gen_ai.client.token.usage"))["growth"] == 147 and sized["observations"] == 3
    found = {row["model"]: (row["token_type"], row["tokens"]) for row in sender.ask("token_usage_from_metrics")}
    assert found == {"claude-test-1": ("input", 147), "": ("input", 147)}


def counter(points: Sequence[tuple[float, float, float]], name: str = "vllm:prompt_tokens_total") -> bytes:
    """A cumulative counter's exports, each (start, time, value), in seconds after NOW_NS."""
    request = ExportMetricsServiceRequest()
    metric = request.resource_metrics.add().scope_metrics.add().metrics.add(name=name)
    metric.sum.is_monotonic, metric.sum.aggregation_temporality = True, 2
    for start, at, value in points:
        point = metric.sum.data_points.add(as_double=value, time_unix_nano=NOW_NS + int(at * 1e9))
        point.start_time_unix_nano = NOW_NS + int(start * 1e9) if start >= 0 else 0
    return request.SerializeToString()


RESETS = {
    "a process that began anew says when": ([(0, 1, 10), (0, 2, 15), (2.5, 3, 4), (2.5, 4, 6)], 21),
    "a value that drops began anew": ([(0, 1, 10), (0, 2, 15), (0, 3, 4), (0, 4, 6)], 21),
    "two processes that look the same": ([(0, 1, 10), (0.5, 1.5, 100), (0, 2, 15), (0.5, 2.5, 130)], 145),
    "a beginning that nobody knows": ([(-1, 1, 1000), (-1, 2, 1015)], 15),
    "the same point again": ([(0, 1, 10), (0, 1, 10), (0, 2, 12)], 12),
}


@pytest.mark.parametrize("case", RESETS)
def test_growth_follows_resets(sender: Sender, case: str) -> None:
    points, growth = RESETS[case]
    for point in points:
        assert sender.post("/v1/metrics", counter([point]))[0] == 200
    assert over_time(sender, "vllm:prompt_tokens_total")["growth"] == growth


def test_growth_in_a_window_begins_at_the_last_point_before_it(sender: Sender) -> None:
    points = [(0, 100, 10), (0, 200, 25), (0, 300, 65)]
    assert sender.post("/v1/metrics", counter(points))[0] == 200
    since = datetime.fromtimestamp(NOW_NS / 1e9 + 150, UTC)
    window = {"since": since, "until": since + timedelta(seconds=100)}
    assert over_time(sender, "vllm:prompt_tokens_total", **window)["growth"] == 15


def test_a_sensor_that_a_gpu_does_not_have_is_no_value(sender: Sender) -> None:
    request = ExportMetricsServiceRequest()
    metric = request.resource_metrics.add().scope_metrics.add().metrics.add(name="DCGM_FI_DEV_MEMORY_TEMP")
    for at, value in enumerate((41, 9223372036854775794, 43)):
        metric.gauge.data_points.add(as_int=value, time_unix_nano=NOW_NS + at)
    metric.gauge.data_points.add(as_double=float("nan"), time_unix_nano=NOW_NS + 9)
    assert sender.post("/v1/metrics", request.SerializeToString())[0] == 200
    row = over_time(sender, "DCGM_FI_DEV_MEMORY_TEMP")
    assert (row["average"], row["highest"], row["points"]) == (42, 43, 2)


def test_every_kind_of_point_is_stored_with_its_buckets(sender: Sender) -> None:
    request = ExportMetricsServiceRequest()
    metrics = request.resource_metrics.add().scope_metrics.add().metrics
    wide = metrics.add(name="gen_ai.a").exponential_histogram
    point = wide.data_points.add(count=9, sum=5.5, scale=3, zero_count=2, min=-1, max=4)
    wide.aggregation_temporality = 1
    point.positive.offset, point.negative.offset = -4, 7
    point.positive.bucket_counts.extend([1, 2])
    point.negative.bucket_counts.extend([4])
    summary = metrics.add(name="gen_ai.b").summary.data_points.add(count=3, sum=6)
    summary.quantile_values.add(quantile=0.5, value=1.5)
    plain = metrics.add(name="gen_ai.c").histogram.data_points.add(count=4, bucket_counts=[1, 3], explicit_bounds=[0.5])
    plain.exemplars.add(as_double=1).filtered_attributes.add(key="note").value.string_value = "nobody's business"
    broad = metrics.add(name="gen_ai.d").histogram.data_points
    broad.add(bucket_counts=[0] * (screen_metrics.MAX_BUCKETS + 1))
    answer = ExportMetricsServiceResponse.FromString(sender.post("/v1/metrics", request.SerializeToString())[1])
    assert answer.partial_success.rejected_data_points == 1
    assert sender.rows(
        "SELECT kind, temporality, count, sum, min, max, scale, zero_count, positive_offset, bucket_counts, "
        "negative_offset, negative_counts, bounds, quantile_values "
        "FROM otel_metrics WHERE tenant = {tenant} ORDER BY name"
    ) == [
        ("exponential_histogram", "delta", 9, 5.5, -1, 4, 3, 2, -4, [1, 2], 7, [4], [], []),
        ("summary", "cumulative", 3, 6, None, None, 0, 0, 0, [], 0, [], [0.5], [1.5]),
        ("histogram", "", 4, None, None, None, 0, 0, 0, [1, 3], 0, [], [0.5], []),
    ]


def test_what_was_sent_is_what_was_stored_and_what_was_rejected_by_reason(
    warehouse: Warehouse, serve: Serve, tmp_path: Path
) -> None:
    with sending(warehouse, serve, tmp_path, allowed_metrics="process.cpu.time, shop.*") as sender:
        request = ExportMetricsServiceRequest()
        metrics = request.resource_metrics.add().scope_metrics.add().metrics
        for name in ("process.cpu.time", "shop.carts", "gen_ai.x", "http.server.duration", "process.cpu.time.more"):
            metrics.add(name=name, description="free text").gauge.data_points.extend(3 * [points_of_one()])
        status, answer = sender.post("/v1/metrics", request.SerializeToString())
        partial = ExportMetricsServiceResponse.FromString(answer).partial_success
        assert status == 200 and partial.rejected_data_points == 6
        assert "http.server.duration, process.cpu.time.more" in partial.error_message
        found = sender.status()
        assert found["stored"]["metrics"] == 9 and found["rejected"] == {screen_metrics.OTHERS: 6}
        assert sender.rows("SELECT uniqExact(name), count() FROM otel_metrics WHERE tenant = {tenant}") == [(3, 9)]


def points_of_one() -> Any:
    from opentelemetry.proto.metrics.v1.metrics_pb2 import NumberDataPoint

    return NumberDataPoint(as_int=1, time_unix_nano=NOW_NS)


def test_a_crowd_of_points_is_refused_before_it_is_parsed(sender: Sender) -> None:
    from farthing import otlp

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


# ---- logs


def logs_of(*records: dict[str, Any], scope: str = "com.anthropic.claude_code.events") -> bytes:
    """An OTLP/JSON body as an agent's JavaScript SDK writes it."""
    resource = {"attributes": pairs({"service.name": "claude-code", "farthing.team": "platform"})}
    made = [{**one, "attributes": pairs(one.get("attributes", {}))} for one in records]
    return json.dumps({"resourceLogs": [{"resource": resource, "scopeLogs": [
        {"scope": {"name": scope}, "logRecords": made}
    ]}]}).encode()  # fmt: skip


def pairs(values: dict[str, Any]) -> list[dict[str, Any]]:
    kinds = {str: "stringValue", bool: "boolValue", int: "intValue", float: "doubleValue"}
    return [{"key": key, "value": {kinds[type(value)]: str(value) if type(value) is int else value}}
            for key, value in values.items()]  # fmt: skip


def api_request(**changed: Any) -> dict[str, Any]:
    """Claude Code's event of one model call, by its public documentation."""
    attributes = {
        "session.id": "0a1b", "user.id": "hash-of-a-machine", "user.email": "jane@example.com",
        "organization.id": "org-1", "app.version": "2.1.0", "terminal.type": "vscode", "event.name": "api_request",
        "event.timestamp": "2026-11-18T07:06:40.000Z", "event.sequence": 7, "prompt.id": "p-1",
        "model": "claude-test-1", "cost_usd": 99.5, "duration_ms": 2500, "input_tokens": 10, "output_tokens": 20,
        "cache_read_tokens": 3000, "cache_creation_tokens": 400, "request_id": "req_1", "speed": "normal",
    }  # fmt: skip
    return {
        "timeUnixNano": str(NOW_NS), "observedTimeUnixNano": str(NOW_NS),
        "body": {"stringValue": "claude_code.api_request"}, "attributes": {**attributes, **changed},
    }  # fmt: skip


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
    from farthing import otlp

    with sending(warehouse, serve, tmp_path, spool_max_bytes=4000, flush_interval_s=3600) as sender:
        answers = [sender.post("/v1/logs", logs_of(api_request(request_id=f"req_{n}")), "application/json")[0]
                   for n in range(9)]  # fmt: skip
        assert answers[0] == 200 and answers[-1] == 503
        span = otlp.span(uuid.uuid4().bytes, uuid.uuid4().bytes[:8], b"", "chat", (1, 2), b"")
        assert sender.post("/v1/traces", otlp.traces([], "test", "1", [span]))[0] == 200
