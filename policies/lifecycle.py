"""What happens to documents beside being applied: compared, reverted, listed with the proxies that run them."""
from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING

from farthing.policy.envelope import json_schema
from policies.check import warnings
from policies.http import HttpError, Reply, Request
from policies.periods import iso

if TYPE_CHECKING:
    from policies.main import ControlPlane


async def schema(_plane: ControlPlane, _request: Request) -> Reply:
    """Send the JSON Schema of policy files."""
    return Reply(json_schema())


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


async def status(plane: ControlPlane, _request: Request) -> Reply:
    """Tell what is in force, since when and by whom, what is odd about it, and which proxies run it."""
    document = plane.document_in_force
    newest = next(iter(await asyncio.to_thread(plane.store.history, 1)), None)
    policies = [
        {"name": one.name, "owner": one.owner, "mode": one.mode, "priority": one.priority}
        | {"expires": one.expires.isoformat() if one.expires else None}
        for one in document.policies
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
        }
    )


def _version(request: Request, name: str, default: int | None) -> int:
    text = request.query.get(name, "" if default is None else str(default))
    if not text.isdecimal() or len(text) > 18:
        raise HttpError(400, "bad_query", f"{name}={text!r}: allowed is the number of a version, such as 12")
    return int(text)
