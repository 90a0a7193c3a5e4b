"""Whether a deployment may be asked now: a circuit breaker, and the pause that an upstream asks for.

    closed --enough failures in a row--> open for a cooldown --> one trial --succeeds--> closed
                                       ^---------- fails: twice the cooldown ---'

Both are one for all workers of a host that share its vitals: what one has found dead the others leave alone, and one of
them tries it. Of several that look at the very same moment each may.
"""
from __future__ import annotations

from dataclasses import dataclass, field

from proxy.vitals import FAILURES, NEXT_COOLDOWN_S, OPEN_UNTIL, PAUSED_UNTIL, Vitals

COOLDOWN_S = 2.0  # the first one; it doubles with each trial that fails
MAX_COOLDOWN_S = 60.0
_TRIAL_S = MAX_COOLDOWN_S  # after which a worker's trial keeps no other from one of its own
_WEIGHT = 0.2  # of the newest latency in the moving average


@dataclass(slots=True)
class Health:
    """What has been seen of one deployment lately; times are monotonic seconds."""

    limit: int  # failures in a row after which it is left alone; 0 = never
    vitals: Vitals = field(default_factory=Vitals)  # as all workers see it; the rest is this one's own
    in_flight: int = 0
    latency_s: float = 0.0  # moving average of the time to the answer's head; 0 = none seen yet
    error_rate: float = 0.0  # moving average of the share that failed

    @property
    def failures(self) -> int:
        """Failures in a row."""
        return int(self.vitals.told[FAILURES])

    def wait_s(self, now: float) -> float:
        """Return for how long it is left alone because it fails; 0 = it may be asked now."""
        left_s = self.vitals.told[OPEN_UNTIL] - now
        if left_s > 0.0:
            return left_s
        return 0.1 if self._has_failed_enough and self.vitals.is_tried(now) else 0.0

    def pause_s(self, now: float) -> float:
        """Return for how long it had asked not to be asked; others go first, but it may be asked nevertheless."""
        return max(self.vitals.told[PAUSED_UNTIL] - now, 0.0)

    def began(self, now: float) -> None:
        """A request is on its way to it."""
        self.in_flight += 1
        self.vitals.began()
        if self._has_failed_enough:
            self.vitals.try_until(now + _TRIAL_S)

    def ended(self) -> None:
        """That request is over, however it went; one that was given up says nothing of the deployment."""
        self.in_flight -= 1
        self.vitals.ended()
        self.vitals.try_until(0.0)

    def succeeded(self, latency_s: float) -> None:
        """It answered, if only with the error that the client deserved."""
        if self.vitals.told[FAILURES]:
            self.vitals.told[FAILURES] = self.vitals.told[NEXT_COOLDOWN_S] = 0.0
        self.latency_s += (latency_s - self.latency_s) * (_WEIGHT if self.latency_s else 1.0)
        self.error_rate -= self.error_rate * _WEIGHT

    def failed(self, now: float) -> None:
        """It could not be reached, broke off, took too long or answered 5xx."""
        told = self.vitals.told
        told[FAILURES] += 1.0
        self.error_rate += (1.0 - self.error_rate) * _WEIGHT
        # Calls that had begun before it was found dead say nothing new, of however many workers they are.
        if self._has_failed_enough and (self.vitals.is_tried_here() or told[OPEN_UNTIL] <= now):
            cooldown_s = told[NEXT_COOLDOWN_S] or COOLDOWN_S
            told[OPEN_UNTIL] = now + cooldown_s
            told[NEXT_COOLDOWN_S] = min(2 * cooldown_s, MAX_COOLDOWN_S)
        self.vitals.try_until(0.0)

    @property
    def _has_failed_enough(self) -> bool:
        return 0 < self.limit <= self.vitals.told[FAILURES]

    def pause(self, now: float, seconds: float) -> None:
        """It asked not to be asked for so long (429 or 503 with Retry-After)."""
        told = self.vitals.told
        told[PAUSED_UNTIL] = max(told[PAUSED_UNTIL], now + min(seconds, MAX_COOLDOWN_S))
