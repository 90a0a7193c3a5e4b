"""What must hold for any bytes that are sent to the collector: refused with a status, or stored clean and counted.

The oracle looks with the ordinary protobuf classes and plain regular expressions, never through the lenses that the
collector itself looks through.
"""
from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from google.protobuf.message import Message
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from collector.answers import TRACES, Outcome
from collector.commit import GroupCommit
from collector.content import Verdict
from collector.intake import Delivery, Intake
from collector.otlp_json import count_json_items
from collector.receive import measured
from collector.redact import Redactor
from collector.spool import Spool
from farthing import otlp, semconv
from farthing.errors import IngestError, SpoolFullError
from farthing.settings import Settings
from farthing.warehouse import segment

FORMS = ("protobuf", "gzip", "raw gzip", "json")  # by the first byte of an input
CANARY = b"cAnArY"
SAID = "mail canary.bird@example.com, sk-proj-cAnArYcAnArY0000, 4111 1111 1111 1111"
RULES: dict[str, Any] = {
    "max_body_bytes": 200_000, "max_request_spans": 300, "max_attributes": 12, "max_span_events": 4,
    "max_span_links": 4, "max_attribute_value_bytes": 300,
}  # fmt: skip
TOKENS = (
    b"gen_ai.input.messages", b"gen_ai.request.model", b"farthing.tag.a", b"user.id", b"shop.note", b"exception",
    b"sk-proj-cAnArYcAnArY0000", b"canary.bird@example.com", b"4111111111111111", b"eyJhbGciOiJIUzI1NiJ9.e30.x",
    b"\x0a\x10", b"\x12\x08", b"\x4a\x00", b"\x5a\x00", b"\x6a\x00", b"\x7a\x02\x12\x00", b"\x0a\x00", b"\x12\x00",
    b"\x2a\x00", b"\x22\x08", b"\xff\xff\xff\xff\x0f", b'"traceId"', b'"attributes"', b'"stringValue"', b"{}", b"null",
)  # fmt: skip


