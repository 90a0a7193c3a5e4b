"""Who may do what at every part that answers: roles, and who is let in without a token.

A caller is a token of the control plane, the token of the settings, or, where `control_auth` allows it, somebody on
this machine. What a proxy that forwards for others sends does not count as this machine. A part that keeps no tokens
asks the control plane whose one is, and remembers that for some seconds; while nobody can tell, the token is refused.
"""
from __future__ import annotations

import hmac
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from urllib.parse import urlsplit

from farthing.errors import FarthingError, ServeError, SettingsError
from farthing.http_json import call
from farthing.settings import Settings

MODES = ("loopback", "tokens", "open")
TOKEN_PREFIX = "ftc_"
LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
REMEMBERED_S = 10.0  # how long after its revocation a token may still be good at another part
MAX_REMEMBERED = 1000
_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")
_TIMEOUT_S = 5.0

# what a route needs -> the roles that have it
GRANTS: Mapping[str, frozenset[str]] = {
    "nothing": frozenset(),  # a health check: nobody is asked
    "proxy": frozenset({"proxy", "admin"}),
    "reader": frozenset({"viewer", "operator", "admin", "proxy"}),
    "viewer": frozenset({"viewer", "operator", "admin"}),
    "operator": frozenset({"operator", "admin"}),
    "admin": frozenset({"admin"}),
}


class AccessError(FarthingError):
    """A caller is not let in: 401, 403 or 503."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(frozen=True)
class Principal:
    """Who asks."""

    name: str  # of the token; empty: somebody on this machine
    role: str


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


def unknown() -> AccessError:
    """Return the refusal of a token that is none."""
    return AccessError(401, "token_unknown", "the token is unknown, revoked or over; see `farthing token list`")


class Gate:
    """The door of a part that keeps no tokens itself; safe from any thread, and it blocks."""

    def __init__(self, settings: Settings, clock_s: Callable[[], float] = time.monotonic) -> None:
        """Read the rules.

        Raises:
            SettingsError: `control_auth` is none.
        """
        self._settings = settings
        self._mode = check_mode(settings)
        self._clock_s = clock_s
        self._known: dict[bytes, tuple[float, Principal | None]] = {}  # digest -> good until, and whose
        self._lock = threading.Lock()

    def admit(self, needs: str, method: str, headers: Mapping[str, str], client: str) -> None:
        """Let a caller take a route that needs this.

        Raises:
            AccessError: 401, 403, or 503 where the control plane cannot be asked.
        """
        if needs == "nothing":
            return
        given = bearer(headers)
        check_role(self.owner(given) if given else anonymous(self._mode, headers, client), needs)
        check_origin(method, headers)

    def owner(self, given: str) -> Principal:
        """Return whose a token is.

        Raises:
            AccessError: 401 or 503.
        """
        if is_of_settings(self._settings, given):
            return Principal("settings", "admin")
        if not given.startswith(TOKEN_PREFIX):
            raise unknown()
        digest, now = sha256(given.encode()).digest(), self._clock_s()
        with self._lock:
            until, found = self._known.get(digest, (0.0, None))
        if until <= now:
            found = self._ask(given)
            with self._lock:
                if len(self._known) >= MAX_REMEMBERED:
                    self._known.clear()
                self._known[digest] = now + REMEMBERED_S, found
        if found is None:
            raise unknown()
        return found

    def _ask(self, given: str) -> Principal | None:
        try:
            told = call("GET", f"{self._settings.url('policies')}/v1/whoami", timeout_s=_TIMEOUT_S, token=given)
        except ServeError as error:
            if error.status == 401:
                return None
            message = f"the control plane cannot be asked whose token that is: {error}"
            raise AccessError(503, "access_unavailable", message) from None
        return Principal(told["name"], told["role"])
