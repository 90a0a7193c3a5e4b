"""OTLP metrics through every door: what is kept, what is counted, what cumulative totals add up to."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcMetrics
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.metrics import Observation
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality as Temporality
from opentelemetry.proto.metrics.v1.metrics_pb2 import NumberDataPoint
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

from collector import screen_metrics
from farthing.warehouse import Warehouse
from tests.collector.conftest import KEY, NOW_NS, Sender, Serve, sending

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
    return sum(len(getattr(metric, metric.WhichOneof("data") or "").data_points) for metric in metrics)


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
    metric.sum.is_monotonic = True
    metric.sum.aggregation_temporality = Temporality.AGGREGATION_TEMPORALITY_CUMULATIVE
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
    wide.aggregation_temporality = Temporality.AGGREGATION_TEMPORALITY_DELTA
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


def points_of_one() -> NumberDataPoint:
    return NumberDataPoint(as_int=1, time_unix_nano=NOW_NS)
