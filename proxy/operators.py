"""Who may look at a worker's figures: a token of the control API, so that whoever scrapes needs no key that can spend.

A virtual key that names the route may too. Where the control plane has to be asked whose a token is, a thread asks; no
call that costs money comes this way.
"""
from __future__ import annotations

import asyncio

from farthing.access import TOKEN_PREFIX, Gate, bearer, is_of_settings
from farthing.errors import AccessError
from farthing.settings import Settings
from farthing.token_owners import TokenOwners
from proxy.api_error import ApiError
from proxy.http_request import Request
from proxy.keys import Caller, Keys

NEEDS = "viewer"  # the role of the control API
_OR = "or a token of the control API (`farthing token create NAME --role viewer`)"


class Operators:
    """The door of the routes that tell of everybody."""

    def __init__(self, settings: Settings, keys: Keys) -> None:
        """Read the rules.

        Raises:
            SettingsError: `control_auth` is none.
        """
        self._settings = settings
        self._keys = keys
        self._gate = Gate(settings, TokenOwners(settings).find)

    async def caller(self, request: Request, route: str) -> Caller:
        """Return who asks.

        Raises:
            ApiError: 401, 403, 429, or 503 where the control plane cannot be asked whose a token is.
        """
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers.items()}
        given = bearer(headers)
        if given.startswith(TOKEN_PREFIX) or is_of_settings(self._settings, given):
            return await self._holder(request.method, headers)
        try:
            return self._keys.caller(request.headers, route)
        except ApiError as error:
            if error.status != 401:
                raise
            raise ApiError(401, error.code, f"{error.message}; {_OR}") from None

    async def _holder(self, method: str, headers: dict[str, str]) -> Caller:
        try:
            principal = await asyncio.to_thread(self._gate.admit, NEEDS, method, headers, "")
        except AccessError as error:
            is_late = error.status in (429, 503)
            raise ApiError(error.status, error.code, str(error), retry_after_s=1 if is_late else 0) from None
        return Caller(self._settings.tenant, key=principal.name, routes=frozenset())
