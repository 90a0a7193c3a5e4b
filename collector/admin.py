"""What a collector answers beside taking what senders bring, and who may ask for it.

Prices may be read by whoever may send, and changed with a sender's key as their API says; all else is for roles of the
control plane's tokens.
"""
from __future__ import annotations

from collections.abc import Mapping

from collector.intake import Intake
from collector.price_api import READS, WRITES
from farthing.access import TOKEN_PREFIX, Gate, bearer, is_of_settings
from farthing.semconv import HEADER_TENANT_KEY
from farthing.settings import Settings

Asked = tuple[str, str]  # method and path
_PRICE_WRITES: Mapping[Asked, str] = {("POST", path): "operator" for path in WRITES}
PRICES: Mapping[Asked, str] = _PRICE_WRITES | {("GET", path): "reader" for path in READS}
NEEDS: Mapping[Asked, str] = {
    **PRICES,
    ("POST", "/v1/flush"): "operator",
    ("POST", "/v1/backup"): "admin",  # and on this machine
    ("GET", "/v1/status"): "viewer",
    ("GET", "/healthz"): "nothing",
}


class Door:
    """Lets callers of one collector in."""

    def __init__(self, settings: Settings, intake: Intake) -> None:
        self._settings = settings
        self._intake = intake
        self._gate = Gate(settings)

    def admit(self, asked: Asked, headers: Mapping[str, str], client: str) -> str:
        """Let a caller have what it asks for, and return whose rows it is about; it may ask the control plane.

        Raises:
            AccessError: 401, 403, or 503 where nobody can tell whose token it is.
            IngestError: 401, a key of a sender is missing or unknown.
        """
        given = bearer(headers)
        has_token = given.startswith(TOKEN_PREFIX) or is_of_settings(self._settings, given)
        is_a_sender_s = asked in PRICES and (asked[0] == "GET" or bool(given or headers.get(HEADER_TENANT_KEY)))
        if has_token or not is_a_sender_s:
            self._gate.admit(NEEDS[asked], asked[0], headers, client)
        needs_key = asked in PRICES or asked == ("POST", "/v1/backup")
        return self._intake.tenant(headers) if needs_key and not has_token else self._settings.tenant
