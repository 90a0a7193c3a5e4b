"""policies/propose.py: a finding leads to a document that loads, begins by doing nothing, and is proposed once."""
from __future__ import annotations

import json
from typing import Any

import pytest

from farthing.policy import EMPTY, Document
from policies.load import load
from policies.propose import Proposal, proposals

WINDOW = {"since": "2026-03-01T00:00:00+00:00", "until": "2026-03-02T00:00:00+00:00"}


def finding(kind: str = "cache_waste", **rest: Any) -> dict[str, Any]:
    evidence = {"team": "search", "model": "gpt-4o: \"mini\"", "requests": 9}
    told = {"title": "search on gpt-4o:\n9 repeated calls", "detail": "So.", "requests": 9, "cost_usd": "10.000000000"}
    return {"kind": kind, **told, "avoidable_usd": "4.000000000", "evidence": json.dumps(evidence), **WINDOW, **rest}


def only(*findings: dict[str, Any], document: Document = EMPTY) -> Proposal:
    (one,) = proposals(findings, document)
    return one


def test_repeats_lead_to_a_cache_in_shadow() -> None:
    one = only(finding())
    (policy,) = load(one.document).policies
    assert (policy.name, policy.mode, policy.owner) == ("cache-search-gpt-4o-mini", "shadow", "search")
    assert (policy.match.team, policy.match.model) == (("search",), ('gpt-4o: "mini"',))
    assert policy.action.cache is not None and one.document.startswith("# search on gpt-4o: 9 repeated calls\n")


def test_a_cost_driver_leads_to_a_soft_budget_a_fifth_above_what_is_spent() -> None:
    (budget,) = load(only(finding("cost_driver")).document).budgets
    assert (budget.name, budget.hard, budget.scope.team) == ("watch-search", False, ("search",))
    assert budget.limit_nusd == 364_800_000_000  # 10 USD a day for 30.4 days, and a fifth


def test_what_is_in_force_already_is_not_proposed_again() -> None:
    one = only(finding(), finding())
    in_force = Document.of(1, load(one.document).items)
    assert proposals([finding()], in_force) == []


@pytest.mark.parametrize(
    "odd",
    [finding("prophecy"), finding(requests=0), finding(evidence="{}"), finding("cost_driver", evidence='{"team": ""}'),
     finding("cost_driver", cost_usd="0.000000000")],
    ids=["unknown kind", "nothing found", "no evidence", "no team", "no cost"],
)  # fmt: skip
def test_what_has_no_template_or_says_nothing_leads_to_nothing(odd: dict[str, Any]) -> None:
    assert proposals([odd], EMPTY) == []
