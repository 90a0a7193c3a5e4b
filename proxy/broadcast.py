"""One upstream's stream on its way to everybody who asked for the same: who joins late is given what has come so far.

It goes as fast as its fastest reader takes it, and nobody waits for another one's client: a reader that falls too far
behind is let go. Memory stays bounded: a stream that outgrows `PREFIX_BYTES` takes no more readers and forgets what all
have taken.
"""
from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import TracebackType
from typing import Literal

from farthing.serving import Headers
from proxy.api_error import ApiError
from proxy.call import Call
from proxy.formats import Format
from proxy.http import break_off
from proxy.http_request import Request
from proxy.within import Within

PREFIX_BYTES = 1024 * 1024  # kept for those who join late
BEHIND_BYTES = 4 * 1024 * 1024  # that a reader may be behind the upstream
_NEAR_BYTES = 64 * 1024  # a reader that is no farther behind keeps up, and gets no more at once

Left = Literal["", "gone", "slow", "late"]  # why a reader reads no more; '' = it does


class Reader:
    """One client's place in the stream."""

    __slots__ = ("_stream", "left", "next", "taken")

    def __init__(self, stream: Broadcast) -> None:
        self._stream = stream
        self.next = 0  # number of the part that it takes next
        self.taken = 0  # bytes
        self.left: Left = ""

    async def give(self, request: Request, call: Call) -> None:
        """Send a client all that comes, up to the stream's end or until the reader leaves."""
        while not self.left:
            if request.is_gone and not self.has_all:
                self.leave("gone")
            elif part := self._stream.after(self):
                call.first_byte_ns = call.first_byte_ns or time.time_ns()
                if not request.put(part):
                    await request.caught_up()
            elif self._stream.is_over:
                return
            else:
                await self._stream.more()

    @property
    def has_all(self) -> bool:
        """Tell whether the answer's last event has left for the client: one that goes now has not given up."""
        return self._stream.leader.is_delivered and self.taken == self._stream.size

    def gone(self) -> None:
        """The client has closed its connection."""
        if not self.has_all:
            self.leave("gone")

    def leave(self, why: Left) -> None:
        """Read no more."""
        if not self.left:
            self.left = why
            self._stream.forget(self)


class Broadcast:
    """The stream of a call that leads; stands where its client would, who is the first to read."""

    def __init__(
        self, leader: Call, form: Format, request: Request, within: Within | None, close: Callable[[], None]
    ) -> None:
        self.leader = leader
        self._form = form
        self._request = request
        self._within = within  # the time that the leader has for the whole of it
        self._close = close  # called once nobody may join any more
        self._parts: list[bytes] = []
        self._dropped = 0  # parts that all readers have taken
        self.size = 0  # bytes of the whole
        self._more, self._taken = asyncio.Event(), asyncio.Event()  # set for a moment, for whoever waits then
        self._lead = Reader(self)
        self._readers = {self._lead}
        self._giving: asyncio.Task[None] | None = None
        self._cut: ApiError | None = None  # why the leader's client got no more, although the stream went on
        self._late: asyncio.TimerHandle | None = None
        self.on_deserted: Callable[[], object] | None = None  # what ends the leader's call, once its client is gone
        self.is_over = self.is_whole = False

    async def __aenter__(self) -> Broadcast:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the leader's own client have what has come, and no more where the call was cancelled."""
        self.is_over = True
        self._close()
        self._pulse(self._more)
        if self._late is not None:
            self._late.cancel()
        if self._giving is not None:
            if kind is asyncio.CancelledError:
                self._giving.cancel()
            await asyncio.gather(self._giving, return_exceptions=kind is not None)
        if self._cut is not None:
            self.leader.fail("error", self._cut.code, self._cut.status)

    def begin(self, status: int, headers: Headers) -> None:
        self._request.begin(status, headers)
        self._giving = asyncio.create_task(self._give())

    def put(self, data: bytes) -> bool:
        """Give all readers a part; False = none of them keeps up."""
        for slow in [one for one in self._readers if self.size - one.taken > BEHIND_BYTES]:
            slow.leave("slow")
        self._parts.append(data)
        self.size += len(data)
        if self.size > PREFIX_BYTES:
            self._close()
            self._trim()
        self._pulse(self._more)
        return self._has_near

    async def caught_up(self) -> None:
        """Return once a reader keeps up, or none is left."""
        while not self._has_near:
            await self._taken.wait()

    async def write(self, data: bytes) -> None:
        if not self.put(data):
            await self.caught_up()

    def end(self) -> None:
        """Say that the stream is whole."""
        self.is_over = self.is_whole = True
        self._pulse(self._more)

    def join(self, seconds: float) -> Reader:
        """Return a new reader, from the beginning on; the stream may take until its time is over too."""
        assert not self._dropped, "who joins is told of the stream as long as all of it is here"
        reader = Reader(self)
        self._readers.add(reader)
        if self._within is not None and (left_s := self._within.postpone(seconds)) is not None and self._late is None:
            self._late = asyncio.get_running_loop().call_later(left_s, self._lead.leave, "late")
        return reader

    def goes_on(self, stop: Callable[[], object]) -> bool:
        """Tell whether others read on now that the leader's client is gone; `stop` is called when they too are."""
        self._lead.leave("gone")
        self.on_deserted = stop
        return bool(self._readers)

    def after(self, reader: Reader) -> bytes:
        """Return what a reader has not taken yet, so much as is sent at once."""
        parts: list[bytes] = []
        size = 0
        while size < _NEAR_BYTES and reader.next - self._dropped < len(self._parts):
            part = self._parts[reader.next - self._dropped]
            parts.append(part)
            size += len(part)
            reader.next += 1
        reader.taken += size
        self._pulse(self._taken)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    @property
    def readers(self) -> int:
        return len(self._readers)

    async def more(self) -> None:
        """Wait for a further part, or the end."""
        await self._more.wait()

    def forget(self, reader: Reader) -> None:
        self._readers.discard(reader)
        self._pulse(self._more)
        self._pulse(self._taken)
        if not self._readers and self.on_deserted is not None and not self.is_over:
            self.on_deserted()

    async def _give(self) -> None:
        """Serve the leader's own client; others may read on when it has had enough."""
        await self._lead.give(self._request, self.leader)
        self._cut = cut_short(self._lead, self.leader)
        if self._cut is not None:
            await break_off(self._request, self._form.error_event(self._cut))
        elif self.is_whole:
            self._request.end()

    @property
    def _has_near(self) -> bool:
        return not self._readers or any(self.size - one.taken <= _NEAR_BYTES for one in self._readers)

    def _trim(self) -> None:
        """Forget what everybody has taken."""
        passed = min((one.next for one in self._readers), default=self._dropped + len(self._parts)) - self._dropped
        if passed:
            del self._parts[:passed]
            self._dropped += passed

    @staticmethod
    def _pulse(event: asyncio.Event) -> None:
        event.set()
        event.clear()


def cut_short(reader: Reader, call: Call) -> ApiError | None:
    """Return what to tell a client that is let go before the stream's end; None where there is nothing to tell it."""
    if reader.left == "slow":
        message = f"this client fell more than {BEHIND_BYTES} bytes behind a stream that others share"
        return ApiError(408, "client_too_slow", message)
    if reader.left == "late":
        return ApiError(504, "upstream_timeout", f"no whole answer within {call.limit_s:g} s")
    return None
