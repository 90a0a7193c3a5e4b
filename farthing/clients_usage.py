"""Streamed chat completions report their tokens, and an application that did not ask does not see it.

OpenAI sends the usage of a stream only if `stream_options.include_usage` is set, as one last chunk without choices. Our
wrapper lies outside the instrumentor's, so the instrumentor reads that chunk and the application never gets it.
`with_streaming_response` hands out the bytes as they came, so those calls are left as they are.
"""
from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any, Self, cast

import wrapt

if TYPE_CHECKING:
    Proxy = wrapt.ObjectProxy[Any]
else:
    Proxy = wrapt.ObjectProxy  # is no generic class at run time

_RAW = "x-stainless-raw-response"  # the openai library's own mark: `true` with_raw_, `stream` with_streaming_response
_REFUSALS = (400, 422)  # statuses of servers that do not know stream_options
_MAX_REFUSING = 64

log = logging.getLogger("farthing")


class UsageAsking:
    """Asks streams for their usage while `is_active`; servers that refused it are remembered and not asked again."""

    def __init__(self) -> None:
        self.is_active = True
        self._refusing: set[str] = set()  # base URLs

    def hook(self, completions: ModuleType) -> None:
        """Wrap `create` of `openai.resources.chat.completions`, once the instrumentor has wrapped it."""
        wrapt.wrap_function_wrapper(completions, "Completions.create", self._create)
        wrapt.wrap_function_wrapper(completions, "AsyncCompletions.create", self._create_async)

    def _create(self, wrapped: Callable[..., Any], instance: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        asking = self._asking(instance, kwargs)
        if asking is None:
            return wrapped(*args, **kwargs)
        try:
            stream = wrapped(*args, **asking)
        except Exception as error:
            if not self._was_refused(instance, error):
                raise
            return wrapped(*args, **kwargs)
        return hide_usage(stream)

    def _create_async(self, wrapped: Callable[..., Any], instance: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        asking = self._asking(instance, kwargs)
        if asking is None:
            return wrapped(*args, **kwargs)
        return self._ask_async(wrapped, instance, args, kwargs, asking)

    async def _ask_async(
        self, wrapped: Callable[..., Awaitable[Any]], instance: Any, args: Any, kwargs: Any, asking: dict[str, Any]
    ) -> Any:
        try:
            stream = await wrapped(*args, **asking)
        except Exception as error:
            if not self._was_refused(instance, error):
                raise
            return await wrapped(*args, **kwargs)
        return hide_usage(stream)

    def _asking(self, instance: Any, kwargs: dict[str, Any]) -> dict[str, Any] | None:
        """Return the arguments with the usage asked for, or None where the call shall stay as it is."""
        if kwargs.get("stream") is not True or not self.is_active:
            return None
        given = kwargs.get("stream_options")
        options = cast("dict[str, Any]", given if isinstance(given, dict) else {})
        if "include_usage" in options or "stream_options" in (kwargs.get("extra_body") or {}):
            return None
        headers = cast("dict[str, object]", kwargs.get("extra_headers") or {})
        if any(name.lower() == _RAW and value == "stream" for name, value in headers.items()):
            return None
        if self._refusing and _base_url(instance) in self._refusing:
            return None
        return {**kwargs, "stream_options": {**options, "include_usage": True}}

    def _was_refused(self, instance: Any, error: Exception) -> bool:
        if getattr(error, "status_code", None) not in _REFUSALS or "stream_options" not in str(error):
            return False
        if len(self._refusing) < _MAX_REFUSING:
            self._refusing.add(_base_url(instance))
        log.info("farthing: %s takes no stream_options; its streams are sent without", _base_url(instance))
        return True


def hide_usage(answer: Any) -> Any:
    """Return a stream, or a raw response that will be parsed into one, without its chunk of usage."""
    if hasattr(answer, "__next__"):
        return UsageHidden(answer)
    if hasattr(answer, "__anext__"):
        return UsageHiddenAsync(answer)
    return UsageHiddenRaw(answer) if hasattr(answer, "parse") else answer


class UsageHiddenRaw(Proxy):
    """A response of `with_raw_response`, whose `parse` gives the stream."""

    def parse(self, *args: Any, **kwargs: Any) -> Any:
        return hide_usage(self.__wrapped__.parse(*args, **kwargs))


class UsageHidden(Proxy):
    """A stream without its chunk of usage; everything else is the wrapped stream's."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._self_advance = stream.__next__

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        chunk = self._self_advance()
        while _is_usage_alone(chunk):
            chunk = self._self_advance()
        return chunk

    def __enter__(self) -> Self:
        self.__wrapped__.__enter__()
        return self


class UsageHiddenAsync(Proxy):
    """The same for an asynchronous stream."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._self_advance = stream.__anext__

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        chunk = await self._self_advance()
        while _is_usage_alone(chunk):
            chunk = await self._self_advance()
        return chunk

    async def __aenter__(self) -> Self:
        await self.__wrapped__.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> Any:
        return await self.__wrapped__.__aexit__(*error)


def _is_usage_alone(chunk: Any) -> bool:
    # Azure's first chunk has no choices either; it brings filter results and no usage.
    return not getattr(chunk, "choices", True) and getattr(chunk, "usage", None) is not None


def _base_url(instance: Any) -> str:
    return str(getattr(getattr(instance, "_client", None), "base_url", ""))
