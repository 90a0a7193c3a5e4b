"""Claim: budgets cost a request microseconds to decide, and one owner with group commit serves many callers durably.

    python bench/ledger.py [--seconds 2] [--rounds 3] [--dir FOLDER]

The peer is raw SQLite (WAL, synchronous=FULL, the same two balances and hold row) that commits every operation by
itself, in the same run and on the same disk; the same owner on PostgreSQL is measured beside it where one is installed.
Prints lines for people, then one line of JSON; exit 1 on a missed limit.
"""
from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import socket
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import uvloop
from policy import TEAMS, budgets, decide_us, policies
from verdict import conclude

from farthing.errors import LedgerError
from farthing.parts import die_with
from farthing.policy import Budget, CompiledDocument, Document, Facts
from farthing.settings import Settings
from policies.database import open_database
from policies.ledger import Ledger
from policies.main import main as policies_main
from policies.operations import Reserve, Settle
from policies.store import Store
from proxy.spend import Spend
from proxy.upstream import Client
from tests.postgres import Postgres, missing

LIMITS = {
    "decide_us_at_100_policies": ("<=", 10.0),
    "group_commit_over_commit_per_op_at_16_callers": (">=", 5.0),
    "lease_hot_path_us": ("<=", 5.0),
    "lease_pairs_per_s": (">=", 20_000),
}
HOLD_NUSD = 5_000
COST_NUSD = 3_210
PATIENCE_S = 60.0  # within which a worker has leases in hand, however busy the machine is
LEASED_TEAMS = 8  # whose calls one worker serves at a time


def main() -> int:
    """Run the claim's measurements and judge them."""
    arguments = _arguments()
    figures = {f"decide_us_at_{n}_policies": decide_us(policies(n), n, arguments.rounds) for n in (100, 10_000)}
    for name, value in figures.items():
        print(f"{name:32} {value:8.2f} CPU µs")
    with tempfile.TemporaryDirectory(dir=arguments.dir) as folder:
        figures |= leased_pairs(Path(folder), arguments.seconds, arguments.rounds)
        with postgresql() as url:
            figures |= pairs_per_s(Path(folder), url, arguments.seconds, arguments.rounds)
    return conclude("ledger", figures, LIMITS, sqlite=sqlite3.sqlite_version)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median counts")
    parser.add_argument("--dir", default=None, help="folder on the disk to measure")
    return parser.parse_args()


def leased_pairs(folder: Path, seconds: float, rounds: int) -> dict[str, float]:
    """Return what reserve and settle cost one proxy worker whose ledger is a control plane in a process of its own."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runs = [runner.run(_worker(folder / f"lease-{number}", seconds)) for number in range(rounds)]
    figures = {name: round(statistics.median(run[name] for run in runs), 2) for name in runs[0]}
    for name, value in figures.items():
        print(f"{name:32} {value:10.1f}   of {[round(run[name], 2) for run in runs]}")
    return figures


async def _worker(folder: Path, seconds: float) -> dict[str, float]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    plane = multiprocessing.get_context("spawn").Process(target=_plane, args=(folder, port), daemon=True)
    plane.start()
    client = Client()
    spend = Spend(client, f"http://127.0.0.1:{port}", folder / "proxy")
    held_by = [CompiledDocument(_lease_document()).budgets(Facts("default", team=f"team-{n}")) for n in range(TEAMS)]
    while True:
        try:
            await spend.reserve("first", Facts("default", team="team-0"), held_by[0], 0)
            break
        except LedgerError:
            await asyncio.sleep(0.1)
    try:
        return await _measured(spend, held_by, seconds)
    finally:
        await spend.drain(10)
        client.close()
        plane.terminate()
        plane.join()


async def _measured(spend: Spend, held_by: list[tuple[Budget, ...]], seconds: float) -> dict[str, float]:
    """Reserve and settle as fast as one worker can, its talk with the ledger included; then until it is all told."""
    facts = [Facts("default", team=f"team-{n}", model="gpt-4o") for n in range(LEASED_TEAMS)]
    inner_s, inner, pairs, leased = 0.0, 0, 0, 0
    started, cpu = time.perf_counter(), time.process_time()
    while (now := time.perf_counter()) < started + seconds or (not inner and now < started + PATIENCE_S):
        begun, leased_before = time.thread_time(), leased
        for n in range(pairs, pairs + 64):
            hold = await spend.reserve(f"r{n}", facts[n % LEASED_TEAMS], held_by[n % LEASED_TEAMS], HOLD_NUSD)
            assert hold is not None
            spend.settle(hold, COST_NUSD)
            leased += bool(hold.accounts)
        if leased - leased_before == 64:  # no other task ran meanwhile
            inner, inner_s = inner + 64, inner_s + time.thread_time() - begun
        pairs += 64
        await asyncio.sleep(0)
        while spend.waiting > 5000:  # the ledger is asked to keep up
            await asyncio.sleep(0.001)
    while spend.waiting:
        await asyncio.sleep(0.001)
    took, used = time.perf_counter() - started, time.process_time() - cpu
    return {
        "lease_hot_path_us": inner_s / inner * 1e6, "lease_pairs_per_s": pairs / took,
        "lease_worker_cpu_us_per_pair": used / pairs * 1e6, "leased_share": leased / pairs,
    }  # fmt: skip


def _plane(folder: Path, port: int) -> None:
    """Run a control plane with the budgets of the benchmark."""
    die_with(os.getppid())
    settings = Settings(data_dir=folder / "control", policies_port=port)
    engine = open_database(settings.control_db_url)
    texts = [
        f"apiVersion: farthing/v1\nkind: Budget\nmetadata: {{name: {one.name}}}\nlimit: 100000000 USD\n"
        + (f"scope: {{team: {one.name}}}\n" if one.scope.team else "")
        for one in _lease_document().budgets
    ]
    Store(engine).apply("---\n".join(texts), "bench", "")
    engine.dispose()
    policies_main(settings)


def _lease_document() -> Document:
    return Document(version=1, budgets=budgets()[: LEASED_TEAMS + 1])


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """Run a PostgreSQL server of the machine's own package; yield its URL, or nothing where there is none."""
    if why := missing():
        print(f"PostgreSQL is left out: {why}")
        yield ""
        return
    server = Postgres()
    server.start()
    try:
        yield server.url
    finally:
        server.stop()


