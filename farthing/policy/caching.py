"""What a policy may say about caching."""
from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from farthing.policy.record import Record


class CacheAction(Record):
    """Answer repeats of an identical request without asking anybody; each policy keeps answers of its own."""

    exact: bool = True  # keep whole answers
    embeddings: bool = True  # keep the vector of each input by itself, and send on only the inputs that are new
    coalesce: bool = False  # identical requests in flight share one answer; streams do not wait for one another
    ttl_s: float = Field(default=3600.0, gt=0, allow_inf_nan=False)  # seconds an answer may be reused
    max_bytes: int = Field(default=67_108_864, gt=0)  # of answers in each worker's memory, and again of vectors
    disk: bool = False  # beside memory also on the disk of each proxy, within `cache_disk_bytes` for all policies
    shared: bool = False  # and in the Redis or Valkey of `cache_redis_url`
    allow_sampled: bool = False  # also reuse answers to requests with temperature above 0
    prompt_ttl: Literal["5m", "1h"] | None = None  # have Anthropic keep the beginning of prompts, for so long

    @model_validator(mode="after")
    def _does_something(self) -> CacheAction:
        if not (self.exact or self.embeddings or self.coalesce or self.prompt_ttl):
            raise ValueError("it does nothing; set `exact`, `embeddings`, `coalesce` or `prompt_ttl`")
        return self
