"""Who may do what at every part that answers: roles, and who is let in without a token.

A caller is a token of the control plane, the token of the settings, or, where `control_auth` allows it, somebody on
this machine. What a proxy that forwards for others sends does not count as this machine. While nobody can tell whose a
token is, it is refused.
"""
from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from farthing.errors import AccessError, SettingsError
from farthing.rate import Rates
from farthing.settings import Settings

MODES = ("loopback", "tokens", "open")
TOKEN_PREFIX = "ftc_"
LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")
_WEIGHT_OF_A_GUESS = 10.0  # requests that a wrong token counts as

# what a route needs -> the roles that have it
GRANTS: Mapping[str, frozenset[str]] = {
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


NOBODY = Principal("", "")  # who asks for what needs nothing


def check_mode(settings: Settings) -> str:
    """Return who needs no token.

    Raises:
        SettingsError: the setting says something else.
    """
    if settings.control_auth not in MODES:
        raise SettingsError(f"control_auth={settings.control_auth!r}: allowed are {', '.join(MODES)}")
    return settings.control_auth


def bearer(headers: Mapping[str, str]) -> str:
    """Return the token that was sent, empty for none; names of headers are in lower case."""
    kind, _, given = headers.get("authorization", "").partition(" ")
    return given.strip() if kind.lower() == "bearer" else ""


def anonymous(mode: str, headers: Mapping[str, str], client: str) -> Principal:
    """Return who asks without a token.

    Raises:
        AccessError: 401, one is needed.
    """
    is_here = client in LOOPBACK and not any(name in headers for name in _FORWARDED)
    if mode == "open" or (mode == "loopback" and is_here):
        return Principal("", "admin")
    raise AccessError(401, "token_missing", "send a token as `Authorization: Bearer …`; see `farthing token create`")


def is_of_settings(settings: Settings, given: str) -> bool:
    """Tell whether a token is the one that the settings hold."""
    return bool(settings.control_token) and hmac.compare_digest(settings.control_token.encode(), given.encode())


def check_role(principal: Principal, needs: str) -> None:
    """Refuse a caller whose role does not have what a route needs.

    Raises:
        AccessError: 403.
    """
    if principal.role not in GRANTS[needs]:
        may = ", ".join(sorted(GRANTS[needs]))
        raise AccessError(403, "not_allowed", f"{principal.name or 'you'} ({principal.role}): this is for {may}")


def check_origin(method: str, headers: Mapping[str, str]) -> None:
    """Refuse what a web page of another site sends through a user's browser: reaching this port may be all it takes.

    Raises:
        AccessError: 403.
    """
    origin = headers.get("origin")
    if method != "GET" and origin is not None and urlsplit(origin).netloc != headers.get("host"):
        raise AccessError(403, "cross_site", f"a page of {origin!r} may not change anything here")


def check(principal: Principal, needs: str, method: str, headers: Mapping[str, str]) -> None:
    """Refuse a caller that may not do what it asks for.

    Raises:
        AccessError: 403.
    """
    if needs != "nothing":
        check_role(principal, needs)
        check_origin(method, headers)


def is_write(method: str, needs: str) -> bool:
    """Tell whether a route changes something that people answer for, so that the audit has to know of it."""
    return method != "GET" and needs in ("operator", "admin")


class Gate:
    """The door of one part; safe from any thread. `find` returns whose a token is, and may block."""

    def __init__(self, settings: Settings, find: Callable[[str], Principal | None]) -> None:
        """Read the rules.

        Raises:
            SettingsError: `control_auth` is none.
        """
        self._settings = settings
        self._mode = check_mode(settings)
        self._find = find
        self._rates = Rates(settings.control_requests_per_s)

    def caller(self, needs: str, headers: Mapping[str, str], client: str) -> Principal:
        """Return who asks for something that needs this role, which is one of the requests that it has a second.

        Raises:
            AccessError: 401, 429, or 503 where the control plane cannot be asked.
        """
        given = bearer(headers)
        principal = self._owner(given, client) if given else anonymous(self._mode, headers, client)
        is_here = not principal.name and client in LOOPBACK  # the parts of this machine have one address
        if needs != "proxy" and not is_here:  # reservations come by the thousand, bounded by their calls
            self._rates.spend(principal.name or client)
        return principal

    def admit(self, needs: str, method: str, headers: Mapping[str, str], client: str) -> Principal:
        """Let a caller take a route that needs this, and return who it is.

        Raises:
            AccessError: 401, 403, 429, or 503 where the control plane cannot be asked.
        """
        principal = self.caller(needs, headers, client)
        check(principal, needs, method, headers)
        return principal

    def spend(self, sender: str) -> None:
        """Take a request out of what somebody may ask who has no token but a sender's key.

        Raises:
            AccessError: 429.
        """
        self._rates.spend(f"sender {sender}")

    def _owner(self, given: str, client: str) -> Principal:
        if is_of_settings(self._settings, given):
            return Principal("settings", "admin")
        known = self._find(given)
        if known is None:
            self._rates.spend(f"failed {client}", _WEIGHT_OF_A_GUESS)
            raise AccessError(401, "token_unknown", "the token is unknown, revoked or over; see `farthing token list`")
        return known
