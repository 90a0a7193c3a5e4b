"""The stretch of time that a page is about, cut into buckets.

The end is rounded up to the next whole `GRAIN_S`, so that people who look at the same moment ask the same questions.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

GRAIN_S = 10  # seconds
MOST_BUCKETS = 64
STEPS_S = (60, 300, 900, 1800, 3600, 3 * 3600, 6 * 3600, 12 * 3600, 86_400)

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Period:
    """[since, until), and the seconds of one bucket."""

    since: datetime  # aware, UTC
    until: datetime  # aware, UTC
    step_s: int

    @property
    def seconds(self) -> int:
        return round((self.until - self.since).total_seconds())

    @property
    def ends(self) -> tuple[int, int]:
        """Both ends in seconds since the epoch."""
        return round(self.since.timestamp()), round(self.until.timestamp())

    def before(self) -> Period:
        """Return the period of the same length that ends where this one starts."""
        return Period(self.since - (self.until - self.since), self.since, self.step_s)

    def is_whole(self, bucket: int) -> bool:
        """Tell whether a bucket lies inside the period in full; a cut one is drawn pale."""
        return bucket >= self.since.timestamp() and bucket + self.step_s <= self.until.timestamp()


def period_until(now: datetime, seconds: int) -> Period:
    """Return the period of `seconds` that ends now."""
    end = -(-now.timestamp() // GRAIN_S) * GRAIN_S
    until = datetime.fromtimestamp(end, timezone.utc)
    step = next((one for one in STEPS_S if seconds / one <= MOST_BUCKETS), STEPS_S[-1])
    return Period(until - timedelta(seconds=seconds), until, step)


def filled(rows: Sequence[Row], period: Period) -> list[tuple[int, Row | None]]:
    """Return (bucket, row) over the whole period, with None for a bucket that the store has no row of.

    The grid follows the rows, not a fixed raster: where a clock change shifts the buckets, the grid shifts with them.
    """
    if not rows:
        return []
    found: list[tuple[int, Row | None]] = []
    first, step = int(rows[0]["bucket"]), period.step_s
    lead = max(0, -(-(first - int(period.since.timestamp())) // step))
    expected = first - lead * step
    for row in rows:
        bucket = int(row["bucket"])
        while bucket - expected >= step // 2 + 1:
            found.append((expected, None))
            expected += step
        found.append((bucket, row))
        expected = bucket + step
    while expected < period.until.timestamp():
        found.append((expected, None))
        expected += step
    return found


def wall_time(epoch: int, zone: str) -> str:
    """Return a moment as the clock on the wall shows it, in the form that plotly takes."""
    return datetime.fromtimestamp(epoch, ZoneInfo(zone)).strftime("%Y-%m-%d %H:%M:%S")


def step_text(step_s: int) -> str:
    """Write a bucket's length for people."""
    if step_s >= 86_400:
        return f"{step_s // 86_400} d"
    return f"{step_s // 3600} h" if step_s >= 3600 else f"{step_s // 60} min"
