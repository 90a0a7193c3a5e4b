"""The proxy's side of the ledger: reserve before a call, settle after it, both in batches over one connection.

A hold is an upper bound of the bill, so a call that was let through can never cost more than was set aside for it.
Settlements are repeated until the ledger has taken them; those lost with the process are charged in full by the
ledger when their hold expires.
"""
from __future__ import annotations

import asyncio
import logging
from collections import deque
from itertools import islice
from typing import Any

import msgspec

from farthing.errors import LedgerError, OverBudgetError, UpstreamError
from farthing.policy.decide import Facts
from proxy.upstream import Client, NotSentError, Timeouts

log = logging.getLogger(__name__)

MAX_NUSD = 10**15  # nano-dollars; the most that the ledger takes in one operation
_BATCH = 512  # operations in one request to the ledger
_TIMEOUTS = Timeouts(connect=1.0, headers=5.0, between=5.0)
_RETRY_S = 0.5  # seconds between attempts to hand over settlements
_HEADERS = (("content-type", "application/json"),)

Operation = dict[str, Any]
Waiting = tuple[Operation, "asyncio.Future[Any] | None"]  # a reservation's caller waits for the answer


class RefusedError(LedgerError):
    """The ledger is there and will never take these operations: one of them is malformed."""


class Spend:
    """Reserves and settles for one proxy worker."""

    def __init__(self, client: Client, policies_url: str) -> None:
        self._client = client
        self._url = f"{policies_url}/v1/ledger"
        self._queue: deque[Waiting] = deque()
        self._alone = 0  # operations to send one by one, because a batch with them was refused
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
                "session": facts.session, "key": facts.key, "model": facts.model, "tags": facts.tags,
            },
        }  # fmt: skip
        self._put((operation, answer))
        try:
            result = await answer
        except asyncio.CancelledError:
            self.settle(request_id, 0)  # whoever asked is gone, and the ledger may have set it aside
            raise
        if not result["ok"]:
            raise OverBudgetError(result["budget"], result["limit_nusd"], result["free_nusd"], result["asked_nusd"])
        return bool(result["budgets"])

    def settle(self, request_id: str, actual_nusd: int) -> None:
        """Charge what the call cost and free the rest of its hold; returns at once."""
        self._put((_settle(request_id, actual_nusd), None))

    async def drain(self, seconds: float) -> None:
        """Wait until the ledger has taken everything, at most `seconds`."""
        deadline = asyncio.get_running_loop().time() + seconds
        while self._queue and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.02)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _put(self, waiting: Waiting) -> None:
        self._queue.append(waiting)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())

    async def _work(self) -> None:
        while self._queue:
            batch = list(islice(self._queue, 1 if self._alone else _BATCH))
            try:
                results = await self._post([operation for operation, _ in batch])
            except RefusedError as error:
                self._set_apart(batch, error)
            except (UpstreamError, LedgerError) as error:
                self._refuse_reserves(batch, error)
                await asyncio.sleep(_RETRY_S)
            else:
                self._answer(results)

    async def _post(self, operations: list[Operation]) -> list[Any]:
        body = msgspec.json.encode(operations)
        response = await self._client.request("POST", self._url, body, _HEADERS, _TIMEOUTS)
        answer = await response.read()
        if response.status != 200:
            said = f"the ledger answered {response.status}: {answer[:300].decode('utf-8', 'replace')}"
            raise RefusedError(said) if response.status in (400, 413) else LedgerError(said)
        try:
            results = msgspec.json.decode(answer, type=list[Any])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise LedgerError(f"the ledger's answer cannot be read: {error}") from None
        if len(results) != len(operations):
            raise LedgerError(f"the ledger answered {len(results)} of {len(operations)} operations")
        return results

    def _answer(self, results: list[Any]) -> None:
        self._alone = max(0, self._alone - 1)
        for result in results:
            _, answer = self._queue.popleft()
            if answer is not None and not answer.done():
                answer.set_result(result)

    def _set_apart(self, batch: list[Waiting], error: RefusedError) -> None:
        """Find the operation that the ledger will not take and leave it out, so that the others are not held up."""
        if len(batch) > 1:
            self._alone = len(batch)
            return
        self._alone = max(0, self._alone - 1)
        operation, answer = self._queue.popleft()
        log.error("ledger: %s refused for good: %s", operation["op"], error)
        if answer is not None and not answer.done():
            answer.set_exception(LedgerError(str(error)))

    def _refuse_reserves(self, batch: list[Waiting], error: Exception) -> None:
        """The ledger is away: each reservation hears of it now, settlements wait."""
        log.warning("ledger: %s; %d operations wait", error, len(self._queue))
        sent = 0 if isinstance(error, NotSentError) else len(batch)
        kept: deque[Waiting] = deque()
        for number, (operation, answer) in enumerate(self._queue):
            if answer is None:
                kept.append((operation, None))
                continue
            if number < sent:  # it may have reached the ledger; settling it at 0 frees it without a double charge
                kept.append((_settle(operation["request_id"], 0), None))
            if not answer.done():
                answer.set_exception(LedgerError(str(error)))
        self._queue = kept


def _settle(request_id: str, actual_nusd: int) -> Operation:
    return {"op": "settle", "request_id": request_id, "attempt": 0, "actual_nusd": actual_nusd}
