"""Group commit: all bodies that arrive while the disk syncs share the next sync, and each sender waits for its own.

A body seen before, in flight or stored, is acknowledged with the first one and not written again: a client that lost
our 200 sends the same bytes once more.
"""
from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass

from collector.spool import DIGESTS_KEPT_S, SEGMENT_SPANS, Spool
from farthing.warehouse import segment as record

REMEMBERED_S = DIGESTS_KEPT_S  # seconds that a body is remembered
REMEMBERED = 200_000  # bodies remembered at most
BATCH_BYTES = 8 * 1024 * 1024  # bytes that are written at once; they are held twice meanwhile


@dataclass(frozen=True)
class _Waiting:
    """A body that is on its way to the disk."""

    framed: bytes
    digest: bytes
    spans: int
    done: asyncio.Future[None]


class GroupCommit:
    """Takes bodies from many requests and writes them to one spool."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        before = spool.recent_digests(REMEMBERED_S)
        self._seen: OrderedDict[bytes, float] = OrderedDict.fromkeys(before, time.monotonic())
        self._in_flight: dict[bytes, asyncio.Future[None]] = {}
        self._waiting: list[_Waiting] = []
        self._task: asyncio.Task[None] | None = None
        self.duplicates = 0  # bodies acknowledged without being written again

    async def put(self, tenant: str, body: bytes, spans: int = 0) -> bool:
        """Return once `body`, of so many spans, is on the disk; False where it had been stored before.

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
        await asyncio.shield(self._enqueue(tenant, body, body_digest, spans))
        return True

    def _enqueue(self, tenant: str, body: bytes, body_digest: bytes, spans: int) -> asyncio.Future[None]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        framed = record.frame(tenant, body, time.time_ns() // 1_000_000, body_digest)
        self._in_flight[body_digest] = done
        self._waiting.append(_Waiting(framed, body_digest, spans, done))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._write_waiting())
        return done

    async def _write_waiting(self) -> None:
        while self._waiting:
            batch = self._next_batch()
            error: Exception | None = None
            try:
                spans = sum(one.spans for one in batch)
                await asyncio.to_thread(self._spool.append, [one.framed for one in batch], spans)
            except Exception as raised:  # noqa: BLE001 - whatever it was, every waiting sender must hear of it
                error = raised.with_traceback(None)  # it would hold this frame, which holds the bodies
            for one in batch:
                self._resolve(one.done, one.digest, error)

    def _next_batch(self) -> list[_Waiting]:
        """Take what is written at once; a spool that refuses a batch refuses no more than that."""
        size = spans = taken = 0
        for one in self._waiting:
            size, spans = size + len(one.framed), spans + one.spans
            if taken and (size > BATCH_BYTES or spans > SEGMENT_SPANS):
                break
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
