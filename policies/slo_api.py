"""The service levels over HTTP: how much of each error budget is left."""
from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from policies import warehouse
from policies.http import Reply, Request

if TYPE_CHECKING:
    from policies.plane import ControlPlane


async def slos(plane: ControlPlane, _request: Request) -> Reply:
    """Tell how each service level stands: what it missed, what is left of its error budget, and how fast that burns."""
    document = plane.document_in_force
    return Reply({"slos": await asyncio.to_thread(warehouse.slos, plane.settings, document) if document.slos else []})
