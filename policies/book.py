"""The ledger's rules over its rows: open holds and balances live in memory, and every change is in the database before
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

from farthing.errors import LedgerError, OverBudgetError
from farthing.policy import Budget, CompiledDocument
from policies.balance import Balance
from policies.journal import Journal, closed_row, opened_row
from policies.memory import Hold, Memory
from policies.operations import HoldId, Operation, Refused, Reserve, Reserved, Result, Settle, Settled
from policies.periods import NS_PER_S, period_at

PRUNE_EVERY_NS = 3600 * NS_PER_S


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
        self._compiled = compiled
        self._hold_ttl_ns = int(hold_ttl_s * NS_PER_S)
        self._clock_ns = clock_ns
        self._journal = Journal(engine)
        self._connection: Connection | None = None
        self._memory: Memory | None = None
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
                results = [self._perform(connection, memory, operation, now) for operation in operations]
                self._write(connection, memory)
            memory.written()
        except BaseException:
            self._forget()
            raise
        return results

    def run_alone(self, operation: Operation) -> Result:
        """Perform one operation; a hold id that was used before is refused instead of raised.

        Raises:
            LedgerError, SQLAlchemyError: as `run`.
        """
        try:
            return self.run([operation])[0]
        except IntegrityError as error:
            if isinstance(operation, Reserve) and self._is_known(operation):
                return _used_before(operation)
            raise LedgerError(f"the database refused {operation!r}: {error.orig}") from error

    def tick(self) -> None:
        """Charge holds that have expired, and let go of what is no longer needed."""
        memory, now = self._memory, self._clock_ns()
        due = None if memory is None else self._next_expiry(memory)
        if memory is None or (due is not None and due <= now):
            self.run([])
        elif now - self._pruned_ns > PRUNE_EVERY_NS:
            self._pruned_ns = now
            memory.prune()

    def adopt(self, compiled: CompiledDocument) -> None:
        """Follow a new document: periods that run take its limits, earlier ones keep theirs."""
        self._compiled = compiled
        try:
            with self._transaction() as (connection, memory):
                memory.current.clear()
                now = self._clock_ns()
                for budget in compiled.document.budgets:
                    self._current(connection, memory, budget, now, create=False)
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
                self._memory = self._load(connection)
            yield connection, self._memory
        self._epoch = epoch

    def _forget(self) -> None:
        self._memory = None
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(SQLAlchemyError):
                connection.close()

    def _is_known(self, operation: Reserve) -> bool:
        with self._transaction() as (connection, _memory):
            return bool(self._journal.lines(connection, (operation.request_id, operation.attempt)))

    def _load(self, connection: Connection) -> Memory:
        memory = Memory()
        for row in self._journal.open_holds(connection):
            key = (row.request_id, row.attempt)
            balance = self._stored(connection, memory, row.budget, row.period)
            earlier = memory.holds.get(key)
            others = earlier.balances if earlier else ()
            memory.holds[key] = Hold(row.held_nusd, row.reserved_ns, (*others, balance))
        return memory

    def _stored(self, connection: Connection, memory: Memory, budget: str, period: str) -> Balance:
        balance = memory.balances.get((budget, period)) or self._journal.balance(connection, budget, period)
        if balance is None:
            raise LedgerError(f"budget {budget!r} has holds in {period!r} but no balance; restore the control database")
        memory.balances[budget, period] = balance
        return balance

    def _current(
        self, connection: Connection, memory: Memory, budget: Budget, now: int, create: bool = True
    ) -> Balance | None:
        """Return the balance of the period that runs; a new period begins with its first reservation."""
        known = memory.current.get(budget.name)
        if known is not None and known.period.holds(now):
            return known
        period = period_at(budget.window, now)
        key = (budget.name, period.name)
        balance = memory.balances.get(key) or self._journal.balance(connection, *key)
        if balance is None and create:
            balance = Balance(budget.name, period, budget.limit_nusd, budget.hard)
        if balance is not None:
            memory.balances[key] = memory.current[budget.name] = balance
            if balance.follow(budget):
                memory.touch(balance)
        return balance

    def _perform(self, connection: Connection, memory: Memory, operation: Operation, now: int) -> Result:
        if isinstance(operation, Reserve):
            return self._reserve(connection, memory, operation, now)
        return self._settle(connection, memory, operation, now)

    def _reserve(self, connection: Connection, memory: Memory, asked: Reserve, now: int) -> Result:
        key, amount = (asked.request_id, asked.attempt), asked.amount_nusd
        held = memory.holds.get(key)
        if held is not None:
            return Reserved(held.names) if held.amount_nusd == amount else _used_before(asked)
        if key in memory.settled:
            return _used_before(asked)
        budgets = self._compiled.budgets(asked.facts)
        found = [self._current(connection, memory, budget, now) for budget in budgets]
        balances = tuple([balance for balance in found if balance is not None])
        short = [balance for balance in balances if not balance.fits(amount)]
        if short:
            return _refused(memory, min(short, key=lambda balance: balance.free_nusd), amount)
        return self._hold(memory, key, Hold(amount, now, balances))

    def _hold(self, memory: Memory, key: HoldId, hold: Hold) -> Result:
        for balance in hold.balances:
            balance.hold(hold.amount_nusd)
            memory.touch(balance)
            memory.opened.append(opened_row(key, balance, hold.amount_nusd, hold.reserved_ns))
        if hold.balances:
            memory.holds[key] = hold
        return Reserved(hold.names)

    def _settle(self, connection: Connection, memory: Memory, asked: Settle, now: int) -> Result:
        key = (asked.request_id, asked.attempt)
        hold = memory.holds.pop(key, None)
        if hold is not None:
            overrun = self._charge(memory, key, hold, asked.actual_nusd, "settled", now)
            memory.remember(key, hold.names)
            return Settled(hold.names, overrun)
        if key in memory.settled:
            return Settled(memory.settled[key])
        return self._correct(connection, memory, asked, now)

    def _charge(self, memory: Memory, key: HoldId, hold: Hold, actual: int, state: str, now: int) -> int:
        overrun = 0
        for balance in hold.balances:
            charge = balance.charge(hold.amount_nusd, actual)
            overrun = max(overrun, charge[1])
            memory.touch(balance)
            memory.closed.append(closed_row(key, balance.budget, charge, state, now))
        return overrun

    def _correct(self, connection: Connection, memory: Memory, asked: Settle, now: int) -> Result:
        """Settle a hold that memory does not know: one that expired, one settled long ago, or none."""
        key = (asked.request_id, asked.attempt)
        lines = self._journal.lines(connection, key)
        overrun = 0
        for line in lines:
            if line.state == "expired":
                balance = self._stored(connection, memory, line.budget, line.period)
                charge = balance.correct(line.charged_nusd, asked.actual_nusd)
                overrun = max(overrun, charge[1])
                memory.touch(balance)
                memory.closed.append(closed_row(key, line.budget, charge, "corrected", now))
        names = tuple(line.budget for line in lines)
        if names:
            memory.remember(key, names)
        return Settled(names, overrun)

    def _next_expiry(self, memory: Memory) -> int | None:
        oldest = next(iter(memory.holds.values()), None)
        return None if oldest is None else oldest.reserved_ns + self._hold_ttl_ns

    def _expire(self, connection: Connection, memory: Memory, now: int) -> None:
        """Charge overdue holds in full: a request whose end was never heard of may have cost that much."""
        while (due := self._next_expiry(memory)) is not None and due <= now:
            key = next(iter(memory.holds))
            hold = memory.holds.pop(key)
            self._charge(memory, key, hold, hold.amount_nusd, "expired", now)
        if memory.closed:  # a settle that follows at once must find these rows
            self._write(connection, memory)
            memory.written()

    def _write(self, connection: Connection, memory: Memory) -> None:
        self._journal.write_balances(connection, memory.touched.values())
        self._journal.write_holds(connection, memory.opened, memory.closed)


def _refused(memory: Memory, short: Balance, asked_nusd: int) -> Refused:
    short.refused += 1
    memory.touch(short)
    error = OverBudgetError(short.budget, short.configured_nusd, short.free_nusd, asked_nusd)
    return Refused(short.budget, short.configured_nusd, short.free_nusd, asked_nusd, str(error))


def _used_before(asked: Reserve) -> Refused:
    message = (
        f"hold {asked.request_id!r}, attempt {asked.attempt}, was used before with other figures or is settled; "
        "reserve a new attempt"
    )
    return Refused("", 0, 0, asked.amount_nusd, message)
