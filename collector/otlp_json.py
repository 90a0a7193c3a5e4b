"""OTLP/JSON trace requests as protobuf bytes, which is all that the rest of the collector knows.

The format is proto3 JSON with ids in hex (opentelemetry-proto docs/specification.md, "JSON Protobuf Encoding"): 64-bit
integers come as texts or numbers, enums as numbers or names, null means absent, and unknown fields are ignored.
"""
from __future__ import annotations

from base64 import b64decode
from collections.abc import Sequence
from typing import Any

import msgspec
from google.protobuf.message import Error as ProtobufError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1 import common_pb2 as common
from opentelemetry.proto.resource.v1 import resource_pb2 as resource
from opentelemetry.proto.trace.v1 import trace_pb2 as trace

from farthing.errors import IngestError

_Int = int | str | None
_Text = str | None


class _Record(msgspec.Struct, rename="camel"):
    """A message of the format; every field may be absent or null."""


class _Array(_Record):
    values: list[_Any | None] | None = None


class _Pairs(_Record):
    values: list[_Pair] | None = None


class _Any(_Record):
    string_value: _Text = None
    bool_value: bool | None = None
    int_value: _Int = None
    double_value: float | str | None = None
    array_value: _Array | None = None
    kvlist_value: _Pairs | None = None
    bytes_value: _Text = None  # base64


class _Pair(_Record):
    key: _Text = None
    value: _Any | None = None


class _Resource(_Record):
    attributes: list[_Pair] | None = None
    dropped_attributes_count: _Int = None


class _Scope(_Resource):
    name: _Text = None
    version: _Text = None


class _Event(_Resource):
    time_unix_nano: _Int = None
    name: _Text = None


class _Link(_Resource):
    trace_id: _Text = None
    span_id: _Text = None
    trace_state: _Text = None
    flags: _Int = None


class _Status(_Record):
    message: _Text = None
    code: _Int = None


class _Span(_Resource):
    trace_id: _Text = None
    span_id: _Text = None
    trace_state: _Text = None
    parent_span_id: _Text = None
    flags: _Int = None
    name: _Text = None
    kind: _Int = None
    start_time_unix_nano: _Int = None
    end_time_unix_nano: _Int = None
    events: list[_Event] | None = None
    dropped_events_count: _Int = None
    links: list[_Link] | None = None
    dropped_links_count: _Int = None
    status: _Status | None = None


class _ScopeSpans(_Record):
    scope: _Scope | None = None
    spans: list[_Span] | None = None
    schema_url: _Text = None


class _ResourceSpans(_Record):
    resource: _Resource | None = None
    scope_spans: list[_ScopeSpans] | None = None
    schema_url: _Text = None


class _Request(_Record):
    resource_spans: list[_ResourceSpans] | None = None


# Objects and list items of one body: each takes up to 1 kB and 5 µs, so 20 MiB of `{},` would take 7 GB and 34 s.
_MAX_OBJECTS, _MAX_ITEMS = 400_000, 1_000_000

_request = msgspec.json.Decoder(_Request)
_anything = msgspec.json.Decoder(dict[str, Any])


def traces_from_json(body: bytes, max_spans: int) -> bytes:
    """Return the protobuf form of an ExportTraceServiceRequest in JSON.

    Raises:
        IngestError: 413 for more than `max_spans` spans or too many objects; 400 for bytes that are not such a
            request, or nest too deeply.
    """
    _refuse_crowded(body)
    try:
        request = _request.decode(body)
        count = sum(len(scope.spans or ()) for one in request.resource_spans or () for scope in one.scope_spans or ())
        if count > max_spans:
            raise IngestError(413, f"the body holds more than {max_spans} spans; send smaller batches")
        made = ExportTraceServiceRequest(resource_spans=[_resource_spans(one) for one in request.resource_spans or ()])
        return made.SerializeToString()
    except RecursionError:
        raise IngestError(400, "the JSON body is nested too deeply") from None
    except (msgspec.DecodeError, ProtobufError, ValueError, TypeError) as error:
        raise IngestError(400, f"the body is not an OTLP/JSON ExportTraceServiceRequest: {error}") from None


def count_json_items(body: bytes, path: Sequence[tuple[str, ...]]) -> int:
    """Count the objects that lie at `path`, one tuple of field names for each level.

    Raises:
        IngestError: 413 for too many objects; 400 for bytes that are not a JSON object, or nest too deeply.
    """
    _refuse_crowded(body)
    try:
        found: list[Any] = [_anything.decode(body)]
    except RecursionError:
        raise IngestError(400, "the JSON body is nested too deeply") from None
    except (msgspec.DecodeError, ValueError) as error:
        raise IngestError(400, f"the body is not a JSON object: {error}") from None
    for names in path:
        found = [inner for one in found if isinstance(one, dict) for name in names for inner in _listed(one.get(name))]
    return len(found)


