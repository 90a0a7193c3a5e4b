"""How many requests a deployment gets at once, how long others wait for a place, and who goes first."""
from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from farthing.policy.record import Record

MOST_PRIORITY = 9
USUAL_PRIORITY = 5  # of a request that no policy ranks; its header may only lower it

Level = Annotated[int, Field(ge=0, le=MOST_PRIORITY)]
Window = Annotated[int, Field(ge=1, le=100_000)]


class ConcurrencyAction(Record):
    """The window of each deployment of a model: it shrinks while answers get slower and grows while they do not."""

    min: Window = 1
    max: Window = 64  # of one deployment, over all workers of a proxy; min = max is a fixed window
    tolerance: Annotated[float, Field(ge=1.1, le=10)] = 2.0  # times the quick latency that is not yet overload
    queue: Annotated[int, Field(ge=0, le=100_000)] = 100  # requests that may wait, over all workers
    max_wait_ms: Annotated[float, Field(ge=0, le=600_000)] = 5_000.0

    @model_validator(mode="after")
    def _min_is_least(self) -> ConcurrencyAction:
        if self.min > self.max:
            raise ValueError(f"min is {self.min} and max is {self.max}; min must be {self.max} at most")
        return self


class PriorityAction(Record):
    """Which requests go first where some wait: 9 before 0."""

    level: Level = USUAL_PRIORITY  # of a request without the header x-farthing-priority
    most: Level | None = None  # what that header may ask for; default: `level`

    @model_validator(mode="after")
    def _level_is_allowed(self) -> PriorityAction:
        if self.most is not None and self.most < self.level:
            raise ValueError(f"most is {self.most} and level is {self.level}; most must be {self.level} at least")
        return self

    def of(self, asked: int | None) -> int:
        """Return the priority of a request whose header asks for `asked`."""
        return self.level if asked is None else min(asked, self.level if self.most is None else self.most)
