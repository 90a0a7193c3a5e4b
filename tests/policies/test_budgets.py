"""Budgets beyond one limit a month: rolling windows, thresholds, top-ups, suspension; in the ledger and over HTTP."""
from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from farthing.cli import main
from farthing.errors import OverBudgetError
from farthing.policy import Budget, CompiledDocument, Document, Facts
from farthing.policy.periods import NS_PER_S, slots
from policies import statement
from policies.ledger import Ledger
from policies.operations import Lease, Leased, ToppedUp, TopUp

ANY = Facts("acme", team="search")
HOUR = 3600 * NS_PER_S


def opened(bench: Any, **spec: Any) -> Ledger:
    bench.document = Document(version=1, budgets=(Budget.model_validate({"name": "b", "limit_nusd": 1000} | spec),))
    ledger = Ledger(bench.engine, CompiledDocument(bench.document), 60, lambda: bench.now_ns)
    ledger.start()
    bench.ledgers.append(ledger)
    return ledger


def spend(ledger: Ledger, name: str, amount: int) -> None:
    ledger.reserve(name, 0, ANY, amount)
    ledger.settle(name, 0, amount)


def told(bench: Any) -> list[tuple[str, int]]:
    return [(row["threshold"], row["spent_nusd"]) for row in statement.events(bench.engine, 0)]


def test_a_rolling_window_counts_what_was_spent_for_its_length_and_no_more_than_a_slot_longer(bench: Any) -> None:
    ledger = opened(bench, window={"rolling": "24h"})
    spend(ledger, "a", 600)
    bench.now_ns += 12 * HOUR
    spend(ledger, "b", 400)
    with pytest.raises(OverBudgetError):
        ledger.reserve("c", 0, ANY, 1)
    bench.now_ns += 12 * HOUR - NS_PER_S
    with pytest.raises(OverBudgetError):
        ledger.reserve("c", 0, ANY, 1)
    assert bench.figures("b") == (1000, 0, 0)
    bench.now_ns += HOUR + NS_PER_S
    assert bench.figures("b") == (400, 0, 600)
    ledger.reserve("d", 0, ANY, 600)
    with pytest.raises(OverBudgetError):
        ledger.reserve("e", 0, ANY, 1)


def test_a_rolling_window_is_the_same_after_a_restart_and_frees_what_an_old_hold_did_not_cost(bench: Any) -> None:
    ledger = opened(bench, window={"rolling": "24h"})
    spend(ledger, "a", 300)
    ledger.reserve("old", 0, ANY, 500)
    bench.now_ns += NS_PER_S * 50
    ledger.close()
    ends_ns = slots(bench.document.budgets[0].window, bench.now_ns)[-1].end_ns
    assert ends_ns is not None
    bench.now_ns = ends_ns + NS_PER_S
    ledger = opened(bench, window={"rolling": "24h"})  # the hold has expired: charged in full
    ledger.reserve("new", 0, ANY, 200)
    with pytest.raises(OverBudgetError):
        ledger.reserve("more", 0, ANY, 1)
    ledger.settle("old", 0, 100)
    assert bench.figures("b") == (400, 200, 400)
    ledger.reserve("more", 0, ANY, 400)


def test_a_slot_that_is_over_takes_nothing_past_its_holds(bench: Any) -> None:
    ledger = opened(bench, window={"rolling": "24h"})
    ledger.reserve("old", 0, ANY, 100)
    bench.now_ns += HOUR
    spend(ledger, "new", 900)
    ledger.settle("old", 0, 400)
    assert (bench.figures("b"), bench.line("b")["overrun_nusd"]) == ((1000, 0, 0), 300)


def test_a_threshold_is_told_once_a_period_with_what_was_spent(bench: Any) -> None:
    ledger = opened(bench, thresholds=[{"at": "50%"}, {"at": 0.8}], window={"calendar": "day"})
    spend(ledger, "a", 499)
    assert told(bench) == []
    spend(ledger, "b", 1)
    spend(ledger, "c", 100)
    assert told(bench) == [("at 50%", 500)]
    ledger.close()
    ledger = opened(bench, thresholds=[{"at": "50%"}, {"at": 0.8}], window={"calendar": "day"})
    spend(ledger, "d", 300)
    assert told(bench) == [("at 50%", 500), ("at 80%", 900)]
    assert bench.line("b")["crossed"] == ["at 50%", "at 80%"]
    bench.now_ns += 24 * HOUR
    spend(ledger, "e", 500)
    assert told(bench)[2:] == [("at 50%", 500)] and bench.line("b")["crossed"] == ["at 50%"]


