"""farthing/policy/holdout.py: who is on which side, for how long, and with what probability."""
from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from farthing.policy import CompiledDocument, Decision, Document, Facts, Policy, decide

TODAY = date(2026, 3, 1)


def route(name: str = "r", **rest: Any) -> Policy:
    return Policy.model_validate({"name": name, "action": {"route": {"to": name}}, **rest})


def decided(
    *policies: Policy, user: str = "ann", session: str = "", request: str = "", today: date = TODAY
) -> Decision:
    compiled = CompiledDocument(Document(version=1, policies=policies))
    return decide(compiled, Facts("acme", user=user, session=session, model="big"), today, request)


def treated(policy: Policy, today: date = TODAY, users: int = 2000) -> set[int]:
    compiled = CompiledDocument(Document(version=1, policies=(policy,)))
    facts = [Facts("acme", user=f"u{n}", model="big") for n in range(users)]
    return {n for n, one in enumerate(facts) if decide(compiled, one, today).acted}


def canary(share: float, **rest: Any) -> Policy:
    return route(mode="canary", canary={"share": share, **rest}, verify={"unit": "user"})


def test_a_canary_acts_on_its_share_of_the_users_and_always_on_the_same() -> None:
    one = treated(canary(0.2))
    assert 320 <= len(one) <= 480  # 400 expected, four standard deviations are 72
    assert treated(canary(0.2)) == one


def test_a_growing_share_only_adds_users_and_the_holdout_is_never_among_them() -> None:
    small, large = treated(canary(0.2)), treated(canary(0.6))
    enforced = treated(route(verify={"unit": "user", "holdout": 0.3}))
    assert small < large < enforced and 1300 <= len(enforced) <= 1500
    whole = canary(1.0).model_copy(update={"verify": enforced_verify()})
    assert treated(whole) == enforced


def enforced_verify() -> Any:
    return route(verify={"unit": "user", "holdout": 0.3}).verify


def test_a_ramp_grows_by_the_day() -> None:
    ramped = canary(0.1, ramp={"start": TODAY, "days": 10, "to": 0.5})
    shares = [decided(ramped, today=TODAY + timedelta(days=day)).arms[0].propensity for day in (-3, 0, 5, 10, 40)]
    assert shares == pytest.approx([0.1, 0.1, 0.3, 0.5, 0.5])


def test_two_policies_draw_independently() -> None:
    first, second = canary(0.5), canary(0.5).model_copy(update={"name": "other"})
    both = len(treated(first) & treated(second))
    assert 400 <= both <= 600  # a quarter of 2000


def test_who_stands_back_leaves_the_request_to_the_next_policy_and_says_so() -> None:
    users = {decided(canary(0.5), user=f"u{n}").arms[0].is_treated: f"u{n}" for n in range(50)}
    trial, plain = canary(0.5).model_copy(update={"priority": 9}), route("plain")
    in_, out = decided(trial, plain, user=users[True]), decided(trial, plain, user=users[False])
    assert (in_.acted, [str(arm) for arm in in_.arms]) == (("r",), ["r:treatment:0.5"])
    assert (out.acted, [str(arm) for arm in out.arms]) == (("plain",), ["r:control:0.5"])


def test_a_trial_that_another_policy_goes_before_is_not_told() -> None:
    trial, first = canary(0.5), route("first", priority=9)
    assert all(decided(trial, first, user=f"u{n}").arms == () for n in range(8))
    narrow = route("narrow", priority=9, match={"user": "u*"})  # of another group of the index
    assert all(decided(trial, narrow, user=f"u{n}").arms == () for n in range(8))


def test_the_unit_is_the_request_the_user_or_the_session() -> None:
    by_session = route(mode="canary", canary={"share": 0.5}, verify={"unit": "session"})
    sides = {decided(by_session, user=f"u{n}", session="s1", request=f"q{n}").arms[0].is_treated for n in range(40)}
    assert len(sides) == 1
    alone = {decided(by_session, session="", request=f"q{n}").arms[0].is_treated for n in range(40)}
    assert alone == {True, False}  # a request that lacks the fact is its own unit


@pytest.mark.parametrize(
    "wrong",
    [
        {"canary": {"share": 0}},
        {"canary": {"share": 1.5}},
        {"canary": {"share": float("nan")}},
        {"canary": {"share": 0.5, "ramp": {"start": TODAY, "days": 3, "to": 0.4}}},
        {"verify": {"unit": "team"}},
        {"verify": {"holdout": 1.0}},
        {"verify": {"guardrails": [{"metric": "mood", "max_increase": 0}]}},
    ],
)
def test_what_cannot_be_meant_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        route(mode="canary", **wrong)
