"""proxy/ledger_line.py: what may wait for more goes together, and waits no longer than it may."""
from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from proxy import ledger_line
from proxy.backlog import Backlog
from proxy.ledger_line import LedgerLine, Waiting, settled
from proxy.upstream import Client
from tests.proxy.test_upstream import body_of, server


def sent_by(folder: Path, act: Callable[[LedgerLine], Awaitable[None]]) -> list[list[str]]:
    """Return the calls that each request to the ledger told of."""
    seen: list[list[str]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            seen.append([operation["request_id"] for operation in json.loads(await body_of(reader))])
            body = json.dumps([{"ok": True}] * len(seen[-1])).encode()
            writer.write(b"HTTP/1.1 200 X\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    async def main() -> None:
        async with server(serve) as url:
            client = Client()
            line = LedgerLine(client, url, Backlog(folder, "worker"), lambda slot: None)
            await act(line)
            await line.drain(60.0)
            client.close()

    asyncio.run(main())
    return seen


async def told(line: LedgerLine, name: str) -> None:
    """Send an operation that is waited for."""
    answer: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    line.put(Waiting(settled(name, 0), answer))
    await answer


def test_what_may_wait_goes_with_what_may_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_line, "_GATHER_S", 3600.0)

    async def act(line: LedgerLine) -> None:
        line.put_soon(Waiting(settled("a", 1)))
        line.put_soon(Waiting(settled("b", 1)))
        await asyncio.sleep(0.05)
        assert line.waiting == 2
        await told(line, "c")
        assert line.waiting == 0

    assert sent_by(tmp_path, act) == [["a", "b", "c"]]


def test_what_may_wait_goes_by_itself_soon(tmp_path: Path) -> None:
    async def act(line: LedgerLine) -> None:
        line.put_soon(Waiting(settled("a", 1)))
        while line.waiting:
            await asyncio.sleep(0.001)
        line.put_soon(Waiting(settled("b", 1)))
        while line.waiting:
            await asyncio.sleep(0.001)

    assert sent_by(tmp_path, act) == [["a"], ["b"]]


def test_what_came_while_a_request_was_under_way_is_sent_too(tmp_path: Path) -> None:
    async def act(line: LedgerLine) -> None:
        first = asyncio.create_task(told(line, "a"))
        await asyncio.sleep(0)
        line.put_soon(Waiting(settled("b", 1)))
        await first
        line.put_soon(Waiting(settled("c", 1)))
        while line.waiting:
            await asyncio.sleep(0.001)

    assert [name for batch in sent_by(tmp_path, act) for name in batch] == ["a", "b", "c"]
