"""The proxy's routes. What is registered here runs behind the key check, because there is no other way to register.

A route is either an `Exchange`, which sends nothing before `Admission` has let the call in, or a `Free` one, whose
handler is given a caller whose key was checked and does nothing that anybody bills. What tells of everybody also takes
a token of the control API. Only `/healthz` asks for neither; it has no handler at all.
"""
from __future__ import annotations

import logging
import re
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from proxy import azure
from proxy.api_error import ApiError
from proxy.exchange import Exchange
from proxy.http import JSON, refuse
from proxy.http_request import Request
from proxy.keys import Caller, Keys
from proxy.operators import Operators

log = logging.getLogger(__name__)

HEALTH = ("GET", "/healthz")
_HEALTHY = b'{"status":"ok"}'
_PARAMETER = re.compile(r"\{\w+\}")

Free = Callable[[Request, Caller], Coroutine[Any, Any, None]]


class Shape(Protocol):
    """How an API writes its errors."""

    def error(self, error: ApiError) -> bytes: ...


class OpenAiShape:
    """OpenAI's errors, which all routes have that belong to no other API."""

    def error(self, error: ApiError) -> bytes:
        return error.body()


@dataclass(frozen=True, slots=True)
class Route:
    """One way in."""

    method: str
    path: str  # as documented: /v1/files/{id}
    name: str  # what keys and metrics call it
    shape: Shape
    handle: Exchange | Free
    is_operators: bool = False  # it tells of everybody, and takes a token of the control API too


class Routes:
    """All routes of one worker."""

    def __init__(self, keys: Keys, operators: Operators, refused: Callable[[str, ApiError], None]) -> None:
        self._keys = keys
        self._operators = operators
        self._refused = refused  # told of what is refused before there is a call
        self._exact: dict[tuple[str, str], Route] = {}
        self._patterns: list[tuple[re.Pattern[str], Route]] = []

    def priced(self, exchange: Exchange) -> None:
        """Register the route of a format, which is admitted call by call."""
        form = exchange.form
        self._add(Route("POST", f"/v1/{form.path}", exchange.name, form, exchange))

    def free(self, method: str, path: str, name: str, handle: Free, shape: Shape | None = None) -> None:
        """Register a route that costs nothing; `{id}` in its path stands for one segment."""
        self._add(Route(method, path, name, shape or OpenAiShape(), handle))

    def operators(self, path: str, name: str, handle: Free) -> None:
        """Register a route that tells of everybody, for those who may look at the proxy as a whole."""
        self._add(Route("GET", path, name, OpenAiShape(), handle, is_operators=True))

    def _add(self, route: Route) -> None:
        if _PARAMETER.search(route.path):
            self._patterns.append((re.compile(_PARAMETER.sub("[^/]+", route.path)), route))
        else:
            self._exact[route.method, route.path] = route

    def __iter__(self) -> Iterator[Route]:
        yield from self._exact.values()
        yield from (route for _, route in self._patterns)

    def exchange(self, path: str) -> Exchange | None:
        """Return the priced route of a path, for a call that the proxy makes itself."""
        route = self._exact.get(("POST", path))
        return route.handle if route is not None and isinstance(route.handle, Exchange) else None

    async def handle(self, request: Request) -> None:
        """Answer a request: the one way to every handler."""
        route = self._exact.get((request.method, request.path)) or self._matching(request)
        if route is None and azure.rewrite(request):
            route = self._exact.get((request.method, request.path)) or self._matching(request)
        if route is None:
            self._answer_none(request)
            return
        try:
            if route.is_operators:
                caller = await self._operators.caller(request, route.name)
            else:
                caller = self._keys.caller(request.headers, route.name)
            await route.handle(request, caller)
        except ApiError as error:
            self._refused(route.name, error)
            refuse(request, error, route.shape.error(error))
        except Exception:
            if request.is_begun:
                raise
            log.exception("%s %s failed", route.method, route.path)
            error = ApiError(500, "internal_error", "the proxy failed at this request; its log says where")
            self._refused(route.name, error)
            refuse(request, error, route.shape.error(error))

    def _matching(self, request: Request) -> Route | None:
        """Return the route of a path with parameters, or the one whose answer's head alone is asked for."""
        method = _method(request)
        for pattern, route in self._patterns:
            if route.method == method and pattern.fullmatch(request.path):
                return route
        return self._exact.get((method, request.path))

    def _answer_none(self, request: Request) -> None:
        if (_method(request), request.path) == HEALTH:
            request.answer(200, _HEALTHY, JSON)
            return
        known = ", ".join([f"{route.method} {route.path}" for route in self] + [" ".join(HEALTH)])
        message = f"there is no route {request.method} {request.path}; known: {known}"
        error = ApiError(404, "unknown_url", message)
        refuse(request, error, error.body())


def _method(request: Request) -> str:
    """Return the method of the route that answers; a HEAD's answer is a GET's without its body."""
    return "GET" if request.method == "HEAD" else request.method
