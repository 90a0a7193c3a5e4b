"""Trace context and tags go to Farthing's proxy as request headers, and to nobody else.

Clients that Stainless generated (openai, anthropic) build every request in `BaseClient._build_request`, whatever the
client is (sync, async, Azure, raw). Their `_prepare_request` would not do: `openai.OpenAI` overrides it and does not
call its base. httpx keeps these headers on a redirect to another origin, so a request hook takes them off again.
"""
from __future__ import annotations

import logging
from collections.abc import Callable
from types import ModuleType
from typing import Any
from urllib.parse import SplitResult, urlsplit

import wrapt
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from farthing.semconv import HEADER_TAGS
from farthing.tags import current_tags
from farthing.tracing_marks import inference_operation, mark_unbilled

Origin = tuple[str, str, int]  # scheme, host, port

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_PORTS = {"http": 80, "https": 443}
_SENT = "farthing.sent"  # request extension: (origin, names of the headers that we set)

log = logging.getLogger("farthing")
propagator = TraceContextTextMapPropagator()


def origin_of(url: str) -> Origin | None:
    """Return where `url` leads, or None for an empty one; the names of the loopback address count as one host."""
    parts = urlsplit(url)
    return _origin(parts) if parts.hostname else None


class ProxyHeaders:
    """Dresses requests to the proxy at `origin`; with None, no request is touched."""

    def __init__(self) -> None:
        self.origin: Origin | None = None

    def hook(self, base_client: ModuleType) -> None:
        """Have every request of a Stainless client library pass here; `base_client` is its `_base_client`."""
        wrapt.wrap_function_wrapper(base_client, "BaseClient._build_request", self._build_request)

    def _build_request(self, wrapped: Callable[..., Any], client: Any, args: Any, kwargs: Any) -> Any:
        request = wrapped(*args, **kwargs)
        try:
            if self.origin is not None and _origin(request.url) == self.origin:
                self._dress(client._client, request)
        except Exception:  # the application's call matters more than its trace
            log.debug("farthing: a request was not given its headers", exc_info=True)
        return request

    def _dress(self, http_client: Any, request: Any) -> None:
        span = trace.get_current_span()
        self._watch_redirects(http_client)
        headers: dict[str, str] = {}
        propagator.inject(headers)
        tags = current_tags()
        if tags is not None and tags.header:
            headers[HEADER_TAGS] = tags.header
        ours = {name: value for name, value in headers.items() if name not in request.headers}
        for name, value in ours.items():
            request.headers[name] = value  # a third of the time that httpx takes to update all at once
        request.extensions[_SENT] = (self.origin, tuple(ours))
        if inference_operation(span):
            mark_unbilled(span, "proxy")

    def _watch_redirects(self, http_client: Any) -> None:
        hook = _strip_async if hasattr(http_client, "aclose") else _strip
        hooks = http_client.event_hooks
        if hook not in hooks["request"]:
            http_client.event_hooks = {**hooks, "request": [*hooks["request"], hook]}


def _strip(request: Any) -> None:
    sent = request.extensions.get(_SENT)
    if sent is not None and _origin(request.url) != sent[0]:
        for name in sent[1]:
            request.headers.pop(name, None)


async def _strip_async(request: Any) -> None:
    _strip(request)


def _origin(url: Any) -> Origin:
    # httpx2 calls it `host`, the standard library `hostname`
    host = (url.hostname if isinstance(url, SplitResult) else url.host) or ""
    port = url.port or _PORTS.get(url.scheme, 0)
    return url.scheme, "127.0.0.1" if host in _LOOPBACK else host.lower(), port
