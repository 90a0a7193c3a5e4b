"""Ten times more load than a deployment can take: with windows and a queue it does as much as under full load.

A loop whose clock jumps to the next event runs the real queue and the real window against a server that slows down
under a crowd, so that the figures are exact and the same on every machine; `make proof` does it over sockets.
"""
from __future__ import annotations

import asyncio
import json
import random
import selectors
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from farthing import semconv
from farthing.settings import Deployment
from proxy.api_error import ApiError
from proxy.counters import Counters
from proxy.dispatch import Target
from proxy.health import Health
from proxy.place_table import PlaceTable
from proxy.queue import Queue
from proxy.upstream import Timeouts
from proxy.window import Bounds, Window
from tests.proxy.rig import Received, Rig, answer_of, asked, reply

CAPACITY = 8  # requests at once that the server does at full speed
WORK_S = 0.25
FULL = CAPACITY / WORK_S  # requests a second
PATIENCE_S = 2.0
STEP_S = 0.02


class Jumping(selectors.DefaultSelector):
    """Waits for nothing: the loop's clock moves on instead."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        self.now += timeout or 0.0
        return super().select(0)


def virtually(act: Any) -> Any:
    selector = Jumping()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.now  # type: ignore[method-assign]
    try:
        return loop.run_until_complete(act(loop))
    finally:
        loop.close()


class Server:
    """Shares its speed among its requests, and wastes some of it on a crowd."""

    def __init__(self) -> None:
        self.crowd = 0
        self.most = 0

    async def serve(self) -> None:
        self.crowd += 1
        self.most = max(self.most, self.crowd)
        done = 0.0
        while done < WORK_S:
            await asyncio.sleep(STEP_S)
            done += STEP_S * min(1.0, (CAPACITY / self.crowd) ** 1.3)
        self.crowd -= 1


def load(folder: Path, times: float, seconds: float, is_limited: bool) -> tuple[float, Counter[str], int]:
    """Return useful answers a second, what became of the requests, and the largest crowd."""

    async def act(loop: asyncio.AbstractEventLoop) -> tuple[float, Counter[str], int]:
        server, dice = Server(), random.Random(3)
        table = PlaceTable(folder)
        least, most = (2, 64) if is_limited else (100_000, 100_000)
        window = Window(Bounds(least, most, tolerance=2.0, queue=100, max_wait_s=5.0), table.places("m/1"))
        queue = Queue("m", Counters(), table, loop.time)
        pair = (Target(Deployment("m", name="m/1"), "openai", (), Timeouts(), Health(0)), window)
        became: Counter[str] = Counter()

        async def ask() -> None:
            came = loop.time()
            try:
                await queue.enter([pair], 5, PATIENCE_S, True)
            except ApiError as error:
                became[error.code] += 1
                return
            began = loop.time()
            await server.serve()
            window.answered(loop.time(), loop.time() - began, True, 0)
            queue.leave(window, loop.time() - began)
            became["in time" if loop.time() - came <= PATIENCE_S else "too late"] += 1

        tasks: list[asyncio.Task[None]] = []
        while loop.time() < seconds:
            tasks.append(loop.create_task(ask()))
            await asyncio.sleep(dice.expovariate(times * FULL))
        good = became["in time"] / seconds
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        table.close()
        return good, became, server.most

    return virtually(act)


def test_ten_times_the_load_keeps_the_goodput_of_full_load(tmp_path: Path) -> None:
    full, _, _ = load(tmp_path, 1, 10, is_limited=True)
    ten, became, most = load(tmp_path, 10, 10, is_limited=True)
    assert full > 0.75 * FULL  # arrivals at random leave it idle now and then
    assert ten > 0.9 * full
    assert became["too late"] < 0.1 * became["in time"]
    assert most <= 64 and became["overloaded"] > became["in time"]


def test_without_a_window_the_same_load_leaves_next_to_nothing(tmp_path: Path) -> None:
    ten, _, most = load(tmp_path, 8, 2.5, is_limited=False)
    assert ten < 0.3 * FULL and most > 400


@pytest.mark.proof
def test_ten_times_the_load_over_sockets(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    """An open loop of 80 requests a second before a server that takes 8, each with a deadline of 4 s."""
    served = Server()
    team = rig.budget("1000 USD")
    work = 4 * WORK_S  # 8 a second

    async def crowded(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.crowd += 1
        done, last = 0.0, time.monotonic()
        while done < work:
            await asyncio.sleep(0.02)
            now = time.monotonic()
            done += (now - last) * min(1.0, (CAPACITY / served.crowd) ** 1.3)
            last = now
        served.crowd -= 1
        writer.write(reply(answer_of(), "content-type: application/json"))

    body = json.dumps(asked("small")).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\nconnection: close\r\n"
        f"{semconv.HEADER_TAGS}: team={team}\r\n{semconv.HEADER_DEADLINE}: 4000\r\n\r\n"
    ).encode()

    async def ask(became: Counter[str]) -> None:
        started = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", int(rig.proxy.rsplit(":", 1)[1]))
        writer.write(head + body)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        status = answer.split(b" ", 2)[1].decode()
        code = "in time" if status == "200" else json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"]
        became["too late" if status == "200" and time.monotonic() - started > 4 else code] += 1
        assert status not in ("429", "503") or b"retry-after" in answer

    async def run(rate: float, seconds: float) -> Counter[str]:
        became: Counter[str] = Counter()
        tasks: list[asyncio.Task[None]] = []
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            tasks.append(asyncio.create_task(ask(became)))
            await asyncio.sleep(1 / rate)
        await asyncio.gather(*tasks)
        return became

    rig.upstream.next(crowded)
    rate, seconds = CAPACITY / work, 30.0
    found: dict[str, Counter[str]] = {}
    for name, action in (("windows", {"max": 64, "queue": 50}), ("none", {"min": 5000, "max": 5000, "queue": 0})):
        rig.apply(
            "apiVersion: farthing/v1\nkind: Policy\nmetadata: {name: goodput}\nmatch: {model: small}\n"
            f"action: {{concurrency: {json.dumps(action)}}}\n"
        )
        found[name] = asyncio.run(run(10 * rate, seconds if name == "windows" else seconds / 3))
        rig.quiet()
    with capsys.disabled():
        print(f"\ncapacity {rate:.0f}/s, load {10 * rate:.0f}/s for {seconds:.0f} s (without windows a third of it):")
        for name, became in found.items():
            print(f"{name:8} {dict(became)}")
    assert found["windows"]["in time"] > 0.6 * rate * seconds
