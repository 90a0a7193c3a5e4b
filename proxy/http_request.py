"""One HTTP request, whole, and the way to answer it."""
from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from email.utils import formatdate
from http import HTTPStatus
from time import time
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qsl

from farthing.serving import Headers
from proxy.spool import Spool

if TYPE_CHECKING:
    from proxy.gatherer import Parking

Handler = Callable[["Request"], Coroutine[Any, Any, None]]

STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


class Wire(Protocol):
    """The connection that an answer goes out on."""

    is_stalled: bool  # the client does not keep up with its answer
    is_http_11: bool

    def send(self, data: bytes) -> None: ...

    async def drained(self) -> None:
        """Return once the client has taken what waits for it, or has gone."""


class Nobody:
    """Takes the body of an answer whose head alone was asked for."""

    is_stalled, is_http_11 = False, True

    def send(self, data: bytes) -> None: ...

    async def drained(self) -> None: ...


class Request:
    """One request, whole, and the way to answer it."""

    __slots__ = ("_connection", "_is_chunked", "_unsent", "body", "headers", "is_begun", "is_ended", "is_gone",
                 "is_too_large", "keeps_alive", "method", "on_gone", "path", "raw_query", "spooled")  # fmt: skip

    is_offline = False  # a line of a batch: served in spare capacity, at the batch's price
    parking: Parking | None = None  # where such a line waits for its provider's batch

    def __init__(
        self, connection: Wire, method: str, path: str, headers: dict[bytes, bytes], raw_query: bytes = b""
    ) -> None:
        self._connection = connection
        self.raw_query = raw_query
        self.method = method
        self.path = path
        self.headers = headers  # names in lower case; of a repeated one the last
        self.body = b""
        self.spooled: Spool | None = None  # the body, where it is on the disk
        self.is_too_large = False  # the body is longer than allowed, and was not read
        self.keeps_alive = True
        self.is_begun = False  # something of its answer has left
        self.is_ended = False  # its answer is whole
        self.is_gone = False  # the client has closed the connection
        self.on_gone: Callable[[], object] | None = None
        self._is_chunked = True
        self._unsent = b""  # the head of an answer that has not left yet

    @property
    def query(self) -> dict[str, str]:
        """What follows the path's `?`; of a repeated name the last."""
        return dict(parse_qsl(self.raw_query.decode("latin-1")))

    def answer(self, status: int, body: bytes, content_type: bytes, headers: Headers = ()) -> None:
        """Send a whole answer."""
        self.is_begun = self.is_ended = True
        whole = b"%bcontent-type: %b\r\ncontent-length: %d\r\n\r\n%b"
        sent = body if self.method != "HEAD" else b""
        self._connection.send(whole % (self._head(status, headers), content_type, len(body), sent))

    def begin(self, status: int, headers: Headers) -> None:
        """Begin an answer whose length nobody knows; where a part of it follows at once, both leave in one write."""
        self.is_begun = True
        self._is_chunked = self._connection.is_http_11
        if not self._is_chunked:
            self.keeps_alive = False
        framing = b"transfer-encoding: chunked\r\n\r\n" if self._is_chunked else b"\r\n"
        self._unsent = self._head(status, headers) + framing
        if self.method == "HEAD":
            self._send_head()
            self._connection = Nobody()
        else:
            asyncio.get_running_loop().call_soon(self._send_head)

    def put(self, data: bytes) -> bool:
        """Send a part of the body; False = the client does not keep up, so wait until it has `caught_up`."""
        self._send(b"%x\r\n%b\r\n" % (len(data), data) if self._is_chunked else data)
        return not self._connection.is_stalled

    async def caught_up(self) -> None:
        """Return once the client has taken what waits for it, or has gone."""
        if self._connection.is_stalled:
            await self._connection.drained()

    async def write(self, data: bytes) -> None:
        """Send a part of the body; waits while the client does not keep up."""
        if not self.put(data):
            await self.caught_up()

    def end(self) -> None:
        """Say that the body is whole."""
        self.is_ended = True
        self._send(b"0\r\n\r\n" if self._is_chunked else b"")

    def _send(self, data: bytes) -> None:
        if self._unsent:
            data, self._unsent = self._unsent + data, b""
        self._connection.send(data)

    def _send_head(self) -> None:
        if self._unsent:
            self._send(b"")

    def _head(self, status: int, headers: Headers) -> bytes:
        lines = b"".join([b"%b: %b\r\n" % pair for pair in headers])
        close = b"" if self.keeps_alive else b"connection: close\r\n"
        return b"".join((STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status, _date(), close, lines))


_dated: tuple[int, bytes] = (0, b"")


def _date() -> bytes:
    """Return the Date header, made once a second."""
    global _dated
    now = int(time())
    if _dated[0] != now:
        _dated = (now, f"date: {formatdate(now, usegmt=True)}\r\n".encode())
    return _dated[1]
