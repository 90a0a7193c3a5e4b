"""JSON over HTTP to a part of the platform, for the command line and the demo; never used on a hot path."""
from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

from farthing.errors import ServeError
from farthing.semconv import HEADER_TENANT_KEY


def call(
    method: str, url: str, body: object = None, timeout_s: float = 120.0, key: str = "", token: str = ""
) -> Any:
    """Send `body` (text as it is, anything else as JSON) and return the decoded answer.

    An ingest `key` and a `token` of the control API go along where they are given.

    Raises:
        ServeError: nobody answers, or the answer is an error; the message is the part's own.
    """
    parts = urlsplit(url)
    text = body if isinstance(body, str) else "" if body is None else json.dumps(body)
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    headers = {"content-type": "application/json", **({HEADER_TENANT_KEY: key} if key else {})}
    if token:
        headers["authorization"] = f"Bearer {token}"
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)
    try:
        connection.request(method, path, text.encode(), headers)
        response = connection.getresponse()
        answer = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise ServeError(
            f"nobody answers at {parts.scheme}://{parts.netloc} ({error}); start it with `farthing up`"
        ) from None
    finally:
        connection.close()
    decoded = _decoded(answer)
    if response.status >= 400:
        raise ServeError(f"{method} {url}: {response.status}: {_message(decoded)}", response.status)
    return decoded


def _decoded(answer: bytes) -> Any:
    try:
        return json.loads(answer) if answer else None
    except ValueError:
        return answer.decode("utf-8", "replace")


def _message(decoded: Any) -> str:
    try:
        error: Any = decoded["error"]
        return _joined(error)
    except (TypeError, KeyError):
        return str(decoded)[:500]


def _joined(error: Any) -> str:
    return "; ".join([str(error.get("message", "")), *(str(detail) for detail in error.get("details") or ())])
