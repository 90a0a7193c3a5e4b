"""analyzer/guardrails.py and sequence.py: harm is found, and nothing is not, however often one looks."""
from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest

from analyzer.guardrails import Verdict, judge
from analyzer.sequence import BURN_IN, radius
from farthing.policy import Policy

START = datetime(2026, 3, 1, tzinfo=timezone.utc)


def policy(metric: str, max_increase: float, unit: str = "request") -> Policy:
    rails = [{"metric": metric, "max_increase": max_increase}]
    verify = {"unit": unit, "guardrails": rails}
    given = {"action": {"cache": {}}, "mode": "canary", "canary": {"share": 0.3}, "verify": verify}
    return Policy.model_validate({"name": "tried", **given})


def calls(number: int, seed: int = 1, slower: float = 1.0, errors: float = 0.01, share: float = 0.3) -> list[Any]:
    """Calls whose treated side takes `slower` times as long and fails `errors` more often."""
    random = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for n in range(number):
        treated = bool(random.random() < share)
        side = "treatment" if treated else "control"
        rows.append(
            {
                "started_at": START + timedelta(seconds=n), "user": f"u{n}", "session": "", "span_id": f"s{n}",
                "outcome": "error" if random.random() < 0.01 + errors * treated else "ok", "cost_usd": None,
                "duration_s": random.lognormal(0.0, 0.6) * (slower if treated else 1.0), "ttft_s": None,
                "arms": json.dumps([f"tried:{side}:{share}", f"other:{side}:0.5"]),
            }
        )
    return rows


def judged(one: Policy, rows: list[Any], since: datetime = START) -> Verdict:
    (verdict,) = judge([one], {"tried": since}, rows)
    return verdict


def test_a_policy_that_makes_calls_half_as_slow_again_crosses_a_tenth() -> None:
    verdict = judged(policy("latency", 0.1), calls(3000, slower=1.5))
    assert verdict.is_crossed and verdict.treated + verdict.control == 3000
    assert "more than the allowed increase of 10%" in verdict.says and verdict.says.startswith("latency: ")


def test_what_is_allowed_is_not_crossed() -> None:
    assert not judged(policy("latency", 0.6), calls(3000, slower=1.5)).is_crossed
    assert not judged(policy("errors", 0.05), calls(3000, errors=0.03)).is_crossed


def test_errors_are_judged_by_their_share() -> None:
    assert judged(policy("errors", 0.01), calls(3000, errors=0.2)).is_crossed


def test_a_comparison_of_nothing_with_nothing_is_hardly_ever_crossed_however_often_one_looks() -> None:
    """A z-test at 20 looks is wrong in about a quarter of such comparisons."""
    random, wrong, naive = np.random.default_rng(7), 0, 0
    for _ in range(300):
        values = random.lognormal(0.0, 0.6, 2000)
        treated = random.random(2000) < 0.3
        stream = (values - values.mean()) * np.where(treated, 1 / 0.3, -1 / 0.7)
        looks = range(BURN_IN, 2001, 90)
        means = [(stream[:n].mean(), stream[:n].std(), n) for n in looks]
        wrong += any(abs(mean) > radius(n, deviation**2) for mean, deviation, n in means)
        naive += any(abs(mean) > 1.96 * deviation / n**0.5 for mean, deviation, n in means)
    assert wrong <= 300 * 0.05 < naive


def test_a_user_is_one_observation_however_many_calls_they_make() -> None:
    rows = calls(2000, slower=3.0)
    for n, row in enumerate(rows):
        row["user"] = f"u{n % 10}{row['arms'][10]}"
    verdict = judged(policy("latency", 0.1, unit="user"), rows)
    assert verdict.treated + verdict.control <= 20 and not verdict.is_crossed
    assert verdict.says.endswith(f"of {BURN_IN} users that a first look needs")


def test_what_was_before_the_policy_became_what_it_is_does_not_count() -> None:
    verdict = judged(policy("latency", 0.1), calls(3000, slower=1.5), START + timedelta(seconds=2990))
    assert verdict.treated + verdict.control == 10 and not verdict.is_crossed


@pytest.mark.parametrize("metric", ["cost", "ttft"])
def test_what_nobody_measured_is_not_judged(metric: str) -> None:
    assert judged(policy(metric, 0.0), calls(300)).says == f"{metric}: nothing measured yet on either side"
