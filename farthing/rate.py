"""How often one caller may ask: a bucket each that fills steadily; who finds it empty is told to come back."""
from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from farthing.errors import AccessError

BURST_S = 4.0  # seconds' worth that may be asked at once
MAX_CALLERS = 10_000  # remembered; the one not seen for longest goes first


class Rates:
    """The buckets of all callers of one part; safe from any thread."""

    def __init__(self, per_s: float, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s  # 0 = no bound
        self._clock_s = clock_s
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # caller -> what is left, as of when
        self._lock = threading.Lock()

    def spend(self, caller: str, weight: float = 1.0) -> None:
        """Take one request out of a caller's bucket.

        Raises:
            AccessError: 429, the bucket is empty.
        """
        if not self._per_s:
            return
        now, most = self._clock_s(), self._per_s * BURST_S
        with self._lock:
            left, as_of = self._buckets.pop(caller, (most, now))
            left = min(most, left + (now - as_of) * self._per_s)
            is_enough = left >= weight
            self._buckets[caller] = (left - weight if is_enough else left, now)
            if len(self._buckets) > MAX_CALLERS:
                self._buckets.popitem(last=False)
        if not is_enough:
            raise AccessError(429, "too_many_requests", f"more than {self._per_s:g} requests a second; ask more slowly")
