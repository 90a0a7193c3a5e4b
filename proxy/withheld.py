"""Stands where a client would, and keeps an answer back until somebody has judged it or nobody wants it."""
from __future__ import annotations

from farthing.errors import UpstreamError
from farthing.serving import Headers
from proxy.http import EVENT_STREAM
from proxy.http_request import Request

_MOST_BYTES = 16 * 1024 * 1024


class Withheld:
    """Takes one answer, whole or in parts."""

    def __init__(self) -> None:
        self.status = 0  # 0 = nothing has come
        self.is_stream = False
        self._headers: Headers = ()
        self.content_type = EVENT_STREAM
        self._parts: list[bytes] = []
        self._size = 0

    @property
    def body(self) -> bytes:
        return b"".join(self._parts)

    def answer(self, status: int, body: bytes, content_type: bytes, headers: Headers = ()) -> None:
        self.status, self._parts, self.content_type, self._headers = status, [body], content_type, headers

    def begin(self, status: int, headers: Headers) -> None:
        self.status, self.is_stream, self._headers = status, True, headers

    def put(self, data: bytes) -> bool:
        self._size += len(data)
        if self._size > _MOST_BYTES:
            raise UpstreamError(f"a stream of more than {_MOST_BYTES} bytes cannot be kept back to be judged")
        self._parts.append(data)
        return True

    async def write(self, data: bytes) -> None:
        self.put(data)

    async def caught_up(self) -> None:
        """Return; nobody reads along."""

    def end(self) -> None:
        """Do nothing: what has come is here."""

    async def release(self, request: Request) -> None:
        """Give the answer to a client."""
        if not self.is_stream:
            request.answer(self.status, self.body, self.content_type, self._headers)
            return
        request.begin(self.status, self._headers)
        await request.write(self.body)
        request.end()


Taker = Request | Withheld  # whoever takes an answer
