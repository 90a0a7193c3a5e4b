"""Small ASGI helpers of the proxy: read a body within a limit, know when the client has gone, answer."""
from __future__ import annotations

from collections.abc import Sequence

from farthing.serving import Receive, Send
from proxy.api_error import ApiError

JSON = b"application/json"
EVENT_STREAM = b"text/event-stream; charset=utf-8"

Headers = Sequence[tuple[bytes, bytes]]


class ClientGoneError(Exception):
    """The client went away; there is nobody to answer."""


async def read_body(receive: Receive, limit: int) -> bytes:
    """Return the request's body.

    Raises:
        ApiError: 413 past `limit` bytes.
        ClientGoneError: the client went away before it had sent all.
    """
    message = await receive()
    body = message.get("body", b"")
    while message.get("more_body"):
        message = await receive()
        body += message.get("body", b"")
        if len(body) > limit:
            break
    if message["type"] == "http.disconnect":
        raise ClientGoneError
    if len(body) > limit:
        raise ApiError(413, "request_too_large", f"the request is larger than {limit} bytes; send less context")
    return body


async def until_gone(receive: Receive) -> None:
    """Return when the client has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def answer(send: Send, status: int, body: bytes, content_type: bytes, headers: Headers = ()) -> None:
    """Send a whole answer."""
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", content_type), length, *headers]})
    await send({"type": "http.response.body", "body": body})


async def begin_stream(send: Send, headers: Headers) -> None:
    """Send the head of an event stream."""
    fixed = [(b"content-type", EVENT_STREAM), (b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
    await send({"type": "http.response.start", "status": 200, "headers": [*fixed, *headers]})


async def refuse(send: Send, error: ApiError, headers: Headers = ()) -> None:
    """Answer with an error of the API's own shape."""
    # The official clients repeat every 429 unless they are told that it is pointless.
    retry = (b"retry-after", b"%d" % error.retry_after_s) if error.retry_after_s else (b"x-should-retry", b"false")
    await answer(send, error.status, error.body(), JSON, [retry, *headers])
