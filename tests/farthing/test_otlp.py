"""farthing/otlp.py and warehouse/schema/otlp.proto agree with opentelemetry-proto."""
from __future__ import annotations

import re
from importlib import resources

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

from farthing import otlp


def test_hand_written_bytes_are_read_back_by_the_official_classes() -> None:
    values: list[tuple[str, otlp.Value]] = [
        ("text", "grün"), ("yes", True), ("no", False), ("count", 2**40), ("minus", -5), ("share", 0.25),
        ("list", ("a", "b")),
    ]  # fmt: skip
    span = otlp.span(b"T" * 16, b"S" * 8, b"P" * 8, "chat m", (10, 20), otlp.attributes(values), error="boom")
    body = otlp.traces([("service.name", "shop")], "scope", "7", [span, span])
    request = ExportTraceServiceRequest.FromString(body)
    (resource,) = request.resource_spans
    (scope,) = resource.scope_spans
    read = scope.spans[0]
    assert (resource.resource.attributes[0].value.string_value, scope.scope.name, scope.scope.version) == (
        "shop",
        "scope",
        "7",
    )
    assert (read.trace_id, read.span_id, read.parent_span_id, read.name) == (b"T" * 16, b"S" * 8, b"P" * 8, "chat m")
    assert (read.start_time_unix_nano, read.end_time_unix_nano, read.kind) == (10, 20, otlp.KIND_SERVER)
    assert (read.status.code, read.status.message, len(scope.spans)) == (otlp.STATUS_ERROR, "boom", 2)
    found = {item.key: item.value for item in read.attributes}
    assert (found["text"].string_value, found["yes"].bool_value, found["count"].int_value) == ("grün", True, 2**40)
    assert found["no"].HasField("bool_value") and not found["no"].bool_value
    assert (found["minus"].int_value, found["share"].double_value) == (-5, 0.25)
    assert [item.string_value for item in found["list"].array_value.values] == ["a", "b"]


@pytest.mark.parametrize("number", [0, 127, 128, 2**14 - 1, 2**14, 2**21 - 1, 2**21, 2**28 - 1, 2**28, 2**63 - 1])
def test_a_layout_writes_what_attributes_writes_and_leaves_out_what_is_empty(number: int) -> None:
    layout = otlp.Layout(("100 %b", str), ("share", float), ("count", int), ("gone", str), ("none", int), ("long", str))
    long = "ü" * 100
    encoded = layout(b"x", otlp.double(0.25), otlp.varint(number), b"", b"", long.encode())
    assert encoded == otlp.attributes([("100 %b", "x"), ("share", 0.25), ("count", number), ("long", long)])
    span = otlp.span(b"T" * 16, b"S" * 8, b"", "chat m", (10, 20), encoded)
    read = trace_pb2.Span.FromString(span)
    assert [item.key for item in read.attributes] == ["100 %b", "share", "count", "long"]
    assert (read.attributes[2].value.int_value, read.attributes[3].value.string_value) == (number, long)


def test_the_warehouse_s_schema_has_the_official_field_numbers() -> None:
    text = resources.files("farthing.warehouse").joinpath("schema/otlp.proto").read_text()
    official = {
        "AnyValue": common_pb2.AnyValue, "KeyValue": common_pb2.KeyValue, "ArrayValue": common_pb2.ArrayValue,
        "Scope": common_pb2.InstrumentationScope, "Span": trace_pb2.Span, "Event": trace_pb2.Span.Event,
        "Link": trace_pb2.Span.Link, "Status": trace_pb2.Status, "ScopeSpans": trace_pb2.ScopeSpans,
        "ResourceSpans": trace_pb2.ResourceSpans, "TracesData": trace_pb2.TracesData,
    }  # fmt: skip
    checked = 0
    for name, fields in re.findall(r"message (\w+) \{(.*?)\}", text, re.DOTALL):
        for field, number in re.findall(r"(\w+) = (\d+);", fields):
            if name in official and not field.startswith("farthing_"):
                assert official[name].DESCRIPTOR.fields_by_name[field].number == int(number), (name, field)
                checked += 1
    assert checked >= 30
