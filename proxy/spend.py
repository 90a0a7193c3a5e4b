"""The proxy's side of the ledger: reserve before a call, settle after it; out of leases as far as they reach.

A hold is an upper bound of the bill, so a call that was let through can never cost more than was set aside for it.
Settlements are repeated until the ledger has taken them, across restarts and kills; what a worker that died had not
told is told by the next one, and what of its leases it had not spent goes back.
"""
from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from farthing.errors import OverBudgetError, UpstreamError
from farthing.policy.decide import Facts
from farthing.policy.document import Budget
from proxy.backlog import Backlog, Operation
from proxy.identity import random_bytes
from proxy.lease import MAX_NUSD, Account, Leases
from proxy.ledger_line import LedgerLine, Waiting, settled
from proxy.unsettled import Unsettled, operations_of
from proxy.upstream import Client, Timeouts

__all__ = ["MAX_NUSD", "Hold", "Spend"]

log = logging.getLogger(__name__)

_ASK_AGAIN_S = 0.005  # after a refusal that is not final: other workers are giving leases back
_RECALL_WAIT_S = 30
_RECALL_TIMEOUTS = Timeouts(connect=1.0, headers=_RECALL_WAIT_S + 10.0, between=10.0)
_RETRY_S = 0.5


class Hold(msgspec.Struct):
    """What is set aside for one call: in leases of this worker, at the ledger, or, while that is away, nowhere."""

    request_id: str
    amount_nusd: int
    reserved_ns: int
    accounts: tuple[Account, ...] = ()  # none: it is at the ledger
    slot: int = 0  # where it is kept for whoever comes after this worker
    facts: Facts | None = None  # of a call that is not held
    is_unheld: bool = False
    told: Callable[[Any], None] | None = None  # hears once the ledger has its charge

    @property
    def leases(self) -> tuple[str, ...]:
        """The leases that it is in, as its span names them."""
        return tuple([one.lease for one in self.accounts])


