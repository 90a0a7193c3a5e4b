"""As much HTTP as the analyzer's API needs: a request read with a bound, a JSON or HTML answer, one shape of error."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from farthing.serving import Receive, Scope, Send, answer

MAX_BODY = 64 * 1024  # bytes
_DOCUMENT = 8 * 1024 * 1024  # a policy document
MAX_BODIES = {"/v1/plan": 2 * _DOCUMENT, "/v1/guardrails": _DOCUMENT, "/v1/slos": _DOCUMENT}
_SAFE = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))


class HttpError(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code  # for programs


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: Mapping[str, str]
    body: bytes

    def json_object(self) -> dict[str, Any]:
        """Return the body, a JSON object; an empty one has no keys.

        Raises:
            HttpError: the body is something else.
        """
        try:
            return msgspec.json.decode(self.body or b"{}", type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise HttpError(400, "invalid_json", f"the body is not a JSON object: {error}") from None


@dataclass(frozen=True)
class Response:
    body: bytes
    status: int = 200
    content_type: str = "application/json"
    note: str = ""  # what came of it, for the audit


def json(value: object, status: int = 200, note: str = "") -> Response:
    """Return `value` as JSON."""
    return Response(msgspec.json.encode(value), status, note=note)


def error(failure: HttpError) -> Response:
    """Return the one shape that every error has."""
    kind = "invalid_request_error" if failure.status < 500 else "server_error"
    told = {"error": {"type": kind, "code": failure.code, "message": str(failure)}}
    return json(told, failure.status, note=str(failure))


def headers(scope: Scope) -> Mapping[str, str]:
    """Return the headers of a request, names in lower case."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def client(scope: Scope) -> str:
    """Return the address that a request came from."""
    return (scope.get("client") or ("",))[0]


async def read(scope: Scope, receive: Receive) -> Request:
    """Read a request whole.

    Raises:
        HttpError: the body is too large, or the client went away.
    """
    body, bound = b"", MAX_BODIES.get(scope["path"], MAX_BODY)
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise HttpError(400, "disconnected", "the client went away before its request was complete")
        body += message.get("body", b"")
        if len(body) > bound:
            raise HttpError(413, "body_too_large", f"the body is over {bound:,} bytes")
        if not message.get("more_body"):
            query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
            return Request(scope["method"], scope["path"], dict(query), body)


async def send(response: Response, to: Send) -> None:
    """Send an answer."""
    await answer(to, response.status, response.body, response.content_type.encode(), _SAFE)
