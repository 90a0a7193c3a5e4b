"""How many requests one deployment gets at once: the window follows its latency, like a gradient limiter.

    gradient = quick · tolerance / recent, at least ½
    window   = window · gradient below 1, else window + √window; a twentieth of that step with each answer

after Netflix's Gradient2, with a quick latency that falls at once and rises over half an hour in place of its long
average, which a lasting overload drags upwards. It grows only while it is in use: an idle window says nothing. What is
learned and who holds places is one for all workers of a host; each goes by the bounds that it knows.
"""
from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from proxy.place_table import LEARNED, Places

_RECENT = 0.2  # weight of the newest latency
_QUICKER = 0.2  # step of the quick latency towards a quicker answer
_FORGETS_S = 1800.0  # time in which it follows slower ones
_SMOOTH = 0.05
_FIRST = 8.0  # places of a window that has learned nothing
_BACK_OFF = 0.7  # of the window, once for each answer's time
_TOKENS = 16  # beside those of an answer: what a short one takes anyway
# Where in `learned` each number lies; of two the first is of whole answers and the second of streams.
_LIMIT, _BACKED_OFF_AT, _HELD_S, _QUICKEST_S, _QUICK, _SMOOTHED, _USUAL_S, _SEEN_AT = 0, 1, 2, 3, 5, 7, 9, 11
assert LEARNED > _SEEN_AT + 1


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a policy or the settings allow, over all workers."""

    least: int
    most: int
    tolerance: float
    queue: int  # requests that may wait for the model
    max_wait_s: float


class Window:
    """The places of one deployment as this worker sees them."""

    __slots__ = ("_learned", "bounds", "places")

    def __init__(self, bounds: Bounds, places: Places) -> None:
        self.bounds = bounds
        self.places = places
        self._learned = places.learned

    @property
    def limit(self) -> float:
        """Return how many may run at once; what was learned outside of the bounds stays known."""
        # Narrow at first: what is learned under a crowd would pass for quick. It grows by the answer.
        return self._within(self._learned[_LIMIT] or _FIRST)

    @property
    def held_s(self) -> float:
        """Return the moving average of how long a place is held; 0 = not seen yet."""
        return self._learned[_HELD_S]

    def quickest_s(self, is_stream: bool) -> float:
        """Return the quick time to a head; 0 = not seen yet."""
        return self._learned[_QUICKEST_S + is_stream]

    def take(self) -> bool:
        """Take a place if one is free."""
        most = int(self.limit)
        with self.places.lock:
            if self.places.occupied >= most:
                return False
            self.places.take()
            return True

    def release(self, held_s: float) -> None:
        """Give back a place that was held for so long."""
        self.places.leave()
        _follow(self._learned, _HELD_S, held_s)

    def answered(self, now: float, latency_s: float, is_stream: bool, tokens: int) -> bool:
        """Learn from an answer whose head took `latency_s`; `tokens` are its output's. True = the window shrank.

        A whole answer's head comes when all of it is made, so its latency is compared by the token. There is no lock:
        of two workers that learn at the same moment one may learn in vain.
        """
        learned, kind = self._learned, int(is_stream)
        sample = latency_s if is_stream else latency_s / (tokens + _TOKENS)
        rise = max(0.0, min(1.0, (now - learned[_SEEN_AT + kind]) / _FORGETS_S))  # another worker's may be newer
        learned[_SEEN_AT + kind] = now
        learned[_QUICKEST_S + kind] = _quick(learned[_QUICKEST_S + kind], latency_s, rise)
        _follow(learned, _USUAL_S + kind, latency_s)
        quick = learned[_QUICK + kind] = _quick(learned[_QUICK + kind], sample, rise)
        recent = _follow(learned, _SMOOTHED + kind, sample)
        gradient = max(0.5, min(1.0, quick * self.bounds.tolerance / recent)) if recent > 0 else 1.0
        before = self.limit
        if gradient >= 1.0 and 2 * self.places.occupied < before:
            return False
        aimed = before * gradient if gradient < 1.0 else before + sqrt(before)
        return self._set(before, before + (aimed - before) * _SMOOTH)

    def expected_s(self, is_stream: bool) -> float:
        """Return the time to a head that most requests will take, seconds; 0 = not seen.

        Long answers make the average say little of a short one's, so no more than tolerable times the quick time.
        """
        return min(self._learned[_USUAL_S + is_stream], self.quickest_s(is_stream) * self.bounds.tolerance)

    def overloaded(self, now: float) -> bool:
        """Learn from a refusal (429, 503) or a failure; True = the window shrank."""
        with self.places.lock:
            backed_off_at = self._learned[_BACKED_OFF_AT]
            if backed_off_at and now - backed_off_at < max(0.05, self.quickest_s(False), self.quickest_s(True)):
                return False  # it speaks of the same crowd as the one before
            self._learned[_BACKED_OFF_AT], before = now, self.limit
            return self._set(before, min(before, self.places.occupied) * _BACK_OFF)

    def _set(self, before: float, limit: float) -> bool:
        after = self._learned[_LIMIT] = self._within(limit)
        return after < before

    def _within(self, limit: float) -> float:
        bounds = self.bounds
        return float(bounds.least) if limit < bounds.least else float(bounds.most) if limit > bounds.most else limit


def _follow(learned: memoryview[float], at: int, sample: float) -> float:
    """Move an average by a sample; return it."""
    before = learned[at]
    after = learned[at] = before + (sample - before) * (_RECENT if before else 1.0)
    return after


def _quick(known: float, sample: float, rise: float) -> float:
    """Move the quick latency by a sample: at once towards a quicker one, slowly towards a slower one."""
    return known + (sample - known) * (_QUICKER if sample < known else rise) if known > 0 else sample
