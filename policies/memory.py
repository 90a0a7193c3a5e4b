"""What the ledger's owner keeps in memory: open holds, balances, and the changes of the transaction in progress."""
from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Table

from policies.balance import Balance
from policies.lease import LeaseKey, LeaseRow
from policies.operations import HoldId

MAX_REMEMBERED = 8192  # settled holds whose repeats are answered without a look into the database


@dataclass(slots=True)
class Hold:
    """An open hold: the same amount in each of its balances."""

    amount_nusd: int
    reserved_ns: int
    balances: tuple[Balance, ...]
    expires_ns: int | None = None  # None: as the settings say

    @property
    def names(self) -> tuple[str, ...]:
        return tuple([balance.budget for balance in self.balances])


@dataclass
class Memory:
    """What the database holds, as far as it is needed, and what the transaction in progress has changed."""

    holds: dict[HoldId, Hold] = field(default_factory=dict)  # those that live as long as any, the oldest first
    lasting: dict[HoldId, Hold] = field(default_factory=dict)  # those that asked for a lifetime of their own
    lasting_due_ns: int | None = None  # none of these expires before; None: there is none
    balances: dict[tuple[str, str], Balance] = field(default_factory=dict)  # by budget and period
    current: dict[str, Balance] = field(default_factory=dict)  # by budget: the one of the period that runs
    settled: OrderedDict[HoldId, tuple[str, ...]] = field(default_factory=OrderedDict)  # the newest last
    touched: dict[tuple[str, str], Balance] = field(default_factory=dict)
    opened: list[tuple[Any, ...]] = field(default_factory=list)
    closed: list[tuple[Any, ...]] = field(default_factory=list)
    leases: dict[LeaseKey, LeaseRow] = field(default_factory=dict)  # all that are not empty
    last: dict[tuple[str, str], LeaseRow] = field(default_factory=dict)  # by worker and budget: changed last
    notes: list[tuple[Table, dict[str, Any]]] = field(default_factory=list)  # rows that are only added
    touched_leases: dict[LeaseKey, LeaseRow] = field(default_factory=dict)
    leases_due_ns: int | None = 0  # no lease expires before; None: there is none

    def touch(self, balance: Balance) -> None:
        self.touched[balance.budget, balance.period.name] = balance

    def held(self, key: HoldId) -> Hold | None:
        return self.holds.get(key) or self.lasting.get(key)

    def keep(self, key: HoldId, hold: Hold) -> None:
        """Keep an open hold."""
        if hold.expires_ns is None:
            self.holds[key] = hold
            return
        self.lasting[key] = hold
        due = self.lasting_due_ns
        self.lasting_due_ns = hold.expires_ns if due is None else min(due, hold.expires_ns)

    def let_go(self, key: HoldId) -> Hold | None:
        """Return a hold that is open no more."""
        return self.holds.pop(key, None) or self.lasting.pop(key, None)

    def overdue(self, now: int) -> list[HoldId]:
        """Return which of those with a lifetime of their own are over; each is to be let go of."""
        if self.lasting_due_ns is None or self.lasting_due_ns > now:
            return []
        ends = [(hold.expires_ns or 0, key) for key, hold in self.lasting.items()]
        self.lasting_due_ns = min([end for end, _ in ends if end > now], default=None)
        return [key for end, key in ends if end <= now]

    def remember(self, key: HoldId, names: tuple[str, ...]) -> None:
        self.settled[key] = names
        if len(self.settled) > MAX_REMEMBERED:
            self.settled.popitem(last=False)

    def written(self) -> None:
        """Forget the changes: they are rows now."""
        for balance in self.touched.values():
            balance.stored = True
        self.touched.clear()
        for lease in self.touched_leases.values():
            lease.stored = True
            if lease.is_empty:
                self.leases.pop(lease.key, None)
        self.touched_leases.clear()
        self.notes.clear()
        self.opened.clear()
        self.closed.clear()

    def prune(self) -> None:
        """Let go of balances of past periods that no open hold points to."""
        needed = [balance for hold in (*self.holds.values(), *self.lasting.values()) for balance in hold.balances]
        needed += [lease.balance for lease in self.leases.values()]
        needed += [slot for balance in self.current.values() for slot in balance.earlier]
        kept = [*self.current.values(), *needed]
        self.leases = {key: lease for key, lease in self.leases.items() if not lease.is_empty}
        self.last = {key: lease for key, lease in self.last.items() if not lease.is_empty}
        self.balances = {(balance.budget, balance.period.name): balance for balance in kept}
