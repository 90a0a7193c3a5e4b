"""The document that proxies follow: one value with an ETag, and the long polls that wait for the next one."""
from __future__ import annotations

import asyncio
from dataclasses import dataclass

from farthing.policy import CompiledDocument, Document


@dataclass(frozen=True)
class Edition:
    """A document as it is sent out."""

    compiled: CompiledDocument
    body: bytes  # canonical JSON
    etag: str  # with its quotes


def edition(document: Document) -> Edition:
    """Prepare a document for sending."""
    etag = f'"v{document.version}-{document.checksum[:12]}"'
    return Edition(CompiledDocument(document), document.to_json(), etag)


class Feed:
    """The newest edition; used on one event loop."""

    def __init__(self, first: Edition) -> None:
        self.newest = first
        self._replaced = asyncio.Event()

    def publish(self, newest: Edition) -> None:
        """Put a new edition out and wake every long poll."""
        self.newest = newest
        self._replaced, replaced = asyncio.Event(), self._replaced
        replaced.set()

    def replaced(self) -> asyncio.Event:
        """Return the event that is set once the newest edition is no longer the newest."""
        return self._replaced
