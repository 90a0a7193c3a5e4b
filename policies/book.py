"""The ledger over its rows: open holds, leases and balances live in memory, and every change is in the database before
`run` returns its results.

One transaction a call. When it fails, memory is thrown away and read anew, so that memory never runs ahead of the rows.
Memory may be trusted because each transaction first proves that no other process has taken the ledger over.
"""
from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from farthing.errors import LedgerError
from farthing.policy import CompiledDocument
from farthing.policy.periods import NS_PER_S
from policies import lending, thresholds
from policies.journal import Journal
from policies.memory import Memory
from policies.operations import Charge, Draw, Operation, Reserve, Result, Settle, Settled
from policies.refusal import used_before
from policies.tables import budget_events
from policies.teller import KEEP_NS, Teller, close

PRUNE_EVERY_NS = 3600 * NS_PER_S
PRUNED_AT_ONCE = 2000  # rows deleted in one transaction, so that no caller waits long for it


class Book:
    """Performs operations for one thread at a time."""

    def __init__(
        self,
        engine: Engine,
        compiled: CompiledDocument,
        hold_ttl_s: float,  # seconds after which an open hold is charged in full
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._engine = engine
        self._hold_ttl_ns = int(hold_ttl_s * NS_PER_S)
        self._clock_ns = clock_ns
        self._journal = Journal(engine)
        self._teller = Teller(self._journal, compiled)
        self._connection: Connection | None = None
        self._memory: Memory | None = None
        self.crossings = 0  # thresholds told of so far
        self._epoch = 0  # 0: the ledger has not been taken over yet
        self._pruned_ns = 0

    def run(self, operations: Sequence[Operation]) -> list[Result]:
        """Perform operations in order, in one transaction; the results hold once this returns.

        Raises:
            LedgerError: another process owns the ledger.
            SQLAlchemyError: the database failed; nothing of the operations was done.
        """
        try:
            with self._transaction() as (connection, memory):
                now = self._clock_ns()
                self._expire(connection, memory, now)
                perform = self._teller.perform
                results = [perform(connection, memory, operation, now) for operation in operations]
                thresholds.cross(self._journal, connection, memory, self._teller.budgets, now)
                self._write(connection, memory)
                told = sum(table is budget_events for table, _ in memory.notes)
            memory.written()
        except BaseException:
            self._forget()
            raise
        self.crossings += told
        return results

    def run_alone(self, operation: Operation) -> Result:
        """Perform one operation; a hold id that was used before is refused instead of raised.

        Raises:
            LedgerError, SQLAlchemyError: as `run`.
        """
        try:
            return self.run([operation])[0]
        except IntegrityError as error:
            names = self._known(operation)
            if names and isinstance(operation, Draw) and not operation.is_guess:  # what was charged may be a guess
                return self.run_alone(Settle(operation.request_id, operation.attempt, operation.actual_nusd))
            if names:
                return used_before(operation) if isinstance(operation, Reserve) else Settled(names)
            raise LedgerError(f"the database refused {operation!r}: {error.orig}") from error

    def tick(self) -> None:
        """Charge holds that have expired, and let go of what is no longer needed."""
        memory, now = self._memory, self._clock_ns()
        due = None if memory is None else self._next_expiry(memory)
        if memory is None or (due is not None and due <= now):
            self.run([])
        elif now - self._pruned_ns > PRUNE_EVERY_NS:
            memory.prune()
            if self._prune_rows(now) < PRUNED_AT_ONCE:
                self._pruned_ns = now

    def adopt(self, compiled: CompiledDocument) -> None:
        """Follow a new document: periods that run take its limits, earlier ones keep theirs."""
        self._teller.follow(compiled)
        try:
            with self._transaction() as (connection, memory):
                memory.current.clear()
                now = self._clock_ns()
                for budget in compiled.document.budgets:
                    self._teller.current(connection, memory, budget, now, create=False)
                self._write(connection, memory)
            memory.written()
        except BaseException:
            self._forget()
            raise

    def close(self) -> None:
        """Let go of the database; what was acknowledged is in it."""
        self._forget()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[tuple[Connection, Memory]]:
        if self._connection is None:
            self._connection = self._engine.connect().execution_options(write=True)
        connection = self._connection
        with connection.begin():
            if self._epoch == 0:
                epoch = self._journal.take_over(connection)
            else:
                epoch = self._epoch
                self._journal.assert_owner(connection, epoch)
            if self._memory is None:
                self._memory = self._teller.load(connection)
            yield connection, self._memory
        self._epoch = epoch

    def _forget(self) -> None:
        self._memory = None
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(SQLAlchemyError):
                connection.close()

    def _known(self, operation: Operation) -> tuple[str, ...]:
        """Return the budgets in whose rows an operation's id is used already."""
        if not isinstance(operation, (Reserve, Draw, Charge)):
            return ()
        with self._transaction() as (connection, _memory):
            lines = self._journal.lines(connection, (operation.request_id, operation.attempt))
        return tuple([line.budget for line in lines])

    def _prune_rows(self, now: int) -> int:
        try:
            with self._transaction() as (connection, _memory):
                return self._journal.forget(connection, now - KEEP_NS, PRUNED_AT_ONCE)
        except BaseException:
            self._forget()
            raise

    def _next_expiry(self, memory: Memory) -> int | None:
        """Return when something may expire next; a lease perhaps later, since workers renew theirs."""
        ends = (self._next_hold_expiry(memory), memory.lasting_due_ns, memory.leases_due_ns)
        return min([one for one in ends if one is not None], default=None)

    def _next_hold_expiry(self, memory: Memory) -> int | None:
        oldest = next(iter(memory.holds.values()), None)
        return None if oldest is None else oldest.reserved_ns + self._hold_ttl_ns

    def _expire(self, connection: Connection, memory: Memory, now: int) -> None:
        """Charge overdue holds and leases in full: what was never heard of again may have cost that much."""
        while (due := self._next_hold_expiry(memory)) is not None and due <= now:
            key = next(iter(memory.holds))
            hold = memory.holds.pop(key)
            close(memory, key, hold, hold.amount_nusd, "expired", now)
        for key in memory.overdue(now):
            hold = memory.lasting.pop(key)
            close(memory, key, hold, hold.amount_nusd, "expired", now)
        if memory.leases_due_ns is not None and memory.leases_due_ns <= now:
            lending.expire(memory, self._hold_ttl_ns, now)
        if memory.closed:  # a settle that follows at once must find these rows
            self._write(connection, memory)
            memory.written()

    def _write(self, connection: Connection, memory: Memory) -> None:
        self._journal.write_balances(connection, memory.touched.values())
        self._journal.write_holds(connection, memory.opened, memory.closed)
        self._journal.write_leases(connection, memory.touched_leases.values())
        self._journal.add(connection, memory.notes)
