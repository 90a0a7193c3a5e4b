"""What the proxy reads of a request's head, and how it refuses."""
from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from farthing import semconv
from farthing.serving import Headers
from proxy.api_error import ApiError
from proxy.http_request import Request

JSON = b"application/json"
EVENT_STREAM = b"text/event-stream; charset=utf-8"
_DEADLINE = semconv.HEADER_DEADLINE.encode()
_PRIORITY = semconv.HEADER_PRIORITY.encode()
_LAST_WORD_S = 1.0  # seconds that a client has to take the event that says that its stream broke off
_PASSED_ON = {name.encode(): name for name in ("anthropic-version", "anthropic-beta", "openai-beta")}


class ClientGoneError(Exception):
    """The client went away; there is nobody to answer."""


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


def asked_priority(headers: Mapping[bytes, bytes]) -> int | None:
    """Return the priority that a caller asks for, None where it asks for none.

    Raises:
        ApiError: 400; it is no priority.
    """
    text = headers.get(_PRIORITY)
    if text is None:
        return None
    if len(text) != 1 or not text.isdigit():
        shown = text.decode("latin-1")
        raise ApiError(400, "invalid_priority", f"{semconv.HEADER_PRIORITY}: {shown!r}; send a digit, 9 goes first")
    return int(text)


def passed_on(headers: Mapping[bytes, bytes]) -> tuple[tuple[str, str], ...]:
    """Return the headers that change what an upstream answers, and that say nothing of who asks."""
    if _PASSED_ON.keys().isdisjoint(headers):
        return ()
    return tuple([(name, headers[key].decode("latin-1")) for key, name in _PASSED_ON.items() if key in headers])


def refuse_too_large(request: Request, limit: int) -> None:
    """Refuse a request whose body was too long to read.

    Raises:
        ApiError: 413.
    """
    if request.is_too_large:
        message = f"the request is larger than {limit} bytes; send less context"
        raise ApiError(413, "request_too_large", message)


async def break_off(request: Request, event: bytes) -> None:
    """End a stream that has begun by an event that says why it is not whole."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_LAST_WORD_S):
            await request.write(event)
            request.end()


def refuse(request: Request, error: ApiError, body: bytes, headers: Headers = ()) -> None:
    """Answer with an error; `body` has the shape of the API that was asked."""
    # The official clients repeat every 429 unless they are told that it is pointless.
    retry = (b"retry-after", b"%d" % error.retry_after_s) if error.retry_after_s else (b"x-should-retry", b"false")
    request.answer(error.status, body, JSON, [retry, *headers])
