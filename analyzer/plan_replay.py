"""What a document would have done with the calls of a window: the proxy's own decision code over the stored rows.

A route keeps the tokens of the call and takes the price of the deployment that its strategy chooses; a cache answers
what it had answered within its time; budgets refuse by balances of their own. What depends on a prompt or on the text
of an answer, which nobody kept, is not predicted and is named so.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from itertools import count
from typing import Any

from analyzer import plan_tokens
from analyzer.plan_budgets import Balances
from analyzer.plan_pool import Pool, Shown, place
from analyzer.plan_tokens import Left
from farthing.policy import (
    CacheAction,
    CompiledDocument,
    Decision,
    Document,
    Facts,
    Policy,
    RouteAction,
    decide,
    strategies,
)
from farthing.policy.holdout import draw
from farthing.prices import PriceBook
from farthing.settings import Deployment, Settings
from farthing.tariff import Price

ONE_OF_A_POOL = (
    "fixed", "weighted", "least_in_flight", "latency", "cost", "score", "requirement", "prefix_affinity", "sticky",
)  # fmt: skip
Task = tuple[str, float, float]  # task, confidence, complexity


@dataclass(frozen=True)
class Outcome:
    """What one document makes of one call."""

    acted: tuple[str, ...]
    treated: tuple[str, ...]  # those that changed something: a cache that had no answer did not
    model: str  # that serves it
    is_cached: bool
    cost_nusd: int | None  # None: the model has no price, the call no usage, or it is not predicted
    tokens: int | None  # that are paid for; None: nobody knows
    served_by: str = ""  # whose latency it has: the model, or `@` and a deployment
    refused_by: str = ""  # a budget or a policy; empty: it is answered
    unpredicted: str = ""  # the strategy whose choice cannot be told; empty: it can
    bounds_nusd: tuple[int, int] | None = None  # of a cascade's cost: the first model alone, and all of them


@dataclass(frozen=True)
class Replayed:
    """One call under two documents."""

    team: str
    cluster: str  # calls of one user or session are not independent of one another
    recorded_model: str
    recorded_place: str  # `@` and the deployment that served it; empty: none is known
    duration_s: float
    is_error: bool
    before: Outcome
    after: Outcome

    @property
    def is_changed(self) -> bool:
        return _essence(self.before) != _essence(self.after)


def _essence(one: Outcome) -> tuple[object, ...]:
    return one.treated, one.model, one.served_by, one.refused_by, one.tokens


@dataclass(frozen=True)
class Ground:
    """What a replay stands on, beside the rows and the documents."""

    tenant: str
    settings: Settings
    pricing: Pricing
    shown: Shown
    tasks: Mapping[str, Task]  # by span id
    spent: Sequence[Mapping[tuple[str, str], float]]  # of each document's budgets before the window
    scale: float  # calls of the window that each replayed one stands for


def replay(rows: Sequence[Mapping[str, Any]], before: Document, after: Document, ground: Ground) -> list[Replayed]:
    """Decide about each row under both documents, in the order in which the calls came."""
    was = {one.name: one for one in before.rules}
    sides = [_Side(one, ground, spent, was) for one, spent in zip((before, after), ground.spent, strict=True)]
    replayed: list[Replayed] = []
    for row in sorted(rows, key=lambda row: row["started_at"]):
        facts = _facts(row, ground.tenant)
        old, new = (side.outcome(row, facts) for side in sides)
        replayed.append(
            Replayed(
                team=row["team"],
                cluster=row["user"] or row["session"] or row["span_id"],
                recorded_model="" if row["cache_hit"] else row["model"],
                recorded_place="" if row["cache_hit"] else ground.shown.place_of(row),
                duration_s=row["duration_s"],
                is_error=row["outcome"] == "error",
                before=old,
                after=new,
            )
        )
    return replayed


def at_full_strength(document: Document, names: Iterable[str]) -> Document:
    """Return the document with the named policies enforced on everybody: what they lead to once they are let."""
    wanted = set(names)
    full = {"mode": "enforce", "verify": Policy.model_fields["verify"].default}
    policies = [one.model_copy(update=full) if one.name in wanted else one for one in document.policies]
    others = [item for item in document.items() if not isinstance(item, Policy)]
    return Document.of(document.version, [*policies, *others])


def _facts(row: Mapping[str, Any], tenant: str) -> Facts:
    return Facts(
        tenant, team=row["team"], user=row["user"], feature=row["feature"], session=row["session"],
        key=row["api_key"], model=row["asked_model"], tags=row["tags"],
    )  # fmt: skip


@dataclass(frozen=True)
class _Served:
    """Who answers a call."""

    model: str
    deployment: Deployment | None = None  # where a strategy chose one
    unpredicted: str = ""
    models: tuple[str, ...] = ()  # of a cascade, in their order


class _Side:
    """One document on its way through the rows; remembers what its caches hold and its budgets have spent."""

    def __init__(
        self, document: Document, ground: Ground, spent: Mapping[tuple[str, str], float], was: Mapping[str, Policy]
    ) -> None:
        self._compiled = CompiledDocument(document)
        self._pricing = ground.pricing
        self._tasks = ground.tasks
        self._pool = Pool(ground.settings, ground.shown)
        self._balances = Balances(spent, ground.scale)
        self._was = was  # what was in force when the rows were made
        self._kept: dict[tuple[str, str, str], datetime] = {}

    def outcome(self, row: Mapping[str, Any], facts: Facts) -> Outcome:
        at: datetime = row["started_at"]
        decision = decide(self._compiled, facts, at.date(), row["request_id"] or row["span_id"])
        left = plan_tokens.left(row, decision.tokens, self._ran_in_shadow(decision.tokens))
        served = self._served(row, facts, decision, left)
        tokens = sum(left.usage) if row["has_usage"] else None
        if decision.cache is not None and self._is_kept(row, decision, decision.cache, served.model):
            return Outcome(decision.acted, decision.acted, served.model, True, 0, 0, served.model)
        treated = self._treated(decision, left)
        if left.is_refused and decision.tokens is not None:
            return _refused(decision, treated, decision.tokens.name)
        cost = None if served.unpredicted else self._pricing.cost_nusd(row, served.model, served.deployment, left)
        if refuser := self._balances.refuser(decision.budgets, cost, at):
            return _refused(decision, treated, f"budget/{refuser}")
        by = place(served.deployment.name) if served.deployment is not None else served.model
        bounds = self._bounds(row, served, left) if served.models else None
        return Outcome(
            decision.acted, treated, served.model, False, cost, tokens, by, "", served.unpredicted, bounds
        )

    def _ran_in_shadow(self, policy: Policy | None) -> bool:
        """Tell whether the rows have what this token policy would have done: it ran in shadow as it is now."""
        was = self._was.get(policy.name) if policy is not None else None
        return was is not None and policy is not None and was.mode == "shadow" and was.action == policy.action

    def _treated(self, decision: Decision, left: Left) -> tuple[str, ...]:
        idle = {decision.cache_name}
        if decision.tokens is not None and not (left.is_cut or left.is_refused):
            idle.add(decision.tokens.name)
        return tuple(name for name in decision.acted if name not in idle)

    def _served(self, row: Mapping[str, Any], facts: Facts, decision: Decision, left: Left) -> _Served:
        plain = decision.route_to or row["asked_model"] or row["model"]
        route = decision.route
        if route is None or route.strategy is None:
            return _Served(plain)
        if route.strategy in ONE_OF_A_POOL:
            chosen = self._pool.choose(
                route, facts, row["prefix"], route.models or (plain,),
                lambda one: self._pricing.cost_nusd(row, one.model, one, left), row["started_at"], _draws(row),
            )  # fmt: skip
            return _Served(chosen.model, chosen) if chosen is not None else _Served(plain, unpredicted=route.strategy)
        if route.strategy == "tier":
            model = self._tier(row, route)
            return _Served(model) if model else _Served(plain, unpredicted="tier")
        if route.strategy == "budget_fallback" and route.budget is not None:
            wanted = route.budget.budget
            budgets = [one for one in decision.budgets if not wanted or one.name == wanted]
            used = self._balances.share(budgets, row["started_at"])
            return _Served(strategies.fallback(route.models, route.budget.at, used) if budgets else route.models[0])
        if route.strategy != "cascade":
            return _Served(plain, unpredicted=route.strategy)
        models = route.models[: route.cascade.max_attempts if route.cascade else 2]
        return _Served(models[0], unpredicted="cascade", models=models)

    def _tier(self, row: Mapping[str, Any], route: RouteAction) -> str:
        """Return the model of a call's tier by what its prompt was judged to be; empty: nobody judged it."""
        found = self._tasks.get(row["span_id"])
        limits = {name for tier in route.tiers[:-1] for name in tier.max_scores()}
        if found is None or not limits <= {"complexity"} or route.pair is not None:  # a pair is told apart by its text
            return ""
        task, confidence, complexity = found
        fitting = [one for one in route.tiers[:-1] if confidence >= one.min_confidence]
        tiers = [strategies.Tier(one.model, frozenset(one.tasks), one.max_scores()) for one in fitting]
        last = strategies.Tier(route.tiers[-1].model)
        return strategies.tier((*tiers, last), task, {"complexity": complexity})

    def _bounds(self, row: Mapping[str, Any], served: _Served, left: Left) -> tuple[int, int] | None:
        costs = [self._pricing.cost_nusd(row, model, None, left) for model in served.models]
        known = [cost for cost in costs if cost is not None]
        return (known[0], sum(known)) if known and len(known) == len(costs) else None

    def _is_kept(self, row: Mapping[str, Any], decision: Decision, action: CacheAction, model: str) -> bool:
        """Tell whether the cache had the answer, and keep it from now on where it had not."""
        is_repeatable = row["temperature"] == 0 or row["operation"] == "embeddings" or action.allow_sampled
        if not row["request_hash"] or not is_repeatable or not action.exact:
            return False
        key, at = (decision.cache_name, row["request_hash"], model), row["started_at"]
        kept = self._kept.get(key)
        if kept is not None and (at - kept).total_seconds() <= action.ttl_s:
            return True
        if row["outcome"] == "ok":
            self._kept[key] = at
        return False


