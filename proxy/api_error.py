"""Errors as OpenAI's API shapes them, so that the official clients raise what their users expect."""
from __future__ import annotations

import msgspec


class ApiError(Exception):
    """A request is refused; becomes the HTTP answer."""

    def __init__(
        self, status: int, code: str, message: str, *, kind: str = "", param: str | None = None, retry_after_s: int = 0
    ) -> None:
        super().__init__(message)
        self.status = status  # HTTP status
        self.code = code
        self.message = message
        self.kind = kind or _KINDS.get(status, "invalid_request_error")
        self.param = param
        self.retry_after_s = retry_after_s  # 0 = asking again now is pointless

    def body(self) -> bytes:
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return msgspec.json.encode({"error": error})

    def event(self) -> bytes:
        """Return the error as the last event of a stream of chunks."""
        return b"data: " + self.body() + b"\n\n"


_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    429: "insufficient_quota",
    500: "server_error",
    502: "upstream_error",
    503: "service_unavailable",
    504: "upstream_error",
}
