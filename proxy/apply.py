"""Keeps the proxy on the newest policy document: a long poll, one assignment, and the last good one on the disk.

Nothing per request walks configuration: a new document is compiled beside the running one and swapped in.
"""
from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from farthing import semconv
from farthing.errors import DocumentError, UpstreamError
from farthing.policy.document import EMPTY, Document
from farthing.policy.index import CompiledDocument
from proxy.upstream import Client, Timeouts

log = logging.getLogger(__name__)

_WAIT_S = 30
_RETRY_S = 1.0
_LARGE = 100_000  # bytes of a document that is read in a thread
_REFUSED = 200  # characters of a reason that a header carries
_TIMEOUTS = Timeouts(connect=2.0, headers=_WAIT_S + 10.0, between=10.0)


class PolicyFeed:
    """The policies that this worker runs."""

    def __init__(self, client: Client, policies_url: str, kept: Path) -> None:
        self._client = client
        self._url = f"{policies_url}/v1/document?wait="
        self._kept = kept  # the last good document, with its checksum
        self._etag = ""
        self._name = f"{socket.gethostname()}/{os.getpid()}"
        self._refused = ""  # why the newest document is not the one in use
        self._task: asyncio.Task[None] | None = None
        self.compiled = CompiledDocument(EMPTY)
        self.is_known = False  # what governs the calls: a document came from the control plane or from the disk
        self.on_change: list[Callable[[CompiledDocument], None]] = []  # told what holds, before a request meets it
        self.tells: Callable[[], str] = str  # what to say of the gain models, empty for nothing
        self.fetched_at = 0.0  # epoch seconds of the last answer of the control plane; 0 = none yet
        self.last_error = ""

    @property
    def document(self) -> Document:
        return self.compiled.document

    async def start(self) -> None:
        """Take the last good document from the disk, then what the control plane has now, then follow it."""
        self._load_kept()
        try:
            await self._fetch(wait_s=0)
        except (UpstreamError, DocumentError, OSError) as error:
            self._failed(error)
        self._task = asyncio.create_task(self._follow())

    async def report(self) -> None:
        """Tell the control plane at once what is in use, instead of with the next long poll."""
        with suppress(UpstreamError, DocumentError, OSError):
            await self._fetch(wait_s=0)

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _follow(self) -> None:
        while True:
            try:
                await self._fetch(_WAIT_S)
            except (UpstreamError, DocumentError, OSError) as error:
                self._failed(error)
                await asyncio.sleep(_RETRY_S)

    async def _fetch(self, wait_s: int) -> None:
        headers = [(semconv.HEADER_FOLLOWER, self._name)]
        if self._etag:
            headers.append(("if-none-match", self._etag))
        if told := self.tells():
            headers.append((semconv.HEADER_GAINS, told))
        if self._refused:
            headers.append((semconv.HEADER_REFUSED, self._refused))
        response = await self._client.request("GET", f"{self._url}{wait_s}", b"", headers, _TIMEOUTS)
        body = await response.read()
        if response.status not in (200, 304):
            raise UpstreamError(f"the control plane answered {response.status}: {body[:200]!r}")
        if response.status == 200:
            await self._take(body)
            self._etag = response.headers.get(b"etag", b"").decode("latin-1")
        else:
            self._tell(self.compiled)  # a policy may have expired meanwhile
        self.fetched_at = time.time()
        self.last_error = ""
        if response.status == 200:
            self._keep(body)

    async def _take(self, body: bytes) -> None:
        """Swap to the document of an answer; one that is refused is refused whole, and the control plane told why."""
        try:
            # Ten thousand policies take a second to read; calls under way must not wait for that.
            self._swap(await asyncio.to_thread(_read, body) if len(body) > _LARGE else _read(body))
            self._refused = ""
        except DocumentError as error:
            self._refused = " ".join(str(error).split()).encode("ascii", "replace").decode()[:_REFUSED]
            raise

    def _swap(self, compiled: CompiledDocument) -> None:
        self._tell(compiled)
        self.compiled = compiled
        self.is_known = True
        log.info("policies: version %d", compiled.version)

    def _tell(self, compiled: CompiledDocument) -> None:
        for tell in self.on_change:
            tell(compiled)

    def _keep(self, body: bytes) -> None:
        self._kept.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._kept.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
        temporary.rename(self._kept)

    def _load_kept(self) -> None:
        try:
            checksum, _, body = self._kept.read_bytes().partition(b"\n")
        except FileNotFoundError:
            return
        except OSError as error:
            log.error("policies: %s cannot be read: %s", self._kept, error)
            return
        if hashlib.sha256(body).hexdigest().encode() != checksum:
            log.error("policies: %s is damaged and is not used", self._kept)
            return
        try:
            self._swap(_read(body))
        except OSError as error:  # what its limits count in cannot be made
            log.error("policies: %s is not used: %s", self._kept, error)
        except DocumentError as error:
            log.error("policies: %s is of another version and is not used: %s", self._kept, error)

    def _failed(self, error: Exception) -> None:
        if str(error) != self.last_error:
            log.warning("policies: %s; running version %d", error, self.document.version)
        self.last_error = str(error)


def _read(body: bytes) -> CompiledDocument:
    return CompiledDocument(Document.from_json(body))
