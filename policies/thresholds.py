"""Which thresholds a budget has crossed: told once a period, as a row beside the charge that crossed it.

An alert sender reads the rows later; a crash loses neither the charge nor its row, or both.
"""
from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection

from farthing.policy import Budget
from farthing.policy.kinds.budget import Threshold
from farthing.policy.periods import SLOTS
from policies.balance import Balance
from policies.journal import Journal
from policies.memory import Memory
from policies.tables import budget_events

FORECAST_FROM = 0.05  # of a period; before, what was spent says little about its end


def cross(
    journal: Journal, connection: Connection, memory: Memory, budgets: Mapping[str, Budget], now: int
) -> None:
    """Note what the balances that changed have crossed."""
    for balance in memory.touched.values():
        budget = budgets.get(balance.budget)
        if budget is None or not budget.thresholds or not balance.period.holds(now):
            continue
        period = told_in(balance.period.name)
        if balance.crossed is None:
            balance.crossed = journal.crossed(connection, balance.budget, period)
        for threshold in budget.thresholds:
            if threshold.name not in balance.crossed and is_crossed(threshold, balance, now):
                balance.crossed.add(threshold.name)
                row = {"at_ns": now, "budget": balance.budget, "period": period, "threshold": threshold.name}
                figures = {"spent_nusd": balance.used_nusd, "limit_nusd": balance.total_nusd}
                memory.notes.append((budget_events, row | figures))


def told_in(period: str) -> str:
    """Return the period that a threshold is told of once in; of a rolling window, one of its length."""
    kind, _, rest = period.partition(":")
    if kind != "rolling":
        return period
    length, _, slot = rest.partition(":")
    return f"rolling:{length}:{int(slot) // SLOTS * SLOTS}"


def is_crossed(threshold: Threshold, balance: Balance, now: int) -> bool:
    """Tell whether what was spent, or what it comes to at the period's end, reaches the threshold."""
    if threshold.at is not None:
        return balance.used_nusd >= threshold.at * balance.total_nusd
    spent = forecast_nusd(balance.used_nusd, balance.period.start_ns, balance.period.end_ns, now)
    return spent is not None and spent >= (threshold.forecast or 0) * balance.total_nusd


def forecast_nusd(spent_nusd: int, start_ns: int, end_ns: int | None, now: int) -> int | None:
    """Return what a period comes to if it goes on as so far; None where too little of it is over, or it has no end."""
    if end_ns is None or now - start_ns < (end_ns - start_ns) * FORECAST_FROM:
        return None
    return spent_nusd * (end_ns - start_ns) // (now - start_ns)
