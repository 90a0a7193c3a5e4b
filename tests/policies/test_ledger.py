"""policies/ledger.py: what a budget holds, charges, refuses and remembers."""
from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from sqlalchemy import text

from farthing.errors import LedgerError, OverBudgetError
from farthing.policy import Facts
from policies import statement
from policies.database import writing
from policies.ledger import Ledger
from policies.operations import Operation, Refused, Reserve, Reserved, Settle, Settled

SEARCH = Facts("acme", team="search")
OTHER = Facts("acme", team="other")


def performed(ledger: Ledger, *operations: Operation) -> list[Any]:
    return asyncio.run(ledger.run(operations))


def test_a_reservation_holds_the_amount_in_every_budget_it_falls_into(bench: Any) -> None:
    ledger = bench.open()
    assert ledger.reserve("r", 0, SEARCH, 300) == ("company", "search")
    assert ledger.reserve("s", 0, OTHER, 300) == ("company",)
    assert (bench.figures("company"), bench.figures("search")) == ((0, 600, 400), (0, 300, 100))


def test_what_does_not_fit_into_one_budget_is_held_in_none(bench: Any) -> None:
    ledger = bench.open()
    with pytest.raises(OverBudgetError) as refused:
        ledger.reserve("r", 0, SEARCH, 401)
    error = refused.value
    assert (error.budget, error.limit_nusd, error.free_nusd, error.asked_nusd) == ("search", 400, 400, 401)
    assert (bench.figures("company"), bench.line("search")["refused"]) == ((0, 0, 1000), 1)


def test_the_last_nano_dollar_can_be_used_and_no_more(bench: Any) -> None:
    ledger = bench.open()
    assert ledger.reserve("r", 0, SEARCH, 400)
    with pytest.raises(OverBudgetError):
        ledger.reserve("s", 0, SEARCH, 1)
    assert ledger.reserve("t", 0, SEARCH, 0) == ("company", "search")


def test_a_settlement_charges_the_real_cost_and_frees_the_rest(bench: Any) -> None:
    ledger = bench.open()
    ledger.reserve("r", 0, SEARCH, 300)
    assert ledger.settle("r", 0, 120) == ("company", "search")
    assert bench.figures("search") == (120, 0, 280)


def test_repeats_change_nothing_and_get_the_same_answer(bench: Any) -> None:
    ledger = bench.open()
    assert ledger.reserve("r", 0, SEARCH, 300) == ledger.reserve("r", 0, SEARCH, 300)
    assert bench.figures("search") == (0, 300, 100)
    assert ledger.settle("r", 0, 120) == ledger.settle("r", 0, 999)
    assert bench.figures("search") == (120, 0, 280)


def test_a_hold_id_is_good_for_one_hold_even_after_a_restart(bench: Any) -> None:
    ledger = bench.open()
    ledger.reserve("r", 0, SEARCH, 100)
    with pytest.raises(LedgerError, match="reserve a new attempt"):
        ledger.reserve("r", 0, SEARCH, 101)
    ledger.settle("r", 0, 10)
    with pytest.raises(LedgerError, match="reserve a new attempt"):
        ledger.reserve("r", 0, SEARCH, 100)
    restarted = bench.open()
    with pytest.raises(LedgerError, match="reserve a new attempt"):
        restarted.reserve("r", 0, SEARCH, 100)
    assert bench.figures("search") == (10, 0, 390)
    assert restarted.reserve("r", 1, SEARCH, 100) == ("company", "search")


def test_one_operation_that_the_database_refuses_fails_no_other_of_its_commit(bench: Any) -> None:
    first = bench.open()
    first.reserve("used", 0, SEARCH, 1)
    first.settle("used", 0, 1)
    first.close()
    ledger = bench.open()  # does not remember "used"

    async def together() -> list[Any]:
        wait = threading.Event()
        blocked = asyncio.ensure_future(ledger.exclusively(wait.wait))
        await asyncio.sleep(0)
        asked = [ledger.run([Reserve(name, 0, 10, SEARCH)]) for name in ("a", "used", "b")]
        gathered = asyncio.gather(*asked)
        await asyncio.sleep(0.05)
        wait.set()
        await blocked
        return [results[0] for results in await gathered]

    a, used, b = asyncio.run(together())
    assert isinstance(a, Reserved) and isinstance(b, Reserved) and isinstance(used, Refused)
    assert bench.figures("search") == (1, 20, 379)


