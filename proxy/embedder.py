"""Embeds texts through the proxy's own embeddings route, for the semantic cache.

Each is a call like any other, with the caller's key and tags: admitted, held, charged, cached, gathered and recorded.
Whatever goes wrong means no vector, and after a few failures in a row nobody waits for a while.
"""
from __future__ import annotations

import base64
import logging
import struct
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import TypeVar

import msgspec

from farthing import semconv
from proxy.http_request import Handler
from proxy.inner import InnerRequest

log = logging.getLogger(__name__)

PURPOSE = "purpose=semantic-cache"  # the tag by which such calls are told from the application's own
_TAGS, _DEADLINE = semconv.HEADER_TAGS.encode(), semconv.HEADER_DEADLINE.encode()
_FAILURES = 3  # in a row
_PAUSE_S = 5.0

Vector = TypeVar("Vector")


class _Datum(msgspec.Struct):
    index: int
    embedding: str | list[float]


class _Answer(msgspec.Struct):
    data: list[_Datum]


_decode = msgspec.json.Decoder(_Answer).decode


class Embedder:
    """Embeds for one worker."""

    def __init__(self, routes: Handler, clock: Callable[[], float] = monotonic) -> None:
        self._routes = routes
        self._clock = clock
        self._failures = 0
        self._paused_until = 0.0
        self.failed = 0

    async def embed(
        self, model: str, texts: Sequence[str], headers: Mapping[bytes, bytes], timeout_s: float,
        read: Callable[[bytes], Vector],
    ) -> list[Vector] | None:  # fmt: skip
        """Return what `read` makes of each text's vector, which it gets as float32, little-endian.

        None where they are not to be had in time, or `read` raises a ValueError.
        """
        if self._clock() < self._paused_until:
            return None
        tags = headers.get(_TAGS, b"")
        given = {
            **headers,
            _TAGS: b"%b,%b" % (tags, PURPOSE.encode()) if tags else PURPOSE.encode(),
            _DEADLINE: b"%d" % max(1, round(timeout_s * 1000)),
        }
        body = {"model": model, "input": list(texts), "encoding_format": "base64"}
        request = InnerRequest("/v1/embeddings", given, msgspec.json.encode(body))
        await self._routes(request)
        vectors = _vectors(request.answered, len(texts), read) if request.status == 200 else None
        if vectors is None:
            self._failed(request)
        else:
            self._failures = 0
        return vectors

    def _failed(self, request: InnerRequest) -> None:
        self.failed += 1
        self._failures += 1
        if self._failures >= _FAILURES:
            self._failures, self._paused_until = 0, self._clock() + _PAUSE_S
            log.warning("semantic cache: no embeddings: %d %s", request.status, request.answered[:200])


def _vectors(body: bytes, count: int, read: Callable[[bytes], Vector]) -> list[Vector] | None:
    try:
        by_index = {datum.index: datum.embedding for datum in _decode(body).data}
        return [read(_packed(by_index[index])) for index in range(count)]
    except (msgspec.DecodeError, KeyError, ValueError, OverflowError, RecursionError):
        return None


def _packed(embedding: str | list[float]) -> bytes:
    """Return base64's own bytes, also of an embedder that knows no base64."""
    if isinstance(embedding, str):
        return base64.b64decode(embedding)
    return struct.pack(f"<{len(embedding)}f", *embedding)