class Spend:
    """Reserves and settles for one proxy worker."""

    def __init__(
        self,
        client: Client,
        policies_url: str,
        folder: Path,  # where the backlog is kept
        lease_s: float = 2.0,  # of recent burn, held in advance; 0 = every call is reserved at the ledger
        hold_ttl_s: float = 600.0,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.worker = f"{os.getpid()}-{random_bytes(8).hex()}"
        self._client = client
        self._recalls_url = f"{policies_url}/v1/ledger/recalls?worker={self.worker}&wait={_RECALL_WAIT_S}"
        self._backlog = Backlog(folder, self.worker)
        self._unsettled = Unsettled(folder, self.worker)
        self._line = LedgerLine(client, f"{policies_url}/v1/ledger", self._backlog, self._unsettled.told)
        self._leases = Leases(self._line, self.worker, lease_s, clock_ns)
        self._lease_s = lease_s
        self._hold_ttl_s = hold_ttl_s
        self._clock_ns = clock_ns
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def waiting(self) -> int:
        """Operations that the ledger has not answered yet."""
        return self._line.waiting

    @property
    def leased(self) -> dict[str, int]:
        """What this worker holds of each budget in advance or for calls under way, nano-dollars."""
        return self._leases.in_hand()

    @property
    def held(self) -> dict[str, int]:
        """What of it calls under way are reserved, by budget, nano-dollars."""
        return self._leases.held()

    def start(self) -> None:
        """Tell the ledger what workers that died had not told it."""
        operations = self._backlog.adopt()
        for path in self._unsettled.left_behind():
            found = operations_of(path)
            if found is not None:
                self._backlog.take_over(found)
                path.unlink(missing_ok=True)
                operations += found
        if operations:
            log.warning("ledger: %d operations of workers that died are told to it now", len(operations))
        for operation in operations:
            self._line.put(Waiting(operation, is_kept=True))

    async def reserve(
        self, request_id: str, facts: Facts, budgets: Sequence[Budget], amount_nusd: int
    ) -> Hold | None:
        """Set `amount_nusd` aside in every one of `budgets`; None where the ledger knows of none.

        Raises:
            OverBudgetError: it does not fit into one of them; nothing was set aside.
            LedgerError: the ledger cannot be reached.
        """
        now = self._clock_ns()
        # Before anything is leased the file is there: whoever comes after this worker finds whose it was.
        if self._lease_s and self._unsettled.open() is not None:
            accounts = self._leases.take(budgets, amount_nusd, now)
            if accounts is not None:
                slot = self._unsettled.hold(request_id, amount_nusd, now, accounts)
                if slot:
                    return Hold(request_id, amount_nusd, now, accounts, slot)
                self._leases.settle(accounts, amount_nusd, 0)
            self._look_after_leases()
        held = await self._asked(_reserve(request_id, facts, amount_nusd))
        return Hold(request_id, amount_nusd, now) if held else None

    async def reserve_lasting(self, request_id: str, facts: Facts, amount_nusd: int, lifetime_s: int) -> Hold | None:
        """Set an amount aside at the ledger for longer than this process may live; see `reserve` for the rest."""
        now = self._clock_ns()
        held = await self._asked({**_reserve(request_id, facts, amount_nusd), "lifetime_s": lifetime_s})
        return Hold(request_id, amount_nusd, now) if held else None

    def release(self, request_id: str) -> asyncio.Future[None]:
        """Free what was set aside for a call that never was sent, or nothing; it is done once the ledger has heard."""
        heard: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.put(Waiting(settled(request_id, 0), then=lambda _: None if heard.done() else heard.set_result(None)))
        return heard

    async def let_through(self, request_id: str, facts: Facts, amount_nusd: int) -> Hold:
        """Note, on the disk, a call that goes on although the ledger is away; it is booked when the ledger answers."""
        hold = Hold(request_id, amount_nusd, self._clock_ns(), facts=facts, is_unheld=True)
        self._backlog.begin(_charge(hold, amount_nusd))
        try:
            await self._backlog.sync()
        except asyncio.CancelledError:
            self.settle(hold, 0)
            raise
        return hold

    def settle(self, hold: Hold, actual_nusd: int) -> None:
        """Charge what the call cost and free the rest of its hold; returns at once."""
        if hold.accounts:
            self._unsettled.ended(hold.slot, actual_nusd)
            self._line.put_soon(Waiting(_draw(self.worker, hold, actual_nusd), slot=hold.slot))
            self._leases.settle(hold.accounts, hold.amount_nusd, actual_nusd)
        elif hold.is_unheld:
            charge = _charge(hold, actual_nusd)
            self._backlog.keep([charge], is_finished=True)
            self._line.put(Waiting(charge, is_kept=True))
        else:
            slot = self._unsettled.hold(hold.request_id, hold.amount_nusd, hold.reserved_ns, ())
            self._unsettled.ended(slot, actual_nusd)
            self._line.put(Waiting(settled(hold.request_id, actual_nusd), then=hold.told, slot=slot))

    async def drain(self, seconds: float) -> None:
        """Give leases back and wait until the ledger has taken everything, at most `seconds`."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._leases.give_all_back()
        await self._line.drain(seconds)
        self._unsettled.close(is_all_told=not self._line.waiting)

    async def _asked(self, operation: Operation) -> bool:
        """Ask for a hold until the answer is final; tell whether any budget holds it."""
        while True:
            answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            self._line.put(Waiting(operation, answer))
            try:
                result = await answer
                recalled = result.get("recalled", ())
                if recalled:
                    self._leases.recall([budget for worker, budget in recalled if worker == self.worker])
                    await asyncio.sleep(_ASK_AGAIN_S)
                    continue
            except asyncio.CancelledError:
                # whoever asked is gone, and the ledger may have set it aside
                self._line.put(Waiting(settled(operation["request_id"], 0)))
                raise
            if result["ok"]:
                return bool(result["budgets"])
            raise OverBudgetError(result["budget"], result["limit_nusd"], result["free_nusd"], result["asked_nusd"])

    def _look_after_leases(self) -> None:
        if not self._tasks or all(task.done() for task in self._tasks):
            self._tasks = [asyncio.create_task(act()) for act in (self._tick, self._listen, self._renew)]

    async def _tick(self) -> None:
        while not self._leases.is_idle:
            await asyncio.sleep(self._lease_s / 4)
            if time.monotonic() - self._line.heard_s >= self._hold_ttl_s:  # the ledger gives the worker up as lost
                self._leases.end()
            self._leases.tick()
        for task in self._tasks[1:]:
            task.cancel()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._hold_ttl_s / 4)
            self._line.put(Waiting({"op": "renew", "worker": self.worker}))

    async def _listen(self) -> None:
        """Hear of other workers that are short of what this one holds."""
        while True:
            try:
                response = await self._client.request("GET", self._recalls_url, timeouts=_RECALL_TIMEOUTS)
                body = await response.read()
                if response.status == 200:
                    self._leases.recall(msgspec.json.decode(body, type=_Recalled).recalled)
                    continue
            except (UpstreamError, msgspec.DecodeError):
                pass  # the line to the ledger says that it is away
            await asyncio.sleep(_RETRY_S)


class _Recalled(msgspec.Struct):
    recalled: list[str]


def _reserve(request_id: str, facts: Facts, amount_nusd: int) -> Operation:
    return {"op": "reserve", "request_id": request_id, "attempt": 0, "amount_nusd": amount_nusd, "facts": facts}


def _draw(worker: str, hold: Hold, actual_nusd: int) -> Operation:
    return {
        "op": "draw", "worker": worker, "request_id": hold.request_id, "attempt": 0, "held_nusd": hold.amount_nusd,
        "actual_nusd": actual_nusd, "places": [one.named for one in hold.accounts],
        "reserved_ns": hold.reserved_ns,
    }  # fmt: skip


def _charge(hold: Hold, actual_nusd: int) -> Operation:
    return {
        "op": "charge", "request_id": hold.request_id, "attempt": 1, "actual_nusd": actual_nusd,
        "facts": hold.facts, "at_ns": hold.reserved_ns,
    }  # fmt: skip
