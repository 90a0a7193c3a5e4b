"""Which of several candidates a route's strategy takes first, and why: the same in the proxy and in a plan's replay.

What they cost and how busy they are the caller has measured; a `draw` comes in, so that a replay with the same draws
chooses the same.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence

from farthing.policy import strategies
from farthing.policy.facts import Facts
from farthing.policy.route import RouteAction
from farthing.policy.strategies import Candidate

UNPRICED = 10**18  # stands for a price that nobody knows: never the cheapest
_EVEN = strategies.Weighting()

Choice = tuple[Candidate, str]  # and the reason


def first(
    route: RouteAction, facts: Facts, prefix: str, candidates: Sequence[Candidate], draw: Callable[[], float]
) -> Choice | None:
    """Return who is asked first; None where a region is required in which nobody is.

    `prefix` is the hash of the prompt's beginning, empty for none.
    """
    match route.strategy:
        case "fixed":
            return _fixed(route, candidates)
        case "weighted":
            return strategies.weighted(candidates, draw()), "by weight"
        case "latency":
            return strategies.lower_latency(candidates, draw(), draw()), "the quicker of two drawn"
        case "cost":
            return strategies.cheapest(candidates), "the cheapest"
        case "score":
            score = route.score
            weighting = strategies.Weighting(score.load, score.performance, score.cost) if score else _EVEN
            return strategies.by_score(candidates, weighting), "the least of load, wait and cost together"
        case "requirement":
            return _required(route, candidates)
        case "prefix_affinity":
            return _by_prefix(prefix, candidates)
        case "sticky":
            return _by_fact(facts, route.sticky_by or "session", candidates)
        case _:
            return strategies.least_in_flight(candidates), "the fewest in flight for its weight"


def _fixed(route: RouteAction, candidates: Sequence[Candidate]) -> Choice:
    found = strategies.fixed(candidates, route.deployment)
    if found is None:
        least = strategies.least_in_flight(candidates)
        return least, f"the deployment {route.deployment!r} does not serve this model here; the least busy one does"
    return found, "fixed"


def _required(route: RouteAction, candidates: Sequence[Candidate]) -> Choice | None:
    need = route.need
    assert need is not None
    wanted = strategies.Need(need.max_latency_ms, need.max_cost_nusd, need.min_quality, need.region)
    pick = strategies.requirement(candidates, wanted)
    if pick is None:
        return None
    if pick.violates:
        return pick.candidate, f"nothing meets all needs; this one misses {', '.join(pick.violates)}"
    return pick.candidate, "meets all needs"


def _by_prefix(prefix: str, candidates: Sequence[Candidate]) -> Choice:
    if not prefix:
        return strategies.least_in_flight(candidates), "the prompt has no prefix; the fewest in flight"
    return strategies.prefix_affinity(candidates, prefix.encode()), f"owns the prefix {prefix}"


def _by_fact(facts: Facts, name: str, candidates: Sequence[Candidate]) -> Choice:
    value: str = getattr(facts, name)
    if not value:
        return strategies.least_in_flight(candidates), f"the request names no {name}; the fewest in flight"
    return strategies.sticky(candidates, value.encode()), f"owns this {name}"
