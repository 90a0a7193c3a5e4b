"""Changes over HTTP: in force at once where one person may make them, else kept until a second one approves."""
from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING

from policies import warehouse
from policies.approval import Waiting, is_bounded, too_much
from policies.check import warnings
from policies.http import HttpError, Reply, Request
from policies.load import Objects, load

if TYPE_CHECKING:
    from policies.plane import ControlPlane

WEIGHED_HOURS = 7 * 24.0  # of calls that a change is weighed on


async def submit(plane: ControlPlane, request: Request, given: Objects, replace: bool, act: str) -> Reply:
    """Put objects in force, or keep them for a second person."""
    author, reason = request.text("author"), request.text("reason")
    why = await _weighed(plane, given, replace)
    if not why:
        document, changes = await plane.change(lambda: plane.store.put(given, author, reason, replace, act))
        told = {"version": document.version, "changes": [asdict(change) for change in changes]}
        return Reply({**told, "warnings": warnings(document)})
    if not request.caller:
        raise HttpError(403, "token_needed", f"{why}, so a second person has to approve; come with a token of your own")
    version = plane.document_in_force.version
    waiting = Waiting(0, request.caller, reason, act, given.text, replace, version)
    number = await plane.exclusively(lambda: plane.pending.keep(waiting, why))
    return Reply({"version": version, "changes": [], "warnings": [], "pending": number, "why": why}, 202)


async def list_pending(plane: ControlPlane, _request: Request) -> Reply:
    """List the changes that wait for a second person, and what became of earlier ones."""
    return Reply({"pending": await asyncio.to_thread(plane.pending.listed)})


async def approve(plane: ControlPlane, request: Request) -> Reply:
    """Put a waiting change in force, as a second person."""
    waiting = await _waiting(plane, request)
    if request.caller in ("", "settings", waiting.author):
        raise HttpError(403, "second_person", f"{waiting.author} made it; somebody else approves, with their own token")
    if waiting.base_version != plane.document_in_force.version:
        raise HttpError(409, "outdated", f"it was weighed on version {waiting.base_version}; apply it anew")
    given = load(waiting.source)
    reason = f"{waiting.reason} (approved by {request.caller})".strip()
    document, changes = await plane.change(
        lambda: plane.store.put(given, waiting.author, reason, waiting.replace, waiting.act)
    )
    await plane.exclusively(lambda: plane.pending.decide(waiting.number, "approved", request.caller))
    return Reply({"version": document.version, "changes": [asdict(change) for change in changes]})


async def refuse(plane: ControlPlane, request: Request) -> Reply:
    """Take a waiting change off the list."""
    waiting = await _waiting(plane, request)
    await plane.exclusively(lambda: plane.pending.decide(waiting.number, "refused", request.text("author")))
    return Reply({"pending": waiting.number, "state": "refused"})


async def _weighed(plane: ControlPlane, given: Objects, replace: bool) -> str:
    """Return why a change needs a second person; empty = it does not."""
    if not is_bounded(plane.settings):
        return ""
    after, _ = await asyncio.to_thread(plane.store.plan, given, replace)
    before = plane.document_in_force
    try:
        plan = await asyncio.to_thread(warehouse.plan, plane.settings, before, after, WEIGHED_HOURS)
    except HttpError:
        return "its effect cannot be predicted, the analyzer does not answer"
    return too_much(plane.settings, plan)


async def _waiting(plane: ControlPlane, request: Request) -> Waiting:
    number = request.path.split("/")[3]
    found = await asyncio.to_thread(plane.pending.get, int(number)) if number.isdecimal() and len(number) < 19 else None
    if found is None:
        raise HttpError(404, "nothing_waits", f"no change {number!r} waits; GET /v1/pending lists them")
    return found
