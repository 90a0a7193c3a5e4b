"""Adds the headers that keep a page from loading or running anything that is not ours."""
from __future__ import annotations

from collections.abc import Sequence

from farthing.serving import Asgi, Receive, Scope, Send

_FIXED = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
)


class SecurityHeaders:
    """ASGI wrapper; `script_hashes` are those of the inline scripts that the index page has."""

    def __init__(self, app: Asgi, script_hashes: Sequence[str]) -> None:
        self.app = app
        self._headers = [(b"content-security-policy", content_policy(script_hashes).encode()), *_FIXED]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def send_with_headers(message: Scope) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self._headers]
            await send(message)

        return await self.app(scope, receive, send_with_headers)


def content_policy(script_hashes: Sequence[str]) -> str:
    """Return the content security policy: our own files, and inline styles because Mantine and plotly write them."""
    return "; ".join((
        "default-src 'self'",
        " ".join(("script-src 'self'", *script_hashes)),
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ))
