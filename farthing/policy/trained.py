"""Which gain models the analyzer has trained: told and not written, as the keys; weights are fetched by checksum."""
from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from farthing.policy.record import Pattern, Record
from farthing.policy.route import Pair

Checksum = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Trained(Record):
    """The newest gain model of one pair of models, as one tenant's own outcomes taught it."""

    tenant: Annotated[str, StringConstraints(max_length=256)] = ""  # whose calls it is for; empty: the proxy's own
    weak: Pattern
    strong: Pattern
    grade: Pattern
    version: Annotated[int, Field(ge=1)]  # of this tenant and pair, ascending
    checksum: Checksum  # of its weights

    @property
    def pair(self) -> Pair:
        return Pair(self.weak, self.strong, self.grade)

    def __str__(self) -> str:
        whose = f"{self.tenant}/" if self.tenant else ""
        return f"{whose}{self.weak}>{self.strong}:{self.grade}@{self.version}"

