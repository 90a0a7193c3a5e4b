"""The calendar periods that budgets start anew in: midnight to midnight of the budget's own time zone.

A period's bounds are instants: the day on which clocks change has 23 or 25 hours, and no instant lies in two periods
or in none.
"""
from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone

from farthing.policy.kinds.budget import Window, zone

NS_PER_S = 1_000_000_000
SLOTS = 24  # parts of a rolling window


@dataclass(frozen=True, slots=True)
class Period:
    """One window of a budget."""

    name: str  # `month:2026-03-01`: the calendar and the first local day
    start_ns: int  # Unix time, nanoseconds, inclusive
    end_ns: int | None  # exclusive; None: never ends

    def holds(self, at_ns: int) -> bool:
        """Tell whether the instant lies in this period."""
        return self.start_ns <= at_ns and (self.end_ns is None or at_ns < self.end_ns)


def period_at(window: Window, at_ns: int) -> Period:
    """Return the period of `window` that holds the instant `at_ns`."""
    if window.rolling is not None:
        return slots(window, at_ns)[-1]
    if window.calendar == "total":
        return Period("total", 0, None)
    local = datetime.fromtimestamp(at_ns // NS_PER_S, timezone.utc).astimezone(zone(window.tz))
    first, after = _bounds(window.calendar, local.date())
    return Period(f"{window.calendar}:{first}", _midnight_ns(first, window.tz), _midnight_ns(after, window.tz))


def slots(window: Window, at_ns: int) -> tuple[Period, ...]:
    """Return the slots of a rolling window at an instant, the running one last.

    They are one more than the window is long: every stretch of its length lies within slots that count together.
    """
    length = window.rolling_s * NS_PER_S // SLOTS
    number = at_ns // length
    return tuple(
        Period(f"rolling:{window.rolling}:{n}", n * length, (n + 1) * length)
        for n in range(max(0, number - SLOTS), number + 1)
    )


def _bounds(calendar: str, day: date) -> tuple[date, date]:
    if calendar == "day":
        return day, day + timedelta(days=1)
    if calendar == "week":
        monday = day - timedelta(days=day.weekday())
        return monday, monday + timedelta(days=7)
    first = day.replace(day=1)
    return first, (first + timedelta(days=32)).replace(day=1)


def _midnight_ns(day: date, tz: str) -> int:
    """Return the instant at which `day` begins; where clocks skip midnight, the instant of the skip."""
    return int(datetime(day.year, day.month, day.day, tzinfo=zone(tz)).timestamp()) * NS_PER_S
