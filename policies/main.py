"""The control plane as a process: its ASGI application, what it looks after by itself, and how failures are told."""
from __future__ import annotations

import asyncio

from farthing import serving
from farthing.errors import DocumentError, FarthingError, LedgerError
from farthing.serving import Asgi, Receive, Scope, Send
from farthing.settings import Settings
from policies.http import HttpError, Reply, Request, read_request, refusal, send_reply
from policies.ledger_api import HEALTH_TIMEOUT_S
from policies.plane import ControlPlane
from policies.repeat import repeat
from policies.routes import ROUTES


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
        route, admitted = plane.access.admit(request)
        return await route.handler(plane, admitted)
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
