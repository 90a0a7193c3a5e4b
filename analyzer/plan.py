"""What would a new policy document have done with the traffic of the last days?

The answer is a prediction: policies that a change adds or alters are replayed as if they were enforced on everybody,
and what they act on at once is told beside it. Only a holdout can verify a saving.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from analyzer import figures
from analyzer.plan_effects import Effect, effects
from analyzer.plan_replay import Pricing, Replayed, at_full_strength, replay
from analyzer.window import Window
from farthing.policy import Document, Policy
from farthing.settings import Settings
from farthing.warehouse.client import Warehouse

MAX_ROWS = 50_000  # replayed of one window; more are drawn from


@dataclass(frozen=True)
class Hit:
    """What one policy would have acted on."""

    policy: str
    change: str  # added | changed | removed
    mode: str  # as the document has it
    share: float  # of its requests that it acts on at once: 0 in shadow
    requests: int  # it would act on, at full strength


@dataclass(frozen=True)
class Plan:
    """The prediction for one window."""

    window: Window
    requests: int
    replayed: int
    hits: Sequence[Hit]
    effects: Sequence[Effect]  # the first is of all teams
    notes: Sequence[str]


def make(warehouse: Warehouse, settings: Settings, window: Window, before: Document, after: Document) -> Plan:
    """Replay a window under both documents.

    Raises:
        WarehouseError: the store refused the question.
    """
    rows = figures.ask(warehouse, window, "plan_requests", limit=MAX_ROWS)
    changed = _changed(before, after)
    full = at_full_strength(after, changed)
    calls = replay(rows, window.tenant, before, full, Pricing(settings))
    total = rows[0]["total"] if rows else 0
    scale = total / len(rows) if rows else 1.0
    days = (window.until - window.since).total_seconds() / 86_400
    found = effects(calls, scale, days)
    hits = [_hit(name, how, before, after, calls, scale, window.until) for name, how in changed.items()]
    return Plan(window, total, len(rows), hits, found, _notes(changed, before, after, total, len(rows), found[0]))


def _changed(before: Document, after: Document) -> dict[str, str]:
    """Return the policies that differ, by name, and how."""
    old, new = ({one.name: one for one in document.policies} for document in (before, after))
    how = {name: "added" if name not in old else "removed" if name not in new else "changed" for name in old | new}
    return {name: how[name] for name in sorted(how) if old.get(name) != new.get(name)}


def _hit(
    name: str, how: str, before: Document, after: Document, calls: Sequence[Replayed], scale: float, now: datetime
) -> Hit:
    policy = next(one for one in (*after.policies, *before.policies) if one.name == name)
    side = [call.before if how == "removed" else call.after for call in calls]
    count = sum(name in outcome.acted for outcome in side)
    return Hit(name, how, policy.mode, 0.0 if how == "removed" else share_at_once(policy, now), round(count * scale))


def share_at_once(policy: Policy, now: datetime) -> float:
    """Return the share of its requests that a policy acts on now."""
    trial = policy.trial()
    return trial.share(now.date()) if trial is not None else float(policy.mode == "enforce")


def _notes(
    changed: Mapping[str, str], before: Document, after: Document, total: int, replayed: int, whole: Effect
) -> list[str]:
    policies = {one.name: one for one in (*before.policies, *after.policies)}
    by_key = [name for name in changed if policies[name].match.key]
    tokens = [name for name in changed if policies[name].action.tokens]
    budgets = before.budgets != after.budgets
    return [
        text
        for holds, text in (
            (replayed < total, f"{replayed:,} of {total:,} calls were replayed, drawn evenly, and scaled up."),
            (by_key, f"Rows do not name keys, so {', '.join(by_key)} could not be replayed."),
            (tokens, f"What {', '.join(tokens)} would cut of the tokens is not predicted; only who is hit."),
            (budgets, "Budgets differ; whom they would refuse is not predicted."),
            (whole.unknown, f"{whole.unknown:,} of the calls hit have no price on one side; their money is not in it."),
            (total == 0, "There were no calls in the window, so nothing can be predicted."),
        )
        if holds
    ]


def plain(plan: Plan) -> dict[str, Any]:
    """Return a plan as JSON has it."""
    bounds = {"since": plan.window.since.isoformat(), "until": plan.window.until.isoformat()}
    return {
        **bounds,
        "requests": plan.requests,
        "replayed": plan.replayed,
        "policies": [asdict(hit) for hit in plan.hits],
        "effects": [asdict(effect) for effect in plan.effects],
        "notes": list(plan.notes),
    }
