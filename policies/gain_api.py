"""The gain models over HTTP: the analyzer puts what it trained, proxies fetch what the document names."""
from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from farthing.policy.gain import GainModel
from farthing.policy.route import Pair
from policies.http import HttpError, Reply, Request

if TYPE_CHECKING:
    from policies.plane import ControlPlane

_MAX_NAME = 256  # characters, as of a model's name in a policy


async def listed(plane: ControlPlane, _request: Request) -> Reply:
    """List the gain models that were trained, the newest of each pair first."""
    return Reply({"gains": await asyncio.to_thread(plane.gains.listed)})


async def put(plane: ControlPlane, request: Request) -> Reply:
    """Put a trained gain model in force for a tenant's calls of a pair of models; no tenant: the proxies' own."""
    pair = Pair(*(_name(request, name) for name in Pair._fields))
    model = await asyncio.to_thread(GainModel.from_json, await request.body())
    trained = await plane.change_keys(lambda: plane.gains.put(request.text("tenant"), pair, model))
    return Reply(trained.model_dump(mode="json"), 201)


async def weights(plane: ControlPlane, request: Request) -> Reply:
    """Send the weights of one gain model, by their checksum."""
    body = await asyncio.to_thread(plane.gains.body, request.path.split("/")[3])
    if body is None:
        raise HttpError(404, "no_such_model", "there is no gain model with that checksum; GET /v1/gains lists them")
    return Reply(body.encode())


def _name(request: Request, name: str) -> str:
    value = request.text(name)
    if not 0 < len(value) <= _MAX_NAME:
        raise HttpError(400, "bad_query", f"{name}={value!r}: allowed is a name of 1 to {_MAX_NAME} characters")
    return value
