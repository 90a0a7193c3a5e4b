"""`/v1/files` in OpenAI's shape: what batches read and write."""
from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from farthing.settings import Settings
from proxy import azure
from proxy.api_error import ApiError
from proxy.files import FileRecord, Files
from proxy.http import JSON
from proxy.keys import Caller, Keys
from proxy.multipart import parts_of
from proxy.offline import Limits, owner_of
from proxy.routes import Routes
from proxy.server import Request

_CHUNK = 256 * 1024  # bytes of a file sent at once
_MAX_PAGE = 10_000
_FORM_BYTES = 64 * 1024  # of an upload, beside its file


class Listed(Protocol):
    id: str


Item = TypeVar("Item", bound=Listed)


class FileApi:
    """The routes of files."""

    def __init__(self, settings: Settings, files: Files, limits: Limits, keys: Keys) -> None:
        self._settings = settings
        self._files = files
        self._limits = limits
        self._keys = keys

    def register(self, routes: Routes) -> None:
        routes.free("POST", "/v1/files", "files", self._upload)
        routes.free("GET", "/v1/files", "files", self._list)
        routes.free("GET", "/v1/files/{id}", "files", self._get)
        routes.free("GET", "/v1/files/{id}/content", "files", self._content)
        routes.free("DELETE", "/v1/files/{id}", "files", self._delete)

    def max_body(self, request: Request) -> int:
        """Return the bytes that a request's body may have; only a caller with a good key may send a large file."""
        usual = self._settings.max_request_bytes
        if request.path not in ("/v1/files", azure.FILES) or not self._keys.is_trusted(request.headers, "files"):
            return usual
        return max(usual, self._limits.most() + _FORM_BYTES)

    async def _upload(self, request: Request, caller: Caller) -> None:
        limits, owner = self._limits.of(caller), owner_of(caller)
        parts = {} if request.is_too_large else parts_of(request.headers.get(b"content-type", b""), request.body)
        file, purpose = parts.get("file"), parts.get("purpose")
        if request.is_too_large or (file is not None and len(file.content) > limits.max_file_bytes):
            message = f"the file has more than {limits.max_file_bytes} bytes; split it"
            raise ApiError(413, "file_too_large", message, param="file")
        if purpose is None or purpose.content != b"batch":
            shown = purpose.content.decode("utf-8", "replace")[:100] if purpose else ""
            raise ApiError(400, "invalid_purpose", f"purpose = {shown!r}; allowed is batch", param="purpose")
        if file is None or not file.content:
            raise ApiError(400, "invalid_request", "the form has no `file`, or an empty one", param="file")
        stored = sum(record.bytes for record in await asyncio.to_thread(self._files.of, owner))
        if stored + len(file.content) > limits.max_stored_bytes:
            message = f"your files have {stored} bytes, {limits.max_stored_bytes} are allowed; delete some"
            raise ApiError(413, "storage_full", message, param="file")
        name = file.filename or "upload.jsonl"
        record = await asyncio.to_thread(self._files.add, owner, name, file.content, limits.keep_days)
        _answer(request, record.described())

    async def _list(self, request: Request, caller: Caller) -> None:
        found = await asyncio.to_thread(self._files.of, owner_of(caller))
        purpose = request.query.get("purpose", "")
        kept = [record for record in found if not purpose or record.purpose == purpose]
        page, has_more = page_of(kept if request.query.get("order") != "asc" else kept[::-1], request, _MAX_PAGE)
        _answer(request, listing([record.described() for record in page], has_more))

    async def _get(self, request: Request, caller: Caller) -> None:
        _answer(request, self._found(request, caller).described())

    async def _content(self, request: Request, caller: Caller) -> None:
        record = self._found(request, caller)
        with self._files.path(record.id).open("rb") as file:
            request.begin(200, ((b"content-type", b"application/octet-stream"),))
            while chunk := await asyncio.to_thread(file.read, _CHUNK):
                await request.write(chunk)
            request.end()

    async def _delete(self, request: Request, caller: Caller) -> None:
        record = self._found(request, caller)
        await asyncio.to_thread(self._files.delete, record.owner, record.id)
        _answer(request, {"id": record.id, "object": "file", "deleted": True})

    def _found(self, request: Request, caller: Caller) -> FileRecord:
        return self._files.get(owner_of(caller), request.path.split("/")[3])


def page_of(
    items: Sequence[Item], request: Request, most: int, usual: int | None = None
) -> tuple[Sequence[Item], bool]:
    """Return the page that `after` and `limit` ask for, and whether more follow.

    Raises:
        ApiError: 400.
    """
    text = request.query.get("limit", "")
    if text and not (text.isdecimal() and 1 <= int(text) <= most):
        raise ApiError(400, "invalid_request", f"limit={text!r}: allowed is 1 to {most}", param="limit")
    limit, after = int(text) if text else usual or most, request.query.get("after", "")
    start = next((number + 1 for number, item in enumerate(items) if item.id == after), 0) if after else 0
    return items[start : start + limit], len(items) > start + limit


def listing(items: Sequence[dict[str, Any]], has_more: bool) -> dict[str, Any]:
    """Return a page as OpenAI's API does."""
    ends = {"first_id": items[0]["id"], "last_id": items[-1]["id"]} if items else {"first_id": None, "last_id": None}
    return {"object": "list", "data": items, "has_more": has_more, **ends}


def _answer(request: Request, value: object) -> None:
    request.answer(200, msgspec.json.encode(value), JSON)
