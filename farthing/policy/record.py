"""What every part of a policy document is made of."""
from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

MAX_NUSD = 10**18  # a billion USD; sums of such amounts stay within 64 bits


def as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


Pattern = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Nusd = Annotated[int, Field(ge=0, le=MAX_NUSD)]


class Record(BaseModel):
    """One frozen part of a document; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")