def _refused(decision: Decision, treated: tuple[str, ...], by: str) -> Outcome:
    return Outcome(decision.acted, tuple(dict.fromkeys((*treated, by))), "", False, 0, 0, "", by)


def _draws(row: Mapping[str, Any]) -> Callable[[], float]:
    """Return draws that are a call's own, and the same in every replay."""
    numbers = count()
    return lambda: draw(f"plan\0{next(numbers)}\0{row['request_id'] or row['span_id']}".encode())


class Pricing:
    """What a call costs at another model: its own tokens at the price of the day."""

    def __init__(self, settings: Settings, added: Iterable[Price]) -> None:
        self._book = PriceBook(settings.prices)
        self._book.add(added)  # at run time, so that a plan has the prices that the warehouse books by
        self._providers = {one.model: one.provider for one in reversed(settings.deployments)}
        self._known: dict[tuple[str, str, date], Price | None] = {}

    def cost_nusd(self, row: Mapping[str, Any], model: str, deployment: Deployment | None, left: Left) -> int | None:
        """Return the cost of what is left of a row's tokens at `model`; what was paid where nothing is otherwise."""
        provider = deployment.provider if deployment is not None else self._providers.get(model) or row["provider"]
        is_as_it_was = deployment is None or provider == row["provider"]
        if model == row["model"] and not row["cache_hit"] and is_as_it_was and not left.is_cut:
            paid: Decimal | None = row["cost_usd"]
            return None if paid is None else int(paid.scaleb(9))
        price = self._price(provider, model, row["started_at"].date())
        if price is None or not row["has_usage"]:
            return None
        return price.cost_nusd(left.usage)

    def _price(self, provider: str, model: str, day: date) -> Price | None:
        key = (provider, model, day)
        if key not in self._known:
            self._known[key] = self._book.at(provider, model, day)
        return self._known[key]
