"""The routes of budgets: what they hold, what they have crossed, and what is granted on top."""
from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import unquote

from farthing.money import nusd_from_usd
from farthing.policy.kinds.budget import in_usd
from policies import statement
from policies.http import HttpError, Reply, Request
from policies.operations import MAX_OPERATION_NUSD, ToppedUp, TopUp

if TYPE_CHECKING:
    from policies.plane import ControlPlane


async def budgets(plane: ControlPlane, _request: Request) -> Reply:
    """List every budget with what it has spent and holds."""
    return Reply({"budgets": await asyncio.to_thread(plane.budget_lines)})


async def budget(plane: ControlPlane, request: Request) -> Reply:
    """Show one budget, and what was granted on top of it."""
    name = _name(plane, request)
    lines = await asyncio.to_thread(plane.budget_lines)
    line = next(one for one in lines if one["name"] == name)
    return Reply(line | {"grants": await asyncio.to_thread(statement.grants, plane.engine, name)})


async def top_up(plane: ControlPlane, request: Request) -> Reply:
    """Raise a budget's limit in the window that runs; the answer is durable."""
    name, text = _name(plane, request), request.text("amount")
    currency = next(one.currency for one in plane.document_in_force.budgets if one.name == name)
    given = in_usd(text, currency.model_dump()) if currency else text
    try:
        amount = nusd_from_usd(str(given).removesuffix(" USD"))
    except ValueError:
        allowed = "an amount in USD" + (f" or {currency.name}" if currency else "")
        raise HttpError(400, "bad_query", f"amount={text!r}: allowed is {allowed}, such as '12.50 USD'") from None
    if not 0 < amount <= MAX_OPERATION_NUSD:
        most = MAX_OPERATION_NUSD // 10**9
        raise HttpError(400, "bad_query", f"amount={text!r}: allowed is more than 0 and up to {most} USD")
    (made,) = await plane.perform([TopUp(name, amount, request.text("author"), request.text("reason"))])
    assert isinstance(made, ToppedUp)
    return Reply({"granted_nusd": made.granted_nusd, "period": made.period})


async def approve(plane: ControlPlane, request: Request) -> Reply:
    """Let calls go on that a threshold holds up, until the window ends."""
    name = _name(plane, request)
    (made,) = await plane.perform([TopUp(name, 0, request.text("author"), request.text("reason"))])
    assert isinstance(made, ToppedUp)
    await plane.restage()
    return Reply({"period": made.period})


async def events(plane: ControlPlane, request: Request) -> Reply:
    """List the thresholds that were crossed, after an entry that the caller has."""
    rows = await asyncio.to_thread(statement.events, plane.engine, int(request.number("after")))
    return Reply({"events": rows})


def _name(plane: ControlPlane, request: Request) -> str:
    name = unquote(request.path.split("/")[3])
    known = [one.name for one in plane.document_in_force.budgets]
    if name not in known:
        raise HttpError(404, "no_such_budget", f"there is no budget {name!r}; there are: {', '.join(known) or 'none'}")
    return name
