"""`/v1/batches` in OpenAI's shape."""
from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec

from farthing import semconv
from proxy.api_error import ApiError
from proxy.batch import Batches, BatchRecord, new_id
from proxy.exchange import Exchange
from proxy.file_api import listing, page_of, storage_unavailable
from proxy.files import Files
from proxy.http import JSON
from proxy.http_request import Request
from proxy.keys import Caller
from proxy.offline import Limits, owner_of
from proxy.routes import Routes

_MAX_PAGE = 100
_USUAL_PAGE = 20
_MAX_METADATA = 16


class _Asked(msgspec.Struct):
    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None = None


_decode = msgspec.json.Decoder(_Asked).decode


class BatchApi:
    """The routes of batches."""

    def __init__(self, batches: Batches, files: Files, limits: Limits, wake: Callable[[], None]) -> None:
        self._batches = batches
        self._files = files
        self._limits = limits
        self._wake = wake
        self._names: dict[str, str] = {}  # endpoint -> the route's name

    def register(self, routes: Routes) -> None:
        """Add the routes; every priced one may be a batch's endpoint."""
        self._names = {route.path: route.handle.name for route in routes if isinstance(route.handle, Exchange)}
        routes.free("POST", "/v1/batches", "batches", self._create)
        routes.free("GET", "/v1/batches", "batches", self._list)
        routes.free("GET", "/v1/batches/{id}", "batches", self._get)
        routes.free("POST", "/v1/batches/{id}/cancel", "batches", self._cancel)

    async def _create(self, request: Request, caller: Caller) -> None:
        asked = self._asked(request.body)
        if self._names[asked.endpoint] not in caller.routes:
            raise ApiError(403, "route_not_allowed", f"the key {caller.key!r} may not use {asked.endpoint}")
        owner = owner_of(caller)
        file = self._files.get(owner, asked.input_file_id)
        if file.purpose != "batch":
            raise ApiError(400, "invalid_purpose", f"the file {file.id!r} was not uploaded with purpose = batch")
        tags = request.headers.get(semconv.HEADER_TAGS.encode(), b"").decode("latin-1")
        record = BatchRecord(
            new_id(), owner, asked.endpoint, file.id, int(time.time()), self._limits.of(caller).keep_days,
            caller.key, caller.tenant, caller.team, caller.user, tags, asked.metadata,
        )  # fmt: skip
        try:
            await asyncio.to_thread(self._batches.create, record, self._files.path(file.id))
        except OSError as error:
            raise storage_unavailable(str(error)) from None
        self._wake()
        self._answer(request, record)

    def _asked(self, body: bytes) -> _Asked:
        try:
            asked = _decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ApiError(400, "invalid_request", f"the body is no batch: {error}") from None
        if asked.endpoint not in self._names:
            message = f"endpoint = {asked.endpoint!r}; allowed are {', '.join(self._names)}"
            raise ApiError(400, "invalid_endpoint", message, param="endpoint")
        if asked.completion_window != "24h":
            message = f"completion_window = {asked.completion_window!r}; allowed is 24h"
            raise ApiError(400, "invalid_request", message, param="completion_window")
        if asked.metadata and len(asked.metadata) > _MAX_METADATA:
            message = f"metadata has {len(asked.metadata)} entries; allowed are {_MAX_METADATA}"
            raise ApiError(400, "invalid_request", message, param="metadata")
        return asked

    async def _list(self, request: Request, caller: Caller) -> None:
        found = await asyncio.to_thread(self._batches.of, owner_of(caller))
        page, has_more = page_of(found, request, _MAX_PAGE, _USUAL_PAGE)
        described = [one.described(self._batches.is_cancelled(one.id)) for one in page]
        request.answer(200, msgspec.json.encode(listing(described, has_more)), JSON)

    async def _get(self, request: Request, caller: Caller) -> None:
        self._answer(request, self._found(request, caller))

    async def _cancel(self, request: Request, caller: Caller) -> None:
        record = self._found(request, caller)
        if record.status not in ("validating", "in_progress"):
            message = f"the batch is {record.status}; only one that is under way can be cancelled"
            raise ApiError(409, "batch_not_cancellable", message)
        self._batches.cancel(record.id)
        self._wake()
        self._answer(request, record)

    def _found(self, request: Request, caller: Caller) -> BatchRecord:
        return self._batches.get(owner_of(caller), request.path.split("/")[3])

    def _answer(self, request: Request, record: BatchRecord) -> None:
        request.answer(200, msgspec.json.encode(record.described(self._batches.is_cancelled(record.id))), JSON)
