"""What a policy may do with a request: a fixed vocabulary, one record for each verb."""
from __future__ import annotations

from pydantic import Field, model_validator

from farthing.policy.flow import ConcurrencyAction, PriorityAction
from farthing.policy.record import Record
from farthing.policy.route import RouteAction


class CacheAction(Record):
    """Answer repeats of an identical request from the exact cache."""

    ttl_s: float = Field(default=3600.0, gt=0, allow_inf_nan=False)  # seconds an answer may be reused
    max_bytes: int = Field(default=67_108_864, gt=0)  # bytes of answers kept for this policy
    allow_sampled: bool = False  # also reuse answers to requests with temperature above 0


class Action(Record):
    """What a policy does: exactly one of these."""

    route: RouteAction | None = None
    cache: CacheAction | None = None
    concurrency: ConcurrencyAction | None = None
    priority: PriorityAction | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Action:
        names = list(type(self).model_fields)
        if sum(getattr(self, name) is not None for name in names) != 1:
            raise ValueError(f"set exactly one of {', '.join(names[:-1])} and {names[-1]}")
        return self

    @property
    def verb(self) -> str:
        """What it does: route, cache and so on."""
        return next(name for name in type(self).model_fields if getattr(self, name) is not None)
