"""The analyzer as a process: a schedule that looks for waste, and an HTTP API for findings, runs, reports and totals.

The event loop only routes; everything that asks the warehouse or writes a file runs in a thread.
"""
from __future__ import annotations

import asyncio
import logging
from urllib.parse import unquote_plus

from analyzer import api, http
from analyzer.jobs import Schedule
from farthing import access, serving
from farthing.access import Gate
from farthing.audit import Asker, Audit
from farthing.errors import AccessError, WarehouseError
from farthing.serving import Asgi, Receive, Scope, Send, Site
from farthing.settings import Settings
from farthing.token_owners import TokenOwners
from farthing.warehouse.client import Warehouse

log = logging.getLogger(__name__)


def app(settings: Settings, warehouse: Warehouse) -> Asgi:
    """Return the ASGI application; its lifespan starts and stops the schedule."""
    return _Application(settings, warehouse)


def main(settings: Settings) -> None:
    """Run the analyzer alone until it is told to stop."""
    warehouse = Warehouse(settings.warehouse_dsn, cluster=settings.warehouse_cluster)
    try:
        warehouse.migrate()
        site = Site("analyzer", app(settings, warehouse), settings.host, settings.analyzer_port)
        asyncio.run(serving.run([site]))
    finally:
        warehouse.close()


class _Application:
    def __init__(self, settings: Settings, warehouse: Warehouse) -> None:
        self._settings = settings
        self._gate = Gate(settings, TokenOwners(settings).find)
        self._audit = Audit(settings.data_dir, "analyzer")
        self._warehouse = warehouse
        self._schedule: Schedule | None = None  # between startup and shutdown

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await http.send(await self._answer(scope, receive), send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        self._schedule = await asyncio.to_thread(Schedule, self._settings, self._warehouse)
        await asyncio.to_thread(self._schedule.start)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await asyncio.to_thread(self._schedule.stop)
        await send({"type": "lifespan.shutdown.complete"})

    async def _answer(self, scope: Scope, receive: Receive) -> http.Response:
        try:
            route = api.route_of(scope["method"], scope["path"])
            asker = await asyncio.to_thread(self._asker, route, scope)
            if not route.is_write:
                return await self._answered(route, asker, scope, receive)
            asked = unquote_plus(scope["query_string"].decode("latin-1"))
            async with self._audit.noted(asker, f"{route.method} {scope['path']}", asked) as outcome:
                response = await self._answered(route, asker, scope, receive)
                outcome.status, outcome.note = response.status, response.note
            return response
        except AccessError as failure:
            return http.error(http.HttpError(failure.status, failure.code, str(failure)))
        except http.HttpError as failure:
            return http.error(failure)

    async def _answered(self, route: api.Route, asker: Asker, scope: Scope, receive: Receive) -> http.Response:
        try:
            access.check(asker.principal, route.needs, route.method, http.headers(scope))
            request = await http.read(scope, receive)
            return await asyncio.to_thread(route.handler, self._api(), request)
        except http.HttpError as failure:
            return http.error(failure)
        except AccessError as failure:
            return http.error(http.HttpError(failure.status, failure.code, str(failure)))
        except WarehouseError as failure:
            return http.error(http.HttpError(503, "warehouse_unavailable", str(failure)))
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            return http.error(http.HttpError(500, "internal", "the analyzer failed; its log says more"))

    def _asker(self, route: api.Route, scope: Scope) -> Asker:
        if route.needs == "nothing":
            return Asker(access.NOBODY, "")
        client = http.client(scope)
        return Asker(self._gate.caller(route.needs, http.headers(scope), client), client)

    def _api(self) -> api.Api:
        if self._schedule is None:
            raise http.HttpError(503, "not_started", "the analyzer's schedule is not running")
        return api.Api(self._settings, self._schedule, self._audit)
