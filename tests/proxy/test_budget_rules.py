"""proxy/budget_rules.py: what a budget refuses before any money is set aside."""
from __future__ import annotations

import json

from farthing import http_json, semconv
from tests.proxy.rig import COST, Rig, answer_of, answers, asked, post, until

HEAD = """\
apiVersion: farthing/v1
kind: Budget
metadata: {name: ruled, owner: ann}
scope: {team: ruled}
limit: 1 USD
"""


def test_a_suspended_budget_refuses_every_call_and_says_whom_to_ask(rig: Rig) -> None:
    rig.apply(HEAD + "suspended: true\n")
    response = post(rig, "ruled", json.dumps(asked()).encode())
    error = json.loads(response.whole)["error"]  # type: ignore[attr-defined]
    assert (response.status, error["code"]) == (403, "budget_suspended") and "(ann)" in error["message"]
    rig.apply(HEAD)
    assert post(rig, "ruled", json.dumps(asked()).encode()).status == 200
    assert rig.balance("ruled")["refused"] == 0


def test_a_call_that_may_cost_more_than_its_budget_allows_one_call_is_refused_with_both_amounts(rig: Rig) -> None:
    body = json.dumps(asked()).encode()
    most = (len(body) + 128) * 1000 + 20 * 2000  # what it may cost at worst, nano-dollars
    rig.apply(HEAD + f"per_request: {(most - 1) / 1e9:.9f} USD\n")
    response = post(rig, "ruled", body)
    error = json.loads(response.whole)["error"]  # type: ignore[attr-defined]
    assert (response.status, error["code"], error["param"]) == (400, "request_too_dear", "max_tokens")
    assert f"{most / 1e9:.9f}" in error["message"] and f"{(most - 1) / 1e9:.9f}" in error["message"]
    rig.apply(HEAD + f"per_request: {most / 1e9:.9f} USD\n")
    assert post(rig, "ruled", body).status == 200


def test_past_its_thresholds_a_budget_sends_calls_to_a_cheaper_model_and_then_waits_for_approval(rig: Rig) -> None:
    """One call costs 20,000 nUSD: 40 % of the limit."""
    team = "staged"
    rig.apply(
        f"apiVersion: farthing/v1\nkind: Budget\nmetadata: {{name: {team}}}\nscope: {{team: {team}}}\n"
        "limit: 0.00005 USD\nhard: false\nwindow: {calendar: total}\n"
        "thresholds: [{at: 40%, act: route, to: own}, {at: 80%, act: approve}, {at: 30%}]\n"
    )
    body = json.dumps(asked()).encode()
    before = rig.status()["policy_checksum"]
    assert f"budget/{team}" not in post(rig, team, body).headers[semconv.HEADER_POLICY]
    until(lambda: rig.balance(team)["crossed"] == ["at 30%", "at 40%: route to own"], "the ledger tells of both")
    until(lambda: rig.status()["policy_checksum"] != before, "the proxy follows")
    assert f"budget/{team}" in post(rig, team, body).headers[semconv.HEADER_POLICY]
    assert json.loads(rig.upstream.received[-1].body)["model"] == "own"
    until(lambda: post(rig, team, body).status == 403, "somebody has to approve")
    refused = json.loads(post(rig, team, body).whole)["error"]  # type: ignore[attr-defined]
    assert refused["code"] == "approval_required"
    http_json.call("POST", f"{rig.policies}/v1/budgets/{team}/approve?author=ann")
    until(lambda: post(rig, team, body).status == 200, "it was approved")
    events = http_json.call("GET", f"{rig.policies}/v1/budget-events")["events"]
    told = [(row["threshold"], row["limit_nusd"]) for row in events if row["budget"] == team]
    assert told == [("at 40%: route to own", 50_000), ("at 30%", 50_000), ("at 80%: approve", 50_000)]


def staged(rig: Rig, team: str, act: str) -> None:
    """Make a budget whose threshold acts, and spend past it."""
    rig.apply(
        f"apiVersion: farthing/v1\nkind: Budget\nmetadata: {{name: {team}}}\nscope: {{team: {team}}}\n"
        f"limit: 0.00005 USD\nhard: false\nwindow: {{calendar: total}}\nthresholds: [{{at: 10%, act: {act}}}]\n"
    )
    before = rig.status()["policy_checksum"]
    assert post(rig, team, json.dumps(asked()).encode()).status == 200
    until(lambda: rig.balance(team)["crossed"] == [f"at 10%: {act}"], "the ledger tells of it")
    until(lambda: rig.status()["policy_checksum"] != before, "the proxy follows")
    rig.upstream.received.clear()


def test_past_a_threshold_calls_go_to_the_cheapest_deployment_of_their_model(rig: Rig) -> None:
    staged(rig, "thrifty", "cheapest")
    body = json.dumps(asked("many")).encode()
    found = [post(rig, "thrifty", body).headers[semconv.HEADER_POLICY] for _ in range(4)]
    assert all("budget/thrifty" in names for names in found)
    assert [one.path for one in rig.upstream.received] == ["/west/v1/chat/completions"] * 4


def test_past_a_threshold_calls_ask_for_the_flex_tier_where_it_has_a_price_and_the_caller_has_not_chosen(
    rig: Rig,
) -> None:
    staged(rig, "flexing", "flex")
    rig.upstream.next(answers(answer_of(service_tier="flex")))
    for more in ({"model": "flexible"}, {"model": "flexible", "service_tier": "default"}, {"model": "own"}):
        assert post(rig, "flexing", json.dumps(asked(**more)).encode()).status == 200
    assert [one.json.get("service_tier") for one in rig.upstream.received] == ["flex", "default", None]
    until(lambda: len(rig.spans("flexing")) == 4, "every call is recorded")
    flexed = next(span for span in rig.spans("flexing") if span[semconv.REQUEST_MODEL] == "flexible")
    assert (flexed[semconv.SERVICE_TIER], flexed[semconv.SETTLED_NUSD]) == ("flex", COST // 2)
