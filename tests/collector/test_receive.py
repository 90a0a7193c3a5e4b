"""collector/receive.py: what is refused, with which status, before anything is stored."""
from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from collector.receive import checked_span_count, count_spans, decompressed
from farthing import otlp
from farthing.errors import IngestError

LIMIT = 1024 * 1024


def body_of(spans: int) -> bytes:
    one = [otlp.span(b"t" * 16, n.to_bytes(8, "big"), b"", "chat", (1, 2), b"") for n in range(1, spans + 1)]
    return otlp.traces([("service.name", "shop")], "test", "1", one)


def refused(status: int, act: Callable[[], object]) -> str:
    with pytest.raises(IngestError) as caught:
        act()
    assert caught.value.status == status
    return str(caught.value)


def test_spans_are_counted_without_parsing() -> None:
    assert count_spans(body_of(7), 100) == 7 == checked_span_count(body_of(7), 100)


def test_four_megabytes_of_empty_spans_are_refused() -> None:
    bomb = otlp.field(0x0A, otlp.field(0x12, b"\x12\x00" * 2_000_000))
    assert "more than 200000 spans" in refused(413, lambda: checked_span_count(bomb, 200_000))


def test_a_gzip_bomb_is_refused_before_it_is_inflated() -> None:
    bomb = gzip.compress(b"\0" * 50_000_000)
    assert "when decompressed" in refused(413, lambda: decompressed(bomb, "gzip", LIMIT))


@pytest.mark.parametrize(
    ("body", "encoding", "status"),
    [
        (b"not gzip", "gzip", 400),
        (gzip.compress(body_of(1))[:-4], "gzip", 400),
        (gzip.compress(body_of(1)) + b"more", "gzip", 400),
        (body_of(1), "br", 415),
    ],
)
def test_a_body_that_is_not_what_its_encoding_says_is_refused(body: bytes, encoding: str, status: int) -> None:
    refused(status, lambda: decompressed(body, encoding, LIMIT))


@pytest.mark.parametrize("body", [b"garbage", body_of(3)[:-2], b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x0a\x05ab"])
def test_bytes_that_are_not_otlp_are_refused(body: bytes) -> None:
    refused(400, lambda: checked_span_count(body, 100))


def test_attributes_nested_beyond_reason_are_refused() -> None:
    value = otlp.field(0x0A, b"deep")
    for _ in range(200):
        value = otlp.field(0x2A, otlp.field(0x0A, value))
    span = otlp.field(0x4A, otlp.field(0x0A, b"key") + otlp.field(0x12, value))
    body = otlp.field(0x0A, otlp.field(0x12, otlp.field(0x12, span)))
    refused(400, lambda: checked_span_count(body, 100))


@given(st.binary(max_size=400))
def test_any_bytes_are_either_counted_or_refused(body: bytes) -> None:
    try:
        counted = checked_span_count(body, 1000)
    except IngestError as error:
        assert error.status in (400, 413)
    else:
        parsed = ExportTraceServiceRequest.FromString(body)
        assert counted == sum(len(s.spans) for r in parsed.resource_spans for s in r.scope_spans)


def test_real_bodies_of_five_instrumentations_are_accepted(shared: Callable[[str], Path]) -> None:
    for path in sorted(shared("fixtures/otlp").glob("*/traces-*.bin")):
        assert checked_span_count(path.read_bytes(), 1000) >= 17
