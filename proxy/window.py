"""How many requests one deployment gets at once: the window follows its latency, like a gradient limiter.

    gradient = quick · tolerance / recent, at least ½
    window   = window · gradient below 1, else window + √window; a twentieth of that step with each answer

after Netflix's Gradient2, with a quick latency that falls at once and rises over half an hour in place of its long
average, which a lasting overload drags upwards. It grows only while it is in use: an idle window says nothing.
"""
from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

_RECENT = 0.2  # weight of the newest latency
_QUICKER = 0.2  # step of the quick latency towards a quicker answer
_FORGETS_S = 1800.0  # time in which it follows slower ones
_SMOOTH = 0.05
_FIRST = 8.0  # places of a window that has learned nothing
_BACK_OFF = 0.7  # of the window, once for each answer's time
_TOKENS = 16  # beside those of an answer: what a short one takes anyway


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a policy or the settings allow one worker."""

    least: int
    most: int
    tolerance: float
    queue: int  # requests that may wait for the model
    max_wait_s: float


class Window:
    """The places of one deployment; `take` and `release` come in pairs."""

    __slots__ = (
        "_backed_off_at", "_quick", "_recent", "_seen_at", "_usual_s", "bounds", "held_s", "limit", "quickest_s",
        "taken",
    )  # fmt: skip

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        # Narrow at first: what is learned under a crowd would pass for quick. It grows by the answer.
        self.limit = self._within(_FIRST)
        self.taken = 0
        self.held_s = 0.0  # moving average of how long a place is held; 0 = not seen yet
        self.quickest_s = [0.0, 0.0]  # the quick time to a head: of whole answers, of streams; 0 = not seen
        self._quick = [0.0, 0.0]  # the same in comparable units
        self._recent = [0.0, 0.0]
        self._usual_s = [0.0, 0.0]  # moving average of the time to a head
        self._seen_at = [0.0, 0.0]
        self._backed_off_at = float("-inf")

    def follow(self, bounds: Bounds) -> None:
        """Take other bounds; what was learned stays."""
        self.bounds = bounds
        self.limit = self._within(self.limit)

    @property
    def has_room(self) -> bool:
        return self.taken < int(self.limit)

    def take(self) -> None:
        self.taken += 1

    def untake(self) -> None:
        """Give back a place that was not used."""
        self.taken -= 1

    def release(self, held_s: float) -> None:
        """Give back a place that was held for so long."""
        self.taken -= 1
        self.held_s += (held_s - self.held_s) * (_RECENT if self.held_s else 1.0)

    def answered(self, now: float, latency_s: float, is_stream: bool, tokens: int) -> bool:
        """Learn from an answer whose head took `latency_s`; `tokens` are its output's. True = the window shrank.

        A whole answer's head comes when all of it is made, so its latency is compared by the token.
        """
        kind = int(is_stream)
        rise = min(1.0, (now - self._seen_at[kind]) / _FORGETS_S)
        self._seen_at[kind] = now
        self.quickest_s[kind] = _quick(self.quickest_s[kind], latency_s, rise)
        self._usual_s[kind] += (latency_s - self._usual_s[kind]) * (_RECENT if self._usual_s[kind] else 1.0)
        sample = latency_s if is_stream else latency_s / (tokens + _TOKENS)
        quick = self._quick[kind] = _quick(self._quick[kind], sample, rise)
        recent = self._recent[kind]
        recent = self._recent[kind] = recent + (sample - recent) * _RECENT if recent else sample
        gradient = max(0.5, min(1.0, quick * self.bounds.tolerance / recent)) if recent > 0 else 1.0
        if gradient >= 1.0 and 2 * self.taken < self.limit:
            return False
        before = self.limit
        aimed = before * gradient if gradient < 1.0 else before + sqrt(before)
        self.limit = self._within(before + (aimed - before) * _SMOOTH)
        return self.limit < before

    def expected_s(self, is_stream: bool) -> float:
        """Return the time to a head that most requests will take, seconds; 0 = not seen.

        Long answers make the average say little of a short one's, so no more than tolerable times the quick time.
        """
        return min(self._usual_s[is_stream], self.quickest_s[is_stream] * self.bounds.tolerance)

    def overloaded(self, now: float) -> bool:
        """Learn from a refusal (429, 503) or a failure; True = the window shrank."""
        if now - self._backed_off_at < max(0.05, *self.quickest_s):
            return False  # it speaks of the same crowd as the one before
        self._backed_off_at, before = now, self.limit
        self.limit = self._within(min(before, self.taken) * _BACK_OFF)
        return self.limit < before

    def _within(self, limit: float) -> float:
        return min(float(self.bounds.most), max(float(self.bounds.least), limit))


def _quick(known: float, sample: float, rise: float) -> float:
    """Move the quick latency by a sample: at once towards a quicker one, slowly towards a slower one."""
    return known + (sample - known) * (_QUICKER if sample < known else rise) if known > 0 else sample
