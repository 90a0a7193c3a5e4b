"""The API's own tokens over HTTP; whoever creates one is the only one to see it, in that answer alone."""
from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote

from farthing.errors import TokenRefusedError
from policies.http import HttpError, Reply, Request

if TYPE_CHECKING:
    from policies.plane import ControlPlane

Made = TypeVar("Made")

async def whoami(_plane: ControlPlane, request: Request) -> Reply:
    """Tell a caller who it is; parts that keep no tokens ask this about whoever asks them."""
    return Reply({"name": request.caller, "role": request.role})


async def list_tokens(plane: ControlPlane, _request: Request) -> Reply:
    """List all tokens, the revoked ones too."""
    return Reply({"tokens": await asyncio.to_thread(plane.tokens.listed)})


async def events(plane: ControlPlane, _request: Request) -> Reply:
    """List who made or revoked which token, and why."""
    return Reply({"events": await asyncio.to_thread(plane.tokens.events)})


async def create(plane: ControlPlane, request: Request) -> Reply:
    """Make a token."""
    name, role = request.text("name"), request.text("role")
    author, reason = request.text("author"), request.text("reason")
    days = request.number("days") if "days" in request.query else None
    token = await _changed(plane, lambda: plane.tokens.create(name, role, days, author, reason))
    return Reply({"name": name, "role": role, "token": token}, 201)


async def revoke(plane: ControlPlane, request: Request) -> Reply:
    """End a token for good."""
    name = unquote(request.path.split("/")[3])
    author, reason = request.text("author"), request.text("reason")
    await _changed(plane, lambda: plane.tokens.revoke(name, author, reason))
    return Reply({"name": name, "state": "revoked"})


async def _changed(plane: ControlPlane, act: Callable[[], Made]) -> Made:
    try:
        return await plane.exclusively(act)
    except TokenRefusedError as error:
        raise HttpError(404 if error.is_missing else 400, "token_refused", str(error)) from None
