"""kind: Budget: how much the requests of a scope may cost in one window, and what happens on the way there.

Budgets nest by their scopes: a call is held by every budget whose scope it falls into, and each may refuse it.
"""
from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, timezone, tzinfo
from decimal import ROUND_FLOOR, Decimal
from typing import Annotated, Any, ClassVar, Literal, cast
from zoneinfo import ZoneInfo

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from farthing.policy.match import Match
from farthing.policy.record import Named, Nusd, Record, as_share

_ROLLING = {"h": 3600, "d": 86_400}
_FOREIGN = re.compile(r"(\d+(?:\.\d+)?) ([A-Z]{3})\Z", re.ASCII)


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


def known_zone(name: str) -> str:
    """Return the name of a time zone as it is; a ValueError where there is no such zone."""
    zone(name)
    return name


Share = Annotated[float, BeforeValidator(as_share), Field(gt=0, le=10, allow_inf_nan=False)]


class Window(Record):
    """The calendar period after which a budget starts anew, or the time that it always looks back on."""

    calendar: Literal["day", "week", "month", "total"] = "month"
    tz: Annotated[str, BeforeValidator(known_zone)] = "UTC"  # IANA zone whose midnight begins a period
    # Such as 24h or 7d, in place of `calendar`: what is spent counts for so long, and up to 1/24 longer.
    rolling: Annotated[str, StringConstraints(pattern=r"^[1-9]\d{0,3}[hd]$")] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Window:
        if self.rolling is not None and self.calendar != "month":
            raise ValueError(f"set calendar or rolling, not both ({self.calendar!r} and {self.rolling!r})")
        return self

    @property
    def rolling_s(self) -> int:
        """Seconds that a rolling window looks back; 0: it is a calendar's."""
        return int(self.rolling[:-1]) * _ROLLING[self.rolling[-1]] if self.rolling else 0


def usable_act(act: object) -> object:
    """Return what a threshold is to do; a ValueError where it names the batch tier, which has no answer for a call."""
    if act == "batch":
        raise ValueError(
            "the batch tier answers within a day, so no call that waits for its answer can use it; write "
            "flex, the cheaper tier of such calls, and send work that can wait to /v1/batches"
        )
    return act


class Threshold(Record):
    """Do something once a share of the limit is spent, or will be by the period's end as it goes; told once a period.

    What it does holds until the period ends.
    """

    at: Share | None = None  # of the limit, spent: 0.8 or 80%
    forecast: Share | None = None  # of the limit, at the period's end if it goes on as so far
    # notify: only tell; route: send the scope's calls to the model `to`; cheapest: to the cheapest deployment of their
    # model; flex: ask for the provider's flex tier; approve: refuse them until somebody approves
    act: Annotated[
        Literal["notify", "route", "cheapest", "flex", "approve"], BeforeValidator(usable_act)
    ] = "notify"
    to: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = None  # one exact model name

    @model_validator(mode="after")
    def _leads_somewhere(self) -> Threshold:
        if (self.act == "route") != (self.to is not None):
            raise ValueError("act: route needs `to`, the model to send calls to, and nothing else takes it")
        return self

    @model_validator(mode="after")
    def _one_measure(self) -> Threshold:
        if (self.at is None) == (self.forecast is None):
            raise ValueError("set exactly one of at and forecast")
        return self

    @property
    def name(self) -> str:
        """at 80% | forecast 100% | at 90%: route to small | at 92%: cheapest | at 95%: approve."""
        share = self.at if self.at is not None else self.forecast
        does = "" if self.act == "notify" else f": {self.act}" + (f" to {self.to}" if self.to else "")
        return f"{'at' if self.at is not None else 'forecast'} {(share or 0) * 100:g}%{does}"


class Currency(Record):
    """A currency that a budget's amounts are written in; the ledger counts in USD at this rate, which does not move."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]
    usd: Annotated[str, StringConstraints(pattern=r"^\d{1,6}(\.\d{1,9})?$")]  # that one unit is worth, as text
    as_of: date | None = None  # the day that the rate is of; only told


class Budget(Named):
    """How much the requests of a scope may cost in one window."""

    KIND: ClassVar[str] = "Budget"
    PLURAL: ClassVar[str] = "budgets"

    scope: Match = Match()  # empty: everything that this control plane governs
    limit_nusd: Nusd  # nano-dollars a window
    window: Window = Window()
    hard: bool = True  # false: counted and shown, never refuses
    on_ledger_away: Literal["refuse", "allow"] = "refuse"
    per_request_nusd: Nusd | None = None  # the most that one call may cost at worst; absent: the limit
    suspended: bool = False  # refuses every call, whatever is free
    thresholds: Annotated[tuple[Threshold, ...], Field(max_length=20)] = ()
    currency: Currency | None = None  # that people think in; absent: USD

    @model_validator(mode="after")
    def _forecasts_have_an_end(self) -> Budget:
        has_end = self.window.rolling is None and self.window.calendar != "total"
        if not has_end and any(one.forecast is not None for one in self.thresholds):
            raise ValueError("a forecast needs a window that ends: day, week or month")
        if self.window.rolling is not None and any(one.act != "notify" for one in self.thresholds):
            raise ValueError("an `act` other than notify needs a calendar window; what it does holds until its end")
        return self

    @classmethod
    def from_written(cls, spec: dict[str, Any]) -> Any:
        """Read a budget as people write it; amounts in its own currency become USD, rounded down.

        Raises:
            ValidationError: something in it is wrong.
        """
        currency = spec.get("currency")
        if isinstance(currency, dict):
            given = cast("dict[str, object]", currency)
            spec = {key: in_usd(value, given) if key in _AMOUNTS else value for key, value in spec.items()}
        return super().from_written(spec)


_AMOUNTS = ("limit", "per_request")


def in_usd(value: object, currency: Mapping[str, object]) -> object:
    """Return an amount in USD, rounded down; what cannot be read is left to the validation of its field."""
    found = _FOREIGN.match(value) if isinstance(value, str) else None
    rate = currency.get("usd")
    if found is None or found[2] != currency.get("name") or not isinstance(rate, str):
        return value
    if not re.fullmatch(r"\d{1,6}(\.\d{1,9})?", rate):
        return value
    usd = (Decimal(found[1]) * Decimal(rate)).quantize(Decimal("0.000000001"), ROUND_FLOOR)
    return f"{usd:f} USD"
