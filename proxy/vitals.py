"""How a deployment fares, as all workers of a host have seen it: what its breaker goes by, and its calls under way.

There is no lock: each worker counts its calls in a column of its own, and of two that see it fail at the same moment
one may see it in vain. Where nothing is shared a worker has vitals to itself.
"""
from __future__ import annotations

from proxy.shared_map import WORKERS

FAILURES, OPEN_UNTIL, PAUSED_UNTIL, NEXT_COOLDOWN_S = range(4)  # where each number lies in `told`
_TOLD = 4
_CELL = 8  # bytes
CELLS = _TOLD + 2 * WORKERS


class Vitals:
    """Those of one deployment; times are monotonic seconds, which all processes of a host count alike."""

    __slots__ = ("_calls", "_seat", "_trials", "told")

    def __init__(self, memory: memoryview | None = None, seat: int = 0) -> None:
        memory = memoryview(bytearray(CELLS * _CELL)) if memory is None else memory
        trials_at, calls_at = _TOLD * _CELL, (_TOLD + WORKERS) * _CELL
        self.told = memory[:trials_at].cast("d")  # failures in a row, open and paused until when, the next cooldown
        self._trials = memory[trials_at:calls_at].cast("d")  # of each worker, until when its trial may take
        self._calls = memory[calls_at:].cast("q")  # of each worker, that are under way
        self._seat = seat

    @property
    def in_flight(self) -> int:
        """Calls that it answers, of all workers."""
        return sum(self._calls.tolist())

    def began(self) -> None:
        self._calls[self._seat] += 1

    def ended(self) -> None:
        self._calls[self._seat] -= 1

    def is_tried(self, now: float) -> bool:
        """Tell whether a worker sees by one call whether it works again."""
        return any(until > now for until in self._trials.tolist())

    def is_tried_here(self) -> bool:
        return self._trials[self._seat] > 0.0

    def try_until(self, until: float) -> None:
        """Say that this worker tries it, at most until then; 0 = no more."""
        self._trials[self._seat] = until

    def columns(self) -> set[int]:
        """Return the seats that anything is written for."""
        return {seat for seat in range(WORKERS) if self._calls[seat] or self._trials[seat]}

    def clear(self, seat: int) -> None:
        self._calls[seat] = 0
        self._trials[seat] = 0.0

    def close(self) -> None:
        for view in (self.told, self._trials, self._calls):
            view.release()
