"""From which score on an answer may be served: learned from outcomes, with an upper bound of the error and no fitting.

An outcome is one request that went upstream although the cache had a candidate: its score, and whether the candidate
was wrong. Those outcomes come from requests that were not served and from the verified share of those that would have
been, so scores that are not served yet weigh more than they should; the bound errs towards serving less.
"""
from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from functools import lru_cache

import numpy

WINDOW = 4096  # outcomes that the threshold is learned from, the latest
RELEARN = 32  # outcomes between two looks
# Outcomes that the experience with all entries is worth against an entry's own. As that experience lies just under
# `delta`, one wrong outcome of its own stops an entry until about 1 / delta right ones stand beside it.
OWN_WEIGHT = 50.0
NEVER = math.inf  # the threshold that nothing reaches


@lru_cache(maxsize=1024)
def poisson_upper(seen: int, confidence: float) -> float:
    """Return the upper confidence limit of an expected count of which `seen` were seen.

    The exact (Garwood) limit, by bisection; over a number of trials it bounds a binomial share from above.
    """
    low, high = float(seen), seen + 10.0 + 10.0 * math.sqrt(seen + 1.0)
    for _ in range(60):
        middle = (low + high) / 2
        if _poisson_cdf(seen, middle) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def _poisson_cdf(seen: int, mean: float) -> float:
    log_term, total = -mean, math.exp(-mean)
    for i in range(1, seen + 1):
        log_term += math.log(mean / i)
        total += math.exp(log_term)
    return total


class Threshold:
    """The lowest score at and above which the error of all entries together is under `delta`, at `confidence`."""

    def __init__(self, delta: float, confidence: float) -> None:
        self.delta = delta
        self.confidence = confidence
        self.score = NEVER  # serve from here on
        self.upper = 1.0  # the bound of the error share there
        self._outcomes: deque[tuple[float, bool]] = deque(maxlen=WINDOW)  # score, is wrong
        self._since = 0

    @property
    def outcomes(self) -> int:
        """How many outcomes the threshold rests on."""
        return len(self._outcomes)

    @property
    def remembered(self) -> Iterable[tuple[float, bool]]:
        """The outcomes, the oldest first: score, and whether it was wrong."""
        return self._outcomes

    def recall(self, outcomes: Iterable[tuple[float, bool]]) -> None:
        """Take outcomes of an earlier time."""
        self._outcomes.extend(outcomes)
        self._learn()

    def demand(self, delta: float, confidence: float) -> None:
        """Learn anew from the same outcomes where a policy has changed what it asks for."""
        if (delta, confidence) != (self.delta, self.confidence):
            self.delta, self.confidence = delta, confidence
            self._learn()

    def add(self, score: float, is_wrong: bool) -> None:
        """Take an outcome; the threshold moves every few of them, and at once where a served score was wrong."""
        self._outcomes.append((score, is_wrong))
        self._since += 1
        if self._since >= RELEARN or (is_wrong and score >= self.score):
            self._since = 0
            self._learn()

    def _learn(self) -> None:
        if not self._outcomes:
            return
        scores, wrong = (numpy.array(column, dtype=float) for column in zip(*self._outcomes, strict=True))
        order = numpy.argsort(-scores, kind="stable")
        scores, wrongs = scores[order], numpy.cumsum(wrong[order])
        limits = numpy.array([poisson_upper(k, self.confidence) for k in range(int(wrongs[-1]) + 1)])
        uppers = limits[wrongs.astype(int)] / numpy.arange(1, len(scores) + 1)
        is_last = numpy.append(scores[1:] != scores[:-1], True)  # of its equals: a threshold takes all of them or none
        held = numpy.flatnonzero((uppers <= self.delta) & is_last)
        self.score, self.upper = (float(scores[held[-1]]), float(uppers[held[-1]])) if len(held) else (NEVER, 1.0)


def entry_upper(outcomes: Iterable[tuple[float, bool]], threshold: Threshold) -> float:
    """Return the bound of one entry's error: the bound of all, moved by what was seen of this one.

    Args:
        outcomes: the entry's own, (score, is wrong); those under the threshold's score do not count.
        threshold: what all entries together have taught.
    """
    wrong = [is_wrong for score, is_wrong in outcomes if score >= threshold.score]
    return (sum(wrong) + OWN_WEIGHT * threshold.upper) / (len(wrong) + OWN_WEIGHT)
