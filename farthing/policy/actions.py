"""What a policy may do with a request: a fixed vocabulary, one record for each verb."""
from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from farthing.policy.caching import CacheAction
from farthing.policy.match import is_glob
from farthing.policy.micro_batch import MicroBatchAction
from farthing.policy.record import Pattern, Record, as_list
from farthing.policy.tokens import TokensAction


def _one_name(name: str) -> str:
    if is_glob(name):
        raise ValueError(f"{name!r} is a pattern; a route leads to one exact model name")
    return name


ModelName = Annotated[Pattern, BeforeValidator(_one_name)]


class RouteAction(Record):
    """Send the request to another model, or name models to fall back to, or both."""

    to: Annotated[ModelName | None, Field(default=None)]  # absent: the model that was asked for
    fallbacks: Annotated[tuple[ModelName, ...], BeforeValidator(as_list), Field(max_length=10)] = ()  # in this order

    @model_validator(mode="after")
    def _does_something(self) -> RouteAction:
        if self.to is None and not self.fallbacks:
            raise ValueError("set `to`, `fallbacks` or both")
        return self


class Action(Record):
    """What a policy does: exactly one of these."""

    route: RouteAction | None = None
    cache: CacheAction | None = None
    tokens: TokensAction | None = None
    micro_batch: MicroBatchAction | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Action:
        if sum(part is not None for part in (self.route, self.cache, self.tokens, self.micro_batch)) != 1:
            raise ValueError("set exactly one of route, cache, tokens and micro_batch")
        return self
