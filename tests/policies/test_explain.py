"""policies/explain.py: why a request was treated as it was."""
from __future__ import annotations

from datetime import date
from typing import Any

from farthing.policy import Budget, Document, Facts, Policy
from policies.explain import explain

DAY = date(2026, 3, 1)
ASKED = Facts("acme", team="search", user="ann", model="gpt-4o", tags={"tier": "batch"})


def route(name: str, **rest: Any) -> Policy:
    return Policy.model_validate({"name": name, "action": {"route": {"to": name}}, **rest})


def explained(*policies: Policy, facts: Facts = ASKED) -> dict[str, Any]:
    budget = Budget.model_validate({"name": "month", "scope": {"team": "search"}, "limit_nusd": 5})
    document = Document(version=4, policies=policies, budgets=(budget,))
    return explain(document, facts, "req_1", DAY)


def test_each_policy_that_matched_is_told_with_what_it_saw_and_what_became_of_it() -> None:
    told = explained(
        route("late", match={"team": "se*"}),
        route("first", match={"model": "gpt-4*", "tags": {"tier": "batch"}}, priority=5),
        route("watched", mode="shadow", priority=9),
        route("old", expires=date(2026, 2, 1), priority=8),
        route("picky", when="user == 'bob'", priority=7),
        route("others", match={"team": "growth"}),
        Policy.model_validate({"name": "places", "action": {"concurrency": {}}, "priority": -1}),
    )
    became = {line["policy"]: (line["became"], line["saw"]) for line in told["policies"]}
    assert became == {
        "watched": ("shadow", {}),
        "old": ("expired", {}),
        "picky": ("condition", {}),
        "first": ("acted", {"model": "gpt-4o", "tag:tier": "batch"}),
        "late": ("outranked", {"team": "search"}),
        "places": ("window", {}),
    }
    assert (told["version"], told["route_to"], told["acted"]) == (4, "first", ("first",))
    assert told["budgets"] == [{"budget": "month", "saw": {"team": "search"}}]


def test_the_side_of_a_trial_is_told() -> None:
    trial = route("tried", mode="canary", canary={"share": 0.5}, verify={"unit": "user"})
    lines = [explained(trial, facts=Facts("acme", user=f"u{n}"))["policies"][0] for n in range(20)]
    assert {(line["became"], line["arm"], line["propensity"]) for line in lines} == {
        ("acted", "treatment", 0.5),
        ("held out", "control", 0.5),
    }
