"""What the caches have done, level by level and policy by policy, as plain numbers that a page can read."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from farthing.prices import Price, Usage

Level = Literal["exact", "coalesced", "embedding", "semantic"]


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
