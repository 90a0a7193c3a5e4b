"""What a collector answers beside taking deliveries: prices, a flush, a backup, its status, each to those who may."""
from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

from collector.admin import Asked, Door
from collector.answers import JSON, failure
from collector.backup import backup_target, header_map
from collector.export import read
from collector.flush import Flusher
from collector.intake import Intake
from collector.price_api import PATHS, PriceApi
from collector.upkeep import Upkeep
from farthing.access import AccessError
from farthing.backup import write_backup
from farthing.errors import FarthingError, IngestError, WarehouseError
from farthing.serving import Receive, Scope, Send, answer
from farthing.settings import Settings
from farthing.warehouse import Warehouse


@dataclass(frozen=True)
class Parts:
    """What an open collector works with."""

    warehouse: Warehouse
    flusher: Flusher
    upkeep: Upkeep
    prices: PriceApi
    status: Callable[[], Mapping[str, object]]


class AdminApi:
    """The administration of one open collector."""

    def __init__(self, settings: Settings, intake: Intake, door: Door, parts: Parts) -> None:
        self._settings = settings
        self._intake = intake
        self._door = door
        self._parts = parts

    async def answer(self, asked: Asked, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, to those who may have it."""
        path, headers, client = asked[1], header_map(scope), (scope.get("client") or ("",))[0]
        if path == "/healthz":
            await _answer(send, 200, b'{"status":"ok"}')
            return
        try:
            tenant = await asyncio.to_thread(self._door.admit, asked, headers, client)
        except (AccessError, IngestError) as error:
            await _answer(send, error.status, _error(error))
            return
        if path in PATHS:
            await self._answer_prices(path, scope, receive, send, tenant)
        elif path == "/v1/backup":
            await self._backup(scope, receive, send)
        else:
            if path == "/v1/flush":
                await asyncio.to_thread(self._flush)
            await _answer(send, 200, json.dumps(self._parts.status()).encode())

    async def _answer_prices(self, path: str, scope: Scope, receive: Receive, send: Send, tenant: str) -> None:
        prices = self._parts.prices
        try:
            if scope["method"] == "GET":
                asked = dict(parse_qsl(scope["query_string"].decode("latin-1")))
                told = await asyncio.to_thread(prices.read, path, asked, tenant)
            else:
                body = await self._read_small(receive)
                told = await asyncio.to_thread(prices.write, path, body, header_map(scope), tenant)
        except IngestError as error:
            await _answer(send, error.status, _error(error))
        except WarehouseError as error:
            await _answer(send, 503, _error(error))
        else:
            await _answer(send, 200, json.dumps(told).encode())

    def _flush(self) -> None:
        self._parts.flusher.flush()
        self._parts.upkeep.settle()

    async def _backup(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Write a backup on this machine, for someone on this machine; senders are taken meanwhile."""
        try:
            target = backup_target(scope, await self._read_small(receive))
            document = await asyncio.to_thread(self._write_backup, target)
        except IngestError as error:
            await _answer(send, error.status, failure(error.status, str(error), is_json=True))
        except FarthingError as error:
            await _answer(send, 503, failure(503, str(error), is_json=True))
        else:
            await _answer(send, 200, json.dumps(document).encode())

    def _write_backup(self, target: Path) -> dict[str, object]:
        with self._parts.flusher.paused():
            return write_backup(self._settings, self._parts.warehouse, target)

    async def _read_small(self, receive: Receive) -> bytes:
        body = await read(self._intake, receive)
        self._intake.in_flight -= len(body)
        return body


async def _answer(send: Send, status: int, body: bytes) -> None:
    await answer(send, status, body, JSON.encode())


def _error(error: Exception) -> bytes:
    return json.dumps({"error": {"message": str(error)}}).encode()
