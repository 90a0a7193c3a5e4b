"""What one policy's caches keep, and a call's ticket to them: its answer, or where its answer is to be kept.

Whoever holds a ticket ends it by `Caches.keep` or `Caches.leave`, however the call went, since others may wait for its
flight.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from farthing.policy.caching import CacheAction
from proxy.broadcast import Broadcast
from proxy.cache import Entry, ExactCache, Key
from proxy.cache_counts import Level, LevelCounts, PromptCounts, Saved
from proxy.coalesce import Flight
from proxy.embedding_cache import EmbeddingCache, Plan
from proxy.within import Within

if TYPE_CHECKING:  # it loads numpy, which most proxies never need
    from proxy.semantic_level import Likeness, SemanticLevel


class Kept:
    """What one policy keeps."""

    def __init__(self) -> None:
        self.exact = ExactCache()
        self.inputs = EmbeddingCache(max_bytes=0, ttl_s=0)  # its bounds come with each call
        self.prompts = PromptCounts()
        self.found_behind = 0  # whole answers that were no longer in memory
        self.semantic: SemanticLevel | None = None  # made where the policy asks for it
        self.saved: dict[Level, Saved] = {level: Saved() for level in get_args(Level)}

    def counts(self, policy: str) -> list[LevelCounts]:
        """Return its levels; a hit behind the memory is one too."""
        exact, saved = self.exact, self.saved["exact"]
        misses = exact.misses - self.found_behind
        shared = self.saved["coalesced"]
        inputs, spared = self.inputs, self.saved["embedding"]
        counts = [
            LevelCounts(policy, "exact", saved.hits, misses, exact.evictions, len(exact), exact.size, saved.nusd,
                        saved.unpriced_hits),
            LevelCounts(policy, "coalesced", shared.hits, 0, 0, 0, 0, shared.nusd, shared.unpriced_hits),
            LevelCounts(policy, "embedding", inputs.hits, inputs.misses, inputs.evictions, len(inputs), inputs.bytes,
                        spared.nusd, spared.unpriced_hits),
        ]  # fmt: skip
        if self.semantic is not None:
            alike, meant = self.semantic.cache, self.saved["semantic"]
            counts.append(LevelCounts(policy, "semantic", meant.hits, alike.counts.misses, alike.evictions,
                                      alike.entries, alike.bytes, meant.nusd, meant.unpriced_hits))  # fmt: skip
        prompts = self.prompts
        if prompts.reads or prompts.misses:
            counts.append(LevelCounts(policy, "prompt", prompts.reads, prompts.misses, 0, 0, 0, prompts.read_nusd,
                                      prompts.unpriced))  # fmt: skip
        return counts


@dataclass(slots=True)
class Ticket:
    """What the caches have for one call, and what they want of it."""

    kept: Kept
    action: CacheAction
    key: Key
    entry: Entry | None = None  # its answer
    level: Level = "exact"  # that the answer came from
    stream: Broadcast | None = None  # its answer, on its way to an identical call
    flight: Flight[Entry | Broadcast] | None = None  # which this call leads
    within: Within | None = None  # the time that the call has
    model: str = ""  # that an answer must come from to be kept
    plan: Plan | None = None  # which of its inputs are there, of an embeddings call
    likeness: Likeness | None = None  # what the semantic cache makes of it

    @property
    def is_answered(self) -> bool:
        """Tell whether the call need ask nobody."""
        return self.entry is not None or self.stream is not None

    @property
    def wants_answer(self) -> bool:
        """Tell whether a good answer is to be kept or handed on."""
        return self.keeps_whole or self.flight is not None or self.likeness is not None

    @property
    def keeps_whole(self) -> bool:
        return self.action.exact and self.plan is None

    @property
    def forward(self) -> bytes:
        """The body to send on in place of the client's, where a part of its inputs is there; else nothing."""
        return b"" if self.plan is None or self.plan.is_whole else self.plan.forward

    def goes_on(self, stop: Callable[[], object]) -> bool:
        """Tell whether others read along, for whom the call goes on without its client until `stop` is called."""
        shared = self.flight.shared if self.flight is not None else None
        return isinstance(shared, Broadcast) and shared.goes_on(stop)
