"""The control API's routes: each says which role it needs, and nothing is let through that no rule lets through."""
from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from farthing import access
from farthing.access import LOOPBACK, AccessError, Principal
from farthing.settings import Settings
from policies.http import HttpError, Reply, Request
from policies.rate import Rates
from policies.tokens import TokenStore


@dataclass(frozen=True)
class Route:
    """One thing that can be asked; a route without a need cannot be written down."""

    method: str
    template: str  # /v1/objects/{kind}/{name}
    needs: str  # of GRANTS
    handler: Callable[[Any, Request], Awaitable[Reply]]

    @property
    def pattern(self) -> str:
        return re.sub(r"\{\w+\}", "[^/]+", self.template)


class Access:
    """Finds the route of a request and decides whether its caller may take it."""

    def __init__(self, settings: Settings, routes: Sequence[Route], tokens: TokenStore) -> None:
        self._mode = access.check_mode(settings)
        self._settings = settings
        self.routes = routes
        self._compiled = [(re.compile(route.pattern), route) for route in routes]
        self._tokens = tokens
        self._rates = Rates(settings.control_requests_per_s)

    def admit(self, request: Request) -> tuple[Route, Request]:
        """Return the route of a request whose caller may take it; the caller is named in it, and is the author.

        Raises:
            HttpError: 401, 403, 404, 405 or 429.
        """
        route = self._route(request)
        if route.needs == "nothing":
            return route, request
        try:
            principal = self._principal(request)
            access.check_role(principal, route.needs)
            access.check_origin(request.method, request.headers)
        except AccessError as error:
            raise HttpError(error.status, error.code, str(error)) from None
        is_here = not principal.name and request.client in LOOPBACK  # the parts of this machine have one address
        if route.needs != "proxy" and not is_here:  # reservations come by the thousand, bounded by their calls
            self._rates.spend(principal.name or request.client)
        if not principal.name:
            return route, replace(request, role=principal.role)
        asked = {**request.query, "author": principal.name}
        return route, replace(request, caller=principal.name, role=principal.role, query=asked)

    def _route(self, request: Request) -> Route:
        methods = {route.method: route for pattern, route in self._compiled if pattern.fullmatch(request.path)}
        if not methods:
            raise HttpError(404, "no_such_route", f"there is no {request.path!r} here")
        if request.method not in methods:
            allowed = ", ".join(sorted(methods))
            raise HttpError(405, "method_not_allowed", f"{request.method} {request.path}: allowed is {allowed}")
        return methods[request.method]

    def _principal(self, request: Request) -> Principal:
        given = access.bearer(request.headers)
        if not given:
            return access.anonymous(self._mode, request.headers, request.client)
        if access.is_of_settings(self._settings, given):
            return Principal("settings", "admin")
        known = self._tokens.find(given)
        if known is None:
            self._rates.spend(f"failed {request.client}", weight=10.0)
            raise access.unknown()
        return Principal(known.name, known.role)
