"""analyzer/slo.py: service levels over the calls of a scope, as they stand and as guardrails."""
from __future__ import annotations

import json
import uuid
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest

from analyzer import slo
from analyzer.guardrails import judge
from farthing import semconv
from farthing.policy import Policy
from farthing.policy.kinds.slo import Slo
from farthing.warehouse import Warehouse
from tests.analyzer.conftest import NOON

START = datetime(2026, 3, 1, tzinfo=timezone.utc)


def level(**spec: Any) -> Slo:
    return Slo.from_written({"name": "good", **spec})


@pytest.fixture
def now(noon: datetime) -> datetime:
    return noon + timedelta(minutes=30)


@pytest.fixture(scope="module")
def called(put_calls: Any) -> str:
    """A tenant with ten calls of half a second now, ten yesterday of which two take four seconds and one failed."""
    tenant, noon = f"slo-{uuid.uuid4().hex[:12]}", NOON
    quick = {"team": "search_1", "model": "gpt-4o-mini", "input": 1000, "output": 1000, "seconds": 0.5}
    before = noon - timedelta(hours=20)
    failed = {**quick, "at": before, "attributes": {semconv.OUTCOME: "error"}}
    slow = {**quick, "at": before, "seconds": 4.0, "attributes": {"farthing.tag.tier": "gold"}}
    put_calls(tenant, [quick] * 10 + [slow] * 2 + [{**quick, "at": before}] * 7 + [failed])
    return tenant


def stands(warehouse: Warehouse, tenant: str, now: datetime, **spec: Any) -> slo.Standing:
    (found,) = slo.standings(warehouse, tenant, [level(**spec)], now)
    return found


@pytest.mark.parametrize(
    ("spec", "calls", "missed"),
    [
        ({"errors": {"share": 0.9}}, 20, 1),
        ({"latency": {"share": 0.9, "within_ms": 2000}}, 19, 2),
        ({"latency": {"share": 0.9, "within_ms": 5000}}, 19, 0),
        ({"ttft": {"share": 0.9, "within_ms": 100}}, 0, 0),
        ({"cost": {"share": 0.9, "within": "0.001 USD"}}, 19, 0),
        ({"cost": {"share": 0.9, "within": "0.0001 USD"}}, 19, 19),
        ({"errors": {"share": 0.9}, "scope": {"team": "search_*", "model": ["gpt-4*"]}}, 20, 1),
        ({"errors": {"share": 0.9}, "scope": {"team": "search?1"}}, 20, 1),
        ({"errors": {"share": 0.9}, "scope": {"team": "search%"}}, 0, 0),
        ({"errors": {"share": 0.9}, "scope": {"user": "*"}}, 0, 0),
        ({"latency": {"share": 0.9, "within_ms": 2000}, "scope": {"tags": {"tier": "g*"}}}, 2, 2),
        ({"errors": {"share": 0.9}, "scope": {"tenant": "another"}}, 0, 0),
    ],
    ids=["errors", "latency", "all-in-time", "no-streams", "cheap", "dear", "globs", "mark", "percent", "absent", "tag",
         "tenant"],
)  # fmt: skip
def test_calls_are_counted_by_measure_and_scope(
    warehouse: Warehouse, called: str, now: datetime, spec: dict[str, Any], calls: int, missed: int
) -> None:
    found = stands(warehouse, called, now, **spec)
    assert (found.calls, found.missed) == (calls, missed)
    assert found.good == (None if not calls else pytest.approx(1 - missed / calls))


def test_what_is_left_of_the_error_budget_and_how_fast_it_burns(
    warehouse: Warehouse, called: str, now: datetime
) -> None:
    found = stands(warehouse, called, now, errors={"share": 0.9})
    assert found.budget_left == pytest.approx(0.5) and found.is_met  # 1 of the 2 that 20 calls allow
    assert [(burn.hours, burn.calls, burn.rate) for burn in found.burns] == [
        (1.0, 10, 0.0), (6.0, 10, 0.0), (24.0, 20, pytest.approx(0.5))
    ]  # fmt: skip
    broken = stands(warehouse, called, now, latency={"share": 0.99, "within_ms": 2000})
    assert not broken.is_met and broken.budget_left == pytest.approx(1 - (2 / 19) / 0.01)


def test_without_calls_nothing_is_claimed(warehouse: Warehouse, tenant: str, now: datetime) -> None:
    found = stands(warehouse, tenant, now, errors={"share": 0.9})
    assert (found.calls, found.good, found.budget_left, found.is_met) == (0, None, None, True)


def rows(slower: float) -> list[dict[str, Any]]:
    random, found = np.random.default_rng(3), list[dict[str, Any]]()
    for n in range(2000):
        treated = bool(random.random() < 0.5)
        found.append(
            {
                "started_at": START, "span_id": f"s{n}", "user": "", "session": "", "team": "search",
                "feature": "", "api_key": "", "tags": {}, "asked_model": "chat", "outcome": "ok", "cost_usd": None,
                "ttft_s": None, "duration_s": random.random() * (slower if treated else 1.0),
                "arms": json.dumps([f"tried:{'treatment' if treated else 'control'}:0.5"]),
            }
        )  # fmt: skip
    return found


def verdict(slower: float, name: str = "good", **scope: Any) -> Any:
    rails = [{"metric": "slo", "slo": name, "max_increase": 0.05}]
    given = {"action": {"cache": {}}, "mode": "canary", "canary": {"share": 0.5}, "verify": {"guardrails": rails}}
    policy = Policy.model_validate({"name": "tried", **given})
    good = level(latency={"share": 0.9, "within_ms": 900}, scope=scope)
    (found,) = judge([policy], {"tried": START}, rows(slower), {"good": good}, "default")
    return found


def test_a_policy_that_makes_calls_miss_an_objective_more_often_crosses_its_guardrail() -> None:
    found = verdict(slower=2.0)
    assert found.is_crossed and found.metric == "slo good"
    assert found.treated_mean == pytest.approx(0.55, abs=0.05) and found.control_mean == pytest.approx(0.1, abs=0.05)
    assert "% more than the allowed increase of 5%" in found.says


def test_what_is_within_the_allowed_increase_or_outside_the_scope_is_not_crossed() -> None:
    assert not verdict(slower=1.0).is_crossed
    other = verdict(slower=2.0, team="ads")
    assert not other.is_crossed and (other.treated, other.control) == (0, 0)


def test_a_guardrail_that_names_no_objective_says_that_it_guards_nothing() -> None:
    assert "there is no Slo 'gone'" in verdict(slower=2.0, name="gone").says
