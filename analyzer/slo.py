"""How do the service levels stand: how much of each error budget is left, and how fast does it burn?

A burn rate of 1 uses the budget up exactly in its window, 14 that of 28 days within two (SRE workbook, chapter 5).
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from analyzer import figures, scope
from analyzer.window import last_hours
from farthing.policy import Facts
from farthing.policy.index import matches
from farthing.policy.kinds.slo import Slo
from farthing.warehouse.client import Warehouse

HOURS = (1.0, 6.0, 24.0)  # over which a standing tells the burn, beside the whole window


@dataclass(frozen=True)
class Burn:
    """What happened in one window."""

    hours: float
    calls: int  # that the objective judges
    missed: int
    rate: float | None  # times the pace that just keeps the objective; None: there were no calls


@dataclass(frozen=True)
class Standing:
    """One objective, as it stands."""

    slo: str
    owner: str
    measure: str
    objective: float  # share of calls that have to be good
    calls: int  # in the window
    missed: int
    good: float | None  # share; None: there were no calls
    budget_left: float | None  # of the misses that the window allows, as a share; below 0: broken
    is_met: bool
    burns: Sequence[Burn]


def standings(warehouse: Warehouse, tenant: str, slos: Sequence[Slo], now: datetime) -> list[Standing]:
    """Return how each objective stands now.

    Raises:
        WarehouseError: the store refused a question.
    """
    return [_standing(warehouse, tenant, slo, now) for slo in slos]


def _standing(warehouse: Warehouse, tenant: str, slo: Slo, now: datetime) -> Standing:
    whole, *others = burns(warehouse, tenant, slo, (slo.window_days * 24, *HOURS), now)
    good = (whole.calls - whole.missed) / whole.calls if whole.calls else None
    left = None if whole.rate is None else 1.0 - whole.rate
    told = (slo.name, slo.owner, slo.measure, slo.share, whole.calls, whole.missed, good, left)
    return Standing(*told, left is None or left >= 0, others)


def burns(warehouse: Warehouse, tenant: str, slo: Slo, hours: Sequence[float], now: datetime) -> list[Burn]:
    """Return how an objective's budget burnt over the last hours, for each of several lengths."""
    ages = [round(length * 3600) for length in hours]
    counted: Sequence[tuple[int, int]] = [(0, 0)] * len(ages)
    if scope.holds_tenant(slo.scope, tenant):
        window = last_hours(tenant, max(hours), now)
        given = {"ages_s": ages, "measure": slo.measure, "most": slo.most, **scope.parameters(slo.scope)}
        (row,) = figures.ask(warehouse, window, "slo_calls", **given)
        counted = list(zip(row["calls"], row["missed"], strict=True)) or counted  # a sum over nothing is empty
    return [_burn(slo, length, *counts) for length, counts in zip(hours, counted, strict=True)]


def _burn(slo: Slo, hours: float, calls: int, missed: int) -> Burn:
    return Burn(hours, calls, missed, missed / calls / (1.0 - slo.share) if calls else None)


def missed(slo: Slo, row: Mapping[str, Any], tenant: str) -> float | None:
    """Return 1 where a call misses an objective and 0 where it does not; None where it is not judged by it."""
    facts = Facts(
        tenant, team=row["team"], user=row["user"], feature=row["feature"], key=row["api_key"],
        model=row["asked_model"], tags=row["tags"],
    )  # fmt: skip
    if not matches(slo.scope, facts):
        return None
    if slo.measure == "errors":
        return float(row["outcome"] == "error") if row["outcome"] in ("ok", "error") else None
    value = row[{"latency": "duration_s", "ttft": "ttft_s", "cost": "cost_usd"}[slo.measure]]
    return float(float(value) > slo.most) if row["outcome"] == "ok" and value is not None else None
