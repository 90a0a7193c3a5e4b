"""The ledger's rules, one operation at a time: memory and the transaction in progress in, an answer out.

Nothing here commits. A balance is found in memory, else in its row, else it begins with the budget's first reservation
in a period.
"""
from __future__ import annotations

from collections import OrderedDict
from typing import Any

from sqlalchemy import Connection

from farthing.errors import LedgerError
from farthing.policy import Budget, CompiledDocument
from farthing.policy.periods import NS_PER_S, period_at, slots
from policies import lending
from policies.balance import Balance
from policies.journal import Journal, closed_row, opened_row
from policies.lease import LeaseKey, LeaseRow
from policies.memory import Hold, Memory
from policies.operations import (
    Charge,
    Correct,
    Corrected,
    Draw,
    HoldId,
    Lease,
    Leased,
    Operation,
    Renew,
    Renewed,
    Reserve,
    Reserved,
    Result,
    Retire,
    Retired,
    Settle,
    Settled,
    ToppedUp,
    TopUp,
)
from policies.refusal import over_budget, used_before
from policies.tables import budget_grants

MAX_RETIRED = 1000  # workers
KEEP_NS = 90 * 86_400 * NS_PER_S  # what became of holds is kept for so long, and what came later is no repeat


class Teller:
    """Performs operations under the document that it follows."""

    def __init__(self, journal: Journal, compiled: CompiledDocument) -> None:
        self._journal = journal
        self._retired: OrderedDict[str, None] = OrderedDict()  # what they asked for last may still be on its way
        self.follow(compiled)
        self._acts: dict[type, Any] = {
            Reserve: self._reserve, Settle: self._settle, Lease: self._lease, Renew: self._renew, Draw: self._draw,
            Charge: self._charge_unheld, TopUp: self._top_up, Retire: self._retire, Correct: self._correct_leases,
        }  # fmt: skip

    def follow(self, compiled: CompiledDocument) -> None:
        """Take another document."""
        self._compiled = compiled
        self.budgets = {budget.name: budget for budget in compiled.document.budgets}

    def perform(self, connection: Connection, memory: Memory, operation: Operation, now: int) -> Result:
        """Perform one operation in memory; its changes are written with the transaction's."""
        act: Any = self._acts[type(operation)]
        return act(connection, memory, operation, now)

    def load(self, connection: Connection) -> Memory:
        """Read what is open: holds, leases and their balances."""
        memory = Memory()
        for row in self._journal.open_holds(connection):
            key = (row.request_id, row.attempt)
            balance = self._stored(connection, memory, row.budget, row.period)
            earlier = memory.held(key)
            others = earlier.balances if earlier else ()
            memory.keep(key, Hold(row.held_nusd, row.reserved_ns, (*others, balance), row.expires_ns))
        for row in self._journal.leases(connection):
            self._loaded(connection, memory, row)
        return memory

    def current(
        self, connection: Connection, memory: Memory, budget: Budget, now: int, create: bool = True
    ) -> Balance | None:
        """Return the balance of the period that runs; a new period begins with its first reservation."""
        known = memory.current.get(budget.name)
        if known is not None and known.period.holds(now):
            return known
        balance = self._at(connection, memory, budget, now, create)
        if balance is not None:
            memory.current[budget.name] = balance
            if balance.follow(budget):
                memory.touch(balance)
        return balance

    def _at(
        self, connection: Connection, memory: Memory, budget: Budget, at_ns: int, create: bool = True
    ) -> Balance | None:
        period = period_at(budget.window, at_ns)
        key = (budget.name, period.name)
        balance = memory.balances.get(key) or self._journal.balance(connection, *key)
        if balance is None and create:
            balance = Balance(budget.name, period, budget.limit_nusd, budget.hard)
        if balance is not None:
            memory.balances[key] = balance
            balance.period = period  # the budget may have moved to another time zone since its row was written
            if budget.window.rolling is not None:
                balance.is_past, balance.earlier = False, self._earlier(connection, memory, budget, at_ns)
        return balance

    def _earlier(
        self, connection: Connection, memory: Memory, budget: Budget, at_ns: int
    ) -> tuple[Balance, ...]:
        """Return the slots of a rolling window before the one that runs, as far as anything was spent in them."""
        found: list[Balance] = []
        for period in slots(budget.window, at_ns)[:-1]:
            key = (budget.name, period.name)
            balance = memory.balances.get(key) or self._journal.balance(connection, *key)
            if balance is not None:
                memory.balances[key] = balance
                balance.is_past = True
                found.append(balance)
        return tuple(found)

    def _stored(self, connection: Connection, memory: Memory, budget: str, period: str) -> Balance:
        balance = memory.balances.get((budget, period)) or self._journal.balance(connection, budget, period)
        if balance is None:
            raise LedgerError(f"budget {budget!r} has holds in {period!r} but no balance; restore the control database")
        if (budget, period) not in memory.balances:
            balance.is_past = period.startswith("rolling:")
        memory.balances[budget, period] = balance
        return balance

    def _reserve(self, connection: Connection, memory: Memory, asked: Reserve, now: int) -> Result:
        key, amount = (asked.request_id, asked.attempt), asked.amount_nusd
        held = memory.held(key)
        if held is not None:
            return Reserved(held.names) if held.amount_nusd == amount else used_before(asked)
        if key in memory.settled:
            return used_before(asked)
        budgets = self._compiled.budgets(asked.facts)
        found = [self.current(connection, memory, budget, now) for budget in budgets]
        balances = tuple([balance for balance in found if balance is not None])
        short = [balance for balance in balances if not balance.fits(amount)]
        if short:
            recalled = lending.recall(memory, short, amount, now)
            return over_budget(memory, min(short, key=lambda balance: balance.free_nusd), amount, recalled)
        expires_ns = now + asked.lifetime_s * NS_PER_S if asked.lifetime_s else None
        return self._hold(memory, key, Hold(amount, now, balances, expires_ns))

    def _hold(self, memory: Memory, key: HoldId, hold: Hold) -> Result:
        for balance in hold.balances:
            balance.hold(hold.amount_nusd)
            memory.touch(balance)
            opened = opened_row(key, balance, hold.amount_nusd, hold.reserved_ns, expires_ns=hold.expires_ns)
            memory.opened.append(opened)
        if hold.balances:
            memory.keep(key, hold)
        return Reserved(hold.names)

    def _settle(self, connection: Connection, memory: Memory, asked: Settle, now: int) -> Result:
        key = (asked.request_id, asked.attempt)
        hold = memory.let_go(key)
        if hold is not None:
            overrun = close(memory, key, hold, asked.actual_nusd, "settled", now)
            memory.remember(key, hold.names)
            return Settled(hold.names, overrun)
        if key in memory.settled:
            return Settled(memory.settled[key])
        return self._correct(connection, memory, asked, now)

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

    def _lease(self, connection: Connection, memory: Memory, asked: Lease, now: int) -> Result:
        mine = (asked.worker, asked.budget)
        lease = self._lease_of(connection, memory, (*mine, asked.period)) if asked.period else None
        before = lending.repeated(memory.last.get(mine), asked)
        if before is not None:
            return before
        if lease is not None:
            lending.give_back(memory, lease, asked, now)
        budget = self.budgets.get(asked.budget)
        if not asked.want_nusd or budget is None or asked.worker in self._retired:
            return Leased(0)
        balance = self.current(connection, memory, budget, now)
        assert balance is not None  # it is made where it is missing
        known = self._lease_of(connection, memory, (*mine, balance.period.name))
        return lending.grant(memory, known or LeaseRow(asked.worker, balance), asked, now)

    def _lease_of(self, connection: Connection, memory: Memory, key: LeaseKey) -> LeaseRow | None:
        lease = memory.leases.get(key)
        if lease is None and (row := self._journal.lease(connection, key)) is not None:
            lease = self._loaded(connection, memory, row)
        return lease

    def _loaded(self, connection: Connection, memory: Memory, row: Any) -> LeaseRow:
        balance = self._stored(connection, memory, row.budget, row.period)
        figures = (row.leased_nusd, row.charged_nusd, row.number, row.granted_nusd, row.renewed_ns)
        lease = LeaseRow(row.worker, balance, *figures, stored=True)
        memory.leases[lease.key] = lease
        last = memory.last.get((row.worker, row.budget))
        if last is None or (lease.number, lease.granted_nusd) > (last.number, last.granted_nusd):
            memory.last[row.worker, row.budget] = lease
        return lease

    def _renew(self, _connection: Connection, memory: Memory, asked: Renew, now: int) -> Result:
        return Renewed(lending.renew(memory, asked.worker, now))

    def _retire(self, _connection: Connection, memory: Memory, asked: Retire, now: int) -> Result:
        self._lend_no_more(asked.worker)
        return Retired(lending.retire(memory, asked.worker, now))

    def _correct_leases(self, _connection: Connection, memory: Memory, asked: Correct, now: int) -> Result:
        returned = lending.correct(memory, asked, now)
        if returned:
            self._lend_no_more(asked.worker)
        return Corrected(returned)

    def _lend_no_more(self, worker: str) -> None:
        self._retired[worker] = None
        if len(self._retired) > MAX_RETIRED:
            self._retired.popitem(last=False)

    def _draw(self, connection: Connection, memory: Memory, asked: Draw, now: int) -> Result:
        key = (asked.request_id, asked.attempt)
        if key in memory.settled:
            return Settled(memory.settled[key])
        if asked.reserved_ns < now - KEEP_NS:
            return Settled(())
        found = [self._lease_of(connection, memory, (asked.worker, *place)) for place in asked.places]
        leases = [lease for lease in found if lease is not None]
        overrun = lending.draw(memory, leases, asked, now)
        names = tuple([lease.balance.budget for lease in leases])
        if not asked.is_guess:
            memory.remember(key, names)
        return Settled(names, overrun)

    def _charge_unheld(self, connection: Connection, memory: Memory, asked: Charge, now: int) -> Result:
        """Charge a call that was let through while the ledger was away, in the periods that it was made in."""
        key = (asked.request_id, asked.attempt)
        if key in memory.settled:
            return Settled(memory.settled[key])
        if asked.at_ns < now - KEEP_NS:
            return Settled(())
        overrun, names = 0, list[str]()
        for budget in self._compiled.budgets(asked.facts):
            # a slot that is over can take nothing more; in a rolling window it counts from when it is known
            at_ns = now if budget.window.rolling else min(asked.at_ns, now)
            balance = self._at(connection, memory, budget, at_ns)
            assert balance is not None  # it is made where it is missing
            charge = balance.charge(0, asked.actual_nusd)
            overrun = max(overrun, charge[1])
            memory.touch(balance)
            memory.opened.append(opened_row(key, balance, 0, asked.at_ns, (*charge, "settled", now)))
            names.append(budget.name)
        memory.remember(key, tuple(names))
        return Settled(tuple(names), overrun)

    def _top_up(self, connection: Connection, memory: Memory, asked: TopUp, now: int) -> Result:
        balance = self.current(connection, memory, self.budgets[asked.budget], now)
        assert balance is not None  # it is made where it is missing
        balance.granted_nusd += asked.amount_nusd
        memory.touch(balance)
        place = {"budget": asked.budget, "period": balance.period.name}
        signed = {"author": asked.author, "reason": asked.reason}
        memory.notes.append((budget_grants, {"at_ns": now, "amount_nusd": asked.amount_nusd, **place, **signed}))
        return ToppedUp(balance.granted_nusd, balance.period.name)


def close(memory: Memory, key: HoldId, hold: Hold, actual: int, state: str, now: int) -> int:
    """Turn a hold into a charge in each of its budgets; return the largest overrun."""
    overrun = 0
    for balance in hold.balances:
        charge = balance.charge(hold.amount_nusd, actual)
        overrun = max(overrun, charge[1])
        memory.touch(balance)
        memory.closed.append(closed_row(key, balance.budget, charge, state, now))
    return overrun
