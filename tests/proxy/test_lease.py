"""proxy/lease.py with its ledger: several workers at the edge of a budget, a ledger or a worker that goes away."""
from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from farthing import http_json
from farthing.errors import LedgerError, OverBudgetError
from farthing.policy import Document, Facts
from farthing.settings import Settings
from policies.main import app
from proxy.spend import Spend
from proxy.unsettled import Unsettled
from proxy.upstream import Client
from tests.conftest import REPOSITORY, served
from tests.ports import free_port
from tests.until import until

FACTS = Facts("default", team="t")
COMPANY = "apiVersion: farthing/v1\nkind: Budget\nmetadata: {{name: {name}}}\nlimit: {limit:.9f} USD\n"


class Plane:
    """A control plane with budgets that hold every call."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def limit(self, nusd: int, *names: str) -> Document:
        text = "---\n".join(COMPANY.format(name=name, limit=nusd / 1e9) for name in names or ("company",))
        http_json.call("POST", f"{self.url}/v1/apply?replace=true", text)
        return self.document()

    def document(self) -> Document:
        return Document.model_validate(http_json.call("GET", f"{self.url}/v1/document"))

    def line(self, name: str = "company") -> dict[str, Any]:
        return next(one for one in http_json.call("GET", f"{self.url}/v1/budgets")["budgets"] if one["name"] == name)

    def figures(self, name: str = "company") -> tuple[int, int, int]:
        line = self.line(name)
        return line["spent_nusd"], line["held_nusd"], line["leased_nusd"]


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    with served(app(Settings(data_dir=tmp_path / "control"))) as port:
        yield Plane(port)


@asynccontextmanager
async def workers(
    url: str, folder: Path, number: int = 1, lease_s: float = 0.4, hold_ttl_s: float = 600.0
) -> AsyncIterator[list[Spend]]:
    client = Client()
    made = [Spend(client, url, folder, lease_s, hold_ttl_s) for _ in range(number)]
    for one in made:
        one.start()
    try:
        yield made
    finally:
        for one in made:
            await one.drain(60.0)
        client.close()


async def call(spend: Spend, document: Document, name: str, hold: int, cost: int) -> int:
    """Reserve and settle one call; return what it cost, 0 where it was refused."""
    try:
        held = await spend.reserve(name, FACTS, document.budgets, hold)
    except OverBudgetError:
        return 0
    assert held is not None
    await asyncio.sleep(0)
    spend.settle(held, cost)
    return cost


def test_a_busy_worker_reserves_most_calls_without_asking_and_returns_what_it_does_not_need(
    plane: Plane, tmp_path: Path
) -> None:
    async def main(document: Document) -> None:
        async with workers(plane.url, tmp_path) as (spend,):
            for n in range(20):
                await call(spend, document, f"warm-{n}", 100, 60)
            asked = 0
            for n in range(300):
                held = await spend.reserve(f"r{n}", FACTS, document.budgets, 100)
                assert held is not None
                asked += not held.accounts
                spend.settle(held, 60)
                if n % 20 == 0:
                    await asyncio.sleep(0.01)
            assert asked < 60
            line = await asyncio.to_thread(plane.line)
            assert line["spent_nusd"] + line["held_nusd"] + line["leased_nusd"] <= line["limit_nusd"]
            while spend.leased or spend.waiting:
                await asyncio.sleep(0.05)
            assert await asyncio.to_thread(plane.figures) == (320 * 60, 0, 0)

    asyncio.run(main(plane.limit(10**8)))


def test_a_call_that_costs_nothing_is_held_like_any_other(plane: Plane, tmp_path: Path) -> None:
    async def main(document: Document) -> None:
        async with workers(plane.url, tmp_path) as (spend,):
            for n in range(3):
                held = await spend.reserve(f"free-{n}", FACTS, document.budgets, 0)
                assert held is not None and held.accounts == ()  # nothing is leased yet
                spend.settle(held, 0)

    asyncio.run(main(plane.limit(100)))
    rows = http_json.call("GET", f"{plane.url}/v1/ledger/settlements")["settlements"]
    assert [row["charged_nusd"] for row in rows] == [0, 0, 0]


def test_64_callers_of_two_workers_use_a_budget_to_its_last_request_and_are_refused_nothing_before(
    plane: Plane, tmp_path: Path
) -> None:
    """Every call costs its hold: exactly 400 fit, however leases and calls fall together."""

    async def caller(spend: Spend, document: Document, number: int) -> int:
        return sum([await call(spend, document, f"{number}-{n}", 100, 100) for n in range(10)])

    async def main(document: Document) -> None:
        async with workers(plane.url, tmp_path, 2) as both:
            spent = await asyncio.gather(*(caller(both[n % 2], document, n) for n in range(64)))
            assert sum(spent) == 400 * 100
        assert plane.figures() == (400 * 100, 0, 0)

    asyncio.run(main(plane.limit(400 * 100 + 99)))


def test_what_one_worker_holds_in_advance_refuses_another_worker_nothing(plane: Plane, tmp_path: Path) -> None:
    async def main(document: Document) -> None:
        async with workers(plane.url, tmp_path, 2, lease_s=5.0) as (rich, poor):
            for n in range(12):
                await call(rich, document, f"rich-{n}", 100, 1)
            while rich.waiting:
                await asyncio.sleep(0.01)
            in_hand = sum(rich.leased.values())
            assert in_hand >= 100
            free = (await asyncio.to_thread(plane.line))["free_nusd"]
            held = await poor.reserve("poor", FACTS, document.budgets, free + in_hand)
            assert held is not None
            poor.settle(held, 7)
        assert plane.figures() == (12 + 7, 0, 0)

    asyncio.run(main(plane.limit(10_000)))


def test_nested_budgets_are_leased_together_and_the_tightest_decides(plane: Plane, tmp_path: Path) -> None:
    async def main(document: Document) -> None:
        chance = random.Random(1)
        async with workers(plane.url, tmp_path, 2) as both:
            costs = [(n, chance.randrange(101)) for n in range(400)]
            spent = await asyncio.gather(*(call(both[n % 2], document, f"r{n}", 100, cost) for n, cost in costs))
        for name in ("company", "team"):
            assert plane.figures(name) == (sum(spent), 0, 0)
        assert plane.line("team")["refused"] > 0 and plane.line("company")["refused"] == 0

    plane.limit(10_000, "team")
    http_json.call("POST", f"{plane.url}/v1/apply", COMPANY.format(name="company", limit=0.00002))
    asyncio.run(main(plane.document()))


def test_calls_let_through_while_the_ledger_is_away_are_booked_when_it_is_back_by_whoever_starts_then(
    plane: Plane, tmp_path: Path
) -> None:
    document = plane.limit(10_000)

    async def away() -> None:
        async with workers(f"http://127.0.0.1:{free_port()}", tmp_path) as (spend,):
            with pytest.raises(LedgerError):
                await spend.reserve("r", FACTS, document.budgets, 100)
            ended = await spend.let_through("ended", FACTS, 100)
            spend.settle(ended, 30)
            await spend.let_through("cut", FACTS, 100)  # its process dies before it ends: it may have cost that much

    async def back() -> None:
        async with workers(plane.url, tmp_path) as (spend,):
            while spend.waiting:
                await asyncio.sleep(0.01)
            assert await asyncio.to_thread(plane.figures) == (130, 0, 0)

    asyncio.run(away())
    assert len(list(tmp_path.glob("backlog-*"))) == 1
    asyncio.run(back())
    assert list(tmp_path.glob("backlog-*")) == []
    asyncio.run(back())


def test_a_worker_leaves_its_leases_alone_once_a_silent_ledger_has_charged_them_in_full(tmp_path: Path) -> None:
    async def main(spend: Spend, document: Document) -> None:
        while not spend.leased.get("company"):
            await call(spend, document, f"r{random.random()}", 100, 1)
            await asyncio.sleep(0.01)
        held = await spend.reserve("leased", FACTS, document.budgets, 1)
        assert held is not None and held.accounts
        spend.settle(held, 0)
        await asyncio.to_thread(close)
        with pytest.raises(LedgerError):
            async with asyncio.timeout(60):
                while True:  # calls that cost nothing never use a lease up
                    await call(spend, document, f"s{random.random()}", 1, 0)
                    await asyncio.sleep(0.01)

    async def work(url: str, document: Document) -> None:
        async with workers(url, tmp_path / "proxy", lease_s=60.0, hold_ttl_s=0.5) as (spend,):
            await main(spend, document)

    with ExitStack() as stack:
        plane = Plane(stack.enter_context(served(app(Settings(data_dir=tmp_path / "control")))))
        close = stack.close
        asyncio.run(work(plane.url, plane.limit(10**6)))


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from farthing.policy import Document, Facts
from proxy.spend import Spend
from proxy.upstream import Client

async def main():
    url, folder, document = sys.argv[1], Path(sys.argv[2]), Document.from_json(sys.argv[3].encode())
    spend = Spend(Client(), url, folder, lease_s=600.0)
    async def reserved(name):
        return await spend.reserve(name, Facts("default"), document.budgets, 100)
    for n in range(100):
        hold = await reserved(f"told-{n}")
        if hold.accounts:
            break
        spend.settle(hold, 10)
        await asyncio.sleep(0.01)
    while spend.waiting:
        await asyncio.sleep(0.01)
    ended = await reserved("ended")
    assert hold.accounts and ended.accounts
    print(n, spend.leased["company"], flush=True)
    spend.settle(ended, 30)  # the ledger has not heard of it
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def killed(plane: Plane, folder: Path, limit: int = 100_000) -> tuple[int, int]:
    """Run a worker that is killed with a call under way, another not told of, and a lease in hand.

    Return how many calls at 10 nUSD it had told of, and what it had leased.
    """
    document = plane.limit(limit).to_json().decode()
    command = [sys.executable, "-c", KILLED, plane.url, str(folder), document]
    done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    told, leased = map(int, done.stdout.split())
    assert leased > 200 and len(list(folder.glob("unsettled-*"))) == 1
    return told, leased


def adopted(plane: Plane, folder: Path) -> None:
    """Let another worker start and tell what the dead one had not told."""

    async def main() -> None:
        async with workers(plane.url, folder) as (spend,):
            while spend.waiting:
                await asyncio.sleep(0.01)

    asyncio.run(main())


def settled(plane: Plane, name: str, nusd: int) -> None:
    operation = {"op": "settle", "request_id": name, "attempt": 0, "actual_nusd": nusd}
    http_json.call("POST", f"{plane.url}/v1/ledger", [operation])


@pytest.mark.parametrize("has_expired", [False, True], ids=["before it expires", "after it expired"])
def test_what_a_killed_worker_had_not_spent_of_its_lease_comes_back_once_when_another_starts(
    tmp_path: Path, has_expired: bool
) -> None:
    settings = Settings(data_dir=tmp_path / "control", hold_ttl_s=3.0 if has_expired else 600.0)
    with served(app(settings)) as port:
        plane = Plane(port)
        told, leased = killed(plane, tmp_path)
        if has_expired:
            until(lambda: plane.figures()[2] == 0, "the lease expires")
            assert plane.figures() == (told * 10 + leased, 0, 0)
        (left,) = tmp_path.glob("unsettled-*")
        kept = left.read_bytes()
        for _ in range(2):  # the second time it arrives again
            adopted(plane, tmp_path)
            assert list(tmp_path.glob("unsettled-*")) == list(tmp_path.glob("backlog-*")) == []
            assert plane.figures() == (told * 10 + 30 + 100, 0, 0)  # nobody knows of the call that was under way
            left.write_bytes(kept)
        for _ in range(2):  # its usage arrives, and arrives again
            settled(plane, f"told-{told}", 45)
            assert plane.figures() == (told * 10 + 30 + 45, 0, 0)
        adopted(plane, tmp_path)
        assert plane.figures() == (told * 10 + 30 + 45, 0, 0)
        states = {row["request_id"]: row["state"] for row in rows(plane)}
        assert (states[f"told-{told}"], states["ended"]) == ("corrected", "corrected" if has_expired else "settled")


def test_a_worker_has_its_file_before_it_has_a_lease_though_no_call_has_ended(plane: Plane, tmp_path: Path) -> None:
    async def main(document: Document) -> None:
        async with workers(plane.url, tmp_path, lease_s=600.0) as (spend,):
            held = await spend.reserve("r", FACTS, document.budgets, 100)
            assert held is not None and len(Unsettled(tmp_path, "another").left_behind()) == 1
            spend.settle(held, 0)

    asyncio.run(main(plane.limit(10_000)))


def rows(plane: Plane) -> list[dict[str, Any]]:
    return http_json.call("GET", f"{plane.url}/v1/ledger/settlements")["settlements"]


def test_what_a_power_cut_may_have_falsified_returns_nothing_and_else_a_budget_is_usable_to_its_last_request_again(
    plane: Plane, tmp_path: Path
) -> None:
    told, leased = killed(plane, tmp_path, 5_000)
    (left,) = tmp_path.glob("unsettled-*")
    whole = left.read_bytes()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip().encode()

    left.write_bytes(whole[:1000])
    adopted(plane, tmp_path)
    assert plane.figures() == (told * 10, 0, leased)

    left.write_bytes(whole.replace(boot, bytes(reversed(boot))))
    adopted(plane, tmp_path)
    assert plane.figures() == (told * 10 + 30 + 100, 0, leased - 130)

    left.write_bytes(whole)
    adopted(plane, tmp_path)
    settled(plane, f"told-{told}", 0)

    async def main(document: Document) -> None:
        async with workers(plane.url, tmp_path) as (spend,):
            made = [await call(spend, document, f"after-{n}", 100, 100) for n in range(60)]
            assert sum(made) == (5_000 - told * 10 - 30) // 100 * 100
            assert made == sorted(made, reverse=True)  # nothing is refused before it is used up

    asyncio.run(main(plane.document()))


EDGE = """
import asyncio, random, sys
from pathlib import Path
from farthing.errors import OverBudgetError
from farthing.policy import Document, Facts
from proxy.spend import Spend
from proxy.upstream import Client

