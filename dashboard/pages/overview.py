"""The overview: spend, traffic and latency of a period, what they are made of, and what could be avoided.

One callback fills the whole page, so that all its figures are about the same moment.
"""
from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from dash import Dash, Input, Output, html, no_update

from dashboard import figures_text as text
from dashboard.components.attributes import data
from dashboard.components.chart import graph
from dashboard.components.chips import chip_row
from dashboard.components.findings import findings_list, findings_sub, no_findings
from dashboard.components.kpi import kpi_card
from dashboard.components.legend import legend
from dashboard.components.notice import first_steps, store_error
from dashboard.components.panel import panel
from dashboard.filters import Filter, chips, read_filter, shown
from dashboard.pages.overview_caches import caches_table
from dashboard.pages.overview_charts import CostStack, cost_figure, cost_legend, latency_figure, latency_legend
from dashboard.pages.overview_kpis import overview_kpis
from dashboard.pages.overview_tables import models_sub, models_table, teams_table, unpriced_note
from dashboard.period import step_text
from dashboard.questions import Questions
from dashboard.snapshot import Snapshot, read_snapshot
from farthing.errors import WarehouseError
from farthing.settings import Settings

KPI_CARDS = 6

OUTPUTS = {
    "state": Output("state", "children"),
    "board": Output("board", "className"),
    "chips": Output("chips", "children"),
    "freshness": Output("freshness", "children"),
    "kpis": Output("kpis", "children"),
    "cost_sub": Output("cost-sub", "children"),
    "cost_legend": Output("cost-legend", "children"),
    "cost": Output("cost-chart", "figure"),
    "latency_legend": Output("latency-legend", "children"),
    "latency": Output("latency-chart", "figure"),
    "teams": Output("teams", "children"),
    "models_sub": Output("models-sub", "children"),
    "models": Output("models", "children"),
    "caches": Output("caches", "children"),
    "findings_sub": Output("findings-sub", "children"),
    "findings": Output("findings", "children"),
    "team_options": Output("f-team", "data"),
    "model_options": Output("f-model", "data"),
}


def layout() -> html.Main:
    """Lay the page out with nothing in it yet; each place has its final size."""
    waiting = html.Div([html.Div(className="card kpi skel") for _ in range(KPI_CARDS)], className="kpis")
    board = [
        html.Div(waiting, id="kpis"),
        html.Div(
            [
                panel("Cost over time", _legend("cost-legend"), graph("cost-chart", "Spend per model over time"),
                      sub=_sub("cost-sub")),
                panel("Latency", _legend("latency-legend"), graph("latency-chart", "Latency percentiles over time"),
                      sub="end to end, calls that ended well"),
                html.Div([
                    panel("Teams", html.Div(id="teams", className="table-place"), sub="spend and efficiency"),
                    panel("Models", html.Div(id="models", className="table-place"), sub=_sub("models-sub")),
                    panel("Caches", html.Div(id="caches", className="table-place"), sub="work not done twice"),
                ], className="column"),
                panel("Findings", html.Div(id="findings"), sub=_sub("findings-sub"), name="from-top"),
            ],
            className="grid2",
        ),
    ]  # fmt: skip
    return html.Main([html.Div(id="state"), html.Div(board, id="board")], id="main", tabIndex="-1")


def _sub(name: str) -> html.Span:
    return html.Span(id=name)


def _legend(name: str) -> html.Div:
    return html.Div(id=name, className="legend-place")


def register(app: Dash, questions: Questions, settings: Settings) -> None:
    """Add the page's callback to `app`."""

    @app.callback(
        output=OUTPUTS,
        inputs={"search": Input("url", "search"), "tick": Input("tick", "n_intervals")},
    )
    async def fill(search: str | None, tick: int) -> dict[str, Any]:
        wanted = read_filter(search)
        try:
            snapshot = await read_snapshot(questions, wanted, datetime.now(timezone.utc))
        except WarehouseError as error:
            return _unanswered(wanted, error)
        return _empty(snapshot, settings) if snapshot.is_empty else _filled(snapshot, settings)


def _unanswered(wanted: Filter, error: WarehouseError) -> dict[str, Any]:
    """Keep the last figures, dimmed, under a notice."""
    return dict.fromkeys(OUTPUTS, no_update) | {
        "state": store_error(error),
        "board": "stale",
        "chips": chip_row(chips(wanted)),
        "freshness": "no answer from the store",
    }


def _empty(snapshot: Snapshot, settings: Settings) -> dict[str, Any]:
    return dict.fromkeys(OUTPUTS, no_update) | {
        "state": first_steps(settings.url("collector")),
        "board": "hidden",
        "chips": chip_row(chips(snapshot.filter)),
        "freshness": "waiting for the first request",
    }


def _filled(snapshot: Snapshot, settings: Settings) -> dict[str, Any]:
    stack = CostStack(snapshot)
    zone = snapshot.filter.zone
    return {
        "state": None,
        "board": "",
        "chips": chip_row(chips(snapshot.filter)),
        "freshness": _freshness(snapshot),
        "kpis": _kpis(snapshot),
        "cost_sub": f"by model · {step_text(snapshot.period.step_s)} buckets · {zone}",
        "cost_legend": legend(cost_legend(stack)),
        "cost": cost_figure(stack),
        "latency_legend": legend(latency_legend(snapshot)),
        "latency": latency_figure(snapshot),
        "teams": teams_table(snapshot),
        "models_sub": models_sub(snapshot),
        "models": [models_table(snapshot, stack), unpriced_note(snapshot)],
        "caches": caches_table(snapshot),
        "findings_sub": findings_sub(snapshot.findings, zone, settings.analyze_interval_s),
        "findings": findings_list(snapshot.findings)
        if snapshot.findings
        else no_findings(settings.analyze_interval_s),
        "team_options": _options(snapshot.dimensions["teams"], snapshot.filter.teams),
        "model_options": _options(snapshot.dimensions["models"], snapshot.filter.models),
    }


def _kpis(snapshot: Snapshot) -> html.Div:
    period = snapshot.period
    return html.Div(
        [kpi_card(one) for one in overview_kpis(snapshot)],
        id="figures",
        className="kpis",
        **data(since=period.since.isoformat(), until=period.until.isoformat()),
    )


def _freshness(snapshot: Snapshot) -> str:
    if not snapshot.totals["requests"]:
        return "no calls in this period"
    return f"data to {text.clock(snapshot.totals['data_until'], snapshot.filter.zone)}"


def _options(stored: list[str], chosen: tuple[str, ...]) -> list[str]:
    """Return what a filter offers: all that the store has, and what the URL asks for even if the store has it not."""
    return sorted({shown(one) for one in stored} | set(chosen))
