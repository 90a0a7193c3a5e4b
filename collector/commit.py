"""Group commit: all bodies that arrive while the disk syncs share the next sync, and each sender waits for its own.

A body seen before, in flight or stored, is acknowledged with the first one and not written again: a client that lost
our 200 sends the same bytes once more.
"""
from __future__ import annotations

import asyncio
import time
from collections import OrderedDict

from collector.spool import DIGESTS_KEPT_S, SEGMENT_BYTES, Spool
from farthing.warehouse import segment as record

REMEMBERED_S = DIGESTS_KEPT_S  # seconds that a body is remembered
REMEMBERED = 200_000  # bodies remembered at most


class GroupCommit:
    """Takes bodies from many requests and writes them to one spool."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        before = spool.recent_digests(REMEMBERED_S)
        self._seen: OrderedDict[bytes, float] = OrderedDict.fromkeys(before, time.monotonic())
        self._in_flight: dict[bytes, asyncio.Future[None]] = {}
        self._waiting: list[tuple[bytes, asyncio.Future[None], bytes]] = []
        self._task: asyncio.Task[None] | None = None
        self.duplicates = 0  # bodies acknowledged without being written again

    async def put(self, tenant: str, body: bytes) -> bool:
        """Return once `body` is on the disk; False where it had been stored before.

        Raises:
            SpoolFullError: it could not be written; nothing was kept.
        """
        body_digest = record.digest(tenant, body)
        if self._is_stored(body_digest):
            self.duplicates += 1
            return False
        first = self._in_flight.get(body_digest)
        if first is not None:
            self.duplicates += 1
            await asyncio.shield(first)
            return False
        await asyncio.shield(self._enqueue(tenant, body, body_digest))
        return True

    def _enqueue(self, tenant: str, body: bytes, body_digest: bytes) -> asyncio.Future[None]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        framed = record.frame(tenant, body, time.time_ns() // 1_000_000, body_digest)
        self._in_flight[body_digest] = done
        self._waiting.append((framed, done, body_digest))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._write_waiting())
        return done

    async def _write_waiting(self) -> None:
        while self._waiting:
            batch = self._next_batch()
            error: Exception | None = None
            try:
                await asyncio.to_thread(self._spool.append, [framed for framed, _, _ in batch])
            except Exception as raised:  # noqa: BLE001 - whatever it was, every waiting sender must hear of it
                error = raised.with_traceback(None)  # it would hold this frame, which holds the bodies
            for _, done, body_digest in batch:
                self._resolve(done, body_digest, error)

    def _next_batch(self) -> list[tuple[bytes, asyncio.Future[None], bytes]]:
        """Take what fits into one segment; a spool that refuses a batch refuses no more than that."""
        size = taken = 0
        while taken < len(self._waiting) and (not taken or size + len(self._waiting[taken][0]) <= SEGMENT_BYTES):
            size += len(self._waiting[taken][0])
            taken += 1
        batch, self._waiting = self._waiting[:taken], self._waiting[taken:]
        return batch

    def _resolve(self, done: asyncio.Future[None], body_digest: bytes, error: Exception | None) -> None:
        self._in_flight.pop(body_digest, None)
        if error is None:
            self._seen[body_digest] = time.monotonic()
            if not done.done():
                done.set_result(None)
        elif not done.done():
            done.set_exception(error)
            done.exception()  # a sender that has gone does not read it

    def _is_stored(self, body_digest: bytes) -> bool:
        now = time.monotonic()
        while self._seen and (len(self._seen) > REMEMBERED or now - next(iter(self._seen.values())) > REMEMBERED_S):
            self._seen.popitem(last=False)
        return body_digest in self._seen
