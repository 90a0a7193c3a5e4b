"""A request that the proxy makes of one of its own routes: admitted, held and recorded like a client's."""
from __future__ import annotations

from collections.abc import Callable, Mapping

from farthing.serving import Headers
from proxy.http_request import Request


class InnerRequest(Request):
    """A request without a connection; its answer is kept."""

    __slots__ = ("answered", "status")

    def __init__(self, path: str, headers: Mapping[bytes, bytes], body: bytes) -> None:
        self.method = "POST"
        self.path = path
        self.headers = dict(headers)
        self.body = body
        self.is_too_large = self.is_begun = self.is_ended = self.is_gone = False
        self.keeps_alive = True
        self.spooled = None
        self.on_gone: Callable[[], object] | None = None
        self.status = 0
        self.answered = b""

    def answer(self, status: int, body: bytes, content_type: bytes, headers: Headers = ()) -> None:
        self.status, self.answered = status, body
        self.is_begun = self.is_ended = True

    def begin(self, status: int, headers: Headers) -> None:
        self.status, self.is_begun = status, True

    def put(self, data: bytes) -> bool:
        self.answered += data
        return True

    async def caught_up(self) -> None:
        """Return; nobody reads along."""

    def end(self) -> None:
        self.is_ended = True
