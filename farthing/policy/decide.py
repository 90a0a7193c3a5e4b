"""The decision about one request: pure, deterministic, and the same in the proxy, the ledger and a replay.

The higher priority wins, then the more specific match (a `when` makes it more so), then the name. At most one route,
one cache and one token policy act; routes do not chain, since every match reads the model that the client asked for.
"""
from __future__ import annotations

from collections.abc import Iterator
from datetime import date

import msgspec

from farthing.policy.actions import CacheAction
from farthing.policy.facts import Facts
from farthing.policy.index import CompiledDocument, Index, Rule
from farthing.policy.kinds.budget import Budget
from farthing.policy.kinds.policy import Policy

__all__ = ["Decision", "Facts", "decide"]


class Decision(msgspec.Struct, frozen=True):
    """What to do with one request."""

    route_to: str | None  # the model to send it to, where that is another than the one asked for
    fallbacks: tuple[str, ...]  # models to try where that one cannot answer, in this order
    cache: CacheAction | None
    cache_name: str  # of the policy that caches; '' = none
    budgets: tuple[Budget, ...]  # all that must hold the cost, in order of name
    acted: tuple[str, ...]  # policies that act, the route first
    shadowed: tuple[str, ...]  # shadow policies that would act, each judged as if it alone were enforced
    version: int  # of the document
    tokens: Policy | None = None  # what may be sent and answered
    tokens_shadow: Policy | None = None  # what is worked out and recorded beside it, and never done


def decide(compiled: CompiledDocument, facts: Facts, today: date) -> Decision:
    """Decide about a request; `today` is the UTC date that `expires` is held against."""
    route, shadow_routes = _winner(compiled.routes, facts, today)
    cache, shadow_caches = _winner(compiled.caches, facts, today)
    # Most documents have none, and then it costs nothing.
    tokens, shadow_tokens = _winner(compiled.tokens, facts, today) if compiled.token_policies else (None, ())
    to = route.action.route.to if route and route.action.route else None
    return Decision(
        route_to=to if to != facts.model else None,
        fallbacks=route.action.route.fallbacks if route and route.action.route else (),
        cache=cache.action.cache if cache else None,
        cache_name=cache.name if cache else "",
        budgets=compiled.budgets(facts),
        acted=tuple([policy.name for policy in (route, cache, tokens) if policy]),
        shadowed=shadow_routes + shadow_caches + shadow_tokens,
        version=compiled.version,
        tokens=tokens,
        tokens_shadow=compiled.token_policies[shadow_tokens[0]] if shadow_tokens else None,
    )


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
