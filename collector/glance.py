"""One glance at a whole body: whether it can be stored as it came, and what a closer look may leave out.

It may say no to what is sound, and then each span is looked at; it never says yes to what a closer look would change.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from collector.content import ContentPolicy
from collector.lens import Keyed, Merged, has_unknown, is_unknown, texts
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


class Glance:
    """The glance by the rules of one collector."""

    def __init__(self, settings: Settings, content: ContentPolicy, redactor: Redactor) -> None:
        self._settings = settings
        self._content = content
        self._redactor = redactor

    def __call__(self, body: bytes, extent: Extent) -> Seen:
        try:
            return self._seen(Merged.FromString(body), Keyed.FromString(body).resource_spans, extent)
        except (DecodeError, UnicodeDecodeError):  # the closer look says what is wrong
            return Seen()

    def _seen(self, merged: Any, keyed: Any, extent: Extent) -> Seen:
        span = keyed.scope_spans.spans
        holders = (keyed.resource, keyed.scope_spans.scope, span, span.events, span.links)
        if has_unknown(merged) or any(map(is_unknown, holders)):
            return Seen()  # the key of a pair with any other field than key and value is none of the map's
        above = {*keyed.resource.attributes, *keyed.scope_spans.scope.attributes}
        said = texts(merged)
        said.update(key.encode() for holder in holders for key in holder.attributes)
        most = self._settings.max_attribute_value_bytes
        has_secrets = not self._redactor.changes_none(said)
        has_plain_spans = self._content.are_plain(span.attributes)  # nor is one without a key, which reads as ""
        is_flat = all(map(is_all_flat, _values(merged.resource_spans)))
        is_sound = (
            extent.is_regular
            and not has_secrets
            and is_flat
            and has_plain_spans
            and self._content.are_plain(above)
            and extent.longest <= most
            and max(map(len, _schema_urls(merged.resource_spans)), default=0) <= most
            and _has_plain_parts(merged.resource_spans)
            and self._has_few_keys(above.union(span.attributes), merged.resource_spans, extent)
        )
        return Seen(is_sound, has_secrets, has_plain_spans, is_flat)

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


def _values(merged: Any) -> tuple[Any, ...]:
    """Return the values of all attributes, wherever they stand."""
    scope, span = merged.scope_spans.scope, merged.scope_spans.spans
    return tuple(holder.attributes.value for holder in (merged.resource, scope, span, span.events, span.links))


def _schema_urls(merged: Any) -> list[bytes]:
    """Return the only texts that lie in no resource, scope or span, whose length bounds theirs."""
    return [*merged.schema_url, *merged.scope_spans.schema_url]


def _has_plain_parts(merged: Any) -> bool:
    """Tell whether all ids are valid, and nothing is there that is looked at one by one."""
    span = merged.scope_spans.spans
    if span.HasField("events") or span.HasField("links") or span.status.message:
        return False
    if merged.resource.HasField("entity_refs"):
        return False
    traces, ids, parents = set(span.trace_id), span.span_id, span.parent_span_id
    return (
        {*map(len, traces)} <= {16}
        and {*map(len, ids)} <= {8}
        and {*map(len, parents)} <= {0, 8}
        and _NO_TRACE not in traces
        and _NO_SPAN not in ids
    )

