"""Who may do what: every route says which role it needs, and nothing is let through that no rule lets through.

A caller is a token, or, where `control_auth` allows it, somebody on this machine. What a proxy that forwards for others
sends does not count as this machine.
"""
from __future__ import annotations

import hmac
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from farthing.errors import SettingsError
from farthing.settings import Settings
from policies.http import HttpError, Reply, Request
from policies.rate import Rates
from policies.tokens import TokenStore

MODES = ("loopback", "tokens", "open")
_LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")

# what a route needs -> the roles that have it
GRANTS: dict[str, frozenset[str]] = {
    "nothing": frozenset(),  # a health check: nobody is asked
    "proxy": frozenset({"proxy", "admin"}),
    "reader": frozenset({"viewer", "operator", "admin", "proxy"}),
    "viewer": frozenset({"viewer", "operator", "admin"}),
    "operator": frozenset({"operator", "admin"}),
    "admin": frozenset({"admin"}),
}


@dataclass(frozen=True)
class Principal:
    """Who asks."""

    name: str  # of the token; empty: somebody on this machine
    role: str


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
        if settings.control_auth not in MODES:
            raise SettingsError(f"control_auth={settings.control_auth!r}: allowed are {', '.join(MODES)}")
        self._mode = settings.control_auth
        self._token = settings.control_token
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
        principal = self._principal(request)
        if principal.role not in GRANTS[route.needs]:
            may = ", ".join(sorted(GRANTS[route.needs]))
            raise HttpError(403, "not_allowed", f"{principal.name or 'you'} ({principal.role}): this is for {may}")
        if request.method != "GET":
            _refuse_other_sites(request)
        is_here = not principal.name and request.client in _LOOPBACK  # the parts of this machine have one address
        if route.needs != "proxy" and not is_here:  # reservations come by the thousand, bounded by their calls
            self._rates.spend(principal.name or request.client)
        if not principal.name:
            return route, request
        return route, replace(request, caller=principal.name, query={**request.query, "author": principal.name})

    def _route(self, request: Request) -> Route:
        methods = {route.method: route for pattern, route in self._compiled if pattern.fullmatch(request.path)}
        if not methods:
            raise HttpError(404, "no_such_route", f"there is no {request.path!r} here")
        if request.method not in methods:
            allowed = ", ".join(sorted(methods))
            raise HttpError(405, "method_not_allowed", f"{request.method} {request.path}: allowed is {allowed}")
        return methods[request.method]

    def _principal(self, request: Request) -> Principal:
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and given:
            return self._of_token(given.strip(), request.client)
        is_local = request.client in _LOOPBACK and not any(name in request.headers for name in _FORWARDED)
        if self._mode == "open" or (self._mode == "loopback" and is_local):
            return Principal("", "admin")
        raise HttpError(401, "token_missing", "send a token as `Authorization: Bearer …`; see `farthing token create`")

    def _of_token(self, given: str, client: str) -> Principal:
        if self._token and hmac.compare_digest(self._token.encode(), given.encode()):
            return Principal("settings", "admin")
        known = self._tokens.find(given)
        if known is None:
            self._rates.spend(f"failed {client}", weight=10.0)
            raise HttpError(401, "token_unknown", "the token is unknown, revoked or over; see `farthing token list`")
        return Principal(known.name, known.role)


def _refuse_other_sites(request: Request) -> None:
    """Refuse what a web page of another site sends through a user's browser: reaching this port may be all it takes."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise HttpError(403, "cross_site", f"a page of {origin!r} may not change anything here")
