"""What the proxy needs of a provider's own batch API, whoever the provider is.

Three kinds of failure are told apart, since a batch that was made twice is billed twice: nothing was done and never
will be, nothing was done yet, and nobody knows.
"""
from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Container, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from farthing.errors import UpstreamError
from proxy.consignment import Consignment
from proxy.dispatch import Target
from proxy.upstream import Client, Fields, Response

Told = TypeVar("Told")
_ANSWER_BYTES = 4 * 1024 * 1024  # of an answer that is no file
_LATER = frozenset((408, 409, 429))  # answers after which the same request may be taken


class RefusedError(UpstreamError):
    """Nothing was done, and the same request never will be."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"it answered {status}: {body[:300].decode('utf-8', 'replace')}")
        self.status = status
        self.body = body


class NotNowError(UpstreamError):
    """Nothing was done; the same request may be taken later."""


class Seen(msgspec.Struct):
    """What a provider says of a batch."""

    is_ended: bool
    status: str  # completed | failed | expired | cancelled | … ; in the provider's words
    code: str = ""  # why all of it failed
    message: str = ""
    is_worth_another: bool = False  # it was not begun, for a reason that passes
    files: tuple[str, ...] = ()  # where its results are


class Outcome(msgspec.Struct):
    """What became of one line."""

    custom_id: str
    status: int = 0  # of its answer; 0: it has none
    body: bytes = b""
    code: str = ""  # why it has none
    message: str = ""


class ProviderBatches(Protocol):
    """The batch API of one provider, for one deployment."""

    def line(self, custom_id: str, path: str, body: bytes) -> bytes:
        """Return a line of the input."""
        ...

    async def prepare(self, mark: str, lines: bytes) -> str:
        """Hand over the input, where that is a step of its own; return its name. What it leaves there costs nothing."""
        ...

    async def create(self, consignment: Consignment, mark: str, lines: bytes) -> str:
        """Make a batch; return its id. RefusedError and NotNowError: none was made; UpstreamError: nobody knows."""
        ...

    async def find(self, consignment: Consignment, mark: str, ids: Container[str], count: int) -> str:
        """Return the id of the batch made under a mark, of so many lines with these ids, '' = none was made.

        Raises:
            UpstreamError: that cannot be told now.
        """
        ...

    async def look(self, batch_id: str) -> Seen:
        """Return how a batch stands."""
        ...

    async def results(self, seen: Seen, into: Path) -> Iterator[Outcome]:
        """Fetch what became of the lines of a batch that has ended; those never begun may be missing."""
        ...

    async def cancel(self, batch_id: str) -> None:
        """Ask for a batch to be given up."""
        ...


class Asking:
    """Requests to one deployment's batch API."""

    def __init__(self, client: Client, target: Target, headers: Fields = ()) -> None:
        self._client = client
        self._target = target
        self._headers = (*headers, *target.headers)

    @property
    def url(self) -> str:
        return self._target.deployment.url

    async def ask(
        self, kind: type[Told], method: str, path: str, body: bytes = b"", content_type: str = "application/json"
    ) -> Told:
        """Return what an answer says.

        Raises:
            RefusedError, NotNowError: nothing was done.
            UpstreamError: nobody knows.
        """
        response = await self._sent(method, path, body, content_type)
        try:
            answer = await response.read(_ANSWER_BYTES)
        finally:
            response.close()
        _check(response.status, answer)
        try:
            return msgspec.json.decode(answer, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UpstreamError(f"its answer to {method} {path} cannot be read: {error}") from None

    async def fetch(self, path: str, into: Path) -> None:
        """Write a file of the provider's to the disk."""
        async with self._file(path) as response:
            with into.open("wb") as file:
                async for part in response.parts():
                    file.write(part)

    async def first_line(self, path: str) -> bytes:
        """Return the first line of a file of the provider's."""
        found = b""
        async with self._file(path) as response:
            async for part in response.parts():
                found += part
                if b"\n" in part:
                    break
        return found.partition(b"\n")[0]

    @asynccontextmanager
    async def _file(self, path: str) -> AsyncGenerator[Response, None]:
        """Lend the answer that has a file of the provider's."""
        response = await self._sent("GET", path, b"", "")
        try:
            if response.status != 200:
                _check(response.status, await response.read(_ANSWER_BYTES))
            yield response
        finally:
            response.close()

    async def _sent(self, method: str, path: str, body: bytes, content_type: str) -> Response:
        target = self._target
        headers = (("content-type", content_type), *self._headers) if body else self._headers
        is_repeatable = method == "GET"
        return await self._client.request(method, f"{self.url}/{path}", body, headers, target.timeouts, is_repeatable)


def results_in(path: Path, decode: Callable[[bytes], Told]) -> Iterator[Told]:
    """Yield the lines of a fetched file of results.

    Raises:
        UpstreamError: one is none.
    """
    with path.open("rb") as file:
        yield from (result_of(text, decode) for text in file if text.strip())


def result_of(text: bytes, decode: Callable[[bytes], Told]) -> Told:
    """Return what one line of results says; raises as `results_in` does."""
    try:
        return decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UpstreamError(f"a line of its results is none: {error}: {text[:200]!r}") from None


def _check(status: int, body: bytes) -> None:
    if status in _LATER:
        raise NotNowError(f"it answered {status}: {body[:300].decode('utf-8', 'replace')}")
    if 400 <= status < 500:
        raise RefusedError(status, body)
    if not 200 <= status < 300:
        raise UpstreamError(f"it answered {status}: {body[:300].decode('utf-8', 'replace')}")
