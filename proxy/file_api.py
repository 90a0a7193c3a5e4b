"""`/v1/files` in OpenAI's shape: what batches read and write."""
from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from io import BytesIO
from typing import Any, BinaryIO, Protocol, TypeVar

import msgspec

from farthing.settings import Settings
from proxy import azure
from proxy.api_error import ApiError
from proxy.files import FileRecord, Files
from proxy.http import JSON
from proxy.http_request import Request
from proxy.keys import Caller, Keys
from proxy.multipart import parts_of
from proxy.offline import Limits, owner_of
from proxy.routes import Routes
from proxy.spool import Spool

log = logging.getLogger(__name__)

_PATH = "/v1/files"
_SHOWN = 100  # bytes of a field that an error quotes
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
        self._folder = settings.data_dir / "proxy" / "uploads"
        self._adding = asyncio.Lock()

    def register(self, routes: Routes) -> None:
        routes.free("POST", _PATH, "files", self._upload)
        routes.free("GET", _PATH, "files", self._list)
        routes.free("GET", "/v1/files/{id}", "files", self._get)
        routes.free("GET", "/v1/files/{id}/content", "files", self._content)
        routes.free("DELETE", "/v1/files/{id}", "files", self._delete)

    def max_body(self, request: Request) -> int:
        """Return the bytes that a request's body may have; only a caller with a good key may send a large file."""
        usual = self._settings.max_request_bytes
        if request.path not in (_PATH, azure.FILES) or not self._keys.is_trusted(request.headers, "files"):
            return usual
        return max(usual, self._limits.most() + _FORM_BYTES)

    def spool(self, request: Request) -> Spool:
        """Return where a large upload goes while it comes."""
        return Spool(self._folder)

    async def _upload(self, request: Request, caller: Caller) -> None:
        limits, owner = self._limits.of(caller), owner_of(caller)
        form = _form(request, limits.max_file_bytes)
        parts = await asyncio.to_thread(parts_of, request.headers.get(b"content-type", b""), form)
        file, purpose = parts.get("file"), parts.get("purpose")
        if file is not None and file.size > limits.max_file_bytes:
            raise _too_large(limits.max_file_bytes)
        named = purpose.beginning(form, _SHOWN) if purpose else b""
        if named != b"batch":
            shown = named.decode("utf-8", "replace")
            raise ApiError(400, "invalid_purpose", f"purpose = {shown!r}; allowed is batch", param="purpose")
        if file is None or not file.size:
            raise ApiError(400, "invalid_request", "the form has no `file`, or an empty one", param="file")
        async with self._adding:  # two at once must not both take the last of the room
            stored = sum(record.bytes for record in await asyncio.to_thread(self._files.of, owner))
            if stored + file.size > limits.max_stored_bytes:
                message = f"your files have {stored} bytes, {limits.max_stored_bytes} are allowed; delete some"
                raise ApiError(413, "storage_full", message, param="file")
            form.seek(file.start)
            name = file.filename or "upload.jsonl"
            try:
                record = await asyncio.to_thread(self._files.add, owner, name, form, file.size, limits.keep_days)
            except OSError as error:
                raise storage_unavailable(str(error)) from None
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


def _form(request: Request, most: int) -> BinaryIO:
    """Return an upload's form, wherever it lies.

    Raises:
        ApiError: 413 or 503; it is not here.
    """
    if request.is_too_large:
        raise _too_large(most)
    if request.spooled is None:
        return BytesIO(request.body)
    if request.spooled.file is None:
        raise storage_unavailable(request.spooled.error)
    return request.spooled.file


def storage_unavailable(why: str) -> ApiError:
    """Return the refusal of what the disk does not take."""
    log.error("an upload or a batch cannot be kept: %s", why)
    message = "the proxy's disk cannot take it now; try again later"
    return ApiError(503, "storage_unavailable", message, retry_after_s=60)


def _too_large(most: int) -> ApiError:
    return ApiError(413, "file_too_large", f"the file has more than {most} bytes; split it", param="file")


def _answer(request: Request, value: object) -> None:
    request.answer(200, msgspec.json.encode(value), JSON)
