"""Checks one OTLP/HTTP body before anything is stored: its size in both forms, its span count, its protobuf.

Limits come before parsing, because 4 MB of empty spans are 2,000,000 spans and gzip to 4 KB.
"""
from __future__ import annotations

import zlib

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from farthing.errors import IngestError

PROTOBUF = "application/x-protobuf"


def decompressed(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """Return the plain body.

    Raises:
        IngestError: 413 past `max_bytes`, 400 for bytes that are not what the encoding says, 415 for another encoding.
    """
    if encoding in ("", "identity"):
        return body
    if encoding != "gzip":
        raise IngestError(415, f"content-encoding {encoding!r} is not supported; send gzip or none")
    inflater = zlib.decompressobj(31)
    try:
        plain = inflater.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise IngestError(400, f"the body is not gzip: {error}") from None
    if len(plain) > max_bytes:
        raise IngestError(413, f"the body is larger than {max_bytes} bytes when decompressed; send smaller batches")
    if not inflater.eof or inflater.unused_data:
        raise IngestError(400, "the gzip body is cut short or has bytes behind its end")
    return plain


def checked_span_count(body: bytes, max_spans: int) -> int:
    """Return the number of spans in an ExportTraceServiceRequest.

    Raises:
        IngestError: 413 for too many spans, 400 for bytes that are not such a request.
    """
    if count_spans(body, max_spans) > max_spans:
        raise IngestError(413, f"the body holds more than {max_spans} spans; send smaller batches")
    try:
        request = ExportTraceServiceRequest.FromString(body)
    except DecodeError as error:
        raise IngestError(400, f"the body is not an OTLP ExportTraceServiceRequest: {error}") from None
    return sum(len(scope.spans) for resource in request.resource_spans for scope in resource.scope_spans)


def count_spans(body: bytes, stop_at: int) -> int:
    """Count spans by walking the wire format, without building anything; ends early past `stop_at`.

    Raises:
        IngestError: 400 where the bytes are not protobuf.
    """
    count = 0
    for resource_start, resource_end in _fields(body, 0, len(body), 1):
        for scope_start, scope_end in _fields(body, resource_start, resource_end, 2):
            for _ in _fields(body, scope_start, scope_end, 2):
                count += 1
                if count > stop_at:
                    return count
    return count


def _fields(body: bytes, at: int, end: int, wanted: int):  # type: ignore[no-untyped-def]
    """Yield (start, end) of each length-delimited field number `wanted` in body[at:end]."""
    while at < end:
        key, at = _varint(body, at, end)
        wire = key & 7
        if wire == 2:
            length, at = _varint(body, at, end)
            if at + length > end:
                raise IngestError(400, "the body is cut short")
            if key >> 3 == wanted:
                yield at, at + length
            at += length
        elif wire == 0:
            _, at = _varint(body, at, end)
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            raise IngestError(400, f"the body is not protobuf: wire type {wire} at byte {at}")
    if at > end:
        raise IngestError(400, "the body is cut short")


def _varint(body: bytes, at: int, end: int) -> tuple[int, int]:
    number = shift = 0
    while at < end and shift < 70:
        byte = body[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
        shift += 7
    raise IngestError(400, "the body is not protobuf: a number does not end")
