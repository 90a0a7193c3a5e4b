"""What becomes of a line of a batch: its request, whose answer is kept the moment it comes, and how files tell it."""
from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import msgspec

from farthing import semconv
from farthing.serving import Headers
from proxy.batch_lines import Line
from proxy.gatherer import Parking
from proxy.inner import InnerRequest

_FOR_NOW = frozenset((429, 503, 529))  # refusals that charge nothing; with Retry-After they are worth another try


class LineRequest(InnerRequest):
    """A line's request; `keep` gets its answer before the call is settled."""

    __slots__ = ("_keep", "may_wait", "parking", "wait_s")

    is_offline = True

    def __init__(
        self, path: str, headers: dict[bytes, bytes], body: bytes, keep: Callable[[int, bytes, Headers], None],
        may_wait: bool, parking: Parking,
    ) -> None:  # fmt: skip
        super().__init__(path, headers, body)
        self._keep = keep
        self.may_wait = may_wait
        self.parking = parking
        self.wait_s = 0  # it was refused for now, and is to be asked again then; 0 = it has its answer

    def answer(self, status: int, body: bytes, content_type: bytes, headers: Headers = ()) -> None:
        super().answer(status, body, content_type, headers)
        if self.may_wait and status in _FOR_NOW:
            self.wait_s = next((_seconds(value) for name, value in headers if name == b"retry-after"), 0)
        if not self.wait_s:
            self._keep(status, body, headers)


def _seconds(value: bytes) -> int:
    return max(1, int(value)) if value.isdigit() else 1


def answer_record(line: Line, status: int, body: bytes, headers: Headers) -> bytes:
    """Return an answer's line of the output or the error file."""
    request_id = next((value.decode() for name, value in headers if name == semconv.HEADER_REQUEST_ID.encode()), "")
    response: dict[str, Any] = {"status_code": status, "request_id": request_id, "body": _json(body)}
    return msgspec.json.encode(
        {"id": f"batch_req_{secrets.token_hex(12)}", "custom_id": line.custom_id, "response": response, "error": None}
    )


def _json(body: bytes) -> object:
    """Return a body that is JSON as it is, and any other as text."""
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body.decode("utf-8", "replace")
    return msgspec.Raw(body)


def expired_record(line: Line) -> bytes:
    """Return the line of the error file of a request that was never begun."""
    message = "This request could not be executed before the batch's window closed."
    return failed_record(line, "batch_expired", message)


def failed_record(line: Line, code: str, message: str) -> bytes:
    """Return the line of the error file of a request that has no answer."""
    error = {"code": code, "message": message}
    made = {"id": f"batch_req_{secrets.token_hex(12)}", "custom_id": line.custom_id, "response": None, "error": error}
    return msgspec.json.encode(made)
