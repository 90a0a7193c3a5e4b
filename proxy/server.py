"""The proxy's HTTP/1.1 server: between a socket and its call there is one protocol object and nothing to wait for.

A general server costs as much as all that the proxy itself does for a request, and tells of a client that has gone only
to a second task. [uvicorn 41 CPU µs a request, this 15.] Every state has a deadline, so a client that sends its request
byte by byte, or does not read its answer, is cut off. What asks for another protocol is answered in this one, as a
server may [the JDK's client offers HTTP/2 with each request].
"""
from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

import httptools

from proxy.http_head import path_of, without_offer
from proxy.http_request import STATUS_LINES, Handler, Request
from proxy.spool import Spool

log = logging.getLogger(__name__)

MAX_HEAD_BYTES = 64 * 1024
_MAX_WAITING = 16  # pipelined requests of one connection
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@dataclass(frozen=True)
class Patience:
    """Seconds that a client may take."""

    head: float = 15.0  # to send a request's head
    body: float = 60.0  # and its body
    spooled: float = 128 * 1024  # bytes a second of a large one that goes to the disk
    idle: float = 75.0  # between two requests
    stalled: float = 60.0  # without taking anything of its answer
    linger: float = 2.0  # to read why its body is refused
    sweep: float = 1.0  # between two looks at the clock


