"""What the caches have done, level by level and policy by policy, as plain numbers that a page can read."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from farthing.prices import Price, Usage

Level = Literal["exact", "coalesced", "embedding", "semantic", "prompt"]


@dataclass(slots=True)
class Saved:
    """What the hits of one level would have cost."""

    hits: int = 0
    nusd: int = 0  # nano-dollars, at the price of the day of each hit
    unpriced_hits: int = 0  # whose saving nobody can tell

    def add(self, price: Price | None, usage: Usage | None) -> None:
        """Count a hit."""
        self.hits += 1
        if price is None or usage is None:
            self.unpriced_hits += 1
        else:
            self.nusd += price.cost_nusd(usage)


@dataclass(slots=True)
class PromptCounts:
    """What a provider's own cache of prompts did for a policy that asks for it."""

    reads: int = 0  # calls of whose prompt a part was there
    misses: int = 0  # calls of whose prompt nothing was
    read_nusd: int = 0  # that reading saved against input that is not there
    written_nusd: int = 0  # that writing cost above it
    unpriced: int = 0  # reads whose saving nobody can tell

    def add(self, price: Price | None, usage: Usage) -> None:
        """Count a call that the provider answered."""
        self.reads += usage.cache_read > 0
        self.misses += usage.cache_read == 0
        if price is None:
            self.unpriced += usage.cache_read > 0
            return
        unread = usage._replace(input_uncached=usage.input_uncached + usage.cache_read, cache_read=0)
        written = usage.cache_write + usage.cache_write_1h
        unwritten = usage._replace(input_uncached=usage.input_uncached + written, cache_write=0, cache_write_1h=0)
        cost = price.cost_nusd(usage)
        self.read_nusd += max(0, price.cost_nusd(unread) - cost)
        self.written_nusd += max(0, cost - price.cost_nusd(unwritten))


@dataclass(frozen=True, slots=True)
class LevelCounts:
    """One level of one policy, since this worker runs that policy; embeddings are counted by input."""

    policy: str
    level: Level
    hits: int
    misses: int
    evictions: int
    entries: int
    bytes: int
    saved_nusd: int
    unpriced_hits: int
