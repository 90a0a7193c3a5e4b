"""Redis or Valkey behind the caches, shared by all proxies that have the same hash key.

Away means miss, and costs nothing: after one failure nothing is asked until a probe in the background is answered, and
a request waits for it no longer than its timeout. Writes are never in a request's way.
"""
from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

from farthing.errors import SettingsError

log = logging.getLogger(__name__)

_CONNECT_S = 1.0
_PROBES_S = (0.5, 1.0, 2.0, 5.0)  # between two probes; then the last one again and again
_WAITING = 1000  # entries to be written; more are dropped
_PREFIX = "farthing:cache:"
_CONNECTIONS = 16


class SharedCache:
    """One worker's way to the server."""

    def __init__(self, url: str, timeout_s: float = 5.0) -> None:
        """Read the address; `timeout_s` is what a look-up may take.

        Raises:
            SettingsError: it is none, or the client library is missing.
        """
        try:
            from redis import asyncio as redis
            from redis.exceptions import RedisError
        except ImportError:
            message = "cache_redis_url is set, and the client for it is missing; pip install 'farthing[redis]'"
            raise SettingsError(message) from None
        self._failures = (RedisError, OSError, TimeoutError)
        try:
            pool = redis.BlockingConnectionPool.from_url(
                url, max_connections=_CONNECTIONS, timeout=timeout_s, socket_connect_timeout=_CONNECT_S,
                socket_timeout=_CONNECT_S,
            )  # fmt: skip
        except ValueError as error:
            raise SettingsError(f"cache_redis_url: {error}; write redis://[:password@]host:6379/0") from None
        self._timeout_s = timeout_s
        self._redis = redis.Redis(connection_pool=pool)
        self._queue: deque[tuple[str, bytes, float]] = deque()
        self._writer: asyncio.Task[None] | None = None
        self._prober: asyncio.Task[None] | None = None
        self.is_away = True
        self.hits = self.misses = self.failures = self.damaged = self.dropped = 0

    def start(self) -> None:
        self._prober = asyncio.create_task(self._probe())

    async def many(self, names: Sequence[str]) -> dict[str, bytes]:
        """Return what is there of `names`; nothing where the server is away."""
        if self.is_away:
            return {}
        try:
            async with asyncio.timeout(self._timeout_s):
                values = await self._redis.mget([_PREFIX + name for name in names])
        except self._failures as error:
            self._failed(error)
            return {}
        found = {name: value for name, value in zip(names, values, strict=True) if isinstance(value, bytes)}
        self.hits += len(found)
        self.misses += not found
        return found

    def put(self, name: str, data: bytes, ttl_s: float) -> None:
        """Keep an entry for `ttl_s`; returns at once."""
        if self.is_away or len(self._queue) >= _WAITING:
            self.dropped += 1
            return
        self._queue.append((name, data, ttl_s))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())

    def drop(self, name: str) -> None:
        """Count an entry that is not what it should be; the answer that is fetched in its place replaces it."""
        self.damaged += 1

    async def close(self) -> None:
        """Write what waits, for a moment, and stop."""
        if self._writer is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._writer, _CONNECT_S)
        if self._prober is not None:
            self._prober.cancel()
            await asyncio.gather(self._prober, return_exceptions=True)
        await self._redis.aclose()
        await self._redis.connection_pool.disconnect()

    async def _write(self) -> None:
        while self._queue and not self.is_away:
            name, data, ttl_s = self._queue.popleft()
            try:
                async with asyncio.timeout(_CONNECT_S):
                    await self._redis.set(_PREFIX + name, data, px=max(1, round(ttl_s * 1000)))
            except self._failures as error:
                self.dropped += 1
                self._failed(error)
        self.dropped += len(self._queue)
        self._queue.clear()

    def _failed(self, error: Exception) -> None:
        self.failures += 1
        if not self.is_away:
            log.warning("cache: Redis failed (%s); it is left alone until it answers again", type(error).__name__)
            self.is_away = True
            self._prober = asyncio.create_task(self._probe())

    async def _probe(self) -> None:
        """Ask until it answers."""
        waits = iter(_PROBES_S)
        while True:
            try:
                async with asyncio.timeout(_CONNECT_S):
                    await self._redis.ping()
            except self._failures:
                await asyncio.sleep(next(waits, _PROBES_S[-1]))
            else:
                self.is_away = False
                return
