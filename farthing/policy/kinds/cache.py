"""kind: Cache: what is kept of answers where no Policy with a cache acts."""
from __future__ import annotations

from typing import ClassVar

from farthing.policy.caching import CacheAction
from farthing.policy.match import Match
from farthing.policy.record import Named


class Cache(CacheAction, Named):
    """The fields of a policy's `cache`, beside the calls that they hold for; every Policy goes before it."""

    KIND: ClassVar[str] = "Cache"
    PLURAL: ClassVar[str] = "caches"

    match: Match = Match()  # empty: all calls
