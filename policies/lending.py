"""How leases are granted, drawn on, recalled and expired: the ledger's rules for what workers hold in advance.

A lease is a convenience of the worker and never a reason to refuse: before a reservation is refused for want of what
other workers hold in advance, they are asked to give it back, and while a budget is that tight nothing of it is lent.
"""
from __future__ import annotations

from collections.abc import Iterable

from farthing.policy.periods import NS_PER_S
from policies.balance import Balance
from policies.journal import opened_row
from policies.lease import LeaseRow
from policies.memory import Memory
from policies.operations import Correct, Draw, Lease, Leased
from policies.tables import lease_corrections

SHARE = 4  # the part of a budget's room that one grant may take is 1/SHARE
TIGHT_NS = NS_PER_S  # after a reservation that did not fit, nothing is lent for so long
RECALL_NS = 2 * NS_PER_S  # a worker that has not answered a recall by then is not waited for


def repeated(last: LeaseRow | None, asked: Lease) -> Leased | None:
    """Return the answer to a change that was made before, else None."""
    if last is None or asked.number > last.number:
        return None
    granted = last.granted_nusd if asked.number == last.number else 0
    return Leased(granted, last.balance.period.name, last.balance.period.end_ns)


def give_back(memory: Memory, lease: LeaseRow, asked: Lease, now: int) -> None:
    """Take back what a worker does not need."""
    lease.give_back(asked.back_nusd)
    if asked.is_answer:
        lease.answered_ns = now
    _changed(memory, lease, asked.number, 0, now)


def grant(memory: Memory, lease: LeaseRow, asked: Lease, now: int) -> Leased:
    """Lend a worker what it wants, as far as there is room."""
    amount = _lendable(lease.balance, asked, now)
    if amount:
        lease.grant(amount)
        _changed(memory, lease, asked.number, amount, now)
    return Leased(amount, lease.balance.period.name, lease.balance.period.end_ns)


def _lendable(balance: Balance, asked: Lease, now: int) -> int:
    if balance.is_suspended or now < balance.tight_until_ns:
        return 0
    if not balance.hard:
        return asked.want_nusd
    amount = min(asked.want_nusd, balance.free_nusd // SHARE)
    return amount if amount >= asked.least_nusd else 0


def _changed(memory: Memory, lease: LeaseRow, number: int, granted: int, now: int) -> None:
    lease.number, lease.granted_nusd, lease.renewed_ns = number, granted, now
    memory.last[lease.worker, lease.balance.budget] = lease
    if memory.leases_due_ns is None:
        memory.leases_due_ns = now
    _touch(memory, lease)


def _touch(memory: Memory, lease: LeaseRow) -> None:
    memory.touched_leases[lease.key] = lease
    memory.leases[lease.key] = lease  # what is empty leaves once it is written
    memory.touch(lease.balance)


def renew(memory: Memory, worker: str, now: int) -> int:
    """Keep a worker's leases from expiring; return how many it has."""
    mine = [lease for lease in memory.leases.values() if lease.worker == worker and lease.leased_nusd]
    for lease in mine:
        lease.renewed_ns = now
        memory.touched_leases[lease.key] = lease
    return len(mine)


def retire(memory: Memory, worker: str, now: int) -> int:
    """Take back all that a worker that has died did not spend; return how much that is."""
    returned = 0
    for lease in [lease for lease in memory.leases.values() if lease.worker == worker]:
        left = lease.leased_nusd + lease.charged_nusd
        lease.give_back(left)
        _changed(memory, lease, lease.number, 0, now)
        returned += left
    return returned


def correct(memory: Memory, asked: Correct, now: int) -> int:
    """Take back what is left of the charges of a worker's expired leases, unless it was heard of since."""
    mine = [lease for lease in memory.leases.values() if lease.worker == asked.worker]
    if any(lease.leased_nusd or lease.renewed_ns > asked.heard_ns for lease in mine):
        return 0
    returned = 0
    for lease in [lease for lease in mine if lease.charged_nusd]:
        left = lease.charged_nusd
        lease.give_back(left)
        _touch(memory, lease)
        row = dict(zip(("worker", "budget", "period"), lease.key, strict=True))
        figures = {"at_ns": now, "heard_ns": asked.heard_ns, "returned_nusd": left}
        memory.notes.append((lease_corrections, {**row, **figures}))
        returned += left
    return returned


def draw(memory: Memory, leases: Iterable[LeaseRow], asked: Draw, now: int) -> int:
    """Charge an attempt to the leases that it was reserved from; return the largest overrun."""
    largest = 0
    for lease in leases:
        charged, overrun, was_late = lease.draw(asked.held_nusd, asked.actual_nusd)
        largest = max(largest, overrun)
        _touch(memory, lease)
        key = (asked.request_id, asked.attempt)
        outcome = "expired" if asked.is_guess else "corrected" if was_late else "settled"
        closed = (charged, overrun, outcome, now)
        memory.opened.append(opened_row(key, lease.balance, asked.held_nusd, asked.reserved_ns, closed))
    return largest


def recall(memory: Memory, short: Iterable[Balance], amount_nusd: int, now: int) -> tuple[tuple[str, str], ...]:
    """Return whose leases of which budgets have to come back before a refusal is final; none where it is."""
    balances = list(short)
    if any(not balance.fits(amount_nusd - balance.leased_nusd) for balance in balances):
        return ()
    found: list[tuple[str, str]] = []
    for balance in balances:
        if now >= balance.tight_until_ns:
            balance.tight_since_ns = now
        balance.tight_until_ns = now + TIGHT_NS
        if now - balance.tight_since_ns < RECALL_NS:
            found += [(one.worker, balance.budget) for one in memory.leases.values() if _may_give(one, balance)]
    return tuple(found)


def _may_give(lease: LeaseRow, balance: Balance) -> bool:
    return lease.balance is balance and lease.leased_nusd > 0 and lease.answered_ns < balance.tight_since_ns


def expire(memory: Memory, ttl_ns: int, now: int) -> None:
    """Charge in full what workers hold of which nothing was heard for too long."""
    for lease in list(memory.leases.values()):
        if lease.leased_nusd and lease.renewed_ns + ttl_ns <= now:
            lease.expire()
            _touch(memory, lease)
    open_now = [lease.renewed_ns for lease in memory.leases.values() if lease.leased_nusd]
    memory.leases_due_ns = min(open_now) + ttl_ns if open_now else None
