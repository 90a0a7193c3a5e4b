"""The engine's HTTP server: OpenAI's APIs for text and embeddings over the bundled models, as a plain ASGI application.

The port answers at once; models load in the background, and /healthz says when they are there.
"""
from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import parse_qs

from farthing.serving import Asgi, Receive, Scope, Send, Site, run
from farthing.settings import Settings
from proxy.engine.api_chat import CHAT
from proxy.engine.api_completions import COMPLETIONS
from proxy.engine.api_responses import RESPONSES
from proxy.engine.embeddings import answer_embeddings
from proxy.engine.ended import Ended
from proxy.engine.fleet import Fleet
from proxy.engine.generation import answer, unknown_model
from proxy.engine.protocol import RefusedError
from proxy.engine.status import RECENT, health, model_body, models_body, steps_body
from proxy.engine.wire import DisconnectedError, send_json, send_refusal

APIS = {"/v1/chat/completions": CHAT, "/v1/completions": COMPLETIONS, "/v1/responses": RESPONSES}
EMBEDDINGS = "/v1/embeddings"
MODEL = "/v1/models/"  # and a name
ENDED = "/v1/ended/"  # and the request id that the caller sent along

Page = tuple[int, dict[str, Any]]  # HTTP status and body


def app(settings: Settings) -> Asgi:
    """Return the ASGI application that serves every deployment with `.engine` set."""
    return EngineApp(Fleet(settings))


def main(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises:
        EngineError: the weight package is missing, or a deployment names an unknown engine or dtype.
        ServeError: the port is in use.
    """
    fleet = Fleet(settings)
    fleet.check()
    asyncio.run(run([Site("engine", EngineApp(fleet), settings.host, settings.engine_port)]))


class EngineApp:
    """Routes requests to the fleet."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.ended = Ended()
        self._pages = {"/healthz": self._health, "/v1/steps": self._steps, "/v1/models": self._models}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._respond(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        self.fleet.load_in_background()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await asyncio.to_thread(self.fleet.close)
        await send({"type": "lifespan.shutdown.complete"})

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._route(scope, receive, send)
        except RefusedError as refusal:
            await send_refusal(send, refusal)
        except DisconnectedError:
            return

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path = scope["method"], scope["path"]
        allowed = "POST" if path in (*APIS, EMBEDDINGS) else "GET"
        if path not in (*APIS, EMBEDDINGS, *self._pages) and not path.startswith((MODEL, ENDED)):
            raise RefusedError(404, f"there is nothing at {path}", code="not_found")
        if method != allowed:
            raise RefusedError(405, f"{path} takes {allowed}, not {method}", code="method_not_allowed")
        if path in APIS:
            return await answer(self.fleet, self.ended, APIS[path], scope, receive, send)
        if path == EMBEDDINGS:
            return await answer_embeddings(self.fleet, scope, receive, send)
        if path.startswith(ENDED):
            return await self._one_ended(path.removeprefix(ENDED), send)
        page = self._pages.get(path, self._one_model)
        await send_json(send, *page(scope))

    def _health(self, scope: Scope) -> Page:
        return health(self.fleet)

    def _steps(self, scope: Scope) -> Page:
        return 200, steps_body(self.fleet, _limit(scope))

    def _models(self, scope: Scope) -> Page:
        return 200, models_body(self.fleet)

    def _one_model(self, scope: Scope) -> Page:
        name = scope["path"].removeprefix(MODEL)
        if name not in self.fleet.names:
            raise unknown_model(self.fleet, name)
        return 200, model_body(name)

    async def _one_ended(self, caller_id: str, send: Send) -> None:
        body = await self.ended.get(caller_id)
        if body is None:
            raise RefusedError(404, f"no request {caller_id!r} has ended here lately", code="not_found")
        await send_json(send, 200, body)


def _limit(scope: Scope) -> int:
    """Return how many recent steps the query asks for."""
    text = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("limit", [str(RECENT)])[0]
    if not text.isdecimal():
        raise RefusedError(400, f"limit={text!r}: allowed is a whole number", "limit", "invalid_value")
    return int(text)
