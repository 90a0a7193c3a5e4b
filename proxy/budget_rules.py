"""What a budget says of a call before any money is looked at: is it suspended, may one call cost so much."""
from __future__ import annotations

from collections.abc import Iterable

from farthing.money import format_usd
from farthing.policy import Budget
from proxy.api_error import ApiError


def refuse_suspended(budgets: Iterable[Budget]) -> None:
    """Refuse a call that a suspended budget holds.

    Raises:
        ApiError: 403.
    """
    for budget in budgets:
        if budget.suspended:
            owner = f" ({budget.owner})" if budget.owner else ""
            message = f"budget {budget.name!r} is suspended; ask its owner{owner} to resume it"
            raise ApiError(403, "budget_suspended", message)


def refuse_unapproved(budget: str) -> None:
    """Refuse a call of a budget that somebody has to approve before more of it is spent; empty: there is none.

    Raises:
        ApiError: 403.
    """
    if budget:
        message = f"budget {budget!r} needs approval before more of it is spent; `farthing budget approve {budget}`"
        raise ApiError(403, "approval_required", message)


def refuse_dear(budgets: Iterable[Budget], amount_nusd: int) -> None:
    """Refuse a call that may cost more than one of its budgets allows a single call.

    Raises:
        ApiError: 400.
    """
    for budget in budgets:
        if budget.per_request_nusd is not None and amount_nusd > budget.per_request_nusd:
            message = (
                f"this call may cost up to {format_usd(amount_nusd)}, and budget {budget.name!r} allows "
                f"{format_usd(budget.per_request_nusd)} a call; ask for less (max_tokens) or send less"
            )
            raise ApiError(400, "request_too_dear", message, param="max_tokens")
