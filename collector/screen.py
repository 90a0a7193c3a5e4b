"""Screens one parsed trace request before it is spooled: ids, limits, content, secrets.

Most requests need no change, which a glance tells, and the spool takes the sender's own bytes. Of the others each span
is looked at, and into where its keys, its size or a suspicion ask for it. What was cut is counted, never refused.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, MutableSequence, Sequence
from dataclasses import dataclass
from operator import attrgetter

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from collector.content import ContentPolicy, Verdict
from collector.glance import Glance, Seen
from collector.receive import Extent, parsed
from collector.redact import Redactor
from collector.values import as_text, is_flat
from farthing import semconv
from farthing.settings import Settings

_LOOKED_AT = 4096  # attributes of one holder that are looked at; far past any limit, so no money hides behind them
_ROOM = 1024  # bytes past the limit that the redactors see, so that no secret is cut in two before they look
_key = attrgetter("key")
_Holder = Resource | InstrumentationScope | Span | Span.Event | Span.Link
_NO_TRACE, _NO_SPAN = bytes(16), bytes(8)
_NOTHING = Seen()


@dataclass(frozen=True)
class Screened:
    """What is left to store of a request."""

    body: bytes
    spans: int
    attributes: int  # before anything was cut
    rejected: int  # spans with an invalid id, taken out
    cuts: Counter[str]  # what was changed, by reason


class Screen:
    """The rules of one collector."""

    def __init__(self, settings: Settings, hash_key: bytes) -> None:
        """Read the rules.

        Raises:
            SettingsError: a pattern or a share among them cannot be used.
        """
        self.settings = settings
        self.content = ContentPolicy(settings, hash_key)
        self.redactor = Redactor(one.pattern for one in settings.redactions)
        self._glance = Glance(settings, self.content, self.redactor)

    def __call__(self, body: bytes, extent: Extent, tenant: str) -> Screened:
        """Screen a body that was measured; IngestError 400 for bytes that are not a trace request."""
        seen = self._glance(body, extent)
        if seen.is_sound:
            return Screened(body, extent.spans, extent.attributes, 0, Counter())
        return self.closely(body, extent, tenant, seen)

    def closely(self, body: bytes, extent: Extent, tenant: str, seen: Seen = _NOTHING) -> Screened:
        """Screen a body span by span; what is stored is written anew, so that only what was looked at is left."""
        request = parsed(body)
        size = request.ByteSize()
        request.DiscardUnknownFields()  # first: behind a text they may read as more of it
        screening = _Screening(self, tenant, seen, extent.longest > self.settings.max_attribute_value_bytes)
        screening.cuts["bodies with unknown fields"] += request.ByteSize() != size
        rejected = screening.request(request)
        left = request.SerializeToString()
        return Screened(left, extent.spans - rejected, extent.attributes, rejected, screening.cuts)


class _Screening:
    """The screening of one request."""

    def __init__(self, screen: Screen, tenant: str, seen: Seen, long: bool) -> None:
        self._settings = screen.settings
        self._content = screen.content
        self._redactor = screen.redactor
        self._tenant = tenant
        self._suspect_body = seen.has_secrets
        self._has_plain_spans = seen.has_plain_spans
        self._is_flat = seen.is_flat
        self._looks_closely = seen.has_secrets or long  # each holder is to be looked at for itself
        self._suspect = False  # a text of this holder may hold a secret
        self._deep = False  # every text of this holder is to be looked at, for a secret or for its length
        self.cuts: Counter[str] = Counter()

    def request(self, request: ExportTraceServiceRequest) -> int:
        """Screen everything; return how many spans were taken out."""
        return sum(self._resource(one) for one in request.resource_spans)

    def _resource(self, one: ResourceSpans) -> int:
        if one.resource.entity_refs:
            self.cuts["entity references dropped"] += len(one.resource.entity_refs)
            one.resource.ClearField("entity_refs")
        self._look_at(one.resource)
        self._attributes(one.resource, False)
        self._schema_url(one)
        return sum(self._scope(scope) for scope in one.scope_spans)

    def _scope(self, one: ScopeSpans) -> int:
        if one.HasField("scope"):
            self._look_at(one.scope)
            self._attributes(one.scope, False)
            self._texts(one.scope, "name", "version")
        self._schema_url(one)
        return self._spans(one.spans)

    def _schema_url(self, one: ResourceSpans | ScopeSpans) -> None:
        if one.schema_url:
            self._suspect = self._suspect_body
            self._texts(one, "schema_url")

    @property
    def _is_shallow(self) -> bool:
        return self._is_flat and not self._deep

    def _look_at(self, holder: _Holder) -> None:
        """Find out how closely a holder is to be looked at."""
        self._suspect = self._suspect_body and self._redactor.is_suspect(holder.SerializeToString())
        self._deep = self._suspect or holder.ByteSize() > self._settings.max_attribute_value_bytes

    def _spans(self, spans: MutableSequence[Span]) -> int:
        plain, most, invalid = self._content.plain, self._settings.max_attributes, []
        closely, all_plain = self._looks_closely, self._has_plain_spans
        self._suspect = self._deep = False
        for at, span in enumerate(spans):
            if closely:
                self._look_at(span)
            if not _has_valid_ids(span):
                invalid.append(at)
                continue
            attributes = span.attributes
            if (
                self._deep
                or not self._is_flat
                or span.events
                or span.links
                or len(attributes) > most
                or not (all_plain or plain.issuperset(map(_key, attributes)))
                or span.status.message
            ):
                self._span(span)
        if invalid:
            self._take_out(spans, invalid)
        return len(invalid)

    def _take_out(self, spans: MutableSequence[Span], invalid: list[int]) -> None:
        self.cuts["spans with an invalid id"] += len(invalid)
        out = set(invalid)
        kept = [span for at, span in enumerate(spans) if at not in out]
        del spans[:]
        spans.extend(kept)

    def _span(self, span: Span) -> None:
        keep = self._content.is_kept(span.trace_id)
        self._attributes(span, keep)
        if span.status.message:
            self._status(span, keep)
        if self._deep:
            self._texts(span, "name", "trace_state")
        if span.events:
            span.dropped_events_count += self._over(span.events, self._settings.max_span_events, "events")
            for event in span.events:
                self._attributes(event, keep)
                self._texts(event, "name")
        if span.links:
            self._links(span, keep)

    def _status(self, span: Span, keep: bool) -> None:
        """The message of an error often quotes what was sent, the key that was refused included."""
        if keep:
            self._texts(span.status, "message")
            return
        said = AnyValue(string_value=span.status.message)
        span.attributes.extend(self._content.hidden(semconv.CONTENT_STATUS_MESSAGE, said, self._tenant))
        span.status.message = ""
        self.cuts["status messages hidden"] += 1

    def _links(self, span: Span, keep: bool) -> None:
        invalid = [at for at, link in enumerate(span.links) if not _is_valid(link.trace_id, link.span_id)]
        if invalid:
            kept = [link for link in span.links if _is_valid(link.trace_id, link.span_id)]
            del span.links[:]
            span.links.extend(kept)
            span.dropped_links_count += len(invalid)
            self.cuts["links with an invalid id"] += len(invalid)
        span.dropped_links_count += self._over(span.links, self._settings.max_span_links, "links")
        for link in span.links:
            self._attributes(link, keep)
            self._texts(link, "trace_state")

    def _over(self, items: MutableSequence[Span.Event] | MutableSequence[Span.Link], most: int, what: str) -> int:
        """Cut a list to its limit; return how many went."""
        over = max(0, len(items) - most)
        if over:
            del items[most:]
            self.cuts[f"{what} over the limit"] += over
        return over

    def _attributes(self, holder: _Holder, keep: bool) -> None:
        """Screen the attributes of a span, event, link, resource or scope.

        Plain ones come before content where both do not fit, because a long conversation must not push out its usage.
        """
        attributes, most = holder.attributes, self._settings.max_attributes
        if self._is_shallow and len(attributes) <= most and self._content.plain.issuperset(map(_key, attributes)):
            return
        plain, content = self._sorted(attributes)
        plain = plain[:most]
        content = content[: most - len(plain)]
        dropped = len(attributes) - len(plain) - len(content)
        if content or dropped:
            made = [one for attribute in content for one in self._stored(attribute, keep)]
            del attributes[:]
            attributes.extend(plain + made)
        if dropped:
            holder.dropped_attributes_count += dropped
            self.cuts["attributes dropped"] += dropped

    def _sorted(self, attributes: Sequence[KeyValue]) -> tuple[list[KeyValue], list[KeyValue]]:
        """Return the attributes that may be stored: plain ones, content."""
        plain: list[KeyValue] = []
        content: list[KeyValue] = []
        for attribute in attributes[:_LOOKED_AT]:
            if self._suspect and self._redactor.text(attribute.key) != attribute.key:
                continue
            verdict = self._content.verdict(attribute.key)
            if verdict is Verdict.CONTENT:
                content.append(attribute)
            elif verdict is Verdict.PLAIN and (self._is_shallow or self._fits(attribute)):
                plain.append(attribute)
        return plain, content

    def _stored(self, attribute: KeyValue, keep: bool) -> Iterable[KeyValue]:
        """Return what is stored of an attribute that is content."""
        if keep:
            return [attribute] if self._fits(attribute) else []
        self.cuts["content hidden"] += 1
        return self._content.hidden(attribute.key, attribute.value, self._tenant)

    def _fits(self, attribute: KeyValue) -> bool:
        """Redact, cut and flatten an attribute in place; False where it can only be dropped."""
        value = attribute.value
        if not self._value(value, attribute.key):
            return False
        if not is_flat(value):
            text = as_text(value)
            cut = self._text(text, False)
            value.string_value = text if cut is None else cut
        return True

    def _value(self, value: AnyValue, key: str) -> bool:
        """Redact and cut a value in place; False where it can only be dropped."""
        kind = value.WhichOneof("value")
        if kind == "string_value":
            text = self._text(value.string_value, key in semconv.CONTENT_IDENTITY_KEYS)
            if text is not None:
                value.string_value = text
        elif kind in ("array_value", "kvlist_value", "bytes_value"):
            if value.ByteSize() > self._settings.max_attribute_value_bytes:
                self.cuts["values over the limit"] += 1
                return False
            if kind == "bytes_value":
                return not self._redactor.is_suspect(value.bytes_value)
            return self._values(value, key)
        return True

    def _values(self, value: AnyValue, key: str) -> bool:
        inner = [*value.array_value.values] if value.HasField("array_value") else []
        if value.HasField("kvlist_value"):
            for pair in value.kvlist_value.values:
                self._texts(pair, "key")
                inner.append(pair.value)
        return all(self._value(item, key) for item in inner)

    def _texts(self, holder: object, *names: str) -> None:
        for name in names:
            text = self._text(getattr(holder, name), False)
            if text is not None:
                setattr(holder, name, text)

    def _text(self, text: str, is_identity: bool) -> str | None:
        """Return the text as it is to be stored, or None where that is as it came."""
        most = self._settings.max_attribute_value_bytes
        said = redacted = _cut(text, most + _ROOM)
        if self._suspect:
            redacted = self._redactor.text(said, is_identity)
            self.cuts["texts redacted"] += redacted != said
        fitted = _cut(redacted, most)
        if fitted == text:
            return None
        self.cuts["texts cut"] += fitted != redacted or said != text
        return fitted


def _cut(text: str, most: int) -> str:
    """Return at most `most` bytes of UTF-8 of `text`, at the boundary of a character."""
    if 4 * len(text) <= most:
        return text
    encoded = text.encode()
    return text if len(encoded) <= most else encoded[:most].decode("utf-8", "ignore")


def _has_valid_ids(span: Span) -> bool:
    return len(span.parent_span_id) in (0, 8) and _is_valid(span.trace_id, span.span_id)


def _is_valid(trace_id: bytes, span_id: bytes) -> bool:
    return len(trace_id) == 16 and len(span_id) == 8 and trace_id != _NO_TRACE and span_id != _NO_SPAN
