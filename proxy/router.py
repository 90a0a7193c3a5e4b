"""Puts the deployments that may serve a call in order, by the strategy that its policy names, and says why.

Runs only for calls whose policy has a strategy. The first of the order is asked first; the others are asked where it
cannot answer, the least busy first, then the fallbacks that the policy names. A prompt is read only for `tier` and
where a policy asks what a stronger model would gain.
"""
from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from farthing.policy import choose, strategies
from farthing.policy.choose import UNPRICED
from farthing.policy.decide import Decision
from farthing.policy.route import RouteAction
from farthing.policy.strategies import Candidate
from farthing.policy.task import Judgement, TaskModel
from farthing.prices import Price, Usage
from farthing.settings import Deployment
from proxy.api_error import ApiError
from proxy.budget_watch import BudgetWatch
from proxy.call import Call
from proxy.dispatch import Deployments, Target
from proxy.gains import Gains, Predicted
from proxy.prompt import text_of
from proxy.request import Asked

_USUAL_OUTPUT = 256  # tokens of an answer whose length nobody has limited
_BYTES_PER_TOKEN = 4
_SHOWN = 8  # candidates whose figures a row keeps
PriceOf = Callable[[Call, Asked, Deployment], Price | None]


@dataclass(slots=True)
class Chosen:
    """What a strategy decided for one call, and what it saw."""

    strategy: str
    reason: str
    targets: list[Target] = field(default_factory=list[Target])  # the first is asked first
    saw: tuple[str, ...] = ()  # the figures of each candidate
    judgement: Judgement | None = None
    levels: list[list[Target]] = field(default_factory=list[list[Target]])  # of a cascade, the cheapest first
    predicted: Predicted | None = None  # what a stronger model would gain, where the policy asks
    drawn: tuple[str, float] | None = None  # the model that was drawn to serve, and the chance with which it was

    @property
    def gain(self) -> float | None:
        return self.predicted.gain if self.predicted is not None else None


