"""Screens the attributes of metrics and logs: which are kept, what stands for content, what no stored text may show.

The rules are those of spans (content.py, redact.py); here every holder is looked into, because these signals are few.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from collector.content import ContentPolicy, Verdict
from collector.redact import Redactor
from collector.values import as_text
from farthing import semconv
from farthing.settings import Settings

_LOOKED_AT = 4096  # attributes of one holder that are looked at
_ROOM = 1024  # bytes past the limit that the redactors see, so that no secret is cut in two before they look
_REMEMBERED = 20_000  # short texts known to need no change; labels repeat from export to export
_SHORT = 200  # characters of a text that is remembered


class AttributeScreen:
    """The rules of one signal; `cuts` of its methods counts what was changed, by reason."""

    def __init__(
        self, settings: Settings, content: ContentPolicy, redactor: Redactor,
        plain: frozenset[str] = frozenset(), hidden: frozenset[str] = frozenset(),
    ) -> None:  # fmt: skip
        """Take the rules of spans, and the keys that in this signal are plain or content beyond them."""
        self._content = content
        self._redactor = redactor
        self._plain = plain
        self._hidden = hidden
        self._most = settings.max_attributes
        self._longest = settings.max_attribute_value_bytes
        self._sound: set[str] = set()

    def attributes(
        self, given: Sequence[KeyValue], tenant: str, cuts: Counter[str], keep: bool = False
    ) -> list[KeyValue]:
        """Return what is stored of a holder's attributes; plain ones come before content where both do not fit."""
        plain: list[KeyValue] = []
        content: list[KeyValue] = []
        for one in given[:_LOOKED_AT]:
            verdict = self._verdict(one.key)
            if verdict is Verdict.UNKNOWN or self._redactor.text(one.key) != one.key:
                continue
            (plain if verdict is Verdict.PLAIN else content).append(one)
        plain = plain[: self._most]
        content = content[: self._most - len(plain)]
        cuts["attributes dropped"] += len(given) - len(plain) - len(content)
        stored = [made for one in plain for made in self._kept(one, cuts)]
        return stored + [made for one in content for made in self._of_content(one, tenant, keep, cuts)]

    def hidden(self, key: str, value: AnyValue, tenant: str, cuts: Counter[str]) -> Iterable[KeyValue]:
        """Return what is stored in the place of content."""
        cuts["content hidden"] += 1
        return self._content.hidden(key, value, tenant)

    def resource(self, given: Resource, tenant: str, cuts: Counter[str]) -> Resource:
        return Resource(attributes=self.attributes(given.attributes, tenant, cuts))

    def scope(self, given: InstrumentationScope, tenant: str, cuts: Counter[str]) -> InstrumentationScope:
        name, version = self.text(given.name, cuts), self.text(given.version, cuts)
        return InstrumentationScope(
            name=name, version=version, attributes=self.attributes(given.attributes, tenant, cuts)
        )

    def text(self, text: str, cuts: Counter[str], is_identity: bool = False) -> str:
        """Return a text as it is stored: without secrets, and no longer than the limit."""
        if text in self._sound:
            return text
        said = _cut(text, self._longest + _ROOM)
        redacted = self._redactor.text(said, is_identity)
        fitted = _cut(redacted, self._longest)
        cuts["texts redacted"] += redacted != said
        cuts["texts cut"] += fitted != redacted or said != text
        if fitted == text and not is_identity and len(text) <= _SHORT and len(self._sound) < _REMEMBERED:
            self._sound.add(text)
        return fitted

    def value_text(self, value: AnyValue, cuts: Counter[str]) -> str:
        """Return a value of any kind as a text; JSON where it has an inner structure."""
        return self.text(as_text(value), cuts)

    def is_kept(self, trace_id: bytes) -> bool:
        return self._content.is_kept(trace_id)

    def _verdict(self, key: str) -> Verdict:
        if key in self._hidden:
            return Verdict.CONTENT
        return Verdict.PLAIN if key in self._plain else self._content.verdict(key)

    def _of_content(self, one: KeyValue, tenant: str, keep: bool, cuts: Counter[str]) -> Iterable[KeyValue]:
        return self._kept(one, cuts) if keep else self.hidden(one.key, one.value, tenant, cuts)

    def _kept(self, one: KeyValue, cuts: Counter[str]) -> Iterable[KeyValue]:
        """Return an attribute as it is stored: scalars and lists of texts as such, all else as JSON."""
        kind = one.value.WhichOneof("value")
        if kind in ("bool_value", "int_value", "double_value"):
            return [one]
        is_identity = one.key in semconv.CONTENT_IDENTITY_KEYS
        if kind == "string_value":
            text = self.text(one.value.string_value, cuts, is_identity)
            return [one if text == one.value.string_value else KeyValue(key=one.key, value=AnyValue(string_value=text))]
        if kind == "array_value" and all(item.HasField("string_value") for item in one.value.array_value.values):
            made = KeyValue(key=one.key)
            for item in one.value.array_value.values:
                text = self.text(item.string_value, cuts, is_identity)
                made.value.array_value.values.append(AnyValue(string_value=text))
            return [made] if made.ByteSize() <= self._longest else []
        if kind is None or kind == "bytes_value":
            return []
        return [KeyValue(key=one.key, value=AnyValue(string_value=self.value_text(one.value, cuts)))]


def _cut(text: str, most: int) -> str:
    """Return at most `most` bytes of UTF-8 of `text`, at the boundary of a character."""
    encoded = text.encode()
    return text if len(encoded) <= most else encoded[:most].decode("utf-8", "ignore")
