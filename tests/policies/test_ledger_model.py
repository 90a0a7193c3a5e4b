"""policies/book.py against a model: any sequence of operations, limits, clocks and crashes, to the nano-dollar."""
from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import text

from farthing.policy import Budget, CompiledDocument, Document, Facts
from policies.book import Book
from policies.database import open_database
from policies.lending import SHARE
from policies.operations import (
    Correct,
    Corrected,
    Draw,
    Lease,
    Leased,
    Operation,
    Refused,
    Renew,
    Reserve,
    Reserved,
    Retire,
    Settle,
    Settled,
)

S = 1_000_000_000  # nanoseconds
TTL_S = 100
DAY_S = 86_400
MIDNIGHT_S = 20_000 * DAY_S
SCOPES: dict[str, dict[str, str]] = {"org": {}, "team": {"team": "search"}, "user": {"user": "ann"}, "watch": {}}
HARD = {"org": True, "team": True, "user": True, "watch": False}


class Crash(Exception):
    """The process dies before its commit."""


class CrashingBook(Book):
    """Writes all rows of a transaction and then dies, when told to."""

    dies = False

    def _write(self, connection: Any, memory: Any) -> None:
        super()._write(connection, memory)
        if self.dies:
            raise Crash


@dataclass
class Expected:
    """One budget in one day, as plain arithmetic has it."""

    spent: int = 0
    held: int = 0
    overrun: int = 0


@dataclass
class ExpectedHold:
    amount: int
    day: int
    at_s: int
    budgets: list[str]
    state: str = "open"
    charged: dict[str, int] = field(default_factory=dict)


@dataclass
class ExpectedLease:
    """What one worker holds of one budget in one day."""

    leased: int = 0
    charged: int = 0  # since it has expired
    at_s: int = 0


