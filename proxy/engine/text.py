"""Turns tokens into text as they come, never half a character, and never a stop string or the start of one."""
from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextStream:
    """One answer's text; `push` tokens, then `finish`."""

    def __init__(self, table: Sequence[bytes], stops: Sequence[str] = ()) -> None:
        self._table = table  # bytes of each token
        self._stops = tuple(stop for stop in stops if stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""  # text that may become a stop string
        self.is_stopped = False  # a stop string came; all later text is dropped

    def push(self, token: int) -> str:
        """Take the next token; return the text that is now certain."""
        if self.is_stopped:
            return ""
        self._held += self._decoder.decode(self._table[token])
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.is_stopped = True
            return self._take(min(found))
        return self._take(len(self._held) - self._pending())

    def finish(self) -> str:
        """Return the text still held back; bytes of an unfinished character are dropped."""
        return "" if self.is_stopped else self._take(len(self._held))

    def _take(self, count: int) -> str:
        text, self._held = self._held[:count], self._held[count:]
        return text

    def _pending(self) -> int:
        """Return the length of the longest end of the held text that begins a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if self._held.endswith(tuple(stop[:length] for stop in self._stops if len(stop) > length)):
                return length
        return 0
