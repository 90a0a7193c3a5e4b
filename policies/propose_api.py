"""Proposals over HTTP: listed from the newest findings, each with its plan, and accepted."""
from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING
from urllib.parse import unquote

from policies import warehouse
from policies.check import warnings
from policies.http import HttpError, Reply, Request
from policies.load import load
from policies.propose import Proposal, proposals

if TYPE_CHECKING:
    from policies.plane import ControlPlane

PLAN_HOURS = 7 * 24.0  # that a proposal's plan replays


async def list_proposals(plane: ControlPlane, _request: Request) -> Reply:
    """List what the newest findings lead to and is not in force yet."""
    return Reply({"proposals": [asdict(one) for one in await _all(plane)]})


async def proposal(plane: ControlPlane, request: Request) -> Reply:
    """Send one proposal with its predicted effect at full strength."""
    one = await _one(plane, request)
    after, _ = await asyncio.to_thread(plane.store.plan, load(one.document))
    before = plane.document_in_force
    predicted = await asyncio.to_thread(warehouse.plan, plane.settings, before, after, PLAN_HOURS)
    return Reply({**asdict(one), "plan": predicted})


async def accept(plane: ControlPlane, request: Request) -> Reply:
    """Put a proposal in force: a policy in shadow, a budget as a soft one."""
    author, reason = request.text("author"), request.text("reason")
    one = await _one(plane, request)
    why = reason or f"proposed: {one.title}"
    document, changes = await plane.change(lambda: plane.store.put(load(one.document), author, why, act="accept"))
    told = {"version": document.version, "changes": [asdict(change) for change in changes]}
    return Reply({**told, "warnings": warnings(document)})


async def _all(plane: ControlPlane) -> list[Proposal]:
    found = await asyncio.to_thread(warehouse.findings, plane.settings)
    return proposals(found, plane.document_in_force)


async def _one(plane: ControlPlane, request: Request) -> Proposal:
    name = unquote(request.path.split("/")[3])
    found = next((one for one in await _all(plane) if one.name == name), None)
    if found is None:
        raise HttpError(404, "no_such_proposal", f"there is no proposal {name!r}; GET /v1/proposals lists them")
    return found