class Oracle:
    """One collector without its sockets, and what is expected of it."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(data_dir=folder, hash_key="k" * 32, **RULES)
        self.intake = Intake(self.settings)
        self.spool = Spool(folder / "spool", 10**9)
        self.loop = asyncio.new_event_loop()
        self.redactor = Redactor()

        self.commit = GroupCommit(self.spool)
        self.intake.start(self.commit)

    def close(self) -> None:
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        self.spool.close()

    def check(self, fuzzed: bytes) -> str:
        """Send what `fuzzed` stands for; return what became of it.

        Raises:
            AssertionError: it is not what was promised.
        """
        delivery = delivery_of(fuzzed)
        self.commit._seen.clear()  # each input is new
        try:
            outcome = self.loop.run_until_complete(self.intake.take(delivery))
        except (IngestError, SpoolFullError) as error:
            assert self.intake.in_flight == 0 and str(error)
            return "refused"
        stored = self._stored()
        assert outcome.stored + outcome.rejected == _sent(delivery), (outcome, _sent(delivery))
        if not outcome.stored:
            assert not stored
            return "rejected"
        assert len(stored) == 1
        request = ExportTraceServiceRequest.FromString(stored[0])
        assert len(list(_spans(request))) == outcome.stored
        self._check_stored(request, stored[0])
        self._check_glance(delivery, stored[0], outcome)
        return "stored"

    def _stored(self) -> list[bytes]:
        self.spool.rotate()
        found: list[bytes] = []
        for one in self.spool.closed():
            buffer = one.path.read_bytes()
            found += [_without_stamp(buffer[start:end]) for _, start, end in segment.scan(buffer)]
            one.path.unlink()
            self.spool._drop(one)
        return found

    def _check_stored(self, request: ExportTraceServiceRequest, raw: bytes) -> None:
        texts = list(_texts(request, ""))
        assert CANARY not in raw or any(CANARY in text for _, text in texts), "a text hides from the parser"
        for key, text in texts:
            assert len(text) <= self.settings.max_attribute_value_bytes, (key, len(text))
            with suppress(UnicodeDecodeError):  # bytes values may be anything
                said = text.decode()
                is_identity = key in semconv.CONTENT_IDENTITY_KEYS
                assert self.redactor.text(said, is_identity) == said, (key, said)
        for pair in _pairs(request):
            self._check_key(pair)
        for span in _spans(request):
            assert not span.status.message and len(span.trace_id) == 16 and len(span.span_id) == 8
            assert any(span.trace_id) and any(span.span_id) and len(span.parent_span_id) in (0, 8)
            assert len(span.attributes) <= 2 * self.settings.max_attributes + 2  # a length and a hash for each content
            assert len(span.events) <= self.settings.max_span_events
            assert len(span.links) <= self.settings.max_span_links

    def _check_key(self, pair: KeyValue) -> None:
        stem, _, last = pair.key.rpartition(".")
        made = (last == "length" and pair.value.HasField("int_value")) or (
            last == "hash" and len(pair.value.string_value) == 16
        )
        verdict = self.intake._screen.content.verdict(pair.key)
        assert verdict is Verdict.PLAIN or (made and self._is_content(stem)), pair.key

    def _is_content(self, key: str) -> bool:
        is_content = self.intake._screen.content.verdict(key) is Verdict.CONTENT
        return is_content or key == semconv.CONTENT_STATUS_MESSAGE

    def _check_glance(self, delivery: Delivery, stored: bytes, outcome: Outcome) -> None:
        if stored != delivery.body:
            return
        extent = measured(stored, self.settings.max_request_spans)
        closely = self.intake._screen.closely(stored, extent, delivery.tenant)
        assert ExportTraceServiceRequest.FromString(closely.body) == ExportTraceServiceRequest.FromString(stored)
        assert (closely.spans, closely.rejected) == (outcome.stored, outcome.rejected)


def delivery_of(fuzzed: bytes) -> Delivery:
    form, body = FORMS[fuzzed[0] % len(FORMS)] if fuzzed else FORMS[0], fuzzed[1:]
    if form == "gzip":
        return Delivery(TRACES, "acme", gzip.compress(body, 1, mtime=0), "gzip")
    return Delivery(TRACES, "acme", body, "gzip" if form == "raw gzip" else "", form == "json")


def seeds(fixtures: Path) -> list[bytes]:
    """Return inputs to begin with: sound bodies in every form, and real ones where they are there."""
    texts = [
        (semconv.REQUEST_MODEL, "tiny"), ("gen_ai.input.messages", SAID), (semconv.USER, "canary.bird@example.com"),
        ("shop.note", SAID), ("farthing.tag.a", ("a", SAID)), (semconv.USAGE_INPUT_TOKENS, 7), ("error.type", SAID),
    ]  # fmt: skip
    said = otlp.field(0x12, SAID.encode())
    event = otlp.field(0x5A, said + otlp.field(0x1A, otlp.attribute("exception.message", SAID)))
    ids = otlp.field(0x0A, b"t" * 16) + otlp.field(0x12, b"l" * 8)
    state = otlp.field(0x1A, SAID.encode())
    link = otlp.field(0x6A, ids + state + otlp.field(0x22, otlp.attribute("rpc.method", SAID)))
    plain = [_span(texts[:1] + texts[5:6], n) for n in range(1, 4)]
    full = [_span(texts, 9, event + link, SAID), _span(texts[3:], 10)]
    service = [("service.name", "shop")]
    bodies = [otlp.traces(service, "test", "1", one) for one in (plain, full, plain + full)]
    text = b'{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"shop"}}]},'
    text += b'"scopeSpans":[{"spans":[{"traceId":"' + b"ab" * 16 + b'","spanId":"' + b"cd" * 8 + b'","name":"chat",'
    text += b'"attributes":[{"key":"gen_ai.input.messages","value":{"stringValue":"' + SAID.encode() + b'"}}]}]}]}]}'
    real = [path.read_bytes() for path in sorted(fixtures.glob("*/traces-*.bin"))]
    made = [bytes((form,)) + one for form in (0, 1) for one in bodies + real]
    return [*made, b"\2" + gzip.compress(bodies[0], mtime=0), b"\3" + text]


def _span(texts: Any, number: int, more: bytes = b"", error: str = "") -> bytes:
    name, encoded = f"chat {error}".strip(), otlp.attributes(texts) + more
    return otlp.span(b"t" * 16, number.to_bytes(8, "big"), b"", name, (1, 2), encoded, error=error)


def _sent(delivery: Delivery) -> int:
    if delivery.is_json:
        return count_json_items(delivery.body.decode("utf-8", "replace").encode(), TRACES.json_path)
    body = zlib.decompress(delivery.body, 31) if delivery.encoding else delivery.body
    return len(list(_spans(ExportTraceServiceRequest.FromString(body))))


def _without_stamp(record: bytes) -> bytes:
    """Return the body of a record: what was sent, before the collector's own fields at its end."""
    tenant = otlp.field_tag(1001, 2) + b"\4acme"
    return record[: record.rindex(tenant)]


def _spans(request: ExportTraceServiceRequest) -> Iterator[Any]:
    return (span for one in request.resource_spans for scope in one.scope_spans for span in scope.spans)


def _pairs(request: ExportTraceServiceRequest) -> Iterator[KeyValue]:
    for one in request.resource_spans:
        yield from one.resource.attributes
        for scope in one.scope_spans:
            yield from scope.scope.attributes
    for span in _spans(request):
        for holder in (span, *span.events, *span.links):
            yield from holder.attributes


def _texts(message: Message, key: str) -> Iterator[tuple[str, bytes]]:
    """Yield each text of a message, and the attribute that it belongs to."""
    if message.DESCRIPTOR is KeyValue.DESCRIPTOR and not key:
        key = message.key  # type: ignore[attr-defined]
        yield "", key.encode()
        message = message.value  # type: ignore[attr-defined]
    for field, value in message.ListFields():
        for one in value if field.is_repeated else [value]:
            if isinstance(one, Message):
                yield from _texts(one, key)
            elif isinstance(one, str):
                yield key, one.encode()
            elif isinstance(one, bytes) and not field.name.endswith("_id"):
                yield key, one