def test_a_forecast_is_told_when_the_burn_so_far_reaches_past_the_limit(bench: Any) -> None:
    ledger = opened(bench, thresholds=[{"forecast": "100%"}], window={"calendar": "day"})
    spend(ledger, "a", 499)  # at noon: half of the day is over
    assert told(bench) == []
    spend(ledger, "b", 1)
    assert told(bench) == [("forecast 100%", 500)]
    line = bench.line("b")
    assert (line["forecast_nusd"], line["exhausted_at"]) == (1000, None)
    spend(ledger, "c", 500)
    assert bench.line("b")["exhausted_at"] == "2026-03-01T12:00:00Z"


def test_a_forecast_says_when_the_budget_is_gone(bench: Any) -> None:
    ledger = opened(bench, window={"calendar": "day"})
    spend(ledger, "a", 600)
    line = bench.line("b")
    assert (line["burn_nusd_per_hour"], line["forecast_nusd"]) == (50, 1200)
    assert line["exhausted_at"] == "2026-03-01T20:00:00Z"


def test_a_top_up_counts_in_its_window_alone_and_survives_a_restart(bench: Any) -> None:
    ledger = opened(bench, window={"calendar": "day"})
    spend(ledger, "a", 1000)
    (made,) = asyncio.run(ledger.run([TopUp("b", 200, "ann", "launch")]))
    assert made == ToppedUp(200, "day:2026-03-01")
    ledger.close()
    ledger = opened(bench, window={"calendar": "day"})
    spend(ledger, "b", 200)
    with pytest.raises(OverBudgetError):
        ledger.reserve("c", 0, ANY, 1)
    (grant,) = statement.grants(bench.engine, "b")
    assert (grant["amount_nusd"], grant["author"], grant["reason"]) == (200, "ann", "launch")
    bench.now_ns += 24 * HOUR
    assert bench.line("b")["limit_nusd"] == 1000


def test_a_suspended_budget_refuses_and_lends_nothing_and_still_charges_what_was_held(bench: Any) -> None:
    ledger = opened(bench)
    ledger.reserve("a", 0, ANY, 100)
    ledger.close()
    ledger = opened(bench, suspended=True)
    with pytest.raises(OverBudgetError):
        ledger.reserve("b", 0, ANY, 0)
    (lent,) = asyncio.run(ledger.run([Lease("w", 1, "b", want_nusd=10)]))
    assert isinstance(lent, Leased) and lent.granted_nusd == 0
    ledger.settle("a", 0, 120)
    assert bench.figures("b") == (120, 0, 0)


BUDGET = """\
apiVersion: farthing/v1
kind: Budget
metadata: {name: search, owner: finance}
scope: {team: search}
limit: 1000 EUR   # what was agreed
per_request: 0.50 EUR
currency: {name: EUR, usd: "1.10", as_of: 2026-03-01}
window: {calendar: month, tz: Europe/London}
thresholds: [{at: 80%}, {forecast: 100%}]
"""


