"""proxy/budget_rules.py: what a budget refuses before any money is set aside."""
from __future__ import annotations

import json

from tests.proxy.rig import Rig, asked, post

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
