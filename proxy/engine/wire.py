"""The few lines between ASGI messages and bytes: read a body, send JSON, send server-sent events."""
from __future__ import annotations

from typing import Any

import msgspec

from farthing.serving import Headers, Receive, Send, answer
from proxy.engine.protocol import RefusedError

DONE = b"data: [DONE]\n\n"


class DisconnectedError(Exception):
    """The client went away before its request was complete."""


async def read_body(receive: Receive, limit: int) -> bytes:
    """Return the whole request body.

    Raises:
        RefusedError: it is longer than `limit` bytes.
        DisconnectedError: the client went away.
    """
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise DisconnectedError
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise RefusedError(413, f"the body is larger than {limit} bytes", code="request_too_large")
        if not message.get("more_body", False):
            return b"".join(parts)


async def send_json(send: Send, status: int, content: Any, headers: Headers = ()) -> None:
    """Send `content` as the whole response."""
    await answer(send, status, msgspec.json.encode(content), b"application/json", headers)


async def send_refusal(send: Send, refusal: RefusedError) -> None:
    """Send `refusal` as OpenAI's error object."""
    retry = ((b"retry-after", b"1"),) if refusal.status in (429, 503) else ()
    await send_json(send, refusal.status, error_body(refusal), retry)


def error_body(refusal: RefusedError) -> dict[str, Any]:
    """Return OpenAI's error object for `refusal`."""
    kind = "invalid_request_error" if refusal.status < 500 else "server_error"
    return {"error": {"message": str(refusal), "type": kind, "param": refusal.param, "code": refusal.code}}


async def start_events(send: Send) -> None:
    """Begin a stream of server-sent events."""
    headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


def event(content: Any, name: str = "") -> bytes:
    """Return one event, with a name where its API has one."""
    head = b"event: " + name.encode() + b"\n" if name else b""
    return head + b"data: " + msgspec.json.encode(content) + b"\n\n"


async def send_part(send: Send, events: bytes) -> None:
    """Send events of a stream that goes on."""
    await send({"type": "http.response.body", "body": events, "more_body": True})


async def end_stream(send: Send, events: bytes) -> None:
    """Send the last events and end the response."""
    await send({"type": "http.response.body", "body": events})
