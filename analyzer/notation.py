"""How a figure is written for people, the same in HTML, in Markdown and in a finding.

From a dollar on an amount is written in cents, from a cent on with four places, and below that exactly, to the
nano-dollar where it needs that. What is not known is written as a dash and never as 0.
"""
from __future__ import annotations

import math
from datetime import datetime, timezone
from decimal import ROUND_HALF_UP, Decimal

UNKNOWN = "–"
CENT = Decimal("0.01")
NANO = Decimal("0.000000001")
_FINENESS = ((Decimal(1), CENT), (CENT, Decimal("0.0001")))  # from this amount on, this is the last place written
_DAY_S, _HOUR_S = 86_400, 3_600


def usd(amount: Decimal | None) -> str:
    """Write `$12.34`, `$0.7428`, `$0.000123456`, or a dash."""
    if amount is None:
        return UNKNOWN
    sign, size = ("-" if amount < 0 else ""), abs(amount)
    finest = next((unit for least, unit in _FINENESS if size >= least), NANO)
    written = f"{sign}${size.quantize(finest, ROUND_HALF_UP):,f}"
    return written if finest > NANO else written.rstrip("0").rstrip(".") if size else "$0.00"


def rate_usd(amount: Decimal | None) -> str:
    """Write an average, which has no exact value, with three significant digits: `$0.00146`, `$12.34`, or a dash."""
    if amount is None or amount >= 1 or amount == 0:
        return usd(amount)
    return f"${_trimmed(float(amount), 3)}"


def exact_usd(amount: Decimal | None) -> str:
    """Write all nine places, without a sign of currency: `12.340000000`; nothing counts as 0."""
    return f"{(amount or Decimal(0)).quantize(NANO, ROUND_HALF_UP):.9f}"


def tick_usd(amount: float, step: float) -> str:
    """Write a label of an axis whose ticks are `step` dollars apart: `$1.2K`, `$3`, `$0.20`, `$0.000005`."""
    for size, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if amount >= size:
            return f"${_trimmed(amount / size, 4)}{suffix}"
    if amount == 0:
        return "$0"
    return f"${amount:.0f}" if step >= 1 else f"${amount:.{max(2, math.ceil(-math.log10(step) - 1e-9))}f}"


def count(number: int | None) -> str:
    """Write `8,819`, or a dash."""
    return UNKNOWN if number is None else f"{number:,}"


def short_count(number: int | None) -> str:
    """Write `18.1M`, `8,819`, or a dash."""
    if number is None:
        return UNKNOWN
    for size, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e5, "K")):
        if number >= size:
            return f"{_trimmed(number / (1e3 if suffix == 'K' else size), 3)}{suffix}"
    return f"{number:,}"


def short_bytes(number: int | None) -> str:
    """Write `1.2 MB`, `812 B`, or a dash; a MB is a million bytes."""
    if number is None:
        return UNKNOWN
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= size:
            return f"{_trimmed(number / size, 3)} {unit}"
    return f"{number} B"


def seconds(duration: float | None) -> str:
    """Write `12.3 s`, `340 ms`, `0.8 ms`, or a dash."""
    if duration is None or math.isnan(duration):
        return UNKNOWN
    if duration >= 1:
        return f"{_trimmed(duration, 3)} s"
    return f"{_trimmed(duration * 1000, 2)} ms"


def share(part: float | Decimal, whole: float | Decimal) -> str:
    """Write `part` of `whole` as `12.3 %`; a dash where there is no whole, `< 0.1 %` where it would round to 0."""
    if not whole:
        return UNKNOWN
    percent = 100 * float(part) / float(whole)
    return "< 0.1 %" if 0 < percent < 0.05 else f"{percent:.1f} %"


def moment(at: datetime) -> str:
    """Write `2026-11-21 04:05 UTC`."""
    return f"{at.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC"


def length(duration_s: float) -> str:
    """Write how long a window or a bucket is: `24 hours`, `90 minutes`, `7 days`."""
    for size, unit in ((_DAY_S, "day"), (_HOUR_S, "hour"), (60, "minute")):
        if duration_s >= 2 * size or (duration_s == size and unit != "day"):
            return _plural(duration_s / size, unit)
    return _plural(duration_s, "second")


def counted(number: int, noun: str) -> str:
    """Write `1 request` or `1,204 requests`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _plural(number: float, unit: str) -> str:
    text = _trimmed(number, 3)
    return f"{text} {unit}" if text == "1" else f"{text} {unit}s"


def _trimmed(number: float, digits: int) -> str:
    """Write `digits` significant digits, without exponent and without trailing zeros."""
    if number == 0:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(number))))
    text = f"{number:,.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
