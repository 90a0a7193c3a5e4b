"""Whether a deployment may be asked now: a circuit breaker, and the pause that an upstream asks for.

    closed --enough failures in a row--> open for a cooldown --> one trial --succeeds--> closed
                                       ^---------- fails: twice the cooldown ---'
"""
from __future__ import annotations

from dataclasses import dataclass

COOLDOWN_S = 2.0  # the first one; it doubles with each trial that fails
MAX_COOLDOWN_S = 60.0
_WEIGHT = 0.2  # of the newest latency in the moving average


@dataclass(slots=True)
class Health:
    """What one worker has seen of one deployment lately; times are monotonic seconds."""

    limit: int  # failures in a row after which it is left alone; 0 = never
    in_flight: int = 0
    failures: int = 0  # in a row
    latency_s: float = 0.0  # moving average of the time to the answer's head; 0 = none seen yet
    error_rate: float = 0.0  # moving average of the share that failed
    _open_until: float = 0.0
    _paused_until: float = 0.0
    _cooldown_s: float = COOLDOWN_S
    _is_on_trial: bool = False

    def is_ready(self, now: float) -> bool:
        """Tell whether it may be asked now and has not asked for a pause."""
        return now >= self._open_until and now >= self._paused_until and not self._is_on_trial

    def wait_s(self, now: float) -> float:
        """Return for how long it is left alone because it fails; 0 = it may be asked now."""
        return max(self._open_until - now, 0.1 if self._is_on_trial else 0.0)

    def pause_s(self, now: float) -> float:
        """Return for how long it had asked not to be asked; others go first, but it may be asked nevertheless."""
        return max(self._paused_until - now, 0.0)

    def began(self) -> None:
        """A request is on its way to it."""
        self.in_flight += 1
        self._is_on_trial = self._has_failed_enough

    def ended(self) -> None:
        """That request is over, however it went; one that was given up says nothing of the deployment."""
        self.in_flight -= 1
        self._is_on_trial = False

    def succeeded(self, latency_s: float) -> None:
        """It answered, if only with the error that the client deserved."""
        self.failures, self._cooldown_s, self._is_on_trial = 0, COOLDOWN_S, False
        self.latency_s += (latency_s - self.latency_s) * (_WEIGHT if self.latency_s else 1.0)
        self.error_rate -= self.error_rate * _WEIGHT

    def failed(self, now: float) -> None:
        """It could not be reached, broke off, took too long or answered 5xx."""
        self.failures += 1
        self.error_rate += (1.0 - self.error_rate) * _WEIGHT
        self._is_on_trial = False
        if self._has_failed_enough:
            self._open_until = now + self._cooldown_s
            self._cooldown_s = min(2 * self._cooldown_s, MAX_COOLDOWN_S)

    @property
    def _has_failed_enough(self) -> bool:
        return 0 < self.limit <= self.failures

    def pause(self, now: float, seconds: float) -> None:
        """It asked not to be asked for so long (429 or 503 with Retry-After)."""
        self._paused_until = max(self._paused_until, now + min(seconds, MAX_COOLDOWN_S))
