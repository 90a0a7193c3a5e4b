"""What can be asked of the ledger, and what it answers; the same records in Python and in JSON."""
from __future__ import annotations

from typing import Annotated

import msgspec

from farthing.errors import LedgerError
from farthing.policy import Facts

MAX_OPERATION_NUSD = 10**15  # a million USD for one request; sums of such amounts stay within 64 bits
MAX_ATTEMPT = 10**6

RequestId = Annotated[str, msgspec.Meta(pattern=r"^[!-~]{1,200}\Z")]  # printable ASCII
Attempt = Annotated[int, msgspec.Meta(ge=0, le=MAX_ATTEMPT)]
Nusd = Annotated[int, msgspec.Meta(ge=0, le=MAX_OPERATION_NUSD)]
WorkerId = Annotated[str, msgspec.Meta(pattern=r"^[!-~]{1,100}\Z")]
Seconds = Annotated[int, msgspec.Meta(ge=0, le=7 * 86_400)]
Number = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Instant = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]  # Unix time, nanoseconds
Place = tuple[str, str]  # a budget and one of its periods


class Reserve(msgspec.Struct, frozen=True, tag="reserve", tag_field="op", forbid_unknown_fields=True):
    """Hold the most that one attempt of a request may cost, in every budget that its facts fall into, or in none."""

    request_id: RequestId
    attempt: Attempt  # a retry or a fallback is an attempt of its own
    amount_nusd: Nusd  # upper bound of the bill
    facts: Facts
    lifetime_s: Seconds = 0  # after which it is charged in full; 0: as long as any hold


class Settle(msgspec.Struct, frozen=True, tag="settle", tag_field="op", forbid_unknown_fields=True):
    """Turn a hold into a charge of what the attempt really cost; 0 releases it."""

    request_id: RequestId
    attempt: Attempt
    actual_nusd: Nusd


class Lease(msgspec.Struct, frozen=True, tag="lease", tag_field="op", forbid_unknown_fields=True):
    """Change what a worker holds of one budget in advance: give back what it does not need, ask for more.

    A worker sends the next for a budget once the last is answered; one with the number of the last is a repeat.
    """

    worker: WorkerId  # one life of one process
    number: Number  # counts up, for each worker and budget
    budget: str
    period: str = ""  # the one that the lease belongs to; empty: there is none yet
    back_nusd: Nusd = 0
    want_nusd: Nusd = 0
    least_nusd: Nusd = 0  # less than this is of no use
    is_answer: bool = False  # to a recall: nothing is left of it but what calls under way may cost


class Renew(msgspec.Struct, frozen=True, tag="renew", tag_field="op", forbid_unknown_fields=True):
    """Say that a worker lives: none of its leases expires for as long again."""

    worker: WorkerId


class Draw(msgspec.Struct, frozen=True, tag="draw", tag_field="op", forbid_unknown_fields=True):
    """Charge what an attempt cost that was reserved out of leases."""

    worker: WorkerId
    request_id: RequestId
    attempt: Attempt
    held_nusd: Nusd
    actual_nusd: Nusd
    places: tuple[Place, ...]  # of the leases, in order of budget
    reserved_ns: Instant
    is_guess: bool = False  # its worker died under it: the most that it can have cost, until its usage is known


class Retire(msgspec.Struct, frozen=True, tag="retire", tag_field="op", forbid_unknown_fields=True):
    """Say that a worker has died and that its calls have all been told of: what is left of its leases was not spent."""

    worker: WorkerId


class Correct(msgspec.Struct, frozen=True, tag="correct", tag_field="op", forbid_unknown_fields=True):
    """Take back what is left of the charges of a lost worker's leases: its calls that are known have been drawn."""

    worker: WorkerId
    heard_ns: Instant  # it was last heard of; nothing is taken back of a worker that was heard of since


class Charge(msgspec.Struct, frozen=True, tag="charge", tag_field="op", forbid_unknown_fields=True):
    """Charge what an attempt cost that was let through without a hold, because the ledger was away."""

    request_id: RequestId
    attempt: Attempt
    actual_nusd: Nusd
    facts: Facts
    at_ns: Instant  # when it was let through


class TopUp(msgspec.Struct, frozen=True, tag="top-up", tag_field="op", forbid_unknown_fields=True):
    """Raise a budget's limit in the window that runs, and in no other; by nothing: approve that it is spent on."""

    budget: str
    amount_nusd: Nusd
    author: str
    reason: str


class Reserved(msgspec.Struct, frozen=True):
    """The amount is held, durably, in each of `budgets`."""

    budgets: tuple[str, ...]
    ok: bool = True


class Settled(msgspec.Struct, frozen=True):
    """The cost is charged, durably, to each of `budgets`; none where no such hold is known."""

    budgets: tuple[str, ...]
    overrun_nusd: int = 0  # the most by which the cost exceeded what a budget could still take
    ok: bool = True


class Refused(msgspec.Struct, frozen=True):
    """Nothing is held."""

    budget: str  # the one with the least room; empty where the hold's id was already used
    limit_nusd: int
    free_nusd: int
    asked_nusd: int
    message: str
    ok: bool = False
    # workers that were asked to give a budget's lease back; ask again while there are any
    recalled: tuple[tuple[str, str], ...] = ()


class Leased(msgspec.Struct, frozen=True):
    """What was added to a lease, durably; 0 where the budget has no room to lend, or is not there."""

    granted_nusd: int
    period: str = ""
    end_ns: int | None = None  # the period's; None: never ends
    ok: bool = True


class Renewed(msgspec.Struct, frozen=True):
    """The worker's leases are good for as long again."""

    leases: int
    ok: bool = True


class Retired(msgspec.Struct, frozen=True):
    """What came back of a dead worker's leases, over all its budgets; nothing is lent to it any more."""

    returned_nusd: int
    ok: bool = True


class Corrected(msgspec.Struct, frozen=True):
    """What came back of a lost worker's leases, over all its budgets; nothing is lent to it any more."""

    returned_nusd: int
    ok: bool = True


class ToppedUp(msgspec.Struct, frozen=True):
    """What was granted on top of a budget's limit in the period that runs, all told."""

    granted_nusd: int
    period: str
    ok: bool = True


OfWorkers = Reserve | Settle | Lease | Renew | Draw | Charge | Retire  # what a proxy may ask for
Operation = OfWorkers | TopUp | Correct
Result = Reserved | Settled | Refused | Leased | Renewed | Retired | Corrected | ToppedUp
HoldId = tuple[str, int]  # request id and attempt


_AMOUNTS = ("amount_nusd", "actual_nusd", "held_nusd", "back_nusd", "want_nusd")


def check(operation: Operation) -> None:
    """Refuse an operation whose numbers the ledger cannot hold; JSON is checked when it is decoded.

    Raises:
        LedgerError: names the value and what is allowed.
    """
    for name in _AMOUNTS:
        amount = getattr(operation, name, 0)
        if not 0 <= amount <= MAX_OPERATION_NUSD:
            raise LedgerError(f"amount {amount!r} nUSD: allowed is 0 to {MAX_OPERATION_NUSD}")
    if isinstance(operation, (Lease, Renew, Retire, Correct, TopUp)):
        return
    if not operation.request_id or not 0 <= operation.attempt <= MAX_ATTEMPT:
        raise LedgerError(f"hold {operation.request_id!r}, {operation.attempt!r}: give a request id and an attempt")
