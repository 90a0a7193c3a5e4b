"""farthing/policy/decide.py: who wins, what stacks, and that nothing but the document and the facts decides."""
from __future__ import annotations

import random
from datetime import date
from typing import Any

import msgspec
import pytest

from farthing.policy import Budget, CompiledDocument, Decision, Document, Facts, Policy, decide

TODAY = date(2026, 3, 1)
ASKED = Facts("acme", team="search", user="ann", model="gpt-4o", tags={"tier": "batch"})


def route(name: str, to: str = "small", **rest: Any) -> Policy:
    return Policy.model_validate({"name": name, "action": {"route": {"to": to}}, **rest})


def cache(name: str, **rest: Any) -> Policy:
    return Policy.model_validate({"name": name, "action": {"cache": {}}, **rest})


def decided(*policies: Policy, facts: Facts = ASKED, today: date = TODAY, budgets: tuple[Budget, ...] = ()) -> Decision:
    return decide(CompiledDocument(Document(version=3, policies=policies, budgets=budgets)), facts, today)


def test_an_empty_document_changes_nothing() -> None:
    assert decided() == Decision(
        route_to=None, fallbacks=(), cache=None, cache_name="", budgets=(), acted=(), shadowed=(), version=3
    )


def test_one_route_and_one_cache_act_together() -> None:
    made = decided(cache("c"), route("r", to="small"))
    assert (made.route_to, made.acted) == ("small", ("r", "c"))
    assert made.cache is not None and made.cache.ttl_s == 3600


def test_the_higher_priority_wins_over_the_more_specific_match() -> None:
    tight = route("b", "y", match={"team": "search", "user": "ann"})
    assert decided(route("a", "x", priority=1), tight).route_to == "x"


def test_at_equal_priority_the_more_specific_match_wins() -> None:
    loose, tight = route("a", "x", match={"team": "search"}), route("z", "y", match={"team": "search", "user": "ann"})
    assert decided(loose, tight).route_to == "y"


def test_an_exact_name_is_more_specific_than_a_pattern() -> None:
    pattern, exact = route("a", "x", match={"model": "gpt-4*"}), route("z", "y", match={"model": "gpt-4o"})
    assert decided(pattern, exact).route_to == "y"


def test_the_name_decides_between_equals() -> None:
    assert decided(route("b", "y", match={"user": "ann"}), route("a", "x", match={"team": "search"})).acted == ("a",)


def test_routes_do_not_chain() -> None:
    policies = (route("a", "mid", match={"model": "gpt-4o"}), route("b", "small", match={"model": "mid"}))
    assert decided(*policies).route_to == "mid"


def test_cache_and_budget_match_the_model_asked_for() -> None:
    budget = Budget.model_validate({"name": "m", "scope": {"model": "gpt-4o"}, "limit_nusd": 5})
    other = Budget.model_validate({"name": "n", "scope": {"model": "small"}, "limit_nusd": 5})
    made = decided(route("r", "small"), cache("c", match={"model": "small"}), budgets=(budget, other))
    assert (made.acted, made.budgets) == (("r",), (budget,))


def test_a_route_to_the_model_asked_for_acts_and_leaves_the_model() -> None:
    made = decided(route("keep", "gpt-4o", priority=1), route("all", "small"))
    assert (made.route_to, made.acted) == (None, ("keep",))


@pytest.mark.parametrize(("today", "acted"), [(date(2026, 3, 1), ("r",)), (date(2026, 3, 2), ())])
def test_a_policy_acts_through_its_last_day(today: date, acted: tuple[str, ...]) -> None:
    assert decided(route("r", expires="2026-03-01"), today=today).acted == acted


def test_an_expired_policy_makes_way_for_the_next() -> None:
    assert decided(route("old", "x", priority=9, expires="2026-02-28"), route("new", "y")).route_to == "y"


def test_a_shadow_policy_is_named_only_where_it_would_have_won() -> None:
    ahead, behind = route("ahead", "x", mode="shadow", priority=2), route("behind", "x", mode="shadow")
    made = decided(ahead, behind, route("real", "y", priority=1))
    assert (made.route_to, made.acted, made.shadowed) == ("y", ("real",), ("ahead",))


def test_every_shadow_policy_is_judged_as_if_it_alone_were_enforced() -> None:
    made = decided(*(route(name, mode="shadow", match=match) for name, match in (("a", {}), ("b", {"team": "search"}))))
    assert (made.route_to, made.shadowed) == (None, ("b", "a"))


def test_a_tag_that_the_request_lacks_does_not_match() -> None:
    assert decided(route("r", match={"tags": {"tier": "*", "job": "*"}})).acted == ()
    assert decided(route("r", match={"tags": {"tier": ["live", "batch"]}})).acted == ("r",)


def test_the_order_of_the_document_changes_no_decision() -> None:
    scopes = [{}, {"team": "search"}, {"team": "search"}]
    policies = [route(f"p{n}", f"m{n % 3}", priority=n % 2, match=scopes[n % 3]) for n in range(12)]
    expected = decided(*policies)
    for seed in range(10):
        random.Random(seed).shuffle(policies)
        assert decided(*policies) == expected


def test_what_was_decided_before_decides_about_the_same_names_alone() -> None:
    matches: list[dict[str, Any]] = [
        {name: "other"} for name in ("tenant", "team", "user", "feature", "key", "model")
    ] + [{"tags": {"tier": "other"}}]  # fmt: skip
    policies = tuple(route(f"r{number}", f"to-{number}", match=match) for number, match in enumerate(matches))
    document = Document(version=3, policies=(*policies, cache("c", expires=TODAY)))
    asked = [ASKED, *(msgspec.structs.replace(ASKED, **match) for match in matches)]
    compiled = CompiledDocument(document)
    for facts in (*asked, *asked):
        for today in (TODAY, date(2026, 3, 2)):
            assert decide(compiled, facts, today) == decide(CompiledDocument(document), facts, today)
    assert {decide(compiled, facts, TODAY).route_to for facts in asked} == {None, *(f"to-{n}" for n in range(7))}
