"""What the ledger shows: every budget of the document in its running period, and the settlement log."""
from __future__ import annotations

import base64
import json
from operator import itemgetter
from typing import Annotated, Any

import msgspec
from sqlalchemy import Engine, literal, select, tuple_

from farthing.policy import Budget, Document
from farthing.policy.crossed import Crossed
from farthing.policy.periods import NS_PER_S, Period, period_at, slots
from policies.database import rows
from policies.http import HttpError
from policies.periods import iso
from policies.tables import balances, budget_events, budget_grants, holds
from policies.thresholds import forecast_nusd, told_in

MAX_SETTLEMENTS = 10_000  # rows of one answer
MAX_EVENTS = 1000
FIGURES = ("spent_nusd", "held_nusd", "leased_nusd", "overrun_nusd", "refused", "granted_nusd")
HOUR_NS = 3600 * NS_PER_S
ZONES_NS = 48 * HOUR_NS  # by which a period's stored end may be early, where its budget has moved to another time zone

Rows = dict[tuple[str, str], dict[str, Any]]  # by budget and period


def budgets(engine: Engine, document: Document, now_ns: int) -> list[dict[str, Any]]:
    """Return one line for each budget, from the committed rows that refusals are decided on."""
    names = [budget.name for budget in document.budgets]
    back_ns = max(ZONES_NS, max((one.window.rolling_s for one in document.budgets), default=0) * 2 * NS_PER_S)
    query = select(balances).where(balances.c.budget.in_(names))
    running = (balances.c.end_ns.is_(None)) | (balances.c.end_ns > now_ns - back_ns)
    kept: Rows = {(row["budget"], row["period"]): row for row in rows(engine, query.where(running))}
    told: dict[tuple[str, str], list[str]] = {}
    for row in rows(engine, select(budget_events).where(budget_events.c.budget.in_(names))):
        told.setdefault((row["budget"], row["period"]), []).append(row["threshold"])
    return [_line(budget, kept, told, now_ns) for budget in document.budgets]


def _line(
    budget: Budget, kept: Rows, told: dict[tuple[str, str], list[str]], now_ns: int
) -> dict[str, Any]:
    period = period_at(budget.window, now_ns)
    figures = _figures(budget, kept, now_ns)
    limit = budget.limit_nusd + figures["granted_nusd"]
    free = 0 if budget.suspended else max(0, limit - figures["spent_nusd"] - figures["held_nusd"])
    figures["held_nusd"] -= figures["leased_nusd"]
    return {
        "name": budget.name,
        "owner": budget.owner,
        "scope": json.loads(budget.scope.model_dump_json(exclude_defaults=True)),
        "window": budget.window.model_dump(exclude_none=True),
        "period_start": None if period.end_ns is None else iso(_start_ns(budget, period, now_ns)),
        "period_end": iso(period.end_ns),
        "configured_nusd": budget.limit_nusd,
        "limit_nusd": limit,
        "free_nusd": free,
        "hard": budget.hard,
        "on_ledger_away": budget.on_ledger_away,
        "per_request_nusd": budget.per_request_nusd,
        "suspended": budget.suspended,
        "currency": budget.currency.model_dump(mode="json") if budget.currency else None,
        "thresholds": [one.name for one in budget.thresholds],
        "crossed": sorted(told.get((budget.name, told_in(period.name)), [])),
        **figures,
        **_course(budget, period, figures, limit, now_ns),
    }


def _figures(budget: Budget, kept: Rows, now_ns: int) -> dict[str, int]:
    """Return the sums of a window: of its one period, or of the slots of a rolling one."""
    is_rolling = budget.window.rolling is not None
    periods = slots(budget.window, now_ns) if is_rolling else (period_at(budget.window, now_ns),)
    found = [kept[budget.name, one.name] for one in periods if (budget.name, one.name) in kept]
    return {name: sum(row[name] for row in found) for name in FIGURES}


def _start_ns(budget: Budget, period: Period, now_ns: int) -> int:
    return slots(budget.window, now_ns)[0].start_ns if budget.window.rolling else period.start_ns


def _course(
    budget: Budget, period: Period, figures: dict[str, int], limit: int, now_ns: int
) -> dict[str, Any]:
    """Return how fast the window's money goes, what it comes to, and when it is gone, if it goes on so."""
    if period.end_ns is None:  # nobody knows since when
        return {"burn_nusd_per_hour": None, "forecast_nusd": None, "exhausted_at": None}
    elapsed = max(1, now_ns - _start_ns(budget, period, now_ns))
    spent = figures["spent_nusd"]
    left = limit - spent
    gone_ns = now_ns + left * elapsed // spent if spent and left > 0 else now_ns
    is_in_time = left <= 0 or (spent > 0 and (budget.window.rolling is None and gone_ns < period.end_ns))
    forecast = None if budget.window.rolling else forecast_nusd(spent, period.start_ns, period.end_ns, now_ns)
    return {
        "burn_nusd_per_hour": spent * HOUR_NS // elapsed,
        "forecast_nusd": forecast,
        "exhausted_at": iso(gone_ns) if is_in_time else None,
    }


