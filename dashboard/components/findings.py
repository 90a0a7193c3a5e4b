"""What the analyzer found: the waste, what it is about, and what avoiding it is predicted to save."""
from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from dash import html

from dashboard import figures_text as text
from dashboard.components.attributes import data
from dashboard.questions import Rows


def findings_list(findings: Rows) -> html.Div:
    """Lay out the findings, dearest first."""
    return html.Div([_finding(row) for row in findings], className="findings")


def findings_sub(findings: Rows, zone: str, interval_s: float) -> str:
    """Say what was analysed, when, and when it will be again; the page's filter does not narrow it."""
    if not findings:
        return ""
    newest: datetime = max(row["found_at"] for row in findings)
    following = newest + timedelta(seconds=interval_s)
    return f"all teams, analysed {text.clock(newest, zone)[:5]}, next about {text.clock(following, zone)[:5]}"


def no_findings(interval_s: float) -> html.Div:
    """Say that no analysis has run: one that finds nothing writes that down as a finding."""
    every = f"{interval_s / 60:g} min" if interval_s >= 60 else f"{interval_s:g} s"
    return html.Div(
        [
            html.B("No analysis has run yet."),
            html.P(f"The analyzer runs every {every} while the station is up, and lists here what could be avoided."),
        ],
        className="nothing",
    )


def _finding(row: dict[str, Any]) -> html.Article:
    avoidable: Decimal = row["avoidable_usd"]
    words = html.Div(
        [
            html.Div(row["title"], className="find-title"),
            html.Div(row["detail"], className="sub find-detail", title=row["detail"]),
            html.Div(_about(row), className="sub find-about") if row["requests"] else None,
        ],
        className="grow",
    )
    return html.Article([words, _saving(avoidable) if row["requests"] else None], className="find")


def _about(row: dict[str, Any]) -> str:
    days = (row["until"] - row["since"]).total_seconds() / 86_400
    stretch = f"{days:.0f} d" if days >= 1 else f"{days * 24:.0f} h"
    return f"{text.plural(row['requests'], 'call')}, {text.usd(row['cost_usd'])} in {stretch}"


def _saving(avoidable: Decimal) -> html.Div:
    if not avoidable:
        return html.Div(html.Span("no saving claimed", className="sub"), className="find-usd")
    amount = html.B(text.usd(avoidable), title=text.exact_usd(avoidable), **data(value=text.exact_usd(avoidable)))
    return html.Div([amount, html.Span("predicted", className="pill")], className="find-usd")
