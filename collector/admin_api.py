"""What a collector answers beside taking deliveries: prices, a flush, a backup, its status, each to those who may."""
from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote_plus

from collector.admin import NEEDS, Asked, Caller, Door
from collector.answers import JSON
from collector.backup import backup_target, header_map
from collector.export import read
from collector.flush import Flusher
from collector.intake import Intake
from collector.price_api import PATHS, REPRICE, PriceApi
from collector.upkeep import Upkeep
from farthing.access import is_write
from farthing.audit import Asker, Audit
from farthing.backup import write_backup
from farthing.errors import AccessError, FarthingError, IngestError
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
    audit: Audit
    status: Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class Question:
    """One request of somebody known."""

    asked: Asked
    scope: Scope
    caller: Caller
    body: bytes = b""

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(self.scope["query_string"].decode("latin-1")))


class AdminApi:
    """The administration of one open collector."""

    def __init__(self, settings: Settings, intake: Intake, door: Door, parts: Parts) -> None:
        self._settings = settings
        self._intake = intake
        self._door = door
        self._parts = parts

    async def answer(self, asked: Asked, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, to those who may have it."""
        if NEEDS[asked] == "nothing":
            return await _answer(send, 200, {"status": "ok"})
        headers, client = header_map(scope), (scope.get("client") or ("",))[0]
        try:
            caller = await asyncio.to_thread(self._door.caller, asked, headers, client)
            if is_write(asked[0], NEEDS[asked]):
                status, told = await self._write(asked, scope, receive, caller)
            else:
                self._door.check(asked, caller, headers)
                status, told = 200, await self._read(Question(asked, scope, caller))
        except (AccessError, IngestError) as error:
            status, told = error.status, _error(error)
        except FarthingError as error:
            status, told = 503, _error(error)
        return await _answer(send, status, told)

    async def _read(self, question: Question) -> dict[str, Any]:
        path, parts = question.asked[1], self._parts
        if path == "/v1/status":
            return parts.status()
        if path in PATHS:
            return await asyncio.to_thread(parts.prices.read, path, question.query, question.caller.tenant)
        try:
            return await asyncio.to_thread(parts.audit.page, question.query)
        except ValueError as error:
            raise IngestError(400, str(error)) from None

    async def _write(self, asked: Asked, scope: Scope, receive: Receive, caller: Caller) -> tuple[int, dict[str, Any]]:
        """Do what the audit knows of before it is done."""
        refused = self._refused(asked, scope, caller)
        body = b"" if refused else await self._read_small(receive)
        said = body.decode("utf-8", "replace") or unquote_plus(scope["query_string"].decode("latin-1"))
        asker = Asker(caller.principal, (scope.get("client") or ("",))[0])
        async with self._parts.audit.noted(asker, " ".join(asked), said) as outcome:
            try:
                if refused:
                    raise refused
                made, outcome.note = await asyncio.to_thread(self._do, Question(asked, scope, caller, body))
                outcome.status, told = 200, self._parts.status() if made is None else made
            except FarthingError as error:
                told = _error(error)
                outcome.status, outcome.note = getattr(error, "status", 0) or 503, str(error)
        return outcome.status, told

    def _refused(self, asked: Asked, scope: Scope, caller: Caller) -> AccessError | None:
        try:
            self._door.check(asked, caller, header_map(scope))
        except AccessError as error:
            return error
        return None

    def _do(self, question: Question) -> tuple[dict[str, Any] | None, str]:
        """Do a write; return the answer (None: the status), and what came of it in a few words."""
        path, parts = question.asked[1], self._parts
        if path in PATHS:
            told = parts.prices.write(path, question.body, header_map(question.scope), question.caller.tenant)
            if path == REPRICE:  # who asks next reads sums of the new prices
                parts.upkeep.settle()
            return told, _outcome(told)
        if path == "/v1/backup":
            target = backup_target(question.scope, question.body)
            with parts.flusher.paused():
                made = write_backup(self._settings, parts.warehouse, target)
            return made, f"{len(made['files'])} files"
        parts.flusher.flush()
        parts.upkeep.settle()
        return None, ""

    async def _read_small(self, receive: Receive) -> bytes:
        body = await read(self._intake, receive)
        self._intake.in_flight -= len(body)
        return body


def _outcome(told: Mapping[str, Any]) -> str:
    """Return what a change of prices or of what was priced came to."""
    if "models" in told:
        changed, rows = (sum(row[name] for row in told["models"]) for name in ("changed", "rows"))
        return f"{changed} of {rows} rows changed"
    return ", ".join(f"{one['provider']}/{one['model']} from {one['valid_from']}" for one in told["prices"])


async def _answer(send: Send, status: int, told: Mapping[str, Any]) -> None:
    await answer(send, status, json.dumps(told).encode(), JSON.encode())


def _error(error: Exception) -> dict[str, Any]:
    return {"error": {"message": str(error)}}
