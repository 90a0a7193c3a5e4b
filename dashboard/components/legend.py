"""A chart's legend in HTML: each series with its total and its share, and a link that filters to it."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dash import dcc, html


@dataclass(frozen=True)
class Entry:
    """One series."""

    label: str
    colour: str
    value: str = ""
    share: str = ""
    href: str = ""  # where a click leads; empty = it is not a link
    exact: str = ""
    shape: str = ""  # line = drawn as a line, dash = as the dotted line of the period before


def legend(entries: list[Entry]) -> html.Div:
    """Lay out a legend."""
    return html.Div([_entry(one) for one in entries], className="leg")


def _entry(entry: Entry) -> Any:
    style = {"background": entry.colour} if entry.shape != "dash" else {}
    parts: list[Any] = [html.I(className=entry.shape, style=style), html.Span(entry.label)]
    if entry.value:
        parts.append(html.B(entry.value, title=entry.exact))
    if entry.share:
        parts.append(html.Span(entry.share, className="sub"))
    if entry.href:
        return dcc.Link(parts, href=entry.href, className="lg", title=f"Show {entry.label} alone")
    return html.Span(parts, className="lg")
