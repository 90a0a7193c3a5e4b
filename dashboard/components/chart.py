"""Charts as plain plotly dictionaries: a `go.Figure` costs three times as much to build and is larger on the wire."""
from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from dash import dcc, html

from dashboard.components.attributes import aria

FONT = "InterV, system-ui, sans-serif"
GREY = "#868e96"
HEIGHT = 268

Figure = dict[str, Any]

_CONFIG: Any = {"displayModeBar": False, "displaylogo": False, "responsive": True, "doubleClick": "reset"}
_AXIS: dict[str, Any] = {
    "gridcolor": "rgba(134,142,150,.18)",
    "zeroline": False,
    "linecolor": "rgba(0,0,0,0)",
    "tickfont": {"size": 11},
    "automargin": True,
    "exponentformat": "none",
    "spikethickness": 1,
    "spikedash": "solid",
    "spikecolor": GREY,
}


def graph(name: str, described: str) -> html.Div:
    """Return the place of a chart; it has its height before the script has come, so that nothing jumps."""
    chart = dcc.Graph(id=name, figure=figure([]), config=_CONFIG, style={"height": HEIGHT})
    return html.Div(chart, className="graph", role="img", **aria(label=described))


def figure(traces: list[dict[str, Any]], **layout: Any) -> Figure:
    """Put traces into the common layout; keyword arguments are merged into it, one level deep."""
    merged: dict[str, Any] = {
        "height": HEIGHT,
        "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": FONT, "size": 12, "color": GREY},
        "hovermode": "x unified",
        "showlegend": False,
        "bargap": 0.18,
        "uirevision": "keep",  # a refresh leaves the reader's zoom alone
        "template": {},
        "xaxis": {**_AXIS, "showgrid": False, "type": "date", "hoverformat": "%a %d %b %H:%M", "nticks": 7},
        "yaxis": {**_AXIS, "nticks": 5, "rangemode": "tozero"},
    }
    for key, value in layout.items():
        merged[key] = {**merged[key], **value} if isinstance(merged.get(key), dict) else value
    return {"data": traces, "layout": merged}


def bars(name: str, colour: str, x: list[str], y: list[float], opacity: list[float], hover: str) -> dict[str, Any]:
    """Return one series of a stack."""
    marker = {"color": colour, "opacity": opacity, "line": {"width": 0}}
    return {"type": "bar", "name": name, "x": x, "y": y, "marker": marker, "hovertemplate": hover}


def line(name: str, x: list[str], y: list[float | None], hover: str, **style: Any) -> dict[str, Any]:
    """Return a line of straight segments; None is a gap in it."""
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": x,
        "y": y,
        "connectgaps": False,
        "line": style,
        "hovertemplate": hover,
    }


def money_format(amounts: Iterable[float]) -> str:
    """Return the d3 format that shows the smallest of `amounts`, in dollars, with two digits that count."""
    smallest = min((amount for amount in amounts if amount > 0), default=1.0)
    places = max(2, min(9, 1 - math.floor(math.log10(smallest))))
    return f"$,.{places}f"
