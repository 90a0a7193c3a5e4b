"""The control plane as a process: its ASGI application, what it looks after by itself, and how failures are told."""
from __future__ import annotations

import asyncio

from farthing import serving
from farthing.access import Principal
from farthing.audit import Asker
from farthing.errors import AccessError, DocumentError, FarthingError, LedgerError
from farthing.serving import Asgi, Receive, Scope, Send
from farthing.settings import Settings
from policies.access import Route
from policies.http import HttpError, Reply, Request, read_request, refusal, send_reply
from policies.ledger_api import HEALTH_TIMEOUT_S
from policies.plane import ControlPlane
from policies.repeat import repeat
from policies.routes import ROUTES

_TOLD = ("name", "version", "pending", "state")  # of an answer, in the audit


def app(settings: Settings) -> Asgi:
    """Return the control plane as an ASGI application; its lifespan opens and closes store and ledger."""
    return PoliciesApp(settings)


def main(settings: Settings) -> None:
    """Serve the control plane until SIGINT or SIGTERM."""
    serve = PoliciesApp(settings)
    site = serving.Site("policies", serve, settings.host, settings.policies_port, on_stop=serve.release_polls)
    asyncio.run(serving.run([site]))


class PoliciesApp:
    """The ASGI application around a control plane that lives as long as its lifespan."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._plane: ControlPlane | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http" and self._plane is not None:
            await send_reply(send, await _reply(self._plane, read_request(scope, receive)))

    def release_polls(self) -> None:
        """Answer the long polls now; they would hold up the end."""
        if self._plane is not None:
            self._plane.release_polls()

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            self._plane = await asyncio.to_thread(ControlPlane, self._settings, ROUTES)
        except FarthingError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        plane, settings = self._plane, self._settings
        looks = (
            repeat(plane.guard.look, settings.guardrail_interval_s, "guardrails are not judged"),
            repeat(plane.reconciler.look, settings.reconcile_interval_s, "expired holds are not corrected"),
            repeat(plane.lost_leases.look, settings.reconcile_interval_s, "lost leases are not corrected"),
        )
        watching = [asyncio.create_task(look) for look in looks]
        await receive()
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
        await asyncio.to_thread(self._plane.close)
        await send({"type": "lifespan.shutdown.complete"})


async def _reply(plane: ControlPlane, request: Request) -> Reply:
    try:
        route, identified = plane.access.identify(request)
        if not route.is_write:
            return await _answered(plane, route, identified)
        return await _noted(plane, route, identified)
    except HttpError as error:
        return refusal(error)
    except AccessError as error:
        return refusal(HttpError(error.status, error.code, str(error)))


async def _noted(plane: ControlPlane, route: Route, request: Request) -> Reply:
    """Answer a write, which the audit knows before it is done."""
    asker = Asker(Principal(request.caller, request.role), request.client)
    asked = ", ".join(f"{name}={value}" for name, value in request.query.items())
    async with plane.audit.noted(asker, f"{request.method} {request.path}", asked) as outcome:
        reply = await _answered(plane, route, request)
        outcome.status, outcome.note = reply.status, _outcome(reply)
    return reply


def _outcome(reply: Reply) -> str:
    """Return what a write led to, without the keys and tokens that an answer may show once."""
    told = reply.value if isinstance(reply.value, dict) else {}
    if "error" in told:
        return "; ".join([told["error"]["message"], *told["error"]["details"]])
    return ", ".join(f"{name} {told[name]}" for name in _TOLD if name in told)


async def _answered(plane: ControlPlane, route: Route, request: Request) -> Reply:
    try:
        plane.access.check(route, request)
        return await route.handler(plane, request)
    except HttpError as error:
        return refusal(error)
    except DocumentError as error:
        problems = str(error).split("\n")
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        return refusal(HttpError(400, "document_refused", f"refused for {count}; nothing changed", problems))
    except LedgerError as error:
        return refusal(HttpError(503, "ledger_unavailable", str(error)))
    except TimeoutError:
        return refusal(HttpError(503, "ledger_slow", f"the ledger has not answered for {HEALTH_TIMEOUT_S:.0f} s"))
