"""The decision about one request: pure, deterministic, and the same in the proxy, the ledger and a replay.

The higher priority wins, then the more specific match (a `when` makes it more so), then the name. At most one route,
one cache and one token policy act; routes do not chain, since every match reads the model that the client asked for.
"""
from __future__ import annotations

from collections.abc import Iterator
from datetime import date

import msgspec
from msgspec import structs

from farthing.policy.actions import CacheAction
from farthing.policy.facts import Facts
from farthing.policy.flow import ConcurrencyAction, PriorityAction
from farthing.policy.holdout import Arm
from farthing.policy.index import MAX_REMEMBERED, CompiledDocument, Index, Rule
from farthing.policy.kinds.budget import Budget
from farthing.policy.kinds.policy import Policy
from farthing.policy.micro_batch import MicroBatchAction
from farthing.policy.route import RouteAction

__all__ = ["Decision", "Facts", "concurrency_of", "decide"]


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
    micro_batch: MicroBatchAction | None = None  # how embeddings calls are gathered
    arms: tuple[Arm, ...] = ()  # of the policies on trial that decided, by acting or by standing back
    route: RouteAction | None = None  # whose strategy or hedge applies; None where `route_to` says all
    priority: PriorityAction | None = None
    is_flex: bool = False  # the provider's flex tier is asked for, where it has one and the caller left that open
    unapproved: str = ""  # the budget that somebody has to approve before such calls go on; '' = none


def decide(compiled: CompiledDocument, facts: Facts, today: date, request_id: str = "") -> Decision:
    """Decide about a request; `today` is the UTC date that `expires` and ramps are held against.

    `request_id` is what trials whose unit is the request draw by. Where names and patterns alone decide, the decision
    about the same names is the same one: it is remembered.
    """
    if not compiled.is_by_name:
        return _decided(compiled, facts, today, request_id)
    key = (today, facts.tenant, facts.team, facts.user, facts.feature, facts.key, facts.model, *facts.tags.items())
    known = compiled.decided.get(key)
    if known is None:
        if len(compiled.decided) >= MAX_REMEMBERED:
            compiled.decided.clear()
        known = compiled.decided[key] = _decided(compiled, facts, today, request_id)
    return known


def _decided(compiled: CompiledDocument, facts: Facts, today: date, request_id: str) -> Decision:
    route, shadow_routes, route_arms = _winner(compiled.routes, facts, today, request_id)
    cache, shadow_caches, cache_arms = _winner(compiled.caches, facts, today, request_id)
    # Most documents have none, and then it costs nothing.
    tokens, shadow_tokens, tokens_arms = (
        _winner(compiled.tokens, facts, today, request_id) if compiled.token_policies else (None, (), ())
    )
    gather, shadow_gathers, gather_arms = (
        _winner(compiled.micro_batches, facts, today, request_id) if compiled.micro_batches else (None, (), ())
    )
    ranked, shadow_ranks, rank_arms = (
        _winner(compiled.priorities, facts, today, request_id) if compiled.priorities else (None, (), ())
    )
    action = route.action.route if route else None
    to = action.to if action else None
    made = Decision(
        route_to=to if to != facts.model else None,
        fallbacks=action.fallbacks if action else (),
        cache=cache.action.cache if cache else None,
        cache_name=cache.name if cache else "",
        budgets=compiled.budgets(facts),
        acted=tuple([policy.name for policy in (route, cache, tokens, gather, ranked) if policy]),
        shadowed=shadow_routes + shadow_caches + shadow_tokens + shadow_gathers + shadow_ranks,
        version=compiled.version,
        tokens=tokens,
        tokens_shadow=compiled.token_policies[shadow_tokens[0]] if shadow_tokens else None,
        micro_batch=gather.action.micro_batch if gather else None,
        arms=route_arms + cache_arms + tokens_arms + gather_arms + rank_arms,
        route=action if action is not None and (action.strategy or action.hedge) else None,
        priority=ranked.action.priority if ranked else None,
    )
    return _staged(compiled, made, facts) if compiled.stages and made.budgets else made


def _staged(compiled: CompiledDocument, made: Decision, facts: Facts) -> Decision:
    """Return the decision with what the call's budgets do since a threshold was crossed; their route goes first."""
    for budget in made.budgets:
        stage = compiled.stages.get(budget.name)
        if stage is None:
            continue
        if stage.needs_approval:
            made = structs.replace(made, unapproved=budget.name)
        if stage.to:
            to = stage.to if stage.to != facts.model else None
            made = structs.replace(made, route_to=to, route=None)
        if stage.is_cheapest:
            made = structs.replace(made, route=_cheapest(made))
        made = structs.replace(made, is_flex=made.is_flex or stage.is_flex)
        if stage.to or stage.is_cheapest or stage.is_flex:
            made = structs.replace(made, acted=(*made.acted, f"budget/{budget.name}"))
    return made


def _cheapest(made: Decision) -> RouteAction:
    """Return the route to the cheapest of the deployments that might serve; models in an order keep that."""
    route = made.route
    if route is None:
        return RouteAction(to=made.route_to, fallbacks=made.fallbacks, strategy="cost")
    if route.strategy in ("tier", "cascade", "budget_fallback"):
        return route
    return RouteAction(
        to=route.to, models=route.models, fallbacks=route.fallbacks, strategy="cost", hedge=route.hedge
    )


def concurrency_of(compiled: CompiledDocument, model: str, today: date) -> ConcurrencyAction | None:
    """Return what governs the windows of a model's deployments; None = they have none."""
    found, _, _ = _winner(compiled.concurrency, Facts("", model=model), today, "")
    return found.action.concurrency if found else None


def _winner(
    index: Index[Policy], facts: Facts, today: date, request_id: str
) -> tuple[Policy | None, tuple[str, ...], tuple[Arm, ...]]:
    """Return the policy that acts, the shadow policies that would have gone before it, and the sides drawn."""
    best: Rule[Policy] | None = None
    noted: list[tuple[Rule[Policy], Arm | None]] = []  # shadow policies, and those on trial with their side
    for rules in index.find(facts):
        for rule in _fitting(rules, best, facts, today):
            if rule.is_shadow:
                noted.append((rule, None))
                continue
            if rule.trial is not None:
                arm = rule.trial.assign(facts, request_id, today)
                noted.append((rule, arm))
                if not arm.is_treated:
                    continue
            best = rule
            break
    acting = best.item if best else None
    return (acting, *_told(best, noted)) if noted else (acting, (), ())


def _fitting(
    rules: tuple[Rule[Policy], ...], best: Rule[Policy] | None, facts: Facts, today: date
) -> Iterator[Rule[Policy]]:
    for rule in rules:
        if best is not None and rule.rank > best.rank:
            return
        if rule.last_day >= today and rule.fits(facts):
            yield rule


def _told(
    best: Rule[Policy] | None, noted: list[tuple[Rule[Policy], Arm | None]]
) -> tuple[tuple[str, ...], tuple[Arm, ...]]:
    """Return the shadow policies and the sides drawn, without those that another policy went before after all."""
    ahead = sorted(
        (pair for pair in noted if best is None or pair[0].rank <= best.rank), key=lambda pair: pair[0].rank
    )
    names = tuple(rule.item.name for rule, arm in ahead if arm is None)
    return names, tuple(arm for _, arm in ahead if arm is not None)
