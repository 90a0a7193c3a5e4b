"""The decision about one request: pure, deterministic, and the same in the proxy, the ledger and a replay.

The higher priority wins, then the more specific match, then the name. At most one route and one cache act; routes do
not chain, since every match reads the model that the client asked for.
"""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

from farthing.policy.actions import CacheAction
from farthing.policy.facts import Facts
from farthing.policy.flow import ConcurrencyAction, PriorityAction
from farthing.policy.index import CompiledDocument, Index, Rule
from farthing.policy.kinds.budget import Budget
from farthing.policy.kinds.policy import Policy
from farthing.policy.route import RouteAction

__all__ = ["Decision", "Facts", "concurrency_of", "decide"]


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with one request."""

    route_to: str | None  # the model to send it to, where that is another than the one asked for
    fallbacks: tuple[str, ...]  # models to try where that one cannot answer, in this order
    cache: CacheAction | None
    budgets: tuple[Budget, ...]  # all that must hold the cost, in order of name
    acted: tuple[str, ...]  # policies that act, the route first
    shadowed: tuple[str, ...]  # shadow policies that would act, each judged as if it alone were enforced
    version: int  # of the document
    route: RouteAction | None = None  # whose strategy or hedge applies; None where `route_to` says all
    priority: PriorityAction | None = None


def decide(compiled: CompiledDocument, facts: Facts, today: date) -> Decision:
    """Decide about a request; `today` is the UTC date that `expires` is held against."""
    route, shadow_routes = _winner(compiled.routes, facts, today)
    cache, shadow_caches = _winner(compiled.caches, facts, today)
    action = route.action.route if route else None
    to = action.to if action else None
    chooses = action is not None and (action.strategy is not None or action.hedge is not None)
    ranked, shadow_ranks = _winner(compiled.priorities, facts, today) if compiled.priorities else _NOBODY
    return Decision(
        route_to=to if to != facts.model else None,
        fallbacks=action.fallbacks if action else (),
        cache=cache.action.cache if cache else None,
        budgets=compiled.budgets(facts),
        acted=tuple([policy.name for policy in (route, cache, ranked) if policy]),
        shadowed=shadow_routes + shadow_caches + shadow_ranks,
        version=compiled.version,
        route=action if chooses else None,
        priority=ranked.action.priority if ranked else None,
    )


def concurrency_of(compiled: CompiledDocument, model: str, today: date) -> ConcurrencyAction | None:
    """Return what governs the windows of a model's deployments; None = they have none."""
    found, _ = _winner(compiled.concurrency, Facts("", model=model), today)
    return found.action.concurrency if found else None


_NOBODY: tuple[Policy | None, tuple[str, ...]] = (None, ())


def _winner(index: Index[Policy], facts: Facts, today: date) -> tuple[Policy | None, tuple[str, ...]]:
    """Return the policy that acts and the shadow policies that would have gone before it."""
    best: Rule[Policy] | None = None
    shadows: list[Rule[Policy]] = []
    for rules in index.find(facts):
        for rule in _fitting(rules, best, facts, today):
            if rule.item.mode == "enforce":
                best = rule
                break
            shadows.append(rule)
    if not shadows:
        return (best.item if best else None), ()
    return (best.item if best else None), _names_before(best, shadows)


def _fitting(
    rules: tuple[Rule[Policy], ...], best: Rule[Policy] | None, facts: Facts, today: date
) -> Iterator[Rule[Policy]]:
    for rule in rules:
        if best is not None and rule.rank > best.rank:
            return
        if rule.last_day >= today and rule.fits(facts):
            yield rule


def _names_before(best: Rule[Policy] | None, shadows: list[Rule[Policy]]) -> tuple[str, ...]:
    ahead = [rule for rule in shadows if best is None or rule.rank < best.rank]
    return tuple(rule.item.name for rule in sorted(ahead, key=lambda rule: rule.rank))
