"""Keeps connections to deployments open before anyone asks, so that no caller waits for a handshake.

As many as a deployment's `warm_connections` lie idle in each worker; those that an upstream closed are opened anew. The
bundled engine warms itself when it starts.
"""
from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from farthing.errors import UpstreamError
from farthing.settings import Deployment
from proxy.counters import Counters
from proxy.upstream import Client, Timeouts

log = logging.getLogger(__name__)

INTERVAL_S = 5.0


class Warmth:
    """The idle connections of one worker."""

    def __init__(
        self, client: Client, deployments: Iterable[Deployment], counters: Counters, interval_s: float = INTERVAL_S
    ) -> None:
        self._client = client
        self._wanted = {one.url: one for one in deployments if one.warm_connections}
        self._counters = counters
        self._interval_s = interval_s
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to open connections; nobody waits for them."""
        if self._wanted:
            self._task = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _keep(self) -> None:
        while True:
            await asyncio.gather(*[self._top_up(url, one) for url, one in self._wanted.items()])
            await asyncio.sleep(self._interval_s)

    async def _top_up(self, url: str, deployment: Deployment) -> None:
        timeouts = Timeouts(connect=deployment.connect_timeout_s)
        try:
            self._counters.warmed += await self._client.warm(url, deployment.warm_connections, timeouts)
        except UpstreamError as error:
            log.debug("%s: %s", deployment.name, error)
