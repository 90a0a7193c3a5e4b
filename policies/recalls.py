"""Which workers are asked to give leases back, and the long polls by which they hear of it; used on one event loop.

A recall that nobody comes for is no harm: the ledger does not wait long for its answer, and a refusal repeats it.
"""
from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from policies.operations import Refused, Result

MAX_WORKERS = 10_000  # with a recall or a poll; the oldest is forgotten first


@dataclass
class Recall:
    """What one worker has not heard of yet."""

    budgets: set[str] = field(default_factory=set[str])
    is_there: asyncio.Event = field(default_factory=asyncio.Event)

    def taken(self) -> list[str]:
        """Return the budgets, and forget them."""
        budgets = sorted(self.budgets)
        self.budgets.clear()
        self.is_there.clear()
        return budgets


class Recalls:
    """One recall for each worker, of all budgets whose leases others need."""

    def __init__(self) -> None:
        self._of: OrderedDict[str, Recall] = OrderedDict()

    def note(self, results: Iterable[Result]) -> None:
        """Wake the workers that refusals name."""
        for result in results:
            if isinstance(result, Refused):
                for worker, budget in result.recalled:
                    self.of(worker).budgets.add(budget)
                    self.of(worker).is_there.set()

    def of(self, worker: str) -> Recall:
        """Return the worker's recall, which may be empty."""
        recall = self._of.setdefault(worker, Recall())
        self._of.move_to_end(worker)
        if len(self._of) > MAX_WORKERS:
            self._of.popitem(last=False)
        return recall

    def release(self) -> None:
        """Let every poll answer now."""
        for recall in self._of.values():
            recall.is_there.set()
