"""One thing to tell people of: what alert, about what, in which period; its key makes it be told once."""
from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from hashlib import blake2b

PERIODS = ("hour", "day", "week", "month")


@dataclass(frozen=True)
class Fact:
    """What a condition found, before anybody asks whether it was told already."""

    subject: str  # what it is about: a budget, a model, a team; empty = everything
    title: str
    text: str  # a few sentences for people, the driver among them
    figures: dict[str, object] = field(default_factory=dict[str, object])  # JSON values, for programs
    is_event: bool = False  # it happened once, so it is told once, however many periods it is seen in


@dataclass(frozen=True)
class Firing:
    """A fact that is to be told by one alert."""

    key: str  # the same alert, subject and period have the same key
    alert: str
    owner: str
    period: str  # its start, ISO 8601
    fired_at: datetime
    fact: Fact


def firing(alert: str, owner: str, every: str, fact: Fact, now: datetime) -> Firing:
    """Return the firing of `alert` for the period that `now` lies in."""
    period = start_of(every, now).isoformat()
    about = "\0".join((alert, fact.subject) if fact.is_event else (alert, fact.subject, every, period))
    return Firing(blake2b(about.encode(), digest_size=12).hexdigest(), alert, owner, period, now, fact)


def start_of(every: str, now: datetime) -> datetime:
    """Return when the period began, UTC; a week begins on Monday."""
    hour = now.astimezone(timezone.utc).replace(minute=0, second=0, microsecond=0)
    if every == "hour":
        return hour
    day = hour.replace(hour=0)
    if every == "week":
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if every == "month" else day
