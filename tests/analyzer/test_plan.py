"""analyzer/plan*.py: what a change would do, from the calls that were, by the code that will decide."""
from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from analyzer import html, plan
from analyzer.plan_page import page
from analyzer.window import Window
from collector.price_api import PriceApi
from collector.pricing import Pricing
from farthing import semconv
from farthing.policy import Budget, Document, Named, Policy
from farthing.prices import PriceBook
from farthing.settings import Deployment, Settings
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


def test_a_model_whose_price_was_added_at_run_time_is_planned_at_that_price(
    planned: Make, warehouse: Warehouse
) -> None:
    model = f"house-{uuid.uuid4().hex}"
    assert planned(route(to=model)).effects[0].usd_per_day.value is None
    price = {"provider": "openai", "model": model, "input": "1", "output": "2", "valid_from": "2026-01-01"}
    api = PriceApi(Settings(), warehouse, Pricing(warehouse, PriceBook()))
    api.write("/v1/prices", json.dumps(price).encode(), {"content-type": "application/json"}, "default")
    whole = planned(route(to=model)).effects[0]
    assert (whole.hit, whole.unknown) == (20, 0)
    assert whole.usd_per_day.value == pytest.approx(-20 * (0.0035 - 0.0012) / 2)


def test_what_has_no_price_or_was_never_seen_is_unknown_and_not_zero(planned: Make) -> None:
    made = planned(route(to="nobody-knows-this-model"))
    whole = made.effects[0]
    assert (whole.hit, whole.unknown, whole.usd_per_day.value, whole.latency_s.value) == (20, 20, None, None)
    assert any("no price" in note for note in made.notes)


def test_nothing_changed_is_nothing_hit(planned: Make) -> None:
    made = planned(route(), before=(route(),))
    assert made.hits == [] and made.effects[0].hit == 0 and made.effects[0].usd_per_day.value == 0


def test_a_policy_by_key_is_replayed_where_calls_name_theirs(planned: Make) -> None:
    made = planned(route(match={"key": "prod"}))
    assert made.effects[0].hit == 0 and made.notes == ["No call of the window names a key, so cheap hit none."]


def test_the_same_window_gives_the_same_plan_and_it_is_a_page(planned: Make, noon: datetime) -> None:
    first, second = planned(route()), planned(route())
    assert plan.plain(first) == plan.plain(second)
    shown = html.render(page(first, noon))
    assert "Policy plan" in shown and "20 of 33 calls would be treated otherwise" in shown


# Strategies, budgets and tokens


POOL = (
    Deployment("gpt-4o", provider="openai", name="east", url="http://east", region="eu", quality=0.9),
    Deployment("gpt-4o-mini", provider="openai", name="west", url="http://west", quality=0.5),
)


@pytest.fixture
def changed(put_calls: Any, warehouse: Warehouse, tenant: str, window: Window, noon: datetime) -> Make:
    """Plan over ten calls of gpt-4o at `east` of two seconds, a minute apart, and ten of gpt-4o-mini at `west`."""
    served = {"team": "search", "input": 1_000, "output": 100}
    calls = [
        {
            **served, "model": model, "seconds": seconds, "at": noon + timedelta(minutes=n),
            "attributes": {semconv.DEPLOYMENT: f"http://{where}", "farthing.session": f"s{n % 5}", semconv.TASK: task,
                           semconv.TASK_CONFIDENCE: 0.9, semconv.TASK_COMPLEXITY: complexity},
        }
        for n in range(10)
        for model, where, seconds, task, complexity in (
            ("gpt-4o", "east", 2.0, "simple_qa", 0.1), ("gpt-4o-mini", "west", 0.5, "code", 0.9),
        )
    ]  # fmt: skip
    put_calls(tenant, calls)

    def make(*after: Named, before: tuple[Named, ...] = ()) -> plan.Plan:
        documents = (Document.of(1, before), Document.of(2, after))
        return plan.make(warehouse, Settings(deployments=POOL), window, *documents)

    return make


DEAR, CHEAP = 0.0035, 0.00021  # USD of a call at either model
BOTH = {"models": ["gpt-4o", "gpt-4o-mini"]}


def by(strategy: str, **fields: Any) -> Policy:
    return Policy.model_validate({"name": "pool", "action": {"route": {"strategy": strategy, **fields}}})


@pytest.mark.parametrize(
    ("policy", "usd", "seconds", "hit"),
    [
        (by("cost", **BOTH), -10 * (DEAR - CHEAP), -1.5, 20),
        (by("fixed", deployment="east", **BOTH), 10 * (DEAR - CHEAP), 1.5, 20),
        (by("requirement", need={"region": "eu"}, **BOTH), 10 * (DEAR - CHEAP), 1.5, 20),
        (by("requirement", need={"max_latency_ms": 1000}, **BOTH), -10 * (DEAR - CHEAP), -1.5, 20),
        (by("weighted", weights={"east": 0}, **BOTH), -10 * (DEAR - CHEAP), -1.5, 20),
        (by("tier", tiers=[{"model": "gpt-4o-mini", "max_complexity": 0.5}, {"model": "gpt-4o"}]), 0.0, 0.0, 20),
    ],
    ids=["cost", "fixed", "region", "latency", "weighted", "tier"],
)
def test_a_strategy_is_replayed_with_the_code_that_chooses_in_the_proxy(
    changed: Make, policy: Policy, usd: float, seconds: float, hit: int
) -> None:
    whole = changed(policy).effects[0]
    assert whole.usd_per_day.value == pytest.approx(usd / 2)  # two days
    assert whole.latency_s.value == pytest.approx(seconds / 2)  # half of the calls were there already
    assert (whole.hit, whole.unknown, whole.refused_per_day.value) == (hit, 0, 0)


