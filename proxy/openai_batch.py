"""OpenAI's batch API: a file is uploaded, a batch is made of it, and its answers are two files.

A batch carries our mark as metadata, so that one whose making was not heard of is found in the list of batches.
[developers.openai.com/api/reference/resources/batches]
"""
from __future__ import annotations

import secrets
from collections.abc import Container, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import msgspec

from proxy.consignment import Consignment
from proxy.provider_batch import Asking, Outcome, RefusedError, Seen, results_in

_FINAL = frozenset(("completed", "failed", "expired", "cancelled"))
_FULL = frozenset(("token_limit_exceeded", "enqueued_token_limit_exceeded"))  # other batches of the account end first
_MARK = "farthing"
_PAGE = 100
_CLOCKS_S = 3600  # that the provider's and this host's may differ by


class _Named(msgspec.Struct):
    id: Annotated[str, msgspec.Meta(min_length=1)]


class _Failure(msgspec.Struct):
    code: str | None = None
    message: str | None = None
    line: int | None = None


class _Failures(msgspec.Struct):
    data: list[_Failure] | None = None


class _Batch(_Named):
    status: str
    created_at: float = 0.0
    metadata: dict[str, str] | None = None
    errors: _Failures | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None


class _Page(msgspec.Struct):
    data: list[_Batch]
    has_more: bool = False


class _Response(msgspec.Struct):
    status_code: int = 0
    body: msgspec.Raw = msgspec.Raw(b"null")


class _Error(msgspec.Struct):
    code: str | None = None
    message: str | None = None


class _Result(msgspec.Struct):
    custom_id: str
    response: _Response | None = None
    error: _Error | None = None


_decode = msgspec.json.Decoder(_Result).decode


class OpenAIBatches:
    """Batches at one deployment."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking

    def line(self, custom_id: str, path: str, body: bytes) -> bytes:
        """Return a line of the input."""
        row = {"custom_id": custom_id, "method": "POST", "url": f"/v1/{path}", "body": msgspec.Raw(body)}
        return msgspec.json.encode(row) + b"\n"

    async def prepare(self, mark: str, lines: bytes) -> str:
        """Upload the input; return the file's id."""
        edge = secrets.token_hex(16)
        head = (
            f'--{edge}\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--{edge}\r\n'
            f'content-disposition: form-data; name="file"; filename="{mark}.jsonl"\r\n'
            "content-type: application/jsonl\r\n\r\n"
        )
        form = b"".join((head.encode(), lines, f"\r\n--{edge}--\r\n".encode()))
        made = await self._asking.ask(_Named, "POST", "files", form, f"multipart/form-data; boundary={edge}")
        return made.id

    async def create(self, consignment: Consignment, mark: str, lines: bytes) -> str:
        """Make a batch of an uploaded file; return its id."""
        asked = {
            "input_file_id": consignment.input_id, "endpoint": f"/v1/{consignment.path}", "completion_window": "24h",
            "metadata": {_MARK: mark},
        }  # fmt: skip
        return (await self._asking.ask(_Named, "POST", "batches", msgspec.json.encode(asked))).id

    async def find(self, consignment: Consignment, mark: str, ids: Container[str], count: int) -> str:
        """Return the id of the batch with our mark, '' = there is none; the list begins with the newest."""
        after = ""
        while True:
            page = await self._asking.ask(_Page, "GET", f"batches?limit={_PAGE}{after}")
            for one in page.data:
                if (one.metadata or {}).get(_MARK) == mark:
                    return one.id
            if not page.has_more or not page.data or page.data[-1].created_at < consignment.asked_at - _CLOCKS_S:
                return ""
            after = f"&after={page.data[-1].id}"

    async def look(self, batch_id: str) -> Seen:
        """Return how a batch stands."""
        told = await self._asking.ask(_Batch, "GET", f"batches/{batch_id}")
        errors = (told.errors.data or []) if told.errors is not None else []
        files = tuple([name for name in (told.output_file_id, told.error_file_id) if name])
        is_full = told.status == "failed" and not files and bool(errors) and all(one.code in _FULL for one in errors)
        first = errors[0] if errors else _Failure()
        where = f"line {first.line}: " if first.line else ""
        return Seen(told.status in _FINAL, told.status, first.code or "", where + (first.message or ""), is_full, files)

    async def results(self, seen: Seen, into: Path) -> Iterator[Outcome]:
        """Fetch the output and the error file."""
        paths = [into.with_suffix(f".{number}") for number in range(len(seen.files))]
        for file_id, path in zip(seen.files, paths, strict=True):
            await self._asking.fetch(f"files/{file_id}/content", path)
        return (_outcome(result) for path in paths for result in results_in(path, _decode))

    async def cancel(self, batch_id: str) -> None:
        """Ask for a batch to be given up; one that has just ended cannot be, and that is as good."""
        with suppress(RefusedError):
            await self._asking.ask(_Named, "POST", f"batches/{batch_id}/cancel", b"{}")


def _outcome(result: _Result) -> Outcome:
    response, error = result.response, result.error
    if response is not None and response.status_code:
        return Outcome(result.custom_id, response.status_code, bytes(response.body))
    if error is None:  # it may have been billed
        return Outcome(result.custom_id, code="batch_lost", message="the provider's result says nothing")
    return Outcome(result.custom_id, code=error.code or "failed", message=error.message or "")
