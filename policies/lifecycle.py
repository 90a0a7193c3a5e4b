"""What happens to documents beside being applied: planned, compared, reverted, explained, and who runs them."""
from __future__ import annotations

import asyncio
from dataclasses import asdict
from datetime import date, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from farthing.policy import Policy
from farthing.policy.defaults import AFTER_ALL
from farthing.policy.envelope import json_schema
from policies import approval_api, warehouse
from policies.changes import by_key
from policies.check import warnings
from policies.http import HttpError, Reply, Request
from policies.load import load
from policies.openapi import describe
from policies.periods import iso

if TYPE_CHECKING:
    from policies.plane import ControlPlane

DEFAULT_HOURS = 7 * 24.0  # that a plan replays

async def schema(_plane: ControlPlane, _request: Request) -> Reply:
    """Send the JSON Schema of policy files."""
    return Reply(json_schema())


async def openapi(plane: ControlPlane, _request: Request) -> Reply:
    """Send the OpenAPI description of this API."""
    return Reply(describe(plane.access.routes))


async def diff(plane: ControlPlane, request: Request) -> Reply:
    """Tell what changed between two versions; absent, `to` is the newest and `from` the one before it."""
    to = _version(request, "to", plane.document_in_force.version)
    since = _version(request, "from", max(0, to - 1))
    changes, text = await asyncio.to_thread(plane.store.between, since, to)
    return Reply({"from": since, "to": to, "changes": [asdict(change) for change in changes], "diff": text})


async def revert(plane: ControlPlane, request: Request) -> Reply:
    """Put an earlier version back in force, as a new one."""
    version = _version(request, "version", None)
    author, reason = request.text("author"), request.text("reason")
    document, changes = await plane.change(lambda: plane.store.revert(version, author, reason))
    return Reply({"version": document.version, "changes": [asdict(change) for change in changes]})


async def set_mode(plane: ControlPlane, request: Request) -> Reply:
    """Put a policy into another mode, and set the share of a canary, in the text as it was written."""
    name, mode = request.path.split("/")[3], request.text("mode")
    share = request.number("share") if "share" in request.query else None
    if not mode and share is None:
        raise HttpError(400, "bad_query", "mode is missing; allowed: shadow, canary, enforce")
    key = ("Policy", name)
    if key not in by_key(plane.document_in_force):
        raise HttpError(404, "no_such_object", f"there is no Policy {name!r}; GET /v1/objects lists what there is")
    fields: dict[str, object] = {"mode": mode} if mode else {}
    if share is not None:
        fields["canary"] = {"share": share}
    given = await asyncio.to_thread(plane.store.edited, key, fields)
    return await approval_api.submit(plane, request, given, False, "mode")


async def status(plane: ControlPlane, _request: Request) -> Reply:
    """Tell what is in force, since when and by whom, what is odd about it, and which proxies run it."""
    document = plane.document_in_force
    today = datetime.now(timezone.utc).date()
    newest = next(iter(await asyncio.to_thread(plane.store.history, 1)), None)
    tried = [one for one in document.policies if one.trial() is not None]
    on_trial = {(one.name, rail.title) for one in tried for rail in one.verify.guardrails}  # a look may be older
    policies = [
        {"name": one.name, "owner": one.owner, "mode": one.mode}
        | {"priority": None if one.priority == AFTER_ALL else one.priority}
        | {"expires": one.expires.isoformat() if one.expires else None}
        | _state(one, today)
        for one in document.rules
    ]
    return Reply(
        {
            "version": document.version,
            "checksum": document.checksum,
            "since": iso(newest["created_ns"]) if newest else None,
            "author": newest["author"] if newest else "",
            "reason": newest["reason"] if newest else "",
            "policies": policies,
            "warnings": await asyncio.to_thread(warnings, document),
            "proxies": plane.followers.status(document.version),
            "guardrails": [one for one in plane.guard.verdicts if (one["policy"], one["metric"]) in on_trial],
            "pending": await asyncio.to_thread(_waiting, plane),
            "rollbacks": await asyncio.to_thread(_rollbacks, plane, document.version),
        }
    )


async def plan(plane: ControlPlane, request: Request) -> Reply:
    """Predict what applying a YAML text would do, from the calls of the last hours; nothing is changed."""
    hours = request.number("hours") if "hours" in request.query else DEFAULT_HOURS
    given = await asyncio.to_thread(load, await request.utf8(), "body")
    document, changes = await asyncio.to_thread(plane.store.plan, given, request.flag("replace"))
    before = plane.document_in_force
    found = await asyncio.to_thread(warehouse.plan, plane.settings, before, document, hours)
    told = {"changes": [asdict(change) for change in changes], "warnings": warnings(document)}
    return Reply({"version": before.version, **told, **found})


async def explain(plane: ControlPlane, request: Request) -> Reply:
    """Tell why a request was treated as it was."""
    name = request.text("request_id")
    if not name:
        raise HttpError(400, "bad_query", "request_id is missing; it is the answer's header x-farthing-request-id")
    return Reply(await asyncio.to_thread(warehouse.explained, plane.settings, name, plane.store.at))


def _state(policy: Policy, today: date) -> dict[str, Any]:
    """Return what a policy does today: the share that it acts on, and how that goes on."""
    told: dict[str, Any] = {"is_over": policy.expires is not None and policy.expires < today}
    trial = None if policy.mode == "shadow" else policy.trial()
    if trial is None:
        return told
    told["share"] = round(trial.share(today), 6)
    ramp = policy.canary.ramp if policy.mode == "canary" else None
    if ramp is not None and today < (end := ramp.start + timedelta(days=ramp.days)):
        told["grows"] = {"from": ramp.start.isoformat(), "until": end.isoformat(), "to": round(trial.share(end), 6)}
    return told


def _waiting(plane: ControlPlane) -> list[dict[str, Any]]:
    kept = ("number", "author", "reason", "why", "at")
    return [{name: one[name] for name in kept} for one in plane.pending.listed() if one["state"] == "waiting"]


def _rollbacks(plane: ControlPlane, version: int) -> list[dict[str, Any]]:
    """Return what was rolled back up to a version; one that is written and not out yet is not told before it is."""
    rolled = [entry for entry in plane.store.audit() if entry["act"] == "rollback"]
    entries = [entry for entry in rolled if entry["version"] <= version]
    sources, there = plane.store.sources(), by_key(plane.document_in_force)
    newest = {key: sources[key][0] for key in there}
    return [
        {"policy": change["name"], "at": iso(entry["at_ns"]), "reason": entry["reason"], "version": entry["version"]}
        | {"stands": newest.get(("Policy", change["name"])) == entry["version"]}
        for entry in entries
        for change in entry["changes"]
    ]


def _version(request: Request, name: str, default: int | None) -> int:
    text = request.query.get(name, "" if default is None else str(default))
    if not text.isdecimal() or len(text) > 18:
        raise HttpError(400, "bad_query", f"{name}={text!r}: allowed is the number of a version, such as 12")
    return int(text)
