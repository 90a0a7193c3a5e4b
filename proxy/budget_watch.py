"""How much of each budget is gone, asked of the control plane while a policy routes by it, and not otherwise.

The share is as old as the last answer, a second or so: it moves requests to a cheaper model, it never lets one through.
"""
from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from time import monotonic

import msgspec

from farthing.errors import UpstreamError
from farthing.policy.index import CompiledDocument
from proxy.upstream import Client, Timeouts

log = logging.getLogger(__name__)

INTERVAL_S = 1.0
_STALE_S = 30.0  # a share that is older is not known any more
_TIMEOUTS = Timeouts(connect=1.0, headers=5.0, between=5.0)
UNKNOWN = float("nan")


class _Line(msgspec.Struct):
    name: str
    limit_nusd: int
    free_nusd: int


class _Answer(msgspec.Struct):
    budgets: list[_Line]


_decode = msgspec.json.Decoder(_Answer).decode


class BudgetWatch:
    """The shares of all budgets, as this worker knows them."""

    def __init__(self, client: Client, policies_url: str, interval_s: float = INTERVAL_S) -> None:
        self._client = client
        self._url = f"{policies_url}/v1/budgets"
        self._interval_s = interval_s
        self._used: dict[str, float] = {}
        self._at = float("-inf")  # monotonic seconds of the last answer
        self._task: asyncio.Task[None] | None = None

    def follow(self, compiled: CompiledDocument) -> None:
        """Watch while a policy of the document needs it."""
        is_needed = any(policy.action.route and policy.action.route.budget for policy in compiled.document.rules)
        if is_needed and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._watch())
        elif not is_needed and self._task is not None:
            self._task.cancel()
            self._task = None

    def used(self, names: Iterable[str]) -> float:
        """Return the share that is gone of the fullest of some budgets, held amounts included; NaN = not known."""
        if monotonic() - self._at > _STALE_S:
            return UNKNOWN
        return max([self._used[name] for name in names if name in self._used], default=UNKNOWN)

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            try:
                await self._ask()
            except (UpstreamError, msgspec.DecodeError, UnicodeDecodeError) as error:
                log.debug("budgets: %s", error)
            await asyncio.sleep(self._interval_s)

    async def _ask(self) -> None:
        response = await self._client.request("GET", self._url, timeouts=_TIMEOUTS)
        body = await response.read()
        if response.status != 200:
            raise UpstreamError(f"the control plane answered {response.status}: {body[:200]!r}")
        lines = _decode(body).budgets
        self._used = {line.name: 1 - line.free_nusd / line.limit_nusd if line.limit_nusd else 1.0 for line in lines}
        self._at = monotonic()
