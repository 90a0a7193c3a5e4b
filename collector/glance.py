"""One glance at a whole body: whether it can be stored as it came.

It may say no to what is sound, and then each span is looked at; it never says yes to what a closer look would change.
"""
from __future__ import annotations

from typing import Any

from google.protobuf.message import DecodeError

from collector.content import ContentPolicy
from collector.lens import Keyed, Merged, has_unknown, texts
from collector.receive import Extent
from collector.redact import Redactor
from farthing.settings import Settings

_NO_TRACE, _NO_SPAN = bytes(16), bytes(8)
_LEAST = 4  # bytes of an attribute on the wire beside its key: two tags, two lengths


class Glance:
    """The glance by the rules of one collector."""

    def __init__(self, settings: Settings, content: ContentPolicy, redactor: Redactor) -> None:
        self._settings = settings
        self._content = content
        self._redactor = redactor

    def finds_nothing(self, body: bytes, extent: Extent) -> bool:
        """Tell whether `body` is to be stored as it came."""
        most = self._settings.max_attribute_value_bytes
        if not extent.is_regular or extent.longest > most:
            return False
        try:
            merged, keys = Merged.FromString(body), _keys(body)
            said = texts(merged)
            said.update(map(str.encode, keys))
            return (
                _has_plain_parts(merged.resource_spans)
                and self._has_plain_keys(keys, merged.resource_spans, extent)
                and not has_unknown(merged)
                and max(map(len, said), default=0) <= most
                and self._redactor.changes_none(said)
            )
        except (DecodeError, UnicodeDecodeError):  # the closer look says what is wrong
            return False

    def _has_plain_keys(self, keys: set[str], merged: Any, extent: Extent) -> bool:
        """Tell whether each attribute has one key, which is stored as it comes, and no holder has too many."""
        if not self._content.are_plain(keys):  # nor is an attribute without a key, which reads as ""
            return False
        twins = (merged.resource, merged.scope_spans.scope, merged.scope_spans.spans)
        if sum(len(twin.attributes.key) for twin in twins) != extent.attributes:
            return False  # one has two keys, of which only the last is seen
        most = self._settings.max_attributes
        if extent.longest <= most * (_LEAST + min(map(len, keys), default=0)):
            return True
        return self._few(merged, extent, most)

    def _few(self, merged: Any, extent: Extent, most: int) -> bool:
        """Tell whether surely no holder has more than `most` attributes: the tag of one, J, is counted with the texts."""
        above = len(merged.resource.attributes.key) + len(merged.scope_spans.scope.attributes.key)
        return above <= most and all([one.count(b"J") <= most for one in extent.bytes_of_spans])


def _keys(body: bytes) -> set[str]:
    """Return the keys of all attributes of resources, scopes and spans; "" where one has none."""
    keyed = Keyed.FromString(body).resource_spans
    return {*keyed.resource.attributes, *keyed.scope_spans.scope.attributes, *keyed.scope_spans.spans.attributes}


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
