"""How many requests one deployment gets at once: the window follows its latency, like a gradient limiter.

    window = window · clamp(quick · tolerance / recent, ½, 1) + √window, smoothed; at most a third less on an overload

after Netflix's Gradient2, with a slowly rising low quantile as the quick latency in place of its long average, which
drifts upwards with a lasting overload. It grows only while it is in use: an idle window says nothing.
"""
from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

_RECENT = 0.2  # weight of the newest latency
_QUICKER, _SLOWER = 0.2, 0.004  # steps of the low quantile: towards a quicker answer, towards a slower one (p ~ 2 %)
_SMOOTH = 0.2
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

    __slots__ = ("_backed_off_at", "_quick", "_recent", "bounds", "held_s", "limit", "quickest_s", "taken")

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.limit = float(bounds.most)  # optimistic: a window that is too wide shows in the first answers
        self.taken = 0
        self.held_s = 0.0  # moving average of how long a place is held; 0 = not seen yet
        self.quickest_s = [0.0, 0.0]  # a low quantile of the time to a head: of whole answers, of streams; 0 = not seen
        self._quick = [0.0, 0.0]  # the same in comparable units
        self._recent = [0.0, 0.0]
        self._backed_off_at = float("-inf")

    def follow(self, bounds: Bounds) -> None:
        """Take other bounds; what was learned stays."""
        grew = bounds.most > self.bounds.most and self.limit >= self.bounds.most
        self.bounds = bounds
        self.limit = float(bounds.most) if grew else self._within(self.limit)

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

    def answered(self, latency_s: float, is_stream: bool, tokens: int) -> bool:
        """Learn from an answer whose head took `latency_s`; `tokens` are its output's. True = the window shrank.

        A whole answer's head comes when all of it is made, so its latency is compared by the token.
        """
        kind = int(is_stream)
        self.quickest_s[kind] = _quantile(self.quickest_s[kind], latency_s)
        sample = latency_s if is_stream else latency_s / (tokens + _TOKENS)
        quick = self._quick[kind] = _quantile(self._quick[kind], sample)
        recent = self._recent[kind]
        recent = self._recent[kind] = recent + (sample - recent) * _RECENT if recent else sample
        gradient = max(0.5, min(1.0, quick * self.bounds.tolerance / recent)) if recent > 0 else 1.0
        if gradient >= 1.0 and 2 * self.taken < self.limit:
            return False
        before = self.limit
        aimed = before * gradient + sqrt(before)
        self.limit = self._within(before + (aimed - before) * _SMOOTH)
        return self.limit < before

    def overloaded(self, now: float) -> bool:
        """Learn from a refusal (429, 503) or a failure; True = the window shrank."""
        if now - self._backed_off_at < max(0.05, *self.quickest_s):
            return False  # it speaks of the same crowd as the one before
        self._backed_off_at, before = now, self.limit
        self.limit = self._within(min(before, self.taken) * _BACK_OFF)
        return self.limit < before

    def _within(self, limit: float) -> float:
        return min(float(self.bounds.most), max(float(self.bounds.least), limit))


def _quantile(known: float, sample: float) -> float:
    """Move a low quantile by a sample: quickly towards a lower one, slowly towards a higher one."""
    if known <= 0:
        return sample
    if sample < known:
        return known + (sample - known) * _QUICKER
    return known + (min(sample, 4 * known) - known) * _SLOWER
