"""Who gets a policy that is on trial: a sticky hash of policy and unit, so that the same user stays on the same side.

One hash serves a policy's whole life: a growing share only adds units, and those held out in the end were never
treated before, so both sides of every comparison are the same people throughout.
"""
from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from hashlib import blake2b
from typing import Annotated, Literal

from pydantic import Field, model_validator

from farthing.policy.facts import Facts
from farthing.policy.record import Name, Record

Unit = Literal["request", "user", "session"]
_WHOLE = 2.0**64


class Ramp(Record):
    """How the share of a canary grows: by the same step each day, from `share` on `start` to `to`."""

    start: date  # UTC
    days: int = Field(ge=1, le=366)
    to: float = Field(default=1.0, gt=0, le=1, allow_inf_nan=False)


class Canary(Record):
    """Which share of the units a policy in the mode canary acts on."""

    share: float = Field(default=0.1, gt=0, le=1, allow_inf_nan=False)
    ramp: Ramp | None = None

    @model_validator(mode="after")
    def _grows(self) -> Canary:
        if self.ramp is not None and self.ramp.to < self.share:
            raise ValueError(f"ramp.to is {self.ramp.to:g}, less than share {self.share:g}; a ramp grows")
        return self

    def share_on(self, today: date) -> float:
        """Return the share on a day, UTC."""
        if self.ramp is None:
            return self.share
        done = min(1.0, max(0.0, (today - self.ramp.start).days / self.ramp.days))
        return self.share + (self.ramp.to - self.share) * done


class Guardrail(Record):
    """What a policy may not make worse; once that is beyond doubt, the control plane takes it back to shadow."""

    metric: Literal["errors", "cost", "latency", "ttft", "slo"]
    max_increase: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)]  # errors, slo: of the share; else relative
    slo: Name | None = None  # metric slo: whose objective calls may not miss more often

    @model_validator(mode="after")
    def _names_its_objective(self) -> Guardrail:
        if (self.metric == "slo") != (self.slo is not None):
            raise ValueError("`metric: slo` needs `slo`, the name of an Slo document, and no other metric takes it")
        return self

    @property
    def is_share(self) -> bool:
        """Whether it is about a share of the calls, whose increase is meant as it is."""
        return self.metric in ("errors", "slo")

    @property
    def title(self) -> str:
        return f"slo {self.slo}" if self.slo else self.metric


class Verify(Record):
    """How it is proved that a policy does what it promised."""

    unit: Unit = "request"  # what stays on one side; a request that lacks the fact is its own unit
    holdout: float = Field(default=0.0, ge=0, le=0.9, allow_inf_nan=False)  # share of units that it never acts on
    guardrails: Annotated[tuple[Guardrail, ...], Field(max_length=10)] = ()


@dataclass(frozen=True, slots=True)
class Arm:
    """On which side of a trial a request fell."""

    policy: str
    is_treated: bool
    propensity: float  # the probability with which it was to be treated

    def __str__(self) -> str:
        return f"{self.policy}:{'treatment' if self.is_treated else 'control'}:{self.propensity:g}"


class Trial:
    """One policy's draw."""

    __slots__ = ("_canary", "_holdout", "_policy", "_prefix", "_unit")

    def __init__(self, policy: str, verify: Verify, canary: Canary | None) -> None:
        self._policy = policy
        self._unit = verify.unit
        self._holdout = verify.holdout
        self._canary = canary  # None: enforced on all but the holdout
        self._prefix = policy.encode() + b"\0"

    def share(self, today: date) -> float:
        """Return the probability with which a unit is treated on a day."""
        most = 1.0 - self._holdout
        return most if self._canary is None else min(most, self._canary.share_on(today))

    def assign(self, facts: Facts, request_id: str, today: date) -> Arm:
        """Return the side of a request."""
        unit = request_id
        if self._unit != "request":
            unit = (facts.user if self._unit == "user" else facts.session) or request_id
        share = self.share(today)
        return Arm(self._policy, draw(self._prefix + facts.tenant.encode() + b"\0" + unit.encode()) < share, share)


def draw(key: bytes) -> float:
    """Return a number in [0, 1) that is the same for the same key, and evenly spread over keys."""
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "big") / _WHOLE
