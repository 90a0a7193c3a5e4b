"""One connection of a server that a benchmark runs beside what it measures: whole requests, as cheap as can be."""
from __future__ import annotations

import asyncio

import httptools


class Served(asyncio.Protocol):
    """A subclass answers in `requested`; requests of a connection come one after the other."""

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._body: list[bytes] = []
        self._url = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._url = url

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        body = b"".join(self._body)
        self._body.clear()
        self.requested(self._url, body)

    def requested(self, url: bytes, body: bytes) -> None:
        raise NotImplementedError

    def write(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[attr-defined]
