"""collector/otlp_json.py: what a JSON body means, against protobuf's own parser, and what is refused."""
from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from collector.answers import LOGS, METRICS, TRACES
from collector.otlp_json import count_json_items, traces_from_json
from collector.receive import count_items
from farthing import otlp
from farthing.errors import IngestError

TRACE, SPAN = "5b8efff798038103d269b633813fc60c", "EEE19B7EC3C1B174"  # hex in either case


def body_of(**fields: Any) -> bytes:
    span = {"traceId": TRACE, "spanId": SPAN, **fields}
    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}).encode()


def span_of(**fields: Any) -> Span:
    request = ExportTraceServiceRequest.FromString(traces_from_json(body_of(**fields), 10))
    return request.resource_spans[0].scope_spans[0].spans[0]


def as_json(message: ExportTraceServiceRequest) -> bytes:
    """Return OTLP/JSON: protobuf's own JSON, with the ids in hex."""

    def with_hex_ids(value: Any) -> Any:
        if isinstance(value, list):
            return [with_hex_ids(item) for item in value]
        if not isinstance(value, dict):
            return value
        return {
            key: base64.b64decode(inner).hex() if key.endswith(("Id", "SpanId")) else with_hex_ids(inner)
            for key, inner in value.items()
        }

    return json.dumps(with_hex_ids(MessageToDict(message))).encode()


def test_ids_are_hex() -> None:
    span = span_of(parentSpanId="")
    assert (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id) == (TRACE, SPAN.lower(), b"")


@pytest.mark.parametrize("kind", [3, "3", "SPAN_KIND_CLIENT"])
def test_an_enum_is_a_number_or_a_name(kind: object) -> None:
    assert span_of(kind=kind, status={"code": "STATUS_CODE_ERROR"}).kind == Span.SPAN_KIND_CLIENT


@pytest.mark.parametrize("number", [1_795_000_000_123_456_789, "1795000000123456789"])
def test_a_64_bit_integer_is_a_text_or_a_number(number: object) -> None:
    assert span_of(startTimeUnixNano=number).start_time_unix_nano == 1_795_000_000_123_456_789


def test_values_of_every_kind_are_read() -> None:
    values = [
        {"stringValue": "é"}, {"intValue": "-9007199254740993"}, {"intValue": 7}, {"doubleValue": 0.5},
        {"doubleValue": "NaN"}, {"boolValue": False}, {"bytesValue": "AAE="}, {}, None,
        {"kvlistValue": {"values": [{"key": "k", "value": {"intValue": 1}}]}},
    ]  # fmt: skip
    span = span_of(attributes=[{"key": "all", "value": {"arrayValue": {"values": values}}}])
    text, big, small, half, nan, no, data, empty, null, pairs = span.attributes[0].value.array_value.values
    assert (text.string_value, big.int_value, small.int_value, half.double_value) == ("é", -(2**53) - 1, 7, 0.5)
    assert math.isnan(nan.double_value) and no.HasField("bool_value") and data.bytes_value == b"\0\1"
    assert empty.WhichOneof("value") is None and null.WhichOneof("value") is None
    assert pairs.kvlist_value.values[0].value.int_value == 1


def test_unknown_fields_and_nulls_are_ignored() -> None:
    span = span_of(name=None, links=None, future={"any": ["thing"]}, status={"message": "no", "deprecatedCode": 1})
    assert span.name == "" and span.status.message == "no"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b"[1]", "Expected `object`"),
        (b'{"resourceSpans": {}}', "$.resourceSpans"),
        (body_of(traceId="zz"), "hexadecimal"),
        (body_of(kind="SPAN_KIND_NONE"), "SPAN_KIND_NONE"),
        (body_of(startTimeUnixNano=-1), "range"),
        (body_of(startTimeUnixNano="9" * 5000), "integer"),
        (body_of(droppedEventsCount=2**40), "range"),
        (body_of(attributes=[{"key": "k", "value": {"bytesValue": "%"}}]), "base64"),
        (b'{"resourceSpans":' * 100_000, "$.resourceSpans"),
        (b'{"other":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    ],
)
def test_what_is_not_otlp_is_refused(body: bytes, says: str) -> None:
    with pytest.raises(IngestError, match=r"nested|OTLP/JSON") as caught:
        traces_from_json(body, 10)
    assert caught.value.status == 400 and says in str(caught.value)