class LedgerMachine(RuleBasedStateMachine):
    holds = Bundle("holds")

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="ledger-")
        self.engine = open_database(f"sqlite:///{self.folder}/control.db")
        self.now_s = MIDNIGHT_S
        self.limits = {"org": 1000, "team": 400, "user": 150, "watch": 50}
        self.last_limits: dict[tuple[str, int], int] = {}
        self.version = 1
        self.balances: dict[tuple[str, int], Expected] = {}
        self.expected: dict[str, ExpectedHold] = {}
        self.leases: dict[tuple[str, str, int], ExpectedLease] = {}
        self.drawn: dict[str, tuple[str, ...]] = {}
        self.guesses: list[tuple[Draw, dict[str, int], int]] = []  # with what was charged to each budget, and the day
        self.lives: dict[str, int] = {}  # of a worker: how often it has died
        self.lost: list[tuple[str, tuple[str, ...], int]] = []  # worker, budgets and day of corrected leases
        self.taken_back = 0
        self.number = 0
        self.book = self.opened()

    def opened(self) -> CrashingBook:
        return CrashingBook(self.engine, self.compiled(), TTL_S, lambda: self.now_s * S)

    def compiled(self) -> CompiledDocument:
        budgets = [
            {"name": name, "scope": scope, "limit_nusd": self.limits[name], "hard": HARD[name]}
            | {"window": {"calendar": "day"}}
            for name, scope in SCOPES.items()
        ]
        return CompiledDocument(Document(version=self.version, budgets=tuple(map(Budget.model_validate, budgets))))

    def balance(self, name: str, day: int) -> Expected:
        return self.balances.setdefault((name, day), Expected())

    def free(self, name: str, day: int) -> int:
        """What is free; the limit that counts for a past day is the one it ended with."""
        balance = self.balance(name, day)
        return max(0, self.limit(name, day) - balance.spent - balance.held)

    def limit(self, name: str, day: int) -> int:
        return self.limits[name] if day == self.now_s // DAY_S else self.last_limits[name, day]

    def expire(self) -> None:
        for hold in self.expected.values():
            if hold.state == "open" and hold.at_s + TTL_S <= self.now_s:
                hold.state = "expired"
                for name in hold.budgets:
                    self.charge(hold, name, hold.amount)
        for (_, name, day), lease in self.leases.items():
            if lease.leased and lease.at_s + TTL_S <= self.now_s:
                self.balance(name, day).held -= lease.leased
                self.balance(name, day).spent += lease.leased
                lease.charged, lease.leased = lease.charged + lease.leased, 0

    def charge(self, hold: ExpectedHold, name: str, actual: int) -> None:
        balance = self.balance(name, hold.day)
        charged = min(actual, hold.amount + self.free(name, hold.day)) if HARD[name] else actual
        balance.held -= hold.amount
        balance.spent += charged
        balance.overrun += actual - charged
        hold.charged[name] = charged

    def perform(self, operation: Operation, crash: bool) -> Any:
        if not crash:
            return self.book.run_alone(operation)
        self.book.dies = True
        try:
            self.book.run([operation])
        except Crash:
            pass
        else:
            raise AssertionError("did not crash")
        self.book.close()
        self.book = self.opened()
        return None

    @rule(target=holds, past=st.integers(0, 1), team=st.booleans(), user=st.booleans())
    def reserve_to_the_edge(self, past: int, team: bool, user: bool) -> Any:
        self.expire()
        day = self.now_s // DAY_S
        names = ["org"] + ["team"] * team + ["user"] * user
        return self.reserve(min(self.free(name, day) for name in names) + past, team, user, crash=False)

    @rule(target=holds, amount=st.integers(0, 200), team=st.booleans(), user=st.booleans(), crash=st.booleans())
    def reserve(self, amount: int, team: bool, user: bool, crash: bool) -> str:
        name, day = f"r{len(self.expected)}", self.now_s // DAY_S
        facts = Facts("acme", team="search" if team else "", user="ann" if user else "")
        budgets = sorted({"org", "watch"} | ({"team"} if team else set()) | ({"user"} if user else set()))
        result = self.perform(Reserve(name, 0, amount, facts), crash)
        if crash:
            return name
        self.expire()
        totals = {b: self.balance(b, day).spent + self.balance(b, day).held + amount for b in budgets if HARD[b]}
        fits = all(total <= self.limits[b] for b, total in totals.items())
        assert isinstance(result, Reserved) == fits, (result, totals)
        if fits:
            assert result.budgets == tuple(budgets)
            self.expected[name] = ExpectedHold(amount, day, self.now_s, budgets)
            for b in budgets:
                self.balance(b, day).held += amount
        return name

    @rule(name=holds)
    def reserve_again(self, name: str) -> None:
        hold = self.expected.get(name)
        if hold is None:
            return
        self.book.tick()
        self.expire()
        result = self.book.run_alone(Reserve(name, 0, hold.amount, Facts("acme")))
        if hold.state == "open":
            assert result == Reserved(tuple(hold.budgets))
        else:
            assert isinstance(result, Refused)

    @rule(name=holds, actual=st.integers(0, 300), crash=st.booleans())
    def settle(self, name: str, actual: int, crash: bool) -> None:
        hold = self.expected.get(name)
        if hold is None or (crash and hold.state in ("settled", "corrected")):
            return
        result = self.perform(Settle(name, 0, actual), crash)
        if crash:
            return
        self.expire()
        assert isinstance(result, Settled) and result.budgets == tuple(hold.budgets)
        if hold.state == "open":
            hold.state = "settled"
            for b in hold.budgets:
                self.charge(hold, b, actual)
        elif hold.state == "expired":
            hold.state = "corrected"
            for b in hold.budgets:
                balance, amount = self.balance(b, hold.day), hold.amount
                balance.spent -= hold.charged[b]
                balance.held += amount
                self.charge(hold, b, actual)

    def told(self, operation: Operation, crash: bool, again: bool) -> Any:
        """Perform an operation, perhaps twice, perhaps with the process's end between: the second changes nothing."""
        result = self.perform(operation, crash=False)
        if again:
            if crash:
                self.book.close()
                self.book = self.opened()
            assert self.perform(operation, crash=False).granted_nusd == result.granted_nusd
        return result

    @rule(
        worker=st.sampled_from(["w1", "w2"]), name=st.sampled_from(sorted(SCOPES)), want=st.integers(0, 400),
        back=st.integers(0, 2), crash=st.booleans(), again=st.booleans(),
    )  # fmt: skip
    def lease_changes(self, worker: str, name: str, want: int, back: int, crash: bool, again: bool) -> None:
        self.expire()
        worker = self.alive(worker)
        day = self.now_s // DAY_S
        period = day_name(day)
        lease = self.leases.get((worker, name, day))
        back = (lease.leased or lease.charged) * back // 2 if lease else 0
        self.number += 1
        asked = Lease(worker, self.number, name, period if lease else "", back, want)
        if crash and not again:
            self.perform(asked, crash=True)
            self.expire()
            return
        result = self.told(asked, crash, again)
        self.expire()
        assert isinstance(result, Leased)
        balance = self.balance(name, day)
        if lease is not None:
            alive = min(back, lease.leased)
            lease.leased -= alive
            lease.charged -= back - alive
            balance.held -= alive
            balance.spent -= back - alive
            lease.at_s = self.now_s
        assert result.granted_nusd <= (min(want, self.free(name, day) // SHARE) if HARD[name] else want)
        if result.granted_nusd:
            lease = self.leases.setdefault((worker, name, day), ExpectedLease())
            lease.leased += result.granted_nusd
            lease.at_s = self.now_s
            balance.held += result.granted_nusd

    @rule(worker=st.sampled_from(["w1", "w2"]), part=st.integers(1, 4), over=st.integers(0, 30), crash=st.booleans(),
          again=st.booleans(), is_guess=st.booleans())  # fmt: skip
    def draw(self, worker: str, part: int, over: int, crash: bool, again: bool, is_guess: bool) -> None:
        """Charge a call to all leases that a worker has of the newest day it has any of; perhaps in full for now."""
        self.expire()
        worker = self.alive(worker)
        mine = {key: one for key, one in self.leases.items() if key[0] == worker and one.leased + one.charged}
        day = max((key[2] for key in mine), default=0)
        mine = {key: one for key, one in sorted(mine.items()) if key[2] == day}
        if not mine:
            return
        held = min(one.leased + one.charged for one in mine.values()) * part // 4
        actual = held if is_guess else held + over if over > 20 else max(0, held - over)
        period = day_name(day)
        request = f"d{len(self.drawn)}"
        places = tuple((name, period) for _, name, _ in mine)
        asked = Draw(worker, request, 0, held, actual, places, self.now_s * S, is_guess)
        if crash and not again:
            self.perform(asked, crash=True)
            self.expire()
            return
        result = self.perform(asked, crash=False)
        self.expire()
        self.drawn[request] = tuple(name for _, name, _ in mine)
        assert isinstance(result, Settled) and result.budgets == self.drawn[request]
        charges: dict[str, int] = {}
        for (_, name, _), lease in mine.items():
            due, balance = min(held, actual), self.balance(name, day)
            paid = min(due, lease.leased)
            lease.leased, lease.charged = lease.leased - paid, lease.charged - (due - paid)
            balance.held -= paid
            balance.spent -= due - paid
            charged = min(actual, due + self.free_beside(name, day, due)) if HARD[name] else actual
            balance.spent += charged
            balance.overrun += actual - charged
            charges[name] = charged
        if is_guess:
            self.guesses.append((asked, charges, day))
        if again:
            assert self.perform(asked, crash=False).budgets == result.budgets

    @precondition(lambda self: self.guesses)
    @rule(which=st.integers(0, 9), actual=st.integers(0, 60), settles=st.booleans(), crash=st.booleans(),
          again=st.booleans())  # fmt: skip
    def usage_of_a_guess_arrives(self, which: int, actual: int, settles: bool, crash: bool, again: bool) -> None:
        """The usage of a call under which its worker died is known after all, from the warehouse or from the worker."""
        number = which % len(self.guesses)
        guess, charges, day = self.guesses[number]
        real = (
            Settle(guess.request_id, 0, actual) if settles
            else Draw(guess.worker, guess.request_id, 0, guess.held_nusd, actual, guess.places, guess.reserved_ns)
        )  # fmt: skip
        if crash and not settles:
            crash = False  # such a draw is refused by its rows, then settled: two transactions
        result = self.perform(real, crash)
        self.expire()
        if crash:
            return
        assert isinstance(result, Settled) and result.budgets == tuple(sorted(charges))
        del self.guesses[number]
        for name, charged in charges.items():
            balance = self.balance(name, day)
            balance.spent -= charged
            now_charged = min(actual, charged + self.free_beside(name, day, charged)) if HARD[name] else actual
            balance.spent += now_charged
            balance.overrun += actual - now_charged
        if again:
            assert self.perform(real, crash=False).budgets == result.budgets

    def alive(self, worker: str) -> str:
        """Return the name that a worker has in this life."""
        return f"{worker}.{self.lives.get(worker, 0)}"

    @rule(worker=st.sampled_from(["w1", "w2"]), crash=st.booleans(), again=st.booleans())
    def worker_has_died(self, worker: str, crash: bool, again: bool) -> None:
        """All that it has left comes back; another takes its name, since the dead one is lent nothing any more."""
        name = self.alive(worker)
        result = self.perform(Retire(name), crash)
        self.expire()
        if crash:
            return
        left = 0
        for (owner, budget, day), lease in self.leases.items():
            if owner == name:
                self.balance(budget, day).held -= lease.leased
                self.balance(budget, day).spent -= lease.charged
                left += lease.leased + lease.charged
                lease.leased = lease.charged = 0
        assert result.returned_nusd == left
        if again:
            assert self.perform(Retire(name), crash=False).returned_nusd == 0
        assert self.perform(Lease(name, 10**6, "watch", want_nusd=5), crash=False).granted_nusd == 0
        self.lives[worker] = self.lives.get(worker, 0) + 1

    @rule(worker=st.sampled_from(["w1", "w2"]), was_heard=st.booleans(), crash=st.booleans(), again=st.booleans())
    def lost_leases_are_corrected(self, worker: str, was_heard: bool, crash: bool, again: bool) -> None:
        """What nothing has accounted for comes back, unless one of its leases is open or it was heard of since."""
        name = self.alive(worker)
        mine = {key: one for key, one in self.leases.items() if key[0] == name and one.leased + one.charged}
        heard_s = max((one.at_s for one in mine.values()), default=self.now_s) - was_heard
        asked = Correct(name, heard_s * S)
        result = self.perform(asked, crash)
        self.expire()
        if crash:
            return
        is_due = not was_heard and not any(one.leased for one in mine.values())
        returned = sum(one.charged for one in mine.values()) if is_due else 0
        assert result == Corrected(returned)
        if not returned:
            return
        for (_, budget, day), lease in mine.items():
            self.balance(budget, day).spent -= lease.charged
            lease.charged = 0
        day = max(key[2] for key in mine)
        self.lost.append((name, tuple(sorted(key[1] for key in mine if key[2] == day)), day))
        self.taken_back += returned
        if again:
            assert self.perform(asked, crash=False) == Corrected(0)
        assert self.perform(Lease(name, 10**6, "watch", want_nusd=5), crash=False).granted_nusd == 0
        self.lives[worker] = self.lives.get(worker, 0) + 1

    @precondition(lambda self: self.lost)
    @rule(which=st.integers(0, 9), held=st.integers(0, 60), actual=st.integers(0, 60), crash=st.booleans(),
          again=st.booleans())  # fmt: skip
    def span_of_a_lost_worker_comes_late(self, which: int, held: int, actual: int, crash: bool, again: bool) -> None:
        """It is charged as far as there is room, once; the rest is shown as an overrun."""
        worker, names, day = self.lost[which % len(self.lost)]
        request, period = f"d{len(self.drawn)}", day_name(day)
        asked = Draw(worker, request, 0, held, actual, tuple((name, period) for name in names), self.now_s * S)
        result = self.perform(asked, crash)
        self.expire()
        if crash:
            return
        self.drawn[request] = names
        assert isinstance(result, Settled) and result.budgets == names
        for name in names:
            balance = self.balance(name, day)
            charged = min(actual, self.free(name, day)) if HARD[name] else actual
            balance.spent += charged
            balance.overrun += actual - charged
        if again:
            assert self.perform(asked, crash=False).budgets == names

    def free_beside(self, name: str, day: int, amount: int) -> int:
        """What is free beside an amount that is about to be charged."""
        balance = self.balance(name, day)
        return max(0, self.limit(name, day) - balance.spent - balance.held - amount)

    @rule(worker=st.sampled_from(["w1", "w2"]))
    def worker_lives(self, worker: str) -> None:
        self.expire()
        worker = self.alive(worker)
        self.perform(Renew(worker), crash=False)
        for (owner, _, _), lease in self.leases.items():
            if owner == worker and lease.leased:
                lease.at_s = self.now_s

    @rule(seconds=st.sampled_from([1, 50, 101]))
    def time_passes(self, seconds: int) -> None:
        self.now_s += seconds
        self.book.tick()
        self.expire()

    @rule()
    def midnight_comes(self) -> None:
        day = self.now_s // DAY_S
        for name, limit in self.limits.items():
            self.last_limits[name, day] = limit
        self.now_s = (day + 1) * DAY_S
        self.book.tick()
        self.expire()

    @rule(name=st.sampled_from(sorted(SCOPES)), limit=st.integers(0, 1200))
    def limit_changes(self, name: str, limit: int) -> None:
        self.limits[name] = limit
        self.version += 1
        self.book.adopt(self.compiled())

    @rule()
    def process_restarts(self) -> None:
        self.book.close()
        self.book = self.opened()
        self.book.tick()
        self.expire()

    @invariant()
    def rows_are_what_the_model_says(self) -> None:
        self.book.tick()
        self.expire()
        with self.engine.connect() as connection:
            rows = connection.execute(text("SELECT * FROM balances")).mappings().all()
            sums = connection.execute(text(_SUMS)).mappings().all()
            leases = connection.execute(text("SELECT * FROM leases")).mappings().all()
            taken_back = connection.execute(text("SELECT SUM(returned_nusd) FROM lease_corrections")).scalar()
        assert (taken_back or 0) == self.taken_back
        for row in rows:
            day = period_day(row["period"])
            expected = self.balance(row["budget"], day)
            assert (row["spent_nusd"], row["held_nusd"], row["overrun_nusd"]) == (
                expected.spent,
                expected.held,
                expected.overrun,
            )
            assert not HARD[row["budget"]] or row["spent_nusd"] + row["held_nusd"] <= row["limit_nusd"]
        stored = {(row["budget"], row["period"]): (row["spent_nusd"], row["held_nusd"]) for row in rows}
        parts = {place: [0, 0] for place in stored}
        for row in (*sums, *leases):
            part = parts[row["budget"], row["period"]]
            part[0] += row["spent"] if "spent" in row else row["charged_nusd"]
            part[1] += row["held"] if "held" in row else row["leased_nusd"]
        assert {place: tuple(part) for place, part in parts.items()} == stored
        lent = {(row["budget"], row["period"]): 0 for row in rows}
        for row in leases:
            lent[row["budget"], row["period"]] += row["leased_nusd"]
            expected_lease = self.leases[row["worker"], row["budget"], period_day(row["period"])]
            assert (row["leased_nusd"], row["charged_nusd"]) == (expected_lease.leased, expected_lease.charged)
        assert lent == {(row["budget"], row["period"]): row["leased_nusd"] for row in rows}

    def teardown(self) -> None:
        self.book.close()
        self.engine.dispose()
        shutil.rmtree(self.folder)


_SUMS = """
SELECT budget, period, SUM(charged_nusd) AS spent, SUM(CASE WHEN state = 'open' THEN held_nusd ELSE 0 END) AS held
FROM holds GROUP BY budget, period
"""


def day_name(day: int) -> str:
    return f"day:{date.fromordinal(date(1970, 1, 1).toordinal() + day)}"


def period_day(name: str) -> int:
    return (date.fromisoformat(name.removeprefix("day:")) - date(1970, 1, 1)).days


TestLedgerModel = LedgerMachine.TestCase
TestLedgerModel.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)


class LongLedgerMachine(LedgerMachine):
    """The same, for longer."""


TestLongLedgerModel = pytest.mark.proof(LongLedgerMachine.TestCase)
TestLongLedgerModel.settings = settings(max_examples=400, stateful_step_count=60, deadline=None)
