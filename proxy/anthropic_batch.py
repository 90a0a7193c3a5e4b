"""Anthropic's Message Batches: a batch is made with its requests in one step, and its results are lines of JSON.

A batch carries nothing of ours but the ids of its requests, and those are told once it has ended. One whose making was
not heard of is therefore looked for among those made since, as large as it is, and where such a one is still worked on
nobody knows until it ends. [platform.claude.com/docs/en/api/messages/batches]
"""
from __future__ import annotations

from collections.abc import Container, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec

from farthing.errors import UpstreamError
from proxy.consignment import Consignment
from proxy.provider_batch import Asking, Outcome, RefusedError, Seen, result_of, results_in

HEADERS = (("anthropic-version", "2023-06-01"),)
_PAGE = 100
_CLOCKS_S = 600  # that the provider's and this host's may differ by
_STATUS = {  # of an error, as the API answers it to a request of its own
    "invalid_request_error": 400, "authentication_error": 401, "billing_error": 402, "permission_error": 403,
    "not_found_error": 404, "request_too_large": 413, "rate_limit_error": 429, "api_error": 500, "timeout_error": 504,
    "overloaded_error": 529,
}  # fmt: skip
_CODES = {"canceled": "batch_cancelled", "expired": "batch_expired"}


class _Counts(msgspec.Struct):
    processing: int = 0
    succeeded: int = 0
    errored: int = 0
    canceled: int = 0
    expired: int = 0

    @property
    def all(self) -> int:
        return self.processing + self.succeeded + self.errored + self.canceled + self.expired


class _Batch(msgspec.Struct):
    id: Annotated[str, msgspec.Meta(min_length=1)]
    processing_status: str
    created_at: datetime
    request_counts: _Counts = msgspec.field(default_factory=_Counts)
    results_url: str | None = None
    cancel_initiated_at: str | None = None


class _Page(msgspec.Struct):
    data: list[_Batch]
    has_more: bool = False


class _Kind(msgspec.Struct):
    type: str = "api_error"


class _Failure(msgspec.Struct):
    error: _Kind = msgspec.field(default_factory=_Kind)


class _Result(msgspec.Struct):
    type: str
    message: msgspec.Raw = msgspec.Raw(b"null")
    error: msgspec.Raw = msgspec.Raw(b"{}")


class _Line(msgspec.Struct):
    custom_id: str
    result: _Result


_decode = msgspec.json.Decoder(_Line).decode
_decode_failure = msgspec.json.Decoder(_Failure).decode


class AnthropicBatches:
    """Batches at one deployment."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking

    def line(self, custom_id: str, path: str, body: bytes) -> bytes:
        """Return one request of a batch."""
        return msgspec.json.encode({"custom_id": custom_id, "params": msgspec.Raw(body)}) + b"\n"

    async def prepare(self, mark: str, lines: bytes) -> str:
        """Do nothing: the requests come with the batch."""
        return "with the batch"

    async def create(self, consignment: Consignment, mark: str, lines: bytes) -> str:
        """Make a batch; return its id."""
        whole = b'{"requests":[' + lines.rstrip(b"\n").replace(b"\n", b",") + b"]}"
        return (await self._asking.ask(_Batch, "POST", "messages/batches", whole)).id

    async def find(self, consignment: Consignment, mark: str, ids: Container[str], count: int) -> str:
        """Return the id of the batch with our requests, '' = there is none; the list begins with the newest.

        Raises:
            UpstreamError: one that may be it has not ended yet.
        """
        after, unknown = "", ""
        since = consignment.asked_at - _CLOCKS_S
        while True:
            page = await self._asking.ask(_Page, "GET", f"messages/batches?limit={_PAGE}{after}")
            for one in page.data:
                if one.created_at.timestamp() < since or one.request_counts.all != count:
                    continue
                if one.results_url is None:
                    unknown = one.id
                elif await self._is_ours(one.results_url, ids):
                    return one.id
            if not page.has_more or not page.data or page.data[-1].created_at.timestamp() < since:
                break
            after = f"&after_id={page.data[-1].id}"
        if unknown:
            raise UpstreamError(f"whether its batch {unknown!r} is ours will be known once it has ended")
        return ""

    async def look(self, batch_id: str) -> Seen:
        """Return how a batch stands."""
        told = await self._asking.ask(_Batch, "GET", f"messages/batches/{batch_id}")
        if told.processing_status != "ended":
            return Seen(is_ended=False, status=told.processing_status)
        if told.results_url is None:
            raise UpstreamError(f"its batch {batch_id!r} has ended and has no results yet")
        return Seen(is_ended=True, status="ended", files=(told.results_url,))

    async def results(self, seen: Seen, into: Path) -> Iterator[Outcome]:
        """Fetch the results; they tell of every request."""
        path = into.with_suffix(".0")
        await self._asking.fetch(self._path(seen.files[0]), path)
        return (_outcome(line) for line in results_in(path, _decode))

    async def cancel(self, batch_id: str) -> None:
        """Ask for a batch to be given up; one that has just ended cannot be, and that is as good."""
        with suppress(RefusedError):
            await self._asking.ask(_Batch, "POST", f"messages/batches/{batch_id}/cancel")

    async def _is_ours(self, url: str, ids: Container[str]) -> bool:
        """Tell by the first of a batch's results."""
        first = await self._asking.first_line(self._path(url))
        return bool(first) and result_of(first, _decode).custom_id in ids

    def _path(self, url: str) -> str:
        """Return the path of the results' address; our key goes to the deployment's own address alone."""
        base = f"{self._asking.url}/"
        if not url.startswith(base):
            raise UpstreamError(f"its results are at {url!r}, which is not below {base}")
        return url.removeprefix(base)


def _outcome(line: _Line) -> Outcome:
    result = line.result
    if result.type == "succeeded":
        return Outcome(line.custom_id, 200, bytes(result.message))
    if result.type == "errored":
        return Outcome(line.custom_id, _STATUS.get(_error_of(bytes(result.error)), 500), bytes(result.error))
    if result.type in _CODES:
        return Outcome(line.custom_id, code=_CODES[result.type], message=f"The provider's batch was {result.type}.")
    return Outcome(line.custom_id, code="batch_lost", message=f"the provider's result is {result.type!r}")


def _error_of(body: bytes) -> str:
    try:
        return _decode_failure(body).error.type
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
