"""policies/lending.py: what is lent, when it comes back, and what becomes of it when nobody says."""
from __future__ import annotations

import asyncio
import threading
from typing import Any

from sqlalchemy import text

from farthing.policy import Facts
from policies import statement
from policies.ledger import Ledger
from policies.operations import (
    Charge,
    Draw,
    Lease,
    Leased,
    Operation,
    Refused,
    Renew,
    Renewed,
    Reserve,
    Settle,
    Settled,
)
from policies.teller import KEEP_NS

SEARCH = Facts("acme", team="search")
MARCH = "month:2026-03-01"


def performed(ledger: Ledger, *operations: Operation) -> list[Any]:
    return asyncio.run(ledger.run(operations))


def lent(ledger: Ledger, want: int, number: int = 1, worker: str = "w", **more: Any) -> int:
    (leased,) = performed(ledger, Lease(worker, number, "search", want_nusd=want, **more))
    assert isinstance(leased, Leased)
    return leased.granted_nusd


def draw(name: str, held: int, actual: int, at_ns: int, worker: str = "w") -> Draw:
    return Draw(worker, name, 0, held, actual, (("search", MARCH),), at_ns)


def test_a_lease_is_a_quarter_of_the_room_at_most_and_counts_as_used(bench: Any) -> None:
    ledger = bench.open()
    assert [lent(ledger, 50, 1), lent(ledger, 1000, 2)] == [50, 87]
    line = bench.line("search")
    assert (line["held_nusd"], line["leased_nusd"], line["free_nusd"]) == (0, 137, 263)


def test_near_the_limit_a_lease_that_no_call_fits_into_is_not_given(bench: Any) -> None:
    ledger = bench.open()
    ledger.reserve("r", 0, SEARCH, 360)
    assert lent(ledger, 100, least_nusd=11) == 0
    assert lent(ledger, 100, 2, least_nusd=10) == 10


def test_a_soft_budget_lends_what_is_wanted_and_an_unknown_one_nothing(bench: Any) -> None:
    ledger = bench.open(soft=10)
    (soft,) = performed(ledger, Lease("w", 1, "soft", want_nusd=5000))
    assert (soft.granted_nusd, soft.period, bench.line("soft")["leased_nusd"]) == (5000, MARCH, 5000)
    assert performed(ledger, Lease("w", 1, "gone", want_nusd=5)) == [Leased(0)]


def test_a_call_is_charged_to_its_lease_and_the_rest_stays_with_the_worker(bench: Any) -> None:
    ledger = bench.open()
    lent(ledger, 80)
    assert performed(ledger, draw("r", 30, 12, bench.now_ns)) == [Settled(("search",))]
    assert (bench.figures("search"), bench.line("search")["leased_nusd"]) == ((12, 0, 320), 68)
    (row,), _ = statement.settlements(bench.engine, 0)
    assert (row["held_nusd"], row["charged_nusd"], row["state"]) == (30, 12, "settled")


def test_a_refusal_for_want_of_what_others_hold_recalls_it_and_is_final_once_they_have_answered(bench: Any) -> None:
    ledger = bench.open()
    assert lent(ledger, 100) == 100
    ledger.reserve("most", 0, SEARCH, 250)
    (first,) = performed(ledger, Reserve("r", 0, 100, SEARCH))
    assert isinstance(first, Refused) and first.recalled == (("w", "search"),)
    assert lent(ledger, 10, 1, worker="other") == 0  # nothing is lent while it is tight
    performed(ledger, Lease("w", 2, "search", MARCH, back_nusd=60, is_answer=True))
    assert performed(ledger, Reserve("r", 0, 100, SEARCH))[0].ok
    (last,) = performed(ledger, Reserve("s", 0, 40, SEARCH))  # what w still holds, calls under way may cost
    assert isinstance(last, Refused) and last.recalled == ()
    assert bench.line("search")["refused"] == 1


def test_a_worker_that_does_not_answer_a_recall_is_not_waited_for_long(bench: Any) -> None:
    ledger = bench.open()
    lent(ledger, 100)
    ledger.reserve("most", 0, SEARCH, 300)
    for waited_ms in (0, 900, 1800):
        bench.now_ns += waited_ms * 10**6 // 2
        assert performed(ledger, Reserve("r", 0, 10, SEARCH))[0].recalled
    bench.now_ns += 700 * 10**6
    assert performed(ledger, Reserve("r", 0, 10, SEARCH))[0].recalled == ()


def test_what_would_not_fit_anyway_recalls_nothing(bench: Any) -> None:
    ledger = bench.open()
    lent(ledger, 100)
    assert performed(ledger, Reserve("r", 0, 401, SEARCH))[0].recalled == ()


