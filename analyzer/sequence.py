"""Confidence sequences: intervals for a mean that hold at every look at once, so that one may look at any time.

The asymptotic sequence of Waudby-Smith et al. (2021), tuned to be tightest at `TUNED` observations. A z-test that is
looked at 40 times finds a difference in about 3 of 10 comparisons of nothing with nothing; this in fewer than 1 of 20.
"""
from __future__ import annotations

import math

ALPHA = 0.05
BURN_IN = 200  # observations before the first look; the sequence is asymptotic
TUNED = 1000


def radius(observations: int, variance: float, alpha: float = ALPHA) -> float:
    """Return the half width of the interval for the mean of so many observations."""
    if observations < 2 or variance <= 0:
        return math.inf if observations < 2 else 0.0
    rho = (-2 * math.log(alpha) + math.log(-2 * math.log(alpha) + 1)) / (TUNED * variance)
    spread = observations * variance * rho + 1
    return math.sqrt(2 * spread / (observations**2 * rho) * math.log(math.sqrt(spread) / alpha))
