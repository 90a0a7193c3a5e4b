"""The counts behind limits, in a file that all workers of a host have mapped: what one takes no other can take too.

A change is made under the file's lock, so limits are exact over workers; it costs two system calls and no disk. Calls
under way have a column for each worker, and those of a worker that died are taken off when they are in the way.
"""
from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from proxy.shared_map import WORKERS, SharedMap

SLOTS = 8192
_PROBES = 16  # slots that an entry may lie in
_HEAD = struct.Struct("<16sqqq")  # whose it is, minute, requests, tokens
_COLUMN = struct.Struct("<h")
_COLUMNS = struct.Struct(f"<{WORKERS}h")
_STRIDE = _HEAD.size + _COLUMNS.size
_FREE = bytes(16)


@dataclass(frozen=True, slots=True)
class Ask:
    """One limit that a call counts in; 0 = that one is not limited."""

    key: bytes  # 16, whose count it is
    requests: int = 0
    tokens: int = 0
    in_flight: int = 0


class LimitTable:
    """The table as one worker sees it."""

    def __init__(self, folder: Path) -> None:
        self.shared = SharedMap(folder, "counts-1", SLOTS * _STRIDE)
        self._map = self.shared.map
        with self.shared:
            self._clear(self.shared.seat)

    def close(self) -> None:
        with self.shared:
            self._clear(self.shared.seat)
        self.shared.close()

    def take(self, asks: Sequence[Ask], minute: int, tokens: int) -> tuple[Ask, str] | None:
        """Count a call in every limit or in none; return the one that has no room, and of what."""
        with self.shared:
            short = self._short(asks, minute, tokens)
            if short is not None and short[1] == "in_flight" and self._reap(self._find(short[0].key, minute)):
                short = self._short(asks, minute, tokens)
            if short is not None:
                return short
            for ask in asks:
                at = self._find(ask.key, minute)
                key, of, requests, used = _HEAD.unpack_from(self._map, at)
                _HEAD.pack_into(self._map, at, key, of, requests + 1, used + (tokens if ask.tokens else 0))
                if ask.in_flight:
                    self._add(at, 1)
        return None

    def give(self, asks: Sequence[Ask], minute: int, tokens: int) -> None:
        """A call has ended; `tokens` is what it used beyond what was counted for it, usually below 0."""
        with self.shared:
            for ask in asks:
                at = self._find(ask.key, minute)
                key, of, requests, used = _HEAD.unpack_from(self._map, at)
                if ask.tokens and of == minute:
                    _HEAD.pack_into(self._map, at, key, of, requests, max(0, used + tokens))
                if ask.in_flight:
                    self._add(at, -1)

    def _short(self, asks: Sequence[Ask], minute: int, tokens: int) -> tuple[Ask, str] | None:
        for ask in asks:
            at = self._find(ask.key, minute)
            _, _, requests, used = _HEAD.unpack_from(self._map, at)
            if ask.requests and requests >= ask.requests:
                return ask, "requests"
            # One call may use up a whole minute; a larger one could never be let in.
            if ask.tokens and used + min(tokens, ask.tokens) > ask.tokens:
                return ask, "tokens"
            if ask.in_flight and sum(_COLUMNS.unpack_from(self._map, at + _HEAD.size)) >= ask.in_flight:
                return ask, "in_flight"
        return None

    def _find(self, key: bytes, minute: int) -> int:
        """Return where an entry lies, made new where there is none, with its counts of this minute."""
        start, free, oldest = int.from_bytes(key[:4], "little"), -1, -1
        least = 2**62
        for probe in range(_PROBES):
            at = (start + probe) % SLOTS * _STRIDE
            found, of, _, _ = _HEAD.unpack_from(self._map, at)
            if found == key:
                if of < minute:
                    _HEAD.pack_into(self._map, at, key, minute, 0, 0)
                return at
            if found == _FREE:
                free = at
                break
            if of < least and not any(_COLUMNS.unpack_from(self._map, at + _HEAD.size)):
                oldest, least = at, of
        at = free if free >= 0 else oldest if oldest >= 0 else start % SLOTS * _STRIDE
        _HEAD.pack_into(self._map, at, key, minute, 0, 0)
        _COLUMNS.pack_into(self._map, at + _HEAD.size, *([0] * WORKERS))
        return at

    def _add(self, at: int, count: int) -> None:
        here = at + _HEAD.size + self.shared.seat * _COLUMN.size
        _COLUMN.pack_into(self._map, here, max(0, _COLUMN.unpack_from(self._map, here)[0] + count))

    def _reap(self, at: int) -> bool:
        """Take off what dead workers had under way in an entry, and elsewhere; tell whether there was anything."""
        if not self.shared.looks():
            return False
        counts = _COLUMNS.unpack_from(self._map, at + _HEAD.size)
        found = self.shared.vacated([worker for worker, count in enumerate(counts) if count])
        for worker in found:
            self._clear(worker)
        return bool(found)

    def _clear(self, worker: int) -> None:
        for at in range(_HEAD.size + worker * _COLUMN.size, SLOTS * _STRIDE, _STRIDE):
            _COLUMN.pack_into(self._map, at, 0)
