"""Whose a token is, for the parts that keep none: asked of the control plane, and remembered for some seconds.

While the control plane is away, a viewer known by then may go on looking, since that is when figures are looked at.
"""
from __future__ import annotations

import threading
import time
from collections.abc import Callable
from hashlib import sha256

from farthing.access import TOKEN_PREFIX, Principal
from farthing.errors import AccessError, ServeError
from farthing.http_json import call
from farthing.settings import Settings

REMEMBERED_S = 10.0  # how long after its revocation a token may still be good at another part
LOOKING_ON_S = 3600.0  # how long a viewer that was good before may look on while nobody can be asked
MAX_REMEMBERED = 1000
_TIMEOUT_S = 5.0


class TokenOwners:
    """What one part knows of tokens; safe from any thread, and it blocks."""

    def __init__(self, settings: Settings, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock_s = clock_s
        self._known: dict[bytes, tuple[float, Principal | None]] = {}  # digest -> good until, and whose
        self._lock = threading.Lock()

    def find(self, given: str) -> Principal | None:
        """Return whose a token is; None = nobody's.

        Raises:
            AccessError: 503, the control plane cannot be asked, and it is none of a viewer known before.
        """
        if not given.startswith(TOKEN_PREFIX):
            return None
        digest, now = sha256(given.encode()).digest(), self._clock_s()
        with self._lock:
            until, found = self._known.get(digest, (0.0, None))
        if until <= now:
            try:
                found = self._ask(given)
            except AccessError:
                if found is not None and found.role == "viewer" and now < until + LOOKING_ON_S:
                    return found
                raise
            with self._lock:
                if len(self._known) >= MAX_REMEMBERED:
                    self._known.clear()
                self._known[digest] = now + REMEMBERED_S, found
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
