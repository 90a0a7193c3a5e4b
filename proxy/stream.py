"""Relays server-sent events as bytes: an event is never turned into objects, only the one that reports usage is read.

Turning each event into objects costs a known peer 1,100 µs an event; passing bytes costs 5.
"""
from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec

from farthing.errors import UpstreamError
from farthing.prices import Usage

MAX_EVENT_BYTES = 16 * 1024 * 1024  # an image in one event, say; a longer one breaks the stream off

_USAGE = re.compile(rb'"usage":\s*\{')
_CONTENT = b'"delta"'
_ENDS = (b"\n\n", b"\n\r\n")  # sse-starlette, and what is built on it, ends its lines with CR LF
_BETWEEN = re.compile(rb"(?<=\n\n)|(?<=\n\r\n)")
_OVERLAP = 2  # bytes of an end that may lie in the part before

# No call uses more tokens. Other numbers are not usage: a charge made of them would be refused by the ledger for ever.
Tokens = Annotated[int, msgspec.Meta(ge=0, le=100_000_000)] | None


class _Details(msgspec.Struct):
    cached_tokens: Tokens = None
    reasoning_tokens: Tokens = None


class Reported(msgspec.Struct):
    """Usage as OpenAI's API reports it."""

    prompt_tokens: Tokens = None
    completion_tokens: Tokens = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None

    def usage(self) -> Usage | None:
        """Return the tokens, None where the input is not told; an answer may have no output."""
        if self.prompt_tokens is None:
            return None
        cached = self.prompt_tokens_details.cached_tokens if self.prompt_tokens_details else 0
        cached = min(cached or 0, self.prompt_tokens)
        return Usage(input_uncached=self.prompt_tokens - cached, cache_read=cached, output=self.completion_tokens or 0)

    @property
    def reasoning(self) -> int:
        return self.completion_tokens_details.reasoning_tokens or 0 if self.completion_tokens_details else 0


class Timings(msgspec.Struct):
    """What the bundled engine says of a request, seconds."""

    queue_s: float = 0.0
    engine_s: float = 0.0


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class Answer(msgspec.Struct):
    """What the proxy reads of a whole answer or of the event that reports usage."""

    id: str | None = None
    choices: list[_Choice] | None = None
    usage: Reported | None = None
    timings: Timings | None = None
    error: Any = None


_decode = msgspec.json.Decoder(Answer).decode
_FINISH = re.compile(rb'"finish_reason":\s*"([a-z_]+)"')
_ID = re.compile(rb'"id":\s*"([^"]{1,200})"')
_DONE = re.compile(rb"^data:\s*\[DONE\]", re.MULTILINE)
_FAILED = re.compile(rb'^data:\s*\{\s*"error":\s*[^n\s]', re.MULTILINE)


def read_answer(body: bytes) -> Answer | None:
    """Return what a JSON answer says of itself, None where it is not an answer."""
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


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
    """Takes the upstream's bytes, gives the client's bytes, and remembers what was used."""

    def __init__(self, hide_usage: bool) -> None:
        self._hide_usage = hide_usage  # the client had not asked for the usage event
        self._held: list[bytes] = []  # the beginning of an event that is not whole yet
        self._held_size = 0
        self._edge = b""  # the last bytes of what is held
        self.answer: Answer | None = None  # the last event that reported usage
        self.events = 0  # events with a delta, an estimate of output tokens
        self.finish_reason = ""
        self.response_id = ""
        self.is_done = False  # the upstream said that this is all
        self.has_failed = False  # the upstream reported an error in the stream

    @property
    def is_whole(self) -> bool:
        """Some upstreams end without the last event [DONE]; none ends well without a reason."""
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
        end = _end(data)
        if end < len(data):
            self._hold(data[end:])
            data = data[:end]
        if not data:
            return b""
        self._notice(data)
        return self._without_usage(data) if _USAGE.search(data) else data

    def finish(self) -> bytes:
        """Return what is held back when the upstream ended without an empty line."""
        rest = b"".join(self._held)
        self._held.clear()
        self._notice(rest)
        return self._without_usage(rest) if _USAGE.search(rest) else rest

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

    def _notice(self, whole: bytes) -> None:
        self.events += whole.count(_CONTENT)
        if not self.response_id and (found := _ID.search(whole)):
            self.response_id = found.group(1).decode("utf-8", "replace")
        if found := _FINISH.search(whole):
            self.finish_reason = found.group(1).decode()
        self.is_done = self.is_done or (b"[DONE]" in whole and _DONE.search(whole) is not None)
        self.has_failed = self.has_failed or (b'"error"' in whole and _FAILED.search(whole) is not None)

    def _without_usage(self, whole: bytes) -> bytes:
        return b"".join([event for event in _BETWEEN.split(whole) if not self._is_hidden(event)])

    def _is_hidden(self, event: bytes) -> bool:
        return _USAGE.search(event) is not None and self._is_usage_event(event) and self._hide_usage

    def _is_usage_event(self, event: bytes) -> bool:
        """Read an event that reports usage; True where it carries nothing else."""
        start = event.find(b"{")
        answer = read_answer(event[start:]) if start >= 0 else None
        if answer is None or answer.usage is None:
            return False
        self.answer = answer
        return not answer.choices


def _end(data: bytes) -> int:
    """Return where the last whole event ends; 0 = none is whole."""
    ends = [at + len(mark) for mark in _ENDS if (at := data.rfind(mark)) >= 0]
    return max(ends, default=0)