def guessed(engine: Engine, since_ns: int) -> list[tuple[str, int, int]]:
    """Return request id, attempt and reservation, Unix ns, of what expired since an instant, the oldest first."""
    query = select(holds).where(holds.c.state == "expired", holds.c.settled_ns >= since_ns)
    found = rows(engine, query.order_by(holds.c.settled_ns).limit(MAX_SETTLEMENTS))
    return sorted({(row["request_id"], row["attempt"], row["reserved_ns"]) for row in found}, key=itemgetter(2))


def grants(engine: Engine, budget: str) -> list[dict[str, Any]]:
    """Return what was granted on top of a budget's limit, the newest first."""
    query = select(budget_grants).where(budget_grants.c.budget == budget).order_by(budget_grants.c.entry.desc())
    return [row | {"at": iso(row.pop("at_ns"))} for row in rows(engine, query.limit(MAX_EVENTS))]


def crossed(engine: Engine, document: Document, now_ns: int) -> tuple[Crossed, ...]:
    """Return the thresholds that act now: crossed in the period that runs, and not approved since."""
    acting = {(one.name, threshold.name): one for one in document.budgets for threshold in one.thresholds
              if threshold.act != "notify"}  # fmt: skip
    if not acting:
        return ()
    approved = {(row["budget"], row["period"]) for row in rows(engine, select(budget_grants))
                if row["amount_nusd"] == 0}  # fmt: skip
    found: list[Crossed] = []
    for row in rows(engine, select(budget_events).order_by(budget_events.c.entry)):
        budget = acting.get((row["budget"], row["threshold"]))
        if budget is None:
            continue
        period = period_at(budget.window, now_ns)
        is_approval = row["threshold"].endswith(": approve")
        if row["period"] == period.name and not (is_approval and (row["budget"], period.name) in approved):
            found.append(Crossed(budget=budget.name, threshold=row["threshold"], until_ns=period.end_ns))
    return tuple(found)


def events(engine: Engine, after: int) -> list[dict[str, Any]]:
    """Return the thresholds that were crossed since an entry, the oldest first; each is told once a period."""
    query = select(budget_events).where(budget_events.c.entry > after).order_by(budget_events.c.entry)
    return [row | {"at": iso(row.pop("at_ns"))} for row in rows(engine, query.limit(MAX_EVENTS))]


Int64 = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Cursor = tuple[Int64, str, Int64, str]  # settled_ns, request id, attempt, budget: of the last row of a page


def cursor(text: str) -> Cursor | None:
    """Read the place that a page of settlements is to begin after; empty: the beginning.

    Raises:
        HttpError: it is none that an earlier page named.
    """
    if not text:
        return None
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(text), type=Cursor)
    except (ValueError, msgspec.DecodeError):
        message = f"after={text!r}: write what the page before named as `next`"
        raise HttpError(400, "bad_query", message) from None


def settlements(
    engine: Engine, since_ns: int, after: Cursor | None = None, most: int = MAX_SETTLEMENTS
) -> tuple[list[dict[str, Any]], str | None]:
    """Return a page of what holds became since an instant, the oldest first, and where the next one begins."""
    order = (holds.c.settled_ns, holds.c.request_id, holds.c.attempt, holds.c.budget)
    query = select(holds).where(holds.c.settled_ns >= since_ns)
    if after is not None:
        query = query.where(holds.c.settled_ns >= after[0], tuple_(*order) > tuple_(*map(literal, after)))
    page = rows(engine, query.order_by(*order).limit(most))
    following = _cursor_text(page[-1]) if len(page) == most else None
    return [_settlement(row) for row in page], following


def _cursor_text(row: dict[str, Any]) -> str:
    last = (row["settled_ns"], row["request_id"], row["attempt"], row["budget"])
    return base64.urlsafe_b64encode(msgspec.json.encode(last)).decode()


def _settlement(row: dict[str, Any]) -> dict[str, Any]:
    times = {"reserved_at": iso(row.pop("reserved_ns")), "at": iso(row.pop("settled_ns"))}
    del row["expires_ns"]  # it has ended
    return {**row, **times}
