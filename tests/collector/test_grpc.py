"""collector/grpc_server.py: the real SDK exporter and a raw client against the second door."""
from __future__ import annotations

import gzip
import logging
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import grpc
import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from collector import intake, screen_metrics
from collector.main import Collector
from farthing import otlp, semconv
from farthing.settings import IngestKey, Settings
from farthing.warehouse import Warehouse
from tests.ports import free_port

Serve = Callable[[Collector], AbstractContextManager[int]]
TRACE_EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
METRICS_EXPORT = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"
KEY = (semconv.HEADER_TENANT_KEY, "key-of-test")


class Door:
    """A collector that listens for gRPC, and a raw channel to it."""

    def __init__(self, collector: Collector, port: int, tenant: str, channel: grpc.Channel) -> None:
        self.collector, self.port, self.tenant, self.channel = collector, port, tenant, channel

    def call(self, body: bytes, path: str = TRACE_EXPORT, key: tuple[str, str] = KEY, gzipped: bool = False) -> bytes:
        method = self.channel.unary_unary(path)
        compression = grpc.Compression.Gzip if gzipped else None
        return method(body, timeout=120, metadata=(key,), compression=compression)

    def refusal(self, body: bytes, **options: object) -> tuple[grpc.StatusCode, str, bytes]:
        """Return the status, its message and the google.rpc.Status in the trailer."""
        with pytest.raises(grpc.RpcError) as caught:
            self.call(body, **options)  # type: ignore[arg-type]
        error = caught.value
        trailer = dict(error.trailing_metadata() or ())  # type: ignore[attr-defined]
        return error.code(), error.details(), trailer.get("grpc-status-details-bin", b"")  # type: ignore[attr-defined]


@pytest.fixture
def door(warehouse: Warehouse, serve: Serve, tmp_path: Path) -> Iterator[Door]:
    port, tenant = free_port(), f"tenant-{uuid.uuid4().hex[:12]}"
    settings = Settings(
        data_dir=tmp_path,
        ingest_keys=(IngestKey("key-of-test", tenant),),
        collector_grpc_port=port,
        spool_max_bytes=200_000,
        max_body_bytes=1_000_000,
    )
    collector = Collector(settings, warehouse)
    with serve(collector), grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Door(collector, port, tenant, channel)


def body_of(spans: int, name: str = "chat") -> bytes:
    made = [otlp.span(uuid.uuid4().bytes, uuid.uuid4().bytes[:8], b"", name, (1, 2), b"") for _ in range(spans)]
    return otlp.traces([("service.name", "shop")], "test", "1", made)


def exporter(door: Door) -> OTLPSpanExporter:
    return OTLPSpanExporter(
        endpoint=f"http://127.0.0.1:{door.port}", insecure=True, headers=(KEY,), compression=grpc.Compression.Gzip
    )


def test_the_sdk_s_exporter_delivers_every_span_into_the_warehouse(door: Door, warehouse: Warehouse) -> None:
    provider = TracerProvider(resource=Resource.create({"service.name": "shop"}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter(door)))
    tracer = provider.get_tracer("test")
    for number in range(25):
        with tracer.start_as_current_span(f"call {number}") as span:
            span.set_attribute(semconv.OPERATION_NAME, "chat")
            span.set_attribute(semconv.REQUEST_MODEL, "tiny")
    assert provider.force_flush()
    provider.shutdown()
    door.collector._flusher.flush()
    found = warehouse._client().query(f"SELECT count() FROM requests WHERE tenant = '{door.tenant}'").result_rows
    assert found == [(25,)]
    assert door.collector.status()["accepted_spans"] == 25


