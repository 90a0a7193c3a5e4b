"""The tables of the overview: teams and models, dearest first."""
from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

from dash import html

from dashboard import figures_text as text
from dashboard.components.palette import OTHERS
from dashboard.components.table import Cell, Column, bar, name_link, table
from dashboard.filters import href, shown
from dashboard.pages.overview_charts import CostStack
from dashboard.pages.overview_kpis import P95
from dashboard.snapshot import TABLE_ROWS, Snapshot

NOTHING = "No calls in this period. Choose a longer range, or remove a filter."

_TEAM = (
    Column("Team", is_figure=False),
    Column("Spend"),
    Column("", is_figure=False, is_wide=True),
    Column("Requests"),
    Column("$ / 1k req", is_wide=True),
    Column("p95"),
    Column("Cached", is_wide=True),
)
_MODEL = (
    Column("Model", is_figure=False),
    Column("Spend"),
    Column("Requests"),
    Column("Tokens", is_wide=True),
    Column("p95"),
)


def teams_table(snapshot: Snapshot) -> Any:
    """Lay out what each team spent."""
    most = max((float(row["cost_usd"] or 0) for row in snapshot.by_team), default=0.0)
    return table(_TEAM, [_team_row(snapshot, row, most) for row in snapshot.by_team], NOTHING)


def _team_row(snapshot: Snapshot, row: dict[str, Any], most: float) -> list[Cell]:
    name, cost, requests = shown(row["team"]), row["cost_usd"], row["requests"]
    per_thousand = None if cost is None else cost * 1000 / requests
    return [
        Cell(name_link(name, href(replace(snapshot.filter, teams=(name,))))),
        _spend(row),
        Cell(bar(float(cost or 0), most)),
        Cell(text.count(requests), str(requests)),
        Cell(text.usd(per_thousand)),
        Cell(text.seconds(row["duration_s"][P95])),
        Cell(text.share(row["cache_hits"], requests)),
    ]


def models_table(snapshot: Snapshot, stack: CostStack) -> Any:
    """Lay out what each model cost."""
    return table(_MODEL, [_model_row(snapshot, stack, row) for row in snapshot.by_model[:TABLE_ROWS]], NOTHING)


def _model_row(snapshot: Snapshot, stack: CostStack, row: dict[str, Any]) -> list[Cell]:
    name = shown(row["model"])
    tokens = (row["input_tokens"] or 0) + (row["output_tokens"] or 0)
    colour = stack.colours.get(row["model"], OTHERS)
    return [
        Cell(name_link(name, href(replace(snapshot.filter, models=(name,))), colour)),
        _spend(row),
        Cell(text.count(row["requests"]), str(row["requests"])),
        Cell(text.count(tokens), str(tokens)),
        Cell(text.seconds(row["duration_s"][P95])),
    ]


def _spend(row: dict[str, Any]) -> Cell:
    """Return the spend of a row; calls without a price are said to be so, never counted as free.

    A model whose only priced calls came from the cache has a cost of 0; beside calls without a price that is no answer.
    """
    cost: Decimal | None = row["cost_usd"]
    missing = row["unpriced"]
    if cost is None or (missing and not cost):
        return Cell(html.Span("no price" if missing else "no usage", className="pill warn"))
    if not missing:
        return Cell(text.usd(cost), text.exact_usd(cost))
    mark = html.Span("+ ?", className="pill warn", title=f"{text.plural(missing, 'call')} of it without a price")
    return Cell([mark, " ", text.usd(cost)], text.exact_usd(cost))


def unpriced_note(snapshot: Snapshot) -> Any:
    """Name the models that nobody has a price for, and say how to give them one."""
    if not snapshot.unpriced:
        return None
    names = [f"{shown(row['provider'])}/{shown(row['model'])}" for row in snapshot.unpriced]
    calls = sum(row["requests"] for row in snapshot.unpriced)
    return html.Div(
        [
            html.B("No price known: "),
            f"{', '.join(names)} ({text.plural(calls, 'call')}, all teams). ",
            html.Code("farthing prices missing"),
            " shows how to add one.",
        ],
        className="note",
    )


def models_sub(snapshot: Snapshot) -> str:
    """Say how much of a long list is shown."""
    total = len(snapshot.by_model)
    return f"{TABLE_ROWS} of {total}, dearest first" if total > TABLE_ROWS else "dearest first"