class Router:
    """Chooses for one worker."""

    def __init__(
        self, deployments: Deployments, price_of: PriceOf, watch: BudgetWatch, gains: Gains,
        draw: Callable[[], float] = random.random,
    ) -> None:  # fmt: skip
        self._deployments = deployments
        self._gains = gains
        self._price_of = price_of
        self._watch = watch
        self._draw = draw

    def choose(self, call: Call, asked: Asked, decision: Decision, api: str) -> Chosen:
        """Return the order of the targets.

        Raises:
            ApiError: a model is not served here, or not over this API.
        """
        route = decision.route
        assert route is not None and route.strategy is not None
        self._deployments.counters.routed += 1
        chosen = Chosen(route.strategy, "")
        if route.pair is not None:
            chosen.predicted = self._gains.predict(call.facts, route.pair, asked)
        if route.strategy == "cascade":
            self._cascade(route, chosen, api)
            if chosen.levels:
                return chosen
        elif route.strategy == "tier":
            self._pool(self._tier(route, asked, chosen), chosen, api)
        elif route.strategy == "gain":
            self._pool(self._gain(route, chosen), chosen, api)
        elif route.strategy == "budget_fallback":
            self._pool(self._step(route, decision, chosen), chosen, api)
        else:
            self._rank(call, asked, decision, chosen, api)
        have = set(map(id, chosen.targets))
        others = [target for model in route.fallbacks for target in self._deployments.known(model, api)]
        chosen.targets += [target for target in others if id(target) not in have]
        if route.need is not None and route.need.region:  # never given up, not even where the first cannot answer
            chosen.targets = [one for one in chosen.targets if one.deployment.region == route.need.region]
        return chosen

    def _pool(self, model: str, chosen: Chosen, api: str) -> None:
        chosen.targets = list(self._deployments.candidates(model, api))

    def _gain(self, route: RouteAction, chosen: Chosen) -> str:
        assert route.pair is not None
        gain = chosen.gain
        is_worth_it = gain is None or gain > route.learning.above  # ignorance must not cost quality
        model = self._drawn(route, is_worth_it, chosen)
        chosen.reason = f"{_told(chosen)}: {model}"
        return model

    def _drawn(self, route: RouteAction, is_strong: bool, chosen: Chosen) -> str:
        """Return the model of a pair that serves, now and then by a coin."""
        assert route.pair is not None
        is_strong, chance = strategies.explored(is_strong, route.learning.explore, self._draw())
        model = route.pair.strong if is_strong else route.pair.weak
        chosen.drawn = (model, chance) if chance is not None else None
        return model

    def _cascade(self, route: RouteAction, chosen: Chosen, api: str) -> None:
        """Go from model to model, but straight to the last where it gains much, or to either by a coin."""
        if route.pair is not None and (model := self._straight_to(route, chosen)):
            self._pool(model, chosen, api)
            return
        models = route.models[: route.cascade.max_attempts if route.cascade else 2]
        chosen.levels = [list(self._deployments.candidates(model, api)) for model in models]
        last = chosen.levels[-1]
        last += [one for model in route.fallbacks for one in self._deployments.known(model, api) if one not in last]
        chosen.targets = list(chosen.levels[0])
        chosen.reason = " first, then ".join(models)

    def _straight_to(self, route: RouteAction, chosen: Chosen) -> str:
        """Return the model that alone serves, empty for all in their turn."""
        assert route.pair is not None
        explore, draw = route.learning.explore, self._draw()
        if draw < explore:  # an answer that a cascade kept is a chosen one, and teaches nothing of the others
            model = route.pair.strong if draw < explore / 2 else route.pair.weak
            chosen.drawn = (model, explore / 2)
            chosen.reason = f"drawn to learn: {model}"
            return model
        if chosen.gain is not None and chosen.gain > route.learning.above:
            chosen.reason = f"{_told(chosen)}: {route.pair.strong}"
            return route.pair.strong
        return ""

    def _tier(self, route: RouteAction, asked: Asked, chosen: Chosen) -> str:
        judged = chosen.judgement = TaskModel.default().judge(text_of(asked))
        scores = {
            "complexity": judged.complexity, "creativity": judged.creativity, "reasoning": judged.reasoning,
            "factual": judged.factual, "tokens": float(judged.tokens),
        }  # fmt: skip
        tiers = [
            strategies.Tier(tier.model, frozenset(tier.tasks), tier.max_scores(), tier.max_gain)
            for tier in route.tiers[:-1]
            if judged.confidence >= tier.min_confidence
        ]
        tiers.append(strategies.Tier(route.tiers[-1].model))
        model = strategies.tier(tiers, judged.task, scores, chosen.gain)
        # The coin decides only where the prompt's task lets the weak one serve at all.
        could_be_weak = route.pair is not None and strategies.tier(tiers, judged.task, scores, -1.0) == route.pair.weak
        if route.pair is not None and could_be_weak and model in (route.pair.weak, route.pair.strong):
            model = self._drawn(route, model == route.pair.strong, chosen)
        told = f", {_told(chosen)}" if route.pair is not None else ""
        chosen.reason = f"{judged.task} ({judged.confidence:.2f}), complexity {judged.complexity:.2f}{told}: {model}"
        return model

    def _step(self, route: RouteAction, decision: Decision, chosen: Chosen) -> str:
        assert route.budget is not None
        names = [route.budget.budget] if route.budget.budget else [budget.name for budget in decision.budgets]
        if not names:
            chosen.reason = f"no budget applies: {route.models[0]}"
            return route.models[0]
        used = self._watch.used(names)
        model = strategies.fallback(route.models, route.budget.at, used)
        share = "an unknown share" if used != used else f"{used:.0%}"
        chosen.reason = f"{share} of {', '.join(names)} is used: {model}"
        return model

    def _rank(self, call: Call, asked: Asked, decision: Decision, chosen: Chosen, api: str) -> None:
        """Choose among all deployments of the models that are meant."""
        route = decision.route
        assert route is not None
        models = route.models or (decision.route_to or call.asked_model,)
        targets = [*self._deployments.candidates(models[0], api)]
        for model in models[1:]:
            targets += self._deployments.known(model, api)
        candidates = [self._candidate(call, asked, target, route) for target in targets]
        prefix = call.prefix_hashes[0] if call.prefix_hashes else ""
        found = choose.first(route, call.facts, prefix, candidates, self._draw)
        if found is None:
            assert route.need is not None
            message = f"no deployment of this model runs in {route.need.region!r}, and a policy requires it"
            raise ApiError(503, "region_unavailable", message)
        first, chosen.reason = found
        chosen.saw = tuple([_figures(candidate) for candidate in candidates[:_SHOWN]])
        at = candidates.index(first)
        chosen.targets = [targets[at], *targets[:at], *targets[at + 1 :]]

    def _candidate(self, call: Call, asked: Asked, target: Target, route: RouteAction) -> Candidate:
        deployment, health, window = target.deployment, target.health, target.window
        weight = route.weights.get(deployment.name, route.weights.get(deployment.model, deployment.weight))
        return Candidate(
            deployment.name, weight, target.in_flight, int(window.limit) if window else 0,
            health.latency_s * 1000, health.error_rate,
            self._expected_nusd(call, asked, deployment), deployment.quality, deployment.region,
        )  # fmt: skip

    def _expected_nusd(self, call: Call, asked: Asked, deployment: Deployment) -> int:
        price = self._price_of(call, asked, deployment)
        if price is None:
            return UNPRICED
        output = asked.choices * (call.max_tokens or _USUAL_OUTPUT)
        return price.cost_nusd(Usage(len(asked.body) // _BYTES_PER_TOKEN, output=output))


def _told(chosen: Chosen) -> str:
    """Return what is known of the gain, for people."""
    known = "gain unknown" if chosen.gain is None else f"gain {chosen.gain:+.3f}"
    return known if chosen.drawn is None else f"{known}, drawn with {chosen.drawn[1]:.3f}"


def _figures(candidate: Candidate) -> str:
    cost = "unpriced" if candidate.cost_nusd == UNPRICED else f"{candidate.cost_nusd} nUSD"
    room = f"/{candidate.capacity}" if candidate.capacity else ""
    return (
        f"{candidate.name}: {candidate.in_flight}{room} in flight, {candidate.latency_ms:.0f} ms, "
        f"{candidate.error_rate:.0%} failed, {cost}, weight {candidate.weight:g}, quality {candidate.quality:g}"
    )
