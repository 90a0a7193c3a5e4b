"""What a policy may say about gathering embeddings calls of several callers into one."""
from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from farthing.policy.record import Record

Inputs = Annotated[int, Field(gt=0, le=2048)]  # OpenAI's limit of one request


class MicroBatchAction(Record):
    """Send the embeddings calls of a moment as one; calls of different tenants or parameters never meet."""

    max_inputs: Inputs = 64  # a batch with so many leaves at once
    min_inputs: Annotated[Inputs | None, Field(default=None)]  # as soon as so many wait, where none is under way
    window_ms: float = Field(default=5.0, gt=0, le=1000)  # milliseconds that the first call of a batch waits at most
    max_bytes: int = Field(default=262_144, gt=0, le=16_777_216)  # of inputs in a batch
    max_tokens: int | None = Field(default=None, gt=0, le=16_777_216)  # of inputs in a batch, estimated
    concurrent: int = Field(default=4, gt=0, le=256)  # batches of a kind of call under way at once, over all workers

    @model_validator(mode="after")
    def _min_is_no_more_than_max(self) -> MicroBatchAction:
        if self.min_inputs is not None and self.min_inputs > self.max_inputs:
            raise ValueError(f"min_inputs is {self.min_inputs}; it must not exceed max_inputs ({self.max_inputs})")
        return self
