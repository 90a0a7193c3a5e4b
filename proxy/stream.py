"""Relays server-sent events as bytes: an event is never turned into objects, only the one that reports usage is read.

Turning each event into objects costs a known peer 1,100 µs an event; passing bytes costs 5.
"""
from __future__ import annotations

import re
from typing import Annotated

import msgspec

from farthing.errors import UpstreamError
from farthing.prices import Usage

MAX_TIER_CHARACTERS = 32
MAX_EVENT_BYTES = 16 * 1024 * 1024  # an image in one event, say; a longer one breaks the stream off

_ENDS = (b"\n\n", b"\n\r\n")  # sse-starlette, and what is built on it, ends its lines with CR LF
_BETWEEN = re.compile(rb"(?<=\n\n)|(?<=\n\r\n)")
_OVERLAP = 2  # bytes of an end that may lie in the part before

# No call uses more tokens. Other numbers are not usage: a charge made of them would be refused by the ledger for ever.
Tokens = Annotated[int, msgspec.Meta(ge=0, le=100_000_000)] | None


def tier_of(told: object) -> str:
    """Return the service tier that an answer names, which is a short word."""
    return told if isinstance(told, str) and len(told) <= MAX_TIER_CHARACTERS else ""


class Tape:
    """What a client was sent, as long as it is short enough to keep."""

    def __init__(self, limit: int) -> None:
        self._parts: list[bytes] | None = []
        self._left = limit  # bytes

    def add(self, part: bytes) -> None:
        self._left -= len(part)
        if self._parts is not None and self._left >= 0:
            self._parts.append(part)
        else:
            self._parts = None

    def whole(self) -> bytes | None:
        """Return all of it, None where it was too long."""
        return None if self._parts is None else b"".join(self._parts)


class EventRelay:
    """Takes the upstream's bytes, gives the client's, and remembers what was used; formats read their events."""

    def __init__(self) -> None:
        self._held: list[bytes] = []  # the beginning of an event that is not whole yet
        self._held_size = 0
        self._edge = b""  # the last bytes of what is held
        self.usage: Usage | None = None  # as last reported
        self.is_usage_last = False  # that report came when all had been generated
        self.reasoning = 0  # tokens
        self.service_tier = ""  # what the provider served it as
        self.engine_s: float | None = None
        self.engine_queue_s: float | None = None
        self.events = 0  # events with content, an estimate of output tokens
        self.finish_reason = ""
        self.response_id = ""
        self.is_done = False  # the upstream said that this is all
        self.has_failed = False  # the upstream reported an error in the stream

    @property
    def is_whole(self) -> bool:
        """Some upstreams end without their last event; none ends well without a reason."""
        return self.is_done or bool(self.finish_reason)

    def feed(self, data: bytes) -> bytes:
        """Return the bytes to send on; an event that is not whole yet is held back.

        Raises:
            UpstreamError: an event is longer than MAX_EVENT_BYTES.
        """
        if self._held:
            data = self._joined(data)
            if not data:
                return b""
        if not data.endswith(_ENDS[0]):  # nearly always
            end = _end(data)
            self._hold(data[end:])
            data = data[:end]
        return self._noticed(data) if data else b""

    def finish(self) -> bytes:
        """Return what is held back when the upstream ended without an empty line."""
        rest = b"".join(self._held)
        self._held.clear()
        return self._noticed(rest)

    def _noticed(self, whole: bytes) -> bytes:
        """Take what whole events say, and return what of them the client is to see."""
        raise NotImplementedError

    def _joined(self, data: bytes) -> bytes:
        """Return `data` behind what is held where that makes an event whole; holds it too where it does not."""
        if not _end(self._edge + data):
            self._hold(data)
            return b""
        whole = b"".join((*self._held, data))
        self._held.clear()
        self._held_size, self._edge = 0, b""
        return whole

    def _hold(self, data: bytes) -> None:
        self._held.append(data)
        self._held_size += len(data)
        self._edge = (self._edge + data[-_OVERLAP:])[-_OVERLAP:]
        if self._held_size > MAX_EVENT_BYTES:
            raise UpstreamError(f"the upstream sent an event of more than {MAX_EVENT_BYTES} bytes")


def data_of(event: bytes) -> bytes:
    """Return the data of an event, its lines joined; what it says beside that (comments, ids) is left out."""
    lines = [line.rstrip(b"\r") for line in event.split(b"\n")]
    return b"\n".join([line[5:].lstrip(b" ") for line in lines if line.startswith(b"data:")])


def events_of(whole: bytes) -> list[bytes]:
    """Split whole events apart."""
    if b"\r" in whole:  # few end their lines so, and looking for it is 20 times as slow
        return _BETWEEN.split(whole)
    *events, rest = whole.split(_ENDS[0])
    return [event + _ENDS[0] for event in events] + [rest]


def _end(data: bytes) -> int:
    """Return where the last whole event ends; 0 = none is whole."""
    ends = [at + len(mark) for mark in _ENDS if (at := data.rfind(mark)) >= 0]
    return max(ends, default=0)
