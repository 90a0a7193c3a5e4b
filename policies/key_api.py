"""The virtual keys over HTTP; whoever creates or rotates one is the only one to see it, in that answer alone."""
from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote

import msgspec

from farthing.errors import KeyRefusedError
from farthing.policy.kinds.key import DeclaredKey
from policies.http import HttpError, Reply, Request
from policies.keys import DEFAULT_OVERLAP_S

if TYPE_CHECKING:
    from policies.plane import ControlPlane

MAX_OVERLAP_S = 366 * 86_400.0
Made = TypeVar("Made")


async def list_keys(plane: ControlPlane, _request: Request) -> Reply:
    """List all keys, the revoked ones too."""
    lines = await asyncio.to_thread(plane.keys.listed)
    made = {line["name"] for line in lines}
    declared = [one for one in plane.document_in_force.declared_keys if one.name not in made]
    return Reply({"keys": lines + [_unmade(one) for one in declared]})


async def events(plane: ControlPlane, _request: Request) -> Reply:
    """List who made, rotated or revoked which key, and why."""
    return Reply({"events": await asyncio.to_thread(plane.keys.events)})


async def create(plane: ControlPlane, request: Request) -> Reply:
    """Make a key."""
    spec, author, reason = _object(await request.body()), request.text("author"), request.text("reason")
    spec = _declared(plane, spec)
    secret = await _changed(plane, lambda: plane.keys.create(spec, author, reason))
    return Reply({"name": spec["name"], "key": secret}, 201)


async def rotate(plane: ControlPlane, request: Request) -> Reply:
    """Put a new key in a key's place; the old one stays good for `overlap_s`."""
    name, author, reason = _name(request), request.text("author"), request.text("reason")
    overlap_s = request.number("overlap_s") if "overlap_s" in request.query else DEFAULT_OVERLAP_S
    if overlap_s > MAX_OVERLAP_S:
        raise HttpError(400, "bad_query", f"overlap_s={overlap_s:g}: allowed is up to {MAX_OVERLAP_S:g}, a year")
    secret, until = await _changed(plane, lambda: plane.keys.rotate(name, overlap_s, author, reason))
    return Reply({"name": name, "key": secret, "old_until": f"{until:%Y-%m-%dT%H:%M:%SZ}"})


async def revoke(plane: ControlPlane, request: Request) -> Reply:
    """End a key for good."""
    name, author, reason = _name(request), request.text("author"), request.text("reason")
    await _changed(plane, lambda: plane.keys.revoke(name, author, reason))
    return Reply({"name": name, "state": "revoked"})


async def _changed(plane: ControlPlane, act: Callable[[], Made]) -> Made:
    try:
        return await plane.change_keys(act)
    except KeyRefusedError as error:
        status, code = (404, "no_such_key") if error.is_missing else (400, "key_refused")
        raise HttpError(status, code, str(error)) from None


def _declared(plane: ControlPlane, spec: dict[str, Any]) -> dict[str, Any]:
    """Return what a key is to be: what a document declares, where one does.

    Raises:
        HttpError: both say what it may do.
    """
    found = next((one for one in plane.document_in_force.declared_keys if one.name == spec["name"]), None)
    if found is None:
        return spec
    given = sorted(name for name, value in spec.items() if value and name != "name")
    if given:
        message = f"{given[0]}: the Key document {found.name!r} says it; leave it out, or change that"
        raise HttpError(400, "key_declared", message)
    return found.model_dump(mode="json", exclude_none=True, exclude={"owner", "limits"})


def _unmade(one: DeclaredKey) -> dict[str, Any]:
    """Return the line of a key that a document declares and nobody has made yet."""
    spec = one.model_dump(mode="json", exclude={"owner", "limits", "expires"})
    times = dict.fromkeys(("created_at", "revoked_at", "old_until"))
    expires = None if one.expires is None else one.expires.isoformat()
    return {**spec, **times, "shown": "", "state": "declared", "expires_at": expires}


def _name(request: Request) -> str:
    return unquote(request.path.split("/")[3])


def _object(body: bytes) -> dict[str, Any]:
    """Read what a key is to be; what is kept of it can only be made here."""
    try:
        spec = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise HttpError(400, "bad_key", f"the body is not a JSON object: {error}") from None
    known = ("name", "tenant", "team", "user", "models", "routes", "expires")
    for name in spec:
        if name not in known:
            raise HttpError(400, "bad_key", f"{name}: unknown; allowed: {', '.join(known)}")
    if "name" not in spec:
        raise HttpError(400, "bad_key", "name is missing; give the key one, such as search-prod")
    return spec
