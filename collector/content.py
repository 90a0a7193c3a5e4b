"""Which attributes may be stored, and what stands in the place of content.

Keys decide, by the lists in `farthing.semconv`: what no list knows is dropped, because it may hold anything, and in a
namespace of conversations it is taken for content.
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum
from hashlib import blake2b

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from farthing import semconv
from farthing.errors import SettingsError
from farthing.settings import Settings

_REMEMBERED = 10_000  # keys whose verdict is kept; a sender that makes up keys must not fill the memory
_NAMED = frozenset(name for names in semconv.ALIASES.values() for name in names) | semconv.CONTENT_FREE_KEYS


class Verdict(Enum):
    """What is done with an attribute."""

    PLAIN = "stored as it comes"
    CONTENT = "what people wrote or models answered"
    UNKNOWN = "dropped"


class ContentPolicy:
    """The decision for each key, remembered, and for each trace."""

    def __init__(self, settings: Settings, hash_key: bytes) -> None:
        """Read what is allowed.

        Raises:
            SettingsError: `content_sample` is not a share.
        """
        if settings.content_sample > 1:
            raise SettingsError(f"content_sample={settings.content_sample!r}: allowed is 0 to 1, the share of traces")
        self._hash_key = hash_key[:32]
        self._max_key_bytes = settings.max_attribute_key_bytes
        own = [entry.strip() for entry in settings.allowed_attributes.split(",") if entry.strip()]
        self._own = frozenset(entry for entry in own if not entry.endswith("*"))
        self._own_prefixes = tuple(entry[:-1] for entry in own if entry.endswith("*"))
        self._kept_below = int(settings.content_sample * 2**56) if settings.store_content else 0
        self._verdicts: dict[str, Verdict] = {}
        self.plain: set[str] = set()  # keys met before that are stored as they come

    def verdict(self, key: str) -> Verdict:
        known = self._verdicts.get(key)
        if known is None:
            known = self._judge(key)
            if len(self._verdicts) < _REMEMBERED:
                self._verdicts[key] = known
                if known is Verdict.PLAIN:
                    self.plain.add(key)
        return known

    def are_plain(self, keys: Iterable[str]) -> bool:
        """Tell whether attributes with these keys are all stored as they come."""
        return self.plain.issuperset(keys) or all(self.verdict(key) is Verdict.PLAIN for key in keys)

    def is_kept(self, trace_id: bytes) -> bool:
        """Tell whether the content of this trace is kept; the last 56 bits are random (W3C Trace Context, level 2)."""
        return int.from_bytes(trace_id[-7:], "big") < self._kept_below

    def hidden(self, key: str, value: AnyValue, tenant: str) -> Iterator[KeyValue]:
        """Yield what is stored in the place of content: its length and a hash by which repeats are found."""
        if value.HasField("string_value"):
            length, content = len(value.string_value), value.string_value.encode()
        else:
            content = value.SerializeToString(deterministic=True)
            length = len(content)
        digest = blake2b(tenant.encode() + b"\0" + content, digest_size=8, key=self._hash_key).hexdigest()
        yield KeyValue(key=f"{key}.length", value=AnyValue(int_value=length))
        yield KeyValue(key=f"{key}.hash", value=AnyValue(string_value=digest))

    def _judge(self, key: str) -> Verdict:
        if len(key.encode()) > self._max_key_bytes:
            return Verdict.UNKNOWN
        if key in self._own:
            return Verdict.PLAIN
        if key.startswith(semconv.CONTENT_PREFIXES):
            return Verdict.CONTENT
        if key in _NAMED or key.startswith("farthing."):
            return Verdict.PLAIN
        if not key.startswith(semconv.CONTENT_FREE_PREFIXES):
            if self._own_prefixes and key.startswith(self._own_prefixes):
                return Verdict.PLAIN
            return Verdict.CONTENT if key.startswith(semconv.CONTENT_NAMESPACES) else Verdict.UNKNOWN
        return Verdict.CONTENT if key.rpartition(".")[2] in semconv.CONTENT_LAST_WORDS else Verdict.PLAIN