class Connection(asyncio.Protocol):
    """One client's connection; answers its requests one after the other."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._patience = server.patience
        self._loop = server.loop
        self._transport: asyncio.Transport | None = None
        self._headers: dict[bytes, bytes] = {}  # of the message under way, its trailers too; names as they came
        self.on_header = self._headers.__setitem__  # called for each, and a method of ours would cost twice that
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._head_bytes = 0  # received since the request began; 0 = none is under way
        self._beside_bytes = 0  # received beside a body since the last of it came: sizes of chunks, trailers
        self._reading: Request | None = None  # its head is here, its body is coming
        self._body: list[bytes] = []
        self._size = 0
        self._max_body_bytes = 0  # of the request under way
        self._is_other_protocol = False  # it asks for one, and the parser takes what follows for that
        self._is_continue_due = False  # its client waits to be told to go on, once what came before is answered
        self._waiting: deque[Request] = deque()
        self._active: Request | None = None
        self._task: asyncio.Task[None] | None = None  # that answers; made for the first request
        self._idle: asyncio.Future[None] | None = None  # what it waits for between two of them
        self._is_discarding = False  # what still comes of a refused body
        self._drained: asyncio.Future[None] | None = None
        self.is_stalled = False  # the client does not keep up with its answer
        self.is_http_11 = True
        self.deadline = monotonic() + self._patience.head

    @property
    def is_busy(self) -> bool:
        return self._active is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment] # uvloop's is no asyncio.Transport, and behaves like one
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self._transport = None
        for unread in (self._reading, *self._waiting):
            _close(unread)
        self._reading = None
        self._waiting.clear()
        self.resume_writing()
        request = self._active
        if request is not None:
            self._server.left.add(self)
            request.is_gone = True
            if request.on_gone is not None:
                request.on_gone()
        self._wake()

    def data_received(self, data: bytes) -> None:
        if self._is_discarding:
            return
        if not self._head_bytes and self._reading is None and self._active is None:
            self.deadline = monotonic() + self._patience.head
        if self._reading is None:
            self._head_bytes += len(data)
        else:
            self._beside_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as error:
            self._stay(data[error.args[0] :])
        except httptools.HttpParserError:
            self._refuse(400, b"this is not HTTP/1.1")
        else:
            if self._reading is None and self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(431, b"the head of the request is too large")
            elif self._reading is not None and self._beside_bytes > MAX_HEAD_BYTES:
                self._refuse(431, b"too much comes beside the body of the request")

    def _stay(self, rest: bytes) -> None:
        """Read a request that asks for another protocol anew, as if it had not, and `rest` behind its head."""
        method, self._is_other_protocol = self._parser.get_method(), False
        if method == b"CONNECT":
            self._refuse(501, b"this is no proxy of that kind")
            return
        if len(self._waiting) >= _MAX_WAITING:  # each is read twice; nobody has to offer so many in one breath
            self._refuse(400, b"too many offers of another protocol")
            return
        head = without_offer(method, self._url, self._headers)
        self._headers.clear()
        self._url, self._head_bytes = b"", 0
        self._parser = httptools.HttpRequestParser(self)
        self.data_received(head + rest)

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_headers_complete(self) -> None:
        parser, headers = self._parser, {name.lower(): value for name, value in self._headers.items()}
        method = parser.get_method()
        if method == b"CONNECT" or (b"upgrade" in headers and parser.should_upgrade()):
            self._is_other_protocol = True
            return
        self._headers.clear()
        path, _, query = path_of(self._url).partition(b"?")
        request = self._reading = Request(self, method.decode("latin-1"), path.decode("latin-1"), headers, query)
        self._max_body_bytes = self._server.max_body(request)
        if self._max_body_bytes > self._server.max_body_bytes:
            request.spooled = self._server.spool(request)
        self.is_http_11 = parser.get_http_version() == "1.1"
        request.keeps_alive = self.is_http_11 and parser.should_keep_alive() and not self._server.is_stopping
        self._url, self._head_bytes = b"", 0
        if self._active is None:  # else its time begins once that is answered
            self.deadline = self._body_until(request)
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._max_body_bytes:
            self._cut_short(request)
        elif headers.get(b"expect", b"").lower() == b"100-continue":
            self._is_continue_due = True
            self._let_go_on()

    def _body_until(self, request: Request) -> float:
        """Return when a body that begins now must be here."""
        large_s = self._max_body_bytes / self._patience.spooled if request.spooled is not None else 0.0
        return monotonic() + self._patience.body + large_s

    def _let_go_on(self) -> None:
        """Tell a client that waits for it that its body is wanted; an answer that is due comes before that."""
        if self._is_continue_due and self._active is None:
            self._is_continue_due = False
            self.send(_CONTINUE)

    def on_body(self, body: bytes) -> None:
        request = self._reading
        self._beside_bytes = 0
        if request is None:
            return
        if request.spooled is not None:
            request.spooled.write(body)
        else:
            self._body.append(body)
        self._size += len(body)
        if self._size > self._max_body_bytes:
            self._cut_short(request)

    def on_message_complete(self) -> None:
        if self._is_other_protocol:
            return
        self._headers.clear()  # a trailer says nothing, least of all of the request behind it
        request = self._reading
        if request is None:
            return
        request.body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._take(request)

    def _cut_short(self, request: Request) -> None:
        """Answer a request whose body is too large without reading the rest of it."""
        request.is_too_large, request.keeps_alive = True, False
        self._is_discarding = True
        self._take(request)

    def _take(self, request: Request) -> None:
        self._reading, self._body, self._size, self._beside_bytes = None, [], 0, 0
        self._is_continue_due = False
        if self._active is None:
            self._start(request)
            self._wake()
            return
        self._waiting.append(request)
        if len(self._waiting) >= _MAX_WAITING and self._transport is not None:
            self._transport.pause_reading()

    def _start(self, request: Request) -> None:
        self._active = request
        self.deadline = 0.0  # the call has limits of its own

    def _wake(self) -> None:
        """Have the request under way answered, or the task end where there is none and the client has gone."""
        if self._idle is not None:
            if not self._idle.done():
                self._idle.set_result(None)
        elif self._active is not None and (self._task is None or self._task.done()):
            self._task = self._loop.create_task(self._work())

    async def _work(self) -> None:
        """Answer one request after the other; a task for each would cost 4 µs more."""
        while (request := self._active) is not None:
            try:
                await self._server.handle(request)
            except asyncio.CancelledError:
                self.abort()  # nobody is left to answer what else may have come
                raise
            except Exception:
                log.exception("a request failed")
            finally:
                self._active = None
                _close(request)
                if self._transport is None:
                    self._server.left.discard(self)
            self._ended(request)
            if self._active is None and self._transport is not None:
                self._idle = self._loop.create_future()
                try:
                    await self._idle
                finally:
                    self._idle = None

    async def rest(self) -> None:
        """Return once the task of a connection that is closing has ended; what it still answers is given up."""
        if self._task is not None:
            if self.is_busy:
                self._task.cancel()
            await asyncio.wait((self._task,))

    def _ended(self, request: Request) -> None:
        """Go on to the next request, or close."""
        if self._transport is None:
            return
        if not request.is_ended:  # nothing that was sent may be taken for a whole answer
            self.abort()
        elif self._is_discarding:  # closing at once would take the answer from a client that is still sending
            self.deadline = monotonic() + self._patience.linger
        elif not request.keeps_alive or self._server.is_stopping:
            self._transport.close()
        elif self._waiting:
            self._start(self._waiting.popleft())
            if len(self._waiting) < _MAX_WAITING:
                self._transport.resume_reading()
        elif self._reading is not None:
            self.deadline = self._body_until(self._reading)
            self._let_go_on()
        else:
            self.deadline = monotonic() + self._patience.idle

    def _refuse(self, status: int, message: bytes) -> None:
        """Answer what is no request of ours, and close."""
        if self._transport is None:
            return
        if self._active is None:
            body = b'{"error":{"message":"%b","type":"invalid_request_error","param":null,"code":null}}' % message
            head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
            self._transport.write(b"".join((STATUS_LINES[status], head, body)))
            self._transport.close()
        else:
            self.abort()

    def send(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def pause_writing(self) -> None:
        self.is_stalled = True
        self.deadline = monotonic() + self._patience.stalled

    def resume_writing(self) -> None:
        self.is_stalled = False
        if self._active is not None:
            self.deadline = 0.0
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    async def drained(self) -> None:
        """Return once the client has taken what waits for it, or has gone."""
        self._drained = self._loop.create_future()
        await self._drained

    def expire(self) -> None:
        """A deadline has passed."""
        if self.is_stalled or self._transport is None:
            self.abort()
        elif self._reading is not None or self._head_bytes:
            self._refuse(408, b"the request took too long to arrive")
        else:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def close_if_idle(self) -> None:
        if self._active is None and self._transport is not None:
            self._transport.close()


class Server:
    """Listens, hands each whole request to `handle`, and stops without cutting an answer."""

    def __init__(
        self, handle: Handler, max_body_bytes: int, patience: Patience = Patience(),
        max_body: Callable[[Request], int] | None = None, spool: Callable[[Request], Spool | None] = lambda _: None,
    ) -> None:  # fmt: skip
        self.handle = handle
        self.spool = spool
        self.max_body_bytes = max_body_bytes  # that any request may have; those that may have more are spooled
        self.max_body = max_body or (lambda request: max_body_bytes)  # of a request whose head is here, bytes
        self.patience = patience
        self.loop = asyncio.get_running_loop()
        self.connections: set[Connection] = set()
        self.left: set[Connection] = set()  # by clients whose request is still worked on
        self.is_stopping = False
        self._listener: asyncio.Server | None = None
        self._sweeper: asyncio.TimerHandle | None = None

    async def start(self, sock: socket.socket) -> None:
        self._listener = await self.loop.create_server(lambda: Connection(self), sock=sock, backlog=2048)
        self._sweep()

    async def stop(self, seconds: float) -> None:
        """Take no new request, wait for those under way, and cut what is left after `seconds`."""
        self.is_stopping = True
        if self._listener is not None:
            self._listener.close()
        connections = {*self.connections, *self.left}
        for connection in connections:
            connection.close_if_idle()
        until = monotonic() + seconds
        while (self.left or any(one.is_busy for one in self.connections)) and monotonic() < until:
            await asyncio.sleep(0.02)
        for connection in connections:
            connection.abort()
            await connection.rest()
        if self._sweeper is not None:
            self._sweeper.cancel()

    def _sweep(self) -> None:
        """Find what has taken too long; one timer for all connections, since one for each costs 2 µs a request."""
        now = monotonic()
        for connection in [one for one in self.connections if 0 < one.deadline < now]:
            connection.expire()
        self._sweeper = self.loop.call_later(self.patience.sweep, self._sweep)


def _close(request: Request | None) -> None:
    """Let go of a body on the disk."""
    if request is not None and request.spooled is not None:
        request.spooled.close()
