"""farthing/warehouse/rollup.py: hourly sums answer as the rows do, and follow them."""
from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from farthing.testing import SeedRequest, seed_requests
from farthing.warehouse import Warehouse, rollup

ROWS = Path(__file__).resolve().parents[2] / "bench" / "warehouse_rows.sql"
SINCE = datetime(2026, 9, 3, 5, 17, 11, tzinfo=timezone.utc)
DAYS = 6
HOUR = timedelta(hours=1)
BIG = "big"
MILLION = partial(SeedRequest, model="gpt-4o-mini", input_tokens=1_000_000, output_tokens=0)  # costs 0.15 USD


@pytest.fixture(scope="module")
def rolled(warehouse: Warehouse) -> Warehouse:
    """The warehouse with made-up calls, and hourly sums of all but the last hours."""
    values = {"since_s": SINCE.timestamp(), "seconds": DAYS * 86_400.0, "rows": 9000, "first": 0, "count": 9000}
    warehouse._client().command(ROWS.read_text("utf-8"), parameters=values)
    extend(warehouse, SINCE + timedelta(days=DAYS, hours=-5))
    rollup.refresh(warehouse, SINCE, SINCE + timedelta(days=DAYS))
    return warehouse


def extend(warehouse: Warehouse, until: datetime) -> None:
    end = until.replace(minute=0, second=0, microsecond=0)
    while rollup.extend(warehouse, end) < end:
        pass
    while rollup.roll_days(warehouse):
        pass
    warehouse.boundary.moved()


