"""Which deployment a call asks next, and when: fallbacks first, then the same ones again after a wait with jitter.

Only what an upstream has certainly not begun, or has answered with an error that it does not charge, is tried again, so
the call's one hold covers all of its attempts. [a retry after a reset may bill twice]
"""
from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from time import monotonic

from farthing.errors import UpstreamError
from proxy.api_error import ApiError
from proxy.dispatch import Target
from proxy.upstream import Response

log = logging.getLogger(__name__)

RETRIED = frozenset((408, 429, 500, 502, 503, 504, 529))  # answers that a second attempt may better; none is charged
REFUSED = frozenset((401, 403))  # of this proxy's key and not of the request; other deployments have other keys
OVERLOADED = frozenset((429, 503, 529))  # answers of a deployment that has too much to do
_FIRST_WAIT_S = 0.1
_MAX_WAIT_S = 2.0  # a longer one is the client's to wait: it is told


class Attempts:
    """The attempts of one call."""

    def __init__(
        self, targets: Sequence[Target], most: int, clock: Callable[[], float] = monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:  # fmt: skip
        self._targets = targets
        self._most = most
        self._clock = clock
        self._chance = chance
        self._tried: set[Target] = set()
        self.made = 0
        self.failure: UpstreamError | None = None

    def first(self) -> Target:
        """Return whom to ask first.

        Raises:
            ApiError: 503; every deployment is to be left alone for now.
        """
        found = self._ready() or self._ready(or_paused=True)
        if found is None:
            wait = min(target.health.wait_s(self._clock()) for target in self._targets)
            message = "every deployment of this model failed lately and is left alone for a moment; try again"
            raise ApiError(503, "upstream_unavailable", message, retry_after_s=max(1, round(wait)))
        return found

    def like(self, target: Target) -> list[Target]:
        """Return the deployments of the same model that may be asked as well as `target` may, it first."""
        now, model = self._clock(), target.deployment.model
        others = [
            other for other in self._targets
            if other is not target and other.deployment.model == model and other not in self._tried
            and not other.health.wait_s(now) and not other.health.pause_s(now)
        ]  # fmt: skip
        return [target, *others]

    def elsewhere(self, full: Target) -> Target | None:
        """Return a deployment of another model, where the one of `full` has no place; None = there is none."""
        self._tried.update([target for target in self._targets if target.deployment.model == full.deployment.model])
        return self._ready()

    def begin(self, target: Target) -> None:
        self._tried.add(target)
        self.made += 1

    def after(self, wait_asked_s: float = 0.0) -> tuple[float, Target] | None:
        """Return (seconds to wait, whom to ask then) after an attempt that may be repeated; None = enough."""
        if self.made >= self._most:
            return None
        other = self._ready()
        if other is not None:
            return 0.0, other
        now = self._clock()
        target = min(self._targets, key=lambda one: one.health.wait_s(now))
        jittered = _FIRST_WAIT_S * 2 ** (self.made - 1) * (0.5 + self._chance())
        wait = max(target.health.wait_s(now), target.health.pause_s(now), wait_asked_s, jittered)
        return (wait, target) if wait <= _MAX_WAIT_S else None

    def past_refusal(self, refusing: Target) -> tuple[float, Target] | None:
        """Return whom to ask at once after one that refused this proxy's key; None = there is nobody."""
        other = self._ready() if self.made < self._most else None
        if other is None:
            return None
        refusing.health.failed(self._clock())
        log.warning("%s refused this proxy's key; set the api_key_env of its deployment", refusing.name)
        return 0.0, other

    def note(self, target: Target, response: Response) -> float:
        """Keep in mind what an answer says of its deployment; return the wait that it asks for, seconds."""
        now, status = self._clock(), response.status
        told, told_ms = response.headers.get(b"retry-after"), response.headers.get(b"retry-after-ms")  # OpenAI's
        wait = _seconds(told_ms) / 1000 if told_ms else _seconds(told) if told else 0.0
        if status in OVERLOADED and wait:
            target.health.pause(now, wait)
        if status >= 500:
            target.health.failed(now)
        return wait

    def _ready(self, or_paused: bool = False) -> Target | None:
        """Return the first that was not tried yet and may be asked; they come in order of preference."""
        now = self._clock()
        for target in self._targets:
            health = target.health
            if target not in self._tried and not health.wait_s(now) and (or_paused or not health.pause_s(now)):
                return target
        return None


def _seconds(text: bytes) -> float:
    """Return what Retry-After asks for; a date, which no inference provider sends, is none."""
    try:
        return max(0.0, float(text))
    except ValueError:
        return 0.0
