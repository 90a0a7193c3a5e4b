"""The control API's routes: each says which role it needs, and nothing is let through that no rule lets through."""
from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from farthing import access
from farthing.access import Gate, Principal
from farthing.errors import AccessError
from farthing.settings import Settings
from policies.http import HttpError, Reply, Request
from policies.tokens import TokenStore


@dataclass(frozen=True)
class Route:
    """One thing that can be asked; a route without a need cannot be written down."""

    method: str
    template: str  # /v1/objects/{kind}/{name}
    needs: str  # of GRANTS
    handler: Callable[[Any, Request], Awaitable[Reply]]

    @property
    def is_write(self) -> bool:
        return access.is_write(self.method, self.needs)

    @property
    def pattern(self) -> str:
        return re.sub(r"\{\w+\}", "[^/]+", self.template)


class Access:
    """Finds the route of a request and decides whether its caller may take it."""

    def __init__(self, settings: Settings, routes: Sequence[Route], tokens: TokenStore) -> None:
        self._gate = Gate(settings, tokens.find)
        self.routes = routes
        self._compiled = [(re.compile(route.pattern), route) for route in routes]

    def identify(self, request: Request) -> tuple[Route, Request]:
        """Return the route of a request, and the request with its caller named in it, who is then its author.

        Raises:
            HttpError: 401, 404, 405 or 429.
        """
        route = self._route(request)
        if route.needs == "nothing":
            return route, request
        with _as_http():
            principal = self._gate.caller(route.needs, request.headers, request.client)
        if not principal.name:
            return route, replace(request, role=principal.role)
        asked = {**request.query, "author": principal.name}
        return route, replace(request, caller=principal.name, role=principal.role, query=asked)

    def check(self, route: Route, request: Request) -> None:
        """Refuse an identified caller that may not take the route.

        Raises:
            HttpError: 403.
        """
        with _as_http():
            access.check(Principal(request.caller, request.role), route.needs, request.method, request.headers)

    def _route(self, request: Request) -> Route:
        methods = {route.method: route for pattern, route in self._compiled if pattern.fullmatch(request.path)}
        if not methods:
            raise HttpError(404, "no_such_route", f"there is no {request.path!r} here")
        if request.method not in methods:
            allowed = ", ".join(sorted(methods))
            raise HttpError(405, "method_not_allowed", f"{request.method} {request.path}: allowed is {allowed}")
        return methods[request.method]


@contextmanager
def _as_http() -> Iterator[None]:
    try:
        yield
    except AccessError as error:
        raise HttpError(error.status, error.code, str(error)) from None