def test_a_lease_of_which_nothing_is_heard_is_charged_in_full_and_corrected_by_what_comes_late(bench: Any) -> None:
    ledger = bench.open()
    lent(ledger, 100)
    bench.now_ns += 59 * 10**9
    assert performed(ledger, Renew("w")) == [Renewed(1)]
    bench.now_ns += 59 * 10**9
    performed(ledger)
    assert bench.line("search")["leased_nusd"] == 100
    bench.now_ns += 1 * 10**9
    performed(ledger)
    assert (bench.figures("search"), bench.line("search")["leased_nusd"]) == ((100, 0, 300), 0)
    performed(ledger, draw("late", 30, 20, bench.now_ns))
    assert bench.figures("search") == (100, 0, 300)  # a part of the charge has a name now
    performed(ledger, Lease("w", 2, "search", MARCH, back_nusd=80))
    assert bench.figures("search") == (20, 0, 380)
    assert {row["state"] for row in statement.settlements(bench.engine, 0)[0]} == {"corrected"}


def test_a_change_that_is_told_again_gets_its_first_answer_even_after_a_restart(bench: Any) -> None:
    ledger = bench.open()
    asked = Lease("w", 7, "search", want_nusd=50)
    assert performed(ledger, asked) == performed(ledger, asked)
    ledger.close()
    again = bench.open()
    assert performed(again, asked) == [Leased(50, MARCH, 1775001600000000000)]
    back = Lease("w", 8, "search", MARCH, back_nusd=50)
    assert performed(again, back) == performed(again, back) == [Leased(0)] or bench.line("search")["leased_nusd"] == 0
    assert bench.figures("search") == (0, 0, 400)


def test_a_call_that_was_let_through_is_booked_once_and_past_the_limit_it_is_an_overrun(bench: Any) -> None:
    ledger = bench.open()
    ledger.reserve("r", 0, SEARCH, 300)
    charge = Charge("let", 1, 150, SEARCH, bench.now_ns)
    assert performed(ledger, charge, charge) == [Settled(("company", "search"), 50), Settled(("company", "search"))]
    assert (bench.figures("search"), bench.line("search")["overrun_nusd"]) == ((100, 300, 0), 50)
    ledger.close()
    performed(bench.open(), charge, Settle("r", 0, 0))
    assert bench.figures("company") == (150, 0, 850)


def test_a_late_booking_counts_in_the_period_of_its_call(bench: Any) -> None:
    ledger = bench.open()
    march = bench.now_ns
    bench.now_ns = march + 31 * 86_400 * 10**9
    performed(ledger, Charge("let", 1, 150, SEARCH, march))
    assert bench.figures("search") == (0, 0, 400)
    bench.now_ns = march
    assert bench.figures("search") == (150, 0, 250)


def test_what_became_of_holds_is_forgotten_in_time_and_their_money_is_not(bench: Any) -> None:
    ledger = bench.open()
    for n in range(5):
        ledger.reserve(f"r{n}", 0, SEARCH, 10)
        ledger.settle(f"r{n}", 0, 4)
    ledger.reserve("open", 0, SEARCH, 10)
    ledger.close()
    bench.now_ns += KEEP_NS + 10**9
    bench.open()
    ends = threading.Event()
    while count(bench, "settled") and not ends.wait(0.05):
        pass  # the owner prunes when nothing is asked of it
    assert count(bench, "open") + count(bench, "expired") == 2  # in its two budgets
    with bench.engine.connect() as connection:
        spent = connection.execute(text("SELECT spent_nusd FROM balances WHERE budget = 'search'")).scalar()
    assert spent == 30


def count(bench: Any, state: str) -> int:
    with bench.engine.connect() as connection:
        return connection.execute(text("SELECT COUNT(*) FROM holds WHERE state = :s"), {"s": state}).scalar() or 0


def test_settlements_come_in_pages_that_leave_nothing_out(bench: Any) -> None:
    ledger = bench.open()
    names = [f"r{n}" for n in range(5)]
    performed(ledger, *(Reserve(name, 0, 1, SEARCH) for name in names))
    performed(ledger, *(Settle(name, 0, 1) for name in names))  # all at one instant
    seen: list[str] = []
    after = ""
    while after is not None:
        rows, after = statement.settlements(bench.engine, 0, statement.cursor(after), most=3)
        seen += [f"{row['request_id']}/{row['budget']}" for row in rows]
    assert seen == [f"{name}/{budget}" for name in names for budget in ("company", "search")]
