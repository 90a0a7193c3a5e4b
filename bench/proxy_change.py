"""How soon a policy change governs all workers, and whether it disturbs the streams that are open meanwhile."""
from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from pathlib import Path

from proxy_governed import Governed, change, governed
from proxy_latency import Line
from proxy_load import Exchange, fresh, stream_of
from proxy_upstream import END

WORKERS = 2
STREAMS = 8  # on each worker
_ENDLESS = 999_999  # events; the upstream is told when to end


def changed(folder: Path, model: int, changes: int) -> dict[str, float]:
    """Return the time from sending a change until the last worker runs it, and the streams that were cut."""
    with governed(folder, model, WORKERS) as running:
        streams = Streams(running)
        streams.start()
        if not streams.are_open.wait(60):
            raise SystemExit("the streams do not open")
        taken = sorted(_taken_ms(running, number) for number in range(changes))
        Line(model).answer(END)
        streams.join(60)
    return {
        "change_p50_ms": round(taken[len(taken) // 2], 2),
        "change_p99_ms": round(taken[-1 - len(taken) // 100], 2),
        "streams_open": float(WORKERS * STREAMS),
        "streams_cut": float(WORKERS * STREAMS - streams.whole),
    }


def _taken_ms(running: Governed, number: int) -> float:
    """Make a change and ask each worker until it runs it; the control plane's commit is part of the time."""
    time.sleep(random.uniform(0, 0.05))
    lines = [Line(worker.port) for worker in running.workers]
    ask = f"GET /v1/status HTTP/1.1\r\nhost: proxy\r\nauthorization: Bearer {running.keys['operator']}\r\n\r\n".encode()
    started = time.perf_counter()
    version = change(running.control, number)
    for line in lines:
        while json.loads(line.answer(ask))["policy_version"] < version:
            time.sleep(0.0005)
    took = time.perf_counter() - started
    for line in lines:
        line.close()
    return took * 1e3


class Streams(threading.Thread):
    """Streams over all workers, on an event loop of their own, from before the first change to after the last."""

    def __init__(self, running: Governed) -> None:
        super().__init__(daemon=True)
        self._running = running
        self.are_open = threading.Event()
        self.whole = 0  # that came to their proper end

    def run(self) -> None:
        asyncio.run(self._hold())

    async def _hold(self) -> None:
        loop, ask = asyncio.get_running_loop(), fresh(stream_of(self._running.keys["governed"], _ENDLESS))
        ports = [worker.port for worker in self._running.workers for _ in range(STREAMS)]
        made = [(await loop.create_connection(lambda: Exchange(ask, 1), "127.0.0.1", port))[1] for port in ports]
        while not all(exchange.tail for exchange in made):
            await asyncio.sleep(0.01)
        self.are_open.set()
        ends = await asyncio.gather(*(exchange.ended for exchange in made), return_exceptions=True)
        self.whole = sum(end is None and b"[DONE]" in one.tail for one, end in zip(made, ends, strict=True))
