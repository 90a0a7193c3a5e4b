"""proxy/spend.py against a ledger that is slow, broken or unwilling."""
from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from farthing.errors import LedgerError
from farthing.policy import Budget, Facts
from proxy.spend import Hold, Spend
from proxy.upstream import Client
from tests.proxy.test_upstream import body_of, server

FACTS = Facts("default", team="t")
BUDGETS = (Budget(name="b", limit_nusd=10**9),)
Operations = list[dict[str, Any]]
Ledger = Callable[[Operations], "tuple[int, Any] | None"]  # status and body; None = break the connection off
Run = Callable[[Ledger, Callable[[Spend], Awaitable[None]]], list[list[tuple[str, str, int]]]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def run_in(ledger: Ledger, act: Callable[[Spend], Awaitable[None]]) -> list[list[tuple[str, str, int]]]:
        """Run `act` against a ledger that answers as told; return the batches that it saw."""
        seen: list[list[tuple[str, str, int]]] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                operations = json.loads(await body_of(reader))
                amounts = [o.get("amount_nusd", o.get("actual_nusd")) for o in operations]
                seen.append([(o["op"], o["request_id"], amount) for o, amount in zip(operations, amounts, strict=True)])
                answer = ledger(operations)
                if answer is None:
                    break
                body = answer[1] if isinstance(answer[1], bytes) else json.dumps(answer[1]).encode()
                writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%b" % (answer[0], len(body), body))

        async def main() -> None:
            async with server(serve) as url:
                client = Client()
                spend = Spend(client, url, tmp_path, lease_s=0)
                await act(spend)
                while spend.waiting:
                    await asyncio.sleep(0.01)
                await spend.drain(60.0)
                client.close()

        asyncio.run(main())
        assert list(tmp_path.glob("backlog-*")) == []  # all of it was told
        return seen

    return run_in


def test_a_disk_that_takes_no_file_costs_the_leases_and_no_call(tmp_path: Path) -> None:
    taken = tmp_path / "a file, where a folder should be"
    taken.touch()
    seen: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            operations = json.loads(await body_of(reader))
            seen.extend(o["op"] for o in operations)
            body = json.dumps(granted(operations)[1]).encode()
            writer.write(b"HTTP/1.1 200 X\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    async def main() -> None:
        async with server(serve) as url:
            client = Client()
            spend = Spend(client, url, taken, lease_s=2.0)
            for number in range(10):  # enough for a lease
                hold = await reserved(spend, f"r{number}", 5)
                assert hold is not None and not hold.accounts
                spend.settle(hold, 4)
            while spend.waiting:
                await asyncio.sleep(0.01)
            await spend.drain(60.0)
            client.close()

    asyncio.run(main())
    assert seen == ["reserve", "settle"] * 10


def granted(operations: Operations) -> tuple[int, Any]:
    return 200, [{"ok": True, "budgets": ["b"]} for _ in operations]


async def reserved(spend: Spend, name: str, amount: int) -> Hold | None:
    return await spend.reserve(name, FACTS, BUDGETS, amount)


def test_operations_that_come_together_go_together(run: Run) -> None:
    async def act(spend: Spend) -> None:
        assert all(await asyncio.gather(*(reserved(spend, f"r{n}", n) for n in range(5))))

    assert [len(batch) for batch in run(granted, act)] == [5]


def test_a_reservation_whose_answer_was_lost_is_settled_at_nothing(run: Run) -> None:
    def loses_the_first(operations: Operations) -> tuple[int, Any] | None:
        return None if any(o["op"] == "reserve" for o in operations) else granted(operations)

    async def act(spend: Spend) -> None:
        with pytest.raises(LedgerError):
            await reserved(spend, "r", 5)

    seen = run(loses_the_first, act)
    assert seen[0] == [("reserve", "r", 5)] and seen[-1] == [("settle", "r", 0)]


def test_a_settlement_is_repeated_until_the_ledger_has_taken_it(run: Run) -> None:
    answers = [None, (503, b"busy"), (200, b"not json"), (200, []), (200, b"\xff")]

    async def act(spend: Spend) -> None:
        spend.settle(Hold("r", 9, 0), 7)

    seen = run(lambda operations: answers.pop(0) if answers else granted(operations), act)
    assert set(map(tuple, seen)) == {(("settle", "r", 7),)} and len(seen) >= 6


def test_an_operation_that_the_ledger_never_takes_does_not_hold_up_the_others(run: Run) -> None:
    def refuses_bad(operations: Operations) -> tuple[int, Any]:
        return (400, b"bad") if any(o["request_id"] == "bad" for o in operations) else granted(operations)

    async def act(spend: Spend) -> None:
        spend.settle(Hold("one", 9, 0), 1)
        spend.settle(Hold("bad", 9, 0), 10**18)
        spend.settle(Hold("two", 9, 0), 2)
        with pytest.raises(LedgerError, match="400"):
            await reserved(spend, "bad", 1)
        assert await reserved(spend, "good", 1)

    taken = {operation for batch in run(refuses_bad, act) if len(batch) == 1 for operation in batch}
    assert {("settle", "one", 1), ("settle", "two", 2), ("reserve", "good", 1)} <= taken


def test_nothing_piles_up_while_the_ledger_cannot_be_reached(tmp_path: Path) -> None:
    async def main() -> None:
        spend = Spend(Client(), "http://127.0.0.1:1", tmp_path, lease_s=0)
        for number in range(3):
            with pytest.raises(LedgerError, match="cannot connect"):
                await reserved(spend, f"r{number}", 1)
        assert spend.waiting == 0
        await spend.drain(0)

    asyncio.run(main())
    assert list(tmp_path.iterdir()) == []


def test_a_reservation_that_nobody_waits_for_any_more_is_given_back(run: Run) -> None:
    async def act(spend: Spend) -> None:
        asking = asyncio.create_task(reserved(spend, "r", 5))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)

    operations = [operation for batch in run(granted, act) for operation in batch]
    assert operations == [("reserve", "r", 5), ("settle", "r", 0)]
