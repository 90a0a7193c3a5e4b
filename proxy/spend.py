"""The proxy's side of the ledger: reserve before a call, settle after it, both in batches over one connection.

A hold is an upper bound of the bill, so a call that was let through can never cost more than was set aside for it.
Settlements are repeated until the ledger has taken them; those lost with the process are charged in full by the
ledger when their hold expires.
"""
from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any

import msgspec

from farthing.errors import LedgerError, OverBudgetError, UpstreamError
from farthing.policy.decide import Facts
from proxy.upstream import Client, Timeouts

log = logging.getLogger(__name__)

_BATCH = 512  # operations in one request to the ledger
_TIMEOUTS = Timeouts(connect=1.0, headers=5.0, between=5.0)
_RETRY_S = 0.5  # seconds between attempts to hand over settlements
_HEADERS = (("content-type", "application/json"),)

Operation = dict[str, Any]


class Spend:
    """Reserves and settles for one proxy worker."""

    def __init__(self, client: Client, policies_url: str) -> None:
        self._client = client
        self._url = f"{policies_url}/v1/ledger"
        self._queue: deque[tuple[Operation, asyncio.Future[Any] | None]] = deque()
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Operations that the ledger has not answered yet."""
        return len(self._queue)

    async def reserve(self, request_id: str, facts: Facts, amount_nusd: int) -> bool:
        """Set `amount_nusd` aside in every budget that matches; False where none does.

        Raises:
            OverBudgetError: it does not fit into one of them; nothing was set aside.
            LedgerError: the ledger cannot be reached.
        """
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        operation = {
            "op": "reserve",
            "request_id": request_id,
            "attempt": 0,
            "amount_nusd": amount_nusd,
            "facts": {
                "tenant": facts.tenant, "team": facts.team, "user": facts.user, "feature": facts.feature,
                "session": facts.session, "key": facts.key, "model": facts.model, "tags": dict(facts.tags),
            },
        }  # fmt: skip
        self._put(operation, answer)
        result = await answer
        if not result["ok"]:
            raise OverBudgetError(result["budget"], result["limit_nusd"], result["free_nusd"], result["asked_nusd"])
        return bool(result["budgets"])

    def settle(self, request_id: str, actual_nusd: int) -> None:
        """Charge what the call cost and free the rest of its hold; returns at once."""
        self._put({"op": "settle", "request_id": request_id, "attempt": 0, "actual_nusd": actual_nusd}, None)

    async def drain(self, seconds: float) -> None:
        """Wait until the ledger has taken everything, at most `seconds`."""
        deadline = asyncio.get_running_loop().time() + seconds
        while self._queue and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.02)
        if self._task is not None:
            self._task.cancel()

    def _put(self, operation: Operation, answer: asyncio.Future[Any] | None) -> None:
        self._queue.append((operation, answer))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())

    async def _work(self) -> None:
        while self._queue:
            batch = [self._queue[i] for i in range(min(_BATCH, len(self._queue)))]
            try:
                results = await self._post([operation for operation, _ in batch])
            except (UpstreamError, LedgerError) as error:
                self._refuse_reserves(error)
                await asyncio.sleep(_RETRY_S)
                continue
            for (_, answer), result in zip(batch, results, strict=True):
                self._queue.popleft()
                if answer is not None and not answer.done():
                    answer.set_result(result)

    async def _post(self, operations: list[Operation]) -> list[Any]:
        body = msgspec.json.encode(operations)
        response = await self._client.request("POST", self._url, body, _HEADERS, _TIMEOUTS)
        answer = await response.read()
        if response.status != 200:
            raise LedgerError(f"the ledger answered {response.status}: {answer[:300].decode('utf-8', 'replace')}")
        return msgspec.json.decode(answer)

    def _refuse_reserves(self, error: Exception) -> None:
        """The ledger is away: each reservation hears of it now, settlements wait."""
        log.warning("ledger: %s; %d operations wait", error, len(self._queue))
        kept: deque[tuple[Operation, asyncio.Future[Any] | None]] = deque()
        for operation, answer in self._queue:
            if answer is None:
                kept.append((operation, answer))
                continue
            # The reservation may have reached the ledger; settling it at 0 frees it without a double charge.
            kept.append(({"op": "settle", "request_id": operation["request_id"], "attempt": 0, "actual_nusd": 0}, None))
            if not answer.done():
                answer.set_exception(LedgerError(str(error)))
        self._queue = kept
