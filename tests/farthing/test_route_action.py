"""farthing/policy/route.py and flow.py: what a policy may say of routing, and what it is told where it may not."""
from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from farthing.policy import Action, Match, Policy
from farthing.policy.flow import ConcurrencyAction, PriorityAction
from farthing.policy.route import RouteAction

TIERS = [{"model": "small", "tasks": "code", "max_tokens": 100}, {"model": "big"}]
GOOD: list[dict[str, Any]] = [
    {"strategy": "fixed", "deployment": "eastern"},
    {"strategy": "weighted", "models": ["a", "b"], "weights": {"a": 3}},
    {"strategy": "least_in_flight"},
    {"strategy": "latency", "to": "a"},
    {"strategy": "cost", "models": ["a", "b"], "fallbacks": ["c"]},
    {"strategy": "score", "score": {"load": 0, "cost": 2}},
    {"strategy": "tier", "tiers": TIERS},
    {"strategy": "requirement", "need": {"region": "eu"}},
    {"strategy": "cascade", "models": ["a", "b"], "cascade": {"min_quality": 0.7}},
    {"strategy": "prefix_affinity"},
    {"strategy": "sticky", "sticky_by": "user"},
    {"strategy": "budget_fallback", "models": ["a", "b", "c"], "budget": {"at": [0.5, 0.9]}},
    {"strategy": "gain", "models": ["a", "b"], "gain": {"above": 0.2, "explore": 0.05, "grade": "right"}},
    {"strategy": "gain", "models": ["a", "b"]},
    {"strategy": "tier", "tiers": [{"model": "a", "max_gain": 0.1}, {"model": "b"}], "gain": {"explore": 0.05}},
    {"strategy": "cascade", "models": ["a", "b"], "gain": {}},
    {"hedge": {"percentile": 95}},
]  # fmt: skip
BAD: list[tuple[dict[str, Any], str]] = [
    ({}, "set `to`, `models`"),
    ({"to": "a", "models": ["b"], "strategy": "cost"}, "not both"),
    ({"models": ["a", "b"]}, "needs a `strategy`"),
    ({"to": "gpt*"}, "one exact model name"),
    ({"strategy": "fastest"}, "Input should be 'fixed'"),
    ({"strategy": "fixed"}, "needs `deployment`"),
    ({"strategy": "cost", "weights": {"a": 1}}, "for strategy weighted only"),
    ({"strategy": "score", "score": {"load": 0, "cost": 0, "performance": 0}}, "all three are 0"),
    ({"strategy": "tier"}, "needs `tiers`"),
    ({"strategy": "tier", "tiers": TIERS, "to": "a"}, "takes its models from `tiers`"),
    ({"strategy": "tier", "tiers": [{"model": "a", "tasks": "poetry"}]}, "Input should be 'classification'"),
    ({"strategy": "requirement", "need": {}}, "set max_latency_ms"),
    ({"strategy": "cascade", "models": ["a"]}, "two `models` or more"),
    ({"strategy": "cascade", "models": ["a", "b"], "hedge": {"after_ms": 5}}, "cannot be combined"),
    ({"strategy": "budget_fallback", "models": ["a", "b"], "budget": {"at": [0.9, 0.5]}}, "must ascend"),
    ({"strategy": "budget_fallback", "models": ["a", "b"], "budget": {"at": [0.5, 0.9]}}, "2 models need one fewer"),
    ({"strategy": "gain", "models": ["a"]}, "needs two `models`"),
    ({"strategy": "gain", "models": ["a", "a"]}, "compared with itself"),
    ({"strategy": "cost", "gain": {}}, "for strategy gain or tier or cascade only"),
    ({"strategy": "tier", "tiers": TIERS, "gain": {}}, "where one of them has `max_gain`"),
    ({"strategy": "tier", "tiers": [{"model": "a"}, {"model": "b", "max_gain": 0.1}]}, "and not the last one"),
    ({"strategy": "tier", "tiers": [{"model": "a", "max_gain": 0.1}, {"model": "b"}], "gain": {"above": 0}},
     "leave that out"),
    ({"hedge": {}}, "exactly one of after_ms and percentile"),
    ({"hedge": {"after_ms": 5, "percentile": 95}}, "exactly one of after_ms and percentile"),
]  # fmt: skip


@pytest.mark.parametrize("action", GOOD, ids=lambda action: action.get("strategy", "hedge"))
def test_a_strategy_with_what_it_needs_is_taken_and_comes_back_the_same(action: dict[str, Any]) -> None:
    made = RouteAction(**action)
    assert RouteAction.model_validate_json(made.model_dump_json()) == made


@pytest.mark.parametrize(("action", "why"), BAD, ids=[f"{n}" for n in range(len(BAD))])
def test_what_has_no_effect_or_no_meaning_is_refused_with_its_reason(action: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError) as raised:
        RouteAction(**action)
    assert why in str(raised.value)


def test_a_policy_of_concurrency_matches_by_model_alone() -> None:
    action = Action(concurrency=ConcurrencyAction(max=8))
    assert Policy(name="w", match=Match(model=("gpt",)), action=action)
    with pytest.raises(ValidationError, match="by `model` alone"):
        Policy(name="w", match=Match(team=("search",)), action=action)
    with pytest.raises(ValidationError, match="min is 9 and max is 8"):
        ConcurrencyAction(min=9, max=8)


def test_a_caller_s_priority_holds_as_far_as_the_policy_allows() -> None:
    assert [PriorityAction().of(asked) for asked in (None, 0, 5, 9)] == [5, 0, 5, 5]
    assert [PriorityAction(level=3, most=7).of(asked) for asked in (None, 0, 5, 9)] == [3, 0, 5, 7]
    with pytest.raises(ValidationError, match="most must be 3 at least"):
        PriorityAction(level=3, most=2)
