"""Who is asking, by key: configured ones and the virtual ones that the control plane hands out, known by digest alone.

A missing, mistyped, unknown, expired or revoked key raises; there is no anonymous caller behind a failed check. Where
no key is required, one that looks like ours must be right nevertheless, and what other APIs' clients send is ignored.
A good key is remembered as it was sent until the next document; its end is looked at on every call.
"""
from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from hmac import compare_digest
from math import inf

from farthing.policy import Document, Key
from farthing.policy.index import Globs
from farthing.policy.key import OPERATOR_ROUTES, ROUTES
from farthing.serving import is_loopback
from farthing.settings import Settings
from farthing.virtual_key import PREFIX, digest, is_well_formed
from proxy.api_error import ApiError

_HEADERS = (b"authorization", b"x-api-key", b"api-key")  # OpenAI's, Anthropic's and Azure's
_MOST_SENT = 1024  # keys that are remembered as they were sent
_PREFIX = PREFIX.encode()
_USUAL = frozenset(ROUTES) - frozenset(OPERATOR_ROUTES)
_HOW = "send one of this proxy's keys as a Bearer token, as x-api-key or as api-key"
_NEW = "ask for another one (`farthing key create`)"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, as far as the key says; what it leaves open is as the request says."""

    tenant: str
    team: str = ""
    user: str = ""
    key: str = ""  # the key's name
    models: Container[str] | None = None  # that it may ask for; None = all
    routes: frozenset[str] = frozenset(ROUTES)

    def may_ask(self, model: str) -> bool:
        return self.models is None or model in self.models

    def check_model(self, model: str) -> None:
        """Refuse a model that the key may not ask for.

        Raises:
            ApiError: 403.
        """
        if self.models is not None and model not in self.models:
            message = f"the key {self.key!r} may not use the model {model!r}; GET /v1/models lists those that it may"
            raise ApiError(403, "model_not_allowed", message, param="model")


@dataclass(frozen=True, slots=True)
class _Known:
    caller: Caller
    digest: bytes
    ends_at: float = inf  # epoch seconds
    why_ended: str = ""  # what to tell whoever sends it then


class Keys:
    """The keys of one worker; `document` returns the newest one."""

    def __init__(
        self, settings: Settings, document: Callable[[], Document], clock: Callable[[], float] = time.time
    ) -> None:
        self._document = document
        self._clock = clock
        self._anyone = Caller(settings.tenant)
        asked = settings.require_proxy_key
        self._is_exposed = not is_loopback(settings.host) if asked is None else asked
        self._is_looked_at_by_token = settings.control_auth == "tokens"  # nobody looks without a token or a key
        self._is_required = self._is_exposed or (asked is None and bool(settings.proxy_keys))
        self._configured = {
            known.digest: known
            for known in (
                _Known(Caller(one.tenant, one.team, key=one.name, routes=_USUAL), digest(one.key.encode()))
                for one in settings.proxy_keys
            )
        }
        self._seen: Document | None = None
        self._sent: dict[tuple[bytes | None, ...], _Known] = {}  # by what was sent lately, until the next document
        self._known: Mapping[bytes, _Known] = {}
        self._by_name: Mapping[str, _Known] = {}

    def caller(self, headers: Mapping[bytes, bytes], route: str) -> Caller:
        """Return who asks.

        Raises:
            ApiError: 401 where the key is missing or not good, 403 where it may not use the route.
        """
        self._follow()
        sent = (headers.get(_HEADERS[0]), headers.get(_HEADERS[1]), headers.get(_HEADERS[2]))
        known = self._sent.get(sent)
        if known is None:
            given = _given(sent)
            is_ours = given.startswith(_PREFIX)
            if not is_ours and not self._needs_key(route):
                return self._anyone
            known = self._look_up(given)
            if is_ours:  # any other is good only where a key is needed
                self._remember(sent, known)
        caller = self._checked(known)
        if route not in caller.routes:
            message = f"the key {caller.key!r} may not use {route}; it may use {', '.join(sorted(caller.routes))}"
            raise ApiError(403, "route_not_allowed", message)
        return caller

    def named(self, name: str, as_it_was: Caller) -> Caller:
        """Return whom a key stands for now, by its name, for a call made long after the request that asked for it.

        Raises:
            ApiError: 401; the key has ended since. Who sent none is as it was.
        """
        if not name:
            return replace(as_it_was, routes=_USUAL)
        self._follow()
        known = self._by_name.get(name)
        if known is None:
            raise ApiError(401, "invalid_api_key", f"the API key {name!r} is no more; {_NEW}")
        return self._checked(known)

    def is_trusted(self, headers: Mapping[bytes, bytes], route: str) -> bool:
        """Tell whether `caller` would let this in; for what has to be known before the body is here."""
        try:
            self.caller(headers, route)
        except ApiError:
            return False
        return True

    def _needs_key(self, route: str) -> bool:
        """Tell whether a route needs one; a proxy that only this machine reaches may be looked at without."""
        if route in OPERATOR_ROUTES:
            return self._is_exposed or self._is_looked_at_by_token
        return self._is_required

    def _follow(self) -> None:
        document = self._document()
        if document is not self._seen:
            self._seen, self._known = document, self._configured | _by_digest(document, self._anyone.tenant)
            self._sent.clear()
            # Of a rotated key's two, the new one: it comes first.
            self._by_name = {known.caller.key: known for known in reversed(list(self._known.values()))}

    def _remember(self, sent: tuple[bytes | None, ...], known: _Known) -> None:
        """Keep whose key was sent; no time that a look-up takes tells of a key, since a keyed hash comes before it."""
        if len(self._sent) >= _MOST_SENT:
            self._sent.clear()
        self._sent[sent] = known

    def _look_up(self, given: bytes) -> _Known:
        sent = digest(given)
        known = self._known.get(sent)
        if known is None or not compare_digest(known.digest, sent):
            raise _unknown(given)
        return known

    def _checked(self, known: _Known) -> Caller:
        if self._clock() >= known.ends_at:
            raise ApiError(401, "invalid_api_key", f"the API key {known.caller.key!r} {known.why_ended}; {_NEW}")
        return known.caller


def _given(sent: Sequence[bytes | None]) -> bytes:
    """Return the key that was sent, the first that is one of ours; clients may send several."""
    first = b""
    for value in sent:
        if value is None:
            continue
        if value[:7].lower() == b"bearer ":
            value = value[7:].strip()
        if value.startswith(_PREFIX):
            return value
        first = first or value
    return first


def _unknown(given: bytes) -> ApiError:
    if not given:
        return ApiError(401, "invalid_api_key", f"the API key is missing; {_HOW}")
    if given.startswith(_PREFIX) and not is_well_formed(given.decode("latin-1")):
        message = "the API key is mistyped or cut short: its checksum does not fit; copy it again, whole"
        return ApiError(401, "invalid_api_key", message)
    return ApiError(401, "invalid_api_key", f"the API key is unknown; {_HOW}")


def _by_digest(document: Document, tenant: str) -> dict[bytes, _Known]:
    return {known.digest: known for key in document.keys for known in _known(key, tenant)}


def _known(key: Key, tenant: str) -> Iterator[_Known]:
    """Return what there is to know of a key, and of the one that it was before its rotation."""
    caller = Caller(
        key.tenant or tenant, key.team, key.user, key.name,
        models=Globs(key.models) if key.models else None,
        routes=frozenset(key.routes) or _USUAL,
    )  # fmt: skip
    for one in (key.digest, key.old_digest):
        if one is None:
            continue
        why, end = _end(key, one)
        yield _Known(caller, bytes.fromhex(one), end.timestamp() if end else inf, why)


def _end(key: Key, one: str) -> tuple[str, datetime | None]:
    if key.revoked is not None:
        return f"was revoked on {key.revoked:%Y-%m-%d}", key.revoked
    if one == key.old_digest and key.old_until is not None and (key.expires is None or key.old_until < key.expires):
        return f"was rotated; the old one was good until {key.old_until:%Y-%m-%d %H:%M} UTC", key.old_until
    return (f"expired on {key.expires:%Y-%m-%d %H:%M} UTC" if key.expires else ""), key.expires