def pairs_per_s(folder: Path, postgresql_url: str, seconds: float, rounds: int) -> dict[str, float]:
    """Return reserve+settle pairs a second of the owner at 1, 16 and 64 callers, and of the peer, in turns."""
    runs: dict[str, list[float]] = {}
    for number in range(rounds):
        runs.setdefault("commit_per_op", []).append(_peer(folder / f"peer-{number}.db", seconds))
        for callers in (1, 16, 64):
            urls = {"": f"sqlite:///{folder}/owner-{number}-{callers}.db", "_on_postgresql": postgresql_url}
            for where, url in urls.items():
                if url:
                    rate, p99_ms = _owner(url, f"{number}-{callers}", callers, seconds)
                    runs.setdefault(f"owner_{callers}_callers{where}", []).append(rate)
                    runs.setdefault(f"owner_{callers}_callers{where}_reserve_p99_ms", []).append(p99_ms)
    for name, values in runs.items():
        unit = "ms" if name.endswith("_ms") else "pairs/s"
        print(f"{name:32} {statistics.median(values):10.1f} {unit}   of {[round(value, 1) for value in values]}")
    figures = {name: round(statistics.median(values), 1) for name, values in runs.items()}
    ratios = [ours / peer for ours, peer in zip(runs["owner_16_callers"], runs["commit_per_op"], strict=True)]
    figures["group_commit_over_commit_per_op_at_16_callers"] = round(statistics.median(ratios), 2)
    return figures


def _owner(url: str, run: str, callers: int, seconds: float) -> tuple[float, float]:
    engine = open_database(url)
    ledger = Ledger(engine, CompiledDocument(Document(version=1, budgets=budgets())), hold_ttl_s=600)
    ledger.start()
    waits_s: list[float] = []
    started = time.perf_counter()
    running = [_Caller(ledger, run, caller, started + seconds, waits_s) for caller in range(callers)]
    for caller in running:
        caller.ended.wait()
    took = time.perf_counter() - started
    ledger.close()
    engine.dispose()
    return len(waits_s) / took, sorted(waits_s)[int(len(waits_s) * 0.99)] * 1e3


class _Caller:
    """Reserves, settles, and begins anew when the answer comes; needs no thread of its own, as in an event loop."""

    def __init__(self, ledger: Ledger, run: str, number: int, ends: float, waits_s: list[float]) -> None:
        self._ledger = ledger
        self._name = f"{run}-{number}"  # of no other run on the same database
        self._facts = Facts("default", team=f"team-{number % TEAMS}", model="gpt-4o")
        self._ends = ends
        self._waits_s = waits_s
        self._pairs = 0
        self.ended = threading.Event()
        self._reserve()

    def _reserve(self) -> None:
        self._asked = time.perf_counter()
        if self._asked > self._ends:
            self.ended.set()
            return
        self._id = f"{self._name}-{self._pairs}"
        self._ledger.submit([Reserve(self._id, 0, HOLD_NUSD, self._facts)], self._settle)

    def _settle(self, _results: object, error: BaseException | None) -> None:
        if error is not None:
            raise error
        self._waits_s.append(time.perf_counter() - self._asked)
        self._pairs += 1
        self._ledger.submit([Settle(self._id, 0, COST_NUSD)], lambda _results, _error: self._reserve())


def _peer(path: Path, seconds: float) -> float:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;" + _PEER_SCHEMA)
    connection.executemany("INSERT INTO budget VALUES (?, ?, 0, 0)", [(n, 10**17) for n in range(TEAMS + 1)])
    ends = (started := time.perf_counter()) + seconds
    pairs = 0
    while time.perf_counter() < ends:
        _peer_pair(connection, pairs, 1 + pairs % TEAMS)
        pairs += 1
    took = time.perf_counter() - started
    connection.close()
    return pairs / took


_PEER_SCHEMA = """
CREATE TABLE budget (id INTEGER PRIMARY KEY, lim INTEGER, held INTEGER, spent INTEGER, CHECK (held + spent <= lim));
CREATE TABLE hold (id TEXT, budget INTEGER, held INTEGER, charged INTEGER, PRIMARY KEY (id, budget)) WITHOUT ROWID;
"""


def _peer_pair(connection: sqlite3.Connection, n: int, team: int) -> None:
    connection.execute("BEGIN IMMEDIATE")
    for budget in (0, team):
        connection.execute("UPDATE budget SET held = held + ? WHERE id = ?", (HOLD_NUSD, budget))
        connection.execute("INSERT INTO hold VALUES (?, ?, ?, 0)", (f"{n}", budget, HOLD_NUSD))
    connection.execute("COMMIT")
    connection.execute("BEGIN IMMEDIATE")
    for budget in (0, team):
        move = "UPDATE budget SET held = held - ?, spent = spent + ? WHERE id = ?"
        connection.execute(move, (HOLD_NUSD, COST_NUSD, budget))
        connection.execute("UPDATE hold SET charged = ? WHERE id = ? AND budget = ?", (COST_NUSD, f"{n}", budget))
    connection.execute("COMMIT")


if __name__ == "__main__":
    raise SystemExit(main())
