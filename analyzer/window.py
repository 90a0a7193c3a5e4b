"""The stretch of time and the tenant that one analysis or report is about."""
from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

MAX_HOURS = 24 * 366 * 10  # ten years; past it a window is a typing error


@dataclass(frozen=True)
class Window:
    """[since, until) of one tenant; both times are aware and UTC."""

    tenant: str
    since: datetime
    until: datetime

    @property
    def seconds(self) -> float:
        return (self.until - self.since).total_seconds()


def last_hours(tenant: str, hours: float, now: datetime) -> Window:
    """Return the `hours` before `now`.

    Raises:
        ValueError: `hours` is not above 0, or longer than ten years.
    """
    if not 0 < hours <= MAX_HOURS:
        raise ValueError(f"hours = {hours!r}; allowed is a number above 0 and up to {MAX_HOURS}")
    until = utc(now)
    return Window(tenant, until - timedelta(hours=hours), until)


def utc(moment: datetime) -> datetime:
    """Return `moment` in UTC, cut to milliseconds as the warehouse keeps it; a time without a zone is UTC."""
    aware = moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment.astimezone(timezone.utc)
    return aware.replace(microsecond=aware.microsecond // 1000 * 1000)
