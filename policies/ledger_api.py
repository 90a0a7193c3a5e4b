"""The ledger over HTTP: reserve and settle money, call back what is held in advance, and tell what holds became."""
from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from policies import lost, statement
from policies.http import MAX_WAIT_S, HttpError, Reply, Request, first_of
from policies.operations import OfWorkers

if TYPE_CHECKING:
    from policies.plane import ControlPlane

MAX_OPERATIONS = 1000  # of one POST /v1/ledger
HEALTH_TIMEOUT_S = 5.0
_operations = msgspec.json.Decoder(list[OfWorkers])


async def health(plane: ControlPlane, _request: Request) -> Reply:
    """Answer once the ledger has committed: its thread lives, it is the owner, and the disk takes writes."""
    await asyncio.wait_for(plane.perform([]), HEALTH_TIMEOUT_S)
    version = plane.document_in_force.version
    return Reply({"status": "ok", "version": version, "ledger": plane.ledger_counts})


async def ledger(plane: ControlPlane, request: Request) -> Reply:
    """Perform reservations and settlements; the answer is durable."""
    try:
        operations = _operations.decode(await request.body())
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise HttpError(400, "bad_operation", f"the body is not a list of operations: {error}") from None
    if len(operations) > MAX_OPERATIONS:
        raise HttpError(413, "too_many_operations", f"{len(operations)} operations; send at most {MAX_OPERATIONS}")
    return Reply(await plane.perform(operations) if operations else [])


async def corrections(plane: ControlPlane, request: Request) -> Reply:
    """List what came back of the leases of lost workers."""
    rows = await asyncio.to_thread(lost.corrections, plane.engine, request.instant_ns("since"))
    return Reply({"corrections": rows})


async def recalls(plane: ControlPlane, request: Request) -> Reply:
    """Tell a worker when other workers need what it holds in advance."""
    wait_s = min(request.number("wait"), MAX_WAIT_S)
    recall = plane.recalls.of(request.text("worker"))
    if wait_s > 0 and not recall.budgets:
        await first_of(recall.is_there, request, wait_s)
    return Reply({"recalled": recall.taken()})


async def settlements(plane: ControlPlane, request: Request) -> Reply:
    """List what holds became, a page at a time."""
    since_ns, after = request.instant_ns("since"), statement.cursor(request.text("after"))
    rows, following = await asyncio.to_thread(statement.settlements, plane.engine, since_ns, after)
    return Reply({"settlements": rows, "next": following})
