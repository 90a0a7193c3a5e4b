"""One connection to an upstream: writes a request, parses the answer, and hands its body on as it comes.

Each stage has its own timeout, and a slow reader pauses the socket.
"""
from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import httptools

from farthing.errors import UpstreamError

_HIGH_WATER = 256 * 1024  # bytes read ahead of the consumer before the socket is paused

Sink = Callable[[bytes], bool]  # takes a part of a body; False = no more for now


@dataclass(frozen=True)
class Timeouts:
    """Seconds that each stage of a call may take."""

    connect: float = 5.0
    headers: float = 60.0  # from the request's last byte to the answer's headers, and to the first byte behind them
    between: float = 60.0  # between two parts of the body


class Connection(asyncio.Protocol):
    """One connection; carries one exchange at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.is_closed = False
        self.idle_since = 0.0  # monotonic seconds
        self._loop = asyncio.get_running_loop()
        self._deadline = 0.0  # of the wait under way, event loop's seconds
        self._timer: asyncio.TimerHandle | None = None
        self._came: dict[bytes, bytes] = {}  # headers of the message under way, trailers too; names as they came
        self.on_header = self._came.__setitem__  # called for each, and a method of ours would cost twice that
        self._parser = httptools.HttpResponseParser(self)  # for all answers: each ends where the next one begins
        self._begin()

    def _begin(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.is_done = False
        self.keeps_alive = False
        self.has_answered = False  # at least one byte of the answer came
        self._has_body = False  # and one of its body
        self._asked_at = 0.0  # event loop's seconds
        self._parts: deque[bytes] = deque()
        self._buffered = 0
        self._is_paused = False
        self._error: Exception | None = None
        self._headers_ready = False
        self._waiter: asyncio.Future[None] | None = None
        self._sink: Sink | None = None
        self._sink_error: Exception | None = None
        self._is_full = False  # the sink asked for no more
        self._between_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none, and behaves like one

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        if not self.is_done:
            framed = b"content-length" in self.headers or b"transfer-encoding" in self.headers
            if self._headers_ready and exc is None and not framed:
                self.is_done = True  # the body ends where the connection does
            else:
                self._error = exc or ConnectionResetError("the upstream closed the connection")
        self._wake()

    def data_received(self, data: bytes) -> None:
        self.has_answered = True
        if self.is_done:  # nobody asked: what follows an answer must never become the next caller's
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._error = error
            self.close()
        if self._sink is not None:
            self._pour_on(self._sink)
        else:
            self._wake()

    def _pour_on(self, sink: Sink) -> None:
        """Hand what has come to the sink; the task that waits is woken only where the pouring ends."""
        self._deadline = self._loop.time() + self._between_s
        if self._parts:
            try:
                self._is_full = not sink(self._taken())
            except Exception as error:  # noqa: BLE001 - it is raised where the sink was given
                self._sink_error = error
                self.close()
        if self.is_done or self.is_closed or self._is_full or self._error is not None:
            self._wake()

    def on_message_begin(self) -> None:
        self._came.clear()
        if self.is_done:
            self.keeps_alive = False  # a second answer, which nobody asked for

    def on_headers_complete(self) -> None:
        if self._headers_ready:
            return
        self.status = self._parser.get_status_code()
        if self.status < 200:  # such as 100 Continue: the answer follows
            self._came.clear()
            return
        self.headers = {name.lower(): value for name, value in self._came.items()}
        self.keeps_alive = self._parser.should_keep_alive()  # wrong when asked after the message
        self._headers_ready = True

    def on_body(self, body: bytes) -> None:
        if self.is_done:
            return
        self._has_body = True
        self._parts.append(body)
        self._buffered += len(body)
        if self._buffered > _HIGH_WATER:
            self._pause()

    def on_message_complete(self) -> None:
        self.is_done = self._headers_ready

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait_for_part(self, timeouts: Timeouts) -> None:
        """Wait for more of the body; a stream's head may come long before its first token."""
        if self._has_body:
            await self._wait(timeouts.between, "further part of the answer")
        else:
            await self._wait(timeouts.headers, "first part of the answer", self._asked_at)

    async def _wait(self, seconds: float, stage: str, since: float | None = None) -> None:
        """Wait for the upstream; one timer a connection, since one for each part would cost more than the part."""
        self._waiter = self._loop.create_future()
        self._deadline = (self._loop.time() if since is None else since) + seconds
        if self._timer is None or self._timer.when() > self._deadline:
            self._set_timer()
        try:
            await self._waiter
        except TimeoutError:
            self.close()
            raise UpstreamError(f"no {stage} from the upstream within {seconds:g} s") from None
        finally:
            self._waiter = None

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._deadline, self._expire)

    def _expire(self) -> None:
        self._timer = None
        if self._waiter is None or self._waiter.done():
            return
        if self._loop.time() < self._deadline:
            self._set_timer()
        else:
            self._waiter.set_exception(TimeoutError())

    async def exchange(self, request: bytes, timeouts: Timeouts) -> None:
        """Send a request and return once the answer's headers are here; where that fails it is closed."""
        self._begin()
        assert self.transport is not None
        try:
            self.transport.write(request)
            self._asked_at = self._loop.time()
            while not self._headers_ready:
                if self._error is not None or self.is_closed:
                    raise UpstreamError(f"the upstream broke off before it answered: {self._error or 'closed'}")
                await self._wait(timeouts.headers, "answer")
        except BaseException:
            self.close()
            raise

    async def arrived(self, timeouts: Timeouts) -> None:
        """Return once a byte of the body is here, or its end."""
        while not self._parts and not self.is_done:
            self._refuse_broken()
            await self._wait_for_part(timeouts)

    async def next_part(self, timeouts: Timeouts) -> bytes:
        """Return what has come of the body, joined; empty = the body is whole."""
        while not self._parts:
            if self.is_done:
                return b""
            self._refuse_broken()
            await self._wait_for_part(timeouts)
        part = self._taken()
        self._resume()
        return part

    async def pour(self, sink: Sink, timeouts: Timeouts) -> bool:
        """Hand the body to `sink` as it comes; True = it is whole, False = the sink wants no more for now."""
        self._sink, self._is_full, self._between_s = sink, False, timeouts.between
        try:
            self._resume()
            self._pour_on(sink)
            while not self.is_done and not self._is_full:
                self._refuse_broken()
                await self._wait_for_part(timeouts)
        finally:
            self._sink = None
        if self._sink_error is not None:
            raise self._sink_error
        if not self.is_done:
            self._pause()
        return self.is_done

    def _refuse_broken(self) -> None:
        if self._sink_error is not None:
            raise self._sink_error
        if self._error is not None or self.is_closed:
            raise UpstreamError(f"the upstream broke off in the middle of its answer: {self._error or 'closed'}")

    def _taken(self) -> bytes:
        """Return what has come of the body, joined, and forget it."""
        part = self._parts.popleft() if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._buffered = 0
        return part

    def _pause(self) -> None:
        if not self._is_paused and self.transport is not None and not self.is_closed:
            self._is_paused = True
            self.transport.pause_reading()

    def _resume(self) -> None:
        if self._is_paused and self.transport is not None and not self.is_closed:
            self._is_paused = False
            self.transport.resume_reading()

    @property
    def was_reset(self) -> bool:
        """Tell whether the upstream closed it, rather than a timeout of ours or an answer that is not HTTP."""
        return isinstance(self._error, ConnectionError)

    @property
    def is_usable(self) -> bool:
        return not self.is_closed and self.transport is not None and not self.transport.is_closing()

    def close(self) -> None:
        self.is_closed = True
        if self.transport is not None:
            self.transport.abort()
