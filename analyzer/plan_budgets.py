"""Which calls of a replay a document's budgets would refuse: their balances, from what was spent before the window on.

A call is held by what it cost; a proxy holds the most that it can cost, so near a limit it refuses a little earlier.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from decimal import Decimal

from analyzer import figures, scope
from analyzer.window import Window, utc
from farthing.policy import Budget, Document
from farthing.policy import Window as BudgetWindow
from farthing.policy.periods import NS_PER_S, period_at, slots
from farthing.warehouse.client import Warehouse

EARLIEST = datetime.fromisoformat("2020-01-01T00:00:00+00:00")  # for a budget without end

Spent = dict[tuple[str, str], float]  # by budget and period, nano-dollars


def spent_before(warehouse: Warehouse, window: Window, document: Document) -> Spent:
    """Return what each budget had spent in the periods that were running when the window began.

    Raises:
        WarehouseError: the store refused a question.
    """
    found: Spent = {}
    for budget in document.budgets:
        since = _began(budget.window, window.since)
        if since >= window.since or not scope.holds_tenant(budget.scope, window.tenant):
            continue
        earlier = Window(window.tenant, since, window.since)
        for row in figures.ask(warehouse, earlier, "spent_in_scope", **scope.parameters(budget.scope)):
            name = period_at(budget.window, int(row["hour"]) * NS_PER_S).name
            cost: Decimal = row["spent_usd"]
            found[budget.name, name] = found.get((budget.name, name), 0.0) + float(cost) * 1e9
    return found


class Balances:
    """The budgets of one document on their way through the calls."""

    def __init__(self, spent: Mapping[tuple[str, str], float], scale: float) -> None:
        self._spent: Spent = dict(spent)
        self._scale = scale  # calls of the window that each replayed one stands for

    def refuser(self, budgets: Sequence[Budget], cost_nusd: int | None, at: datetime) -> str:
        """Return the budget that refuses a call, and else charge it to all; empty = none does."""
        cost = float(cost_nusd or 0)
        for budget in budgets:
            if budget.suspended or (budget.per_request_nusd is not None and cost > budget.per_request_nusd):
                return budget.name
            if budget.hard and self._used(budget, at) + cost > budget.limit_nusd:
                return budget.name
        for budget in budgets:
            key = budget.name, period_at(budget.window, _ns(at)).name
            self._spent[key] = self._spent.get(key, 0.0) + cost * self._scale
        return ""

    def share(self, budgets: Sequence[Budget], at: datetime) -> float:
        """Return the share that the fullest of some budgets has spent; NaN where there is none."""
        shares = [self._used(one, at) / one.limit_nusd if one.limit_nusd else 1.0 for one in budgets]
        return max(shares, default=float("nan"))

    def _used(self, budget: Budget, at: datetime) -> float:
        rolling = budget.window.rolling is not None
        periods = slots(budget.window, _ns(at)) if rolling else (period_at(budget.window, _ns(at)),)
        return sum(self._spent.get((budget.name, period.name), 0.0) for period in periods)


def _began(window: BudgetWindow, at: datetime) -> datetime:
    first = slots(window, _ns(at))[0] if window.rolling is not None else period_at(window, _ns(at))
    return max(EARLIEST, datetime.fromtimestamp(first.start_ns / NS_PER_S, timezone.utc))


def _ns(at: datetime) -> int:
    return round(utc(at).timestamp() * 1000) * 1_000_000
