"""Rules of other semantic caches, to stand beside ours: a plain threshold, and a per-entry logistic bound after vCache.

The latter is written after the paper and is not its authors' code; its promise is about the error of all requests, so
its share of wrong answers among those served may lie far over `delta`.

Both answer with the nearest earlier question's answer; what they do not serve is asked upstream and learned from.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy

Z = ((0.5, 0.0), (0.3, 0.524), (0.2, 0.842), (0.1, 1.282), (0.05, 1.645), (0.02, 2.054), (0.01, 2.326), (0.001, 3.09))
FEWEST = 6  # outcomes of an entry before the logistic rule serves it; a fit to fewer says nothing
STEPS = 25  # of Newton's method
BLOCK = 256  # questions that are compared with all before them in one product
RIDGE = 1e-2  # keeps a fit finite where right and wrong do not overlap


@dataclass(frozen=True)
class Served:
    """What a rule served of a stream."""

    hits: list[bool]  # by position
    wrong: int

    @property
    def count(self) -> int:
        return sum(self.hits)

    @property
    def share(self) -> float:
        return self.count / len(self.hits)

    @property
    def late_share(self) -> float:
        """Share of hits in the second half of the stream."""
        half = len(self.hits) // 2
        return sum(self.hits[half:]) / (len(self.hits) - half)

    @property
    def wrong_share(self) -> float:
        return self.wrong / self.count if self.count else 0.0


def plain_thresholds(
    vectors: numpy.ndarray, answers: Sequence[str], thresholds: Iterable[float]
) -> dict[float, Served]:
    """Serve the nearest question's answer from each threshold on; what is served is not stored."""
    rules = {threshold: _Plain(len(answers), threshold) for threshold in thresholds}
    for first in range(0, len(answers), BLOCK):
        last = first + BLOCK
        for i, near in enumerate(vectors[first:last] @ vectors[:last].T, start=first):
            for rule in rules.values():
                rule.ask(near[:i], i, answers)
    return {threshold: Served(rule.hits, rule.wrong) for threshold, rule in rules.items()}


class _Plain:
    """A plain threshold as it goes through the stream."""

    def __init__(self, rows: int, threshold: float) -> None:
        self._threshold = threshold
        self._kept = numpy.zeros(rows, bool)
        self.hits: list[bool] = []
        self.wrong = 0

    def ask(self, near: numpy.ndarray, row: int, answers: Sequence[str]) -> None:
        """Answer question `row`; `near` has its similarity to each one before it."""
        stored = numpy.where(self._kept[:row], near, -1.0)
        best = int(stored.argmax()) if row else -1
        is_hit = best >= 0 and float(stored[best]) >= self._threshold
        self.hits.append(is_hit)
        self.wrong += is_hit and answers[best] != answers[row]
        self._kept[row] = not is_hit


@dataclass
class Entry:
    """One stored question of vCache, and the outcomes of its being the nearest."""

    answer: str
    similarities: list[float] = field(default_factory=list)
    rights: list[float] = field(default_factory=list)
    fit: tuple[float, float, float] | None = None  # slope, middle, deviation of the middle


def vcache(vectors: numpy.ndarray, answers: list[str], delta: float, random: Callable[[], float]) -> Served:
    """Serve by vCache's rule (arXiv 2502.03771): go upstream often enough that the error of all requests is `delta`."""
    kept = numpy.zeros_like(vectors)
    entries: list[Entry] = []
    hits: list[bool] = []
    wrong = 0
    for vector, answer in zip(vectors, answers, strict=True):
        near = kept[: len(entries)] @ vector
        entry = entries[int(near.argmax())] if entries else None
        similarity = float(near.max()) if entries else 0.0
        is_hit = entry is not None and random() > explore_share(entry, similarity, delta)
        hits.append(is_hit)
        if is_hit and entry:
            wrong += entry.answer != answer
            continue
        if entry:
            entry.similarities.append(similarity)
            entry.rights.append(float(entry.answer == answer))
            entry.fit = None
        if entry is None or entry.answer != answer:
            kept[len(entries)] = vector
            entries.append(Entry(answer))
    return Served(hits, wrong)


def explore_share(entry: Entry, similarity: float, delta: float) -> float:
    """Return the probability with which a request is sent upstream, the smallest over the confidences in `Z`."""
    if len(entry.rights) < FEWEST:
        return 1.0
    slope, middle, deviation = entry.fit = entry.fit or fit(entry.similarities, entry.rights)
    shares: list[float] = []
    for doubt, z in Z:
        right = (1 - doubt) * _sigmoid(slope * (similarity - middle - z * deviation))
        shares.append((1 - delta - right) / (1 - right) if right < 1 else 0.0)
    return max(0.0, min(shares))


def fit(similarities: list[float], rights: list[float]) -> tuple[float, float, float]:
    """Fit P(right) = sigmoid(slope * (similarity - middle)); return both and the standard error of the middle."""
    x, y = numpy.array(similarities), numpy.array(rights)
    terms = numpy.stack([x, numpy.ones_like(x)], axis=1)
    factors = numpy.zeros(2)
    penalty = RIDGE * numpy.eye(2)
    information = penalty
    for _ in range(STEPS):
        chance = 1 / (1 + numpy.exp(-numpy.clip(terms @ factors, -30, 30)))
        information = terms.T @ (terms * (chance * (1 - chance))[:, None]) + penalty
        factors = factors + numpy.linalg.solve(information, terms.T @ (y - chance) - penalty @ factors)
    slope, shift = max(float(factors[0]), 1e-3), float(factors[1])
    gradient = numpy.array([shift / slope**2, -1 / slope])  # of the middle, -shift / slope
    variance = float(gradient @ numpy.linalg.inv(information) @ gradient)
    return slope, -shift / slope, math.sqrt(max(0.0, variance))


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-max(-30.0, min(30.0, value))))
