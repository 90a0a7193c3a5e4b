"""What a policy may do with a request: a fixed vocabulary, one record for each verb."""
from __future__ import annotations

from pydantic import model_validator

from farthing.policy.caching import CacheAction
from farthing.policy.flow import ConcurrencyAction, PriorityAction
from farthing.policy.micro_batch import MicroBatchAction
from farthing.policy.record import Record
from farthing.policy.route import RouteAction
from farthing.policy.tokens import TokensAction


class Action(Record):
    """What a policy does: exactly one of these."""

    route: RouteAction | None = None
    cache: CacheAction | None = None
    tokens: TokensAction | None = None
    micro_batch: MicroBatchAction | None = None
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
