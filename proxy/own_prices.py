"""Keeps the proxy on the prices that people add at run time, so that the ledger is charged what the warehouse books.

They are asked for every few seconds; while the collector is away the last ones stay, over a restart too.
"""
from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from farthing.errors import PriceError, UpstreamError
from farthing.prices_own import own_price
from farthing.semconv import HEADER_TENANT_KEY
from farthing.settings import PriceOverride
from farthing.tariff import Price
from proxy.upstream import Client, Timeouts

log = logging.getLogger(__name__)

INTERVAL_S = 5.0
_TIMEOUTS = Timeouts(connect=2.0, headers=10.0, between=10.0)


class _Answer(msgspec.Struct):
    prices: list[dict[str, Any]]


_decode = msgspec.json.Decoder(_Answer).decode


class PriceFeed:
    """The prices that people added, as this worker knows them."""

    def __init__(
        self, client: Client, collector_url: str, ingest_key: str, kept: Path, use: Callable[[list[Price]], None]
    ) -> None:
        self._client = client
        self._url = f"{collector_url}/v1/prices/own"
        self._headers = ((HEADER_TENANT_KEY, ingest_key),) if ingest_key else ()
        self._kept = kept  # the last good answer
        self._use = use
        self._seen = b""
        self._task: asyncio.Task[None] | None = None
        self.last_error = ""

    async def start(self) -> None:
        """Take the last known prices from the disk, then what the collector has now, then follow it."""
        if self._kept.exists():
            self._take(self._kept.read_bytes())
        await self._fetch()
        self._task = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_S)
            await self._fetch()

    async def _fetch(self) -> None:
        try:
            response = await self._client.request("GET", self._url, b"", self._headers, _TIMEOUTS)
            body = await response.read()
            if response.status != 200:
                raise UpstreamError(f"the collector answered {response.status}: {body[:200]!r}")
            if body != self._seen and self._take(body):
                self._keep(body)
            self.last_error = ""
        except (UpstreamError, OSError) as error:
            if str(error) != self.last_error:
                log.warning("prices: %s; the last known ones hold", error)
            self.last_error = str(error)

    def _take(self, body: bytes) -> bool:
        try:
            prices = [own_price(msgspec.convert(one, PriceOverride)) for one in _decode(body).prices]
        except (msgspec.DecodeError, PriceError) as error:
            log.error("prices: what the collector or %s has is not used: %s", self._kept, error)
            return False
        self._seen = body
        self._use(prices)
        return True

    def _keep(self, body: bytes) -> None:
        self._kept.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._kept.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(body)
        temporary.rename(self._kept)
