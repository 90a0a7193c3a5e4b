"""collector/glance.py and lens.py: yes to what is common, and never to what a close look would change."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from collector import lens
from collector.receive import measured
from collector.screen import Screen
from farthing import otlp, semconv
from farthing.errors import IngestError
from farthing.settings import Redaction, Settings

PLAIN = [(semconv.REQUEST_MODEL, "tiny"), (semconv.USAGE_INPUT_TOKENS, 7), (semconv.RESPONSE_FINISH_REASONS, ("stop",))]


def span(attributes: bytes, number: int = 1, **fields: Any) -> bytes:
    name = fields.pop("name", "chat")
    return otlp.span(b"t" * 16, number.to_bytes(8, "big"), b"", name, (1, 2), attributes, **fields)


def body_of(*spans: bytes) -> bytes:
    return otlp.traces([("service.name", "shop"), ("process.pid", 1)], "test", "1", spans)


def glances(body: bytes, **rules: Any) -> bool:
    """Tell whether the body is stored as it came; where it is, the close look must not change it either."""
    screen = Screen(Settings(**rules), b"k" * 32)
    extent = measured(body, 1000)
    made = screen(body, extent, "acme")
    if made.body is not body:
        return False
    closely = screen.closely(body, extent, "acme")
    assert ExportTraceServiceRequest.FromString(closely.body) == ExportTraceServiceRequest.FromString(body)
    assert (closely.spans, closely.rejected, +closely.cuts) == (made.spans, 0, +made.cuts)
    return True


def test_spans_of_plain_attributes_are_stored_as_they_came() -> None:
    spans = [span(otlp.attributes([*PLAIN, (semconv.tag_attribute(f"t{n}"), n)]), n) for n in range(1, 200)]
    assert glances(body_of(*spans))
    assert glances(body_of(*spans), redactions=(Redaction("EMP-[0-9]+"),))  # which nothing here holds
    assert glances(body_of(span(otlp.attributes([(semconv.tag_attribute("long"), "x" * 5000)]))))


def test_what_only_looks_like_a_secret_among_the_lengths_of_texts_is_stored_as_it_came() -> None:
    """A text of 64 bytes has @ for its length, and reads as the end of an address until it is looked at for itself."""
    attributes = otlp.attributes([(semconv.tag_attribute("pod"), "shop." + "x" * 59)])
    assert glances(body_of(span(attributes)))


def attribute(*fields: tuple[int, bytes]) -> bytes:
    return otlp.field(0x4A, b"".join(otlp.field(tag, payload) for tag, payload in fields))


KEY, TEXT = semconv.tag_attribute("note").encode(), otlp.field(0x0A, b"hidden")
TRACE, ID = otlp.field(0x0A, b"t" * 16), otlp.field(0x12, b"s" * 8)
MANY = otlp.attributes([(f"farthing.tag.{n}", n) for n in range(129)])


@pytest.mark.parametrize(
    "one",
    [
        span(attribute((0x0A, b"shop.note"), (0x12, TEXT))),
        span(attribute((0x0A, b"gen_ai.input.messages"), (0x12, TEXT))),
        span(attribute((0x12, TEXT))),  # without a key
        span(attribute((0x0A, b"shop.note"), (0x0A, KEY), (0x12, TEXT))),  # with two, of which the first hides
        span(otlp.field(0x4A, otlp.attribute("shop.note", "x") + b"\x18\x05")),  # a known field that no map entry has
        span(attribute((0x0A, KEY), (0x12, TEXT), (0x22, b"hidden"))),  # a field that no schema knows
        span(attribute((0x0A, KEY), (0x12, TEXT)) + otlp.field(0x92, b"")[:1] + b"\x06\x06hidden"),
        span(attribute((0x0A, KEY), (0x12, otlp.field(0x2A, otlp.field(0x0A, b"\x18\x00"))))),  # a list that holds a 0
        span(attribute((0x0A, KEY), (0x12, otlp.field(0x32, b"")))),  # pairs
        span(otlp.attributes([(semconv.tag_attribute("a"), "jane@example.com")])),
        span(otlp.attributes([(semconv.tag_attribute("a"), ("x", "sk-proj-Zm9vYmFyYmF6cXV4eHl6enk"))])),
        span(b"", name="4111111111111111"),
        span(attribute((0x0A, KEY), (0x12, otlp.field(0x3A, b"4111111111111111")))),
        span(attribute((0x0A, KEY), (0x12, otlp.field(0x0A, b"4111111111111111") + otlp.field(0x32, b"")))),
        span(b"", name="x" * 70_000),
        span(b"", error="failed"),
        span(otlp.field(0x5A, b"")),
        span(otlp.field(0x6A, TRACE + ID)),
        span(MANY),
        TRACE + otlp.field(0x12, b"short"),
        TRACE + ID + otlp.field(0x0A, bytes(16)),  # the last id counts
        otlp.field(0x0A, bytes(16)) + ID,
        TRACE,
        b"",
        TRACE + ID + otlp.field(0x22, b"parent"),
    ],
)
def test_a_span_that_is_to_be_changed_is_never_stored_as_it_came(one: bytes) -> None:
    assert not glances(body_of(span(otlp.attributes(PLAIN)), one))


@pytest.mark.parametrize(
    "more",
    [
        otlp.field(0x0A, otlp.attribute("shop.note", "x")),
        otlp.field(0x1A, otlp.field(0x12, b"entity")),
        otlp.field(0x32, b"unknown"),
    ],
)
def test_a_resource_is_looked_at_too(more: bytes) -> None:
    body = body_of(span(otlp.attributes(PLAIN)))
    assert glances(body)
    assert not glances(body + otlp.field(0x0A, otlp.field(0x0A, more)))


def test_a_long_resource_without_a_span_is_looked_at() -> None:
    body = otlp.traces([("service.name", "x" * 5000)], "test", "1", [])
    assert glances(body) and measured(body, 9).spans == 0


def test_a_scope_and_its_schema_are_looked_at_too() -> None:
    scope = otlp.field(0x0A, otlp.field(0x0A, b"library") + otlp.field(0x1A, otlp.attribute("gen_ai.system", "x")))
    within = [scope, scope + otlp.field(0x1A, b"https://jane@example.com/1.0"), scope + otlp.field(0x1A, b"x" * 70_000)]
    spans = otlp.field(0x12, span(otlp.attributes(PLAIN)))
    assert [glances(otlp.field(0x0A, otlp.field(0x12, spans + one))) for one in within] == [True, False, False]
    assert not glances(otlp.field(0x0A, otlp.field(0x12, spans + scope) + otlp.field(0x1A, b"x" * 70_000)))


def test_the_lenses_know_every_field_that_the_schema_knows() -> None:
    """A merged message of everything keeps every text of it, so that a field of a later schema is looked at too."""
    filled = ExportTraceServiceRequest()
    said = _fill(filled, 0, set())
    merged = lens.Merged.FromString(filled.SerializeToString())
    assert not lens.has_unknown(merged) and {text for text in said if text not in _keys(filled)} <= lens.texts(merged)


def _fill(message: Any, depth: int, said: set[bytes]) -> set[bytes]:
    for field in message.DESCRIPTOR.fields:
        if field.message_type is not None and depth < 9:
            inner = getattr(message, field.name)
            _fill(inner.add() if field.is_repeated else inner, depth + 1, said)
        elif field.type in (field.TYPE_STRING, field.TYPE_BYTES) and not field.name.endswith("_id"):
            text = f"{message.DESCRIPTOR.name}.{field.name}.{depth}"
            if field.is_repeated:
                getattr(message, field.name).append(text)
            elif field.containing_oneof is None:
                setattr(message, field.name, text if field.type == field.TYPE_STRING else text.encode())
            if field.is_repeated or field.containing_oneof is None:
                said.add(text.encode())
    return said


def _keys(request: ExportTraceServiceRequest) -> set[bytes]:
    one = request.resource_spans[0]
    scope, span = one.scope_spans[0].scope, one.scope_spans[0].spans[0]
    holders = (one.resource, scope, span, span.events[0], span.links[0])
    return {pair.key.encode() for holder in holders for pair in holder.attributes}


def bodies() -> st.SearchStrategy[bytes]:
    """Bodies of which some are plain all over and most are not, with fields in any order and any number."""
    keys = st.sampled_from([KEY, semconv.USER.encode(), b"shop.x", b"input.value", b"", b"llm.model_name"])
    texts = st.sampled_from([b"a", b"jane@example.com", "é".encode(), b"4111 1111 1111 1111", b"\xff", b"y" * 60])
    others = st.sampled_from([b"\x18\x07", b"", otlp.field(0x32, b""), otlp.field(0x3A, b"\xff")])
    values = texts.map(lambda text: otlp.field(0x0A, text)) | others
    items = st.lists(values.map(lambda value: otlp.field(0x0A, value)), max_size=2)
    lists = items.map(lambda inner: otlp.field(0x2A, b"".join(inner)))
    parts = st.one_of(keys.map(lambda k: otlp.field(0x0A, k)), (values | lists).map(lambda v: otlp.field(0x12, v)))
    sound = st.tuples(keys, values | lists).map(lambda kv: otlp.field(0x0A, kv[0]) + otlp.field(0x12, kv[1]))
    pairs = sound | st.lists(parts, max_size=3).map(b"".join)
    fields = st.one_of(
        pairs.map(lambda pair: otlp.field(0x4A, pair)),
        texts.map(lambda text: otlp.field(0x2A, text)),
        st.sampled_from([TRACE, ID, otlp.field(0x22, b"p" * 8), otlp.field(0x7A, b"\x18\x02")]),
        st.sampled_from([b"\x30\x03", b"\x30\x83\x00"]),
    )
    spans = st.lists(fields, max_size=5).map(lambda inner: otlp.field(0x12, TRACE + ID + b"".join(inner)))
    scopes = st.lists(spans, min_size=1, max_size=3).map(lambda inner: otlp.field(0x12, b"".join(inner)))
    resources = pairs.map(lambda pair: otlp.field(0x0A, otlp.field(0x0A, pair))) | st.just(b"")
    return st.lists(st.builds(lambda r, s: otlp.field(0x0A, r + s), resources, scopes), max_size=2).map(b"".join)


@settings(max_examples=400, deadline=None)
@given(bodies(), st.sampled_from([{}, {"max_attributes": 2}, {"max_attribute_value_bytes": 40}]))
def test_where_a_glance_is_enough_a_close_look_changes_nothing(body: bytes, rules: dict[str, Any]) -> None:
    try:
        glances(body, **rules)
    except IngestError as error:
        assert "not an OTLP" in str(error)  # texts that are not UTF-8


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c.d"]), st.text("abc é", max_size=9)), max_size=20))
def test_plain_bodies_of_any_shape_are_stored_as_they_came(tags: list[tuple[str, str]]) -> None:
    attributes = otlp.attributes([(semconv.tag_attribute(name), text) for name, text in tags])
    assert glances(body_of(span(attributes), span(attributes, 2)))


def test_real_spans_without_content_are_stored_as_they_came(shared: Callable[[str], Any]) -> None:
    stored = [glances(path.read_bytes()) for path in sorted(shared("fixtures/otlp").glob("*content0/traces-*.bin"))]
    assert stored.count(False) == len(stored)  # each holds a failed call: an event and a message
