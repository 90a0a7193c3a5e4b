"""An upstream's answer that is here already, for calls that did not have it to themselves."""
from __future__ import annotations

from collections.abc import AsyncIterator

from proxy.upstream import Response


class WholeResponse(Response):
    """An answer that has been read already."""

    def __init__(self, status: int, headers: dict[bytes, bytes], body: bytes, shared_by: int = 1) -> None:
        self.status = status
        self.headers = headers
        self.shared_by = shared_by  # calls that were sent as one
        self._body = body

    async def parts(self) -> AsyncIterator[bytes]:
        yield self._body

    async def read(self, limit: int = 64 * 1024 * 1024) -> bytes:
        return self._body

    def close(self) -> None:
        """Nothing is held."""