def test_the_sdk_s_exporter_tries_again_where_the_spool_was_full(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    spool, room = door.collector._spools[0], door.collector._spools[0].max_bytes
    spool.max_bytes = 0
    provider = TracerProvider(shutdown_on_exit=False)
    sending = exporter(door)
    provider.add_span_processor(BatchSpanProcessor(sending))
    caplog.set_level(logging.WARNING)
    caplog.handler.addFilter(lambda record: setattr(spool, "max_bytes", room) is None)  # room again after the first no
    provider.get_tracer("test").start_span("call").end()
    assert provider.force_flush()
    provider.shutdown()
    assert door.collector.status()["accepted_spans"] == 1
    assert door.collector.status()["refused_bodies"] == {"503": 1}


def test_a_full_spool_is_unavailable_with_a_time_to_come_back(door: Door) -> None:
    code, message, status = door.refusal(body_of(4000))
    assert code is grpc.StatusCode.UNAVAILABLE and "spool" in message
    assert status[:2] == b"\x08\x0e" and b"google.rpc.RetryInfo\x12\x04\x0a\x02\x08\x01" in status  # 14, after 1 s


@pytest.mark.parametrize(
    ("body", "key", "code", "says"),
    [
        (b"garbage", KEY, grpc.StatusCode.INVALID_ARGUMENT, "not protobuf"),
        (body_of(1)[:-1], KEY, grpc.StatusCode.INVALID_ARGUMENT, "cut short"),
        (body_of(1), (KEY[0], "wrong"), grpc.StatusCode.UNAUTHENTICATED, "unknown"),
        (bytes(1_000_001), KEY, grpc.StatusCode.RESOURCE_EXHAUSTED, "larger than max"),
    ],
    ids=["garbage", "cut short", "a wrong key", "too large"],
)
def test_a_bad_message_is_refused_for_good(
    door: Door, body: bytes, key: tuple[str, str], code: grpc.StatusCode, says: str
) -> None:
    got, message, status = door.refusal(body, key=key)
    assert got is code and says in message and b"RetryInfo" not in status
    assert door.collector.status()["accepted_bodies"] == 0


def test_a_compressed_bomb_is_refused_by_what_it_becomes(door: Door) -> None:
    bomb = bytes(50_000_000)
    assert len(gzip.compress(bomb)) < 100_000
    code, message, _ = door.refusal(bomb, gzipped=True)
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in message


def test_many_empty_spans_are_refused_before_they_are_parsed(door: Door) -> None:
    bomb = otlp.field(0x0A, otlp.field(0x12, b"\x12\x00" * 300_000))
    code, message, status = door.refusal(bomb, gzipped=True)
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED and "more than 200000 spans" in message
    assert b"RetryInfo" not in status  # the SDKs retry RESOURCE_EXHAUSTED only with it


def test_metrics_are_answered_with_a_truthful_partial_success(door: Door) -> None:
    point = otlp.field(0x0A, b"\x19" + bytes(8))
    gauge = otlp.field(0x2A, point + point)
    gpu = otlp.field(0x12, otlp.field(0x0A, b"hw.gpu.utilization") + gauge)
    body = otlp.field(0x0A, otlp.field(0x12, otlp.field(0x12, otlp.field(0x0A, b"name") + gauge) + gpu))
    answer = ExportMetricsServiceResponse.FromString(door.call(body, METRICS_EXPORT)).partial_success
    assert answer.rejected_data_points == 2 and "allowed_metrics" in answer.error_message
    assert door.collector.status()["rejected"] == {screen_metrics.OTHERS: 2}
    assert door.collector.status()["stored"] == {"traces": 0, "metrics": 2, "logs": 0}


def test_an_unknown_method_is_unimplemented(door: Door) -> None:
    code, _, _ = door.refusal(b"", path=TRACE_EXPORT.replace("Export", "Import"))
    assert code is grpc.StatusCode.UNIMPLEMENTED


def test_too_many_bytes_in_flight_ask_for_a_retry_and_are_given_back(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "MAX_IN_FLIGHT", -1)
    code, _, status = door.refusal(body_of(1))
    assert code is grpc.StatusCode.UNAVAILABLE and b"RetryInfo" in status
    monkeypatch.undo()
    assert door.call(body_of(1)) == b""
    assert door.collector._intake.in_flight == 0


def test_a_busy_grpc_port_is_said_and_leaves_http_open(
    warehouse: Warehouse, serve: Serve, tmp_path: Path, door: Door
) -> None:
    second = Collector(Settings(data_dir=tmp_path / "second", collector_grpc_port=door.port), warehouse)
    with serve(second):
        assert "FARTHING_COLLECTOR_GRPC_PORT" in str(second.status()["grpc_error"])
