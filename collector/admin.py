"""What a collector answers beside taking what senders bring, and who may ask for it.

Prices may be read by whoever may send, and changed with a sender's key as their API says; all else is for roles of the
control plane's tokens.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from collector.intake import Intake
from collector.price_api import READS, WRITES
from farthing import access
from farthing.access import NOBODY, TOKEN_PREFIX, Gate, Principal, bearer, is_of_settings
from farthing.semconv import HEADER_TENANT_KEY
from farthing.settings import Settings
from farthing.token_owners import TokenOwners

Asked = tuple[str, str]  # method and path
_PRICE_WRITES: Mapping[Asked, str] = {("POST", path): "operator" for path in WRITES}
PRICES: Mapping[Asked, str] = _PRICE_WRITES | {("GET", path): "reader" for path in READS}
NEEDS: Mapping[Asked, str] = {
    **PRICES,
    ("POST", "/v1/flush"): "operator",
    ("POST", "/v1/backup"): "admin",  # and on this machine
    ("GET", "/v1/status"): "viewer",
    ("GET", "/v1/writes"): "operator",
    ("GET", "/healthz"): "nothing",
}
SENDER = "sender"  # the role of who comes with an ingest key


@dataclass(frozen=True)
class Caller:
    """Who asks, and whose rows it is about."""

    principal: Principal
    tenant: str


class Door:
    """Lets callers of one collector in."""

    def __init__(self, settings: Settings, intake: Intake) -> None:
        self._settings = settings
        self._intake = intake
        self._gate = Gate(settings, TokenOwners(settings).find)

    def caller(self, asked: Asked, headers: Mapping[str, str], client: str) -> Caller:
        """Return who asks; it may take asking the control plane.

        Raises:
            AccessError: 401, 429, or 503 where nobody can tell whose token it is.
            IngestError: 401, a key of a sender is missing or unknown.
        """
        given = bearer(headers)
        has_token = given.startswith(TOKEN_PREFIX) or is_of_settings(self._settings, given)
        is_a_sender_s = asked in PRICES and (asked[0] == "GET" or bool(given or headers.get(HEADER_TENANT_KEY)))
        principal = NOBODY
        if has_token or not is_a_sender_s:
            principal = self._gate.caller(NEEDS[asked], headers, client)
        needs_key = asked in PRICES or asked == ("POST", "/v1/backup")
        if has_token or not needs_key:
            return Caller(principal, self._settings.tenant)
        tenant = self._intake.tenant(headers)
        if principal != NOBODY:
            return Caller(principal, tenant)
        if access.is_write(asked[0], NEEDS[asked]):
            self._gate.spend(tenant)
        return Caller(Principal(f"key of {tenant}", SENDER), tenant)

    def check(self, asked: Asked, caller: Caller, headers: Mapping[str, str]) -> None:
        """Refuse a caller that may not have what it asks for; what a sender may is for the prices' API to say.

        Raises:
            AccessError: 403.
        """
        if caller.principal.role != SENDER:
            access.check(caller.principal, NEEDS[asked], asked[0], headers)
