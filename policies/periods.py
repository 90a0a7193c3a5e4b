"""Instants as people and programs read them."""
from __future__ import annotations

from datetime import datetime, timezone

from farthing.policy.periods import NS_PER_S


def iso(at_ns: int | None) -> str | None:
    """Write an instant as ISO 8601, UTC, to the microsecond."""
    if at_ns is None:
        return None
    whole, rest = divmod(at_ns, NS_PER_S)
    moment = datetime.fromtimestamp(whole, timezone.utc).replace(microsecond=rest // 1000)
    return moment.isoformat().replace("+00:00", "Z")