url, folder, document, name = sys.argv[1], Path(sys.argv[2]), Document.from_json(sys.argv[3].encode()), sys.argv[4]
chance = random.Random(name)

async def caller(spend, number):
    made = 0
    while True:
        try:
            hold = await spend.reserve(f"{name}-{number}-{made}", Facts("default"), document.budgets, 100)
        except OverBudgetError:
            return made
        await asyncio.sleep(chance.random() * 0.005)
        spend.settle(hold, 100)
        made += 1

async def main():
    client = Client()
    spend = Spend(client, url, folder, lease_s=0.4)
    print(sum(await asyncio.gather(*(caller(spend, n) for n in range(64)))), flush=True)
    await spend.drain(20.0)
    client.close()

asyncio.run(main())
"""


def at_the_edge(plane: Plane, folder: Path, processes: int, calls: int) -> None:
    """Processes with 64 callers each spend until they are refused: exactly as many calls go through as fit."""
    document = plane.limit(calls * 100 + 99).to_json().decode()
    command = [sys.executable, "-c", EDGE, plane.url, str(folder), document]
    started = [subprocess.Popen([*command, f"p{n}"], cwd=REPOSITORY, stdout=subprocess.PIPE) for n in range(processes)]
    made = [int(process.communicate(timeout=300)[0]) for process in started]
    assert [process.returncode for process in started] == [0] * processes
    assert (sum(made), plane.figures()) == (calls, (calls * 100, 0, 0))


def test_64_callers_of_two_processes_use_a_budget_to_its_last_request(plane: Plane, tmp_path: Path) -> None:
    at_the_edge(plane, tmp_path, 2, 1500)


@pytest.mark.proof
def test_64_callers_of_two_workers_on_two_hosts_use_a_budget_to_its_last_request(plane: Plane, tmp_path: Path) -> None:
    at_the_edge(plane, tmp_path, 4, 50_000)