def test_what_a_cascade_does_is_said_to_be_unknown_between_its_bounds(changed: Make) -> None:
    models = ["gpt-4o-mini", "gpt-4o"]
    made = changed(by("cascade", models=models, cascade={"min_quality": 0.8}))
    assert made.effects[0].unknown == 20 and made.effects[0].usd_per_day.value is None
    least, most = (20 * CHEAP - 10 * (DEAR + CHEAP)) / 2, (20 * (CHEAP + DEAR) - 10 * (DEAR + CHEAP)) / 2
    (said,) = [one for one in made.notes if "strategy cascade" in one]
    assert f"It is {least:+.4f} USD a day if the first always serves, and {most:+.4f} if every model is asked" in said


def test_a_strategy_over_models_that_nobody_serves_is_unknown(changed: Make) -> None:
    made = changed(by("cost", models=["here", "there"]))
    assert made.effects[0].unknown == 20 and any("no such deployment" in one for one in made.notes)


def budget(limit: str, **fields: Any) -> Budget:
    return Budget.from_written({"name": "small", "limit": limit, "scope": {"team": "search"}, **fields})


def test_a_budget_refuses_what_no_longer_fits_in_the_order_in_which_the_calls_came(changed: Make) -> None:
    made = changed(budget(f"{5 * (DEAR + CHEAP):.9f} USD"))
    whole = made.effects[0]
    assert whole.hit == 10 and whole.refused_per_day.value == pytest.approx(5)
    assert whole.refused_per_day.low is not None and 0 < whole.refused_per_day.low < 5
    assert whole.usd_per_day.value == pytest.approx(-5 * (DEAR + CHEAP) / 2)
    assert made.hits == [plan.Hit("budget/small", "added", "hard", 1.0, 10)]
    assert any(note.startswith("Budgets refuse by what calls cost") for note in made.notes)


def test_what_was_spent_before_the_window_counts_and_a_soft_budget_refuses_nothing(
    changed: Make, put_calls: Any, tenant: str, window: Window
) -> None:
    put_calls(tenant, [{"team": "search", "model": "gpt-4o", "input": 1000, "output": 100,
                        "at": window.since - timedelta(days=1)}] * 5)  # fmt: skip
    limit = f"{15 * DEAR + 10 * CHEAP:.9f} USD"
    assert changed(budget(limit)).effects[0].hit == 0
    assert changed(budget(limit, window={"calendar": "day"})).effects[0].hit == 0
    limit = f"{5 * DEAR:.9f} USD"
    assert changed(budget(limit)).effects[0].hit == 20
    assert changed(budget(limit, window={"rolling": "24h"})).effects[0].hit < 20
    assert changed(budget(limit, hard=False)).effects[0].hit == 0


def test_a_budget_fallback_goes_by_the_balance_of_the_replay(changed: Make) -> None:
    steps = by("budget_fallback", models=["gpt-4o", "gpt-4o-mini"], budget={"at": [0.5]})
    made = changed(steps, budget(f"{20 * DEAR:.9f} USD"))
    # ten dear calls use half of it, the ten after them go to the cheap model
    assert made.effects[0].usd_per_day.value == pytest.approx((10 * DEAR + 10 * CHEAP - 10 * (DEAR + CHEAP)) / 2)


def limit(**action: Any) -> Policy:
    return Policy.model_validate({"name": "short", "action": {"tokens": action}})


def test_limits_of_tokens_are_held_against_the_calls_own(changed: Make) -> None:
    whole = changed(limit(max_output=40)).effects[0]
    assert whole.tokens_per_day.value == pytest.approx(-20 * 60 / 2)
    assert whole.usd_per_day.value == pytest.approx(-(10 * 60 * 10e-6 + 10 * 60 * 0.6e-6) / 2)
    trimmed = changed(limit(max_input=600, on_long_input="trim")).effects[0]
    assert trimmed.tokens_per_day.value == pytest.approx(-20 * 400 / 2)
    refused = changed(limit(max_input=600)).effects[0]
    assert refused.refused_per_day.value == pytest.approx(10) and refused.tokens_per_day.value == pytest.approx(-11_000)
    assert changed(limit(max_input=1_000)).effects[0].hit == 0


def test_what_compressing_cuts_is_known_only_from_a_shadow_of_the_same_policy(
    changed: Make, put_calls: Any, tenant: str, noon: datetime
) -> None:
    wanted = limit(compress={})
    told = changed(wanted)
    assert told.effects[0].hit == 0 and any("only where it ran in shadow" in note for note in told.notes)
    ran = {"farthing.tokens.shadow.before": 800, "farthing.tokens.shadow.after": 400}
    put_calls(tenant, [{"model": "gpt-4o", "input": 1_000, "output": 100, "attributes": ran}])
    shadow = wanted.model_copy(update={"mode": "shadow"})
    assert changed(wanted, before=(shadow,)).effects[0].tokens_per_day.value == pytest.approx(-250)
    assert changed(limit(compress={"whitespace": False}), before=(shadow,)).effects[0].hit == 0
