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


class Reserve(msgspec.Struct, frozen=True, tag="reserve", tag_field="op", forbid_unknown_fields=True):
    """Hold the most that one attempt of a request may cost, in every budget that its facts fall into, or in none."""

    request_id: RequestId
    attempt: Attempt  # a retry or a fallback is an attempt of its own
    amount_nusd: Nusd  # upper bound of the bill
    facts: Facts


class Settle(msgspec.Struct, frozen=True, tag="settle", tag_field="op", forbid_unknown_fields=True):
    """Turn a hold into a charge of what the attempt really cost; 0 releases it."""

    request_id: RequestId
    attempt: Attempt
    actual_nusd: Nusd


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


Operation = Reserve | Settle
Result = Reserved | Settled | Refused
HoldId = tuple[str, int]  # request id and attempt


def check(operation: Operation) -> None:
    """Refuse an operation whose numbers the ledger cannot hold; JSON is checked when it is decoded.

    Raises:
        LedgerError: names the value and what is allowed.
    """
    amount = operation.amount_nusd if isinstance(operation, Reserve) else operation.actual_nusd
    if not 0 <= amount <= MAX_OPERATION_NUSD:
        raise LedgerError(f"amount {amount!r} nUSD: allowed is 0 to {MAX_OPERATION_NUSD}")
    if not operation.request_id or not 0 <= operation.attempt <= MAX_ATTEMPT:
        raise LedgerError(f"hold {operation.request_id!r}, {operation.attempt!r}: give a request id and an attempt")
