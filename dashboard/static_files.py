"""Serves scripts, styles and fonts from memory, compressed once, with an etag.

The same wrapper puts plotly's `basic` bundle in the place of the full one: at its own URL it stays a file that a page
loads only if it draws a chart (1.2 MB instead of 4.8 MB; Dash has no setting for it that works with local files).
"""
from __future__ import annotations

import asyncio
import gzip
import hashlib
import mimetypes
from dataclasses import dataclass
from pathlib import Path

from farthing.serving import Asgi, Receive, Scope, Send

ASSETS = Path(__file__).parent / "assets"
PREFIXES = ("/_dash-component-suites/", "/assets/")
SWAPPED = {"/_dash-component-suites/plotly/package_data/plotly.min.js": ASSETS / "vendor" / "plotly-basic.min.js"}
DAY = b"public, max-age=86400"
FOREVER = b"public, max-age=31536000, immutable"
MOST_FILES = 256  # a made-up query string must not fill the memory
_COMPRESSED = (b"font", b"image/png")  # kinds that gzip does not make smaller

Header = tuple[bytes, bytes]


@dataclass(frozen=True)
class File:
    """One file, ready to send."""

    body: bytes
    kind: bytes
    etag: bytes
    caching: bytes
    is_gzip: bool

    def headers(self) -> list[Header]:
        found = [(b"content-type", self.kind), (b"cache-control", self.caching), (b"etag", self.etag)]
        if self.is_gzip:
            found += [(b"content-encoding", b"gzip"), (b"vary", b"accept-encoding")]
        return found


class StaticFiles:
    """ASGI wrapper: answers GET for static files itself and passes all else on."""

    def __init__(self, app: Asgi) -> None:
        self.app = app
        self._files: dict[str, File] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not _is_static(scope):
            return await self.app(scope, receive, send)
        key = f"{scope['path']}?{scope.get('query_string', b'').decode('latin-1')}"
        file = self._files.get(key) or await self._load(key, scope, receive, send)
        if file is None:
            return None
        return await _send_file(file, scope, send)

    async def _load(self, key: str, scope: Scope, receive: Receive, send: Send) -> File | None:
        """Read a file through the application once; what is not a file goes to the browser as it is."""
        swapped = SWAPPED.get(scope["path"])
        if swapped is not None:
            body = await asyncio.to_thread(swapped.read_bytes)
            kind = (mimetypes.guess_type(swapped.name)[0] or "text/javascript").encode()
        else:
            answer = await self._captured(scope, receive)
            if answer.status != 200:
                await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
                await send({"type": "http.response.body", "body": answer.body})
                return None
            body, kind = answer.body, dict(answer.headers).get(b"content-type", b"application/octet-stream")
        file = await asyncio.to_thread(_prepared, body, kind, _is_fingerprinted(key))
        if len(self._files) < MOST_FILES:
            self._files[key] = file
        return file

    async def _captured(self, scope: Scope, receive: Receive) -> Answer:
        plain = [pair for pair in scope["headers"] if pair[0] not in (b"accept-encoding", b"if-none-match", b"range")]
        answer = Answer()
        await self.app({**scope, "headers": plain}, receive, answer.take)
        return answer


class Answer:
    """A response of the application, held back."""

    def __init__(self) -> None:
        self.status = 500
        self.headers: list[Header] = []
        self.body = b""

    async def take(self, message: Scope) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], list(message["headers"])
        else:
            self.body += message.get("body", b"")


def _is_static(scope: Scope) -> bool:
    return scope["type"] == "http" and scope["method"] == "GET" and scope["path"].startswith(PREFIXES)


def _is_fingerprinted(key: str) -> bool:
    """Tell whether the URL changes with the content: Dash writes .v<version>m<mtime>. or ?m=<mtime> into it."""
    path, _, query = key.partition("?")
    return query.startswith("m=") or ".v" in path.rpartition("/")[2]


def _prepared(body: bytes, kind: bytes, is_fingerprinted: bool) -> File:
    packs = not kind.startswith(_COMPRESSED)
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'.encode()
    packed = gzip.compress(body, 9, mtime=0) if packs else body
    return File(packed, kind, etag, FOREVER if is_fingerprinted else DAY, packs)


async def _send_file(file: File, scope: Scope, send: Send) -> None:
    asked = dict(scope["headers"])
    if asked.get(b"if-none-match") == file.etag:
        await send({"type": "http.response.start", "status": 304, "headers": file.headers()})
        return await send({"type": "http.response.body", "body": b""})
    headers, body = file.headers(), file.body
    if file.is_gzip and b"gzip" not in asked.get(b"accept-encoding", b""):
        body = gzip.decompress(body)
        headers = [pair for pair in headers if pair[0] != b"content-encoding"]
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    return await send({"type": "http.response.body", "body": body})
