"""What routing and overload control have done in this worker, for its status and its metrics."""
from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """Counts since the start."""

    routed: int = 0  # requests that a strategy chose for
    queued: int = 0  # requests that waited for a place
    queue_full: int = 0  # refused, 503: nobody less important waited
    pushed_out: int = 0  # refused, 429: a more important one took the place in the queue
    waited_out: int = 0  # refused, 503: no place came free in time
    hopeless: int = 0  # refused, 504: what is left of the deadline is too short for any answer
    shrunk: int = 0  # times that a window was made smaller
    hedged: int = 0  # requests that a second deployment was asked for too
    hedges_won: int = 0  # of those, where the second one's answer was used
    escalated: int = 0  # answers that were too weak, so that the next model was asked
    kept_weak: int = 0  # weak answers that were given, since no budget or deployment was left for a better one
    warmed: int = 0  # connections opened before anyone asked
