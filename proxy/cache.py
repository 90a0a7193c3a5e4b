"""The exact response cache: same tenant, same served model, same request, same bytes back.

Bounded in bytes, the least recently used entry goes first; an entry is served for its policy's TTL at most.
"""
from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from farthing.prices import Usage

Key = tuple[str, str, str, str, bool, bool]  # tenant, API, request hash, served model, stream, usage asked for


@dataclass(frozen=True)
class Entry:
    """One answer as the client got it."""

    body: bytes
    content_type: bytes
    usage: Usage
    response_id: str
    stored_at: float  # monotonic seconds


class ExactCache:
    """Answers of one proxy worker."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._entries: OrderedDict[Key, Entry] = OrderedDict()
        self._clock = clock
        self.size = 0  # bytes
        self.hits = self.misses = self.evictions = 0

    def get(self, key: Key, ttl_s: float) -> Entry | None:
        """Return the answer to `key` where it is younger than `ttl_s`."""
        entry = self._entries.get(key)
        if entry is not None and self._clock() - entry.stored_at > ttl_s:
            self._drop(key)
            entry = None
        if entry is None:
            self.misses += 1
            return None
        self._entries.move_to_end(key)
        self.hits += 1
        return entry

    def put(self, key: Key, answer: tuple[bytes, bytes, Usage, str], max_bytes: int) -> None:
        """Keep (body, content type, usage, response id), and drop the oldest until all fit into `max_bytes`."""
        body = answer[0]
        if len(body) > max_bytes:
            return
        if key in self._entries:
            self._drop(key)
        self._entries[key] = Entry(*answer, stored_at=self._clock())
        self.size += len(body)
        while self.size > max_bytes:
            self._drop(next(iter(self._entries)))
            self.evictions += 1

    def _drop(self, key: Key) -> None:
        self.size -= len(self._entries.pop(key).body)
