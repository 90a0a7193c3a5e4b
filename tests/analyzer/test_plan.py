"""analyzer/plan*.py: what a change would do, from the calls that were, by the code that will decide."""
from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from analyzer import html, plan
from analyzer.plan_page import page
from analyzer.window import Window
from farthing.policy import Document, Policy
from farthing.settings import Settings
from farthing.warehouse.client import Warehouse

Make = Callable[..., plan.Plan]


def route(name: str = "cheap", to: str = "gpt-4o-mini", **rest: Any) -> Policy:
    given = {"match": {"team": "search", "model": "gpt-4o"}, "action": {"route": {"to": to}}, **rest}
    return Policy.model_validate({"name": name, **given})


def cache(**rest: Any) -> Policy:
    return Policy.model_validate({"name": "repeats", "action": {"cache": {"ttl_s": 3600}}, **rest})


@pytest.fixture
def window(tenant: str, noon: datetime) -> Window:
    return Window(tenant, noon - timedelta(days=1), noon + timedelta(days=1))


@pytest.fixture
def planned(put_calls: Any, warehouse: Warehouse, tenant: str, window: Window, noon: datetime) -> Make:
    """Plan over 20 dear calls of the search team, 10 cheap ones and 3 identical calls of growth."""
    users = [{"farthing.user": f"u{n % 7}"} for n in range(30)]
    dear = {"team": "search", "model": "gpt-4o", "input": 1_000, "output": 100, "seconds": 2.0}
    cheap = {"team": "search", "model": "gpt-4o-mini", "input": 1_000, "output": 100, "seconds": 0.5}
    calls = [{**dear, "attributes": user} for user in users[:20]] + [{**cheap, "attributes": u} for u in users[20:]]
    same = {"team": "growth", "hash": "h", "input": 1_000, "output": 100, "temperature": 0.0}
    calls += [{**same, "at": noon + timedelta(minutes=90 * n)} for n in (0, 0, 1)]
    put_calls(tenant, calls)

    def make(*after: Policy, before: tuple[Policy, ...] = ()) -> plan.Plan:
        documents = (Document(version=1, policies=before), Document(version=2, policies=after))
        return plan.make(warehouse, Settings(), window, *documents)

    return make


def test_a_route_is_priced_call_by_call_and_its_latency_is_what_the_model_showed(planned: Make) -> None:
    made = planned(route())
    whole, search = made.effects
    # gpt-4o: 2.50 and 10 USD per million tokens, gpt-4o-mini: 0.15 and 0.60; 20 calls in 2 days
    assert whole.usd_per_day.value == pytest.approx(-20 * (0.0035 - 0.00021) / 2)
    assert whole.usd_per_day.low is not None and whole.usd_per_day.high is not None
    assert whole.usd_per_day.low < -20 * (0.0035 - 0.00021) / 2 < whole.usd_per_day.high < 0
    assert (whole.requests, whole.hit, whole.unknown) == (33, 20, 0)
    assert whole.latency_s.value == pytest.approx(-1.5) and whole.error_share.value == 0
    assert (search.team, search.requests, search.hit) == ("search", 30, 20)
    assert made.hits == [plan.Hit("cheap", "added", "enforce", 1.0, 20)]


def test_a_cache_answers_what_it_had_answered_within_its_time(planned: Make) -> None:
    made = planned(cache())
    whole, growth = made.effects
    assert whole.usd_per_day.value == pytest.approx(-0.00021 / 2)  # the third call came after the hour
    assert (whole.hit, growth.team, growth.hit) == (1, "growth", 1)
    assert made.hits[0].requests == 33  # it looks for an answer to each


def test_a_policy_in_shadow_is_planned_at_full_strength_and_said_to_act_on_nothing_yet(planned: Make) -> None:
    quiet = planned(route(mode="shadow"))
    assert quiet.hits == [plan.Hit("cheap", "added", "shadow", 0.0, 20)]
    tried = planned(route(mode="canary", canary={"share": 0.25}, verify={"unit": "user"}))
    assert tried.hits[0].share == 0.25 and tried.effects[0].hit == 20


def test_taking_a_policy_out_is_the_opposite_of_putting_it_in(planned: Make) -> None:
    there, back = planned(route()), planned(before=(route(),))
    assert back.effects[0].usd_per_day.value == pytest.approx(-(there.effects[0].usd_per_day.value or 0))
    assert back.hits == [plan.Hit("cheap", "removed", "enforce", 0.0, 20)]


def test_what_has_no_price_or_was_never_seen_is_unknown_and_not_zero(planned: Make) -> None:
    made = planned(route(to="nobody-knows-this-model"))
    whole = made.effects[0]
    assert (whole.hit, whole.unknown, whole.usd_per_day.value, whole.latency_s.value) == (20, 20, None, None)
    assert any("no price" in note for note in made.notes)


def test_nothing_changed_is_nothing_hit(planned: Make) -> None:
    made = planned(route(), before=(route(),))
    assert made.hits == [] and made.effects[0].hit == 0 and made.effects[0].usd_per_day.value == 0


def test_a_policy_by_key_is_said_not_to_be_replayed(planned: Make) -> None:
    made = planned(route(match={"key": "prod"}))
    assert made.effects[0].hit == 0 and made.notes == ["Rows do not name keys, so cheap could not be replayed."]


def test_the_same_window_gives_the_same_plan_and_it_is_a_page(planned: Make, noon: datetime) -> None:
    first, second = planned(route()), planned(route())
    assert plan.plain(first) == plan.plain(second)
    shown = html.render(page(first, noon))
    assert "Policy plan" in shown and "20 of 33 calls would be treated otherwise" in shown