def test_a_settlement_without_a_hold_charges_nothing(bench: Any) -> None:
    assert performed(bench.open(), Settle("unknown", 0, 5)) == [Settled(())]


def test_a_cost_above_the_hold_is_charged_as_far_as_it_fits_and_the_rest_is_shown(bench: Any) -> None:
    ledger = bench.open()
    ledger.reserve("r", 0, SEARCH, 100)
    ledger.reserve("s", 0, SEARCH, 250)
    assert performed(ledger, Settle("r", 0, 170)) == [Settled(("company", "search"), overrun_nusd=20)]
    assert (bench.figures("company"), bench.line("company")["overrun_nusd"]) == ((170, 250, 580), 0)
    assert (bench.figures("search"), bench.line("search")["overrun_nusd"]) == ((150, 250, 0), 20)


def test_a_soft_budget_counts_everything_and_refuses_nothing(bench: Any) -> None:
    ledger = bench.open(soft=10)
    ledger.reserve("r", 0, SEARCH, 500)
    ledger.settle("r", 0, 600)
    assert (bench.figures("soft"), bench.line("soft")["overrun_nusd"]) == ((600, 0, 0), 0)


def test_a_forgotten_hold_is_charged_in_full_and_corrected_when_its_cost_is_known(bench: Any) -> None:
    ledger = bench.open()
    ledger.reserve("r", 0, SEARCH, 300)
    bench.now_ns += 60 * 10**9
    performed(ledger)
    assert bench.figures("search") == (300, 0, 100)
    assert ledger.settle("r", 0, 120) == ("company", "search")
    assert bench.figures("search") == (120, 0, 280)
    ledger.settle("r", 0, 5)
    assert bench.figures("search") == (120, 0, 280)
    assert {row["state"] for row in statement.settlements(bench.engine, 0)[0]} == {"corrected"}


def test_a_hold_that_asked_for_a_lifetime_of_its_own_outlives_others_and_a_restart_and_ends_in_time(bench: Any) -> None:
    ledger = bench.open()
    ledger.reserve("usual", 0, SEARCH, 10)
    for name, seconds in (("short", 600), ("long", 90_000)):
        performed(ledger, Reserve(name, 0, 100, SEARCH, seconds))
    bench.now_ns += 60 * 10**9
    performed(ledger)
    assert bench.figures("search") == (10, 200, 190)
    ledger.close()
    ledger = bench.open()
    assert performed(ledger, Reserve("long", 0, 100, SEARCH, 90_000)) == [Reserved(("company", "search"))]  # a repeat
    bench.now_ns += 600 * 10**9
    performed(ledger)
    assert bench.figures("search") == (110, 100, 190)
    ledger.settle("long", 0, 40)
    ledger.settle("short", 0, 5)  # heard of late
    assert bench.figures("search") == (10 + 5 + 40, 0, 345)
    bench.now_ns += 90_000 * 10**9
    performed(ledger)
    assert bench.figures("search") == (10 + 5 + 40, 0, 345)


def test_holds_expire_with_nobody_asking(bench: Any) -> None:
    ledger = bench.open()
    ledger.reserve("r", 0, SEARCH, 300)
    bench.now_ns += 61 * 10**9
    ends = threading.Event()
    while bench.figures("search")[0] == 0 and not ends.wait(0.05):
        pass
    assert bench.figures("search") == (300, 0, 100)


