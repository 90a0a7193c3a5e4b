"""What requests had used when they ended, for a proxy whose own client went away before the answer said so.

A cancelled request has cost engine time like any other; the proxy asks here by the id that it sent along.
"""
from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any

KEPT = 4096  # ended requests remembered
WAIT_S = 2.0  # seconds to wait for a request that is just being ended


class Ended:
    """The usage of the requests that ended last, by the caller's own id; belongs to one event loop."""

    def __init__(self) -> None:
        self._bodies: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._changed = asyncio.Condition()

    async def put(self, caller_id: str, body: dict[str, Any]) -> None:
        """Remember how a request ended; without an id nobody can ask for it."""
        if not caller_id:
            return
        self._bodies[caller_id] = body
        while len(self._bodies) > KEPT:
            self._bodies.popitem(last=False)
        async with self._changed:
            self._changed.notify_all()

    async def get(self, caller_id: str, wait_s: float = WAIT_S) -> dict[str, Any] | None:
        """Return how a request ended; waits for one that is still being cancelled."""
        try:
            async with asyncio.timeout(wait_s), self._changed:
                await self._changed.wait_for(lambda: caller_id in self._bodies)
        except TimeoutError:
            return None
        return self._bodies[caller_id]
