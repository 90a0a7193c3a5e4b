"""Results that an application keeps: bounded in bytes, each with its own end, and made once however many ask at once.

A result is kept as its pickle: its size is known, and whoever changes what was handed out does not change what is kept.
An error is never kept nor shared: who waited for it tries for itself.
"""
from __future__ import annotations

import pickle
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Literal

Outcome = Literal["hit", "miss", "coalesced", "skipped"]

_ENTRY_BYTES = 256  # of a key and of what Python needs around an entry


@dataclass(frozen=True, slots=True)
class Entry:
    """One result."""

    body: bytes  # pickled
    seconds: float  # that it took to make
    cost_nusd: int | None  # that it cost to make; None = nobody said
    ends_at: float  # of the clock

    @property
    def size(self) -> int:
        return len(self.body) + _ENTRY_BYTES

    def value(self) -> object:
        return pickle.loads(self.body)


@dataclass(frozen=True, slots=True)
class Counts:
    """What a cache has done since it was made."""

    hits: int
    misses: int
    coalesced: int  # calls that waited for another one's result
    skipped: int  # calls that had no key, or were not to be cached
    evictions: int  # entries that made room
    entries: int
    bytes: int


class AppCache:
    """The results of one function; any thread may use it."""

    def __init__(self, max_bytes: int, clock: Callable[[], float] = monotonic) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()
        self._lock = threading.Lock()
        self._outcomes: Counter[Outcome] = Counter()
        self._evictions = 0
        self.size = 0  # bytes

    def get(self, key: bytes) -> Entry | None:
        """Return a result that has not ended."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            if entry.ends_at <= self._clock():
                self._drop(key)
                return None
            self._entries.move_to_end(key)
            return entry

    def put(self, key: bytes, entry: Entry) -> int:
        """Keep a result and return how many made room, those used longest ago; one that never fits is not kept."""
        if entry.size > self._max_bytes:
            return 0
        with self._lock:
            if key in self._entries:
                self._drop(key)
            self._entries[key] = entry
            self.size += entry.size
            evicted = 0
            while self.size > self._max_bytes:
                self._drop(next(iter(self._entries)))
                evicted += 1
            self._evictions += evicted
            return evicted

    def made(self, value: object, seconds: float, cost_nusd: int | None, ttl_s: float) -> Entry | None:
        """Return a result as it is kept, None where it cannot be pickled."""
        try:
            body = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
        except Exception:  # noqa: BLE001 - whatever an application's class raises, its call has succeeded
            return None
        return Entry(body, seconds, cost_nusd, self._clock() + ttl_s)

    def clear(self) -> None:
        """Forget all results."""
        with self._lock:
            self._entries.clear()
            self.size = 0

    def count(self, outcome: Outcome) -> None:
        """Count a call by how it ended."""
        with self._lock:
            self._outcomes[outcome] += 1

    def counts(self) -> Counts:
        """Return what has happened so far."""
        with self._lock:
            ended = self._outcomes
            return Counts(
                ended["hit"], ended["miss"], ended["coalesced"], ended["skipped"], self._evictions,
                len(self._entries), self.size,
            )  # fmt: skip

    def _drop(self, key: bytes) -> None:
        self.size -= self._entries.pop(key).size
