"""Hourly and daily sums: which are made, which are to be made anew, and what part of a period they can answer.

An hour is computed from `requests` as a whole and comes into force when its version is noted in `upkeep`, so a reader
sees the old sums or the new ones, and a crash in between changes nothing. All hours before `rolled_until` are rolled.
A day is computed from the versions of its hours and again when they are others. No clock decides what is to be done:
a version says which changes and which hours it has seen, and numbers go up even where a clock goes back.
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
DAY = timedelta(days=1)
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
SETTLED = timedelta(minutes=2)  # after its end an hour is taken as complete; what comes later has it rolled anew
AT_ONCE = 100  # hours in one statement
DAYS_AT_ONCE = 10
_READ_AGAIN_S = 5.0  # seconds that a reader may know too low a boundary; it then reads more raw rows than it must
_COLUMNS = ("note", "hour", "at", "made_of")
_STEPS = {"rolled": ("roll", "roll_latency", "roll_unpriced"), "rolled_day": ("roll_day", "roll_day_latency")}
_SWEEP_OUT = ("sweep_out", "sweep_out_latency", "sweep_out_unpriced")


class Boundary:
    """Where the hourly and the daily sums end, as far as the questions of one process know."""

    def __init__(self, warehouse: Warehouse) -> None:
        self._warehouse = warehouse
        self._until = self._days_until = EPOCH
        self._read_at = -_READ_AGAIN_S

    def bounds(self, values: Mapping[str, Any]) -> dict[str, datetime]:
        """Return [rolled_since, rolled_until), the part of a question's period that whole rolled hours can answer.

        It is empty where a bucket of the question would cut an hour, as in zones that are half an hour off. Inside
        it, whole days answer [days_since, days_until), where no bucket cuts a day.
        """
        self._read()
        since, until = _utc(values.get("since", EPOCH)), _utc(values.get("until", datetime.max))
        rolled_since = _next(since, HOUR)
        rolled_until = min(_floor(until, HOUR), self._until)
        if rolled_since >= rolled_until or not _is_whole(values, HOUR, rolled_since, rolled_until):
            return rows_alone(since)
        days_since = _next(rolled_since, DAY)
        days_until = min(_floor(rolled_until, DAY), self._days_until)
        if days_since >= days_until or not _is_whole(values, DAY, rolled_since, rolled_until):
            days_since = days_until = rolled_until
        return {
            "rolled_since": rolled_since,
            "days_since": days_since,
            "days_until": days_until,
            "rolled_until": rolled_until,
        }

    def moved(self) -> None:
        """Read it again at the next question."""
        self._read_at = -_READ_AGAIN_S

    def _read(self) -> None:
        if time.monotonic() - self._read_at >= _READ_AGAIN_S:
            self._until, self._days_until = rolled_until(self._warehouse), days_until(self._warehouse)
            self._read_at = time.monotonic()


def rows_alone(since: datetime) -> dict[str, datetime]:
    """Return the bounds of a question that begins there and is answered without any sums."""
    return dict.fromkeys(("rolled_since", "days_since", "days_until", "rolled_until"), since)


def rolled_until(warehouse: Warehouse) -> datetime:
    """Return the end of the rolled hours; 1970 where none is."""
    return EPOCH + timedelta(milliseconds=reached_ms(warehouse, "rolled_until"))


def days_until(warehouse: Warehouse) -> datetime:
    """Return the end of the days that have sums; 1970 where none has."""
    return EPOCH + timedelta(milliseconds=reached_ms(warehouse, "days_until"))


def reached_ms(warehouse: Warehouse, note: str) -> int:
    """Return the newest note of this kind, 0 where there is none."""
    ((at_ms,),) = warehouse.look("reached", note=note)
    return max(0, at_ms)


def note(warehouse: Warehouse, kind: str, at: datetime) -> None:
    """Note how far the upkeep got."""
    warehouse.insert("upkeep", _COLUMNS, [(kind, EPOCH, at, 0)])


def note_stale(warehouse: Warehouse, hours: Sequence[datetime]) -> None:
    """Note that rows of these hours change: before, against a crash, and after, against one who rolls meanwhile."""
    if hours:
        before, now = _changed_us(warehouse, hours), _now_us()
        notes = [("stale", hour, _moment(max(now, before[hour] + 1)), 0) for hour in hours]
        warehouse.insert("upkeep", _COLUMNS, notes)


def mark_stale(warehouse: Warehouse, since: datetime, until: datetime) -> None:
    """Have the rolled hours of [since, until) rolled anew, because rows of theirs are being changed."""
    note_stale(warehouse, _hours(warehouse, since, until))


def refresh(warehouse: Warehouse, since: datetime, until: datetime) -> None:
    """Roll the rolled hours of [since, until) anew now; for rows that were inserted past the collector."""
    hours = _hours(warehouse, since, until)
    for first in range(0, len(hours), AT_ONCE):
        roll(warehouse, hours[first : first + AT_ONCE])
    while hours and roll_days(warehouse):
        pass


def stale_hours(warehouse: Warehouse) -> list[datetime]:
    """Return the hours that were noted as changed since they were rolled."""
    return [hour.replace(tzinfo=timezone.utc) for (hour,) in warehouse.look("stale")]


def roll(warehouse: Warehouse, hours: Sequence[datetime]) -> None:
    """Compute these hours, at most `AT_ONCE`, anew and put them in force together."""
    seen = _changed_us(warehouse, hours)  # before the rows are read: a change noted later has them rolled again
    _put_in_force(warehouse, "rolled", hours, [seen[hour] for hour in hours])


def roll_days(warehouse: Warehouse) -> bool:
    """Sum up `DAYS_AT_ONCE` of the whole days that are made of other hours than they should; False: none is left."""
    until = _floor(rolled_until(warehouse), DAY)
    found = warehouse.look("days", until_ms=_ms(until))
    if found:
        # As they stood before the hours are read: a version that comes into force later has the day made again.
        days, made_of = zip(*found[:DAYS_AT_ONCE], strict=True)
        _put_in_force(warehouse, "rolled_day", [day.replace(tzinfo=timezone.utc) for day in days], made_of)
    is_done = len(found) <= DAYS_AT_ONCE
    if is_done and days_until(warehouse) < until:
        note(warehouse, "days_until", until)
        warehouse.boundary.moved()
    return not is_done


def settled_until(now: datetime) -> datetime:
    """Return the end of the hours that are taken as complete."""
    return _floor(now - SETTLED, HOUR)


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
    note(warehouse, "rolled_until", reached)
    return reached


def sweep_out(warehouse: Warehouse, now: datetime) -> None:
    """Remove the versions that were superseded longer ago than a question may take."""
    for step in _SWEEP_OUT:
        warehouse.work(step, before_us=(now - SETTLED - EPOCH) // timedelta(microseconds=1))


def _hours(warehouse: Warehouse, since: datetime, until: datetime) -> list[datetime]:
    """Return the rolled hours of [since, until) that have calls."""
    end = min(_utc(until), rolled_until(warehouse))
    found = warehouse.look("hours", since_ms=_ms(_floor(_utc(since), HOUR)), until_ms=_ms(end))
    return [hour.replace(tzinfo=timezone.utc) for (hour,) in found]


def _changed_us(warehouse: Warehouse, hours: Sequence[datetime]) -> dict[datetime, int]:
    """Return the newest note of a change of each of these hours; 0 where there is none."""
    found = {hour.replace(tzinfo=timezone.utc): us for hour, us in warehouse.look("changed", hours=list(hours))}
    return {hour: found.get(hour, 0) for hour in hours}


def _put_in_force(warehouse: Warehouse, kind: str, starts: Sequence[datetime], made_of: Sequence[int]) -> None:
    """Compute the cells of hours or days in order, and then note their versions."""
    ((newest,),) = warehouse.look("newest")
    rolled_us = max(_now_us(), newest)
    unit, name = (HOUR, "hours") if kind == "rolled" else (DAY, "days")
    bounds = {"since_ms": _ms(min(starts)), "until_ms": _ms(max(starts) + unit)}
    for step in _STEPS[kind]:
        warehouse.work(step, **{name: list(starts)}, rolled_us=rolled_us, **bounds)
    # Each has a version of its own, never given before, so that a reader looks up one number a row.
    versions = [_moment(rolled_us + number) for number in range(1, len(starts) + 1)]
    notes = [(kind, *row) for row in zip(starts, versions, made_of, strict=True)]
    warehouse.insert("upkeep", _COLUMNS, notes)


def _is_whole(values: Mapping[str, Any], unit: timedelta, since: datetime, until: datetime) -> bool:
    """Tell whether no bucket of the question begins inside an hour, or a day, of UTC."""
    if "step" not in values:
        return True
    zone = ZoneInfo(str(values["tz"]))
    days = range(0, (until - since).days + 31, 30)
    offsets = [(since + timedelta(days=day)).astimezone(zone).utcoffset() or timedelta(0) for day in days]
    return not timedelta(seconds=int(str(values["step"]))) % unit and all(not offset % unit for offset in offsets)


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment.astimezone(timezone.utc)


def _floor(moment: datetime, unit: timedelta) -> datetime:
    return moment - (moment - EPOCH) % unit


def _next(moment: datetime, unit: timedelta) -> datetime:
    floor = _floor(moment, unit)
    return floor if floor == moment else floor + unit


def _ms(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(milliseconds=1)


def _now_us() -> int:
    return (datetime.now(timezone.utc) - EPOCH) // timedelta(microseconds=1)


def _moment(us: int) -> datetime:
    return EPOCH + timedelta(microseconds=us)
