"""The exact response cache of one policy: same tenant, same served model, same request, same bytes back.

Bounded in bytes, the least recently used entry goes first; an entry is served for its policy's TTL at most. A request
that wants events is also answered from a whole answer, and the other way round, where the API's events can be told.
"""
from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from time import time
from typing import Literal

import msgspec
from msgspec.structs import replace

from farthing.prices import Usage
from proxy.http import EVENT_STREAM, JSON
from proxy.replay import as_answer, as_events

Shape = Literal["answer", "events", "events+usage"]  # usage as an event of its own, for clients that ask for it
# Tenant, API, request hash with the headers that its upstream sees, served model, what the client gets
Key = tuple[str, str, str, str, Shape]

ENTRY_BYTES = 600  # of Python objects an entry, beside its body (measured)


class Entry(msgspec.Struct, frozen=True):
    """One answer as the client got it."""

    body: bytes
    content_type: bytes
    usage: Usage
    response_id: str
    stored_at: float  # epoch seconds

    @property
    def size(self) -> int:
        """Bytes, about."""
        return len(self.body) + ENTRY_BYTES


def shape_of(stream: bool, wants_usage: bool) -> Shape:
    """Return what a client gets that asks so."""
    if not stream:
        return "answer"
    return "events+usage" if wants_usage else "events"


def reshaped(entry: Entry, path: str, has: Shape, wants: Shape) -> Entry | None:
    """Return an entry as a client gets it that asks for another shape; None where that cannot be told."""
    body: bytes | None = entry.body
    if has != "answer":
        body = as_answer(path, entry.body, entry.usage)
    if wants == "answer" or body is None:
        return None if body is None else replace(entry, body=body, content_type=JSON)
    events = as_events(path, body, wants_usage=wants == "events+usage")
    return None if events is None else replace(entry, body=events, content_type=EVENT_STREAM)


class ExactCache:
    """Answers of one policy in one proxy worker."""

    def __init__(self, clock: Callable[[], float] = time) -> None:
        self._entries: OrderedDict[Key, Entry] = OrderedDict()
        self._clock = clock
        self._by_shape = dict.fromkeys(_OTHERS, 0)  # how many lie here
        self.size = 0  # bytes
        self.hits = self.misses = self.evictions = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key, ttl_s: float) -> Entry | None:
        """Return the answer to `key`, in whichever shape it lies here, where it is younger than `ttl_s`."""
        found = self._fresh(key, ttl_s) or self._reshaped(key, ttl_s)
        if found is None:
            self.misses += 1
        else:
            self.hits += 1
        return found

    def put(self, key: Key, entry: Entry, max_bytes: int) -> None:
        """Keep an entry, and drop the oldest until all fit into `max_bytes`."""
        if entry.size > max_bytes:
            return
        if key in self._entries:
            self._drop(key)
        self._entries[key] = entry
        self._by_shape[key[-1]] += 1
        self.size += entry.size
        while self.size > max_bytes:
            self._drop(next(iter(self._entries)))
            self.evictions += 1

    def _fresh(self, key: Key, ttl_s: float) -> Entry | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        if self._clock() - entry.stored_at > ttl_s:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return entry

    def _reshaped(self, key: Key, ttl_s: float) -> Entry | None:
        *same, wants = key
        for has in others(wants):
            if self._by_shape[has] and (entry := self._fresh((*same, has), ttl_s)) is not None:  # type: ignore[arg-type] # the same fields
                return reshaped(entry, key[1], has, wants)
        return None

    def _drop(self, key: Key) -> None:
        self.size -= self._entries.pop(key).size
        self._by_shape[key[-1]] -= 1


def others(wants: Shape) -> tuple[Shape, ...]:
    """Return the shapes that may be turned into `wants`, the cheapest to turn first."""
    return _OTHERS[wants]


_OTHERS: dict[Shape, tuple[Shape, ...]] = {
    "answer": ("events+usage", "events"),
    "events": ("answer", "events+usage"),
    "events+usage": ("answer", "events"),
}
