"""Which limits a call counts in, and whether they have room; nothing is looked at where the document has no Limit."""
from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path

from farthing.policy import CompiledDocument, Document
from farthing.policy.facts import Facts
from farthing.policy.index import Index, Rule
from farthing.policy.kinds.limit import Limit
from proxy.api_error import ApiError
from proxy.call import Call
from proxy.limit_table import Ask, LimitTable
from proxy.request import Asked

_BYTES_PER_TOKEN = 4  # of JSON; the rule of thumb of OpenAI's documentation
_MINUTE_S = 60
_WHAT = {"requests": "requests a minute", "tokens": "tokens a minute", "in_flight": "calls at once"}


class Taken:
    """What a call has taken, and gives back when it ends."""

    __slots__ = ("asks", "minute", "tokens")

    def __init__(self, asks: Sequence[Ask], minute: int, tokens: int) -> None:
        self.asks = asks
        self.minute = minute
        self.tokens = tokens


class Limiter:
    """The limits of one worker."""

    def __init__(self, folder: Path, max_output_tokens: int, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._max_output_tokens = max_output_tokens
        self._clock = clock
        self._table: LimitTable | None = None
        self._index: Index[Limit] | None = None  # None: there is no limit

    def follow(self, compiled: CompiledDocument) -> None:
        """Take the limits of a new document; counts so far stay."""
        document: Document = compiled.document
        ordered = sorted(document.all_limits, key=lambda limit: limit.name)
        if ordered and self._table is None:
            self._table = LimitTable(self._folder)
        self._index = Index([Rule(limit, limit.scope, rank) for rank, limit in enumerate(ordered)]) if ordered else None

    def close(self) -> None:
        if self._table is not None:
            self._table.close()

    def enter(self, call: Call, asked: Asked) -> None:
        """Count a call in its limits.

        Raises:
            ApiError: 429; one of them has no room.
        """
        if self._index is None or self._table is None:
            return
        facts = call.facts
        found = [rule.item for rules in self._index.find(facts) for rule in rules if rule.fits(facts)]
        if not found:
            return
        now = self._clock()
        asks = [_ask(limit, facts) for limit in found]
        tokens = len(asked.body) // _BYTES_PER_TOKEN + asked.choices * (asked.max_output or self._max_output_tokens)
        minute = int(now) // _MINUTE_S
        short = self._table.take(asks, minute, tokens)
        if short is not None:
            raise _refused(found[asks.index(short[0])], short[1], _MINUTE_S - int(now) % _MINUTE_S)
        kept = [ask for ask in asks if ask.tokens or ask.in_flight]
        call.taken = Taken(kept, minute, tokens) if kept else None

    def leave(self, call: Call) -> None:
        """Give back what a call that has ended did not use."""
        taken, call.taken = call.taken, None
        if taken is None or self._table is None:
            return
        used = 0 if call.is_cache_hit or call.outcome == "refused" else None
        if used is None:
            used = taken.tokens if call.usage is None else call.usage.input + call.usage.output_total
        self._table.give(taken.asks, taken.minute, used - taken.tokens)


def _ask(limit: Limit, facts: Facts) -> Ask:
    whose = getattr(facts, limit.each) if limit.each else ""
    key = _key(limit.name, facts.tenant if limit.each else "", whose)
    return Ask(key, limit.requests_per_minute or 0, limit.tokens_per_minute or 0, limit.in_flight or 0)


@lru_cache(maxsize=4096)
def _key(*parts: str) -> bytes:
    return blake2b("\x1f".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _refused(limit: Limit, what: str, left_s: int) -> ApiError:
    allowed = {"requests": limit.requests_per_minute, "tokens": limit.tokens_per_minute, "in_flight": limit.in_flight}
    each = f" for each {limit.each}" if limit.each else ""
    message = f"the limit {limit.name!r} allows {allowed[what]} {_WHAT[what]}{each}, and they are used up"
    wait_s = 1 if what == "in_flight" else left_s
    kind = "tokens" if what == "tokens" else "requests"
    return ApiError(429, "rate_limit_exceeded", f"{message}; try again in {wait_s} s", kind=kind, retry_after_s=wait_s)
