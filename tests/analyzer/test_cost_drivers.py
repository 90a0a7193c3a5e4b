"""analyzer/cost_drivers.py: which team's use of which model costs what, and what is not known."""
from datetime import timedelta
from decimal import Decimal

from analyzer.cost_drivers import QUESTION, find
from analyzer.figures import ask, drivers, spend
from analyzer.window import Window
from farthing.warehouse.client import Warehouse

ROW = {"model": "gpt-4o", "team": "search", "requests": 10, "input_tokens": 1000, "output_tokens": 200, "unpriced": 0}


def test_a_driver_says_its_share_tokens_and_price_a_request() -> None:
    (found,) = find([{**ROW, "cost_usd": Decimal("0.004500000")}], Decimal("0.006000000"))
    assert found.title == "search on gpt-4o: 75.0 % of the spend"
    assert found.detail == "10 requests cost $0.0045, $0.00045 each, for 1,000 input and 200 output tokens."
    assert found.evidence["share"] == 0.75
    assert found.evidence["usd_per_request"] == "0.000450000"


def test_a_pair_below_one_percent_of_the_spend_drives_nothing() -> None:
    rows = [{**ROW, "cost_usd": Decimal("0.991")}, {**ROW, "team": "tiny", "cost_usd": Decimal("0.009")}]
    assert [found.subject for found in find(rows, Decimal("1.000"))] == ["search on gpt-4o"]


def test_calls_without_a_price_are_named_and_not_counted_as_nothing() -> None:
    (found,) = find([{**ROW, "model": "mystery", "cost_usd": None, "unpriced": 10}], None)
    assert found.title == "search on mystery: cost unknown, no price for mystery"
    assert (found.requests, found.cost_usd) == (10, 0)
    assert found.detail.startswith("10 requests have no price, so their cost is unknown and in no sum")


def test_where_only_some_calls_have_a_price_the_average_is_over_those() -> None:
    driver, unpriced = find([{**ROW, "cost_usd": Decimal("0.004"), "unpriced": 6}], Decimal("0.004"))
    assert driver.evidence["usd_per_request"] == "0.001000000"
    assert "6 requests of these have no price and are not in the sum." in driver.detail
    assert unpriced.requests == 6


def test_no_rows_make_one_finding_that_supersedes_older_ones() -> None:
    assert [(found.kind, found.subject, found.title) for found in find([], None)] == [("cost_driver", "", "No spend")]


def test_a_call_without_team_is_said_to_have_none() -> None:
    (found,) = find([{**ROW, "team": "", "cost_usd": Decimal(1)}], Decimal(1))
    assert found.subject == "(no team) on gpt-4o"


def test_the_warehouse_answers_with_what_the_calls_cost(warehouse: Warehouse, put_calls, noon, tenant: str) -> None:
    put_calls(tenant, [
        {"team": "search", "model": "gpt-4o-mini", "input": 1_000, "output": 100},  # 0.00015 + 0.00006
        {"team": "search", "model": "gpt-4o-mini", "input": 1_000, "output": 100},
        {"team": "ads", "model": "gpt-4o-mini", "input": 2_000, "output": 0},  # 0.0003
        {"team": "ads", "model": "nobody-knows-this-one", "input": 5, "output": 5},
    ])  # fmt: skip
    window = Window(tenant, noon - timedelta(hours=1), noon + timedelta(hours=1))
    assert len(ask(warehouse, window, QUESTION, limit=20)) == 3
    assert spend(warehouse, window) == Decimal("0.000720000")
    found = drivers(warehouse, window, spend(warehouse, window))
    assert [(one.subject, one.cost_usd) for one in found] == [
        ("search on gpt-4o-mini", Decimal("0.000420000")),
        ("ads on gpt-4o-mini", Decimal("0.000300000")),
        ("ads on nobody-knows-this-one", Decimal(0)),
    ]
