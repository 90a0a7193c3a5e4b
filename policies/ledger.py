"""The one owner of the ledger: a thread that performs all operations queued since its last commit in one transaction.

Results are released only after that commit is on the disk, so an answer survives any crash. Whatever else writes to the
control database does it on this thread too (`exclusively`): two SQLite writers starve each other.
"""
from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from sqlalchemy import Engine
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from farthing.errors import FarthingError, LedgerError, OverBudgetError
from farthing.policy import CompiledDocument, Facts
from policies.book import Book
from policies.operations import Operation, Refused, Reserve, Reserved, Result, Settle, Settled, check

MAX_BATCH = 512  # operations in one transaction
MAX_WAITING = 20_000  # requests queued before further ones are refused
TICK_S = 1.0  # seconds between looks for expired holds while nothing is asked

Returned = TypeVar("Returned")
Done = Callable[[Any, BaseException | None], None]  # the result, or the error; called on the owner's thread

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Asked:
    operations: Sequence[Operation]
    done: Done


@dataclass(slots=True)
class _Call:
    act: Callable[[], Any]
    done: Done


class Ledger:
    """Reserve and settle from any thread or event loop; `start` before, `close` after."""

    def __init__(
        self,
        engine: Engine,
        compiled: CompiledDocument,
        hold_ttl_s: float,  # seconds after which an open hold is charged in full
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._book = Book(engine, compiled, hold_ttl_s, clock_ns)
        self._queue: SimpleQueue[_Asked | _Call | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="ledger-owner", daemon=True)
        self._is_open = False
        self._releases: WeakKeyDictionary[asyncio.AbstractEventLoop, _Releases] = WeakKeyDictionary()
        self.commits = 0  # transactions so far
        self.failures = 0  # transactions that failed

    @property
    def crossings(self) -> int:
        """Thresholds told of so far."""
        return self._book.crossings

    def start(self) -> None:
        """Take the ledger over and serve.

        Raises:
            LedgerError: the database failed.
        """
        try:
            self._book.run([])
        except SQLAlchemyError as error:
            raise LedgerError(f"the ledger cannot be opened: {error}") from error
        self._is_open = True
        self._thread.start()

    def close(self) -> None:
        """Answer what is queued, then stop."""
        if self._is_open:
            self._is_open = False
            self._queue.put(None)
            self._thread.join()
        self._book.close()

    def submit(self, operations: Sequence[Operation], done: Done) -> None:
        """Queue operations; `done` gets their results in order, on the owner's thread, once they are durable.

        Raises:
            LedgerError: the ledger is closed or has too much waiting, or an amount is not allowed.
        """
        for operation in operations:
            check(operation)
        self._put(_Asked(operations, done))

    async def run(self, operations: Sequence[Operation]) -> list[Result]:
        """Perform operations and wait for their commit."""
        return await self._releases_here().awaited(lambda done: self.submit(operations, done))

    async def exclusively(self, act: Callable[[], Returned]) -> Returned:
        """Run `act` on the owner's thread, between transactions, as the database's only writer."""
        return await self._releases_here().awaited(lambda done: self._put(_Call(act, done)))

    def adopt(self, compiled: CompiledDocument) -> None:
        """Follow a new document from the next operation on; only inside an `act` given to `exclusively`."""
        _, error = _attempted(lambda: self._book.adopt(compiled))
        if error is not None:  # the next transaction reads the rows anew and follows the document then
            log.warning("the ledger will follow version %d with its next transaction: %s", compiled.version, error)

    def reserve(self, request_id: str, attempt: int, facts: Facts, amount_nusd: int) -> tuple[str, ...]:
        """Hold an amount, from a thread that may block; return the budgets that hold it.

        Raises:
            OverBudgetError: it does not fit.
            LedgerError: the ledger cannot answer; nothing may be assumed.
        """
        result = self._wait(Reserve(request_id, attempt, amount_nusd, facts))
        if isinstance(result, Refused):
            if not result.budget:
                raise LedgerError(result.message)
            raise OverBudgetError(result.budget, result.limit_nusd, result.free_nusd, result.asked_nusd)
        assert isinstance(result, Reserved)
        return result.budgets

    def settle(self, request_id: str, attempt: int, actual_nusd: int) -> tuple[str, ...]:
        """Charge the real cost of an attempt, from a thread that may block; return the budgets charged."""
        result = self._wait(Settle(request_id, attempt, actual_nusd))
        return result.budgets if isinstance(result, Settled) else ()

    def _releases_here(self) -> _Releases:
        loop = asyncio.get_running_loop()
        releases = self._releases.get(loop)
        if releases is None:
            releases = self._releases[loop] = _Releases(loop)
        return releases

    def _wait(self, operation: Operation) -> Result:
        future: Future[list[Result]] = Future()
        self.submit([operation], lambda results, error: _resolve(future, results, error))
        return future.result()[0]

    def _put(self, item: _Asked | _Call) -> None:
        if not self._is_open:
            raise LedgerError("the ledger is closed; start the control plane again")
        if self._queue.qsize() >= MAX_WAITING:
            raise LedgerError(f"{MAX_WAITING} requests wait for the ledger already; try again in a second")
        self._queue.put(item)

    def _work(self) -> None:
        stopping = False
        while not stopping:
            batch, call, stopping = self._next()
            if batch:
                self._perform(batch)
            if call is not None:
                _answer(call.done, *_attempted(call.act))
            if not batch and call is None:
                self._tick()
        self._refuse_rest()

    def _next(self) -> tuple[list[_Asked], _Call | None, bool]:
        """Take all that is queued, up to a call, the end or a full batch; wait for the first."""
        batch: list[_Asked] = []
        count = 0
        try:
            item = self._queue.get(timeout=TICK_S)
            while isinstance(item, _Asked):
                batch.append(item)
                count += len(item.operations)
                if count >= MAX_BATCH:
                    return batch, None, False
                item = self._queue.get_nowait()
        except Empty:
            return batch, None, False
        return batch, item, item is None

    def _perform(self, batch: list[_Asked]) -> None:
        operations = [operation for asked in batch for operation in asked.operations]
        results, error = _attempted(lambda: self._book.run(operations))
        self.commits += 1
        if isinstance(error.__cause__ if error else None, (IntegrityError, DataError)):
            self._perform_one_by_one(batch)
            return
        self.failures += error is not None
        start = 0
        for asked in batch:
            end = start + len(asked.operations)
            _answer(asked.done, None if error else results[start:end], error)
            start = end

    def _perform_one_by_one(self, batch: list[_Asked]) -> None:
        """Keep one operation that the database refuses from failing all others of its batch."""
        for asked in batch:
            results, error = _attempted(lambda asked=asked: [self._book.run_alone(op) for op in asked.operations])
            self.commits += len(asked.operations)
            self.failures += error is not None
            _answer(asked.done, results, error)

    def _tick(self) -> None:
        _, error = _attempted(self._book.tick)
        self.failures += error is not None

    def _refuse_rest(self) -> None:
        while not self._queue.empty():
            item = self._queue.get()
            if item is not None:
                _answer(item.done, None, LedgerError("the ledger is closed; start the control plane again"))


def _attempted(act: Callable[[], Any]) -> tuple[Any, FarthingError | None]:
    try:
        return act(), None
    except FarthingError as error:
        return None, error
    except SQLAlchemyError as error:
        failed = LedgerError(f"the control database failed: {error}")
        failed.__cause__ = error
    except Exception as error:
        # the owner must outlive a defect, or every caller waits for ever
        log.exception("the ledger met a defect")
        failed = LedgerError(f"the ledger failed: {error!r}; please report this")
        failed.__cause__ = error
    return None, failed


def _answer(done: Done, result: Any, error: BaseException | None) -> None:
    try:
        done(result, error)
    except Exception:  # a caller that has gone away must not stop the owner
        log.warning("a caller of the ledger could not take its answer", exc_info=True)


def _resolve(future: Any, result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


class _Releases:
    """Hands the answers of one commit to an event loop in one go: waking a loop costs more than an operation does."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._answers: deque[tuple[asyncio.Future[Any], Any, BaseException | None]] = deque()
        self._is_woken = False

    async def awaited(self, begin: Callable[[Done], None]) -> Any:
        future: asyncio.Future[Any] = self._loop.create_future()
        begin(lambda result, error: self._take((future, result, error)))
        return await future

    def _take(self, answer: tuple[asyncio.Future[Any], Any, BaseException | None]) -> None:
        self._answers.append(answer)
        if not self._is_woken:
            self._is_woken = True
            self._loop.call_soon_threadsafe(self._release)

    def _release(self) -> None:
        self._is_woken = False  # before the answers are taken: one that comes later wakes the loop again
        while self._answers:
            _resolve(*self._answers.popleft())
