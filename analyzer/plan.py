"""What would a new policy document have done with the traffic of the last days?

The answer is a prediction: policies that a change adds or alters are replayed as if they were enforced on everybody,
and what they act on at once is told beside it. Only a holdout can verify a saving.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from analyzer import figures
from analyzer.plan_budgets import spent_before
from analyzer.plan_effects import Effect, effects
from analyzer.plan_notes import Seen, notes
from analyzer.plan_pool import Shown
from analyzer.plan_replay import Ground, Pricing, Replayed, Task, at_full_strength, replay
from analyzer.window import Window
from farthing.policy import Budget, Document, Policy
from farthing.settings import Settings
from farthing.warehouse.client import Warehouse
from farthing.warehouse.price_store import PriceStore

MAX_ROWS = 50_000  # replayed of one window; more are drawn from


@dataclass(frozen=True)
class Hit:
    """What one policy would have acted on."""

    policy: str
    change: str  # added | changed | removed
    mode: str  # as the document has it
    share: float  # of its requests that it acts on at once: 0 in shadow
    requests: int  # it would act on, at full strength; of a budget: that it would refuse


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
        PriceError: a price that somebody added cannot be read.
    """
    rows = figures.ask(warehouse, window, "plan_requests", limit=MAX_ROWS)
    changed = _changed(before, after)
    full = at_full_strength(after, changed)
    total = rows[0]["total"] if rows else 0
    scale = total / len(rows) if rows else 1.0
    spent = [spent_before(warehouse, window, document) for document in (before, full)]
    tasks = _tasks(warehouse, window) if any(_is_tiered(one) for one in (*before.rules, *full.rules)) else {}
    pricing = Pricing(settings, PriceStore(warehouse).own())
    ground = Ground(window.tenant, settings, pricing, Shown(settings, rows), tasks, spent, scale)
    calls = replay(rows, before, full, ground)
    days = (window.until - window.since).total_seconds() / 86_400
    found = effects(calls, scale, days)
    hits = [_hit(name, how, before, after, calls, scale, window.until) for name, how in changed.items()]
    hits += [_refuses(one, before, calls, scale) for one in after.budgets if one not in before.budgets]
    seen = Seen(changed, before, after, total, len(rows), found[0], calls, scale / days, rows)
    return Plan(window, total, len(rows), hits, found, notes(seen))


def _changed(before: Document, after: Document) -> dict[str, str]:
    """Return the policies that differ, by name, and how."""
    old, new = ({one.name: one for one in document.rules} for document in (before, after))
    how = {name: "added" if name not in old else "removed" if name not in new else "changed" for name in old | new}
    return {name: how[name] for name in sorted(how) if old.get(name) != new.get(name)}


def _hit(
    name: str, how: str, before: Document, after: Document, calls: Sequence[Replayed], scale: float, now: datetime
) -> Hit:
    policy = next(one for one in (*after.rules, *before.rules) if one.name == name)
    side = [call.before if how == "removed" else call.after for call in calls]
    count = sum(name in outcome.acted for outcome in side)
    return Hit(name, how, policy.mode, 0.0 if how == "removed" else share_at_once(policy, now), round(count * scale))


def _refuses(budget: Budget, before: Document, calls: Sequence[Replayed], scale: float) -> Hit:
    name = f"budget/{budget.name}"
    how = "changed" if budget.name in [one.name for one in before.budgets] else "added"
    count = sum(call.after.refused_by == name for call in calls)
    return Hit(name, how, "hard" if budget.hard else "soft", 1.0, round(count * scale))


def share_at_once(policy: Policy, now: datetime) -> float:
    """Return the share of its requests that a policy acts on now."""
    trial = policy.trial()
    return trial.share(now.date()) if trial is not None else float(policy.mode == "enforce")


def _is_tiered(policy: Policy) -> bool:
    return policy.action.route is not None and policy.action.route.strategy == "tier"


def _tasks(warehouse: Warehouse, window: Window) -> dict[str, Task]:
    """Return what the prompts of the window were judged to be, where some policy asked, by span id."""
    rows = figures.ask(warehouse, window, "plan_tasks", limit=MAX_ROWS)
    return {row["span_id"]: (row["task"], row["confidence"], row["complexity"]) for row in rows}


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