def _refuse_crowded(body: bytes) -> None:
    if body.count(b"{") > _MAX_OBJECTS or body.count(b",") > _MAX_ITEMS:
        raise IngestError(413, f"the JSON body holds more than {_MAX_OBJECTS} objects; send smaller batches")


def _listed(value: object) -> list[Any]:
    """A repeated field is a list; the one message of a `oneof` counts as a list of itself."""
    return value if isinstance(value, list) else [] if value is None else [value]


def _resource_spans(one: _ResourceSpans) -> trace.ResourceSpans:
    made = trace.ResourceSpans(
        scope_spans=[_scope_spans(scope) for scope in one.scope_spans or ()], schema_url=one.schema_url or ""
    )
    if one.resource is not None:
        made.resource.CopyFrom(resource.Resource(**_attributes(one.resource)))
    return made


def _scope_spans(one: _ScopeSpans) -> trace.ScopeSpans:
    made = trace.ScopeSpans(spans=[_span(span) for span in one.spans or ()], schema_url=one.schema_url or "")
    if (scope := one.scope) is not None:
        made.scope.CopyFrom(
            common.InstrumentationScope(name=scope.name or "", version=scope.version or "", **_attributes(scope))
        )
    return made


def _span(span: _Span) -> trace.Span:
    made = trace.Span(
        trace_id=_id(span.trace_id),
        span_id=_id(span.span_id),
        parent_span_id=_id(span.parent_span_id),
        trace_state=span.trace_state or "",
        flags=_int(span.flags),
        name=span.name or "",
        kind=_enum(span.kind, trace.Span.SpanKind),
        start_time_unix_nano=_int(span.start_time_unix_nano),
        end_time_unix_nano=_int(span.end_time_unix_nano),
        events=[_event(event) for event in span.events or ()],
        dropped_events_count=_int(span.dropped_events_count),
        links=[_link(link) for link in span.links or ()],
        dropped_links_count=_int(span.dropped_links_count),
        **_attributes(span),
    )
    if (status := span.status) is not None:
        made.status.message, made.status.code = status.message or "", _enum(status.code, trace.Status.StatusCode)
    return made


def _event(event: _Event) -> trace.Span.Event:
    return trace.Span.Event(time_unix_nano=_int(event.time_unix_nano), name=event.name or "", **_attributes(event))


def _link(link: _Link) -> trace.Span.Link:
    return trace.Span.Link(
        trace_id=_id(link.trace_id),
        span_id=_id(link.span_id),
        trace_state=link.trace_state or "",
        flags=_int(link.flags),
        **_attributes(link),
    )


def _attributes(holder: _Resource) -> dict[str, Any]:
    """Return the two fields that every holder of attributes has."""
    pairs = [common.KeyValue(key=pair.key or "", value=_value(pair.value)) for pair in holder.attributes or ()]
    return {"attributes": pairs, "dropped_attributes_count": _int(holder.dropped_attributes_count)}


def _value(value: _Any | None) -> common.AnyValue:
    if value is None:
        return common.AnyValue()
    if value.string_value is not None:
        return common.AnyValue(string_value=value.string_value)
    if value.int_value is not None:
        return common.AnyValue(int_value=_int(value.int_value))
    if value.double_value is not None:
        return common.AnyValue(double_value=float(value.double_value))
    if value.bool_value is not None:
        return common.AnyValue(bool_value=value.bool_value)
    return _composite(value)


def _composite(value: _Any) -> common.AnyValue:
    if (array := value.array_value) is not None:
        return common.AnyValue(array_value=common.ArrayValue(values=[_value(item) for item in array.values or ()]))
    if (pairs := value.kvlist_value) is not None:
        made = [common.KeyValue(key=pair.key or "", value=_value(pair.value)) for pair in pairs.values or ()]
        return common.AnyValue(kvlist_value=common.KeyValueList(values=made))
    if value.bytes_value is not None:
        return common.AnyValue(bytes_value=b64decode(value.bytes_value, validate=True))
    return common.AnyValue()


def _int(value: _Int) -> int:
    return int(value or 0)


def _enum(value: _Int, names: Any) -> Any:
    if isinstance(value, str) and not value.lstrip("-").isdecimal():
        return names.Value(value)
    return _int(value)


def _id(text: str | None) -> bytes:
    return bytes.fromhex(text or "")
