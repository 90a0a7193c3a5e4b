"""A key figure: what it is, its value, how it compares with the period before, and its course.

The value element carries the exact figure in `data-value`, because the text beside it is rounded for people.
"""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from dash import html

from dashboard.components.attributes import data
from dashboard.components.sparkline import Values, sparkline

STEADY = 0.01  # a change smaller than this is no change
MOST = 9.99  # a change larger than this is written as a bound

Good = Literal["up", "down", "neither"]


@dataclass(frozen=True)
class Change:
    """The same figure over the period before; `value` None means that it cannot be compared."""

    now: float | None
    before: float | None
    before_text: str
    good: Good = "neither"


@dataclass(frozen=True)
class Kpi:
    """What one card shows."""

    key: str  # the value element's id is kpi-<key>
    label: str
    text: str
    exact: str  # the raw value
    sub: str = ""
    title: str = ""  # what the pointer learns
    change: Change | None = None
    change_note: str = ""  # why there is no change to show
    course: Values = ()
    from_zero: bool = True
    tone: str = ""  # warn = asks for attention
    extra: dict[str, str] = field(default_factory=dict)  # further data- attributes


def kpi_card(kpi: Kpi) -> html.Div:
    """Lay out one card."""
    value, _, unit = kpi.text.partition(" ")
    size = " long" if len(value) > 9 else ""
    figure = html.Div(
        [html.Span(value, className=f"val{size}"), html.Span(unit, className="unit") if unit else None],
        id=f"kpi-{kpi.key}",
        className="kpi-value",
        title=kpi.title or kpi.exact,
        **data(value=kpi.exact, **kpi.extra),
    )
    return html.Div(
        [
            html.Div(kpi.label, className="lab"),
            figure,
            html.Div(kpi.sub, className="sub kpi-sub", title=kpi.sub),
            html.Div(_change(kpi), className="kpi-change"),
            sparkline(kpi.course, kpi.from_zero),
        ],
        className=f"card kpi {kpi.tone}".strip(),
    )


def _change(kpi: Kpi) -> list[Any]:
    if kpi.change is None:
        return [html.Span(kpi.change_note, className="delta flat")]
    change = kpi.change
    if change.now is None or change.before is None:
        return [html.Span("nothing to compare", className="delta flat")]
    was = html.Span(f"was {change.before_text}", className="sub")
    if change.before == 0:
        return [html.Span("new" if change.now else "• 0%", className="delta flat"), was]
    return [_delta((change.now - change.before) / change.before, change.good), was]


def _delta(ratio: float, good: Good) -> html.Span:
    if abs(ratio) < STEADY:
        return html.Span(f"• {abs(ratio):.1%}", className="delta flat")
    size = f">{MOST:.0%}" if abs(ratio) > MOST else f"{abs(ratio):.1%}"
    direction = "up" if ratio > 0 else "down"
    tone = "flat" if good == "neither" else "good" if direction == good else "bad"
    return html.Span(f"{'▲' if ratio > 0 else '▼'} {size}", className=f"delta {tone}")
