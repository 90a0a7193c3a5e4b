"""One glance at a whole body: whether it can be stored as it came, and what a closer look may leave out.

It may say no to what is sound, and then each span is looked at; it never says yes to what a closer look would change.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from collector.content import ContentPolicy
from collector.lens import IDS, Keyed, Merged, drop_keys, has_unknown, is_unknown, texts
from collector.receive import Extent
from collector.redact import Redactor
from collector.values import is_all_flat
from farthing.settings import Settings

_NO_TRACE, _NO_SPAN = bytes(16), bytes(8)
_LEAST = 4  # bytes of an attribute on the wire beside its key: two tags, two lengths


@dataclass(frozen=True)
class Seen:
    """What a glance can be sure of."""

    is_sound: bool = False  # the body is to be stored as it came
    has_secrets: bool = True  # some text may hold a secret
    has_plain_spans: bool = False  # every attribute of every span is stored as it comes
    is_flat: bool = False  # no value holds others than texts


@dataclass(frozen=True)
class _Keys:
    """The distinct keys of a body's attributes."""

    above: set[str]  # of resources and scopes
    of_spans: set[str]
    of_parts: set[str]  # of events and links


class Glance:
    """The glance by the rules of one collector."""

    def __init__(self, settings: Settings, content: ContentPolicy, redactor: Redactor) -> None:
        self._settings = settings
        self._content = content
        self._redactor = redactor

    def __call__(self, body: bytes, extent: Extent) -> Seen:
        try:
            keys = _keys(body)
            return Seen() if keys is None else self._seen(Merged.FromString(body), keys, extent)
        except (DecodeError, UnicodeDecodeError):  # the closer look says what is wrong
            return Seen()

    def _seen(self, merged: Any, keys: _Keys, extent: Extent) -> Seen:
        if has_unknown(merged):
            return Seen()
        most = self._settings.max_attribute_value_bytes
        has_plain_spans = self._content.are_plain(keys.of_spans)  # nor is one without a key, which reads as ""
        is_flat = all(map(is_all_flat, _values(merged.resource_spans)))
        may_be_sound = (
            extent.is_regular
            and is_flat
            and has_plain_spans
            and self._content.are_plain(keys.above)
            and extent.longest <= most
            and all(len(url.encode()) <= most for url in _schema_urls(merged.resource_spans))
            and self._has_few_keys(keys.above | keys.of_spans, merged.resource_spans, extent)
        )
        drop_keys(merged)
        may_be_sound = may_be_sound and _has_plain_parts(merged.resource_spans)
        has_secrets = self._has_secrets(merged, [key.encode() for key in keys.above | keys.of_spans | keys.of_parts])
        return Seen(may_be_sound and not has_secrets, has_secrets, has_plain_spans, is_flat)

    def _has_secrets(self, merged: Any, keys: list[bytes]) -> bool:
        """Look over all texts as they lie in the bytes, and only where that raises a suspicion at each of them."""
        for name in IDS:
            merged.resource_spans.scope_spans.spans.ClearField(name)
        if not self._redactor.is_suspect(b"\0".join((merged.SerializeToString(), *keys))):
            return False
        return not self._redactor.changes_none(texts(merged).union(keys))

    def _has_few_keys(self, keys: set[str], merged: Any, extent: Extent) -> bool:
        """Tell whether each attribute has one key, of which the last would hide the others, and no holder too many."""
        scope = merged.scope_spans
        above = len(merged.resource.attributes.key) + len(scope.scope.attributes.key)
        if above + len(scope.spans.attributes.key) != extent.attributes:
            return False
        most = self._settings.max_attributes
        if extent.longest <= most * (_LEAST + min(map(len, keys), default=0)):
            return True
        # the tag of an attribute is J, which is counted with those in the texts
        return above <= most and max((one.count(b"J") for one in extent.bytes_of_spans), default=0) <= most


def _keys(body: bytes) -> _Keys | None:
    """Return the keys; None where one may stay unseen: a pair with more than key and value is none of the map's."""
    keyed = Keyed.FromString(body).resource_spans
    span = keyed.scope_spans.spans
    above, parts = (keyed.resource, keyed.scope_spans.scope), (span.events, span.links)
    if any(map(is_unknown, (*above, span, *parts))):
        return None
    return _Keys(
        {key for holder in above for key in holder.attributes},
        set(span.attributes),
        {key for holder in parts for key in holder.attributes},
    )


def _values(merged: Any) -> tuple[Any, ...]:
    """Return the values of all attributes, wherever they stand."""
    scope, span = merged.scope_spans.scope, merged.scope_spans.spans
    return tuple(holder.attributes.value for holder in (merged.resource, scope, span, span.events, span.links))


def _schema_urls(merged: Any) -> list[str]:
    """Return the only texts that lie in no resource, scope or span, whose length bounds theirs."""
    return [*merged.schema_url, *merged.scope_spans.schema_url]


def _has_plain_parts(merged: Any) -> bool:
    """Tell whether all ids are valid, and nothing is there that is looked at one by one."""
    span = merged.scope_spans.spans
    if span.HasField("events") or span.HasField("links") or span.status.message:
        return False
    if merged.resource.HasField("entity_refs"):
        return False
    return {*map(len, span.parent_span_id)} <= {0, 8} and _are_valid(span)


def _are_valid(span: Any) -> bool:
    """Tell whether all trace ids and span ids are, which come first when their message is written: tag, length, id."""
    traces, spans = 18 * len(span.trace_id), 10 * len(span.span_id)
    written = span.SerializeToString()
    trace_ids, span_ids = written[:traces], written[traces : traces + spans]
    return (
        trace_ids[::18] + trace_ids[1::18] == b"\n" * len(span.trace_id) + b"\x10" * len(span.trace_id)
        and span_ids[::10] + span_ids[1::10] == b"\x12" * len(span.span_id) + b"\x08" * len(span.span_id)
        and _NO_TRACE not in trace_ids
        and _NO_SPAN not in span_ids
    )