def test_a_budget_in_another_currency_counts_in_usd_at_its_own_rate(client: Any) -> None:
    assert client.apply(BUDGET).status == 200
    line = client.get("/v1/budgets/search").json
    assert (line["limit_nusd"], line["per_request_nusd"]) == (1100 * 10**9, 550_000_000)
    assert (line["thresholds"], line["crossed"], line["grants"]) == (["at 80%", "forecast 100%"], [], [])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("limit: 1000 GBP", "limit = '1000 GBP'"),
        ("window: {calendar: day, rolling: 24h}", "set calendar or rolling, not both"),
        ("window: {rolling: 24}", "window.rolling"),
        ("thresholds: [{at: 80%, forecast: 100%}]", "set exactly one of at and forecast"),
        ("thresholds: [{at: 0}]", "thresholds.0.at"),
        ("thresholds: [{at: 80%, act: explode}]", "allowed: 'notify', 'route', 'cheapest', 'flex' or 'approve'"),
        ("thresholds: [{at: 80%, act: batch}]", "no call that waits for its answer can use it; write flex"),
        ("thresholds: [{at: 80%, act: route}]", "act: route needs `to`"),
        ("thresholds: [{at: 80%, to: small}]", "act: route needs `to`"),
        ("thresholds: [{at: 80%, act: flex, to: small}]", "act: route needs `to`"),
        ("thresholds: [{at: 80%, when: now}]", "unknown key"),
        ("window: {rolling: 7d}", "a forecast needs a window that ends"),
        ("window: {calendar: total}", "a forecast needs a window that ends"),
        ("currency: {name: EUR}", "currency.usd"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused_with_what_is_allowed(client: Any, wrong: str, said: str) -> None:
    key = wrong.partition(":")[0]
    text = "".join(f"{wrong}\n" if line.startswith(f"{key}:") else line for line in BUDGET.splitlines(keepends=True))
    answer = client.apply(text)
    assert answer.status == 400 and said in "; ".join(answer.error["details"])


def test_a_top_up_over_http_is_checked(client: Any) -> None:
    client.apply(BUDGET)
    made = client.call("POST", "/v1/budgets/search/top-up?amount=50%20USD&author=ann")
    assert made.json["granted_nusd"] == 50 * 10**9
    assert client.get("/v1/budgets/search").json["limit_nusd"] == 1150 * 10**9
    assert client.call("POST", "/v1/budgets/search/top-up?amount=10%20EUR").json["granted_nusd"] == 61 * 10**9
    said = client.call("POST", "/v1/budgets/search/top-up?amount=10%20GBP").error["message"]
    assert said == "amount='10 GBP': allowed is an amount in USD or EUR, such as '12.50 USD'"
    for path, status in (("search/top-up?amount=-1", 400), ("search/top-up?amount=much", 400), ("none/top-up", 404)):
        assert client.call("POST", f"/v1/budgets/{path}").status == status
    assert client.get("/v1/budget-events?after=0").json == {"events": []}
    assert client.call("POST", "/v1/ledger", json.dumps([{"op": "top-up", "budget": "search"}])).status == 400


def run(client: Any, *arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--set", f"policies_port={client.port}", "budget", *arguments])
    assert ended.value.code == 0


def test_the_command_line_lists_shows_changes_and_explains(client: Any, capsys: Any) -> None:
    client.apply(BUDGET)
    run(client, "set", "search", "--limit", "2000 EUR", "--suspend", "--reason", "holidays")
    source = client.get("/v1/objects").json["objects"][0]["source"]
    assert "limit: 2000 EUR\n" in source and "suspended: true\n" in source and "thresholds: [{at: 80%}" in source
    run(client, "list")
    assert "suspended" in capsys.readouterr().out.splitlines()[-1]
    run(client, "resume", "search")
    assert "suspended" not in client.get("/v1/objects").json["objects"][0]["source"]
    run(client, "top-up", "search", "110 USD", "--reason", "launch")
    capsys.readouterr()
    run(client, "show", "search")
    shown = capsys.readouterr().out
    assert "1 EUR = 1.10 USD of 2026-03-01" in shown
    assert "2,100.00 EUR" in shown and "100.00 EUR at" in shown and "granted" in shown and "launch" in shown
    run(client, "show", "search", "--json")
    assert json.loads(capsys.readouterr().out)["limit_nusd"] == (2200 + 110) * 10**9
    run(client, "suspend", "search")
    run(client, "explain", "search")
    assert "0.00 EUR of 2,100.00 EUR is spent (0%)" in capsys.readouterr().out
    assert client.get("/v1/audit").json["audit"][2]["reason"] == "holidays"


ANGELES = {"calendar": "month", "tz": "America/Los_Angeles"}
MARCH_30, APRIL_1 = 1_774_900_000 * NS_PER_S, 1_775_003_400 * NS_PER_S  # at 00:30 UTC; it is March in Los Angeles


def test_a_budget_that_moves_to_an_earlier_zone_ends_its_month_there(bench: Any) -> None:
    bench.now_ns = MARCH_30
    spend(opened(bench, window=ANGELES), "a", 1000)
    bench.ledgers.pop().close()
    ledger = opened(bench, window={"calendar": "month"})
    with pytest.raises(OverBudgetError):
        ledger.reserve("b", 0, ANY, 1)
    bench.now_ns = APRIL_1
    ledger.reserve("c", 0, ANY, 1000)
    assert bench.figures("b") == (0, 1000, 0)


def test_a_budget_that_moves_to_a_later_zone_shows_and_holds_its_month_until_it_ends_there(bench: Any) -> None:
    bench.now_ns = MARCH_30
    spend(opened(bench, window={"calendar": "month"}), "a", 1000)
    bench.ledgers.pop().close()
    ledger = opened(bench, window=ANGELES)
    bench.now_ns = APRIL_1
    with pytest.raises(OverBudgetError):
        ledger.reserve("b", 0, ANY, 1)
    assert bench.figures("b") == (1000, 0, 0)
