"""policies/ledger.py at the edge: 64 callers on one budget, kill -9 and power cuts between any two acknowledgements."""
from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from farthing.errors import OverBudgetError
from farthing.policy import Budget, CompiledDocument, Document, Facts
from policies.database import open_database
from policies.ledger import Ledger
from tests.power import Disk

REPOSITORY = Path(__file__).resolve().parent.parent.parent
OTHER = Facts("acme", team="other")


def in_64_threads(act: Callable[[int], int]) -> int:
    with ThreadPoolExecutor(64) as pool:
        return sum(pool.map(act, range(64)))


def test_64_threads_use_a_budget_to_its_last_request_and_never_past_it(bench: Any) -> None:
    ledger = bench.open(company=10_007)  # 1429 holds of 7 nUSD, and 4 nUSD that none fits into

    def take(thread: int) -> int:
        for n in range(100):
            try:
                ledger.reserve(f"{thread}-{n}", 0, OTHER, 7)
            except OverBudgetError as refused:
                assert refused.free_nusd < 7
                return n
        return 100

    assert in_64_threads(take) == 1429
    assert bench.figures("company") == (0, 10_003, 4)


def test_64_threads_are_refused_nothing_while_all_of_it_fits(bench: Any) -> None:
    ledger = bench.open(company=64 * 20 * 50)

    def spend(thread: int) -> int:
        chance = random.Random(thread)
        total = 0
        for n in range(20):
            ledger.reserve(f"{thread}-{n}", 0, OTHER, 50)
            cost = chance.randrange(51)
            ledger.settle(f"{thread}-{n}", 0, cost)
            total += cost
        return total

    spent = in_64_threads(spend)
    assert bench.figures("company") == (spent, 0, 64_000 - spent)
    assert bench.line("company")["refused"] == 0
    assert ledger.commits < 2 * 64 * 20  # many operations shared a commit




WORKER = """
import sys
from sqlalchemy import Engine
from farthing.policy import Budget, CompiledDocument, Document, Facts
from policies.database import open_database
from policies.ledger import Ledger

budget = Budget(name="company", limit_nusd=10**9)
ledger = Ledger(open_database(sys.argv[1]), CompiledDocument(Document(version=1, budgets=(budget,))), 600)
ledger.start()
for n in range(10**6):
    ledger.reserve(f"{sys.argv[2]}-{n}", 0, Facts("acme"), 100)
    print("held", n, flush=True)
    if n % 3:
        ledger.settle(f"{sys.argv[2]}-{n}", 0, 40)
        print("settled", n, flush=True)
"""


def stopped(url: str, run: str, after: int, cut: Callable[[int], None] = lambda _: None) -> list[str]:
    """Run a worker, kill it after it has acknowledged `after` times; return every acknowledgement."""
    command = [sys.executable, "-c", WORKER, url, run]
    worker = subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert worker.stdout is not None
    with worker.stdout as told:
        lines = [told.readline() for _ in range(after)]
        cut(worker.pid)
        os.kill(worker.pid, signal.SIGKILL)
        lines += told.readlines()
    worker.wait()
    return [line.strip() for line in lines if line.endswith("\n")]


def agrees(url: str, acknowledged: list[str], stops: int) -> None:
    """Hold the rows against what was acknowledged over all runs."""
    held = sum(line.startswith("held") for line in acknowledged)
    settled = sum(line.startswith("settled") for line in acknowledged)
    engine = open_database(url)
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT state, COUNT(*) AS n FROM holds GROUP BY state")).all()
        spent, open_nusd = connection.execute(text("SELECT spent_nusd, held_nusd FROM balances")).one()
    engine.dispose()
    counts = {row.state: row.n for row in rows}
    # at most the one operation in flight at each stop is there without having been acknowledged
    assert held <= counts["open"] + counts["settled"] <= held + stops
    assert settled <= counts["settled"] <= settled + stops
    assert (spent, open_nusd) == (40 * counts["settled"], 100 * counts["open"])


def test_what_was_acknowledged_before_a_kill_is_there_after_it(control_db: str) -> None:
    acknowledged = [line for run, after in (("a", 5), ("b", 38)) for line in stopped(control_db, run, after)]
    agrees(control_db, acknowledged, stops=2)


CUTS = [
    pytest.param((4, 23), id="2 cuts"),  # once a hold, once a settlement was the last to be acknowledged
    pytest.param(tuple(range(4, 64, 3)), id="20 cuts", marks=pytest.mark.proof),
]


@pytest.mark.parametrize("after", CUTS)
def test_what_was_acknowledged_before_a_power_cut_is_there_after_it(disk: Disk, after: tuple[int, ...]) -> None:
    url, acknowledged = f"sqlite:///{disk.mount}/control.db", list[str]()
    for number, lines in enumerate(after):
        acknowledged += stopped(url, f"{number}", lines, disk.cut)
        disk.off()
        disk.on()
        agrees(url, acknowledged, stops=number + 1)


def test_holds_that_a_kill_left_open_are_settled_or_expire(control_db: str) -> None:
    url = control_db
    stopped(url, "a", 1)
    engine = open_database(url)
    budget = Budget(name="company", limit_nusd=10**9)
    compiled = CompiledDocument(Document(version=1, budgets=(budget,)))
    ledger = Ledger(engine, compiled, hold_ttl_s=600)
    ledger.start()
    assert ledger.settle("a-0", 0, 25) == ("company",)
    ledger.close()
    later = Ledger(engine, compiled, hold_ttl_s=0)
    later.start()
    later.close()
    with engine.connect() as connection:
        assert connection.execute(text("SELECT SUM(held_nusd) FROM balances")).scalar() == 0
        assert connection.execute(text("SELECT COUNT(*) FROM holds WHERE state = 'open'")).scalar() == 0
    engine.dispose()
