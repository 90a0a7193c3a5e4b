"""All that a report says about one window, asked of the warehouse once.

The clock moves between two questions but the window does not, so sums and their parts agree as long as no late row
arrives in between.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from analyzer import cache_waste, cost_drivers
from analyzer.finding import ZERO, Finding
from analyzer.window import Window
from farthing.warehouse.client import Warehouse

PART = "analyzer"
TABLE_ROWS = 200  # models or teams asked for
BUCKETS = 48  # at most so many bars
STEPS_S = (60, 300, 900, 1_800, 3_600, 7_200, 10_800, 21_600, 43_200, 86_400, 604_800, 2_592_000)  # of a bar, seconds

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Figures:
    """The answers, as the warehouse gave them; money is Decimal USD with nine places."""

    window: Window
    totals: Row
    coverage: Row
    over_time: Sequence[Row]  # bucket, model, cost_usd, requests
    step_s: int  # width of a bucket, seconds
    models: Sequence[Row]
    teams: Sequence[Row]
    drivers: Sequence[Finding]
    waste: Sequence[Finding]
    unpriced: Sequence[Row]
    settled: Sequence[Row]
    caches: Sequence[Row]  # one of each level that was in use

    @property
    def spend_usd(self) -> Decimal:
        return self.totals["cost_usd"] or ZERO


def gather(warehouse: Warehouse, window: Window) -> Figures:
    """Ask all questions of a report.

    Raises:
        WarehouseError: the store refused one of them.
    """
    step_s = step_for(window)
    everything = {"teams": [], "models": []}
    totals = ask(warehouse, window, "totals", **everything)[0]
    return Figures(
        window=window,
        totals=totals,
        coverage=ask(warehouse, window, "coverage")[0],
        over_time=ask(warehouse, window, "cost_over_time", step=step_s, tz="UTC", **everything),
        step_s=step_s,
        models=ask(warehouse, window, "cost_by_model", limit=TABLE_ROWS, **everything),
        teams=ask(warehouse, window, "cost_by_team", limit=TABLE_ROWS, **everything),
        drivers=drivers(warehouse, window, totals["cost_usd"]),
        waste=waste(warehouse, window),
        unpriced=ask(warehouse, window, "unpriced_models", limit=TABLE_ROWS),
        settled=ask(warehouse, window, "settled"),
        caches=ask(warehouse, window, "cache_levels", **everything),
    )


def drivers(warehouse: Warehouse, window: Window, spend_usd: Decimal | None) -> list[Finding]:
    """Return what the money of `window` was spent on."""
    rows = ask(warehouse, window, cost_drivers.QUESTION, limit=cost_drivers.LIMIT)
    return cost_drivers.find(rows, spend_usd)


def waste(warehouse: Warehouse, window: Window) -> list[Finding]:
    """Return what was paid for repeated requests in `window`."""
    return cache_waste.find(ask(warehouse, window, cache_waste.QUESTION, limit=cache_waste.LIMIT))


def spend(warehouse: Warehouse, window: Window) -> Decimal:
    """Return what was spent in `window`, USD."""
    return ask(warehouse, window, "totals", teams=[], models=[])[0]["cost_usd"] or ZERO


def ask(warehouse: Warehouse, window: Window, question: str, **values: object) -> list[dict[str, Any]]:
    """Ask one question about `window`."""
    bounds = {"since": window.since, "until": window.until}
    return warehouse.ask(question, tenant=window.tenant, part=PART, **bounds, **values)


def step_for(window: Window) -> int:
    """Return the narrowest bar, in seconds, with which the window needs at most `BUCKETS` bars."""
    return next((step for step in STEPS_S if window.seconds / step <= BUCKETS), STEPS_S[-1])