def test_a_hold_belongs_to_the_period_it_was_reserved_in(bench: Any) -> None:
    ledger = bench.open()
    ledger.reserve("r", 0, SEARCH, 400)
    march = bench.now_ns
    bench.now_ns = march + 31 * 86_400 * 10**9
    assert ledger.reserve("s", 0, SEARCH, 400) == ("company", "search")
    ledger.settle("r", 0, 7)
    assert bench.figures("search") == (0, 400, 0)
    bench.now_ns = march
    assert bench.figures("search") == (7, 0, 393)


def test_a_lowered_limit_refuses_until_the_budget_is_under_it(bench: Any) -> None:
    ledger = bench.open()
    ledger.reserve("r", 0, SEARCH, 300)
    bench.follow(ledger, company=1000, search=100)
    with pytest.raises(OverBudgetError) as refused:
        ledger.reserve("s", 0, SEARCH, 0)
    assert (refused.value.limit_nusd, refused.value.free_nusd) == (100, 0)
    ledger.settle("r", 0, 60)
    assert ledger.reserve("t", 0, SEARCH, 40)
    assert bench.figures("search") == (60, 40, 0)


def test_a_raised_limit_counts_at_once_and_hard_may_become_soft(bench: Any) -> None:
    ledger = bench.open()
    ledger.reserve("r", 0, SEARCH, 400)
    bench.follow(ledger, company=1000, search=500)
    assert ledger.reserve("s", 0, SEARCH, 100)
    bench.follow(ledger, company=10_000)
    assert ledger.reserve("t", 0, SEARCH, 5000) == ("company",)


def test_a_restart_keeps_holds_and_charges(bench: Any) -> None:
    ledger = bench.open()
    ledger.reserve("r", 0, SEARCH, 100)
    ledger.reserve("s", 0, SEARCH, 200)
    ledger.settle("s", 0, 50)
    ledger.close()
    again = bench.open()
    assert bench.figures("search") == (50, 100, 250)
    assert again.settle("r", 0, 30) == ("company", "search")
    assert bench.figures("search") == (80, 0, 320)


def test_an_owner_that_was_taken_over_can_do_nothing(bench: Any) -> None:
    old = bench.open()
    old.reserve("r", 0, SEARCH, 100)
    new = bench.open()
    with pytest.raises(LedgerError, match="has taken the ledger over"):
        old.reserve("s", 0, SEARCH, 300)
    assert new.reserve("t", 0, SEARCH, 300)
    assert bench.figures("search") == (0, 400, 0)


SENSELESS = [Reserve("r", 0, -1, SEARCH), Settle("r", 0, -1), Reserve("r", 0, 10**16, SEARCH)]


@pytest.mark.parametrize("operation", SENSELESS)
def test_amounts_that_make_no_sense_are_refused_before_they_are_queued(bench: Any, operation: Operation) -> None:
    with pytest.raises(LedgerError, match="allowed is 0 to"):
        performed(bench.open(), operation)


def test_a_database_that_fails_is_told_to_the_caller_and_recovered_from(bench: Any) -> None:
    ledger = bench.open()
    ledger.reserve("r", 0, SEARCH, 100)
    with writing(bench.engine) as connection:
        connection.execute(text("ALTER TABLE holds RENAME TO away"))
    with pytest.raises(LedgerError, match="control database failed"):
        ledger.reserve("s", 0, SEARCH, 100)
    with writing(bench.engine) as connection:
        connection.execute(text("ALTER TABLE away RENAME TO holds"))
    assert ledger.reserve("s", 0, SEARCH, 100)
    assert (bench.figures("search"), ledger.failures) == ((0, 200, 200), 1)


def test_a_closed_ledger_answers_what_it_took_and_refuses_the_rest(bench: Any) -> None:
    ledger = bench.open()
    answers: list[Any] = []
    for n in range(200):
        ledger.submit([Reserve(f"r{n}", 0, 1, SEARCH)], lambda results, error: answers.append(error or results[0]))
    ledger.close()
    assert len(answers) == 200 and all(isinstance(answer, Reserved) for answer in answers)
    with pytest.raises(LedgerError, match="closed"):
        ledger.reserve("s", 0, SEARCH, 1)
