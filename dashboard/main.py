"""Builds the dashboard as an ASGI application, and serves it.

Nothing outside the returned application is changed, so that a process can have several. The embedded store belongs to
one process: the station hands its own warehouse in, and `main` opens one only where the dashboard runs by itself.
"""
from __future__ import annotations

from typing import Any

from dash import Dash
from fastapi import FastAPI

from dashboard import shell
from dashboard.pages import overview
from dashboard.questions import Questions
from dashboard.security import SecurityHeaders
from dashboard.static_files import ASSETS, StaticFiles
from farthing import serving
from farthing.serving import Asgi, Receive, Scope, Send
from farthing.settings import Settings
from farthing.warehouse import Warehouse

INDEX = """<!DOCTYPE html>
<html lang="en">
<head>{%metas%}<title>{%title%}</title><link rel="icon" type="image/svg+xml" href="/assets/icon.svg">{%css%}</head>
<body>{%app_entry%}<footer>{%config%}{%scripts%}{%renderer%}</footer></body>
</html>"""


def app(settings: Settings, warehouse: Warehouse) -> Asgi:
    """Return the dashboard of `settings.tenant` over an open, migrated warehouse."""
    server: Any = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)  # its pages would load scripts from a CDN
    server.get("/healthz")(_health)
    dash = Dash(
        "dashboard",
        server=server,
        backend="fastapi",
        title="Farthing",
        update_title="",
        compress=True,
        assets_folder=str(ASSETS),
        assets_path_ignore=["vendor"],  # served, but not loaded by every page
        index_string=INDEX,
        meta_tags=[{"name": "viewport", "content": "width=device-width, initial-scale=1"}],
    )
    dash.layout = shell.shell(overview.layout())
    shell.register(dash)
    overview.register(dash, Questions(warehouse, settings.tenant), settings)
    return Lifespan(SecurityHeaders(StaticFiles(server), dash.csp_hashes()))


async def _health() -> dict[str, str]:
    return {"status": "ok"}


class Lifespan:
    """ASGI wrapper that answers start and stop itself: Dash would add a route to whichever app was made last."""

    def __init__(self, app: Asgi) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            return await self.app(scope, receive, send)
        while True:
            message: Any = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return None


async def serve(settings: Settings, warehouse: Warehouse) -> None:
    """Serve the dashboard over `warehouse` until the process is told to stop."""
    site = serving.Site("dashboard", app(settings, warehouse), settings.host, settings.dashboard_port)
    await serving.run([site])


def main(settings: Settings) -> None:
    """Open the warehouse and serve the dashboard by itself; for a warehouse on a server, or when no station runs.

    Raises:
        WarehouseError: the warehouse does not open; an embedded one may belong to the station.
        ServeError: the port is in use.
    """
    import asyncio

    warehouse = Warehouse(settings.warehouse_dsn, cluster=settings.warehouse_cluster)
    try:
        warehouse.migrate()
        asyncio.run(serve(settings, warehouse))
    finally:
        warehouse.close()
