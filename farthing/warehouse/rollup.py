"""Hourly sums: which hours are rolled, which are to be rolled anew, and which part of a period they can answer.

An hour is computed from `requests` as a whole and comes into force when its version is noted in `upkeep`, so a reader
sees the old sums or the new ones, and a crash in between changes nothing. All hours before `rolled_until` are rolled.
"""
from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from farthing.warehouse.client import Warehouse

HOUR = timedelta(hours=1)
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
SETTLED = timedelta(minutes=2)  # after its end an hour is taken as complete; what comes later has it rolled anew
AT_ONCE = 100  # hours in one statement
_READ_AGAIN_S = 5.0  # seconds that a reader may know too low a boundary; it then reads more raw rows than it must
_COLUMNS = ("note", "hour", "at")


class Boundary:
    """Where the hourly sums end, as far as the questions of one process know."""

    def __init__(self, warehouse: Warehouse) -> None:
        self._warehouse = warehouse
        self._until: datetime | None = None
        self._read_at = -_READ_AGAIN_S

    def bounds(self, values: Mapping[str, Any]) -> dict[str, datetime]:
        """Return [rolled_since, rolled_until): the part of a question's period that whole rolled hours can answer.

        It is empty where a bucket of the question would cut an hour, as in zones that are half an hour off.
        """
        since, until = _utc(values.get("since", EPOCH)), _utc(values.get("until", datetime.max))
        rolled_since = _hour_after(since)
        rolled_until = min(_hour_of(until), self.until())
        if rolled_since >= rolled_until or not _is_whole_hours(values, rolled_since, rolled_until):
            return {"rolled_since": since, "rolled_until": since}
        return {"rolled_since": rolled_since, "rolled_until": rolled_until}

    def until(self) -> datetime:
        """Return the end of the rolled hours, or an earlier time."""
        if time.monotonic() - self._read_at >= _READ_AGAIN_S:
            self._until, self._read_at = rolled_until(self._warehouse), time.monotonic()
        return self._until or EPOCH

    def moved(self) -> None:
        """Read it again at the next question."""
        self._read_at = -_READ_AGAIN_S


def rolled_until(warehouse: Warehouse) -> datetime:
    """Return the end of the rolled hours; 1970 where none is."""
    return EPOCH + timedelta(milliseconds=reached_ms(warehouse, "rolled_until"))


def reached_ms(warehouse: Warehouse, note: str) -> int:
    """Return the newest note of this kind, 0 where there is none."""
    ((at_ms,),) = warehouse.look("reached", note=note)
    return max(0, at_ms)


def note(warehouse: Warehouse, kind: str, hours: Sequence[datetime], at: datetime) -> None:
    """Write one note for each of these hours."""
    if hours:
        warehouse.insert("upkeep", _COLUMNS, [(kind, hour, at) for hour in hours])


def mark_stale(warehouse: Warehouse, since: datetime, until: datetime) -> None:
    """Have the rolled hours of [since, until) rolled anew, because rows of theirs are being changed."""
    end = min(_utc(until), rolled_until(warehouse))
    found = warehouse.look("hours", since_ms=_ms(_hour_of(_utc(since))), until_ms=_ms(end))
    note(warehouse, "stale", [hour for (hour,) in found], datetime.now(timezone.utc))


def refresh(warehouse: Warehouse, since: datetime, until: datetime) -> None:
    """Roll the rolled hours of [since, until) anew now; for rows that were inserted past the collector."""
    end = min(_utc(until), rolled_until(warehouse))
    found = warehouse.look("hours", since_ms=_ms(_hour_of(_utc(since))), until_ms=_ms(end))
    hours = [hour.replace(tzinfo=timezone.utc) for (hour,) in found]
    for first in range(0, len(hours), AT_ONCE):
        roll(warehouse, hours[first : first + AT_ONCE])


def stale_hours(warehouse: Warehouse) -> list[datetime]:
    """Return the hours that were noted as changed since they were rolled."""
    return [hour.replace(tzinfo=timezone.utc) for (hour,) in warehouse.look("stale")]


def roll(warehouse: Warehouse, hours: Sequence[datetime]) -> None:
    """Compute these hours, at most `AT_ONCE`, anew and put them in force together."""
    version = datetime.now(timezone.utc)
    rolled_us = (version - EPOCH) // timedelta(microseconds=1)
    bounds = {"since_ms": _ms(min(hours)), "until_ms": _ms(max(hours) + HOUR)}
    for step in ("roll", "roll_latency"):
        warehouse.work(step, hours=list(hours), rolled_us=rolled_us, **bounds)
    # Each hour has a version of its own, so that a reader looks up one number a row.
    versions = [version + timedelta(microseconds=number) for number in range(1, len(hours) + 1)]
    notes = [("rolled", hour, at) for hour, at in zip(hours, versions, strict=True)]
    warehouse.insert("upkeep", _COLUMNS, notes)


def settled_until(now: datetime) -> datetime:
    """Return the end of the hours that are taken as complete."""
    return _hour_of(now - SETTLED)


def extend(warehouse: Warehouse, until: datetime) -> datetime:
    """Roll the oldest hours before `until` that never were, `AT_ONCE` of them; return how far it got."""
    since = rolled_until(warehouse)
    if since >= until:
        return since
    found = warehouse.look("hours", since_ms=_ms(since), until_ms=_ms(until))
    hours = [hour.replace(tzinfo=timezone.utc) for (hour,) in found]
    if hours:
        roll(warehouse, hours[:AT_ONCE])
    reached = hours[AT_ONCE] if len(hours) > AT_ONCE else until
    note(warehouse, "rolled_until", [EPOCH], reached)
    return reached


def sweep_out(warehouse: Warehouse, now: datetime) -> None:
    """Remove the versions that were superseded longer ago than a question may take."""
    for step in ("sweep_out", "sweep_out_latency"):
        warehouse.work(step, before_us=(now - SETTLED - EPOCH) // timedelta(microseconds=1))


def _is_whole_hours(values: Mapping[str, Any], since: datetime, until: datetime) -> bool:
    if "step" not in values:
        return True
    zone = ZoneInfo(str(values["tz"]))
    days = range(0, (until - since).days + 31, 30)
    offsets = [(since + timedelta(days=day)).astimezone(zone).utcoffset() or timedelta(0) for day in days]
    return int(str(values["step"])) % 3600 == 0 and all(not offset % HOUR for offset in offsets)


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment.astimezone(timezone.utc)


def _hour_of(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)


def _hour_after(moment: datetime) -> datetime:
    hour = _hour_of(moment)
    return hour if hour == moment else hour + HOUR


def _ms(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(milliseconds=1)
