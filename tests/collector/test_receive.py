"""collector/receive.py: what is refused, with which status, before anything is stored."""
from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collector.answers import SIGNALS, TRACES, Signal
from collector.intake import Delivery, Intake
from collector.receive import count_items, decompressed, is_large, measured, parsed
from farthing import otlp
from farthing.errors import IngestError
from farthing.settings import Settings

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
    assert measured(body_of(7), 100).spans == 7


def test_four_megabytes_of_empty_spans_are_refused() -> None:
    bomb = otlp.field(0x0A, otlp.field(0x12, b"\x12\x00" * 2_000_000))
    assert "more than 200000 spans" in refused(413, lambda: measured(bomb, 200_000))


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
    ids=["no gzip", "cut short", "more behind", "another encoding"],
)
def test_a_body_that_is_not_what_its_encoding_says_is_refused(body: bytes, encoding: str, status: int) -> None:
    refused(status, lambda: decompressed(body, encoding, LIMIT))


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip"])
def test_a_gzip_body_of_several_members_is_all_of_them(encoding: str) -> None:
    plain = body_of(9)
    parts = [plain[:10], b"", plain[10:300], plain[300:]]
    assert decompressed(b"".join(map(gzip.compress, parts)), encoding, len(plain)) == plain
    assert is_large(b"".join(map(gzip.compress, parts)), encoding)  # its end tells of one member alone


def test_a_gzip_bomb_of_several_members_is_refused_by_their_sum() -> None:
    half = gzip.compress(bytes(600_000))
    assert len(decompressed(half, "gzip", LIMIT)) == 600_000
    assert "when decompressed" in refused(413, lambda: decompressed(half + half, "gzip", LIMIT))
    assert "more than 100 members" in refused(413, lambda: decompressed(gzip.compress(b"") * 500_000, "gzip", LIMIT))


@pytest.mark.parametrize("body", [b"garbage", body_of(3)[:-2], b"\x0a" + b"\xff" * 10 + b"\x01", b"\x0a\x05ab"])
def test_bytes_that_are_not_otlp_are_refused(body: bytes) -> None:
    refused(400, lambda: (measured(body, 100), parsed(body)))


def test_attributes_nested_beyond_reason_are_refused() -> None:
    value = otlp.field(0x0A, b"deep")
    for _ in range(200):
        value = otlp.field(0x2A, otlp.field(0x0A, value))
    span = otlp.field(0x4A, otlp.field(0x0A, b"key") + otlp.field(0x12, value))
    body = otlp.field(0x0A, otlp.field(0x12, otlp.field(0x12, span)))
    refused(400, lambda: (measured(body, 100), parsed(body)))


@given(st.binary(max_size=400))
def test_any_bytes_are_either_counted_or_refused(body: bytes) -> None:
    try:
        extent = measured(body, 1000)
        request = parsed(body)
    except IngestError as error:
        assert error.status in (400, 413)
    else:
        spans = [span for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans]
        assert extent.spans == len(spans) and extent.longest >= max((len(span.name) for span in spans), default=0)


@given(st.binary(max_size=400))
def test_items_of_any_signal_in_any_bytes_are_either_counted_or_refused(body: bytes) -> None:
    for signal in SIGNALS:
        try:
            assert count_items(body, signal.path) <= len(body)
        except IngestError as error:
            assert error.status == 400


def bodies() -> st.SearchStrategy[bytes]:
    """Sound bodies in every form, with a few bytes changed, cut out or put in."""
    texts = [("gen_ai.input.messages", "to jane@example.com"), ("user.id", "é"), ("x", ("a", "b"))]
    failure = otlp.field(0x1A, otlp.attribute("exception.message", "no"))
    event = otlp.field(0x5A, otlp.field(0x12, b"exception") + failure)
    link = otlp.field(0x6A, otlp.field(0x0A, b"t" * 16) + otlp.field(0x12, b"l" * 8))
    span = otlp.span(b"t" * 16, b"s" * 8, b"", "chat", (1, 2), otlp.attributes(texts) + event + link, error="failed")
    sound = otlp.traces([("service.name", "shop")], "test", "1", [span, span])
    text = b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"ab","kind":3,"attributes":[{"key":"k"}]}]}]}]}'
    prompt = otlp.field(0x32, otlp.attribute("prompt", "to jane@example.com"))
    said = prompt + otlp.field(0x62, b"claude_code.user_prompt")
    logs = otlp.field(0x0A, otlp.field(0x12, otlp.field(0x12, said)))
    point = otlp.field(0x0A, otlp.field(0x3A, otlp.attribute("gen_ai.input.messages", "jane@example.com")))
    metric = otlp.field(0x12, otlp.field(0x0A, b"gen_ai.x") + otlp.field(0x2A, point) + otlp.field(0x4A, point))
    metrics = otlp.field(0x0A, otlp.field(0x12, metric))
    base = st.sampled_from([sound, text, logs, metrics, gzip.compress(sound, mtime=0)])
    edit = st.tuples(st.integers(0, 300), st.integers(0, 3), st.binary(max_size=3))
    return st.builds(_edited, base, st.lists(edit, max_size=4))


def _edited(body: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    for at, cut, put in edits:
        body = body[:at] + put + body[at + cut :]
    return body


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(bodies(), st.sampled_from(["", "gzip"]), st.booleans(), st.sampled_from(SIGNALS))
def test_any_delivery_is_taken_or_refused_with_a_status(
    tmp_path: Path, body: bytes, encoding: str, is_json: bool, signal: Signal
) -> None:
    intake = Intake(Settings(data_dir=tmp_path))
    delivery = Delivery(signal, "acme", body, encoding, is_json)
    try:
        if signal is not TRACES:
            found = intake._read_signal(delivery, LIMIT)
            assert count_items(found.body, signal.path) == found.stored and b"jane@example.com" not in found.body
            return
        screened = intake._read(delivery, LIMIT)
    except IngestError as error:
        assert error.status in (400, 413)
    else:
        assert measured(screened.body, 1000).spans == screened.spans
        assert is_json or b"jane@example.com" not in screened.body


def test_real_bodies_of_five_instrumentations_are_accepted(shared: Callable[[str], Path]) -> None:
    for path in sorted(shared("fixtures/otlp").glob("*/traces-*.bin")):
        assert measured(path.read_bytes(), 1000).spans >= 17
