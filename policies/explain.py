"""Why a request was treated as it was: each policy of its version that matched, what it saw, and what became of it.

The document of that version decides about the same facts once more; what the proxy wrote down stands beside it, so that
a difference would show.
"""
from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

from farthing.policy import CompiledDocument, Decision, Document, Facts, Match, Policy, decide
from farthing.policy.index import columns_of, matches, precedence
from farthing.policy.when import compiled


def explain(document: Document, facts: Facts, request_id: str, day: date) -> dict[str, Any]:
    """Return the decision about a request, and a line for each policy and budget that its facts fit."""
    decision = decide(CompiledDocument(document), facts, day, request_id)
    arms = {arm.policy: arm for arm in decision.arms}
    lines: list[dict[str, Any]] = []
    for policy in sorted(document.rules, key=precedence):
        if not matches(policy.match, facts):
            continue
        became, why = _became(policy, facts, day, decision, arms)
        arm = arms.get(policy.name)
        lines.append(
            {
                "policy": policy.name,
                "became": became,
                "why": why,
                "saw": _seen(policy.match, facts),
                "mode": policy.mode,
                "priority": policy.priority,
                "arm": None if arm is None else "treatment" if arm.is_treated else "control",
                "propensity": None if arm is None else arm.propensity,
            }
        )
    return {
        "version": document.version,
        "route_to": decision.route_to,
        "acted": decision.acted,
        "arms": [str(arm) for arm in decision.arms],
        "policies": lines,
        "budgets": [{"budget": one.name, "saw": _seen(one.scope, facts)} for one in decision.budgets],
    }


def _became(
    policy: Policy, facts: Facts, day: date, decision: Decision, arms: Mapping[str, object]
) -> tuple[str, str]:
    if policy.expires is not None and policy.expires < day:
        return "expired", f"its last day was {policy.expires}"
    if policy.action.concurrency is not None:
        return "window", "it sets the windows of the deployments that serve the model, request or none"
    if policy.when and not compiled(policy.when)(facts):
        return "condition", f"`{policy.when}` does not hold"
    if policy.name in decision.acted:
        return "acted", "nothing went before it"
    if policy.name in decision.shadowed:
        return "shadow", "it would have acted, and its mode is shadow"
    if policy.name in arms:
        return "held out", "its trial drew the control side"
    return "outranked", "another policy with the same kind of action went before it"


def _seen(match: Match, facts: Facts) -> dict[str, str]:
    """Return the facts that a match looked at."""
    return {
        column: facts.tags.get(column[4:], "") if column.startswith("tag:") else getattr(facts, column)
        for column in columns_of(match)
    }
