"""What a policy may say about caching."""
from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from farthing.policy.record import Record


class SemanticAction(Record):
    """Answer chat requests that mean the same alike, within a learned bound of error; without `serve` only look."""

    serve: bool = False  # false: would-be hits are recorded, and nothing is served
    embedder: Annotated[str, StringConstraints(min_length=1, max_length=256)]  # a model of this proxy that embeds
    agree: Literal["meaning", "words"] = "meaning"  # how an upstream's answer is held against the one kept
    delta: float = Field(default=0.01, gt=0, le=0.2)  # share of wrong answers among those served that is allowed
    confidence: float = Field(default=0.95, ge=0.5, le=0.999)  # of the bound that is held against delta
    floor: float = Field(default=0.75, ge=0, le=1)  # cosine under which nothing is a candidate
    verify_share: float = Field(default=0.05, ge=0.001, le=1)  # of the hits that go upstream all the same
    max_bodies: int = Field(default=100, gt=0)  # different requests that one answer may serve before the alarm
    alarm_checks: int = Field(default=10, gt=0)  # hits in a row that must verify right after an alarm
    max_entries: int = Field(default=10_000, gt=0, le=100_000)  # examples of one partition
    max_bytes: int = Field(default=33_554_432, gt=0)  # of all of it, in each worker's memory
    embed_timeout_s: float = Field(default=0.25, gt=0, le=10)  # seconds that a call waits for its embedding


class CacheAction(Record):
    """Answer repeats of an identical request without asking anybody; each policy keeps answers of its own."""

    exact: bool = True  # keep whole answers
    embeddings: bool = True  # keep the vector of each input by itself, and send on only the inputs that are new
    coalesce: bool = False  # identical requests in flight share one answer, and streams one upstream stream
    ttl_s: float = Field(default=3600.0, gt=0, allow_inf_nan=False)  # seconds an answer may be reused
    max_bytes: int = Field(default=67_108_864, gt=0)  # of answers in each worker's memory, and again of vectors
    disk: bool = False  # beside memory also on the disk of each proxy, within `cache_disk_bytes` for all policies
    shared: bool = False  # and in the Redis or Valkey of `cache_redis_url`
    allow_sampled: bool = False  # also reuse answers to requests with temperature above 0
    semantic: SemanticAction | None = None
    prompt_ttl: Literal["5m", "1h"] | None = None  # have Anthropic keep the beginning of prompts, for so long

    @model_validator(mode="after")
    def _does_something(self) -> CacheAction:
        if not (self.exact or self.embeddings or self.coalesce or self.semantic or self.prompt_ttl):
            raise ValueError("it does nothing; set `exact`, `embeddings`, `coalesce`, `semantic` or `prompt_ttl`")
        return self
