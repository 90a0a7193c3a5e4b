"""Figures as people read them. What is not known is written as such and never as 0."""
from __future__ import annotations

import math
from datetime import datetime, timezone
from decimal import ROUND_HALF_UP, Decimal
from zoneinfo import ZoneInfo

from farthing.money import NUSD_PER_USD, format_usd

UNKNOWN = "—"
_UNITS = ((10**9, "B"), (10**6, "M"), (10**3, "k"))


def exact_usd(amount: Decimal | None) -> str:
    """Return dollars to the nano-dollar, as a plain decimal number."""
    return "" if amount is None else f"{amount:.9f}"


def usd(amount: Decimal | None) -> str:
    """Write dollars: cents where they say enough, all nine places where they do not."""
    if amount is None:
        return UNKNOWN
    return format_usd(int((amount * NUSD_PER_USD).to_integral_value(ROUND_HALF_UP)))


def count(number: int | None) -> str:
    """Write a count: in full below ten thousand, then shortened, as 12.3k."""
    if number is None:
        return UNKNOWN
    if number < 10_000:
        return f"{number:,}"
    size, unit = next((size, unit) for size, unit in _UNITS if number >= size)
    short = f"{number / size:.2f}" if number < 100 * size else f"{number / size:.1f}"
    return short.rstrip("0").rstrip(".") + unit


def size(number: int | None) -> str:
    """Write bytes: 812 B, 1.2 MB; a MB is a million bytes."""
    if number is None:
        return UNKNOWN
    for least, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if number >= least:
            return f"{number / least:.1f} {unit}"
    return f"{number} B"


def seconds(duration: float | None) -> str:
    """Write a duration in ms below one second, else in s."""
    if duration is None or math.isnan(duration):
        return UNKNOWN
    if duration < 0.01:
        return f"{duration * 1000:.1f} ms"
    return f"{duration * 1000:.0f} ms" if duration < 1 else f"{duration:.2f} s"


def share(part: float, whole: float) -> str:
    """Write a share in per cent; a share that rounds to nothing is still not nothing."""
    if not whole:
        return UNKNOWN
    percent = part / whole * 100
    return "<1%" if 0 < percent < 1 else f"{percent:.0f}%"


def clock(moment: datetime, zone: str) -> str:
    """Write a moment as time of day in `zone`; the store's times are UTC without saying so."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    return aware.astimezone(ZoneInfo(zone)).strftime("%H:%M:%S")


def number(value: float | None) -> float | None:
    """Return a float that JSON can carry: NaN, the store's word for no value, becomes None."""
    return None if value is None or math.isnan(value) else value


def plural(number: int, noun: str) -> str:
    """Write a counted noun: 1 call, 2 calls."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
