"""policies/dead.py: a policy that cannot act is told, and one that may act is not."""
from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from farthing.policy import Policy
from policies.dead import dead

TODAY = date(2026, 3, 1)
WIDE = {"match": {"model": "gpt-4*"}, "priority": 10}


def policy(name: str, **fields: Any) -> Policy:
    return Policy.model_validate({"name": name, "action": {"route": {"to": "small"}}, **fields})


def hidden(first: dict[str, Any], second: dict[str, Any]) -> bool:
    found = dead([policy("first", **first), policy("second", **second)], TODAY)
    assert found in ([], ["Policy second never acts: Policy first goes before it and matches all that it matches"])
    return bool(found)


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        ({"match": {"model": "gpt-4o"}}, True),
        ({"match": {"model": ["gpt-4o", "gpt-4-mini"], "team": "search"}}, True),
        ({"match": {"model": "gpt-4*"}, "mode": "shadow"}, True),
        ({"match": {"model": ["gpt-4o", "opus-5"]}}, False),
        ({"match": {"model": "gpt-*"}}, False),
        ({"match": {"team": "search"}}, False),
        ({}, False),
        ({"match": {"model": "gpt-4o"}, "priority": 11}, False),
        ({"match": {"model": "gpt-4o"}, "action": {"cache": {}}}, False),
    ],
)
def test_a_policy_is_dead_where_an_earlier_one_matches_all_that_it_matches(
    second: dict[str, Any], expected: bool
) -> None:
    assert hidden(WIDE, second) is expected


@pytest.mark.parametrize("change", [{"mode": "shadow"}, {"when": "team == 'a'"}, {"expires": date(2026, 4, 1)}])
def test_a_policy_that_may_not_act_hides_nothing(change: dict[str, Any]) -> None:
    assert hidden(WIDE, {"match": {"model": "gpt-4o"}}) and not hidden(WIDE | change, {"match": {"model": "gpt-4o"}})


def test_one_that_ends_later_does_hide_one_that_ends_before() -> None:
    until_may, until_april = {"expires": date(2026, 5, 1)}, {"match": {"model": "gpt-4o"}, "expires": date(2026, 4, 1)}
    assert hidden(WIDE | until_may, until_april)


def test_everybody_first_hides_all_that_follows_and_an_expired_one_is_told() -> None:
    found = dead([policy("all", priority=5), policy("a", match={"tags": {"x": "*"}})], TODAY)
    assert len(found) == 1 and found[0].startswith("Policy a never acts: Policy all goes before it")
    assert dead([policy("old", expires=date(2026, 2, 28))], TODAY) == [
        "Policy old never acts: expired on 2026-02-28; remove it"
    ]
