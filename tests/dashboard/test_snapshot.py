from __future__ import annotations

import asyncio
from datetime import datetime, timezone
from decimal import Decimal

import pytest

from dashboard.filters import Filter
from dashboard.pages.overview_charts import CostStack, cost_figure, latency_figure
from dashboard.pages.overview_kpis import Kpi, overview_kpis
from dashboard.questions import Questions
from dashboard.snapshot import Snapshot, read_snapshot
from farthing.warehouse import Warehouse

SEEDED, EMPTY, TINY, YOUNG, SILENT = "dash-seeded", "dash-empty", "dash-tiny", "dash-young", "dash-silent"


def read(
    warehouse: Warehouse, tenant: str, wanted: Filter | None = None, now: datetime | None = None
) -> Snapshot:
    at = now or datetime.now(timezone.utc)
    return asyncio.run(read_snapshot(Questions(warehouse, tenant), wanted or Filter(), at))


def kpis(snapshot: Snapshot) -> dict[str, Kpi]:
    return {one.key: one for one in overview_kpis(snapshot)}


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "America/New_York"])
@pytest.mark.parametrize("range_", ["1h", "24h", "7d", "30d"])
def test_totals_buckets_models_and_teams_agree_to_the_nano_dollar(
    dash_warehouse: Warehouse, zone: str, range_: str
) -> None:
    snapshot = read(dash_warehouse, SEEDED, Filter(range=range_, zone=zone))
    spent = snapshot.totals["cost_usd"]
    stack = CostStack(snapshot)
    assert spent > 0
    assert sum(row["cost_usd"] or 0 for row in snapshot.over_time) == spent
    assert sum(row["cost_usd"] or 0 for row in snapshot.by_team) == spent
    assert sum(stack.spend.values()) == spent
    assert sum(usd for series in stack.buckets.values() for usd in series.values()) == spent


def test_a_filter_by_team_leaves_only_that_team(dash_warehouse: Warehouse) -> None:
    snapshot = read(dash_warehouse, SEEDED, Filter(range="7d", teams=("search",)))
    assert [row["team"] for row in snapshot.by_team] == ["search"]
    assert snapshot.by_team[0]["cost_usd"] == snapshot.totals["cost_usd"]


def test_one_token_of_a_cheap_model_is_shown_to_the_nano_dollar(dash_warehouse: Warehouse) -> None:
    spend = kpis(read(dash_warehouse, TINY))["spend"]
    assert (spend.text, spend.exact) == ("$0.000000200", "0.000000200")


def test_calls_without_a_price_are_unknown_spend_and_counted(dash_warehouse: Warehouse) -> None:
    found = kpis(read(dash_warehouse, SILENT))
    assert (found["spend"].text, found["spend"].exact) == ("unknown", "unknown")
    assert (found["unpriced"].exact, found["unpriced"].tone) == ("1", "warn")


def test_no_calls_in_the_period_is_a_true_zero(dash_warehouse: Warehouse) -> None:
    found = kpis(read(dash_warehouse, SEEDED, Filter(teams=("nobody-has-this",))))
    assert (found["spend"].exact, found["p95"].text) == ("0.000000000", "—")


def test_a_period_before_that_the_rows_do_not_cover_is_not_compared(dash_warehouse: Warehouse) -> None:
    found = kpis(read(dash_warehouse, YOUNG))  # its rows reach back 30 hours, the period before starts 48 hours ago
    assert {one.change_note for one in found.values()} == {"no full prior period"}
    assert all(one.change is None for one in found.values())


def test_a_covered_period_before_is_compared(dash_warehouse: Warehouse) -> None:
    snapshot = read(dash_warehouse, SEEDED)
    change = kpis(snapshot)["requests"].change
    assert change is not None
    assert change.before == snapshot.totals_before["requests"] > 0


def test_comparing_can_be_switched_off(dash_warehouse: Warehouse) -> None:
    snapshot = read(dash_warehouse, SEEDED, Filter(compare=False))
    assert {(one.change, one.change_note) for one in overview_kpis(snapshot)} == {(None, "")}
    assert "previous period" not in [trace["name"] for trace in cost_figure(CostStack(snapshot))["data"]]


def test_a_bucket_without_calls_is_a_gap_in_latency_and_zero_in_sums(dash_warehouse: Warehouse) -> None:
    snapshot = read(dash_warehouse, YOUNG)
    p95 = latency_figure(snapshot)["data"][1]["y"]
    course = kpis(snapshot)["spend"].course
    assert p95.count(None) == len(p95) - 2
    assert sum(1 for value in course if value) == 2
    assert None not in course


def test_the_buckets_that_the_period_cuts_are_drawn_pale(dash_warehouse: Warehouse) -> None:
    half_past = datetime.now(timezone.utc).replace(minute=30, second=0, microsecond=0)  # of an hour, of any bucket
    snapshot = read(dash_warehouse, SEEDED, Filter(range="7d"), half_past)
    opacity = cost_figure(CostStack(snapshot))["data"][0]["marker"]["opacity"]
    assert opacity[-1] < 1
    assert set(opacity[1:-1]) == {1.0}


def test_a_tenant_without_rows_is_empty(dash_warehouse: Warehouse) -> None:
    snapshot = read(dash_warehouse, EMPTY)
    assert snapshot.is_empty
    assert snapshot.totals["cost_usd"] is None


def test_another_tenants_rows_are_never_read(dash_warehouse: Warehouse) -> None:
    assert read(dash_warehouse, TINY, Filter(range="30d")).dimensions["models"] == ["smollm2-135m"]


def test_the_legend_is_in_order_of_spend(dash_warehouse: Warehouse) -> None:
    spend = list(CostStack(read(dash_warehouse, SEEDED)).spend.values())
    assert spend == sorted(spend, reverse=True)
    assert all(isinstance(one, Decimal) for one in spend)
