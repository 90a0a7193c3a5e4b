"""kind: Alert: what somebody wants to be told of, where, and how often at most."""
from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from farthing.policy.record import Name, Named, Nusd, Pattern, Record

Hours = Annotated[float, Field(gt=0, le=24 * 31)]
Names = Annotated[tuple[Pattern, ...], Field(max_length=100)]


class Spend(Record):
    """More than `above` was spent over the last hours."""

    above_nusd: Nusd
    hours: Hours = 24
    teams: Names = ()  # exact names; empty: all
    models: Names = ()


class BurnRate(Record):
    """A budget is used up faster than its window allows, over a short and over a long time alike."""

    budget: Name
    factor: Annotated[float, Field(gt=0, le=1000)] = 2  # times the pace that would use it up exactly at its end
    fast_hours: Hours = 1  # the short one, so that the alert ends soon after its cause
    slow_hours: Hours = 6  # the long one, so that a blip is none

    @model_validator(mode="after")
    def _in_order(self) -> BurnRate:
        if self.fast_hours >= self.slow_hours:
            raise ValueError(f"fast_hours {self.fast_hours:g} must be below slow_hours {self.slow_hours:g}")
        return self


class BudgetUsed(Record):
    """A budget has spent this share of its limit."""

    budget: Name
    share: Annotated[float, Field(gt=0, le=1)] = 0.8


class Forecast(Record):
    """A budget will be used up before its window ends, if the pace of the last hours goes on."""

    budget: Name
    hours: Hours = 24  # over which the pace is taken


class Anomaly(Record):
    """An hour cost far more than the same hour of the days before it."""

    times: Annotated[float, Field(gt=1, le=1000)] = 3  # as much as the median of those hours
    above_nusd: Nusd = 1_000_000_000  # a smaller hour is none, whatever it was before
    days: Annotated[int, Field(ge=3, le=60)] = 14  # looked back
    teams: Names = ()
    models: Names = ()


class UnpricedModels(Record):
    """Calls of a model without a price were recorded: their cost is in no sum."""

    hours: Hours = 24


class TelemetryGap(Record):
    """Nothing was recorded for a while, although there were calls in the hours before it."""

    minutes: Annotated[int, Field(ge=5, le=24 * 60)] = 30
    before_hours: Hours = 24


class SloBurn(Record):
    """The error budget of an Slo is used up faster than its window allows, over a short and a long time alike."""

    name: Name  # of the Slo
    factor: Annotated[float, Field(gt=0, le=10_000)] = 6  # times the pace that would use it up exactly in its window
    fast_hours: Hours = 0.5  # the short one, so that the alert ends soon after its cause
    slow_hours: Hours = 6  # the long one, so that a blip is none
    min_calls: Annotated[int, Field(ge=1, le=1_000_000)] = 20  # in the long one; fewer prove nothing

    @model_validator(mode="after")
    def _in_order(self) -> SloBurn:
        if self.fast_hours >= self.slow_hours:
            raise ValueError(f"fast_hours {self.fast_hours:g} must be below slow_hours {self.slow_hours:g}")
        return self


class Rollback(Record):
    """A guardrail took a policy back to shadow; each time is told once, whatever `every` says."""

    policies: Names = ()  # empty: all
    hours: Hours = 24  # looked back, for what happened while nothing looked


class When(Record):
    """What the alert is about: exactly one of these."""

    spend: Spend | None = None
    burn_rate: BurnRate | None = None
    budget_used: BudgetUsed | None = None
    forecast: Forecast | None = None
    anomaly: Anomaly | None = None
    unpriced_models: UnpricedModels | None = None
    telemetry_gap: TelemetryGap | None = None
    slo: SloBurn | None = None
    rollback: Rollback | None = None

    @model_validator(mode="after")
    def _is_one(self) -> When:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            allowed = ", ".join(type(self).model_fields)
            raise ValueError(f"{' and '.join(given) or 'nothing'} is given; write exactly one of {allowed}")
        return self

    @property
    def condition(self) -> Record:
        return next(value for name in type(self).model_fields if (value := getattr(self, name)) is not None)


class Alert(Named):
    """Whom to tell of what."""

    KIND: ClassVar[str] = "Alert"
    PLURAL: ClassVar[str] = "alerts"

    when: When
    to: Annotated[tuple[Name, ...], Field(min_length=1, max_length=20)]  # names of alert_channels in the settings
    every: Literal["hour", "day", "week", "month"] = "day"  # told once in each, for each thing that it is about
