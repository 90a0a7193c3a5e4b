"""Why a reservation is refused, as the ledger tells it."""
from __future__ import annotations

from farthing.errors import OverBudgetError
from policies.balance import Balance
from policies.memory import Memory
from policies.operations import Refused, Reserve


def over_budget(
    memory: Memory, short: Balance, asked_nusd: int, recalled: tuple[tuple[str, str], ...]
) -> Refused:
    """Return the refusal for want of room, which is counted unless it is to be asked again."""
    if not recalled:
        short.refused += 1
        memory.touch(short)
    error = OverBudgetError(short.budget, short.total_nusd, short.free_nusd, asked_nusd)
    figures = (short.budget, short.total_nusd, short.free_nusd, asked_nusd)
    return Refused(*figures, str(error), recalled=recalled)


def used_before(asked: Reserve) -> Refused:
    """Return the refusal of a hold id that is taken."""
    message = (
        f"hold {asked.request_id!r}, attempt {asked.attempt}, was used before with other figures or is settled; "
        "reserve a new attempt"
    )
    return Refused("", 0, 0, asked.amount_nusd, message)
