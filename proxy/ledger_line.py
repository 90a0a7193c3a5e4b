"""The worker's line to the ledger: operations leave in the order they came, in batches, until the ledger took them.

Whoever asked for an answer hears at once that the ledger is away; what is only told to it waits, kept on the disk.
"""
from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any

import msgspec

from farthing.errors import LedgerError, UpstreamError
from proxy.backlog import Backlog, Operation
from proxy.upstream import Client, NotSentError, Timeouts

log = logging.getLogger(__name__)

_BATCH = 512  # operations in one request to the ledger
_TIMEOUTS = Timeouts(connect=1.0, headers=5.0, between=5.0)
_RETRY_S = 0.5  # seconds between attempts to hand operations over
_GATHER_S = 0.002  # that what nobody waits for may wait for more of its kind: a request of its own costs 100 µs
_HEADERS = (("content-type", "application/json"),)
_KEPT = ("settle", "draw", "charge", "retire")  # what must not be lost; the others are of use to a living worker alone

Answered = Callable[[Any], None]


class RefusedError(LedgerError):
    """The ledger is there and will never take these operations: one of them is malformed."""


class Waiting(msgspec.Struct, eq=False):
    """One operation that the ledger has not answered yet."""

    operation: Operation
    answer: asyncio.Future[Any] | None = None  # somebody waits for it, and hears at once of a ledger that is away
    then: Answered | None = None  # told of the answer, whenever it comes
    is_kept: bool = False  # it is in the backlog
    slot: int = 0  # where its call is kept until the ledger or the backlog has it; 0: nowhere


class LedgerLine:
    """Hands operations over for one worker."""

    def __init__(self, client: Client, url: str, backlog: Backlog, told: Callable[[int], None]) -> None:
        self._client = client
        self._url = url
        self._backlog = backlog
        self._told = told  # of a slot that is not needed any more
        self._queue: deque[Waiting] = deque()
        self._alone = 0  # operations to send one by one, because a batch with them was refused
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None  # that starts the task
        self._is_pressing = False  # something has come that may not wait for more
        self.is_away = False  # the ledger did not answer the last time
        self.heard_s = time.monotonic()  # when it last answered

    @property
    def waiting(self) -> int:
        """Operations that the ledger has not answered yet."""
        return len(self._queue)

    def put(self, waiting: Waiting) -> None:
        """Send an operation with the next batch, at once."""
        self._queue_up(waiting)
        self._is_pressing = True
        self._start()

    def put_soon(self, waiting: Waiting) -> None:
        """Send an operation that nobody waits for, with what else comes in the next moment."""
        self._queue_up(waiting)
        self._start_soon()

    def _queue_up(self, waiting: Waiting) -> None:
        self._queue.append(waiting)
        if self.is_away and not waiting.is_kept:
            self._keep([waiting])

    def _start(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())

    def _start_soon(self) -> None:
        if self._timer is None and (self._task is None or self._task.done()):
            self._timer = asyncio.get_running_loop().call_later(_GATHER_S, self._start)

    async def drain(self, seconds: float) -> None:
        """Wait until the ledger has taken everything, at most `seconds`; the backlog has what it has not."""
        deadline = asyncio.get_running_loop().time() + seconds
        while self._queue and not self.is_away and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.02)
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._keep(self._queue)
        await self._backlog.sync()
        self._backlog.close()

    async def _work(self) -> None:
        while self._queue:
            batch = list(islice(self._queue, 1 if self._alone else _BATCH))
            self._is_pressing = len(batch) < len(self._queue)
            try:
                results = await self._post([waiting.operation for waiting in batch])
            except RefusedError as error:
                self._set_apart(batch, error)
            except (UpstreamError, LedgerError) as error:
                self.is_away = True
                self._refuse_asked(batch, error)
                self._keep(self._queue)
                await self._backlog.sync()
                await asyncio.sleep(_RETRY_S)
            else:
                self.is_away, self.heard_s = False, time.monotonic()
                self._answer(results)
                if self._queue and not self._is_pressing:
                    self._timer = asyncio.get_running_loop().call_later(_GATHER_S, self._start)
                    return
        self._backlog.all_taken()

    async def _post(self, operations: list[Operation]) -> list[Any]:
        body = msgspec.json.encode(operations)
        response = await self._client.request("POST", self._url, body, _HEADERS, _TIMEOUTS)
        answer = await response.read()
        if response.status != 200:
            said = f"the ledger answered {response.status}: {answer[:300].decode('utf-8', 'replace')}"
            raise RefusedError(said) if response.status in (400, 413) else LedgerError(said)
        try:
            results = msgspec.json.decode(answer, type=list[Any])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise LedgerError(f"the ledger's answer cannot be read: {error}") from None
        if len(results) != len(operations):
            raise LedgerError(f"the ledger answered {len(results)} of {len(operations)} operations")
        return results

    def _answer(self, results: list[Any]) -> None:
        self._alone = max(0, self._alone - 1)
        for result in results:
            waiting = self._queue.popleft()
            self._told(waiting.slot)
            if waiting.then is not None:
                waiting.then(result)
            if waiting.answer is not None and not waiting.answer.done():
                waiting.answer.set_result(result)

    def _set_apart(self, batch: list[Waiting], error: RefusedError) -> None:
        """Find the operation that the ledger will not take and leave it out, so that the others are not held up."""
        if len(batch) > 1:
            self._alone = len(batch)
            return
        self._alone = max(0, self._alone - 1)
        waiting = self._queue.popleft()
        self._told(waiting.slot)
        log.error("ledger: %s refused for good: %s", waiting.operation["op"], error)
        if waiting.then is not None:
            waiting.then({})
        if waiting.answer is not None and not waiting.answer.done():
            waiting.answer.set_exception(LedgerError(str(error)))

    def _refuse_asked(self, batch: list[Waiting], error: Exception) -> None:
        """The ledger is away: whoever waits hears of it now, the others' operations stay."""
        log.warning("ledger: %s; %d operations wait", error, len(self._queue))
        sent = 0 if isinstance(error, NotSentError) else len(batch)
        kept: deque[Waiting] = deque()
        for number, waiting in enumerate(self._queue):
            if waiting.answer is None:
                kept.append(waiting)
                continue
            if number < sent:  # it may have reached the ledger; settling it at 0 frees it without a double charge
                kept.append(Waiting(settled(waiting.operation["request_id"], 0)))
            if not waiting.answer.done():
                waiting.answer.set_exception(LedgerError(str(error)))
        self._queue = kept

    def _keep(self, some: deque[Waiting] | list[Waiting]) -> None:
        lost = [one for one in some if not one.is_kept and one.operation["op"] in _KEPT]
        if lost:
            self._backlog.keep([one.operation for one in lost])
        for one in lost:
            one.is_kept = True
            self._told(one.slot)
            one.slot = 0


def settled(request_id: str, actual_nusd: int) -> Operation:
    """Return the operation that charges a hold of the ledger's own."""
    return {"op": "settle", "request_id": request_id, "attempt": 0, "actual_nusd": actual_nusd}
