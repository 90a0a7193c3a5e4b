"""What the ledger shows: every budget of the document in its running period, and the settlement log."""
from __future__ import annotations

import base64
import json
from typing import Annotated, Any

import msgspec
from sqlalchemy import Engine, literal, select, tuple_
from sqlalchemy.exc import SQLAlchemyError

from farthing.errors import LedgerError
from farthing.policy import Budget, Document
from policies.http import HttpError
from policies.periods import iso, period_at
from policies.tables import balances, holds

MAX_SETTLEMENTS = 10_000  # rows of one answer


def budgets(engine: Engine, document: Document, now_ns: int) -> list[dict[str, Any]]:
    """Return one line for each budget, from the committed rows that refusals are decided on."""
    names = [budget.name for budget in document.budgets]
    query = select(balances).where(balances.c.budget.in_(names))
    running = (balances.c.end_ns.is_(None)) | (balances.c.end_ns > now_ns)
    rows = {(row["budget"], row["period"]): row for row in _rows(engine, query.where(running))}
    return [_line(budget, rows, now_ns) for budget in document.budgets]


def _line(budget: Budget, rows: dict[tuple[str, str], dict[str, Any]], now_ns: int) -> dict[str, Any]:
    period = period_at(budget.window, now_ns)
    row = rows.get((budget.name, period.name), {})
    names = ("spent_nusd", "held_nusd", "leased_nusd", "overrun_nusd", "refused")
    figures = {name: row.get(name, 0) for name in names}
    free = max(0, budget.limit_nusd - figures["spent_nusd"] - figures["held_nusd"])
    figures["held_nusd"] -= figures["leased_nusd"]
    return {
        "name": budget.name,
        "owner": budget.owner,
        "scope": json.loads(budget.scope.model_dump_json(exclude_defaults=True)),
        "window": budget.window.model_dump(),
        "period_start": None if period.end_ns is None else iso(period.start_ns),
        "period_end": iso(period.end_ns),
        "limit_nusd": budget.limit_nusd,
        "free_nusd": free,
        "hard": budget.hard,
        "on_ledger_away": budget.on_ledger_away,
        **figures,
    }


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
    rows = _rows(engine, query.order_by(*order).limit(most))
    following = _cursor_text(rows[-1]) if len(rows) == most else None
    return [_settlement(row) for row in rows], following


def _cursor_text(row: dict[str, Any]) -> str:
    last = (row["settled_ns"], row["request_id"], row["attempt"], row["budget"])
    return base64.urlsafe_b64encode(msgspec.json.encode(last)).decode()


def _settlement(row: dict[str, Any]) -> dict[str, Any]:
    times = {"reserved_at": iso(row.pop("reserved_ns")), "at": iso(row.pop("settled_ns"))}
    return {**row, **times}


def _rows(engine: Engine, query: Any) -> list[dict[str, Any]]:
    try:
        with engine.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]
    except SQLAlchemyError as error:
        raise LedgerError(f"the control database cannot be read: {error}") from error
