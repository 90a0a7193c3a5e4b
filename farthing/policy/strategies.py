"""Which candidate serves a request: one small pure function a strategy, over figures that the caller measured.

Nothing here keeps state or draws a number: a `draw` in [0, 1) comes in, so that a replay with the same draws chooses
the same. Every function takes at least one candidate; ties go to the one that comes first.
"""
from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import accumulate
from math import log

__all__ = [
    "Candidate", "Need", "Pick", "Tier", "Weighting", "by_score", "cheapest", "explored", "fallback", "fixed",
    "least_in_flight", "lower_latency", "prefix_affinity", "requirement", "sticky", "tier", "weighted",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Candidate:
    """One deployment, as it stands now."""

    name: str
    weight: float = 1.0
    in_flight: int = 0
    capacity: int = 0  # requests at once, 0 = no limit
    latency_ms: float = 0.0  # moving average (EWMA) of recent calls, 0 = none seen
    error_rate: float = 0.0  # share of recent calls
    cost_nusd: int = 0  # what this request is expected to cost there
    quality: float = 1.0  # expected, 0 to 1
    region: str = ""

    @property
    def is_full(self) -> bool:
        return 0 < self.capacity <= self.in_flight


@dataclass(frozen=True, slots=True)
class Pick:
    """The chosen one, and whether it breaks what was asked for."""

    candidate: Candidate
    violates: tuple[str, ...] = ()  # needs that no candidate could meet together


def fixed(candidates: Sequence[Candidate], name: str) -> Candidate | None:
    """Return the candidate of that name, None where it is not there."""
    return next((candidate for candidate in candidates if candidate.name == name), None)


def weighted(candidates: Sequence[Candidate], draw: float) -> Candidate:
    """Return one at random, each as often as its weight; all alike where no weight is above 0."""
    bounds = list(accumulate([max(0.0, candidate.weight) for candidate in candidates]))
    if bounds[-1] <= 0:
        return candidates[int(draw * len(candidates))]
    return candidates[min(bisect_right(bounds, draw * bounds[-1]), len(candidates) - 1)]


def least_in_flight(candidates: Sequence[Candidate]) -> Candidate:
    """Return the one with the fewest requests per weight (least connections, as in nginx and HAProxy)."""
    return min(candidates, key=lambda c: (c.is_full, c.in_flight / c.weight if c.weight > 0 else float("inf")))


def lower_latency(candidates: Sequence[Candidate], first: float, second: float) -> Candidate:
    """Return the better of two drawn ones, by latency times those waiting there.

    Two choices do nearly as well as looking at all and do not herd (Mitzenmacher, IEEE TPDS 2001); latency times
    in flight plus one is the peak-EWMA cost of Finagle. One without a measured latency is tried first.
    """
    count = len(candidates)
    if count == 1:
        return candidates[0]
    here = int(first * count)
    there = (here + 1 + int(second * (count - 1))) % count
    return min(candidates[here], candidates[there], key=lambda c: (c.is_full, _expected_ms(c)))


def _expected_ms(candidate: Candidate) -> float:
    """Return the wait to expect; a failed call has to be made again."""
    return candidate.latency_ms * (candidate.in_flight + 1) / max(0.01, 1.0 - candidate.error_rate)


def cheapest(candidates: Sequence[Candidate]) -> Candidate:
    """Return the one that costs least for this request, failed calls counted; the quicker one of equals."""
    return min(candidates, key=lambda c: (c.is_full, c.cost_nusd / max(0.01, 1 - c.error_rate), c.latency_ms))


@dataclass(frozen=True, slots=True)
class Weighting:
    """How much each of three things counts in `by_score`; only their ratio matters."""

    load: float = 1.0
    performance: float = 1.0
    cost: float = 1.0


def by_score(candidates: Sequence[Candidate], weighting: Weighting) -> Candidate:
    """Return the one with the least weighted sum of load, expected wait and cost, each relative to the worst one's."""
    loads = [c.in_flight / (c.capacity or 100) for c in candidates]
    waits = [_expected_ms(c) for c in candidates]
    costs = [float(c.cost_nusd) for c in candidates]
    parts = ((weighting.load, loads), (weighting.performance, waits), (weighting.cost, costs))
    scaled = [(weight / top, values) for weight, values in parts if (top := max(values)) > 0]
    return min(
        zip(candidates, range(len(candidates)), strict=True),
        key=lambda pair: (pair[0].is_full, sum([each * values[pair[1]] for each, values in scaled])),
    )[0]


@dataclass(frozen=True, slots=True)
class Need:
    """What a request requires; None = anything."""

    max_latency_ms: float | None = None
    max_cost_nusd: int | None = None
    min_quality: float | None = None
    region: str = ""  # where it must be served; never given up

    def broken_by(self, candidate: Candidate) -> tuple[str, ...]:
        """Return the needs that a candidate does not meet."""
        return tuple([name for name, excess in self._excess(candidate) if excess > 0])

    def excess(self, candidate: Candidate) -> float:
        """Return by how much a candidate misses the needs, as a sum of shares of each."""
        return sum([max(0.0, excess) for _, excess in self._excess(candidate)])

    def _excess(self, c: Candidate) -> list[tuple[str, float]]:
        needs: list[tuple[str, float]] = []
        if self.max_latency_ms is not None:
            needs.append(("max_latency_ms", (c.latency_ms - self.max_latency_ms) / max(1.0, self.max_latency_ms)))
        if self.max_cost_nusd is not None:
            needs.append(("max_cost_nusd", (c.cost_nusd - self.max_cost_nusd) / max(1, self.max_cost_nusd)))
        if self.min_quality is not None:
            needs.append(("min_quality", (self.min_quality - c.quality) / max(0.01, self.min_quality)))
        return needs


def requirement(candidates: Sequence[Candidate], need: Need) -> Pick | None:
    """Return the best feasible candidate, else the one that misses least, with what it misses; None in a wrong region.

    Best is the highest quality, then the lowest cost, then the quickest.
    """
    allowed = [c for c in candidates if not need.region or c.region == need.region]
    feasible = [c for c in allowed if not need.broken_by(c)]
    if feasible:
        return Pick(min(feasible, key=lambda c: (c.is_full, -c.quality, c.cost_nusd, c.latency_ms)))
    if not allowed:
        return None
    least = min(allowed, key=lambda c: (need.excess(c), -c.quality, c.cost_nusd))
    return Pick(least, need.broken_by(least))


@dataclass(frozen=True, slots=True)
class Tier:
    """A model for some tasks up to some scores; the first tier that fits serves."""

    model: str
    tasks: frozenset[str] = frozenset()  # empty: all
    max_scores: Mapping[str, float] | None = None  # complexity, creativity, reasoning, factual, tokens
    max_gain: float | None = None  # of the strong model; above it, a better tier is worth its price


def tier(tiers: Sequence[Tier], task: str, scores: Mapping[str, float], gain: float | None = None) -> str:
    """Return the model of the first tier that fits a prompt, the last one where none does.

    A score that is not known does not fit a tier that limits it: ignorance must not save money at the user's cost.
    """
    for each in tiers[:-1]:
        if each.tasks and task not in each.tasks:
            continue
        if any(scores.get(name, float("inf")) > most for name, most in (each.max_scores or {}).items()):
            continue
        if each.max_gain is None or (gain is not None and gain <= each.max_gain):
            return each.model
    return tiers[-1].model


def explored(is_strong: bool, explore: float, draw: float) -> tuple[bool, float | None]:
    """Return whether the strong model serves, and the chance with which the one that does was drawn.

    A share `explore` of the calls goes to either model by a coin, because only calls whose model was drawn teach what
    the other one would have done. Without any the chance is None: nothing was drawn.
    """
    if explore <= 0:
        return is_strong, None
    stays = 1 - explore / 2
    return (is_strong, stays) if draw < stays else (not is_strong, explore / 2)


def sticky(candidates: Sequence[Candidate], key: bytes) -> Candidate:
    """Return the one that owns a key: the highest of each one's hash with it (rendezvous, Thaler & Ravishankar 1998).

    Weighted as -weight / ln(hash) (Schindelhauer & Schomaker 2005). When one goes only its own keys move, and they
    spread over all the others.
    """
    return max(candidates, key=_affinity(key))


def prefix_affinity(candidates: Sequence[Candidate], prefix: bytes, bound: float = 1.25) -> Candidate:
    """Return the owner of a prompt's prefix, or the next in its order while that one is loaded too much.

    Too much is more than `bound` times the mean in flight, this request included (consistent hashing with bounded
    loads, Mirrokni, Thorup & Zadimoghaddam 2018): the cache is warm there, and no popular prefix drowns one replica.
    """
    most = bound * (sum([c.in_flight for c in candidates]) + 1) / len(candidates)
    free = [c for c in candidates if not c.is_full and c.in_flight + 1 <= max(1.0, most)]
    return max(free, key=_affinity(prefix)) if free else least_in_flight(candidates)


def _affinity(key: bytes) -> Callable[[Candidate], float]:
    def of(candidate: Candidate) -> float:
        if candidate.weight <= 0:
            return -1.0
        digest = blake2b(key, digest_size=8, key=candidate.name.encode()[:64]).digest()
        return -candidate.weight / log((int.from_bytes(digest, "little") + 0.5) / 2**64)

    return of


def fallback(models: Sequence[str], starts: Sequence[float], used: float) -> str:
    """Return the model for a budget of which the share `used` is gone: each start reached moves one model down.

    `models` are the dearest first, `starts` the shares, ascending, one fewer than the models. An unknown share
    (NaN) takes the cheapest.
    """
    if used != used:
        return models[-1]
    return models[min(bisect_right(starts, used), len(models) - 1)]
