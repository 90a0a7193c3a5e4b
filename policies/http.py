"""The little HTTP that the control plane needs on top of ASGI: a request, a reply, an error, and a bounded body."""
from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any
from urllib.parse import parse_qs

import msgspec

from farthing.errors import DocumentError
from farthing.serving import Receive, Scope, Send

MAX_BODY_BYTES = 2 * 1024 * 1024
MAX_WAIT_S = 60.0  # longest long poll
MAX_TEXT = 500  # characters of an author, a reason or a cursor
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class HttpError(Exception):
    """A request that is answered with an error; what the caller reads lies in the fields."""

    def __init__(self, status: int, code: str, message: str, details: list[str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code  # stable, for programs
        self.message = message
        self.details = details or []


TYPES = {
    400: "invalid_request", 401: "unauthorized", 403: "forbidden", 404: "not_found", 405: "invalid_request",
    409: "conflict", 413: "invalid_request", 429: "rate_limited",
}  # fmt: skip

_HEADERS = {401: {"www-authenticate": "Bearer"}, 429: {"retry-after": "1"}, 503: {"retry-after": "1"}}


@dataclass(frozen=True)
class Reply:
    """An answer: a JSON-ready value, or bytes that are JSON already."""

    value: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """One request whose body has not been read yet."""

    method: str
    path: str
    query: dict[str, str]  # the first value of each name
    headers: dict[str, str]  # names in lower case
    receive: Receive
    client: str = ""  # the caller's address
    caller: str = ""  # the name of the token that it came with, once that was checked; empty: none was needed
    role: str = ""  # the caller's, once that was checked

    async def body(self) -> bytes:
        """Read the body.

        Raises:
            HttpError: it is longer than MAX_BODY_BYTES, or the client went away.
        """
        parts: list[bytes] = []
        size = 0
        more = True
        while more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise HttpError(400, "client_gone", "the client went away before its request was complete")
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            more = message.get("more_body", False)
            if size > MAX_BODY_BYTES:
                raise HttpError(413, "body_too_large", f"the body is longer than {MAX_BODY_BYTES} bytes; send less")
        return b"".join(parts)

    async def utf8(self) -> str:
        """Read the body as text.

        Raises:
            DocumentError: it is not UTF-8.
        """
        try:
            return (await self.body()).decode("utf-8")
        except UnicodeDecodeError as error:
            raise DocumentError(f"body: not UTF-8 at byte {error.start}; save it as UTF-8") from None

    async def gone(self) -> None:
        """Return once the client has gone away."""
        while (await self.receive())["type"] != "http.disconnect":
            pass

    def flag(self, name: str) -> bool:
        """Read a query value that is true or false; absent means false.

        Raises:
            HttpError: it is neither.
        """
        value = self.query.get(name, "false")
        if value not in ("true", "false"):
            raise HttpError(400, "bad_query", f"{name}={value!r}: allowed are true and false")
        return value == "true"

    def number(self, name: str) -> float:
        """Read a query value that is 0 or more; absent means 0."""
        text = self.query.get(name, "0")
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not value >= 0:
            raise HttpError(400, "bad_query", f"{name}={text!r}: allowed is a number, 0 or more")
        return value

    def signature(self) -> tuple[str, str]:
        """Return who asks and why, as the query says.

        Raises:
            HttpError: one of them is too long, or not printable.
        """
        return self.text("author"), self.text("reason")

    def text(self, name: str) -> str:
        """Read a short query value that people will see; absent means empty."""
        value = self.query.get(name, "")
        if len(value) > MAX_TEXT or not value.isprintable():
            raise HttpError(400, "bad_query", f"{name}: allowed is printable text of up to {MAX_TEXT} characters")
        return value

    def instant_ns(self, name: str) -> int:
        """Read a query value that is an ISO 8601 instant, UTC where it names no zone; absent means 1970."""
        text = self.query.get(name, "1970-01-01")
        try:
            moment = datetime.fromisoformat(text)
            moment = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
            at_ns = int((moment - EPOCH) / timedelta(microseconds=1)) * 1000
            return max(0, min(at_ns, 2**63 - 1))  # what the database can compare
        except (ValueError, OverflowError):
            allowed = "allowed is ISO 8601, such as 2026-03-01T00:00:00Z"
            raise HttpError(400, "bad_query", f"{name}={text!r}: {allowed}") from None


def read_request(scope: Scope, receive: Receive) -> Request:
    """Take method, path, query and headers from an ASGI scope."""
    query = parse_qs(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
    return Request(
        method=scope["method"],
        path=scope["path"],
        query={name: values[0] for name, values in query.items()},
        headers={name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]},
        receive=receive,
        client=(scope.get("client") or ("",))[0],
    )


def refusal(error: HttpError) -> Reply:
    """Return the reply that tells an error."""
    kind = TYPES.get(error.status, "unavailable" if error.status == 503 else "internal_error")
    body = {"type": kind, "code": error.code, "message": error.message, "details": error.details}
    return Reply({"error": body}, error.status, _HEADERS.get(error.status, {}))


async def send_reply(send: Send, reply: Reply) -> None:
    """Write a reply out."""
    body = reply.value if isinstance(reply.value, bytes) else msgspec.json.encode(reply.value)
    if reply.status == 304:
        body = b""
    headers = {"content-type": "application/json", "cache-control": "no-store"} | reply.headers
    if reply.status != 304:
        headers["content-length"] = str(len(body))
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": reply.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


async def first_of(event: asyncio.Event, request: Request, wait_s: float) -> bool:
    """Wait for `event`, the client's leaving or the time; tell whether the event came."""
    waiting = [asyncio.create_task(event.wait()), asyncio.create_task(request.gone())]
    try:
        await asyncio.wait(waiting, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    return event.is_set()
