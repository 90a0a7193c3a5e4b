"""kind: Slo: how good the calls of a scope have to be, and how many may miss that in a window: the error budget."""
from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field, model_validator

from farthing.policy.match import Match
from farthing.policy.record import Named, Nusd, Record, as_share

Objective = Annotated[float, BeforeValidator(as_share), Field(gt=0, lt=1, allow_inf_nan=False)]
Milliseconds = Annotated[float, Field(gt=0, le=3_600_000)]


class ErrorsObjective(Record):
    """So many of the calls that ended do not fail; a client that hangs up is no failure."""

    share: Objective  # that are good: 0.999 or 99.9%


class LatencyObjective(Record):
    """So many of the answers are whole in time."""

    share: Objective
    within_ms: Milliseconds


class TtftObjective(Record):
    """So many of the streams begin in time."""

    share: Objective
    within_ms: Milliseconds


class CostObjective(Record):
    """So many of the answers whose price is known cost no more than this."""

    share: Objective
    within_nusd: Nusd


class Slo(Named):
    """One objective; exactly one of its four measures is set."""

    KIND: ClassVar[str] = "Slo"
    PLURAL: ClassVar[str] = "slos"

    scope: Match = Match()  # empty: every call
    errors: ErrorsObjective | None = None
    latency: LatencyObjective | None = None
    ttft: TtftObjective | None = None
    cost: CostObjective | None = None
    window_days: Annotated[float, Field(ge=0.04, le=92)] = 28  # in which the error budget holds, always looking back

    @model_validator(mode="after")
    def _is_one(self) -> Slo:
        given = [name for name in _MEASURES if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"{' and '.join(given) or 'nothing'} is given; set exactly one of {', '.join(_MEASURES)}")
        return self

    @property
    def measure(self) -> str:
        """What it is about: errors, latency, ttft or cost."""
        return next(name for name in _MEASURES if getattr(self, name) is not None)

    @property
    def share(self) -> float:
        """The share of calls that have to be good."""
        return getattr(self, self.measure).share

    @property
    def most(self) -> float:
        """The most that a good call may take, in seconds, or cost, in USD; an error has no such bound."""
        if self.cost is not None:
            return self.cost.within_nusd / 1e9
        bound = self.latency or self.ttft
        return bound.within_ms / 1000 if bound else 0.0


_MEASURES = ("errors", "latency", "ttft", "cost")
