"""kind: Limit: how much a scope may ask of the proxies of a host, whatever it costs; N hosts let in N times as much."""
from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from farthing.policy.match import Match
from farthing.policy.record import Named

Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
InFlight = Annotated[int, Field(ge=1, le=32_000)]


class Limit(Named):
    """A call counts in every limit whose scope holds it, and is refused by the first that has no room."""

    KIND: ClassVar[str] = "Limit"
    PLURAL: ClassVar[str] = "limits"

    scope: Match = Match()  # empty: every call
    # Whether each tenant, team, user or key has the limit for itself; empty: all in the scope share it.
    each: Literal["", "tenant", "team", "user", "key"] = ""
    requests_per_minute: Count | None = None  # of the clock's minutes
    tokens_per_minute: Count | None = None  # input and output; a call under way counts with the most that it may use
    in_flight: InFlight | None = None  # calls under way at once

    @model_validator(mode="after")
    def _limits_something(self) -> Limit:
        if self.requests_per_minute is None and self.tokens_per_minute is None and self.in_flight is None:
            raise ValueError("set requests_per_minute, tokens_per_minute, in_flight or several of them")
        return self
