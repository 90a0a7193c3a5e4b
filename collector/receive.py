"""Checks one OTLP body before anything is stored: its size in both forms, its span count, its protobuf.

Limits come before parsing, because 4 MB of empty spans are 2,000,000 spans and gzip to 4 KB, and 20 MiB of empty
attributes in one span would take 690 MiB as objects.
"""
from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from collector.lens import Counted, Event, Link, Outline, Pair, Value
from farthing.errors import IngestError

LARGE_BYTES = 1024 * 1024  # bodies larger than this are parsed one at a time, and counted to the last list item
MAX_PARTS = 1_000_000  # attributes, events, links and list items of one body; each takes about 100 bytes as an object
_MAX_LEVELS = 32  # lists within lists
_MAX_MEMBERS = 100  # of one gzip body; each has what follows it copied
_MEMBER = b"\x1f\x8b\x08"  # how each begins (RFC 1952)
_GZIP = ("gzip", "x-gzip")  # RFC 9110, 8.4.1.3
_TRACE_ID, _SPAN_ID = b"\x0a\x10", b"\x12\x08"  # tag and length, as every serialiser puts them first


def is_large(body: bytes, encoding: str) -> bool:
    """Tell whether a body may be large when decompressed; gzip's last four bytes tell of its last member (ISIZE)."""
    if encoding not in _GZIP:
        return len(body) > LARGE_BYTES
    return max(len(body), int.from_bytes(body[-4:], "little")) > LARGE_BYTES or body.find(_MEMBER, 1) > 0


def decompressed(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """Return the plain body.

    Raises:
        IngestError: 413 past `max_bytes`, 400 for bytes that are not what the encoding says, 415 for another encoding.
    """
    if encoding in ("", "identity"):
        return body
    if encoding not in _GZIP:
        raise IngestError(415, f"content-encoding {encoding!r} is not supported; send gzip or none")
    members: list[bytes] = []
    left, room = body, max_bytes
    while left or not members:
        inflater = zlib.decompressobj(31)
        try:
            members.append(inflater.decompress(left, room + 1))
        except zlib.error as error:
            raise IngestError(400, f"the body is not gzip: {error}") from None
        room -= len(members[-1])
        if room < 0:
            raise IngestError(413, f"the body is larger than {max_bytes} bytes when decompressed; send smaller batches")
        if not inflater.eof:
            raise IngestError(400, "the gzip body is cut short")
        left = inflater.unused_data
        if len(members) == _MAX_MEMBERS and left:
            raise IngestError(413, f"the gzip body has more than {_MAX_MEMBERS} members; send it as one")
    return members[0] if len(members) == 1 else b"".join(members)


@dataclass(frozen=True)
class Extent:
    """What the wire format tells of a body before it is parsed."""

    spans: int
    longest: int  # bytes of the longest span, resource or scope
    attributes: int  # of all resources, scopes and spans
    is_regular: bool  # each span begins with its two ids, each resource and scope comes once
    bytes_of_spans: list[bytes]


def parsed(body: bytes) -> ExportTraceServiceRequest:
    """Return a trace request as a message; `measured` comes before it.

    Raises:
        IngestError: 400 for bytes that are not such a request.
    """
    return _read(ExportTraceServiceRequest, body)


def measured(body: bytes, max_spans: int) -> Extent:
    """Walk the wire format down to the spans; nothing is built for what may be 2 bytes on the wire.

    Raises:
        IngestError: 413 past `max_spans` spans, resources or scopes, or too many parts of spans; 400 where the bytes
            are not protobuf.
    """
    spans: list[bytes] = []
    parents = longest = 0
    is_regular = True
    for resource_start, resource_end in _fields(body, 0, len(body), (1,)):
        found = islice(_fields(body, resource_start, resource_end, (1,)), max_spans + 1)
        resources = [end - start for start, end in found]
        longest, is_regular = max(longest, *resources, 0), is_regular and len(resources) < 2
        parents += max(1, len(resources))
        _refuse_over(parents, max_spans, "resources and scopes")
        for start, end in _fields(body, resource_start, resource_end, (2,)):
            parents += 1
            _refuse_over(parents, max_spans, "resources and scopes")
            scope = _read(Outline, body[start:end])
            _refuse_over(len(spans) + len(scope.spans), max_spans, "spans")
            spans += scope.spans
            longest = max(longest, scope.scope.ByteSize())
    longest = max(longest, max(map(len, spans), default=0))
    begins_well = [one[:2] == _TRACE_ID and one[18:20] == _SPAN_ID for one in spans]
    return Extent(len(spans), longest, _counted_attributes(body), is_regular and all(begins_well), spans)


def _counted_attributes(body: bytes) -> int:
    """Return the number of attributes of all resources, scopes and spans.

    Raises:
        IngestError: 413 where they, events, links and the items of lists are too many to be parsed into objects.
    """
    counted = _read(Counted, body).resource_spans
    scope, span = counted.scope_spans.scope, counted.scope_spans.spans
    attributes = len(counted.resource.attributes) + len(scope.attributes) + len(span.attributes)
    parts = attributes + len(span.events) + len(span.links) + len(counted.resource.entity_refs)
    _refuse_over(parts, MAX_PARTS, "attributes, events, links and list items")
    if len(body) > LARGE_BYTES:
        events, links = _read(Event, b"".join(span.events)), _read(Link, b"".join(span.links))
        parts += len(events.attributes) + len(links.attributes)
        _refuse_over(parts, MAX_PARTS, "attributes, events, links and list items")
        holders = (counted.resource, scope, span, events, links)
        _refuse_crowded_values(b"".join([pair for holder in holders for pair in holder.attributes]), parts)
    return attributes


def _refuse_crowded_values(pairs: bytes, parts: int) -> None:
    """Count the items of lists within lists, one level of all attributes at a time."""
    values = b""
    for _ in range(_MAX_LEVELS):
        if not pairs and not values:
            return
        found = (_read(Pair, pairs).value, _read(Value, values))
        parts += sum(len(one.array_value.values) + len(one.kvlist_value.values) for one in found)
        _refuse_over(parts, MAX_PARTS, "attributes, events, links and list items")
        pairs = b"".join([pair for one in found for pair in one.kvlist_value.values])
        values = b"".join([value for one in found for value in one.array_value.values])
    raise IngestError(400, f"the body nests lists more than {_MAX_LEVELS} deep")


def _refuse_over(count: int, most: int, what: str) -> None:
    if count > most:
        raise IngestError(413, f"the body holds more than {most} {what}; send smaller batches")


def _read(lens: Any, body: bytes) -> Any:
    try:
        return lens.FromString(body)
    except DecodeError as error:
        why = str(error).rpartition(": ")[2]  # before it the library names a class of ours
        raise IngestError(400, f"the body is not an OTLP ExportTraceServiceRequest: {why}") from None


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
