"""Checks one OTLP body before anything is stored: its size in both forms, its span count, its protobuf.

Limits come before parsing, because 4 MB of empty spans are 2,000,000 spans and gzip to 4 KB.
"""
from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from farthing.errors import IngestError


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


@dataclass(frozen=True)
class Extent:
    """What the wire format tells of a body before it is parsed."""

    spans: int
    longest: int  # bytes of the longest span


def parsed(body: bytes, max_spans: int) -> tuple[ExportTraceServiceRequest, Extent]:
    """Return a trace request as a message, and its extent.

    Raises:
        IngestError: 413 for too many spans, 400 for bytes that are not such a request.
    """
    extent = measured(body, max_spans)
    try:
        return ExportTraceServiceRequest.FromString(body), extent
    except DecodeError as error:
        raise IngestError(400, f"the body is not an OTLP ExportTraceServiceRequest: {error}") from None


def measured(body: bytes, max_spans: int) -> Extent:
    """Walk the wire format down to the spans, without building anything.

    Raises:
        IngestError: 413 past `max_spans` spans, resources or scopes; 400 where the bytes are not protobuf.
    """
    spans = parents = longest = 0
    for resource_start, resource_end in _fields(body, 0, len(body), (1,)):
        parents += 1
        for scope_start, scope_end in _fields(body, resource_start, resource_end, (2,)):
            parents += 1
            for start, end in _fields(body, scope_start, scope_end, (2,)):
                spans += 1
                longest = max(longest, end - start)
                if spans > max_spans:
                    raise IngestError(413, f"the body holds more than {max_spans} spans; send smaller batches")
        if parents > max_spans:
            raise IngestError(413, f"the body holds more than {max_spans} resources and scopes; send smaller batches")
    return Extent(spans, longest)


def count_items(body: bytes, path: Sequence[tuple[int, ...]], most: int | None = None) -> int:
    """Count the messages that lie at `path`, one tuple of field numbers for each level.

    Raises:
        IngestError: 413 for more than `most` messages on one level; 400 where the bytes are not protobuf.
    """
    spots = [(0, len(body))]
    for numbers in path:
        found = (inner for start, end in spots for inner in _fields(body, start, end, numbers))
        spots = list(islice(found, None if most is None else most + 1))
        if most is not None and len(spots) > most:
            raise IngestError(413, f"the body holds more than {most} items of one kind; send smaller batches")
    return len(spots)


def _fields(body: bytes, at: int, end: int, wanted: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of each length-delimited field in body[at:end] whose number is in `wanted`."""
    while at < end:
        key, at = _varint(body, at, end)
        wire = key & 7
        if wire == 2:
            length, at = _varint(body, at, end)
            if at + length > end:
                raise IngestError(400, "the body is cut short")
            if key >> 3 in wanted:
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
