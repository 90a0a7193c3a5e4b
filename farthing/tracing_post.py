"""One OTLP/HTTP POST to the collector, and what became of it.

The connection is kept open between posts and never traced; no failure raises, each comes back as an `Answer`.
"""
from __future__ import annotations

import gzip
import http.client
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from google.protobuf.message import DecodeError
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.trace import ReadableSpan

from farthing.semconv import HEADER_TENANT_KEY

UNNAMED_SERVICE = "unknown_service"  # OpenTelemetry's name for a service that nobody named
RETRYABLE = (429, 502, 503, 504)  # OTLP specification, "OTLP/HTTP Response"


@dataclass(frozen=True)
class Answer:
    """What the collector said to one body."""

    status: int  # HTTP status; 0 = no answer
    error: str = ""
    retry_after_s: float = 0.0
    rejected: int = 0  # spans of an accepted body that the collector refused

    @property
    def is_accepted(self) -> bool:
        return 200 <= self.status < 300

    @property
    def is_retryable(self) -> bool:
        return self.status == 0 or self.status in RETRYABLE


@dataclass
class Collector:
    """The address that spans are posted to; used by one thread at a time."""

    url: str  # base URL; the signal's path is added
    ingest_key: str = ""
    service: str = ""  # put in place of a service name that is missing or in `renamed`
    renamed: frozenset[str] = frozenset()
    _connection: http.client.HTTPConnection | None = field(default=None, init=False)

    def encode(self, spans: Sequence[ReadableSpan]) -> bytes:
        """Return `spans` as a gzipped OTLP request."""
        request = encode_spans(spans)
        if self.service:
            self._name_service(request)
        return gzip.compress(request.SerializeToString(), compresslevel=1)

    def post(self, body: bytes, timeout_s: float) -> Answer:
        """Send one body; a kept connection that the collector has closed meanwhile is opened anew once."""
        is_kept = self._connection is not None
        try:
            return self._post_once(body, timeout_s)
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError) as error:
            self.close()
            if not is_kept:
                return Answer(0, _described(error))
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            return Answer(0, _described(error))
        return self.post(body, timeout_s)

    def close(self) -> None:
        """Close the connection; the next post opens one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _post_once(self, body: bytes, timeout_s: float) -> Answer:
        connection = self._connection = self._connection or self._open(timeout_s)
        connection.timeout = timeout_s
        if connection.sock is not None:
            connection.sock.settimeout(timeout_s)
        path = urlsplit(self.url).path.rstrip("/") + "/v1/traces"
        connection.request("POST", path, body, self._headers())
        response = connection.getresponse()
        return _answer(response, response.read())

    def _open(self, timeout_s: float) -> http.client.HTTPConnection:
        parts = urlsplit(self.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        return kind(parts.hostname or "", parts.port, timeout=timeout_s)

    def _headers(self) -> dict[str, str]:
        headers = {"content-type": "application/x-protobuf", "content-encoding": "gzip"}
        return headers | ({HEADER_TENANT_KEY: self.ingest_key} if self.ingest_key else {})

    def _name_service(self, request: ExportTraceServiceRequest) -> None:
        for group in request.resource_spans:
            for attribute in group.resource.attributes:
                name = attribute.value.string_value
                if attribute.key == "service.name" and (name.startswith(UNNAMED_SERVICE) or name in self.renamed):
                    attribute.value.string_value = self.service


def _answer(response: http.client.HTTPResponse, content: bytes) -> Answer:
    if 200 <= response.status < 300:
        return Answer(response.status, rejected=_rejected(response, content))
    said = content[:200].decode("utf-8", "replace")
    after = response.headers.get("retry-after", "")
    error = f"HTTP {response.status} {said}".rstrip()
    return Answer(response.status, error, retry_after_s=float(after) if after.isdecimal() else 0.0)


def _rejected(response: http.client.HTTPResponse, content: bytes) -> int:
    if not content or "protobuf" not in response.headers.get("content-type", ""):
        return 0
    try:
        return ExportTraceServiceResponse.FromString(content).partial_success.rejected_spans
    except DecodeError:  # accepted all the same
        return 0


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