def both(warehouse: Warehouse, question: str, **values: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Ask once as the dashboard does, and once of the rows alone."""
    since = values.get("since", rollup.EPOCH)
    bounds = warehouse.boundary.bounds(values)
    fast = warehouse.ask(question, tenant=BIG, part="test", **values)
    raw = warehouse.ask(question, tenant=BIG, part="test", **values, **rollup.rows_alone(since))
    uses = (bounds["rolled_since"] < bounds["rolled_until"], bounds["days_since"] < bounds["days_until"])
    assert uses == expected_to_use(values), (question, values, bounds)
    return fast, raw


def expected_to_use(values: Mapping[str, Any]) -> tuple[bool, bool]:
    """Tell whether hours and days may answer."""
    if "step" not in values:
        return True, True
    uses_hours = values["step"] % 3600 == 0 and values["tz"] != "Asia/Kolkata"
    return uses_hours, uses_hours and values["step"] == 86_400 and values["tz"] == "UTC"


def same(fast: Any, raw: Any) -> bool:
    if isinstance(raw, float):
        return math.isnan(fast) if math.isnan(raw) else math.isclose(fast, raw, rel_tol=0.0201)
    if isinstance(raw, Mapping):
        return fast.keys() == raw.keys() and all(same(fast[key], raw[key]) for key in raw)
    if isinstance(raw, Sequence) and not isinstance(raw, str):
        return len(fast) == len(raw) and all(same(one, other) for one, other in zip(fast, raw, strict=True))
    return type(fast) is type(raw) and fast == raw


FILTERED = ("totals", "over_time", "cost_over_time", "cost_by_model", "cost_by_team")
LIMITED = ("cost_by_model", "cost_by_team", "cost_drivers", "unpriced_models", "missing_prices")


@pytest.mark.parametrize("question", sorted({*FILTERED, *LIMITED, "coverage", "settled"}))
@pytest.mark.parametrize("seed", range(5))
def test_sums_answer_as_the_rows_do_to_the_nano_dollar(rolled: Warehouse, question: str, seed: int) -> None:
    chance = random.Random(seed)
    since = SINCE + timedelta(seconds=round(chance.random() * 2 * 86_400, 3))
    values: dict[str, Any] = {"since": since, "until": since + timedelta(days=2, seconds=chance.randrange(3 * 86_400))}
    if question in FILTERED:
        values |= {"teams": ["team-1", "team-0"] if seed & 1 else [], "models": ["gpt-4o"] if seed & 2 else []}
    if question in LIMITED:
        values["limit"] = 1000
    if question.endswith("over_time"):
        values["step"] = (86_400, 86_400, 1800, 86_400, 3600)[seed]
        values["tz"] = ("UTC", "Asia/Kolkata", "UTC", "Europe/Berlin", "UTC")[seed]
    fast, raw = both(rolled, question, **values)
    assert raw
    assert same(fast, raw), [(one, other) for one, other in zip(fast, raw, strict=False) if not same(one, other)][:2]


def test_the_dimensions_are_those_of_the_rows(rolled: Warehouse) -> None:
    fast, raw = both(rolled, "dimensions")
    for row in (fast[0], raw[0]):
        row["teams"], row["models"] = sorted(row["teams"]), sorted(row["models"])
    assert (len(raw[0]["teams"]), len(raw[0]["models"])) == (20, 12)
    assert fast == raw


def test_a_period_without_calls_answers_as_the_rows_do(rolled: Warehouse) -> None:
    window = {"since": SINCE - timedelta(days=10), "until": SINCE - timedelta(days=8)}
    fast, raw = both(rolled, "totals", **window, teams=[], models=[])
    assert same(fast, raw)
    assert (fast[0]["requests"], fast[0]["cost_usd"]) == (0, None)
    assert both(rolled, "cost_by_team", **window, teams=[], models=[], limit=5) == ([], [])


def test_calls_that_come_late_are_in_the_sums_once_their_hour_is_rolled_anew(
    rolled: Warehouse, tenant_of_this_test: str
) -> None:
    at = SINCE + timedelta(days=2)
    ask = {"since": at - HOUR, "until": at + 2 * HOUR, "teams": [], "models": []}
    hour = at.replace(minute=0, second=0)
    seed_requests(rolled, [MILLION(at)], tenant_of_this_test)
    assert cost(rolled, tenant_of_this_test, ask) == "0.150000000"
    rolled.command(
        f"UPDATE requests SET cost_usd = 7 WHERE tenant = '{tenant_of_this_test}' AND started_at > '2026-09-01'"
    )
    assert cost(rolled, tenant_of_this_test, ask) == "0.150000000"
    rollup.mark_stale(rolled, at, at + timedelta(seconds=1))
    assert rollup.stale_hours(rolled) == [hour]
    rollup.roll(rolled, [hour])
    assert rollup.stale_hours(rolled) == []
    assert cost(rolled, tenant_of_this_test, ask) == "7.000000000"
    rollup.sweep_out(rolled, datetime.now(timezone.utc) + HOUR)
    assert cost(rolled, tenant_of_this_test, ask) == "7.000000000"
    versions = f"SELECT uniq(rolled_at) FROM hourly WHERE hour = toDateTime({hour.timestamp():.0f})"
    assert rolled._client().query(versions).result_rows == [(1,)]


def test_a_day_follows_its_hours_and_is_read_as_it_was_until_then(rolled: Warehouse, tenant_of_this_test: str) -> None:
    at = SINCE + timedelta(days=2)
    hour, day = at.replace(minute=0, second=0), at.replace(hour=0, minute=0, second=0)
    ask = {"since": day, "until": day + timedelta(days=1), "teams": [], "models": []}
    assert rolled.boundary.bounds(ask)["days_until"] == day + timedelta(days=1)
    seed_requests(rolled, [MILLION(at)], tenant_of_this_test)
    assert cost(rolled, tenant_of_this_test, ask) == "0.150000000"
    change = f"UPDATE requests SET cost_usd = 7 WHERE tenant = '{tenant_of_this_test}' AND started_at > '2026-09-01'"
    rolled.command(change)
    rollup.roll(rolled, [hour])  # and then the process dies
    assert cost(rolled, tenant_of_this_test, ask) == "0.150000000"
    assert rollup.roll_days(rolled) is False
    assert cost(rolled, tenant_of_this_test, ask) == "7.000000000"
    rollup.sweep_out(rolled, datetime.now(timezone.utc) + HOUR)
    assert cost(rolled, tenant_of_this_test, ask) == "7.000000000"
    versions = f"SELECT uniq(rolled_at) FROM hourly WHERE grain >= 4 AND hour = toDateTime({day.timestamp():.0f})"
    assert rolled._client().query(versions).result_rows == [(1,)]


def test_a_clock_that_is_set_back_keeps_no_change_from_the_sums(
    rolled: Warehouse, tenant_of_this_test: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = SINCE + timedelta(days=3)
    ask = {"since": at - HOUR, "until": at + 2 * HOUR, "teams": [], "models": []}
    hour = at.replace(minute=0, second=0)
    seed_requests(rolled, [MILLION(at)], tenant_of_this_test)
    change = f"UPDATE requests SET cost_usd = 7 WHERE tenant = '{tenant_of_this_test}' AND started_at > '2026-09-01'"
    rolled.command(change)
    monkeypatch.setattr(rollup, "_now_us", lambda: 10**15)  # 2001
    for _ in range(2):
        rollup.note_stale(rolled, [hour])
        assert rollup.stale_hours(rolled) == [hour]
        rollup.roll(rolled, [hour])
        assert rollup.stale_hours(rolled) == []
        assert rollup.roll_days(rolled) is False
    assert cost(rolled, tenant_of_this_test, ask) == "7.000000000"


def test_a_change_that_comes_while_its_hour_is_rolled_has_it_rolled_again(
    rolled: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    hour = (SINCE + timedelta(days=4)).replace(minute=0, second=0)
    work = rolled.work

    def meanwhile(step: str, **values: object) -> None:
        work(step, **values)
        rollup.note_stale(rolled, [hour])  # another collector's; its rows came after these were read

    with monkeypatch.context() as patch:
        patch.setattr(rolled, "work", meanwhile)
        rollup.roll(rolled, [hour])
    assert rollup.stale_hours(rolled) == [hour]
    rollup.roll(rolled, [hour])
    assert rollup.stale_hours(rolled) == []


def test_a_version_that_was_not_noted_is_not_read(rolled: Warehouse, tenant_of_this_test: str) -> None:
    at = SINCE + timedelta(days=3)
    ask = {"since": at - HOUR, "until": at + 2 * HOUR, "teams": [], "models": []}
    seed_requests(rolled, [MILLION(at)], tenant_of_this_test)
    half = {"hours": [at.replace(minute=0, second=0)], "rolled_us": int(4e15), "since_ms": 0, "until_ms": int(4e12)}
    rolled.work("roll", **half)  # and then, before the note, the process dies
    assert cost(rolled, tenant_of_this_test, ask) == "0.150000000"
    rolled.command("DELETE FROM hourly WHERE rolled_at > '2090-01-01'")


def cost(warehouse: Warehouse, tenant: str, ask: dict[str, Any]) -> str:
    return f"{warehouse.ask('totals', tenant=tenant, part='test', **ask)[0]['cost_usd']:.9f}"


@pytest.fixture
def tenant_of_this_test(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)
