"""Small ASGI helpers of the proxy: read a body within a limit, know when the client has gone, refuse."""
from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Self

from farthing import semconv
from farthing.serving import Headers, Receive, Send, answer
from proxy.api_error import ApiError

JSON = b"application/json"
EVENT_STREAM = b"text/event-stream; charset=utf-8"
_DEADLINE = semconv.HEADER_DEADLINE.encode()
_PASSED_ON = tuple((name.encode(), name) for name in ("anthropic-version", "anthropic-beta", "openai-beta"))


class ClientGoneError(Exception):
    """The client went away; there is nobody to answer."""


class ClientWatch:
    """Notices, inside a `with` block, that the client goes away, and calls `on_gone` then."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.is_gone = False
        self.on_gone: Callable[[], object] | None = None

    def __enter__(self) -> Self:
        self._task = asyncio.create_task(self._watch())
        return self

    def __exit__(self, *_: object) -> None:
        self._task.cancel()

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.is_gone = True
        if self.on_gone is not None:
            self.on_gone()


async def read_body(receive: Receive, limit: int) -> bytes:
    """Return the request's body.

    Raises:
        ApiError: 413 past `limit` bytes.
        ClientGoneError: the client went away before it had sent all.
    """
    parts: list[bytes] = []
    size, is_more = 0, True
    while is_more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        is_more = message.get("more_body", False)
        if size > limit:
            raise ApiError(413, "request_too_large", f"the request is larger than {limit} bytes; send less context")
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def begin_stream(send: Send, headers: Headers) -> None:
    """Send the head of an event stream."""
    fixed = [(b"content-type", EVENT_STREAM), (b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
    await send({"type": "http.response.start", "status": 200, "headers": [*fixed, *headers]})


def deadline_s(headers: Mapping[bytes, bytes], limit_s: float) -> float:
    """Return how long a call may take, seconds: what the caller will wait, `limit_s` at most.

    Raises:
        ApiError: 400; the caller's number is none.
    """
    text = headers.get(_DEADLINE)
    if text is None:
        return limit_s
    if not text.isdigit() or not 0 < int(text) < 10**9:
        shown = text.decode("latin-1")
        message = f"{semconv.HEADER_DEADLINE}: {shown!r}; send a whole number of milliseconds above 0"
        raise ApiError(400, "invalid_deadline", message)
    return min(int(text) / 1000, limit_s)


def passed_on(headers: Mapping[bytes, bytes]) -> list[tuple[str, str]]:
    """Return the headers that change what an upstream answers, and that say nothing of who asks."""
    return [(name, headers[key].decode("latin-1")) for key, name in _PASSED_ON if key in headers]


async def refuse(send: Send, error: ApiError, body: bytes, headers: Headers = ()) -> None:
    """Answer with an error; `body` has the shape of the API that was asked."""
    # The official clients repeat every 429 unless they are told that it is pointless.
    retry = (b"retry-after", b"%d" % error.retry_after_s) if error.retry_after_s else (b"x-should-retry", b"false")
    await answer(send, error.status, body, JSON, [retry, *headers])