def test_values_nested_beyond_reason_are_refused() -> None:
    deep = '{"arrayValue":{"values":[' * 5000 + "{}" + "]}}" * 5000
    body = '{"resourceSpans":[{"scopeSpans":[{"spans":[{"attributes":[{"key":"k","value":' + deep + "}]}]}]}]}"
    with pytest.raises(IngestError, match="nested too deeply"):
        traces_from_json(body.encode(), 10)


def test_more_spans_than_allowed_are_refused() -> None:
    body = b'{"resourceSpans":[{"scopeSpans":[{"spans":[' + b"{}," * 10 + b"{}]}]}]}"
    with pytest.raises(IngestError) as caught:
        traces_from_json(body, 10)
    assert caught.value.status == 413


@pytest.mark.parametrize("items", [b"{}," * 400_001 + b"{}", b"null," * 1_000_001 + b"null"])
def test_twenty_megabytes_of_nothing_are_refused_before_they_are_read(items: bytes) -> None:
    body = b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"attributes":[' + items + b"]}]}]}]}"
    for act in (lambda: traces_from_json(body, 10), lambda: count_json_items(body, TRACES.json_path)):
        with pytest.raises(IngestError) as caught:
            act()
        assert caught.value.status == 413


def test_real_bodies_come_out_of_json_as_they_were(shared: Callable[[str], Path]) -> None:
    for path in sorted(shared("fixtures/otlp").glob("*/traces-*.bin")):
        request = ExportTraceServiceRequest.FromString(path.read_bytes())
        assert ExportTraceServiceRequest.FromString(traces_from_json(as_json(request), 1000)) == request


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9), lambda inner: (
    st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["resourceSpans", "scopeSpans", "spans", "traceId", "attributes", "key", "value", "stringValue", "intValue",
         "arrayValue", "values", "events", "status", "code", "kind", "timeUnixNano"]), inner, max_size=4)
), max_leaves=25))  # fmt: skip
def test_any_json_is_either_read_or_refused(document: object) -> None:
    try:
        body = traces_from_json(json.dumps(document).encode(), 10)
    except IngestError as error:
        assert error.status in (400, 413)
    else:
        ExportTraceServiceRequest.FromString(body)


def test_items_are_counted_alike_in_both_forms() -> None:
    point = {"asDouble": 1.5}
    metrics = {"resourceMetrics": [{"scopeMetrics": [{"metrics": [
        {"gauge": {"dataPoints": [point, point]}}, {"histogram": {"dataPoints": [point]}}, {"name": "none"},
    ]}]}]}  # fmt: skip
    assert count_json_items(json.dumps(metrics).encode(), METRICS.json_path) == 3
    points = otlp.field(0x0A, b"\x19" + bytes(8))
    one = otlp.field(0x12, otlp.field(0x2A, points * 2)) + otlp.field(0x12, otlp.field(0x4A, points))
    assert count_items(otlp.field(0x0A, otlp.field(0x12, one)), METRICS.path) == 3
    logs = {"resourceLogs": [{"scopeLogs": [{"logRecords": [{}, {}]}, {}]}]}
    assert count_json_items(json.dumps(logs).encode(), LOGS.json_path) == 2
    assert count_json_items(body_of(), TRACES.json_path) == 1


@pytest.mark.parametrize("body", [b"", b"[]", b'{"x":' * 100_000])
def test_a_body_whose_items_cannot_be_counted_is_refused(body: bytes) -> None:
    with pytest.raises(IngestError) as caught:
        count_json_items(body, LOGS.json_path)
    assert caught.value.status == 400
