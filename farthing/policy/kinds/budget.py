"""kind: Budget: how much the requests of a scope may cost in one window."""
from __future__ import annotations

from datetime import timezone, tzinfo
from typing import Annotated, ClassVar, Literal
from zoneinfo import ZoneInfo

from pydantic import BeforeValidator

from farthing.policy.match import Match
from farthing.policy.record import Named, Nusd, Record


def zone(name: str) -> tzinfo:
    """Return the time zone of an IANA name; UTC needs no zone database.

    Raises:
        ValueError: there is no such zone.
    """
    if name == "UTC":
        return timezone.utc
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"{name!r} is not a time zone; write an IANA name, such as Europe/London or UTC") from None


def _known_zone(name: str) -> str:
    zone(name)
    return name


class Window(Record):
    """The calendar period after which a budget starts anew."""

    calendar: Literal["day", "week", "month", "total"] = "month"
    tz: Annotated[str, BeforeValidator(_known_zone)] = "UTC"  # IANA zone whose midnight begins a period


class Budget(Named):
    """How much the requests of a scope may cost in one window."""

    KIND: ClassVar[str] = "Budget"
    PLURAL: ClassVar[str] = "budgets"

    scope: Match = Match()  # empty: everything that this control plane governs
    limit_nusd: Nusd  # nano-dollars a window
    window: Window = Window()
    hard: bool = True  # false: counted and shown, never refuses
    on_ledger_away: Literal["refuse", "allow"] = "refuse"
