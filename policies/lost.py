"""Corrects the leases of workers that are lost for good, disk and all: charged in full, though little of it was spent.

What such a worker spent is what the ledger was told, and what the spans say that had left it. Those calls are charged
by name first, then the rest of the charge comes back, once; a span that arrives later still is charged when it does.
A call under way when its host was lost, and whose span never left, is known to nobody, and so is its cost.
"""
from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import Engine, func, select

from policies import warehouse
from policies.database import rows
from policies.operations import Correct, Corrected, Draw
from policies.periods import NS_PER_S, iso
from policies.reconcile import AT_ONCE, LOOK_BACK_NS
from policies.tables import holds, lease_corrections, leases

if TYPE_CHECKING:
    from policies.plane import ControlPlane

log = logging.getLogger(__name__)

SKEW_NS = 300 * NS_PER_S  # by which the clocks of two hosts may differ
MAX_CORRECTIONS = 10_000  # rows of one answer


class LostLeases:
    """Asks the warehouse for the calls of workers that the ledger will not hear of again."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        settings = plane.settings
        self._ttl_ns = int(settings.hold_ttl_s * NS_PER_S)
        self._delay_ns = int(settings.lease_correct_after_s * NS_PER_S)
        self._late_ns = 0  # when spans that came late are looked for next

    async def look(self) -> None:
        """Correct the leases that are due, and charge the spans of corrected ones that came late."""
        if not self._delay_ns:
            return
        plane, now = self._plane, time.time_ns()
        due = await asyncio.to_thread(lost_workers, plane.engine, now - self._ttl_ns - self._delay_ns)
        if due:
            # operations leave a worker in order, so what it had not told has ended since it was heard of; an answer to
            # it may have taken as long as a lease lasts
            await self._charge(due, min(due.values()) - self._ttl_ns - SKEW_NS)
            await self._take_back(due)
        if now >= self._late_ns:
            corrected = await asyncio.to_thread(corrected_workers, plane.engine, now - LOOK_BACK_NS)
            if corrected:
                await self._charge(corrected, min(corrected.values()) - SKEW_NS)
            self._late_ns = now + self._delay_ns

    async def _take_back(self, due: Mapping[str, int]) -> None:
        results = await self._plane.perform([Correct(worker, heard_ns) for worker, heard_ns in due.items()])
        for worker, result in zip(due, results, strict=True):
            if isinstance(result, Corrected):
                log.info("leases of the lost worker %s are corrected by %d nUSD", worker, result.returned_nusd)

    async def _charge(self, workers: Mapping[str, int], since_ns: int) -> None:
        """Charge the calls of workers that were received since an instant and that the ledger has not heard of."""
        since, after = iso(max(0, since_ns)) or "", ""
        while True:
            found = await asyncio.to_thread(warehouse.leased_calls, self._plane.settings, list(workers), since, after)
            for start in range(0, len(found), AT_ONCE):
                await self._draw([draw for row in found[start : start + AT_ONCE] if (draw := _draw(row)) is not None])
            if len(found) < warehouse.MAX_CALLS:
                return
            since, after = found[-1]["received_at"], found[-1]["request_id"]

    async def _draw(self, draws: Sequence[Draw]) -> None:
        known = await asyncio.to_thread(told, self._plane.engine, [draw.request_id for draw in draws])
        new = {draw.request_id: draw for draw in draws if draw.request_id not in known}
        if new:
            await self._plane.perform(list(new.values()))
            log.info("%d calls of lost workers are charged", len(new))


def _draw(row: Mapping[str, Any]) -> Draw | None:
    """Return what a worker would have told of a call; None where its span is none that a worker can have sent."""
    try:
        places = [lease.split(" ") for lease in msgspec.json.decode(row["leases"], type=list[str])]
        told = {
            "op": "draw", "worker": row["worker"], "request_id": row["request_id"], "attempt": 0,
            "held_nusd": row["held_nusd"], "actual_nusd": row["settled_nusd"], "places": places,
            "reserved_ns": row["started_ns"],
        }  # fmt: skip
        return msgspec.convert(told, Draw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        log.warning("the span of call %r says no leases that there can be: %s", row["request_id"], error)
        return None


def lost_workers(engine: Engine, before_ns: int) -> dict[str, int]:
    """Return the workers whose leases have all expired and of which nothing was heard since an instant, and when."""
    heard_ns = func.max(leases.c.renewed_ns)
    query: Any = select(leases.c.worker, heard_ns.label("heard_ns")).where(leases.c.state != "closed")
    due = (heard_ns <= before_ns) & (func.max(leases.c.leased_nusd) == 0)
    return {row["worker"]: row["heard_ns"] for row in rows(engine, query.group_by(leases.c.worker).having(due))}


def corrected_workers(engine: Engine, since_ns: int) -> dict[str, int]:
    """Return the workers whose leases were corrected since an instant, and when."""
    query: Any = select(lease_corrections.c.worker, func.min(lease_corrections.c.at_ns).label("at_ns"))
    found = rows(engine, query.where(lease_corrections.c.at_ns >= since_ns).group_by(lease_corrections.c.worker))
    return {row["worker"]: row["at_ns"] for row in found}


def told(engine: Engine, names: Sequence[str]) -> set[str]:
    """Return which of these calls the ledger has heard of."""
    query = select(holds.c.request_id).where(holds.c.request_id.in_(names), holds.c.attempt == 0)
    return {row["request_id"] for row in rows(engine, query)}


def corrections(engine: Engine, since_ns: int) -> list[dict[str, Any]]:
    """Return what came back of lost workers' leases since an instant, the oldest first."""
    query = select(lease_corrections).where(lease_corrections.c.at_ns >= since_ns)
    found = rows(engine, query.order_by(lease_corrections.c.entry).limit(MAX_CORRECTIONS))
    return [row | {"at": iso(row.pop("at_ns")), "heard_at": iso(row.pop("heard_ns"))} for row in found]
