"""What a sender is told, in the form that it sent: protobuf or JSON (opentelemetry-proto docs/specification.md).

The responses of the three signals have one layout in protobuf; only the names in JSON differ.
"""
from __future__ import annotations

import json
from dataclasses import dataclass

from farthing.otlp import field, varint

PROTOBUF, JSON = "application/x-protobuf", "application/json"
RETRY_S = 1  # seconds; the SDKs drop a batch at once where they are asked to wait past their own deadline of 10 s
GRPC_CODES = {400: 3, 401: 16, 404: 5, 405: 12, 413: 8, 415: 3, 429: 8, 503: 14}  # HTTP status -> google.rpc.Code
_RETRY_INFO = b"type.googleapis.com/google.rpc.RetryInfo"


@dataclass(frozen=True)
class Signal:
    """One kind of telemetry."""

    name: str
    service: str  # of gRPC
    rejected: str  # JSON name of the partial success's count
    path: tuple[tuple[int, ...], ...]  # where its items lie, as field numbers
    json_path: tuple[tuple[str, ...], ...]


_KINDS = {"gauge": 5, "sum": 7, "histogram": 9, "exponentialHistogram": 10, "summary": 11}
_PROTO = "opentelemetry.proto.collector"
TRACES = Signal(
    "traces", f"{_PROTO}.trace.v1.TraceService", "rejectedSpans",
    ((1,), (2,), (2,)), (("resourceSpans",), ("scopeSpans",), ("spans",)),
)  # fmt: skip
METRICS = Signal(
    "metrics", f"{_PROTO}.metrics.v1.MetricsService", "rejectedDataPoints",
    ((1,), (2,), (2,), tuple(_KINDS.values()), (1,)),
    (("resourceMetrics",), ("scopeMetrics",), ("metrics",), tuple(_KINDS), ("dataPoints",)),
)  # fmt: skip
LOGS = Signal(
    "logs", f"{_PROTO}.logs.v1.LogsService", "rejectedLogRecords",
    ((1,), (2,), (2,)), (("resourceLogs",), ("scopeLogs",), ("logRecords",)),
)  # fmt: skip
SIGNALS = (TRACES, METRICS, LOGS)


@dataclass(frozen=True)
class Outcome:
    """What became of an accepted body."""

    stored: int = 0  # spans, data points or log records
    rejected: int = 0  # items that were not stored and must not be sent again
    message: str = ""  # why


def success(signal: Signal, outcome: Outcome, is_json: bool) -> bytes:
    """Return the Export…ServiceResponse; a partial success only where something was rejected."""
    if is_json:
        partial = {signal.rejected: str(outcome.rejected), "errorMessage": outcome.message}
        return json.dumps({"partialSuccess": partial} if outcome.rejected else {}).encode()
    if not outcome.rejected:
        return b""
    return field(0x0A, b"\x08" + varint(outcome.rejected) + field(0x12, outcome.message.encode()))


def failure(status: int, message: str, is_json: bool) -> bytes:
    """Return the google.rpc.Status for an HTTP status; where a retry may help it says after which time."""
    code = GRPC_CODES[status]
    if is_json:
        return json.dumps({"code": code, "message": message}).encode()
    said = b"\x08" + varint(code) + field(0x12, message.encode())
    if not is_retryable(status):
        return said
    delay = field(0x0A, b"\x08" + varint(RETRY_S))
    return said + field(0x1A, field(0x0A, _RETRY_INFO) + field(0x12, delay))


def is_retryable(status: int) -> bool:
    return status in (429, 503)
